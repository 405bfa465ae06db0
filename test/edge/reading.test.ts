import { randomBytes } from 'node:crypto';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { s3proxy } from '../support/cli.ts';
import { EDGE_NEEDS, type Edge, hasEdge, sharedEdge } from '../support/edge.ts';
import { needs } from '../support/needs.ts';
import { send, store } from '../support/serve.ts';

const content = randomBytes(200_000);

/** What the store alone has: stored, sealed, uploaded, removed here. */
async function makeCold(edge: Edge, ...paths: string[]): Promise<void> {
	for (const path of paths) expect((await store(edge.url, `/${path}`, content)).status).to.equal(201);
	for (const stage of ['encrypt', 'upload']) expect((await s3proxy(edge.root, [stage])).code).to.equal(0);
	for (const path of paths) rmSync(join(edge.root, 'uploads', path));
}

describe('reading through the edge', () => {
	let edge: Edge;

	before(async function () {
		needs(this, hasEdge, EDGE_NEEDS);
		edge = await sharedEdge();
		expect((await store(edge.url, '/hot', content)).status).to.equal(201);
		await send(edge.url, '/hot');
	});

	it('a hot artifact comes out of the cache, with the headers of nginx and none of ours', async () => {
		const before = edge.counter('MAIN.cache_hit');
		const { status, headers, body } = await send(edge.url, '/hot');
		expect([status, body.equals(content)]).to.deep.equal([200, true]);
		expect(headers).to.include({ 'content-type': 'application/octet-stream', 'x-content-type-options': 'nosniff' });
		expect(headers['content-length']).to.equal('200000');
		expect(headers.etag).to.match(/^"[0-9a-f]+-30d40"$/);
		expect(headers['last-modified']).to.be.a('string');
		expect(Object.keys(headers).filter((name) => /^(s3proxy|x-varnish|via)/.test(name))).to.deep.equal([]);
		expect(edge.counter('MAIN.cache_hit')).to.equal(before + 1);
	});

	it('a query is no part of the name', async () => {
		const before = edge.counter('MAIN.cache_hit');
		expect((await send(edge.url, '/hot?x=1&y')).status).to.equal(200);
		expect(edge.counter('MAIN.cache_hit')).to.equal(before + 1);
	});

	it('neither the host nor credentials of a client make another object', async () => {
		const before = edge.counter('MAIN.cache_hit');
		for (const headers of [{ Host: 'other.example' }, { Authorization: 'Bearer x' }, { Cookie: 'a=b' }]) {
			expect((await send(edge.url, '/hot', { headers })).status).to.equal(200);
		}
		expect(edge.counter('MAIN.cache_hit')).to.equal(before + 3);
	});

	for (const method of ['GET', 'HEAD']) {
		it(`${method} of a cold artifact brings it back`, async () => {
			const path = `cold-${method}`;
			await makeCold(edge, path);
			await send(edge.url, `/${path}`, { method: 'PURGE' });
			const { status, headers, body } = await send(edge.url, `/${path}`, { method });
			expect([status, headers['content-length']]).to.deep.equal([200, '200000']);
			expect(body.length).to.equal(method === 'GET' ? content.length : 0);
			expect(existsSync(join(edge.root, 'uploads', path))).to.equal(true);
			expect((await send(edge.url, `/${path}`)).body.equals(content)).to.equal(true);
		});
	}

	it('a cold artifact has the ETag and Last-Modified that it had', async () => {
		await store(edge.url, '/again', content);
		const before = await send(edge.url, '/again');
		await makeCold(edge, 'aside');
		rmSync(join(edge.root, 'uploads/again'));
		await send(edge.url, '/again', { method: 'PURGE' });
		const after = await send(edge.url, '/again');
		expect(after.status).to.equal(200);
		expect([after.headers.etag, after.headers['last-modified']]).to.deep.equal([
			before.headers.etag,
			before.headers['last-modified'],
		]);
	});

	describe('ranges', () => {
		const ranges: readonly (readonly [range: string, status: number, from: number, to: number])[] = [
			['bytes=0-0', 206, 0, 1],
			['bytes=100-199', 206, 100, 200],
			['bytes=199999-', 206, 199_999, 200_000],
			['bytes=-100', 206, 199_900, 200_000],
			['bytes=100-999999', 206, 100, 200_000],
			['bytes=0-0,5-6', 200, 0, 200_000],
			['bytes=0-0, -1', 200, 0, 200_000],
			['lines=1-2', 200, 0, 200_000],
		];
		for (const temperature of ['cached', 'uncached']) {
			for (const [index, [range, status, from, to]] of ranges.entries()) {
				it(`${range} of an artifact that is ${temperature}: ${status}`, async () => {
					const path = temperature === 'cached' ? 'hot' : `range-${index}`;
					if (temperature === 'uncached') {
						await store(edge.url, `/${path}`, content);
						await send(edge.url, `/${path}`, { method: 'PURGE' });
					}
					const answer = await send(edge.url, `/${path}`, { headers: { Range: range } });
					expect(answer.status, answer.text.slice(0, 200)).to.equal(status);
					expect(answer.body.equals(content.subarray(from, to))).to.equal(true);
					if (status === 206) expect(answer.headers['content-range']).to.equal(`bytes ${from}-${to - 1}/200000`);
				});
			}
		}

		it('beyond the end: 416, and how long it is', async () => {
			const { status, headers } = await send(edge.url, '/hot', { headers: { Range: 'bytes=200000-' } });
			expect([status, headers['content-range']]).to.deep.equal([416, 'bytes */200000']);
		});

		it('If-Range with this version gives the range, with another one everything', async () => {
			const { etag = '' } = (await send(edge.url, '/hot')).headers;
			const ask = (ifRange: string) => send(edge.url, '/hot', { headers: { Range: 'bytes=1-2', 'If-Range': ifRange } });
			expect((await ask(etag)).status).to.equal(206);
			expect((await ask('"other"')).body.equals(content)).to.equal(true);
			expect((await ask(`W/${etag}`)).body.equals(content)).to.equal(true);
		});
	});

	it('If-None-Match and If-Modified-Since: 304 for this version, 200 for another', async () => {
		const { etag = '', 'last-modified': modified = '' } = (await send(edge.url, '/hot')).headers;
		const statusWith = async (headers: Record<string, string>) => (await send(edge.url, '/hot', { headers })).status;
		expect(await statusWith({ 'If-None-Match': etag })).to.equal(304);
		expect(await statusWith({ 'If-None-Match': `W/${etag}` })).to.equal(304);
		expect(await statusWith({ 'If-None-Match': '"other"' })).to.equal(200);
		expect(await statusWith({ 'If-Modified-Since': modified })).to.equal(304);
		expect(await statusWith({ 'If-Modified-Since': new Date(0).toUTCString() })).to.equal(200);
	});

	it('a conditional request for what is not cached yet gets 304 too, and the cache all of it', async () => {
		await store(edge.url, '/conditional', content);
		const { etag = '' } = (await send(edge.url, '/conditional')).headers;
		await send(edge.url, '/conditional', { method: 'PURGE' });
		const headers = { 'If-None-Match': etag };
		expect((await send(edge.url, '/conditional', { headers })).status).to.equal(304);
		expect((await send(edge.url, '/conditional')).body.equals(content)).to.equal(true);
	});

	it('an empty artifact is one', async () => {
		await store(edge.url, '/empty', '');
		const { status, headers, body } = await send(edge.url, '/empty');
		expect([status, headers['content-length'], body.length]).to.deep.equal([200, '0', 0]);
	});

	it('Gemfile and Gemfile.lock lie side by side; a directory of artifacts is none', async () => {
		for (const path of ['/gems/Gemfile', '/gems/Gemfile.lock']) await store(edge.url, path, path);
		for (const path of ['/gems/Gemfile', '/gems/Gemfile.lock']) {
			expect((await send(edge.url, path)).text).to.equal(path);
		}
		expect((await send(edge.url, '/gems')).status).to.equal(409);
		expect((await send(edge.url, '/gems/Gemfile/x')).status).to.equal(409);
	});

	it('what does not exist: 404 in one line, for a hundred at once, asked of s3proxy at most twice', async () => {
		const before = edge.counter('VBE.boot.shim.req');
		const answers = await Promise.all(Array.from({ length: 100 }, () => send(edge.url, '/absent')));
		for (const { status, text, headers } of answers) {
			expect([status, text]).to.deep.equal([404, 'absent is not in uploads/ and not in the store\n']);
			expect(headers['cache-control']).to.equal('no-store');
		}
		// The first one's answer is good for a second; the machine may be slow.
		expect(edge.counter('VBE.boot.shim.req') - before).to.be.at.most(2);
	});

	it('what did not exist is there as soon as its POST is answered', async () => {
		expect((await send(edge.url, '/soon')).status).to.equal(404);
		expect((await store(edge.url, '/soon', 'here')).status).to.equal(201);
		expect((await send(edge.url, '/soon')).text).to.equal('here');
	});
});
