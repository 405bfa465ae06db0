import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, utimesSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { recordedOwner } from '../../src/state/lock-record.js';
import { walkLocks } from '../../src/state/lock-walk.js';
import { type BuiltRoot, openBuilt } from '../support/built.js';
import {
	DEFAULT_CONFIG,
	ended,
	keyId,
	makeDirectory,
	makeRoot,
	s3proxy,
	shell,
	startS3proxy,
	tree,
	treeOf,
} from '../support/cli.js';
import { strideOf } from '../support/extent.ts';
import { needs } from '../support/needs.ts';

const PATH = 'd/x';
const PRELOAD = fileURLToPath(new URL('../support/crash-at.js', import.meta.url));
const DURABLE = DEFAULT_CONFIG.replace('fsync: false', 'fsync: true');
/** A CLI that starts keeps one processor busy; two of them keep two. */
const AT_A_TIME = 3;

function contentOf(root: string, name: string): string | undefined {
	return existsSync(join(root, name)) ? readFileSync(join(root, name), 'utf8') : undefined;
}

const filesOf = (root: string) => tree(root).filter((name) => !name.endsWith('/'));

interface Crash {
	readonly what: string;
	/** Makes the state in which the command begins. */
	readonly prepare: (root: string, built: BuiltRoot) => Promise<void>;
	readonly args: readonly string[];
	/** What the newest version may be afterwards, undefined: none; the last one is what it is when the command succeeded. */
	readonly versions: readonly (string | undefined)[];
	/** Only every so many-th call in the fast part. */
	readonly stride: number;
}

/** Names that only a command under way may have. */
function leftovers(root: string): string[] {
	return tree(root).filter(
		(name) => name.includes('.s3proxy-') || (name.startsWith('uploading/') && !name.endsWith('/')),
	);
}

/** The guarantee of docs/state.md: whatever can be read is waited for by somebody, or in the bucket. */
function assertLegal(root: string, when: string): void {
	const names = tree(root);
	const published = contentOf(root, `uploads/${PATH}`);
	const link = names.includes(`to_encrypt/${PATH} -> <root>/uploads/${PATH}`);
	if (link) expect(published, `${when}: a work link points to something`).not.to.equal(undefined);
	const id = keyId(root);
	if (published !== undefined && !link) {
		const mtime = Math.round(statSync(join(root, 'uploads', PATH)).mtimeMs);
		const sealed = join(root, 'encrypted', id, PATH);
		const waits = existsSync(sealed) && Math.round(statSync(sealed).mtimeMs) === mtime;
		const metadata = existsSync(join(root, 'bucket'))
			? execFileSync('grep', ['-rs', '--', 's3proxy-mtime', join(root, 'bucket')]).toString()
			: '';
		expect(
			waits || metadata.includes(String(mtime)),
			`${when}: nothing waits for the version\n${names.join('\n')}`,
		).to.equal(true);
	}
	expect(
		existsSync(join(root, 'encrypted', id, `${PATH}-iv`)) && !existsSync(join(root, 'encrypted', id, PATH)),
		`${when}: orphan`,
	).to.equal(false);
}

/**
 * A process that died between making a lock's directory and writing down that it is its own cannot be told from a living
 * one: such a lock is free after 30 s. This lets them pass.
 */
async function ageOwnerlessLocks({ context }: BuiltRoot): Promise<void> {
	const longAgo = Date.now() / 1000 - 31;
	for await (const { file, directory } of walkLocks(context.root.layout)) {
		if (recordedOwner(file) === undefined) utimesSync(directory, longAgo, longAgo);
	}
}

async function crashAt(n: number, { what, prepare, args, versions }: Crash): Promise<boolean> {
	const when = `${what}, killed before call ${n}`;
	const root = makeRoot({ config: DURABLE });
	const built = await openBuilt(root);
	await prepare(root, built);
	const log = join(makeDirectory(), 'calls');
	const run = await s3proxy(root, args, {
		stdin: versions.at(-1) ?? '',
		node: ['--import', PRELOAD],
		env: { CRASH_AT: String(n), CRASH_LOG: log },
	});
	expect(run.code, `${when}\n${run.stderr}`).to.be.oneOf([0, 137]);
	const survived = run.code === 0;
	const seen = contentOf(root, `uploads/${PATH}`);
	expect(seen, `${when}: readers see all or nothing`).to.be.oneOf([...versions, undefined]);

	await ageOwnerlessLocks(built);
	await built.repair();
	expect(leftovers(root), when).to.deep.equal([]);
	assertLegal(root, when);
	expect(await built.repair(), `${when}: second repair`).to.deep.equal([]);

	await built.encrypt();
	await built.upload();
	rmSync(join(root, 'uploads'), { recursive: true, force: true });
	const fetched = await built.fetch(PATH).then(
		() => contentOf(root, `uploads/${PATH}`),
		(error: Error) => {
			expect(error.message, when).to.contain('is not in uploads/ and not in the store');
			return undefined;
		},
	);
	expect(fetched, when).to.be.oneOf(survived ? versions.slice(-1) : [...versions]);
	if (seen !== undefined) expect(fetched, `${when}: what readers saw stays`).to.equal(seen);
	expect(
		treeOf(root, 'encrypted').filter((name) => !name.endsWith('/')),
		when,
	).to.deep.equal([]);
	rmSync(root, { recursive: true });
	return survived;
}

/** Kills at the first call, the second, … until the command ends by itself. */
async function crashEverywhere(crash: Crash): Promise<void> {
	let [next, survived] = [1, false];
	const stride = strideOf(crash.stride);
	const worker = async () => {
		while (!survived) {
			const n = next;
			next += stride;
			expect(n, 'it never ends').to.be.below(300);
			survived = (await crashAt(n, crash)) || survived;
		}
	};
	await Promise.all(Array.from({ length: AT_A_TIME }, worker));
	expect(next, 'calls were counted').to.be.above(10);
}

describe('a command killed at any call that changes the disk', function () {
	this.timeout(120_000);

	const CRASHES: Crash[] = [
		{
			what: 'ingest of a new path',
			prepare: async () => undefined,
			args: ['ingest', '-', PATH],
			versions: [undefined, 'one'],
			stride: 3,
		},
		{
			what: 'ingest over an older version',
			prepare: async (_root, built) => {
				await built.ingest(PATH, 'one');
				await built.encrypt();
				await built.upload();
			},
			args: ['ingest', '-', PATH],
			versions: ['one', 'two'],
			stride: 2,
		},
		{
			what: 'encrypt',
			prepare: async (_root, built) => {
				await built.ingest(PATH, 'one');
				await built.encrypt();
				await built.ingest(PATH, 'two');
			},
			args: ['encrypt'],
			versions: ['two'],
			stride: 3,
		},
		{
			what: 'upload',
			prepare: async (_root, built) => {
				await built.ingest(PATH, 'one');
				await built.encrypt();
				await built.upload();
				await built.ingest(PATH, 'two');
				await built.encrypt();
			},
			args: ['upload'],
			versions: ['two'],
			stride: 4,
		},
		{
			what: 'fetch',
			prepare: async (root, built) => {
				await built.ingest(PATH, 'one');
				await built.encrypt();
				await built.upload();
				rmSync(join(root, 'uploads'), { recursive: true });
			},
			args: ['fetch', PATH],
			versions: ['one'],
			stride: 3,
		},
		{
			what: 'rotate-key',
			prepare: async (_root, built) => {
				await built.ingest(PATH, 'one');
			},
			args: ['rotate-key'],
			versions: ['one'],
			stride: 3,
		},
		{
			what: 're-encrypt --delete-old',
			prepare: async (root, built) => {
				await built.ingest(PATH, 'one');
				await built.encrypt();
				await built.upload();
				const { publishKey, pointLatestAt } = await import('../../src/state/keys.js');
				const { createHash } = await import('node:crypto');
				const key = randomBytes(32);
				const id = createHash('sha1').update(key).digest('hex');
				await pointLatestAt(built.context.root, await publishKey(built.context.root, id, key));
				rmSync(join(root, 'uploads'), { recursive: true });
			},
			args: ['re-encrypt', '--delete-old'],
			versions: ['one'],
			stride: 6,
		},
	];
	for (const crash of CRASHES) {
		it(`(${crash.what}) loses nothing, shows nothing half, and leaves what repair can clear`, async () => {
			await crashEverywhere(crash);
		});
	}
});

describe('a full disk', () => {
	const LARGE = 3 * 2 ** 20;

	function mounted(directory: string): boolean {
		try {
			execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', directory], { stdio: 'ignore' });
			return true;
		} catch {
			return false;
		}
	}

	it('makes an ingest fail with a clear error, leaves no staging and loses nothing; the next run recovers', async function () {
		const root = makeDirectory();
		needs(this, mounted(root), 'the right to mount');
		try {
			writeFileSync(join(root, 'config.yaml'), DURABLE);
			expect((await s3proxy(root, ['rotate-key'])).code).to.equal(0);
			expect((await s3proxy(root, ['ingest', '-', PATH], { stdin: 'old' })).code).to.equal(0);
			const before = filesOf(root);
			for (const path of [PATH, 'new/path']) {
				const full = await s3proxy(root, ['ingest', '-', path], { stdin: randomBytes(LARGE) });
				expect(full.code).to.equal(1);
				expect(full.stderr)
					.to.contain(path)
					.and.to.contain('no space left')
					.and.to.contain('nothing half-written was kept');
				expect(full.stderr).not.to.match(/^\s+at /m);
				expect(filesOf(root)).to.deep.equal(before);
			}
			expect(contentOf(root, `uploads/${PATH}`)).to.equal('old');

			// 1.2 MiB fit, their sealed copy does not.
			const content = randomBytes(1.2 * 2 ** 20);
			expect((await s3proxy(root, ['ingest', '-', PATH], { stdin: content })).code).to.equal(0);
			const failed = await s3proxy(root, ['encrypt']);
			expect(failed.code).to.equal(1);
			expect(failed.stderr).to.contain(PATH).and.to.contain('no space left');
			expect(leftovers(root)).to.deep.equal([]);
			expect(treeOf(root, 'to_encrypt')).to.include(`${PATH} -> <root>/uploads/${PATH}`);
			execFileSync('mount', ['-o', 'remount,size=16m', root]);
			expect((await s3proxy(root, ['encrypt'])).code).to.equal(0);
			execFileSync('mount', ['-o', 'remount,size=3m', root]);
			const unstored = await s3proxy(root, ['upload']);
			expect(unstored.code, unstored.stderr).to.be.oneOf([1, 6]);
			expect(treeOf(root, 'encrypted')).to.include(`<key id>/${PATH}`);
			execFileSync('mount', ['-o', 'remount,size=16m', root]);
			expect((await s3proxy(root, ['upload'])).code).to.equal(0);
			rmSync(join(root, 'uploads'), { recursive: true });
			const { bytes } = await s3proxy(root, ['fetch', PATH, '--output', '-']);
			expect(bytes.equals(content)).to.equal(true);
		} finally {
			execFileSync('umount', ['-l', root]);
		}
	});

	it('or a file size limit does the same to ingest, encrypt and fetch', async () => {
		const root = makeRoot();
		const content = randomBytes(LARGE);
		const file = join(makeDirectory(), 'large');
		writeFileSync(file, content);
		const before = filesOf(root);
		// Node.js leaves SIGXFSZ, which would kill it, as it was at birth unless somebody listens.
		const env = { NODE_OPTIONS: `--import "data:text/javascript,process.on('SIGXFSZ',()=>{})"` };
		const limited = (command: string) => shell(root, `ulimit -f 1024; exec $RUN ${command}`, env);
		const fails = async (command: string, left: string[]) => {
			const { code, stderr } = await limited(command);
			expect(code, stderr).to.equal(1);
			expect(stderr).to.contain('no space left').and.to.contain('large');
			expect(filesOf(root)).to.deep.equal(left);
			expect(leftovers(root)).to.deep.equal([]);
		};
		await fails(`ingest ${file} large`, before);
		const built = await openBuilt(root);
		await built.ingest('large', content);
		await fails('encrypt', filesOf(root));
		await built.encrypt();
		await built.upload();
		rmSync(join(root, 'uploads'), { recursive: true });
		await fails('fetch large', filesOf(root));
		await built.fetch('large');
		expect(readFileSync(join(root, 'uploads/large')).equals(content)).to.equal(true);
	});
});

describe('SIGTERM', () => {
	it('while encrypt works on many files: exit code 143, and the next run does the rest', async () => {
		const root = makeRoot();
		const built = await openBuilt(root);
		const count = 400;
		for (let n = 0; n < count; n++) await built.ingest(`d/${n}`, String(n));
		const directory = join(root, 'encrypted', keyId(root), 'd');
		mkdirSync(directory, { recursive: true });
		const command = startS3proxy(root, ['encrypt', '--jobs', '1']);
		const outcome = ended(command);
		await new Promise<void>((resolve) => {
			const watcher = watch(directory, () => {
				watcher.close();
				resolve();
			});
		});
		command.kill('SIGTERM');
		const { code, stdout, stderr } = await outcome;
		expect(stderr).to.contain('SIGTERM: finishing what is under way');
		expect(code, stdout + stderr).to.equal(143);
		expect(stdout).to.contain('some were left for the next run');
		const links = treeOf(root, 'to_encrypt').filter((name) => name.includes('->')).length;
		expect(links).to.be.within(1, count - 1);
		expect(leftovers(root)).to.deep.equal([]);
		expect(await built.encrypt()).to.equal(links);
	});

	it('while an ingest waits for stdin: nothing is left, and nothing was stored', async () => {
		const root = makeRoot();
		mkdirSync(join(root, 'uploading'));
		const before = tree(root);
		const command = startS3proxy(root, ['ingest', '-', 'slow']);
		const outcome = ended(command);
		await new Promise<void>((resolve) => {
			const watcher = watch(join(root, 'uploading'), () => {
				watcher.close();
				resolve();
			});
		});
		command.kill('SIGTERM');
		await once(command.stderr ?? command, 'data');
		command.kill('SIGTERM');
		const { code, stdout } = await outcome;
		expect(code).to.equal(143);
		expect(stdout).to.equal('');
		expect(tree(root)).to.deep.equal(before);
	});
});
