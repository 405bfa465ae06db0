import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { addKey, makeDirectory, treeOf } from '../support/cli.ts';
import { type Edge, needsEdge, sharedEdge, startEdge } from '../support/edge.ts';
import { LONG } from '../support/extent.ts';
import { needs } from '../support/needs.ts';
import { FORM, file, form, postHead, raw, send, store, until } from '../support/serve.ts';

const MIB = 2 ** 20;

describe('uploads through the edge', () => {
	let edge: Edge;

	before(async function () {
		await needsEdge(this);
		edge = await sharedEdge();
	});

	it('sixty at once are all stored, each whole, and the memory of Varnish is bounded', async function () {
		this.timeout(600_000);
		const own = await startEdge();
		const before = own.varnishMemory().peak;
		const size = (LONG ? 12 : 4) * MIB;
		const pattern = randomBytes(MIB);
		const contentOf = (index: number) => Buffer.concat([Buffer.from(`upload ${index}\n`), Buffer.alloc(size, pattern)]);
		const answers = await Promise.all(
			Array.from({ length: 60 }, (_, index) => store(own.url, `/upload/${index}`, contentOf(index))),
		);
		for (const { status, text } of answers) expect(status, text).to.equal(201);
		for (let index = 0; index < 60; index++) {
			const { status, body } = await send(own.url, `/upload/${index}`);
			expect([status, body.equals(contentOf(index))], String(index)).to.deep.equal([200, true]);
		}
		const grown = own.varnishMemory().peak - before;
		process.stdout.write(
			`      60 uploads of ${size / MIB} MiB: Varnish grew by ${(grown / MIB).toFixed(0)} MiB at most\n`,
		);
		expect(grown).to.be.lessThan(450 * MIB);
		await own.stop();
	});

	it('an uploader that stalls is waited for, and holds up nobody', async function () {
		this.timeout(120_000);
		const body = form(file(randomBytes(3 * MIB)));
		const { socket, all } = await raw(edge.url, postHead('/stalled', body.length, 'Connection: close\r\n'));
		socket.write(body.subarray(0, MIB));
		for (let index = 0; index < 10; index++) {
			expect((await store(edge.url, `/meanwhile/${index}`, 'x')).status).to.equal(201);
			expect((await send(edge.url, `/meanwhile/${index}`)).text).to.equal('x');
		}
		if (LONG) await sleep(10_000);
		socket.write(body.subarray(MIB));
		expect(await all).to.match(/^HTTP\/1\.1 201 .*saved stalled \(3145728 bytes\)\n$/s);
		expect((await send(edge.url, '/stalled')).body.length).to.equal(3 * MIB);
	});

	it('a chunked upload, without a length, is stored', async () => {
		const body = form(file('chunked'));
		const chunked = `${body.length.toString(16)}\r\n${body.toString('latin1')}\r\n0\r\n\r\n`;
		const { all } = await raw(edge.url, `${postHead('/chunked', undefined, 'Connection: close\r\n')}${chunked}`);
		expect(await all).to.match(/^HTTP\/1\.1 201 .*saved chunked \(7 bytes\)\n$/s);
		expect((await send(edge.url, '/chunked')).text).to.equal('chunked');
	});

	it('an uploader that leaves leaves nothing, neither in the root nor in the cache', async () => {
		await store(edge.url, '/left', 'old');
		const body = form(file(randomBytes(MIB)));
		const { socket } = await raw(edge.url, postHead('/left', body.length));
		socket.write(body.subarray(0, MIB / 2));
		const staging = () => treeOf(edge.root, 'uploading').filter((name) => name.includes('.s3proxy-'));
		await until(() => staging().length > 0);
		socket.destroy();
		await until(() => staging().length === 0);
		expect((await send(edge.url, '/left')).text).to.equal('old');
	});

	it('what can be refused before the body is: 413, 415, and the connection is closed', async () => {
		const large = await raw(edge.url, postHead('/f', 2 ** 40 + 65_537));
		expect(await large.all).to.match(/^HTTP\/1\.1 413 .*connection: close.*larger than 1 TiB.*\n$/is);
		const type = { 'Content-Type': 'application/x-www-form-urlencoded', 'Content-Length': '5000000' };
		const head = Object.entries(type).map(([name, value]) => `${name}: ${value}\r\n`);
		const other = await raw(edge.url, `POST /f HTTP/1.1\r\nHost: x\r\n${head.join('')}\r\n`);
		expect(await other.all).to.match(/^HTTP\/1\.1 415 .*connection: close.*not multipart\/form-data.*\n$/is);
	});

	it('what s3proxy refuses before the body is answered in its words when the body has come', async () => {
		const headers = { ...FORM, 'Repr-Digest': 'sha-256=:x:' };
		const body = form(file(Buffer.alloc(30 * MIB)));
		const { status, text } = await send(edge.url, '/f', { method: 'POST', headers, body });
		expect([status, text]).to.deep.equal([
			400,
			'the header Repr-Digest has no well-formed sha-256=:BASE64:. Nothing was stored.\n',
		]);
	});

	it('errors come as a problem document to who asks for one', async () => {
		const headers = { ...FORM, Accept: 'application/problem+json' };
		const { status, headers: said, text } = await send(edge.url, '/f', { method: 'POST', headers, body: form() });
		expect([status, said['content-type']]).to.deep.equal([400, 'application/problem+json']);
		expect(JSON.parse(text)).to.include({ status: 400 });
	});

	it('a disk that is full: 507 in one line, also for a large upload; then it works on', async function () {
		this.timeout(120_000);
		const root = makeDirectory('suite');
		const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=40m,mode=755', 'tmpfs', root]).status === 0;
		needs(this, mounted, 'the right to mount');
		try {
			addKey(root, 'private_key');
			const full = await startEdge({ root });
			expect((await store(full.url, '/f', 'old')).status).to.equal(201);
			const { status, text, headers } = await store(full.url, '/f', Buffer.alloc(100 * MIB));
			expect([status, headers['content-type']], text).to.deep.equal([507, 'text/plain; charset=utf-8']);
			expect(text).to.match(/^storing f: no space left.*nothing half-written was kept\.\n$/);
			expect(treeOf(root, 'uploading')).to.deep.equal([]);
			expect((await send(full.url, '/f')).text).to.equal('old');
			expect((await store(full.url, '/f', 'new')).status).to.equal(201);
			expect((await send(full.url, '/f')).text).to.equal('new');
			expect(statSync(join(root, 'uploads/f')).mode & 0o777).to.equal(0o644);
			expect(readFileSync(join(root, 'uploads/f'), 'utf8')).to.equal('new');
			await full.stop();
		} finally {
			spawnSync('umount', [root]);
		}
	});
});
