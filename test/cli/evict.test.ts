import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { artifactPath } from '../../src/state/artifact-path.ts';
import { openArtifact } from '../../src/state/artifacts.ts';
import { removeArtifact } from '../../src/state/eviction.ts';
import { Layout } from '../../src/state/layout.ts';
import { Locks } from '../../src/state/locks.ts';
import { placeWorkLink } from '../../src/state/work-links.ts';
import { type BuiltRoot, openBuilt } from '../support/built.ts';
import {
	DEFAULT_CONFIG,
	keyId,
	makeDirectory,
	makeRoot,
	PLAIN_CONFIG,
	s3proxy,
	shell,
	treeOf,
} from '../support/cli.ts';
import { intercept } from '../support/serve.ts';

const PATH = 'd/e/x';

async function stored(root: string, content = 'content', path = PATH): Promise<BuiltRoot> {
	const built = await openBuilt(root);
	await built.ingest(path, content);
	await built.encrypt();
	await built.upload();
	return built;
}

const evicted = (root: string) => !existsSync(join(root, 'uploads', PATH));

describe('s3proxy evict', () => {
	for (const [what, config] of [
		['sealed', DEFAULT_CONFIG],
		['plain', PLAIN_CONFIG],
	] as const) {
		it(`removes the local copy of what the store has, ${what}; it comes back as it was`, async () => {
			const root = makeRoot({ config });
			const content = 'line\n'.repeat(2_000_000);
			await stored(root, content);
			const { mtimeMs } = statSync(join(root, 'uploads', PATH));
			const { code, stdout } = await s3proxy(root, ['evict', PATH]);
			expect([code, stdout]).to.deep.equal([0, 'evicted 1 artifact (9.5 MiB)\n']);
			for (const area of ['uploads', 'to_decrypt']) expect(treeOf(root, area)).to.deep.equal([]);
			expect((await s3proxy(root, ['fetch', PATH])).code).to.equal(0);
			expect(readFileSync(join(root, 'uploads', PATH), 'utf8') === content).to.equal(true);
			expect(statSync(join(root, 'uploads', PATH)).mtimeMs).to.equal(mtimeMs);
		});
	}

	it('has nothing to do for what is evicted already, and exits with 4 for what does not exist', async () => {
		const root = makeRoot();
		await stored(root);
		rmSync(join(root, 'uploads', PATH));
		const { code, stdout } = await s3proxy(root, ['evict', PATH]);
		expect([code, stdout]).to.deep.equal([0, 'nothing to evict\n']);
		const none = await s3proxy(root, ['evict', 'no/such']);
		expect([none.code, none.stderr]).to.deep.equal([4, 'error: no/such is not in uploads/ and not in the store\n']);
		expect(treeOf(root, 'locks').some((name) => name.startsWith('no'))).to.equal(false);
	});

	const LEFT: [string, (root: string, built: BuiltRoot) => Promise<void> | void, RegExp][] = [
		[
			'waits for encryption',
			async (_root, built) => void (await built.ingest(PATH, 'new')),
			/encrypt has not been done/,
		],
		[
			'waits for upload',
			async (_root, built) => {
				await built.ingest(PATH, 'new');
				await built.encrypt();
			},
			/upload has not been done/,
		],
		[
			'has a marker',
			(root) => {
				mkdirSync(join(root, 'uploading', dirname(PATH)), { recursive: true });
				writeFileSync(join(root, 'uploading', PATH), '');
			},
			/ingest has not been done/,
		],
		['the store has not', (root) => rmSync(join(root, 'bucket'), { recursive: true }), /the store does not have it/],
		[
			'the store has in another version',
			(root) => utimesSync(join(root, 'uploads', PATH), 2_000_000_000, 2_000_000_000),
			/the store has another version/,
		],
		[
			'was changed by hand',
			(root) => {
				const { atime, mtime } = statSync(join(root, 'uploads', PATH));
				writeFileSync(join(root, 'uploads', PATH), 'CONTENT');
				utimesSync(join(root, 'uploads', PATH), atime, mtime);
			},
			/the store has another content/,
		],
		[
			'is damaged in the store',
			async (root) => {
				const object = join(root, 'bucket', keyId(root), PATH);
				// The metadata of an object in a directory is found by its time.
				await shell(
					root,
					`cd $S3PROXY_ROOT && touch -r ${object} time && truncate -s -1 ${object} && printf x >> ${object} && touch -r time ${object}`,
				);
			},
			/authentic/,
		],
	];
	for (const [what, spoil, says] of LEFT) {
		it(`leaves what ${what}`, async () => {
			const root = makeRoot();
			await spoil(root, await stored(root));
			const { code, stderr } = await s3proxy(root, ['evict', PATH]);
			expect(code, stderr).to.equal(1);
			expect(stderr).to.match(says);
			expect(evicted(root)).to.equal(false);
			expect(treeOf(root, 'to_decrypt')).to.deep.equal([]);
		});
	}

	it('leaves everything when the store cannot be reached: exit code 6', async () => {
		const root = makeRoot();
		await stored(root);
		const s3 = 's3: {region: x, endpoint: "http://127.0.0.1:1", force_path_style: true, attempts: 1}';
		writeFileSync(join(root, 'config.yaml'), `encryption: true\nstore: s3://bucket\n${s3}\n`);
		const env = { AWS_ACCESS_KEY_ID: 'x', AWS_SECRET_ACCESS_KEY: 'x' };
		expect((await s3proxy(root, ['evict', PATH], { env })).code).to.equal(6);
		expect(evicted(root)).to.equal(false);
	});

	it('leaves a version that was stored while the older one was compared', async () => {
		const root = makeRoot();
		const built = await stored(root);
		const store = await built.context.store();
		let overtaken = false;
		const slow = intercept(store, {
			get: async (...call) => {
				if (!overtaken) await built.ingest(PATH, 'newer');
				overtaken = true;
				return store.get(...call);
			},
		});
		await expectRejected(built.evict(PATH, slow), /encrypt has not been done/);
		expect(readFileSync(join(root, 'uploads', PATH), 'utf8')).to.equal('newer');
		expect(await built.encrypt()).to.equal(1);
	});

	it('leaves it, and says why, when its object goes while it is compared', async () => {
		const root = makeRoot();
		const built = await stored(root);
		const store = await built.context.store();
		const emptied = intercept(store, {
			get: async (...call) => {
				rmSync(join(root, 'bucket', keyId(root), PATH));
				return store.get(...call);
			},
		});
		await expectRejected(built.evict(PATH, emptied), /its object in the store changed, or went, while it was compared/);
		expect(evicted(root)).to.equal(false);
	});
});

describe('an artifact is taken away', () => {
	const path = artifactPath(PATH);
	const never = new AbortController().signal;

	/** What becomes of `uploads/` when this happens between the look and the removal. */
	async function removedAfter(
		happens: (file: string, root: { layout: Layout }) => Promise<void> | void,
	): Promise<[boolean, string[]]> {
		const layout = new Layout(makeDirectory());
		const root = { layout, locks: new Locks(layout, 5), sync: true };
		const file = layout.artifact(path);
		mkdirSync(dirname(file), { recursive: true });
		writeFileSync(file, 'one');
		const artifact = await openArtifact(root, path);
		if (artifact === undefined) throw new Error('it was just written');
		try {
			await happens(file, root);
			const removed = await root.locks.withPath(path, never, (lock) => removeArtifact(root, path, artifact, lock));
			expect(treeOf(layout.root, 'to_decrypt')).to.deep.equal([]);
			return [
				removed,
				existsSync(dirname(file))
					? readdirSync(dirname(file)).map((name) => `${name}: ${readFileSync(join(dirname(file), name), 'utf8')}`)
					: [],
			];
		} finally {
			await artifact.handle.close();
		}
	}

	it('if nothing happened meanwhile', async () => {
		expect(await removedAfter(() => undefined)).to.deep.equal([true, []]);
	});

	it('but put back when it is another version by then, which a lost lock does not prevent', async () => {
		const replace = (file: string) => {
			rmSync(file);
			writeFileSync(file, 'two');
		};
		expect(await removedAfter(replace)).to.deep.equal([false, ['x: two']]);
	});

	it('but put back when it waits for a stage again', async () => {
		const wait = (_file: string, { layout }: { layout: Layout }) =>
			placeWorkLink({ layout, locks: new Locks(layout, 5), sync: true }, path);
		expect(await removedAfter(wait)).to.deep.equal([false, ['x: one']]);
	});

	it('not twice', async () => {
		expect(await removedAfter((file) => rmSync(file))).to.deep.equal([false, []]);
	});
});

async function expectRejected(promise: Promise<unknown>, message: RegExp): Promise<void> {
	const outcome = await promise.then(
		() => 'it succeeded',
		(error: Error) => error.message,
	);
	expect(outcome).to.match(message);
}
