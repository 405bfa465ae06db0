import { createDecipheriv, createHash, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto';
import {
	chmodSync,
	existsSync,
	lstatSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	rmSync,
	statSync,
	symlinkSync,
	utimesSync,
	writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { openBuilt } from '../support/built.js';
import {
	addKey,
	DEFAULT_CONFIG,
	type Ended,
	ended,
	keyId,
	makeDirectory,
	makeRoot,
	PLAIN_CONFIG,
	type RunOptions,
	s3proxy,
	shell,
	startS3proxy,
	tree,
	treeOf,
} from '../support/cli.js';

const PATH = 'path/to/file';
const COMMANDS = [
	'add-token',
	'encrypt',
	'evict',
	'fetch',
	'ingest',
	're-encrypt',
	'repair',
	'rotate-key',
	'serve',
	'status',
	'upload',
];

async function succeed(root: string, args: readonly string[], options?: RunOptions): Promise<Ended> {
	const ended = await s3proxy(root, args, options);
	expect(ended.code, `${args.join(' ')}\n${ended.stdout}${ended.stderr}`).to.equal(0);
	return ended;
}

/** Both without the time that the start of a command takes. */
async function ingest(root: string, path: string, content: string | Uint8Array): Promise<void> {
	await (await openBuilt(root)).ingest(path, content);
}

/** From ingested to nowhere but in the bucket. */
async function pushOut(root: string): Promise<void> {
	const built = await openBuilt(root);
	await built.encrypt();
	await built.upload();
	rmSync(join(root, 'uploads'), { recursive: true });
}

const mtimeOf = (root: string, path: string) => Math.round(statSync(join(root, 'uploads', path)).mtimeMs);

/** FORMAT.md, read again from scratch: what somebody with the key, the object and this page could do. */
function decryptObject(key: Buffer, path: string, object: Buffer): Buffer {
	const header = object.subarray(0, 64);
	expect(header.subarray(0, 8).toString('hex'), 'magic').to.equal('89533350580d0a1a');
	expect(header[8], 'version').to.equal(1);
	const segmentSize = 2 ** header.readUInt8(9);
	expect(header.readUInt16BE(10), 'reserved').to.equal(0);
	const length = Number(header.readBigUInt64BE(12));
	const iv = header.subarray(20, 32);
	const info = Buffer.concat([header.subarray(0, 20), Buffer.from(path)]);
	const derived = Buffer.from(hkdfSync('sha256', key, iv, info, 64));
	expect(timingSafeEqual(derived.subarray(32), header.subarray(32, 64)), 'commitment').to.equal(true);
	const count = Math.max(1, Math.ceil(length / segmentSize));
	expect(object.length).to.equal(64 + length + 16 * count);
	const plain: Buffer[] = [];
	for (let index = 0; index < count; index++) {
		const start = 64 + index * (segmentSize + 16);
		const segment = object.subarray(start, Math.min(object.length, start + segmentSize + 16));
		const nonce = Buffer.alloc(12);
		nonce.writeUInt32BE(index, 7);
		nonce[11] = index === count - 1 ? 1 : 0;
		const decipher = createDecipheriv('aes-256-gcm', derived.subarray(0, 32), nonce);
		decipher.setAuthTag(segment.subarray(-16));
		plain.push(decipher.update(segment.subarray(0, -16)), decipher.final());
	}
	return Buffer.concat(plain);
}

describe('the way of one artifact', () => {
	const SKELETON = [
		'config.yaml',
		'keys/',
		'keys/latest -> private_key',
		'keys/private_key',
		'locks/',
		'locks/path/',
		'locks/path/to/',
		'locks/path/to/file',
	];
	const INGESTED = [
		...SKELETON,
		'to_encrypt/',
		'to_encrypt/path/',
		'to_encrypt/path/to/',
		'to_encrypt/path/to/file -> <root>/uploads/path/to/file',
		'uploading/',
		'uploading/path/',
		'uploading/path/to/',
		'uploads/',
		'uploads/path/',
		'uploads/path/to/',
		'uploads/path/to/file',
	];
	const WORKED_OFF = [
		...INGESTED.filter((name) => !name.includes('->') || name.startsWith('keys/')),
		'encrypted/',
		'encrypted/<key id>/',
		'encrypted/<key id>/path/',
		'encrypted/<key id>/path/to/',
		'encrypting/',
		'encrypting/<key id>/',
		'encrypting/<key id>/path/',
		'encrypting/<key id>/path/to/',
		'bucket/',
		'bucket/<key id>/',
		'bucket/<key id>/path/',
		'bucket/<key id>/path/to/',
		'bucket/<key id>/path/to/file',
	];
	const FETCHED = ['to_decrypt/', 'to_decrypt/path/', 'to_decrypt/path/to/'];

	for (const [encryption, config] of [
		[true, DEFAULT_CONFIG],
		[false, PLAIN_CONFIG],
	] as const) {
		it(`leaves exactly what the contract says, with encryption: ${encryption}`, async () => {
			const root = makeRoot({ config });
			const content = randomBytes(700_000);
			const file = join(makeDirectory(), 'app.rpm');
			writeFileSync(file, content);
			const sidecar = encryption ? ['path/to/file-iv'] : [];

			expect((await succeed(root, ['ingest', file, PATH])).stdout).to.equal(`saved ${PATH} (700000 bytes)\n`);
			expect(tree(root)).to.deep.equal([...INGESTED].sort());
			expect(readFileSync(join(root, 'uploads', PATH)).equals(content)).to.equal(true);
			expect(statSync(join(root, 'uploads', PATH)).mode & 0o777, 'nginx may read it').to.equal(0o644);
			const mtime = mtimeOf(root, PATH);

			expect((await succeed(root, ['encrypt'])).stdout).to.match(/^encrypted 1 artifact \(.*\)\n$/);
			expect(treeOf(root, 'encrypted').filter((name) => !name.endsWith('/'))).to.deep.equal(
				[PATH, ...sidecar].map((name) => `<key id>/${name}`),
			);
			expect((await succeed(root, ['upload'])).stdout).to.match(/^uploaded 1 artifact \(.*\)\n$/);
			const workedOff = [...WORKED_OFF, ...sidecar.map((name) => `bucket/<key id>/${name}`)];
			expect(tree(root)).to.deep.equal(workedOff.sort());

			const key = readFileSync(join(root, 'keys/private_key'));
			const id = createHash('sha1').update(key).digest('hex');
			const object = readFileSync(join(root, 'bucket', id, PATH));
			if (encryption) {
				expect(object.includes(content.subarray(1000, 1032)), 'content is not in the bucket').to.equal(false);
				expect(decryptObject(key, PATH, object).equals(content), 'decrypts by the specification alone').to.equal(true);
				expect(readFileSync(join(root, 'bucket', id, `${PATH}-iv`)).equals(object.subarray(20, 32))).to.equal(true);
			} else {
				expect(object.equals(content)).to.equal(true);
			}

			rmSync(join(root, 'uploads'), { recursive: true });
			expect((await succeed(root, ['fetch', PATH])).stdout).to.match(/^fetched 1 artifact \(.*\)\n$/);
			expect(tree(root)).to.deep.equal([...workedOff, ...FETCHED].sort());
			expect(readFileSync(join(root, 'uploads', PATH)).equals(content)).to.equal(true);
			expect(mtimeOf(root, PATH), 'mtime survives eviction').to.equal(mtime);
			expect(statSync(join(root, 'uploads', PATH)).mode & 0o777, 'nginx may read it').to.equal(0o644);
		});
	}

	it('goes on from stdin, and has a work link only while it waits', async () => {
		const root = makeRoot();
		await succeed(root, ['ingest', '-', PATH], { stdin: 'from stdin' });
		expect(readFileSync(join(root, 'uploads', PATH), 'utf8')).to.equal('from stdin');
		expect((await succeed(root, ['encrypt'])).stdout).to.contain('encrypted 1');
		expect((await succeed(root, ['encrypt'])).stdout).to.equal('nothing to encrypt\n');
		expect((await succeed(root, ['upload'])).stdout).to.contain('uploaded 1');
		expect((await succeed(root, ['upload'])).stdout).to.equal('nothing to upload\n');
		expect((await succeed(root, ['fetch', PATH])).stdout).to.equal('nothing to fetch\n');
	});

	it('works off just what is named', async () => {
		const root = makeRoot();
		for (const name of ['a', 'b', 'c']) await ingest(root, name, name);
		await succeed(root, ['encrypt', 'a', '/b']);
		expect(treeOf(root, 'to_encrypt')).to.deep.equal(['c -> <root>/uploads/c']);
		await succeed(root, ['upload', 'b', '--jobs', '2']);
		expect(treeOf(root, 'encrypted').filter((name) => !name.endsWith('/'))).to.deep.equal([
			'<key id>/a',
			'<key id>/a-iv',
		]);
	});

	it('may be a large file of many segments, fetched in ranges', async () => {
		const root = makeRoot();
		const content = randomBytes(9 * 2 ** 20 + 1);
		await ingest(root, 'large', content);
		await pushOut(root);
		const { bytes } = await succeed(root, ['fetch', 'large', '--output', '-']);
		expect(bytes.equals(content)).to.equal(true);
	});
});

describe('ingest --move', () => {
	it('takes the file over: linked, not copied, and gone from its place', async () => {
		const root = makeRoot();
		const file = join(makeDirectory(), 'dump');
		writeFileSync(file, 'dump', { mode: 0o600 });
		const { ino } = statSync(file);
		await succeed(root, ['ingest', '--move', file, PATH]);
		expect(existsSync(file)).to.equal(false);
		expect(statSync(join(root, 'uploads', PATH)).ino).to.equal(ino);
		expect(statSync(join(root, 'uploads', PATH)).mode & 0o777).to.equal(0o644);
		expect(treeOf(root, 'uploading').filter((name) => !name.endsWith('/'))).to.deep.equal([]);
	});

	it('copies what has other names, and removes only the one', async () => {
		const root = makeRoot();
		const directory = makeDirectory();
		writeFileSync(join(directory, 'one'), 'content');
		symlinkSync('one', join(directory, 'link'));
		await succeed(root, ['ingest', '--move', join(directory, 'link'), PATH]);
		expect(readdirSync(directory)).to.deep.equal(['one']);
		expect(lstatSync(join(root, 'uploads', PATH)).isFile()).to.equal(true);
		writeFileSync(join(directory, 'one'), 'changed afterwards');
		expect(readFileSync(join(root, 'uploads', PATH), 'utf8')).to.equal('content');
	});

	it('leaves the file in its place when it cannot store it', async () => {
		const root = makeRoot();
		const file = join(makeDirectory(), 'dump');
		writeFileSync(file, 'dump');
		await ingest(root, 'a', 'in the way');
		expect((await s3proxy(root, ['ingest', '--move', file, 'a/b'])).code).to.equal(1);
		expect(readFileSync(file, 'utf8')).to.equal('dump');
	});
});

describe('fetch --output', () => {
	let root: string;
	before(async () => {
		root = makeRoot({ keep: 'suite' });
		await ingest(root, PATH, 'the content');
		await pushOut(root);
	});

	it('copies the artifact to a file, which it replaces, and leaves nothing beside it', async () => {
		const directory = makeDirectory();
		writeFileSync(join(directory, 'out'), 'something old and longer than the content');
		await succeed(root, ['fetch', PATH, '--output', join(directory, 'out')]);
		expect(readFileSync(join(directory, 'out'), 'utf8')).to.equal('the content');
		expect(readdirSync(directory)).to.deep.equal(['out']);
	});

	it('writes the artifact and nothing else to stdout', async () => {
		expect((await succeed(root, ['fetch', PATH, '--output', '-'])).stdout).to.equal('the content');
		expect((await succeed(root, ['fetch', PATH, '--output=-', '--quiet'])).stdout).to.equal('the content');
	});

	it('leaves no file when there is no artifact, and nothing on stdout', async () => {
		const directory = makeDirectory();
		const absent = await s3proxy(root, ['fetch', 'absent', '--output', join(directory, 'out')]);
		expect(absent.code).to.equal(4);
		expect(readdirSync(directory)).to.deep.equal([]);
		expect((await s3proxy(root, ['fetch', 'absent', '--output', '-'])).stdout).to.equal('');
	});

	it('fails when the copy cannot be written, and says where', async () => {
		const ended = await s3proxy(root, ['fetch', PATH, '--output', '/nonexistent/directory/out']);
		expect(ended.code).to.equal(1);
		expect(ended.stderr).to.contain('/nonexistent/directory/out');
		expect(ended.stderr).not.to.match(/^ +at /m);
	});

	it('does not mind a reader that has seen enough', async () => {
		const big = makeRoot();
		await ingest(big, 'big', randomBytes(3_000_000));
		const { code, stderr } = await shell(big, 'set -o pipefail; $RUN fetch big --output - | head -c 10 >/dev/null');
		expect({ code, stderr }).to.deep.equal({ code: 0, stderr: '' });
	});
});

describe('versions of one path', () => {
	it('are at least a whole second apart, also with the clock set back, and after eviction', async () => {
		const root = makeRoot();
		await ingest(root, PATH, 'one');
		const first = mtimeOf(root, PATH);
		await ingest(root, PATH, 'two');
		const second = mtimeOf(root, PATH);
		expect(second).to.be.at.least(first + 1000);

		// A clock that was an hour ahead when this version was made, and is right now.
		const ahead = Date.now() + 3_600_000;
		utimesSync(join(root, 'uploads', PATH), ahead / 1000, ahead / 1000);
		const lock = join(root, 'locks', PATH);
		writeFileSync(lock, readFileSync(lock, 'latin1').replace(String(second), String(ahead)));
		await ingest(root, PATH, 'three');
		const third = mtimeOf(root, PATH);
		expect(third).to.be.at.least(ahead + 1000);

		await pushOut(root);
		await ingest(root, PATH, 'four');
		expect(mtimeOf(root, PATH), 'the lock file remembers').to.be.at.least(third + 1000);
		await pushOut(root);
		await succeed(root, ['fetch', PATH]);
		expect(readFileSync(join(root, 'uploads', PATH), 'utf8')).to.equal('four');
	});

	it('have whole milliseconds, which survive encryption, upload, eviction and fetch', async () => {
		const root = makeRoot();
		await ingest(root, PATH, 'x');
		const { mtimeNs } = statSync(join(root, 'uploads', PATH), { bigint: true });
		// utimes takes seconds as a double: a microsecond may be missing.
		expect((mtimeNs + 1000n) % 1_000_000n < 2000n, String(mtimeNs)).to.equal(true);
		const before = mtimeOf(root, PATH);
		await pushOut(root);
		await succeed(root, ['fetch', PATH]);
		expect(mtimeOf(root, PATH)).to.equal(before);
	});

	it('replace one another at every stage: the newest one arrives', async () => {
		const root = makeRoot();
		await ingest(root, PATH, 'one');
		await succeed(root, ['encrypt']);
		await ingest(root, PATH, 'two');
		await succeed(root, ['upload']);
		expect(treeOf(root, 'to_encrypt')).to.include(`${PATH} -> <root>/uploads/${PATH}`);
		await succeed(root, ['encrypt']);
		await ingest(root, PATH, 'three');
		await pushOut(root);
		expect((await succeed(root, ['fetch', PATH, '--output', '-'])).stdout).to.equal('three');
	});

	it('with overwrite: false there is only one, in uploads/ or in the store', async () => {
		const root = makeRoot({ config: `${DEFAULT_CONFIG}overwrite: false\n` });
		await ingest(root, PATH, 'one');
		const again = async () => {
			const { code, stderr } = await s3proxy(root, ['ingest', '-', PATH], { stdin: 'two' });
			expect(code).to.equal(1);
			expect(stderr).to.contain(`${PATH} exists already`);
		};
		await again();
		await pushOut(root);
		await again();
		expect((await succeed(root, ['fetch', PATH, '--output', '-'])).stdout).to.equal('one');
	});

	it('the newest of several under different keys is the one that is fetched', async () => {
		const root = makeRoot();
		await ingest(root, PATH, 'old key');
		await pushOut(root);
		await succeed(root, ['rotate-key']);
		await ingest(root, PATH, 'new key');
		await pushOut(root);
		expect((await succeed(root, ['fetch', PATH, '--output', '-'])).stdout).to.equal('new key');
	});
});

describe('keys', () => {
	it('the first one comes from rotate-key, mode 0600, and latest points to it', async () => {
		const root = makeRoot({ key: false });
		const { stdout } = await succeed(root, ['rotate-key']);
		expect(stdout).to.match(/^old key: none\nnew key: [0-9a-f]{40} \(.*\/keys\/private_key\)\n/);
		expect(treeOf(root, 'keys')).to.deep.equal(['latest -> private_key', 'private_key']);
		expect(statSync(join(root, 'keys/private_key')).mode & 0o777).to.equal(0o600);
		expect(statSync(join(root, 'keys')).mode & 0o777).to.equal(0o700);
		expect(statSync(join(root, 'keys/private_key')).size).to.equal(32);
	});

	it('can be rotated and re-encrypted: everything is fetched before, between and after', async function () {
		this.timeout(60_000);
		const root = makeRoot();
		const artifacts = { old: 'sealed with the old key', 'd/both': 'old version', 'd/empty': '' };
		for (const [path, content] of Object.entries(artifacts)) await ingest(root, path, content);
		await pushOut(root);
		const oldId = keyId(root);
		const { stdout } = await succeed(root, ['rotate-key', '--json']);
		const rotated = JSON.parse(stdout) as { oldKeyId: string; newKeyId: string; file: string };
		expect(rotated).to.deep.equal({
			oldKeyId: oldId,
			newKeyId: keyId(root),
			file: join(root, `keys/private_key-${keyId(root)}`),
		});
		const now = { ...artifacts, 'd/both': 'new version', young: 'sealed with the new key' };
		await ingest(root, 'd/both', now['d/both']);
		await ingest(root, 'young', now.young);
		await pushOut(root);

		const allAreFetched = async () => {
			rmSync(join(root, 'uploads'), { recursive: true, force: true });
			await succeed(root, ['fetch', ...Object.keys(now)]);
			for (const [path, content] of Object.entries(now)) {
				expect(readFileSync(join(root, 'uploads', path), 'utf8'), path).to.equal(content);
			}
		};
		await allAreFetched();

		const before = tree(root);
		const dryRun = await succeed(root, ['re-encrypt', '--dry-run', '--delete-old']);
		expect(dryRun.stdout).to.contain('would have re-encrypted 2 artifacts');
		expect(dryRun.stderr).to.contain(`would re-encrypt ${oldId}/old`);
		expect(dryRun.stderr).to.contain(`would delete ${oldId}/d/both`);
		expect(dryRun.stderr).not.to.contain(`would re-encrypt ${oldId}/d/both`);
		expect(tree(root), 'a dry run changes nothing').to.deep.equal(before);

		expect((await succeed(root, ['re-encrypt', 'd/e'])).stdout).to.contain('re-encrypted 1 artifact');
		expect((await succeed(root, ['re-encrypt', '--delete-old'])).stdout).to.contain('re-encrypted 1 artifact');
		expect(treeOf(root, 'bucket').filter((name) => name.startsWith(oldId))).to.deep.equal([]);
		const key = readFileSync(join(root, 'keys/latest'));
		const object = readFileSync(join(root, 'bucket', keyId(root), 'old'));
		expect(decryptObject(key, 'old', object).toString()).to.equal(artifacts.old);
		expect(readFileSync(join(root, 'bucket', keyId(root), 'old-iv')).equals(object.subarray(20, 32))).to.equal(true);
		await allAreFetched();

		const done = tree(root);
		expect((await succeed(root, ['re-encrypt', '--delete-old'])).stdout).to.equal('nothing to re-encrypt\n');
		expect(tree(root)).to.deep.equal(done);
		rmSync(join(root, 'keys/private_key'));
		await allAreFetched();
	});

	it('keeps the mtime of an artifact through re-encryption', async () => {
		const root = makeRoot();
		await ingest(root, PATH, 'x');
		const before = mtimeOf(root, PATH);
		await pushOut(root);
		addKey(root, 'second');
		await succeed(root, ['re-encrypt', '--delete-old']);
		await succeed(root, ['fetch', PATH]);
		expect(mtimeOf(root, PATH)).to.equal(before);
	});

	it('what was sealed before encryption: false is still decrypted; what is plain is refused by encryption: true', async () => {
		const root = makeRoot();
		await ingest(root, 'sealed', 'sealed');
		await pushOut(root);
		writeFileSync(join(root, 'config.yaml'), PLAIN_CONFIG);
		await ingest(root, 'plain', 'plain');
		await pushOut(root);
		expect((await succeed(root, ['fetch', 'sealed', '--output', '-'])).stdout).to.equal('sealed');

		writeFileSync(join(root, 'config.yaml'), DEFAULT_CONFIG);
		const refused = await s3proxy(root, ['fetch', 'plain']);
		expect(refused.code).to.equal(1);
		expect(refused.stderr).to.contain('plain').and.to.contain('ERR_NOT_S3PX');
		expect(existsSync(join(root, 'uploads/plain'))).to.equal(false);

		writeFileSync(join(root, 'config.yaml'), `${DEFAULT_CONFIG}accept_plain: true\n`);
		const accepted = await succeed(root, ['fetch', 'plain', '--output', '-']);
		expect(accepted.stdout).to.equal('plain');
		expect(accepted.stderr).to.contain('accept_plain');
	});

	it('what somebody changed in the bucket is never served', async () => {
		const root = makeRoot();
		for (const name of ['flipped', 'cut', 'swapped', 'other']) await ingest(root, name, `content of ${name}`);
		await pushOut(root);
		const bucket = join(root, 'bucket', keyId(root));
		const change = (name: string, to: (object: Buffer) => Buffer) =>
			writeFileSync(join(bucket, name), to(readFileSync(join(bucket, name))));
		change('flipped', (object) => {
			object.writeUInt8(object.readUInt8(70) ^ 1, 70);
			return object;
		});
		change('cut', (object) => object.subarray(0, -1));
		change('swapped', () => readFileSync(join(bucket, 'other')));
		const ended = await s3proxy(root, ['fetch', 'flipped', 'cut', 'swapped', 'other']);
		expect(ended.code).to.equal(1);
		for (const [name, reason] of [
			['flipped', 'ERR_SEGMENT'],
			['cut', 'ERR_TRUNCATED'],
			['swapped', 'ERR_COMMITMENT'],
		] as const) {
			expect(ended.stderr).to.match(new RegExp(`${name}: .*${reason}`));
		}
		expect(readdirSync(join(root, 'uploads'))).to.deep.equal(['other']);
		expect(treeOf(root, 'to_decrypt')).to.deep.equal([]);
	});
});

describe('status', () => {
	it('counts what waits where', async () => {
		const root = makeRoot();
		const statusOf = async () =>
			JSON.parse((await succeed(root, ['status', '--json'])).stdout) as Record<
				string,
				{ count: number; bytes: number }
			>;
		expect((await succeed(root, ['status'])).stdout).to.contain('waiting for encryption  none');
		await ingest(root, 'a', '123');
		await ingest(root, 'b/c', '4567');
		expect(await statusOf()).to.deep.include({ encryption: true, root });
		expect((await statusOf()).waitingForEncryption).to.include({ count: 2, bytes: 7 });
		expect((await succeed(root, ['status'])).stdout).to.match(/waiting for encryption {2}2 \(7 bytes, oldest \d+ s\)/);
		await succeed(root, ['encrypt', 'a']);
		const later = await statusOf();
		expect(later.waitingForEncryption).to.include({ count: 1, bytes: 4 });
		expect(later.waitingForUpload).to.include({ count: 1, bytes: 3 + 64 + 16 });
		expect(later.keys).to.deep.equal({ latest: keyId(root), older: [] });
	});

	it('tells how to make a key when there is none', async () => {
		expect((await succeed(makeRoot({ key: false }), ['status'])).stdout).to.contain('s3proxy rotate-key');
	});

	it('changes nothing in the root', async () => {
		const root = makeRoot();
		const before = tree(root);
		await succeed(root, ['status']);
		expect(tree(root)).to.deep.equal(before);
	});
});

describe('what commands say', () => {
	it('--json is one JSON document on stdout and nothing else, whatever comes of it', async () => {
		const root = makeRoot();
		const file = join(makeDirectory(), 'file');
		writeFileSync(file, 'content');
		const RUNS: [string[], number, string[]][] = [
			[['ingest', file, PATH], 0, ['mtime', 'path', 'size']],
			[
				['status'],
				0,
				[
					'arriving',
					'disk',
					'encryption',
					'fetching',
					'keys',
					'markers',
					'root',
					'store',
					'waitingForEncryption',
					'waitingForUpload',
				],
			],
			[['encrypt'], 0, ['bytes', 'done', 'failed', 'incomplete', 'skipped']],
			[['upload'], 0, ['bytes', 'done', 'failed', 'incomplete', 'skipped']],
			[['fetch', PATH], 0, ['bytes', 'done', 'failed', 'incomplete', 'skipped']],
			[['repair'], 0, ['errors', 'findings']],
			[['repair', '--dry-run'], 0, ['errors', 'findings']],
			[['rotate-key'], 0, ['file', 'newKeyId', 'oldKeyId']],
			[['re-encrypt'], 0, ['bytes', 'done', 'failed', 'incomplete', 'skipped']],
			[['fetch', 'absent'], 4, ['bytes', 'done', 'failed', 'failure', 'incomplete', 'skipped']],
			[['fetch', '../x'], 2, ['error']],
			[['fetch'], 2, ['error']],
			[['status', '--no-such-flag'], 2, ['error']],
			[['ingest', '/no/such/file', 'a'], 1, ['error']],
		];
		for (const [args, code, fields] of RUNS) {
			const ended = await s3proxy(root, [...args, '--json']);
			expect(ended.code, args.join(' ')).to.equal(code);
			const document = JSON.parse(ended.stdout) as object;
			expect(Object.keys(document).sort(), args.join(' ')).to.deep.equal(fields);
		}
	});

	it('--quiet leaves out everything but what went wrong', async () => {
		const root = makeRoot();
		const silent = { stdout: '', stderr: '' };
		for (const args of [
			['ingest', '-', 'a'],
			['encrypt'],
			['upload'],
			['fetch', 'a'],
			['status'],
			['repair'],
			['rotate-key'],
			['re-encrypt', '--dry-run'],
			['re-encrypt', '--delete-old'],
		]) {
			const { stdout, stderr } = await succeed(root, [...args, '--quiet'], { stdin: 'x' });
			expect({ stdout, stderr }, args.join(' ')).to.deep.equal(silent);
		}
		const { stdout, stderr } = await s3proxy(root, ['fetch', 'absent', '--quiet']);
		expect(stdout).to.equal('');
		expect(stderr).to.contain('absent');
	});

	it('nothing of Node.js about many jobs at a time', async () => {
		const root = makeRoot();
		const built = await openBuilt(root);
		const paths = Array.from({ length: 24 }, (_, number) => `d/${number}`);
		for (const path of paths) await built.ingest(path, Buffer.alloc(1_000_000));
		await built.encrypt();
		const upload = await succeed(root, ['upload', '--jobs', '24']);
		rmSync(join(root, 'uploads'), { recursive: true });
		const fetch = await succeed(root, ['fetch', '--jobs', '24', ...paths]);
		expect([upload.stderr, fetch.stderr]).to.deep.equal(['', '']);
	});

	it('log: json makes every line on stderr a JSON document', async () => {
		const root = makeRoot({ config: `${DEFAULT_CONFIG}log: json\n` });
		const { stderr } = await s3proxy(root, ['fetch', 'absent', 'gone']);
		const lines = stderr
			.trim()
			.split('\n')
			.map((line) => JSON.parse(line) as Record<string, string>);
		const said = lines.map(({ level, message }) => `${level} ${message?.split(' ', 1)[0]}`);
		expect(said.sort()).to.deep.equal(['error absent', 'error gone']);
	});

	it('log: json counts for what ends a command, too: an error, or a signal', async () => {
		const root = makeRoot({ config: `${DEFAULT_CONFIG}log: json\nlisten: 127.0.0.1:0\n` });
		const child = startS3proxy(root, ['serve']);
		const stopped = ended(child);
		child.stderr?.once('data', () => child.kill('SIGTERM'));
		const served = (await stopped).stderr.trim().split('\n');
		chmodSync(join(root, 'keys/private_key'), 0o644);
		const failed = (await s3proxy(root, ['encrypt'])).stderr.trim().split('\n');
		const parsed = [...served, ...failed].map((line) => JSON.parse(line) as Record<string, string>);
		expect(parsed.map(({ message }) => message)).to.include('SIGTERM: finishing what is under way');
		expect(parsed.at(-1)).to.include({ level: 'error', code: 'bad-key' });
	});

	it('--help of every command has examples, the common flags and the exit codes', async () => {
		const helps = await Promise.all(COMMANDS.map((command) => s3proxy(undefined, [command, '--help'])));
		for (const [index, { code, stdout }] of helps.entries()) {
			const command = COMMANDS[index];
			expect(code, command).to.equal(0);
			expect(stdout).to.match(/^EXAMPLES$/m);
			expect(stdout).to.contain(`$ s3proxy ${command}`);
			expect(stdout.replace(/\s+/g, ' ')).to.match(/Exit codes: 0 done; 1 some .* 2 bad usage; 3 .* 4 .* 5 .* 6 /);
			for (const flag of ['--root', '--json', '--quiet']) expect(stdout).to.contain(flag);
		}
	});

	it('no command takes what comes on stdin for an argument', async () => {
		const root = makeRoot();
		await ingest(root, 'a', 'x');
		const { stdout } = await shell(
			root,
			'printf "a\\nb\\n" | while read line; do $RUN encrypt; echo "read $line"; done',
		);
		expect(stdout).to.match(/^encrypted 1 .*\nread a\nnothing to encrypt\nread b\n$/);
		expect((await s3proxy(root, ['ingest', '-'], { stdin: 'content' })).code).to.equal(2);
		expect((await s3proxy(root, ['fetch'], { stdin: 'a' })).code).to.equal(2);
	});

	it('s3proxy alone and --help name every command, and work without a root', async () => {
		for (const args of [[], ['--help'], ['-h']]) {
			const { code, stdout } = await s3proxy(undefined, args, { cwd: makeDirectory() });
			expect(code).to.equal(0);
			for (const command of COMMANDS) expect(stdout).to.contain(command);
		}
	});

	it('--version says which, and -v too', async () => {
		const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
			version: string;
		};
		for (const flag of ['--version', '-v']) {
			const { code, stdout } = await s3proxy(undefined, [flag]);
			expect(code).to.equal(0);
			expect(stdout).to.contain(`s3proxy/${version}`);
		}
	});

	it('finds its root by --root, by S3PROXY_ROOT, or where it stands', async () => {
		const root = makeRoot();
		const rootSaid = async (args: string[], options: RunOptions, env?: string) => {
			const { stdout } = await s3proxy(env, ['status', '--json', ...args], options);
			return (JSON.parse(stdout) as { root: string }).root;
		};
		expect(await rootSaid(['--root', root], {})).to.equal(root);
		expect(await rootSaid([], {}, root)).to.equal(root);
		const other = makeRoot();
		expect(await rootSaid(['--root', root], {}, other), 'the flag counts').to.equal(root);
		const link = join(makeDirectory(), 'link');
		symlinkSync(root, link);
		expect(await rootSaid(['--root', link], {}), 'without symlinks').to.equal(root);
		if (existsSync(new URL('../../config.yaml', import.meta.url))) return;
		expect(await rootSaid([], { cwd: root })).to.equal(root);
	});

	it('works the same after the root was moved with mv', async () => {
		const root = makeRoot();
		await ingest(root, PATH, 'moved');
		const moved = join(makeDirectory(), 'moved');
		const { code } = await shell(root, `mv "$S3PROXY_ROOT" ${moved}`);
		expect(code).to.equal(0);
		await succeed(moved, ['encrypt']);
		await succeed(moved, ['upload']);
		rmSync(join(moved, 'uploads'), { recursive: true });
		expect((await succeed(moved, ['fetch', PATH, '--output', '-'])).stdout).to.equal('moved');
	});

	it('a trivial command loads at most 120 CommonJS modules, an ingest nothing of the SDK', async () => {
		const root = makeRoot();
		const preload = join(makeDirectory(), 'count.cjs');
		writeFileSync(
			preload,
			`process.on('exit', () => require('node:fs').writeFileSync(process.env.LOADED, Object.keys(require.cache).join('\\n')));`,
		);
		const loadedBy = async (args: string[]) => {
			const loaded = join(makeDirectory(), 'loaded');
			await succeed(root, args, { stdin: 'x', node: ['--require', preload], env: { LOADED: loaded } });
			return readFileSync(loaded, 'utf8').split('\n');
		};
		const [trivial, ingested] = await Promise.all([loadedBy(['--version']), loadedBy(['ingest', '-', PATH])]);
		expect(trivial.length).to.be.at.most(120);
		expect(ingested.filter((name) => name.includes('@aws-sdk') || name.includes('@smithy'))).to.deep.equal([]);
	});
});

describe('repair', () => {
	it('finds nothing in a sound root, and says so', async () => {
		const root = makeRoot();
		await ingest(root, PATH, 'x');
		expect((await succeed(root, ['repair'])).stdout).to.contain('the root is sound; ');
		expect((await succeed(root, ['repair'])).stdout).to.equal('the root is sound; 0 findings\n');
		await succeed(root, ['encrypt']);
		expect(readdirSync(join(root, 'encrypted', keyId(root), dirname(PATH)))).to.have.length(2);
	});

	it('names what it found and what it did, and with --dry-run only tells', async () => {
		const root = makeRoot();
		await ingest(root, 'published', 'x');
		rmSync(join(root, 'to_encrypt/published'));
		writeFileSync(join(root, 'uploading/published'), '');
		mkdirSync(join(root, 'uploading/d'));
		writeFileSync(join(root, 'uploading/d/.s3proxy-00000000-1-1-1-1'), 'half');
		const before = tree(root);
		const told = await succeed(root, ['repair', '--dry-run']);
		expect(told.stdout).to.contain('marker: uploading/published: would have: made the work link');
		expect(told.stdout).to.contain('staging: uploading/d/.s3proxy-00000000-1-1-1-1: would have: removed');
		expect(tree(root)).to.deep.equal(before);
		const done = await succeed(root, ['repair']);
		expect(done.stdout).to.contain('marker: uploading/published: made the work link');
		expect(treeOf(root, 'to_encrypt')).to.deep.equal(['published -> <root>/uploads/published']);
		expect(treeOf(root, 'uploading')).to.deep.equal([]);
		expect((await succeed(root, ['repair'])).stdout).to.equal('the root is sound; 0 findings\n');
	});
});
