import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { deferred } from '../../src/http/deferred.ts';
import { keyId, s3proxy } from '../support/cli.ts';
import { EDGE_NEEDS, hasEdge, startEdge } from '../support/edge.ts';
import { LONG } from '../support/extent.ts';
import { startFaultProxy } from '../support/fault-proxy.ts';
import { needs } from '../support/needs.ts';
import { freePort, s3Server } from '../support/radosgw.ts';
import { intercept, send, serveHere, store, until } from '../support/serve.ts';

const CLIENTS = 500;
const content = randomBytes(1_000_000);

describe('what only the store has, at the edge', () => {
	before(function () {
		needs(this, hasEdge, EDGE_NEEDS);
	});

	it(`${CLIENTS} clients who want it at once cause one GET at the S3 server`, async function () {
		this.timeout(180_000);
		const server = await s3Server();
		if (server === undefined) return this.skip();
		await server.createBucket('herd');
		const proxy = await startFaultProxy(server.endpoint);
		const s3 = `s3: {endpoint: "${proxy.endpoint}", region: ${server.region}, force_path_style: true}\n`;
		const env = { AWS_ACCESS_KEY_ID: server.accessKeyId, AWS_SECRET_ACCESS_KEY: server.secretAccessKey };
		const edge = await startEdge({ config: `store: s3://herd\nfsync: false\n${s3}`, env });
		expect((await store(edge.url, '/cold', content)).status).to.equal(201);
		for (const stage of ['encrypt', 'upload']) expect((await s3proxy(edge.root, [stage], { env })).code).to.equal(0);
		rmSync(join(edge.root, 'uploads/cold'));
		await send(edge.url, '/cold', { method: 'PURGE' });
		proxy.reset();
		const answers = await Promise.all(Array.from({ length: CLIENTS }, () => send(edge.url, '/cold')));
		const right = answers.filter(({ status, body }) => status === 200 && body.equals(content)).length;
		const gets = proxy.requests.filter((line) => line.startsWith(`GET /herd/${keyId(edge.root)}/cold`));
		process.stdout.write(`      ${CLIENTS} clients, ${right} right answers, ${gets.length} GET at the S3 server\n`);
		expect([right, gets.length], proxy.requests.join('\n')).to.deep.equal([CLIENTS, 1]);
		await edge.stop();
		await proxy.stop();
	});

	/** An edge whose store gives nothing until the test says so; s3proxy runs in this process. */
	async function edgeWithGate(longPollMs: number) {
		const { promise: pass, resolve: open } = deferred<void>();
		const asked = { gets: 0 };
		const edge = await startEdge({ shimPort: await freePort() });
		expect((await s3proxy(edge.root, ['ingest', '-', 'cold'], { stdin: content })).code).to.equal(0);
		for (const stage of ['encrypt', 'upload']) expect((await s3proxy(edge.root, [stage])).code).to.equal(0);
		rmSync(join(edge.root, 'uploads/cold'));
		const shim = await serveHere(edge.root, {
			longPollMs,
			wrap: (inner) =>
				intercept(inner, {
					get: async (key, options) => {
						asked.gets++;
						const aborted = new Promise<never>((_, reject) => {
							options?.signal?.addEventListener('abort', () => reject(options.signal?.reason));
						});
						await Promise.race([pass, aborted]);
						return inner.get(key, options);
					},
				}),
		});
		await edge.untilBackend('shim', 'healthy');
		const stop = async () => {
			await edge.stop();
			await shim.stop();
		};
		return { edge, asked, open, stop };
	}

	it(`a fetch that takes ${LONG ? '90 seconds' : 'several long polls'} comes out right, for who came first and last`, async function () {
		this.timeout(180_000);
		const { edge, asked, open, stop } = await edgeWithGate(LONG ? 20_000 : 200);
		const polls = () => edge.counter('VBE.boot.shim.req');
		const began = performance.now();
		const first = Array.from({ length: 20 }, () => send(edge.url, '/cold'));
		const before = polls();
		await until(() => polls() >= before + 4);
		const last = Array.from({ length: 20 }, () => send(edge.url, '/cold'));
		if (LONG) await sleep(90_000 - (performance.now() - began));
		open();
		for (const { status, body } of await Promise.all([...first, ...last])) {
			expect([status, body.equals(content)]).to.deep.equal([200, true]);
		}
		expect(asked.gets).to.equal(1);
		await stop();
	});

	it('other artifacts are served meanwhile, and a client that leaves takes nothing with it', async () => {
		const { edge, asked, open, stop } = await edgeWithGate(20_000);
		const controller = new AbortController();
		const leaving = fetch(`${edge.url}/cold`, { signal: controller.signal }).catch(() => 'left');
		await until(() => asked.gets === 1);
		controller.abort();
		expect(await leaving).to.equal('left');
		const staying = send(edge.url, '/cold');
		expect((await store(edge.url, '/other', 'x')).status).to.equal(201);
		expect((await send(edge.url, '/other')).text).to.equal('x');
		open();
		expect((await staying).body.equals(content)).to.equal(true);
		expect(asked.gets).to.equal(1);
		await stop();
	});

	it('a POST while it is being fetched does not wait for that; all get the new one', async () => {
		const { edge, asked, open, stop } = await edgeWithGate(20_000);
		const waiting = Array.from({ length: 10 }, () => send(edge.url, '/cold'));
		await until(() => asked.gets === 1);
		expect((await store(edge.url, '/cold', 'newer')).status).to.equal(201);
		expect((await send(edge.url, '/cold')).text).to.equal('newer');
		for (const { status, text } of await Promise.all(waiting)) expect([status, text]).to.deep.equal([200, 'newer']);
		open();
		await stop();
	});
});
