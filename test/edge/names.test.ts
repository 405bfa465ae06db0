import { execFileSync } from 'node:child_process';
import { existsSync, symlinkSync } from 'node:fs';
import { Agent } from 'node:http';
import { join } from 'node:path';
import { expect } from 'chai';
import { makeDirectory } from '../support/cli.ts';
import { EDGE_NEEDS, type Edge, hasEdge, sharedEdge, startEdge } from '../support/edge.ts';
import { needs } from '../support/needs.ts';
import { FORM, file, form, raw, send, store } from '../support/serve.ts';

describe('names at the edge', () => {
	let edge: Edge;

	before(async function () {
		needs(this, hasEdge, EDGE_NEEDS);
		edge = await sharedEdge();
	});

	const RAW = "A-Za-z0-9._~!$&'()*+,;=:@-";
	const accepted: readonly (readonly [target: string, path: string])[] = [
		["/AZaz09._~!$&'()*+,;=:@-", "AZaz09._~!$&'()*+,;=:@-"],
		['/a/b..c/d.', 'a/b..c/d.'],
		['/a%20%22%23%25%3C%3E%3F%5B%5D%5E%60%7B%7C%7D', 'a "#%<>?[]^`{|}'],
		['/%C3%A9/e%CC%81', 'é/e\u0301'],
		['/%F0%9F%98%80', '😀'],
		['/100%25', '100%'],
		['/%252F', '%2F'],
		[`/${'c'.repeat(250)}`, 'c'.repeat(250)],
		[`/${'%C3%A9'.repeat(125)}`, 'é'.repeat(125)],
		[`/x${[124, 125, 125, 114].map((count) => '%C3%A9'.repeat(count)).join('/')}`, ''],
		[`/${'a/'.repeat(489)}aa`, `${'a/'.repeat(489)}aa`],
	];
	for (const [target, path] of accepted) {
		it(`${target.slice(0, 60)} is one, for POST, GET and PURGE, and its Location is the same`, async () => {
			const stored = await store(edge.url, target, target);
			expect([stored.status, stored.headers.location], stored.text).to.deep.equal([201, target]);
			if (path !== '') expect(stored.text).to.equal(`saved ${path} (${Buffer.byteLength(target)} bytes)\n`);
			expect((await send(edge.url, target)).text).to.equal(target);
			expect((await send(edge.url, target, { method: 'PURGE' })).status).to.equal(200);
			expect((await send(edge.url, target)).text).to.equal(target);
		});
	}

	const encodings = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => byte < 0x80);
	it('each ASCII byte has one spelling at most', async () => {
		await store(edge.url, '/spelling/ab', 'x');
		for (const byte of encodings) {
			const hex = byte.toString(16).padStart(2, '0').toUpperCase();
			const mayBeRaw = new RegExp(`[${RAW}]`).test(String.fromCharCode(byte));
			const isNever = byte < 0x20 || byte === 0x7f || byte === 0x2f || byte === 0x5c;
			const { status } = await send(edge.url, `/spelling/a%${hex}`);
			expect(status, `%${hex}`).to.equal(mayBeRaw || isNever ? 400 : 404);
		}
	});

	const refused = [
		'/',
		'//',
		'/a//b',
		'//a',
		'/a/',
		'/.',
		'/..',
		'/./a',
		'/a/../b',
		'/a/..',
		'/.hidden',
		'/a/.hidden',
		'/.s3proxy-health',
		'/%2E%2E/a',
		'/a%2Eb',
		'/a%2Fb',
		'/a%2fb',
		'/a%5Cb',
		'/a\\b',
		'/a%00',
		'/a%0A',
		'/a%0D%0Ax',
		'/a%7F',
		'/a%c3%a9',
		'/a%5b',
		'/a%61',
		'/a%7E',
		'/a%',
		'/a%2',
		'/a%zz',
		'/a"b',
		'/a<b',
		'/a>b',
		'/a[b',
		'/a]b',
		'/a^b',
		'/a`b',
		'/a{b',
		'/a|b',
		'/a}b',
		'/a\u00e9',
		'/a%C3%28',
		'/%FF',
		'/a-iv',
		`/${'a'.repeat(251)}`,
		`/${'a/'.repeat(490)}a`,
		`/${'a'.repeat(7000)}`,
		'*',
		'a',
		'http://',
		'https://x/a',
	];
	for (const target of refused) {
		it(`${JSON.stringify(target.slice(0, 60))} is none: 400 for GET, HEAD, POST and PURGE`, async () => {
			for (const method of ['GET', 'HEAD']) expect((await send(edge.url, target, { method })).status).to.equal(400);
			const { status } = await send(edge.url, target, { method: 'POST', headers: FORM, body: form(file('x')) });
			expect(status).to.equal(400);
		});
	}

	it('a refusal is one line of text, and an upload is not read for it', async () => {
		const { status, headers, text } = await send(edge.url, '/a//b');
		expect([status, headers['content-type']]).to.deep.equal([400, 'text/plain; charset=utf-8']);
		expect(text).to.match(/^bad path: .*\n$/);
		const { all } = await raw(edge.url, `POST /a//b HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n`);
		expect(await all).to.match(/^HTTP\/1\.1 400 .*connection: close/is);
	});

	for (const method of ['PUT', 'DELETE', 'OPTIONS', 'PATCH', 'TRACE', 'PROPFIND']) {
		it(`${method}: 405, and which there are`, async () => {
			const { status, headers, text } = await send(edge.url, '/a', { method });
			expect([status, headers.allow]).to.deep.equal([405, 'GET, HEAD, POST']);
			expect(text).to.equal(`there is no ${method} here\n`);
		});
	}

	it('a GET with a body: 400', async () => {
		expect((await send(edge.url, '/hello', { headers: { 'Content-Length': '1' }, body: 'x' })).status).to.equal(400);
		expect((await send(edge.url, '/hello', { headers: { 'Content-Length': '0' } })).status).to.equal(404);
	});

	it('a symlink in uploads/ is not followed, neither as a file nor as a directory', async () => {
		const outside = makeDirectory();
		await store(edge.url, '/link/x', 'x');
		symlinkSync('/etc/passwd', join(edge.root, 'uploads/link/passwd'));
		symlinkSync(outside, join(edge.root, 'uploads/link/outside'));
		symlinkSync('/etc', join(edge.root, 'uploads/link/etc'));
		for (const target of ['/link/passwd', '/link/etc/passwd', '/link/outside']) {
			const { status, text } = await send(edge.url, target);
			expect(status, target).to.be.oneOf([409, 500]);
			expect(text).not.to.contain('root:');
		}
	});

	describe('headers that are ours alone', () => {
		const names = [
			'Edge',
			'State',
			'Step',
			'Pipe',
			'Fence',
			'Status',
			'Line',
			'Type',
			'Location',
			'Digest',
			'Retry',
		].map((name) => `S3proxy-${name}`);
		const values = ['1', '3', 'store', 'again', 'large', 'ready', '201', '/etc/passwd', ''];

		it('have no effect from outside: GET, HEAD and POST are what they are', async () => {
			await store(edge.url, '/forged', 'content');
			for (const value of values) {
				const headers = Object.fromEntries(names.map((name) => [name, value]));
				const got = await send(edge.url, '/forged', { headers });
				expect([got.status, got.text]).to.deep.equal([200, 'content']);
				expect((await send(edge.url, '/forged', { method: 'HEAD', headers })).status).to.equal(200);
				expect((await send(edge.url, `/forged-absent-${value.length}`, { headers })).status).to.equal(404);
				const body = form(file('content'));
				const posted = await send(edge.url, '/forged', { method: 'POST', headers: { ...FORM, ...headers }, body });
				expect([posted.status, posted.text]).to.deep.equal([201, 'saved forged (7 bytes)\n']);
			}
		});

		it('cannot be taken away through Connection', async () => {
			const gone = names.join(', ');
			expect((await send(edge.url, '/forged', { headers: { Connection: gone } })).text).to.equal('content');
			await send(edge.url, '/forged', { method: 'PURGE' });
			expect((await send(edge.url, '/forged', { headers: { Connection: gone } })).text).to.equal('content');
			const headers = { ...FORM, Connection: gone };
			const posted = await send(edge.url, '/forged', { method: 'POST', headers, body: form(file('newer')) });
			expect([posted.status, posted.text]).to.deep.equal([201, 'saved forged (5 bytes)\n']);
			expect((await send(edge.url, '/forged')).text).to.equal('newer');
		});
	});
});

describe('who may do what at the edge', () => {
	// Of a block for documentation: neither loopback nor private.
	const ADDRESS = '192.0.2.7';
	let edge: Edge;

	before(async function () {
		needs(this, hasEdge, EDGE_NEEDS);
		let added = true;
		try {
			execFileSync('ip', ['address', 'replace', `${ADDRESS}/32`, 'dev', 'lo'], { stdio: 'ignore' });
		} catch {
			added = false;
		}
		needs(this, added, 'the right to add an address');
		edge = await startEdge({ address: ADDRESS });
	});

	after(async () => {
		await edge?.stop();
		if (edge !== undefined) execFileSync('ip', ['address', 'delete', `${ADDRESS}/32`, 'dev', 'lo']);
	});

	it('another machine may read, and neither store nor purge', async () => {
		const agent = new Agent({ localAddress: ADDRESS } as object);
		const local = new Agent({ localAddress: '127.0.0.1' } as object);
		const body = form(file('x'));
		const stored = await send(edge.url, '/f', { method: 'POST', headers: FORM, body, agent: local });
		expect(stored.status, stored.text).to.equal(201);
		expect((await send(edge.url, '/f', { agent })).text).to.equal('x');
		const post = await send(edge.url, '/g', { method: 'POST', headers: FORM, body, agent });
		expect([post.status, post.text]).to.deep.equal([
			403,
			"this address may not store artifacts; the list is in Varnish's s3proxy.vcl\n",
		]);
		expect(existsSync(join(edge.root, 'uploads/g'))).to.equal(false);
		const purge = await send(edge.url, '/f', { method: 'PURGE', agent });
		expect([purge.status, purge.headers.allow]).to.deep.equal([405, 'GET, HEAD, POST']);
		expect((await send(edge.url, '/f', { method: 'PURGE', agent: local })).text).to.equal('purged /f\n');
		agent.destroy();
		local.destroy();
	});
});
