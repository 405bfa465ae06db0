import { existsSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { makeDirectory, makeRoot, s3proxy, treeOf } from '../support/cli.ts';
import { needs } from '../support/needs.ts';
import { config, file, form, postHead, raw, send, serve, serveHere, store, until } from '../support/serve.ts';

const body = form(file(Buffer.alloc(200_000, 'x')));
const half = body.subarray(0, 100_000);
const rest = body.subarray(100_000);

describe('serve stops', () => {
	const staged = (root: string) => treeOf(root, 'uploading').some((name) => name.includes('.s3proxy-'));

	for (const signal of ['SIGTERM', 'SIGINT'] as const) {
		it(`after ${signal}, when the upload under way is stored; others are refused`, async () => {
			const { url, root, child, log, stop } = await serve({ root: makeRoot({ config: config() }) });
			const idle = await raw(url, 'GET /x-iv HTTP/1.1\r\nHost: x\r\n\r\n');
			await until(() => idle.received().includes('400'));
			const fresh = await raw(url);
			const upload = await raw(url, Buffer.concat([Buffer.from(postHead('/f', body.length)), half]));
			await until(() => staged(root));
			child.kill(signal);
			await until(() => log().includes(signal));
			await idle.all;
			fresh.socket.write('GET /f HTTP/1.1\r\nHost: x\r\n\r\n');
			expect(await fresh.all).to.match(/^HTTP\/1.1 503 .*Connection: close.*Retry-After: 5.*shutting down/is);
			expect(await send(url, '/f').catch((error: Error) => error)).to.have.property('code', 'ECONNREFUSED');
			upload.socket.write(rest);
			expect(await upload.all).to.match(/^HTTP\/1.1 201 .*Connection: close/s);
			await until(() => child.exitCode !== null);
			expect(treeOf(root, 'uploads')).to.deep.equal(['f']);
			expect(log()).to.match(/stopped\n$/);
			await stop();
		});
	}

	it('at once when nothing is under way, although connections are open', async () => {
		const { url, child, stop } = await serve({ root: makeRoot({ config: config() }) });
		const [silent, begun] = [await raw(url), await raw(url, 'GET / HT')];
		expect((await stop()).code).to.equal(child.exitCode);
		expect([await silent.all, await begun.all]).to.deep.equal(['', '']);
	});

	it('and abandons an upload that takes too long: nothing is left of it', async () => {
		const { url, root, stop } = await serveHere(makeRoot({ config: config() }), { graceMs: 1 });
		const upload = await raw(url, Buffer.concat([Buffer.from(postHead('/deep/f', body.length)), half]));
		await until(() => staged(root));
		await stop();
		expect(treeOf(root, 'uploading')).to.deep.equal([]);
		expect(await upload.all).to.equal('');
	});

	it('and takes nothing new from the moment the context says so', async () => {
		const { url, stopping, stop } = await serveHere(makeRoot({ config: config() }));
		stopping.abort();
		for (const answer of [await store(url, '/f', 'x'), await send(url, '/f')]) {
			expect([answer.status, answer.headers['retry-after'], answer.headers.connection]).to.deep.equal([
				503,
				'5',
				'close',
			]);
		}
		await stop();
	});
});

describe('serve listens', () => {
	const fails = async (listen: string) => {
		const root = makeRoot({ config: config().replace('127.0.0.1:0', JSON.stringify(listen)) });
		return s3proxy(root, ['serve']);
	};

	it('on IPv6 too', async function () {
		const addresses = Object.values(networkInterfaces()).flatMap((all) => all ?? []);
		const hasLoopback6 = addresses.some(({ address }) => address === '::1');
		needs(this, hasLoopback6, 'an IPv6 loopback address');
		const root = makeRoot({ config: config().replace('127.0.0.1:0', '"[::1]:0"') });
		const served = await serve({ root });
		expect(served.url).to.match(/^http:\/\/\[::1\]:\d+$/);
		await served.stop();
	});

	it('nowhere when somebody else does: exit code 3 and a hint', async () => {
		const { url } = await serve();
		const { code, stderr } = await fails(url.slice('http://'.length));
		expect([code, stderr]).to.satisfy(
			() => code === 3 && /cannot listen on .*EADDRINUSE.*\nAnother process/s.test(stderr),
			stderr,
		);
	});

	for (const listen of ['127.0.0.1:99999', '192.0.2.1:1234', '/does/not/exist/socket', `/tmp/${'x'.repeat(200)}`]) {
		it(`not on ${listen.slice(0, 40)}: exit code 3`, async () => {
			const { code, stderr } = await fails(listen);
			expect([code, stderr]).to.satisfy(() => code === 3 && /cannot listen on/.test(stderr), `${code} ${stderr}`);
		});
	}

	describe('on a unix socket', () => {
		const ask = (path: string) =>
			new Promise<string>((resolve, reject) => {
				const socket = connect(path);
				let text = '';
				socket.on('data', (chunk) => {
					text += chunk;
				});
				socket.on('error', reject);
				socket.on('close', () => resolve(text));
				socket.write('GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
			});

		it('and removes it in the end', async () => {
			const root = makeRoot({ config: config().replace('127.0.0.1:0', './socket') });
			const { url, stop } = await serve({ root });
			expect(url).to.equal(`unix:${root}/socket`);
			expect(await ask(join(root, 'socket'))).to.match(/^HTTP\/1.1 404 /);
			await stop();
			expect(existsSync(join(root, 'socket'))).to.equal(false);
		});

		it('that a killed process left behind', async () => {
			const root = makeRoot({ config: config().replace('127.0.0.1:0', './socket') });
			const first = await serve({ root });
			first.child.kill('SIGKILL');
			await until(() => first.child.signalCode !== null);
			expect(existsSync(join(root, 'socket'))).to.equal(true);
			const { stop } = await serve({ root });
			expect(await ask(join(root, 'socket'))).to.match(/^HTTP\/1.1 404 /);
			await stop();
		});

		it('but not on one that is in use, nor in place of a file', async () => {
			const path = join(makeDirectory(), 'socket');
			const other = createServer().listen(path);
			await until(() => other.listening);
			expect((await fails(path)).code).to.equal(3);
			expect(existsSync(path)).to.equal(true);
			other.close();
			writeFileSync(path, 'a file');
			expect((await fails(path)).code).to.equal(3);
			expect(existsSync(path)).to.equal(true);
		});
	});
});
