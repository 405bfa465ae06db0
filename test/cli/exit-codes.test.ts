import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { artifactPath } from '../../src/state/artifact-path.js';
import { Layout } from '../../src/state/layout.js';
import { DEFAULT_CONFIG, type Ended, keyId, makeRoot, type RunOptions, s3proxy, shell, tree } from '../support/cli.js';

/** Runs a command that must fail: with this code, a message that says all of `says`, and neither a stack nor a key. */
async function fail(
	root: string,
	args: readonly string[],
	code: number,
	says: readonly (string | RegExp)[],
	options: RunOptions = {},
): Promise<Ended> {
	const ended = await s3proxy(root, args, options);
	const all = ended.stdout + ended.stderr;
	expect(ended.code, `${args.join(' ')}\n${all}`).to.equal(code);
	for (const word of says) {
		if (typeof word === 'string') expect(ended.stderr).to.contain(word);
		else expect(ended.stderr).to.match(word);
	}
	expect(all, 'no stack').not.to.match(/^\s+at .*[:(]/m);
	expect(ended.stdout, 'nothing but the report on stdout').not.to.contain('rror');
	return ended;
}

async function succeed(root: string, args: readonly string[], stdin = ''): Promise<void> {
	const { code, stderr } = await s3proxy(root, args, { stdin });
	expect(code, stderr).to.equal(0);
}

describe('exit code 1: some items failed, each is named, the others are done', () => {
	it('one of three cannot be fetched', async () => {
		const root = makeRoot();
		for (const name of ['a', 'b']) await succeed(root, ['ingest', '-', name], name);
		await succeed(root, ['encrypt']);
		await succeed(root, ['upload']);
		rmSync(join(root, 'uploads'), { recursive: true });
		await fail(root, ['fetch', 'a', 'absent', 'b'], 1, ['absent is not in uploads/ and not in the store']);
		for (const name of ['a', 'b']) expect(readFileSync(join(root, 'uploads', name), 'utf8')).to.equal(name);
	});

	it('one of two work links points to nothing', async () => {
		const root = makeRoot();
		for (const name of ['here', 'gone']) await succeed(root, ['ingest', '-', name], name);
		rmSync(join(root, 'uploads/gone'));
		await fail(root, ['encrypt'], 1, ['gone waits for encryption, but is not in uploads/', 's3proxy repair']);
		expect(tree(root)).to.include('encrypted/<key id>/here').and.to.include('to_encrypt/gone -> <root>/uploads/gone');
	});

	it('a path that runs through an artifact is a conflict', async () => {
		const root = makeRoot();
		await succeed(root, ['ingest', '-', 'a'], 'x');
		await fail(root, ['ingest', '-', 'a/b'], 1, ['a/b', 'runs through an artifact', 'choose another']);
	});

	it('a file that is not there cannot be ingested, and a directory is bad usage', async () => {
		const root = makeRoot();
		await fail(root, ['ingest', '/no/such/file', 'a'], 1, ['/no/such/file', 'ENOENT']);
		await fail(root, ['ingest', '/tmp', 'a'], 2, ['/tmp is a directory']);
	});

	it('a stdin that is a directory or cannot be read is not an empty artifact', async () => {
		const root = makeRoot();
		const directory = await shell(root, '$RUN ingest - d/x < /tmp');
		expect(directory.code).to.equal(2);
		expect(directory.stderr).to.contain('stdin is a directory');
		const writeOnly = await shell(root, '$RUN ingest - d/x 0> /dev/full');
		expect(writeOnly.code).to.equal(1);
		expect(writeOnly.stderr).to.contain('d/x').and.to.contain('EBADF');
		expect(writeOnly.stderr, 'no stack').not.to.match(/^\s+at /m);
		expect(tree(root).filter((name) => name.includes('d/x'))).to.deep.equal([]);
	});

	it('a file over max_upload_size is not stored', async () => {
		const root = makeRoot({ config: `${DEFAULT_CONFIG}max_upload_size: 10\n` });
		await succeed(root, ['ingest', '-', 'fits'], '0123456789');
		const before = tree(root);
		await fail(root, ['ingest', '-', 'too-large'], 1, ['too-large', 'larger than 10 bytes', 'max_upload_size'], {
			stdin: '0123456789a',
		});
		expect(tree(root)).to.deep.equal(before);
	});
});

describe('exit code 2: bad usage', () => {
	const RUNS: [string[], RegExp][] = [
		[['no-such-command'], /no-such-command/],
		[['status', '--no-such-flag'], /no-such-flag/],
		[['status', 'argument'], /argument/],
		[['encrypt', '--jobs', '0'], /jobs|0/],
		[['encrypt', '--jobs', 'many'], /many/],
		[['ingest'], /FILE/],
		[['ingest', '-'], /PATH/],
		[['fetch'], /PATH/],
		[['fetch', 'a', 'b', '--output', '-'], /--output takes one PATH/],
		[['encrypt', '../a'], /bad path "\.\.\/a": a component may not be "\.\."/],
		[['upload', 'a/x-iv'], /bad path "a\/x-iv".*sidecar/],
	];
	it('for unknown commands, unknown flags, missing arguments, bad values and bad paths', async () => {
		const root = makeRoot();
		const before = tree(root);
		await Promise.all(RUNS.map(([args, says]) => fail(root, args, 2, [says])));
		expect(tree(root)).to.deep.equal(before);
	});
});

describe('exit code 3: bad config.yaml', () => {
	const CONFIGS: [string, string | null, (string | RegExp)[]][] = [
		['does not exist', null, ['config.yaml does not exist', 'encryption: true']],
		['is not YAML', 'encryption: true\nstore: "file:bucket\n', [/config\.yaml, line \d+: not valid YAML/]],
		['is a list', '- a\n- b\n', [/config\.yaml, line 1: must be a mapping/]],
		[
			'has an unknown key',
			'encryption: true\nstore: file:bucket\n\nencrypt: true\n',
			['config.yaml, line 4: unknown key encrypt; known are accept_plain'],
		],
		['has an unknown key of s3', 's3:\n  region: x\n  retries: 3\n', ['config.yaml, line 3: unknown key s3.retries']],
		[
			'has a wrong type',
			'store: file:bucket\nencryption: yes please\n',
			['config.yaml, line 2: encryption must be true or false, not "yes please"'],
		],
		[
			'has a number for a store',
			'# comment\nstore: 5\n',
			['config.yaml, line 2: store must be file:DIRECTORY or s3://BUCKET, not 5'],
		],
		['has a list for a size', 'max_upload_size: [1]\n', [/line 1: max_upload_size must be a size.*a list or mapping/]],
		['has a key twice', 'fsync: true\nfsync: false\n', [/line 2: not valid YAML/]],
	];
	for (const [what, config, says] of CONFIGS) {
		it(`${what}: file, line, what was expected, and what to do`, async () => {
			const root = makeRoot({ config });
			const before = tree(root);
			await fail(root, ['status'], 3, [...says, root]);
			expect(tree(root)).to.deep.equal(before);
		});
	}

	it('there is no root', async () => {
		await fail('/no/such/root', ['status'], 3, ['the root /no/such/root does not exist', '--root']);
	});
});

describe('exit code 3: bad key', () => {
	const SECRET = 'Kb5eJq0VxW3yT8uZ1aSdFgHjKlPoIuYtReWqMnBv';
	const latest = (root: string) => join(root, 'keys/private_key');
	const KEYS: [string, (root: string) => void, (string | RegExp)[]][] = [
		[
			'is missing altogether',
			(root) => rmSync(join(root, 'keys'), { recursive: true }),
			['there is no key in', '/keys', 's3proxy rotate-key'],
		],
		['is not there, and latest dangles', (root) => rmSync(latest(root)), ['latest is dangling', 'private_key']],
		[
			'is not pointed to by latest',
			(root) => rmSync(join(root, 'keys/latest')),
			['latest is missing', 'private_key', 'ln -s'],
		],
		['is empty', (root) => truncateSync(latest(root)), ['private_key', 'the key is empty']],
		['has 31 bytes', (root) => truncateSync(latest(root), 31), ['private_key', 'the key has 31 bytes']],
		['is a passphrase', (root) => writeFileSync(latest(root), `${SECRET}!?\n`), ['private_key', 'the key is text']],
		[
			'may be read by everybody',
			(root) => chmodSync(latest(root), 0o644),
			['private_key is accessible to group or others (mode 0644)', 'chmod 0600'],
		],
		['may be read by the group', (root) => chmodSync(latest(root), 0o640), ['mode 0640', 'chmod 0600']],
		[
			'that is not the latest may be read by everybody',
			(root) => {
				writeFileSync(join(root, 'keys/older'), readFileSync(latest(root)).reverse(), { mode: 0o604 });
				chmodSync(join(root, 'keys/older'), 0o604);
			},
			['keys/older', 'mode 0604'],
		],
		[
			'is a link out of keys/',
			(root) => {
				rmSync(join(root, 'keys/latest'));
				symlinkSync('/etc/hostname', join(root, 'keys/latest'));
			},
			['latest points to /etc/hostname'],
		],
	];
	for (const [what, spoil, says] of KEYS) {
		it(`${what}: every command that reads keys says so, and does nothing`, async () => {
			const root = makeRoot();
			const key = readFileSync(latest(root));
			spoil(root);
			const before = tree(root);
			const runs = [['encrypt'], ['ingest', '-', 'a']].map((args) => fail(root, args, 3, [...says, root]));
			for (const { stderr } of await Promise.all(runs)) {
				for (const secret of [
					SECRET.slice(0, 12),
					key.toString('hex'),
					key.toString('base64'),
					key.toString('latin1'),
				]) {
					expect(stderr).not.to.contain(secret);
				}
			}
			expect(tree(root)).to.deep.equal(before);
		});
	}

	it('every command starts with a bad key refused, also with encryption: false', async () => {
		const root = makeRoot({ config: 'encryption: false\nstore: file:bucket\n' });
		chmodSync(latest(root), 0o644);
		const commands = [
			['status'],
			['repair'],
			['encrypt'],
			['upload'],
			['fetch', 'a'],
			['re-encrypt'],
			['ingest', '-', 'a'],
			['rotate-key'],
			['serve'],
		];
		await Promise.all(commands.map((args) => fail(root, args, 3, ['chmod 0600'])));
	});
});

describe('exit code 4: no such artifact', () => {
	it('when it is neither in uploads/ nor in the store, and nothing is left behind', async () => {
		const root = makeRoot();
		await fail(root, ['fetch', 'no/such/artifact'], 4, ['no/such/artifact is not in uploads/ and not in the store']);
		await fail(root, ['encrypt', 'no/such/artifact'], 4, ['no/such/artifact does not wait for encryption']);
		expect(tree(root).filter((name) => name.includes('such'))).to.deep.equal([]);
	});
});

describe('exit code 5: could not get a lock in time', () => {
	/** Another program that holds the lock of `path`, as proper-lockfile does it. */
	async function holder(root: string, path: string): Promise<ChildProcess> {
		const names = new Layout(root).lock('path', artifactPath(path));
		mkdirSync(dirname(names.file), { recursive: true });
		const script = `
			const lockfile = require('proper-lockfile');
			lockfile.lock(process.argv[1], { lockfilePath: process.argv[2], realpath: false }).then(() => console.log('held'));
			process.stdin.resume();
		`;
		const child = spawn(process.execPath, ['-e', script, names.file, names.directory], {
			stdio: ['pipe', 'pipe', 'inherit'],
		});
		await once(child.stdout, 'data');
		return child;
	}

	it('when another process holds the lock of the path', async () => {
		const root = makeRoot({ config: `${DEFAULT_CONFIG}lock_timeout: 0.5\n` });
		await succeed(root, ['ingest', '-', 'd/a'], 'old');
		const child = await holder(root, 'd/a');
		try {
			const says = ['could not lock d/a within 0.5 s', 'locks/d/a'];
			await Promise.all([
				fail(root, ['ingest', '-', 'd/a'], 5, says, { stdin: 'new' }),
				fail(root, ['encrypt'], 5, says),
			]);
			expect(readFileSync(join(root, 'uploads/d/a'), 'utf8')).to.equal('old');
			expect(tree(root).filter((name) => name.includes('.s3proxy-') && !name.includes('.lock'))).to.deep.equal([]);
		} finally {
			child.kill('SIGKILL');
			await once(child, 'close');
		}
	});
});

describe('exit code 6: the store cannot be reached or refuses', () => {
	const S3 =
		'encryption: true\nfsync: false\nstore: s3://bucket\ns3:\n  endpoint: http://127.0.0.1:1\n  region: us-east-1\n  attempts: 1\n';
	const env = { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'verysecretkey', AWS_EC2_METADATA_DISABLED: 'true' };

	it('when nobody listens at its endpoint: upload keeps everything, fetch does not say that there is none', async () => {
		const root = makeRoot({ config: S3 });
		await succeed(root, ['ingest', '-', 'a'], 'x');
		await succeed(root, ['encrypt']);
		const before = tree(root);
		const runs = [['upload'], ['fetch', 'absent'], ['re-encrypt', '--from-legacy']];
		for (const { stderr } of await Promise.all(runs.map((args) => fail(root, args, 6, ['127.0.0.1:1'], { env })))) {
			expect(stderr).not.to.contain('verysecretkey');
		}
		expect(tree(root).filter((name) => !name.startsWith('locks/'))).to.deep.equal(
			before.filter((name) => !name.startsWith('locks/')),
		);
	});

	it('when the directory of a file: store may not be made', async () => {
		const root = makeRoot({ config: 'encryption: true\nfsync: false\nstore: file:config.yaml/bucket\n' });
		await succeed(root, ['ingest', '-', 'a'], 'x');
		await succeed(root, ['encrypt']);
		await fail(root, ['upload'], 6, [`${keyId(root)}/a`, 'config.yaml/bucket']);
	});
});
