import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { existsSync, rmSync } from 'node:fs';
import { get as httpGet } from 'node:http';
import { join } from 'node:path';
import { expect } from 'chai';
import { deferred } from '../../src/http/deferred.ts';
import { makeRoot, s3proxy } from '../support/cli.ts';
import {
	config,
	FORM,
	file,
	form,
	intercept,
	postHead,
	raw,
	type Served,
	send,
	serve,
	serveHere,
	store,
	until,
} from '../support/serve.ts';

const EDGE = { 'S3proxy-Edge': '1' };
const content = Buffer.alloc(300_000, 'content');

/** A root whose artifact `cold` is in the bucket alone. */
async function rootWithCold(more = ''): Promise<string> {
	const root = makeRoot({ config: config(more) });
	expect((await s3proxy(root, ['ingest', '-', 'cold'], { stdin: content })).code).to.equal(0);
	for (const stage of ['encrypt', 'upload']) expect((await s3proxy(root, [stage])).code).to.equal(0);
	rmSync(join(root, 'uploads/cold'));
	return root;
}

describe('the edge', () => {
	let served: Served;

	before(async () => {
		served = await serve();
	});

	for (const method of ['GET', 'HEAD']) {
		it(`${method}: is told that the artifact is ready, and never sent it`, async () => {
			await store(served.url, '/f', 'content');
			const { status, headers, text } = await send(served.url, '/f', { method, headers: EDGE });
			expect([status, text]).to.deep.equal([503, '']);
			expect(headers).to.include({
				's3proxy-state': 'ready',
				'retry-after': '1',
				'cache-control': 'no-store',
				'content-length': '0',
			});
		});
	}

	it('is told of errors as anyone else, not to be cached, and without a state', async () => {
		await store(served.url, '/dir/f', 'x');
		for (const [target, status] of [
			['/nowhere', 404],
			['/dir', 409],
			['/x-iv', 400],
		] as const) {
			const answer = await send(served.url, target, { headers: EDGE });
			expect([answer.status, answer.headers['cache-control']]).to.deep.equal([status, 'no-store']);
			expect(answer.headers).not.to.have.property('s3proxy-state');
		}
	});

	it('is told ready when the fetch is done', async () => {
		const root = await rootWithCold();
		const { url, stop } = await serve({ root });
		const answer = await send(url, '/cold', { headers: EDGE });
		expect([answer.status, answer.headers['s3proxy-state'], answer.text]).to.deep.equal([503, 'ready', '']);
		expect(existsSync(join(root, 'uploads/cold'))).to.equal(true);
		expect((await send(url, '/cold')).body.equals(content)).to.equal(true);
		await stop();
	});

	it('POST: is told the line of the answer in a header too, byte for byte', async () => {
		const headers = { ...FORM, ...EDGE };
		const stored = await send(served.url, '/caf%C3%A9', { method: 'POST', headers, body: form(file('x')) });
		expect([stored.status, stored.text]).to.deep.equal([201, 'saved café (1 bytes)\n']);
		const line = String(stored.headers['s3proxy-line']);
		expect(Buffer.from(line, 'latin1').toString('utf8')).to.equal('saved café (1 bytes)');
		const refused = await send(served.url, '/f', { method: 'POST', headers, body: form() });
		expect(`${String(refused.headers['s3proxy-line'])}\n`).to.equal(refused.text);
		expect((await store(served.url, '/direct', 'x')).headers).not.to.have.property('s3proxy-line');
	});

	it('POST: a body that is refused early is read to its end, because the edge hears the answer after it', async () => {
		const body = form(file(Buffer.alloc(20_000_000)));
		const { socket, all } = await raw(
			served.url,
			postHead('/f', body.length, 'S3proxy-Edge: 1\r\nRepr-Digest: sha-256=:x:\r\n'),
		);
		// Fails with EPIPE if the connection is closed before.
		await new Promise<void>((resolve, reject) => {
			socket.write(body, (error) => (error ? reject(error) : resolve()));
		});
		expect(await all).to.match(/^HTTP\/1\.1 400 /);
	});

	it('only S3proxy-Edge: 1 is the edge', async () => {
		expect((await send(served.url, '/f', { headers: { 'S3proxy-Edge': '0' } })).text).to.equal('content');
	});

	it('is told pending when the store takes long; the download goes on, and the next one to ask gets it', async () => {
		const { promise: pass, resolve: open } = deferred<void>();
		let downloads = 0;
		const { url, stop, root } = await serveHere(await rootWithCold(), {
			longPollMs: 1,
			wrap: (inner) =>
				intercept(inner, {
					get: async (...call) => {
						downloads++;
						await pass;
						return inner.get(...call);
					},
				}),
		});
		for (let poll = 1; poll <= 3; poll++) {
			const answer = await send(url, '/cold', { headers: EDGE });
			expect([answer.status, answer.headers['s3proxy-state']]).to.deep.equal([503, 'pending']);
		}
		open();
		await until(() => existsSync(join(root, 'uploads/cold')));
		expect((await send(url, '/cold', { headers: EDGE })).headers['s3proxy-state']).to.equal('ready');
		expect(downloads).to.equal(1);
		await stop();
	});

	it('a POST on a path whose download hangs makes those who wait ready', async () => {
		const { promise: pass, resolve: open } = deferred<void>();
		let asked = 0;
		const { url, stop } = await serveHere(await rootWithCold(), {
			wrap: (inner) =>
				intercept(inner, {
					get: async (key, options) => {
						asked++;
						const aborted = new Promise<never>((_, reject) => {
							options?.signal?.addEventListener('abort', () => reject(options.signal?.reason));
						});
						await Promise.race([pass, aborted]);
						return inner.get(key, options);
					},
				}),
		});
		const [edge, reader] = [send(url, '/cold', { headers: EDGE }), send(url, '/cold')];
		await until(() => asked > 0);
		expect((await store(url, '/cold', 'newer')).status).to.equal(201);
		expect((await edge).headers['s3proxy-state']).to.equal('ready');
		expect((await reader).text).to.equal('newer');
		open();
		await stop();
	});
});

describe('many who want what only the store has', () => {
	it('cause one download, also when the first of them leaves', async () => {
		const CLIENTS = 50;
		const { promise: pass, resolve: open } = deferred<void>();
		let downloads = 0;
		const { url, stop } = await serveHere(await rootWithCold(), {
			wrap: (inner) =>
				intercept(inner, {
					get: async (...call) => {
						downloads++;
						await pass;
						return inner.get(...call);
					},
				}),
		});
		let arrived = 0;
		const onRequest = () => {
			arrived++;
		};
		subscribe('http.server.request.start', onRequest);
		const leaver = httpGet(`${url}/cold`, { agent: false });
		leaver.on('error', () => undefined);
		await until(() => arrived === 1);
		leaver.destroy();
		const answers = Array.from({ length: CLIENTS }, () => send(url, '/cold'));
		await until(() => arrived === CLIENTS + 1);
		unsubscribe('http.server.request.start', onRequest);
		open();
		for (const answer of await Promise.all(answers)) {
			expect([answer.status, answer.body.equals(content)]).to.deep.equal([200, true]);
		}
		expect(downloads).to.equal(1);
		await stop();
	});

	it('get it although it is evicted again at once', async () => {
		let fetches = 0;
		const root = await rootWithCold();
		const local = join(root, 'uploads/cold');
		const { url, stop } = await serveHere(root, {
			wrap: (inner) =>
				intercept(inner, {
					head: async (...call) => {
						fetches++;
						return inner.head(...call);
					},
				}),
		});
		for (let round = 0; round < 5; round++) {
			expect((await send(url, '/cold')).body.equals(content)).to.equal(true);
			rmSync(local);
		}
		expect(fetches).to.be.at.least(5);
		await stop();
	});
});
