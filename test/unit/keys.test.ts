import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { FormatError } from '../../src/crypto/format.js';
import { checkKeyMaterial, keyIdOf } from '../../src/crypto/key-material.js';
import { type Keyring, loadKeyring } from '../../src/crypto/keyring.js';
import { S3proxyError } from '../../src/errors.js';

/** 32 distinct bytes that depend on `seed`. */
function keyBytes(seed: number): Buffer {
	return createHash('sha256').update(`key ${seed}`).digest();
}

function wrap(text: string, width: number): string {
	return text.replace(new RegExp(`.{1,${width}}`, 'g'), '$&\n');
}

function pem(label: string, body: Buffer): string {
	return `-----BEGIN ${label}-----\n${wrap(body.toString('base64'), 64)}-----END ${label}-----\n`;
}

describe('key material', () => {
	const random = keyBytes(0);
	const long = randomBytes(48);
	const ed25519 = generateKeyPairSync('ed25519');
	const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' });
	const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
	const encrypted = { format: 'pem', cipher: 'aes-256-cbc', passphrase: 'secret' } as const;
	const sparse = Buffer.from(Array.from({ length: 64 }, (_, i) => 0xf0 + (i % 15)));
	const varied = Buffer.from(Array.from({ length: 64 }, (_, i) => 0xf0 + (i % 16)));

	const GOOD: [string, Buffer | string][] = [
		['32 random bytes', random],
		['32 random bytes and a line feed', Buffer.concat([random, Buffer.from('\n')])],
		['65536 bytes', Buffer.alloc(65536, random)],
		['the bytes 00 to 1f', Buffer.from(Array.from({ length: 32 }, (_, i) => i))],
		['16 distinct bytes', varied],
		['hex of 32 bytes', random.toString('hex')],
		['hex with a line feed', `${random.toString('hex')}\n`],
		['hex in capitals', random.toString('hex').toUpperCase()],
		['wrapped hex', wrap(long.toString('hex'), 64)],
		['base64 of 32 bytes', random.toString('base64')],
		['base64 without padding', random.toString('base64').replace(/=+$/, '')],
		['base64url', `${random.toString('base64url')}\n`],
		['base64 wrapped at 64', wrap(randomBytes(100).toString('base64'), 64)],
		['base64 wrapped with CR LF', wrap(randomBytes(100).toString('base64'), 64).replaceAll('\n', '\r\n')],
		['an Ed25519 key', ed25519.privateKey.export({ type: 'pkcs8', format: 'pem' })],
		['an EC key', ec.privateKey.export({ type: 'sec1', format: 'pem' })],
		[
			'an EC key after its parameters',
			`${pem('EC PARAMETERS', Buffer.from('06082a8648ce3d030107', 'hex'))}`.concat(
				ec.privateKey.export({ type: 'sec1', format: 'pem' }).toString(),
			),
		],
		['an RSA key', rsa.privateKey.export({ type: 'pkcs1', format: 'pem' })],
		['an encrypted PKCS#8 key', rsa.privateKey.export({ type: 'pkcs8', ...encrypted })],
		['an encrypted RSA key in the old style', rsa.privateKey.export({ type: 'pkcs1', ...encrypted })],
	];
	for (const [name, material] of GOOD) {
		it(`may be ${name}`, () => {
			expect(() => checkKeyMaterial(Buffer.from(material as string))).not.to.throw();
		});
	}

	const BAD: [string, Buffer | string, RegExp][] = [
		['nothing', '', /empty/],
		['31 bytes', random.subarray(1), /31 bytes/],
		['65537 bytes', Buffer.alloc(65537, random), /65537 bytes/],
		['zeros', Buffer.alloc(32), /distinct/],
		['15 distinct bytes', sparse, /distinct/],
		['a sentence', 'correct horse battery staple, and a few more words', /text/],
		['words', 'correct horse battery staple correct horse battery staple', /text/],
		['words in lines', 'correct\nhorse\nbattery\nstaple\ncorrect\nhorse\nbattery\nstaple\n', /text/],
		['a sentence beyond ASCII', 'Der Käse schläft, während die Möwe über den Zäunen kreist', /text/],
		['hex of 31 bytes', random.subarray(1).toString('hex'), /text/],
		['an odd number of hex digits', `${random.toString('hex')}0`, /text/],
		['base64 of 31 bytes', random.subarray(1).toString('base64'), /text/],
		['base64 of both alphabets', `${random.toString('base64url').slice(0, 41)}+_`, /text/],
		['base64 with padding too much', `${random.toString('base64')}=`, /text/],
		['hex of zeros', '00'.repeat(32), /distinct/],
		['base64 of zeros', Buffer.alloc(48).toString('base64'), /distinct/],
		['a public key', rsa.publicKey.export({ type: 'spki', format: 'pem' }), /text/],
		['a certificate', pem('CERTIFICATE', randomBytes(500)), /text/],
		['a short PEM private key', pem('PRIVATE KEY', randomBytes(31)), /text/],
		['a PEM private key of zeros', pem('PRIVATE KEY', Buffer.alloc(64)), /distinct/],
		[
			'a PEM private key with words in it',
			'-----BEGIN PRIVATE KEY-----\nhello, world\n-----END PRIVATE KEY-----',
			/text/,
		],
		['a PEM private key without an end', `-----BEGIN PRIVATE KEY-----\n${long.toString('base64')}\n`, /text/],
	];
	for (const [name, material, message] of BAD) {
		it(`may not be ${name}`, () => {
			const bytes = Buffer.from(material as string);
			expect(() => checkKeyMaterial(bytes))
				.to.throw(FormatError, message)
				.with.property('reason', 'ERR_KEY');
		});
	}

	it('is identified by its SHA-1', () => {
		expect(keyIdOf(Buffer.from('abc'))).to.equal('a9993e364706816aba3e25717850c26c9cd0d89d');
	});
});

describe('loadKeyring', () => {
	let keys: string;
	let warnings: string[];

	beforeEach(() => {
		keys = join(mkdtempSync(join(tmpdir(), 's3proxy-keys-')), 'keys');
		mkdirSync(keys);
		warnings = [];
	});

	afterEach(() => {
		rmSync(join(keys, '..'), { recursive: true });
	});

	/** Writes a key file that was last changed `age` seconds ago. */
	function write(name: string, content: Buffer | string, { mode = 0o600, age = 0 } = {}): string {
		const path = join(keys, name);
		writeFileSync(path, content);
		chmodSync(path, mode);
		const seconds = 1_700_000_000 - age;
		utimesSync(path, seconds, seconds);
		return path;
	}

	function link(target: string, name = 'latest'): void {
		symlinkSync(target, join(keys, name));
	}

	function load(): Promise<Keyring | undefined> {
		return loadKeyring(keys, (message) => warnings.push(message));
	}

	async function loaded(): Promise<Keyring> {
		const keyring = await load();
		if (keyring === undefined) throw new Error('expected a keyring');
		return keyring;
	}

	async function refused(): Promise<S3proxyError> {
		try {
			await load();
		} catch (error) {
			if (!(error instanceof S3proxyError)) throw error;
			expect(error.code).to.equal('bad-key');
			expect(error.hint).to.be.a('string').with.length.greaterThan(0);
			expect(error.message).to.contain(keys);
			return error;
		}
		throw new Error('expected an error');
	}

	function namesOf(keyring: Keyring): string[] {
		return keyring.all.map(({ name }) => name);
	}

	it('finds the latest key', async () => {
		write('private_key', keyBytes(1));
		link('private_key');
		const keyring = await loaded();
		expect(keyring.latest).to.deep.equal({
			id: keyIdOf(keyBytes(1)),
			material: keyBytes(1),
			name: 'private_key',
		});
		expect(keyring.all).to.deep.equal([keyring.latest]);
		expect(keyring.byId(keyring.latest.id)).to.equal(keyring.latest);
		expect(keyring.byId('0'.repeat(40))).to.equal(undefined);
		expect(warnings).to.deep.equal([]);
	});

	it('puts the latest key first, then the others, newest file first', async () => {
		write('old', keyBytes(1), { age: 300 });
		write('newest', keyBytes(2), { age: 100 });
		write('chosen', keyBytes(3), { age: 400 });
		write('b', keyBytes(4), { age: 200 });
		write('a', keyBytes(5), { age: 200 });
		link('./chosen');
		const keyring = await loaded();
		expect(namesOf(keyring)).to.deep.equal(['chosen', 'newest', 'a', 'b', 'old']);
		expect(keyring.byId(keyIdOf(keyBytes(1)))?.name).to.equal('old');
	});

	it('counts files with the same bytes once, and the latest under its name', async () => {
		write('copy', keyBytes(1));
		write('private_key', keyBytes(1), { age: 100 });
		link('private_key');
		link('private_key', 'alias');
		expect(namesOf(await loaded())).to.deep.equal(['private_key']);
	});

	it('accepts a key that nobody may write', async () => {
		write('private_key', keyBytes(1), { mode: 0o400 });
		link('private_key');
		expect(namesOf(await loaded())).to.deep.equal(['private_key']);
	});

	it('skips directories and hidden files in silence', async () => {
		write('private_key', keyBytes(1));
		link('private_key');
		mkdirSync(join(keys, 'archive'));
		write('.s3proxy-staging', keyBytes(2), { mode: 0o644 });
		link('archive', 'shortcut');
		expect(namesOf(await loaded())).to.deep.equal(['private_key']);
		expect(warnings).to.deep.equal([]);
	});

	it('skips other files that are no keys, with one warning each', async () => {
		write('private_key', keyBytes(1));
		link('private_key');
		// What is no key may be readable.
		write('README.md', 'Keep the keys in this directory to yourself.', { mode: 0o644 });
		write('empty', '');
		write('huge', Buffer.alloc(100_000, keyBytes(2)));
		link('nowhere', 'broken');
		mkdirSync(join(keys, '..', 'elsewhere'));
		writeFileSync(join(keys, '..', 'elsewhere', 'key'), keyBytes(3), { mode: 0o600 });
		link('../elsewhere/key', 'far');
		expect(namesOf(await loaded())).to.deep.equal(['private_key']);
		const about = warnings.map((message) => message.slice(keys.length + 1).split(' ')[0]).sort();
		expect(about).to.deep.equal(['README.md', 'broken', 'empty', 'far', 'huge']);
		for (const message of warnings) expect(message).not.to.contain('\n');
	});

	it('finds no key when the directory is missing', async () => {
		rmSync(keys, { recursive: true });
		expect(await load()).to.equal(undefined);
		mkdirSync(keys);
	});

	it('finds no key in a directory without key files', async () => {
		expect(await load()).to.equal(undefined);
		write('README.md', 'No keys here, and this is not one of them.');
		mkdirSync(join(keys, 'archive'));
		expect(await load()).to.equal(undefined);
	});

	it('refuses keys without latest', async () => {
		write('private_key', keyBytes(1));
		write('other', keyBytes(2));
		const { message, hint } = await refused();
		expect(message).to.match(/latest is missing.*other, private_key/);
		expect(hint).to.contain('ln -s');
	});

	it('refuses a dangling latest', async () => {
		write('private_key', keyBytes(1));
		link('nowhere');
		expect((await refused()).message).to.match(/latest is dangling: it points to nowhere/);
	});

	it('refuses a dangling latest although there is no other key', async () => {
		link('nowhere');
		expect((await refused()).message).to.match(/dangling/);
	});

	it('refuses a latest that points to itself', async () => {
		link('latest');
		expect((await refused()).message).to.match(/latest/);
	});

	it('refuses a latest that is no symlink', async () => {
		write('latest', keyBytes(1));
		expect((await refused()).message).to.match(/latest is not a symlink/);
	});

	it('refuses a latest that points to a directory, or to a hidden file', async () => {
		mkdirSync(join(keys, 'archive'));
		link('archive');
		expect((await refused()).message).to.match(/archive, the latest key: it is a directory/);
		rmSync(join(keys, 'latest'));
		write('.hidden', keyBytes(1));
		link('.hidden');
		expect((await refused()).message).to.match(/hidden/);
	});

	for (const target of ['../elsewhere', 'archive/key', '.', '..', '/etc/passwd']) {
		it(`refuses a latest that points out of the directory, to ${target}`, async () => {
			writeFileSync(join(keys, '..', 'elsewhere'), keyBytes(1), { mode: 0o600 });
			mkdirSync(join(keys, 'archive'));
			writeFileSync(join(keys, 'archive', 'key'), keyBytes(1), { mode: 0o600 });
			link(target);
			const { message } = await refused();
			expect(message)
				.to.contain(target)
				.and.to.match(/not directly in/);
		});
	}

	it('refuses a latest whose key is a link to somewhere else', async () => {
		writeFileSync(join(keys, '..', 'elsewhere'), keyBytes(1), { mode: 0o600 });
		link('../elsewhere', 'private_key');
		link('private_key');
		expect((await refused()).message).to.match(/outside the keys directory/);
	});

	const WEAK: [string, Buffer | string, RegExp][] = [
		['empty', '', /empty/],
		['too small', keyBytes(1).subarray(1), /31 bytes/],
		['too large', Buffer.alloc(65537, keyBytes(1)), /65537 bytes/],
		['a passphrase', 'correct horse battery staple, and so on', /text/],
		['not random', Buffer.alloc(32, 1), /distinct/],
	];
	for (const [name, content, reason] of WEAK) {
		it(`refuses a latest key that is ${name}`, async () => {
			const path = write('private_key', content);
			link('private_key');
			const { message } = await refused();
			expect(message).to.contain(path).and.to.match(reason);
			if (content.length > 0) expect(message).not.to.contain(content.toString());
		});
	}

	for (const mode of [0o640, 0o604, 0o620, 0o610, 0o644, 0o777]) {
		it(`refuses a key with mode ${mode.toString(8)}, latest or not`, async () => {
			const latest = write('private_key', keyBytes(1), { mode });
			link('private_key');
			expect((await refused()).hint).to.equal(`chmod 0600 ${latest}`);
			chmodSync(latest, 0o600);
			const old = write('old', keyBytes(2), { mode });
			expect((await refused()).hint).to.equal(`chmod 0600 ${old}`);
		});
	}

	it('refuses a key that it cannot read', async function () {
		if (process.getuid?.() === 0) return this.skip();
		const path = write('private_key', keyBytes(1), { mode: 0o200 });
		link('private_key');
		expect((await refused()).message)
			.to.contain(`${path} cannot be read`)
			.and.to.contain('EACCES');
	});

	it('refuses a directory that it cannot read', async () => {
		rmSync(keys, { recursive: true });
		writeFileSync(keys, '');
		expect((await refused()).message).to.match(/cannot be read/);
	});
});
