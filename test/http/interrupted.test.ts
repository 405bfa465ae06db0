import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { makeRoot, treeOf } from '../support/cli.ts';
import { config, FORM, file, form, postHead, raw, type Served, send, serve, store, until } from '../support/serve.ts';

const body = form(file(Buffer.alloc(200_000, 'x')));
const half = body.subarray(0, 100_000);

/** Names of the files below `directory` that a process has open. */
function openFiles(pid: number | undefined, directory: string): string[] {
	return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
		try {
			const name = readlinkSync(`/proc/${pid}/fd/${fd}`);
			return name.startsWith(directory) ? [name] : [];
		} catch {
			return [];
		}
	});
}

describe('clients that do not behave', () => {
	let served: Served;
	let url: string;

	before(async () => {
		served = await serve({
			config: config('client_timeout: 1\nmax_upload_size: 50000000\n').replace('client_timeout: 20\n', ''),
		});
		url = served.url;
	});

	const staged = () => treeOf(served.root, 'uploading').some((name) => name.includes('.s3proxy-'));
	const nothingIsLeft = () => treeOf(served.root, 'uploading').length === 0;

	for (const framing of ['Content-Length', 'chunked'] as const) {
		it(`one that goes away in the middle of an upload (${framing}) leaves nothing`, async () => {
			const chunk = Buffer.concat([Buffer.from(`${half.length.toString(16)}\r\n`), half, Buffer.from('\r\n')]);
			const client = await raw(url, postHead('/gone/deep/er', framing === 'chunked' ? undefined : body.length));
			client.socket.write(framing === 'chunked' ? chunk : half);
			await until(staged);
			client.socket.resetAndDestroy();
			await until(nothingIsLeft);
			expect(treeOf(served.root, 'uploads')).to.deep.equal([]);
			expect(treeOf(served.root, 'locks')).to.deep.equal([]);
		});
	}

	it('one that stops sending in the middle is told so, and leaves nothing', async () => {
		const client = await raw(url, Buffer.concat([Buffer.from(postHead('/short/f', body.length)), half]));
		await until(staged);
		client.socket.end();
		expect(await client.all).to.match(/^HTTP\/1.1 400 Bad Request\r\n/);
		await until(nothingIsLeft);
	});

	it('one that falls silent in the middle is cut off, and leaves nothing', async () => {
		const client = await raw(url, Buffer.concat([Buffer.from(postHead('/silent/f', body.length)), half]));
		expect(await client.all).to.equal('');
		await until(nothingIsLeft);
	});

	it('one that sends a broken chunk gets 400 and leaves nothing', async () => {
		const client = await raw(url, `${postHead('/chunk/f')}5\r\n--${'x'.repeat(3)}\r\nnonsense\r\n`);
		expect(await client.all).to.match(/^HTTP\/1.1 400 /);
		await until(nothingIsLeft);
	});

	it('one that sends headers without end gets 431, nonsense 400, no Host 400', async () => {
		const endless = await raw(url, `GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`);
		expect(await endless.all).to.match(/^HTTP\/1.1 431 .*Connection: close/s);
		expect(await (await raw(url, 'NONSENSE\r\n\r\n')).all).to.match(/^HTTP\/1.1 400 .*\r\n\r\nmalformed request\n$/s);
		expect(await (await raw(url, 'GET / HTTP/1.1\r\nConnection: close\r\n\r\n')).all).to.match(/^HTTP\/1.1 400 /);
	});

	it('one that is refused early sees the answer, although it goes on sending', async () => {
		const large = Buffer.alloc(3_000_000);
		for (const [target, headers, status] of [
			['/x-iv', FORM, 400],
			['/x', { 'Content-Type': 'text/plain' }, 415],
			['/x', { ...FORM, 'Repr-Digest': 'sha-256=x' }, 400],
		] as const) {
			const answer = await send(url, target, { method: 'POST', headers, body: large });
			expect([answer.status, answer.headers.connection]).to.deep.equal([status, 'close']);
		}
		for (const method of ['PUT', 'GET', 'DELETE']) {
			const answer = await send(url, '/x', { method, body: large, headers: { 'Content-Length': large.length } });
			expect(answer.status).to.equal(method === 'GET' ? 400 : 405);
		}
	});

	it('one that is refused and does not stop sending is cut off', async () => {
		const client = await raw(url, postHead('/x-iv', 1e9));
		const pour = () => {
			while (client.socket.write(half));
		};
		client.socket.on('drain', pour);
		pour();
		expect(await client.all).to.match(/^HTTP\/1.1 400 /);
	});

	describe('Expect: 100-continue', () => {
		const expecting = 'Expect: 100-continue\r\n';
		for (const [what, head, status] of [
			['a bad path', postHead('/x-iv', 10, expecting), 400],
			['a body that is too large', postHead('/x', 1e9, expecting), 413],
			['another type', postHead('/x', 10, expecting).replace('form-data', 'mixed'), 415],
			['a conflict', postHead('/taken/below', 10, expecting), 409],
			['another method', postHead('/x', 10, expecting).replace('POST', 'PUT'), 405],
		] as const) {
			it(`${what} is refused without asking for the body: ${status}`, async () => {
				await store(url, '/taken', 'x');
				const client = await raw(url, head);
				await until(() => client.received().endsWith('\n') && client.received().includes('\r\n\r\n'));
				expect(client.received()).to.match(new RegExp(`^HTTP/1.1 ${status} `));
				client.socket.destroy();
			});
		}

		it('what can be stored is asked for', async () => {
			const client = await raw(url, postHead('/asked', body.length, `${expecting}Connection: close\r\n`));
			await until(() => client.received() === 'HTTP/1.1 100 Continue\r\n\r\n');
			client.socket.write(body);
			expect(await client.all).to.match(/^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 201 Created\r\n/);
		});
	});

	it('one that reads slowly or leaves while it is sent a file costs no open file', async function () {
		if (!existsSync('/proc/self/fd')) this.skip();
		await store(url, '/large', Buffer.alloc(40_000_000));
		const uploads = join(served.root, 'uploads');
		const stalled = await raw(url);
		stalled.socket.pause();
		stalled.socket.write('GET /large HTTP/1.1\r\nHost: x\r\n\r\n');
		const leaving = await raw(url, 'GET /large HTTP/1.1\r\nHost: x\r\n\r\n');
		await until(() => leaving.received().length > 0);
		leaving.socket.resetAndDestroy();
		await until(() => openFiles(served.child.pid, uploads).length > 0);
		await until(() => openFiles(served.child.pid, uploads).length === 0);
		stalled.socket.destroy();
	});

	it('none of this was an error of ours', () => {
		expect(served.log()).not.to.match(/^error|internal|Unhandled/m);
	});
});

describe('an upload that waits for its turn', () => {
	it('is not taken for a silent client', async () => {
		// The lock of the path is held by somebody: the answer takes longer than the client may be silent.
		const root = makeRoot({
			config: config('client_timeout: 1\nlock_timeout: 3\n').replace('client_timeout: 20\n', ''),
		});
		const { url, stop } = await serve({ root });
		const { Layout } = await import('../../src/state/layout.ts');
		const { artifactPath } = await import('../../src/state/artifact-path.ts');
		const { mkdir } = await import('node:fs/promises');
		await mkdir(new Layout(root).lock('path', artifactPath('held')).directory, { recursive: true });
		const { status, headers, text } = await store(url, '/held', 'x');
		expect([status, headers['retry-after']], text).to.deep.equal([503, '5']);
		expect(text).to.match(/^could not lock held within 3 s/);
		await stop();
	});
});
