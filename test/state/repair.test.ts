import { existsSync, linkSync, mkdirSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { artifactPath } from '../../src/state/artifact-path.js';
import { Layout } from '../../src/state/layout.js';
import { ownerToken } from '../../src/state/owner.js';
import { openBuilt } from '../support/built.js';
import { keyId, makeRoot, s3proxy, tree, treeOf } from '../support/cli.js';

const DEAD = '.s3proxy-00000000-1-1-1-1';
const LINK = 'd/x -> <root>/uploads/d/x';

function make(root: string, name: string, content = ''): string {
	const file = join(root, name);
	mkdirSync(dirname(file), { recursive: true });
	writeFileSync(file, content);
	return file;
}

function makeWorkLink(root: string, path: string): void {
	const link = join(root, 'to_encrypt', path);
	mkdirSync(dirname(link), { recursive: true });
	symlinkSync(join(root, 'uploads', path), link);
}

interface Case {
	readonly what: string;
	readonly make: (root: string) => void;
	/** What repair says, with `<key id>`, of what is not an empty directory. */
	readonly finds: readonly string[];
	/** Names that must be there afterwards. */
	readonly leaves?: readonly string[];
	/** Names that must not. */
	readonly removes?: readonly string[];
}

const CASES: Case[] = [
	{
		what: 'a marker of a published artifact: makes the work link',
		make: (root) => {
			make(root, 'uploads/d/x', 'content');
			make(root, 'uploading/d/x');
		},
		finds: ['marker: uploading/d/x: made the work link'],
		leaves: [`to_encrypt/${LINK}`, 'uploads/d/x'],
		removes: ['uploading/d/x'],
	},
	{
		what: 'a marker of an artifact that was never published: removes it',
		make: (root) => {
			make(root, 'uploading/d/x');
			make(root, `uploading/d/${DEAD}`, 'half');
		},
		finds: [
			'marker: uploading/d/x: removed; there is no artifact of that name',
			`staging: uploading/d/${DEAD}: removed`,
		],
		removes: ['uploading/d/x', `uploading/d/${DEAD}`],
	},
	{
		what: 'a voucher of the dead, whose artifact is here: makes the work link',
		make: (root) => {
			make(root, 'uploads/d/x', 'content');
			mkdirSync(join(root, 'to_encrypt/d'), { recursive: true });
			symlinkSync(join(root, 'uploads/d/x'), join(root, `to_encrypt/d/${DEAD}`));
		},
		finds: [`voucher: to_encrypt/d/${DEAD}: made the work link`],
		leaves: [`to_encrypt/${LINK}`, 'uploads/d/x'],
		removes: [`to_encrypt/d/${DEAD}`],
	},
	{
		what: 'a voucher of the dead in a root that was moved, and one whose artifact is gone',
		make: (root) => {
			make(root, 'uploads/d/x', 'content');
			mkdirSync(join(root, 'to_encrypt/d'), { recursive: true });
			mkdirSync(join(root, 'to_encrypt/e'), { recursive: true });
			for (const area of ['d', 'e']) symlinkSync(`/moved/uploads/${area}/x`, join(root, `to_encrypt/${area}/${DEAD}`));
		},
		finds: [
			`voucher: to_encrypt/d/${DEAD}: made the work link`,
			`voucher: to_encrypt/e/${DEAD}: removed; nothing needs a work link`,
		],
		leaves: [`to_encrypt/${LINK}`, 'uploads/d/x'],
	},
	{
		what: 'staging of the dead, wherever it may be',
		make: (root) => {
			for (const area of ['uploading/a/b', 'encrypting/k/a', 'to_decrypt', 'to_encrypt/a', 'keys'])
				make(root, `${area}/${DEAD}`);
		},
		finds: ['uploading/a/b', 'encrypting/k/a', 'to_decrypt', 'to_encrypt/a', 'keys'].map(
			(area) => `staging: ${area}/${DEAD}: removed`,
		),
	},
	{
		what: 'a work link to nothing: removes and reports it',
		make: (root) => makeWorkLink(root, 'd/x'),
		finds: ['work link to nothing: to_encrypt/d/x: removed'],
	},
	{
		what: 'a version newer than the one in encrypted/ that nothing waits for: makes its link',
		make: (root) => {
			const sealed = make(root, `encrypted/${keyId(root)}/d/x`, 'sealed');
			utimesSync(sealed, 1_700_000_000, 1_700_000_000);
			make(root, 'uploads/d/x', 'newer');
		},
		finds: ['version that nothing waits for: uploads/d/x: made the work link'],
		leaves: [`to_encrypt/${LINK}`, 'encrypted/<key id>/d/x'],
	},
	{
		what: 'an orphaned sidecar: removes it, and no other',
		make: (root) => {
			make(root, `encrypted/${keyId(root)}/d/x-iv`, '123456789012');
			make(root, `encrypted/${keyId(root)}/d/y-iv`, '123456789012');
			make(root, `encrypted/${keyId(root)}/d/y`, 'sealed');
		},
		finds: ['orphaned sidecar: encrypted/<key id>/d/x-iv: removed'],
		leaves: ['encrypted/<key id>/d/y', 'encrypted/<key id>/d/y-iv'],
	},
	{
		what: 'locks of the dead: removes them, and keeps what the lock file remembers',
		make: (root) => {
			const { file, directory } = new Layout(root).lock('path', artifactPath('d/x'));
			mkdirSync(directory, { recursive: true });
			writeFileSync(file, `${'1700000000000'.padEnd(16)}\n${DEAD.slice('.s3proxy-'.length).padEnd(80)}\n`);
			const run = new Layout(root).runLock('encrypt');
			mkdirSync(run.directory);
			writeFileSync(run.file, `${'0'.padEnd(16)}\n${DEAD.slice('.s3proxy-'.length).padEnd(80)}\n`);
		},
		finds: [
			'abandoned lock: locks/.s3proxy-run-encrypt.lock: removed',
			'abandoned lock: locks/d/.s3proxy-path-2d711642b726b04401627ca9fbac32f5.lock: removed',
		],
		leaves: ['locks/d/x'],
		removes: ['locks/.s3proxy-run-encrypt', 'locks/.s3proxy-run-encrypt.lock/'],
	},
	{
		what: 'the record of a lock that nobody holds (it could not be removed with its lock): removes it',
		make: (root) => make(root, 'locks/d/.s3proxy-put-2d711642b726b04401627ca9fbac32f5', '-'),
		finds: ['record of no lock: locks/d/.s3proxy-put-2d711642b726b04401627ca9fbac32f5: removed'],
		removes: ['locks/d/'],
	},
	{
		what: 'an unfinished put of this root: aborts it',
		make: (root) => make(root, `bucket/.s3proxy-staging/${keyId(root)}/d/x/.s3proxy-1234`, 'half'),
		finds: ['unfinished upload: <key id>/d/x: aborted'],
	},
	{
		what: 'an unfinished put of a key that is not ours: leaves it alone',
		make: (root) => make(root, `bucket/.s3proxy-staging/${'f'.repeat(40)}/d/x/.s3proxy-1234`, 'half'),
		finds: [],
	},
	{
		what: 'empty directories: removes them, except those of artifacts',
		make: (root) => {
			make(root, 'uploads/a/file');
			make(root, `encrypted/${keyId(root)}/a/file`);
			linkSync(join(root, 'uploads/a/file'), join(root, `encrypted/${keyId(root)}/a/other`));
			for (const name of [
				'uploads/a/b/c',
				'uploading/a',
				'to_encrypt/a/b',
				'to_decrypt/a',
				'encrypting/k/a',
				'encrypted/k/a',
				'locks/a/b',
			]) {
				mkdirSync(join(root, name), { recursive: true });
			}
		},
		finds: [],
		leaves: ['uploads/a/file'],
		removes: [
			'uploads/a/b/',
			'uploading/a/',
			'to_encrypt/a/',
			'to_decrypt/a/',
			'encrypting/k/',
			'encrypted/k/',
			'locks/a/',
		],
	},
];

describe('repair finds', () => {
	for (const { what, make: construct, finds, leaves = [], removes = [] } of CASES) {
		it(what, async () => {
			const root = makeRoot();
			construct(root);
			const artifacts = treeOf(root, 'uploads').filter((name) => !name.endsWith('/'));
			const built = await openBuilt(root);
			const found = (await built.repair()).map((line) => line.replaceAll(keyId(root), '<key id>'));
			expect(found.filter((line) => !line.startsWith('empty directories')).sort()).to.deep.equal([...finds].sort());
			const names = tree(root);
			expect(names).to.include.members([...leaves]);
			for (const name of removes) expect(names).not.to.include(name);
			expect(names.filter((name) => name.includes(DEAD))).to.deep.equal([]);
			expect(
				treeOf(root, 'uploads').filter((name) => !name.endsWith('/')),
				'artifacts stay',
			).to.deep.equal(artifacts);
			expect(await built.repair(), 'the root is sound').to.deep.equal([]);
		});
	}

	it('nothing in what living processes are at', async () => {
		const root = makeRoot();
		const built = await openBuilt(root);
		make(root, `uploading/d/.s3proxy-${ownerToken()}`, 'coming in');
		await built.ingest('d/y', 'waits');
		const { context } = built;
		await context.root.locks.withPath(artifactPath('d/z'), context.abandon, async () => {
			const before = tree(root);
			expect(await built.repair()).to.deep.equal([]);
			expect(tree(root)).to.deep.equal(before);
		});
	});

	it('what keeps one step from its work does not keep the others from theirs', async () => {
		const root = makeRoot({ config: 'encryption: true\nstore: file:config.yaml/bucket\nfsync: false\n' });
		make(root, 'uploads/d/x', 'content');
		make(root, 'uploading/d/x');
		make(root, `to_decrypt/${DEAD}`);
		const built = await openBuilt(root);
		await built.repair().catch(() => undefined);
		expect(treeOf(root, 'to_encrypt')).to.include(LINK);
		expect(existsSync(join(root, 'to_decrypt', DEAD))).to.equal(false);
	});

	it('what a killed repair had begun, when it runs again', async () => {
		const root = makeRoot();
		make(root, 'uploads/d/x', 'content');
		make(root, 'uploading/d/x');
		makeWorkLink(root, 'd/x');
		const built = await openBuilt(root);
		expect(await built.repair()).to.include('marker: uploading/d/x: made the work link');
		rmSync(join(root, 'uploading'), { recursive: true });
		expect(await built.repair()).to.deep.equal([]);
	});

	describe('what an evict that died has taken', () => {
		const TAKEN = `to_decrypt/d/x/${DEAD}`;

		/** The store has a version, and evict has taken one that is `older` or newer by so many milliseconds. */
		async function taken(difference: number) {
			const root = makeRoot();
			const built = await openBuilt(root);
			const version = await built.ingest('d/x', 'stored');
			await built.encrypt();
			await built.upload();
			rmSync(join(root, 'uploads'), { recursive: true });
			const file = make(root, TAKEN, 'taken');
			utimesSync(file, (version + difference) / 1000, (version + difference) / 1000);
			return { root, built };
		}

		it('and that is nowhere else: puts it back, and has it encrypted', async () => {
			const { root, built } = await taken(1000);
			expect(await built.repair()).to.include(`version that evict took: ${TAKEN}: put back`);
			expect(readFileSync(join(root, 'uploads/d/x'), 'utf8')).to.equal('taken');
			expect(treeOf(root, 'to_encrypt')).to.include(LINK);
			expect(await built.repair()).to.deep.equal([]);
		});

		it('also when an older version was fetched meanwhile', async () => {
			const { root, built } = await taken(1000);
			await built.fetch('d/x');
			expect(await built.repair()).to.include(`version that evict took: ${TAKEN}: put back`);
			expect(readFileSync(join(root, 'uploads/d/x'), 'utf8')).to.equal('taken');
		});

		it('stays when the store cannot say whether it has it; and so does a voucher whose lock is not free', async () => {
			const { root } = await taken(1000);
			const config = 'encryption: true\nfsync: false\nlock_timeout: 0\nstore: s3://none\n';
			const s3 = 's3: {endpoint: "http://127.0.0.1:1", force_path_style: true, timeout: 1, attempts: 1}\n';
			writeFileSync(join(root, 'config.yaml'), config + s3);
			make(root, 'uploads/e/y', 'content');
			mkdirSync(join(root, 'to_encrypt/e'), { recursive: true });
			symlinkSync(join(root, 'uploads/e/y'), join(root, `to_encrypt/e/${DEAD}`));
			const holder = await openBuilt(root);
			await holder.context.root.locks.withPath(artifactPath('e/y'), new AbortController().signal, async () => {
				const env = { AWS_ACCESS_KEY_ID: 'x', AWS_SECRET_ACCESS_KEY: 'y' };
				const { code, stderr } = await s3proxy(root, ['repair'], { env });
				expect(code, stderr).to.equal(5);
			});
			expect(readFileSync(join(root, TAKEN), 'utf8')).to.equal('taken');
			expect(treeOf(root, 'to_encrypt').join()).to.contain(`e/${DEAD} -> `);
		});

		for (const [what, difference] of [
			['the one that the store has', 0],
			['older than that', -1000],
		] as const) {
			it(`and that is ${what}: removes it`, async () => {
				const { root, built } = await taken(difference);
				expect(await built.repair()).to.include(`version that evict took: ${TAKEN}: removed`);
				expect(existsSync(join(root, 'uploads/d/x'))).to.equal(false);
			});
		}
	});
});
