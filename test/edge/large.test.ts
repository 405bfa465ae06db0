import { once } from 'node:events';
import { rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { s3proxy } from '../support/cli.ts';
import { type Edge, needsEdge, replaced, slowReader, startEdge } from '../support/edge.ts';
import { LONG } from '../support/extent.ts';
import { send, store, until } from '../support/serve.ts';

const MIB = 2 ** 20;
const SIZE = LONG ? 5 * 1024 * MIB : 300 * MIB;

describe('a large artifact at the edge', () => {
	let edge: Edge;

	before(async function () {
		this.timeout(300_000);
		await needsEdge(this);
		edge = await startEdge();
		const file = join(edge.root, 'sparse');
		writeFileSync(file, 'begin');
		truncateSync(file, SIZE - 3);
		writeFileSync(file, 'end', { flag: 'a' });
		expect((await s3proxy(edge.root, ['ingest', '--move', file, 'large'])).code).to.equal(0);
	});

	after(() => edge?.stop());

	it(`${SIZE / MIB} MiB to slow clients, with the memory of Varnish flat`, async function () {
		this.timeout(600_000);
		const before = edge.varnishMemory();
		const readers = await Promise.all(Array.from({ length: 3 }, () => slowReader(edge.url, '/large')));
		const [first] = readers;
		if (first === undefined) throw new Error('no reader');
		expect([first.statusCode, first.headers['content-length']]).to.deep.equal([200, String(SIZE)]);
		// They take a little now and then; what nginx sends on meanwhile must not pile up.
		for (let round = 0; round < 50; round++) {
			for (const reader of readers) reader.read(16 * 1024);
			await sleep(10);
		}
		const slow = edge.varnishMemory().now - before.now;
		for (const reader of readers.slice(1)) reader.destroy();
		let left = SIZE - 50 * 16 * 1024;
		first.on('data', (chunk: Buffer) => {
			left -= chunk.length;
		});
		await once(first, 'end');
		const grown = edge.varnishMemory().peak - before.now;
		process.stdout.write(
			`      ${SIZE / MIB} MiB: Varnish had ${(before.now / MIB).toFixed(0)} MiB, grew by ${(slow / MIB).toFixed(1)} MiB, by ${(grown / MIB).toFixed(1)} MiB at most\n`,
		);
		expect(Math.abs(left)).to.be.at.most(50 * 16 * 1024);
		expect(grown).to.be.lessThan(48 * MIB);
	});

	it('slow readers of different artifacts do not cut one another off, though the cache could not hold them all', async function () {
		this.timeout(300_000);
		const size = 60 * MIB;
		const readers = [];
		for (let index = 0; index < 6; index++) {
			const file = join(edge.root, 'sparse');
			writeFileSync(file, '');
			truncateSync(file, size);
			expect((await s3proxy(edge.root, ['ingest', '--move', file, `slow/${index}`])).code).to.equal(0);
			readers.push(await slowReader(edge.url, `/slow/${index}`));
		}
		for (const reader of readers) {
			let received = 0;
			for await (const chunk of reader) received += (chunk as Buffer).length;
			expect(received).to.equal(size);
		}
	});

	it('a range, HEAD and conditions are answered by nginx', async () => {
		const part = await send(edge.url, '/large', { headers: { Range: 'bytes=-3' } });
		expect([part.status, part.text]).to.deep.equal([206, 'end']);
		expect(part.headers['content-range']).to.equal(`bytes ${SIZE - 3}-${SIZE - 1}/${SIZE}`);
		const head = await send(edge.url, '/large', { method: 'HEAD' });
		expect([head.status, head.headers['content-length']]).to.deep.equal([200, String(SIZE)]);
		const headers = { 'If-None-Match': head.headers.etag ?? '' };
		expect((await send(edge.url, '/large', { headers })).status).to.equal(304);
		const beyond = await send(edge.url, '/large', { headers: { Range: `bytes=${SIZE}-` } });
		expect(beyond.status).to.equal(416);
	});

	it('when it is gone from here a moment after it was, the client is told to come back; then it comes', async function () {
		this.timeout(600_000);
		const cold = await startEdge({ vcl: (text) => replaced(text, '> 8MB', '> 1KB') });
		await store(cold.url, '/f', Buffer.alloc(5000, 'x'));
		expect((await send(cold.url, '/f')).status).to.equal(200);
		for (const stage of ['encrypt', 'upload']) await s3proxy(cold.root, [stage]);
		rmSync(join(cold.root, 'uploads/f'));
		const { status, headers, text } = await send(cold.url, '/f');
		if (status === 503) {
			expect([headers['retry-after'], text]).to.deep.equal([
				'1',
				'it has to be brought back from the store. Try again.\n',
			]);
		}
		await until(async () => (await send(cold.url, '/f')).status === 200);
		expect((await send(cold.url, '/f')).body.length).to.equal(5000);
		await cold.stop();
	});

	it('evicted while the marker lives, it is brought back, and nobody is told to come again', async function () {
		this.timeout(600_000);
		const content = Buffer.alloc(9 * MIB, 'large ');
		await store(edge.url, '/evicted', content);
		for (const stage of ['encrypt', 'upload']) expect((await s3proxy(edge.root, [stage])).code).to.equal(0);
		for (let round = 0; round < 3; round++) {
			const { status, body } = await send(edge.url, '/evicted');
			expect([status, body.equals(content)]).to.deep.equal([200, true]);
			const { code, stderr } = await s3proxy(edge.root, ['evict', 'evicted']);
			expect([code, stderr]).to.deep.equal([0, '']);
		}
	});
});
