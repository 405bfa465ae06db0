import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { openBuilt } from '../support/built.js';
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
import { needs } from '../support/needs.ts';

const PATH = 'd/x';
const DURABLE = DEFAULT_CONFIG.replace('fsync: false', 'fsync: true');

function contentOf(root: string, name: string): string | undefined {
	return existsSync(join(root, name)) ? readFileSync(join(root, name), 'utf8') : undefined;
}

const filesOf = (root: string) => tree(root).filter((name) => !name.endsWith('/'));

/** Names that only a command under way may have. */
function leftovers(root: string): string[] {
	return tree(root).filter(
		(name) => name.includes('.s3proxy-') || (name.startsWith('uploading/') && !name.endsWith('/')),
	);
}

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
