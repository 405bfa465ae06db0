import { randomBytes } from 'node:crypto';
import {
	chmodSync,
	lstatSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	rmSync,
	symlinkSync,
	writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect } from 'chai';
import { credentialLine, makeToken } from '../../src/crypto/credentials.ts';
import { openBuilt } from '../support/built.ts';
import { addKey, type Ended, makeRoot, s3proxy } from '../support/cli.ts';
import { extentOf } from '../support/extent.ts';
import { config, FORM, file, form, send, serve, until } from '../support/serve.ts';

const KEY = randomBytes(32);
const PASSPHRASE = 'correct horse battery staple, said in some other words';
const AWS_SECRET = `secret/${randomBytes(24).toString('hex')}`;
const AWS_SESSION = `session+${randomBytes(24).toString('hex')}`;
const TOKEN = makeToken();
const BASIC = Buffer.from(`ci:${TOKEN}`).toString('base64');
const QUERY_SECRET = randomBytes(16).toString('hex');

/** Every spelling in which a secret could slip out. */
const SECRETS: readonly (readonly [what: string, spelling: Buffer])[] = [
	...(['latin1', 'hex', 'base64', 'base64url'] as const).map(
		(encoding) => [`the key, ${encoding}`, Buffer.from(KEY.toString(encoding), 'latin1')] as const,
	),
	['the key, upper-case hex', Buffer.from(KEY.toString('hex').toUpperCase())],
	['the key as JSON', Buffer.from([...KEY.subarray(0, 8)].join(','))],
	[
		'the key as Node.js shows it',
		Buffer.from([...KEY.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, '0')).join(' ')),
	],
	['a passphrase', Buffer.from(PASSPHRASE)],
	['the AWS secret', Buffer.from(AWS_SECRET)],
	['the AWS session token', Buffer.from(AWS_SESSION)],
	['the AWS session token, encoded', Buffer.from(encodeURIComponent(AWS_SESSION))],
	['a token', Buffer.from(TOKEN)],
	['a token without its prefix', Buffer.from(TOKEN.slice('s3proxy_'.length))],
	['a token in basic', Buffer.from(BASIC)],
	['a secret in a query', Buffer.from(QUERY_SECRET)],
];

let searched = 0;
/** Requests to the store that were signed with our credentials. */
let signed = 0;

function assertNoSecrets(where: string, output: Buffer | string): void {
	const bytes = Buffer.from(output);
	searched += bytes.length;
	for (const [what, spelling] of SECRETS)
		expect(bytes.includes(spelling), `${what} in ${where}:\n${bytes}`).to.equal(false);
}

const CREDENTIALS = {
	AWS_ACCESS_KEY_ID: 'AKIDEXAMPLE',
	AWS_SECRET_ACCESS_KEY: AWS_SECRET,
	AWS_SESSION_TOKEN: AWS_SESSION,
	AWS_EC2_METADATA_DISABLED: 'true',
};

interface Manner {
	readonly args: readonly string[];
	readonly env: NodeJS.ProcessEnv;
	readonly log: 'text' | 'json';
}

/** As much as a user can ask to be told, and as little. */
const MANNERS: readonly Manner[] = [
	{ args: ['--json'], env: { DEBUG: '*' }, log: 'json' },
	{ args: [], env: {}, log: 'text' },
	...extentOf<Manner[]>({
		fast: [],
		long: [
			{ args: [], env: { DEBUG: '*' }, log: 'text' },
			{ args: ['--quiet'], env: {}, log: 'json' },
		],
	}),
];

const COMMANDS: readonly (readonly string[])[] = [
	['status'],
	['encrypt'],
	['upload'],
	['fetch', 'nowhere'],
	['ingest', 'config.yaml', 'new'],
	['repair'],
	['re-encrypt'],
	['rotate-key'],
	['add-token', 'ops'],
];

/** A store that refuses everyone as AWS does: what it was sent is in the answer. */
async function startRefusing(): Promise<{ server: Server; endpoint: string }> {
	const server = createServer((request, response) => {
		const { authorization, 'x-amz-security-token': session } = request.headers;
		request.resume();
		if (session === AWS_SESSION) signed++;
		response.writeHead(403, { 'Content-Type': 'application/xml' });
		response.end(
			`<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does not match the signature you provided.</Message><StringToSign>${authorization}</StringToSign><CanonicalRequest>x-amz-security-token:${session}</CanonicalRequest></Error>`,
		);
	});
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	return { server, endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

const s3 = (endpoint: string) =>
	config(
		`auth: auth\ns3: {endpoint: "${endpoint}", region: us-east-1, attempts: 1, force_path_style: true}\n`,
		's3://bucket',
	);

function makeSecretRoot(text: string): string {
	const root = makeRoot({ config: text, key: false });
	addKey(root, 'private_key', KEY);
	writeFileSync(join(root, 'auth'), `${credentialLine('ci', TOKEN)}\n`, { mode: 0o600 });
	return root;
}

describe('secrets', () => {
	let refusing: { server: Server; endpoint: string };

	before(async () => {
		refusing = await startRefusing();
	});

	after(() => {
		refusing.server.close();
		process.stdout.write(`    secrets: looked for ${SECRETS.length} spellings in ${searched} bytes\n`);
	});

	const inKeys = (root: string, name = '') => join(root, 'keys', name);
	const spoilt: readonly (readonly [what: string, spoil: (root: string) => void])[] = [
		['a key that others can read', (root) => chmodSync(inKeys(root, 'private_key'), 0o644)],
		['a key that is too short', (root) => addKey(root, 'short', KEY.subarray(0, 31))],
		['a passphrase as a key', (root) => addKey(root, 'phrase', Buffer.from(PASSPHRASE))],
		['a key in hex that was cut off', (root) => addKey(root, 'hex', Buffer.from(`${KEY.toString('hex')}0`))],
		['keys without latest', (root) => rmSync(inKeys(root, 'latest'))],
		[
			'a latest that points out of keys/',
			(root) => {
				mkdirSync(join(root, 'other'));
				rmSync(inKeys(root, 'latest'));
				symlinkSync('../other', inKeys(root, 'latest'));
			},
		],
		['a key among those that are none', (root) => writeFileSync(inKeys(root, 'notes'), PASSPHRASE, { mode: 0o600 })],
		[
			'a secret in config.yaml, where none belongs',
			(root) => writeFileSync(join(root, 'config.yaml'), `encryption: true\nsecret_key: ${PASSPHRASE}\n`),
		],
		['a token in the file of credentials', (root) => writeFileSync(join(root, 'auth'), `ci:${TOKEN}\n`)],
	];

	/** Runs a command on a root of its own, in every manner; what it prints must not have a secret. */
	async function assertSilent(
		command: readonly string[],
		spoil: (root: string) => unknown,
		endpoint: string,
	): Promise<Ended[]> {
		return Promise.all(
			MANNERS.map(async ({ args, env, log }) => {
				const root = makeSecretRoot(`${s3(endpoint)}log: ${log}\n`);
				await spoil(root);
				const ended = await s3proxy(root, [...command, ...args], { env: { ...CREDENTIALS, ...env }, cwd: root });
				// What add-token makes is for stdout, and for nobody else.
				const made = command[0] === 'add-token' ? /s3proxy_[\w-]{43}/.exec(ended.stdout)?.[0] : undefined;
				if (made !== undefined) expect(ended.stderr).not.to.include(made);
				for (const output of [ended.bytes, ended.stderr]) assertNoSecrets(command.join(' '), output);
				return ended;
			}),
		);
	}

	for (const [index, [what, spoil]] of spoilt.entries()) {
		// In the fast part each of them meets one command.
		for (const command of extentOf({ fast: COMMANDS.slice(index % COMMANDS.length).slice(0, 1), long: COMMANDS })) {
			it(`${what}: ${command[0]} does not show it`, async function () {
				this.timeout(60_000);
				await assertSilent(command, spoil, refusing.endpoint);
			});
		}
	}

	for (const command of extentOf({ fast: [['upload'], ['fetch', 'nowhere']], long: COMMANDS })) {
		it(`a store that refuses, and says what it was sent: ${command[0]} does not repeat it`, async () => {
			const waiting = async (root: string) => {
				const built = await openBuilt(root);
				await built.ingest('waiting', 'content');
				await built.encrypt();
			};
			const ended = await assertSilent(command, waiting, refusing.endpoint);
			if (command[0] === 'upload') for (const { code } of ended) expect(code).to.equal(6);
			expect(signed).to.be.above(0);
		});
	}

	it('a store that is not there: nothing of the credentials is shown', async () => {
		const [ended] = await assertSilent(['fetch', 'nowhere'], () => undefined, 'http://127.0.0.1:1');
		expect(ended?.code).to.equal(6);
	});

	for (const { env, log: format } of MANNERS) {
		it(`serve shows none of them, whatever it is asked (log: ${format}${'DEBUG' in env ? ', DEBUG' : ''})`, async () => {
			const root = makeSecretRoot(`${s3(refusing.endpoint)}log: ${format}\n`);
			const { url, child, log, stop } = await serve({ root, env: { ...CREDENTIALS, ...env } });
			const said: string[] = [];
			const ask = async (method: string, target: string, headers: Record<string, string>, body?: Buffer) => {
				const answer = await send(url, target, { method, headers, ...(body === undefined ? {} : { body }) });
				said.push(JSON.stringify(answer.headers), answer.text);
				return answer.status;
			};
			const good = form(file('content'));
			const bearer = { Authorization: `Bearer ${TOKEN}` };
			expect(await ask('POST', '/f', { ...FORM, ...bearer }, good)).to.equal(201);
			expect(
				await ask('POST', `/f?token=${QUERY_SECRET}`, { ...FORM, Authorization: `Basic ${BASIC}` }, good),
			).to.equal(201);
			expect(await ask('POST', '/x-iv', { ...FORM, ...bearer }, good)).to.equal(400);
			expect(await ask('POST', '/f', { ...FORM, Authorization: `Basic x${BASIC}` }, good)).to.equal(401);
			expect(await ask('POST', '/f', { ...FORM, Authorization: `Bearer x${TOKEN}` }, good)).to.equal(401);
			expect(await ask('GET', `/cold?token=${QUERY_SECRET}`, bearer)).to.equal(502);
			expect(await ask('GET', `http://ci:${TOKEN}@x/cold`, {})).to.equal(502);
			expect(await ask('PUT', `/f?token=${QUERY_SECRET}`, bearer)).to.equal(405);
			chmodSync(join(root, 'auth'), 0o644);
			expect(await ask('POST', `http://ci:${TOKEN}@x/f?token=${QUERY_SECRET}`, { ...FORM, ...bearer }, good)).to.equal(
				500,
			);
			writeFileSync(join(root, 'auth'), `ci:${TOKEN}\n`);
			chmodSync(join(root, 'auth'), 0o600);
			expect(await ask('POST', '/f', { ...FORM, ...bearer }, good)).to.equal(500);
			chmodSync(inKeys(root, 'private_key'), 0o644);
			expect(await ask('GET', '/cold', {})).to.equal(500);
			await until(() => log().includes('private_key'));
			for (const name of ['cmdline', 'comm']) assertNoSecrets(name, readFileSync(`/proc/${child.pid}/${name}`));
			const { stdout } = await stop();
			for (const output of [stdout, log(), ...said]) assertNoSecrets('serve', output);
		});
	}

	it('lie in no file that others can read', async () => {
		const root = makeSecretRoot(config('auth: auth\n'));
		for (const command of [
			['rotate-key'],
			['add-token', 'ops'],
			['ingest', 'config.yaml', 'f'],
			['encrypt'],
			['upload'],
		]) {
			expect((await s3proxy(root, command, { cwd: root })).code, command.join(' ')).to.equal(0);
		}
		for (const name of readdirSync(root, { recursive: true, encoding: 'utf8' })) {
			const stats = lstatSync(join(root, name));
			if (!stats.isFile() || (stats.mode & 0o077) === 0) continue;
			assertNoSecrets(name, readFileSync(join(root, name)));
		}
	});
});
