import { randomBytes } from 'node:crypto';
import { rmSync, statSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { s3proxy, tree, treeOf } from '../support/cli.ts';
import { FORM, file, form, postHead, raw, type Served, send, serve, store, until } from '../support/serve.ts';

describe('GET and HEAD', () => {
	const content = Buffer.from('0123456789abcdef');
	const size = content.length;
	const time = 'Sun, 06 Nov 1994 08:49:37 GMT';
	const etag = `"${(784111777).toString(16)}-10"`;
	let served: Served;
	let url: string;

	before(async () => {
		served = await serve();
		url = served.url;
		await store(url, '/f', content);
		await store(url, '/empty', '');
		utimesSync(join(served.root, 'uploads/f'), 784111777.5, 784111777.5);
	});

	const get = (headers: Record<string, string> = {}, target = '/f') => send(url, target, { headers });

	it('sends the file with the headers that nginx gives it', async () => {
		const { status, headers, body } = await get();
		const { date, connection, 'keep-alive': _, ...rest } = headers;
		expect([status, body]).to.deep.equal([200, content]);
		expect(rest).to.deep.equal({
			etag,
			'last-modified': time,
			'accept-ranges': 'bytes',
			'content-type': 'application/octet-stream',
			'x-content-type-options': 'nosniff',
			'content-length': '16',
		});
		expect([typeof date, typeof connection]).to.deep.equal(['string', 'string']);
	});

	it('HEAD has the same headers and no body, also for errors', async () => {
		const varying = new Set(['date', 'keep-alive']);
		for (const target of ['/f', '/empty', '/not/there', '/x-iv']) {
			const [head, whole] = [await send(url, target, { method: 'HEAD' }), await get({}, target)];
			const same = Object.keys(whole.headers).filter((name) => !varying.has(name));
			expect([head.status, head.text]).to.deep.equal([whole.status, '']);
			for (const name of same) expect(head.headers[name], name).to.equal(whole.headers[name]);
		}
	});

	const other = '"1-1"';
	const earlier = 'Sun, 06 Nov 1994 08:49:36 GMT';
	const later = 'Sun, 06 Nov 1994 08:49:38 GMT';
	const conditions: readonly (readonly [headers: Record<string, string>, status: number])[] = [
		[{ 'If-Match': etag }, 200],
		[{ 'If-Match': `${other}, ${etag}` }, 200],
		[{ 'If-Match': '*' }, 200],
		[{ 'If-Match': other }, 412],
		[{ 'If-Match': `W/${etag}` }, 412],
		[{ 'If-Unmodified-Since': time }, 200],
		[{ 'If-Unmodified-Since': later }, 200],
		[{ 'If-Unmodified-Since': earlier }, 412],
		[{ 'If-Unmodified-Since': 'yesterday' }, 200],
		[{ 'If-Match': etag, 'If-Unmodified-Since': earlier }, 200],
		[{ 'If-None-Match': etag }, 304],
		[{ 'If-None-Match': `W/${etag}` }, 304],
		[{ 'If-None-Match': `${other}, W/${etag}` }, 304],
		[{ 'If-None-Match': '*' }, 304],
		[{ 'If-None-Match': other }, 200],
		[{ 'If-Modified-Since': time }, 304],
		[{ 'If-Modified-Since': later }, 200],
		[{ 'If-Modified-Since': earlier }, 200],
		[{ 'If-None-Match': other, 'If-Modified-Since': time }, 200],
		[{ 'If-None-Match': etag, 'If-Modified-Since': earlier }, 304],
		[{ 'If-Match': other, 'If-None-Match': etag }, 412],
		[{ 'If-None-Match': etag, Range: 'bytes=0-1' }, 304],
	];
	for (const [headers, status] of conditions) {
		it(`${JSON.stringify(headers)}: ${status}`, async () => {
			const answer = await get(headers);
			expect(answer.status).to.equal(status);
			if (status === 304) expect([answer.text, answer.headers.etag]).to.deep.equal(['', etag]);
		});
	}

	const ranges: readonly (readonly [range: string, expected: [number, number] | 'all' | 'none'])[] = [
		['bytes=0-0', [0, 0]],
		['bytes=0-', [0, 15]],
		['bytes=3-7', [3, 7]],
		['bytes=15-', [15, 15]],
		['bytes=15-99999999999999999999', [15, 15]],
		['bytes=-1', [15, 15]],
		['bytes=-16', [0, 15]],
		['bytes=-17', [0, 15]],
		['Bytes = 3-4', [3, 4]],
		['bytes=16-', 'none'],
		['bytes=99999999999999999999-', 'none'],
		['bytes=-0', 'none'],
		['bytes=7-3', 'all'],
		['bytes=0-1,3-4', 'all'],
		['bytes=', 'all'],
		['bytes=-', 'all'],
		['bytes=a-b', 'all'],
		['bytes=1', 'all'],
		['lines=0-1', 'all'],
	];
	for (const [range, expected] of ranges) {
		it(`Range: ${range}: ${Array.isArray(expected) ? expected.join('-') : expected}`, async () => {
			const { status, headers, body } = await get({ Range: range });
			if (expected === 'none') {
				expect([status, headers['content-range']]).to.deep.equal([416, `bytes */${size}`]);
				return;
			}
			const [start, end] = expected === 'all' ? [0, size - 1] : expected;
			const said = expected === 'all' ? undefined : `bytes ${start}-${end}/${size}`;
			expect([status, headers['content-range']]).to.deep.equal([expected === 'all' ? 200 : 206, said]);
			expect(headers['content-length']).to.equal(String(end - start + 1));
			expect(body).to.deep.equal(content.subarray(start, end + 1));
		});
	}

	for (const [condition, status] of [
		[etag, 206],
		[time, 206],
		[other, 200],
		[`W/${etag}`, 200],
		[later, 200],
		['nonsense', 200],
	] as const) {
		it(`If-Range: ${condition}: ${status}`, async () => {
			expect((await get({ Range: 'bytes=0-1', 'If-Range': condition })).status).to.equal(status);
		});
	}

	it('an empty artifact is whole, and has no ranges', async () => {
		for (const [range, status] of [
			['bytes=0-', 416],
			['bytes=-5', 200],
		] as const) {
			expect((await get({ Range: range }, '/empty')).status).to.equal(status);
		}
		const { status, headers, text } = await get({}, '/empty');
		expect([status, headers['content-length'], text]).to.deep.equal([200, '0', '']);
	});

	it('what does not exist is 404 and leaves nothing behind', async () => {
		const before = tree(served.root);
		const { status, text, headers } = await get({}, '/not/there/at/all');
		expect([status, headers['cache-control']]).to.deep.equal([404, 'no-store']);
		expect(text).to.equal('not/there/at/all is not in uploads/ and not in the store\n');
		expect(tree(served.root)).to.deep.equal(before);
	});

	it('an error is a problem document for those who ask for it', async () => {
		for (const accept of ['application/problem+json', 'text/html, Application/Problem+JSON;q=0.5']) {
			const { headers, text } = await get({ Accept: accept }, '/nowhere');
			expect(headers['content-type']).to.equal('application/problem+json');
			expect(JSON.parse(text)).to.deep.equal({
				type: 'about:blank',
				title: 'Not Found',
				status: 404,
				detail: 'nowhere is not in uploads/ and not in the store',
			});
		}
		for (const accept of ['*/*', 'application/json', 'application/problem+json;q=0']) {
			expect((await get({ Accept: accept }, '/nowhere')).headers['content-type']).to.match(/^text\/plain/);
		}
	});

	it('a directory, or what runs through an artifact, is 409', async () => {
		await store(url, '/dir/f', 'x');
		expect((await get({}, '/dir')).status).to.equal(409);
		expect((await get({}, '/dir/f/g')).status).to.equal(409);
	});

	it('other methods are 405 and told which there are', async () => {
		for (const method of ['PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'PROPFIND']) {
			const { status, headers } = await send(url, '/f', { method });
			expect([status, headers.allow]).to.deep.equal([405, 'GET, HEAD, POST']);
		}
	});

	it('a reader during overwrites sees one version, whole', async () => {
		const versions = ['a', 'b'].map((letter) => Buffer.alloc(3_000_000, letter));
		await store(url, '/changing', versions[0] ?? '');
		let writing = true;
		const readers = Array.from({ length: 4 }, async () => {
			let reads = 0;
			while (writing || reads === 0) {
				const { status, body } = await get({}, '/changing');
				expect([status, versions.some((version) => version.equals(body))]).to.deep.equal([200, true]);
				reads++;
			}
		});
		for (let round = 1; round <= 8; round++) await store(url, '/changing', versions[round % 2] ?? '');
		writing = false;
		await Promise.all(readers);
	});

	it('a file that was overwritten while it is sent stays the one it was', async () => {
		await store(url, '/held', Buffer.alloc(30_000_000, 'a'));
		const client = await raw(url, 'GET /held HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
		client.socket.pause();
		await store(url, '/held', Buffer.alloc(30_000_000, 'b'));
		client.socket.resume();
		const [, body = ''] = (await client.all).split('\r\n\r\n');
		expect([body.length, new Set(body).size]).to.deep.equal([30_000_000, 1]);
	});

	it('brings back what only the store has, with the same ETag', async () => {
		const large = randomBytes(5_000_000);
		await send(url, '/cold/art%C3%A9fact', { method: 'POST', headers: FORM, body: form(file(large)) });
		const warm = await get({}, '/cold/art%C3%A9fact');
		for (const stage of ['encrypt', 'upload']) expect((await s3proxy(served.root, [stage])).code).to.equal(0);
		const local = join(served.root, 'uploads/cold');
		rmSync(local, { recursive: true });
		const cold = await get({}, '/cold/art%C3%A9fact');
		expect([cold.status, cold.body.equals(large)]).to.deep.equal([200, true]);
		expect([cold.headers.etag, cold.headers['last-modified']]).to.deep.equal([
			warm.headers.etag,
			warm.headers['last-modified'],
		]);
		expect(statSync(join(local, 'artéfact')).size).to.equal(large.length);
		expect(treeOf(served.root, 'to_decrypt').filter((name) => !name.endsWith('/'))).to.deep.equal([]);
		rmSync(local, { recursive: true });
		const head = await send(url, '/cold/art%C3%A9fact', { method: 'HEAD' });
		expect([head.status, head.headers.etag]).to.deep.equal([200, warm.headers.etag]);
	});

	it('several requests on one connection are answered in order', async () => {
		const client = await raw(
			url,
			`${'GET /f HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(3)}${postHead('/last', form(file('x')).length, 'Connection: close\r\n')}`,
		);
		client.socket.write(form(file('x')));
		const statuses = [...(await client.all).matchAll(/HTTP\/1.1 (\d+)/g)].map(([, status]) => status);
		expect(statuses).to.deep.equal(['200', '200', '200', '201']);
		await until(() => client.socket.destroyed);
	});
});
