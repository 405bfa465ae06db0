import { chmodSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { credentialLine, makeToken } from '../../src/crypto/credentials.ts';
import { makeDirectory, makeRoot, type RunOptions, s3proxy, shell, tree } from '../support/cli.ts';
import {
	config,
	FORM,
	file,
	form,
	postHead,
	raw,
	type Served,
	send,
	serve,
	serveHere,
	store,
	until,
} from '../support/serve.ts';

const body = form(file('content'));
const bearer = (token: string) => `Bearer ${token}`;
const basic = (name: string, token: string) => `Basic ${Buffer.from(`${name}:${token}`).toString('base64')}`;

function rootWithAuth(...lines: string[]): string {
	const root = makeRoot({ config: config('auth: auth\n') });
	writeAuth(root, ...lines);
	return root;
}

function writeAuth(root: string, ...lines: string[]): void {
	writeFileSync(join(root, 'auth'), lines.map((line) => `${line}\n`).join(''), { mode: 0o600 });
}

/** A POST with what `Authorization` says; undefined: without. */
async function postAs(url: string, authorization: string | undefined, target = '/f') {
	const headers = authorization === undefined ? FORM : { ...FORM, Authorization: authorization };
	return send(url, target, { method: 'POST', headers, body });
}

describe('auth', () => {
	const [token, second, other] = [makeToken(), makeToken(), makeToken()];
	let served: Served;
	let url: string;

	before(async () => {
		const root = makeRoot({ config: config('auth: auth\n'), keep: 'suite' });
		writeAuth(root, '# who may', credentialLine('ci', token), '', credentialLine('ci', second), `${' '}# more`);
		writeFileSync(join(root, 'auth'), `${readFileSync(join(root, 'auth'), 'utf8')}${credentialLine('ops', other)}`);
		served = await serve({ root });
		url = served.url;
	});

	for (const [what, authorization, name] of [
		['a bearer token', bearer(token), 'ci'],
		['the second token of a name', bearer(second), 'ci'],
		['the last line, which has no line break', bearer(other), 'ops'],
		['basic', basic('ci', token), 'ci'],
		['basic with the second token', basic('ci', second), 'ci'],
		['another spelling of the scheme', `bEARER  ${token} `, 'ci'],
		['basic in another spelling', basic('ci', token).replace('Basic', 'BASIC'), 'ci'],
	] as const) {
		it(`${what}: stored, and the log says by whom`, async () => {
			const target = `/good/${encodeURIComponent(what)}`;
			expect((await postAs(url, authorization, target)).status).to.equal(201);
			await until(() => served.log().includes(`stored item=good/${what} bytes=7 by=${name}\n`));
		});
	}

	for (const [what, authorization] of [
		['none', undefined],
		['an empty one', ''],
		['a token that nobody has', bearer(makeToken())],
		['a token with another last character', bearer(token.slice(0, -1) + (token.endsWith('A') ? 'B' : 'A'))],
		['a token and one character more', bearer(`${token}x`)],
		['a token without its last character', bearer(token.slice(0, -1))],
		['a token without a scheme', token],
		['another scheme', `Digest ${token}`],
		['the hash instead of the token', bearer(credentialLine('ci', token).slice('ci:'.length))],
		['its digest alone', bearer(credentialLine('ci', token).slice('ci:sha256$'.length))],
		['a token as basic without base64', `Basic ci:${token}`],
		['a name alone', basic('ci', '')],
		['a token for another name', basic('ops', token)],
		['a token for no name', basic('', token)],
		['a name that nobody has', basic('nobody', token)],
		['a name with more behind it', basic('ci\u0000', token)],
		['a comment as a name', basic('#', token)],
		['two tokens', bearer(`${token}, Bearer ${second}`)],
		['a very long one', bearer('x'.repeat(10_000))],
		['a very long basic', basic('n'.repeat(5_000), 'x'.repeat(2_000))],
		['bytes that are no UTF-8', `Basic ${Buffer.from([0xff, 0xfe, 0x3a, 0xff]).toString('base64')}`],
	] as const) {
		it(`${what}: 401, whatever else is asked for, and the root is as it was`, async () => {
			const before = tree(served.root);
			for (const target of ['/new/dir/f', '/x-iv', '/../etc/passwd', '/good']) {
				const { status, headers, text } = await postAs(url, authorization, target);
				expect(status, text).to.equal(401);
				expect(headers['www-authenticate']).to.equal('Bearer realm="s3proxy", Basic realm="s3proxy"');
				expect(text).to.match(/^uploads need a token\. Send it as [^\n]+\n$/);
			}
			expect(tree(served.root)).to.deep.equal(before);
		});
	}

	it('a client that waits for 100 Continue is not asked for its body', async () => {
		const client = await raw(url, postHead('/f', body.length, 'Expect: 100-continue\r\n'));
		await until(() => client.received().includes('\r\n\r\n'));
		expect(client.received()).to.match(/^HTTP\/1.1 401 Unauthorized\r\n/);
		client.socket.destroy();
		const good = `Expect: 100-continue\r\nConnection: close\r\nAuthorization: ${bearer(token)}\r\n`;
		const welcome = await raw(url, postHead('/f', body.length, good));
		await until(() => welcome.received() === 'HTTP/1.1 100 Continue\r\n\r\n');
		welcome.socket.write(body);
		expect(await welcome.all).to.match(/\r\nHTTP\/1.1 201 Created\r\n/);
	});

	it('GET and HEAD need no token', async () => {
		await postAs(url, bearer(token), '/open');
		for (const method of ['GET', 'HEAD']) expect((await send(url, '/open', { method })).status).to.equal(200);
		expect((await send(url, '/nowhere')).status).to.equal(404);
	});

	it('curl sends both kinds, and a 401 reaches it although it sends a large file', async () => {
		const large = join(makeDirectory(), 'large');
		writeFileSync(large, Buffer.alloc(3_000_000));
		const script = `status() { curl -s -o /dev/null -w '%{http_code} ' -F file=@${large} "$@" ${url}/curl; }
			status -H "Authorization: Bearer $T"; status -u "ci:$T"; status -u "ci:wrong"; status; status --anyauth -u "ci:$T"`;
		const { stdout } = await shell(served.root, script, { T: token });
		expect(stdout).to.equal('201 201 401 401 201 ');
	});

	it('the digest of a password that somebody chose lets nobody in', async () => {
		const { url: here, stop } = await serve({ root: rootWithAuth(credentialLine('joe', 'joe-s password')) });
		for (const authorization of [basic('joe', 'joe-s password'), bearer('joe-s password')]) {
			expect((await postAs(here, authorization)).status).to.equal(401);
		}
		await stop();
	});

	it('a file without a credential lets nobody in', async () => {
		const { url: here, stop } = await serve({ root: rootWithAuth('# nobody yet') });
		expect((await postAs(here, bearer(token))).status).to.equal(401);
		await stop();
	});
});

describe('the file of credentials', () => {
	const token = makeToken();
	const line = credentialLine('ci', token);

	const spoilt: readonly (readonly [what: string, spoil: (file: string) => void, says: RegExp])[] = [
		['is missing', (name) => rmSync(name), /cannot be read: ENOENT.*\nMake it with: s3proxy add-token NAME/s],
		['may be read by the group', (name) => chmodSync(name, 0o640), /group or others \(mode 0640\)\nchmod 0600 /],
		['may be written by others', (name) => chmodSync(name, 0o602), /group or others \(mode 0602\)\nchmod 0600 /],
		[
			'is a directory',
			(name) => {
				rmSync(name);
				mkdirSync(name, { mode: 0o700 });
			},
			/is not a regular file/,
		],
		['is too large', (name) => writeFileSync(name, '#'.repeat(2 ** 20 + 1)), /more than 1048576 bytes/],
		['has a line without a hash', (name) => writeFileSync(name, `${line}\nops\n`), /auth, line 2: not NAME:sha256/],
		['has a line without a name', (name) => writeFileSync(name, line.slice(2)), /auth, line 1: not NAME:sha256/],
		['has a line that was cut off', (name) => writeFileSync(name, line.slice(0, -1)), /auth, line 1: not NAME:sha256/],
		['has the line of an htpasswd', (name) => writeFileSync(name, 'ci:$apr1$Zx$Yq\n'), /auth, line 1: not NAME:sha256/],
		['has a token in it', (name) => writeFileSync(name, `\n\nci:${token}\n`), /auth, line 3: not NAME:sha256/],
	];
	for (const [what, spoil, says] of spoilt) {
		it(`that ${what}: serve does not start; one that runs lets nobody in, says so, and works again when it is mended`, async () => {
			const root = rootWithAuth(line);
			const { url, log, stop } = await serve({ root });
			spoil(join(root, 'auth'));
			for (const authorization of [undefined, bearer(token), basic('ci', token)]) {
				expect((await postAs(url, authorization)).status).to.equal(500);
			}
			expect((await send(url, '/f')).status).to.equal(404);
			expect(log()).to.match(/^error: .*auth.*request=POST \/f status=500$/m);
			const { code, stderr } = await s3proxy(root, ['serve']);
			expect([code, stderr]).to.satisfy(() => code === 3 && says.test(stderr), stderr);
			expect(stderr + log())
				.not.to.include(token)
				.and.not.to.include('apr1');
			rmSync(join(root, 'auth'), { recursive: true, force: true });
			writeAuth(root, line);
			expect((await postAs(url, bearer(token))).status).to.equal(201);
			await stop();
		});
	}

	it('is looked at with every POST: a token that is taken back lets nobody in from then on', async () => {
		const root = rootWithAuth(line);
		const { url, stop } = await serveHere(root);
		for (let round = 0; round < 20; round++) {
			// In place and of the same length: nothing but the content tells that it is another one.
			writeAuth(root, credentialLine('ci', makeToken()));
			expect((await postAs(url, bearer(token))).status).to.equal(401);
			writeAuth(root, line);
			expect((await postAs(url, bearer(token))).status).to.equal(201);
		}
		await stop();
	});
});

describe('add-token', () => {
	const add = (root: string, args: readonly string[] = [], options: RunOptions = {}) =>
		s3proxy(root, ['add-token', ...args], options);

	it('prints the token once, on stdout, and a running service takes it', async () => {
		const root = rootWithAuth('# by hand');
		chmodSync(join(root, 'auth'), 0o400);
		const { url, stop } = await serve({ root });
		const { code, stdout, stderr } = await add(root, ['ci']);
		expect([code, stdout]).to.satisfy(() => code === 0 && /^s3proxy_[\w-]{43}\n$/.test(stdout), stderr);
		expect(stderr).to.match(/^ci may upload with this token, which is not shown again; .*\/auth has its hash\n$/);
		expect((await postAs(url, bearer(stdout.trim()))).status).to.equal(201);
		expect((await postAs(url, basic('ci', stdout.trim()))).status).to.equal(201);
		expect(readFileSync(join(root, 'auth'), 'utf8')).to.equal(`# by hand\n${credentialLine('ci', stdout.trim())}\n`);
		await stop();
	});

	it('makes the file, mode 0600, whatever the umask; no two tokens are the same, and both work', async () => {
		const root = makeRoot({ config: config('auth: secret/auth\n') });
		const { stdout } = await shell(root, 'umask 0; $RUN add-token a --quiet; $RUN add-token a --json --quiet');
		const [first = '', ...rest] = stdout.split('\n');
		const second = JSON.parse(rest.join('')) as { name: string; token: string; file: string };
		expect(second).to.deep.include({ name: 'a', file: join(root, 'secret/auth') });
		expect(statSync(join(root, 'secret/auth')).mode & 0o777).to.equal(0o600);
		const { url, stop } = await serve({ root });
		for (const token of [first, second.token]) expect((await postAs(url, bearer(token))).status).to.equal(201);
		expect(first).not.to.equal(second.token);
		await stop();
	});

	it('follows a symlink instead of replacing it, and mends a last line without line break', async () => {
		const root = makeRoot({ config: config('auth: auth\n') });
		const elsewhere = join(makeDirectory(), 'elsewhere');
		const old = makeToken();
		writeFileSync(elsewhere, credentialLine('old', old), { mode: 0o600 });
		symlinkSync(elsewhere, join(root, 'auth'));
		const { stdout } = await add(root, ['new']);
		expect(readFileSync(elsewhere, 'utf8')).to.equal(
			`${credentialLine('old', old)}\n${credentialLine('new', stdout.trim())}\n`,
		);
	});

	it('at the same time: each that says it succeeded has succeeded', async () => {
		const root = rootWithAuth();
		const ended = await Promise.all(['a', 'b', 'c'].map((name) => add(root, [name])));
		const lines = readFileSync(join(root, 'auth'), 'utf8').trim().split('\n').sort();
		const made = ended.flatMap(({ code, stdout }, index) =>
			code === 0 ? [credentialLine('abc'[index] ?? '', stdout.trim())] : [],
		);
		expect(made.length).to.be.at.least(1);
		expect(lines).to.deep.equal(made.sort());
		for (const { code } of ended) expect(code).to.be.oneOf([0, 5]);
	});

	for (const [what, args, make, code, says] of [
		['without auth: in config.yaml', ['ci'], () => makeRoot({ config: config() }), 3, /Write "auth: auth"/],
		['for a name with a colon', ['a:b'], () => rootWithAuth(), 2, /bad name "a:b"/],
		['for an empty name', [''], () => rootWithAuth(), 2, /bad name ""/],
		['for a name with a line break', ['a\nb'], () => rootWithAuth(), 2, /bad name "a\\nb"/],
		['for nobody', [], () => rootWithAuth(), 2, /NAME/],
		['to a file that is not in order', ['ci'], () => rootWithAuth('nonsense'), 3, /auth, line 1: not NAME/],
	] as const) {
		it(`${what}: exit code ${code}, and nothing changes`, async () => {
			const root = make();
			const before = tree(root).filter((name) => !name.startsWith('locks/'));
			const ended = await add(root, args);
			expect([ended.code, ended.stdout]).to.deep.equal([code, '']);
			expect(ended.stderr.replace(/\s+/g, ' ')).to.match(says);
			expect(tree(root).filter((name) => !name.startsWith('locks/'))).to.deep.equal(before);
		});
	}

	it('that was killed leaves staging, which repair removes', async () => {
		const root = rootWithAuth();
		writeFileSync(join(root, '.s3proxy-00000000-1-1-1-1'), '');
		expect((await s3proxy(root, ['repair'])).stdout).to.match(/^staging: \.s3proxy-00000000-1-1-1-1: removed$/m);
		expect(tree(root)).to.include('auth').and.not.to.include('.s3proxy-00000000-1-1-1-1');
	});
});

describe('serve without auth', () => {
	const warning = /^warn: uploads need no token/m;
	for (const [listen, more, warns] of [
		['127.0.0.1:0', '', false],
		['127.0.0.2:0', '', false],
		['localhost:0', '', false],
		['./socket', '', false],
		['0.0.0.0:0', '', true],
		['0.0.0.0:0', 'auth: auth\n', false],
	] as const) {
		it(`on ${listen} ${more === '' ? '' : 'with auth '}${warns ? 'warns' : 'has nothing to warn of'}`, async () => {
			const root = makeRoot({ config: config(more).replace('127.0.0.1:0', listen) });
			if (more !== '') writeAuth(root);
			const { log, stop } = await serve({ root });
			expect(warning.test(log()), log()).to.equal(warns);
			await stop();
		});
	}
});

describe('without auth, a token', () => {
	it('is neither needed nor looked at', async () => {
		const { url, stop } = await serve({ root: makeRoot({ config: config() }) });
		expect((await store(url, '/f', 'x')).status).to.equal(201);
		expect((await postAs(url, bearer(makeToken()))).status).to.equal(201);
		await stop();
	});
});
