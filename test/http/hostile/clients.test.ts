import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { extentOf } from '../../support/extent.ts';
import { type Arena, answersIn, openArena } from '../../support/hostile.ts';
import { file, form, postHead, type Raw, raw, send, store, until } from '../../support/serve.ts';

const CONNECTIONS = extentOf({ fast: 1_000, long: 10_000 });
const ABORTED = extentOf({ fast: 300, long: 5_000 });
const AT_A_TIME = 50;

const body = form(file('content'));
const get = (target: string, more = '') => `GET ${target} HTTP/1.1\r\nHost: x\r\n${more}\r\n`;
const CLOSE = 'Connection: close\r\n';
const post = (target: string, content: string) => {
	const bytes = form(file(content));
	return postHead(target, bytes.length) + bytes.toString('latin1');
};

/** Random numbers from 0 to 1, the same ones for the same seed (mulberry32). */
function randomOf(seed: number): () => number {
	let state = seed;
	return () => {
		state = (state + 0x6d2b79f5) | 0;
		let mixed = Math.imul(state ^ (state >>> 15), state | 1);
		mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
		return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
	};
}

describe('hostile HTTP: clients', () => {
	let arena: Arena;
	let url: string;
	/** It takes ten seconds until they are cut off: time for all the others. */
	let slow: Raw[];

	before(async () => {
		arena = await openArena();
		url = arena.url;
		expect((await store(url, '/large', Buffer.alloc(15_000_000))).status).to.equal(201);
		slow = await Promise.all(
			['', 'G', 'GET / HTTP/1.1\r\nHost: x\r\n', 'GET / HTTP/1.1\r\nX: '].map((bytes) => raw(url, bytes)),
		);
	});

	describe('pipelining', () => {
		it('answers come in order, and a GET behind a POST gets what that stored', async () => {
			arena.tried(10);
			for (let round = 1; round <= 10; round++) {
				const content = `version ${round}`;
				const requests = [post('/p', content), get('/p'), get('/nowhere'), post('/p', 'other'), get('/p', CLOSE)];
				const client = await raw(url, requests.join(''));
				const answers = answersIn(await client.all);
				expect(answers.map(({ status }) => status)).to.deep.equal([201, 200, 404, 201, 200]);
				expect([answers[1]?.body, answers[4]?.body]).to.deep.equal([content, 'other']);
			}
			await arena.assertUnharmed('pipelining');
		});

		it('a good POST is answered so, whatever comes behind it', async () => {
			for (const nonsense of [
				'nonsense\r\n\r\n',
				'\0',
				'GET /',
				get('/', 'X: a\n b\r\n'),
				'POST / HTTP/1.1\r\nHost: x\r\n',
			]) {
				arena.tried();
				const client = await raw(url, post('/p', 'content') + nonsense);
				await until(() => client.received().includes('saved p'));
				client.socket.end();
				const [first, ...more] = answersIn(await client.all).map(({ status }) => status);
				expect([first, more], nonsense).to.satisfy(() => first === 201 && (more[0] ?? 400) === 400);
			}
			await arena.assertUnharmed('nonsense behind a POST');
		});

		it('a thousand requests at once are not worked on at once: some are answered, in order, and the connection ends', async () => {
			arena.tried();
			await store(url, '/first', 'x'.repeat(100));
			const client = await raw(url, get('/first') + get('/p').repeat(1000));
			const answers = answersIn(await client.all);
			expect(answers.length).to.be.within(32, 1001);
			expect(answers[0]?.body).to.equal('x'.repeat(100));
			for (const { status } of answers) expect(status).to.equal(200);
			await arena.assertUnharmed('a thousand requests');
		});

		it('one that leaves while the second of its requests waits costs no open file', async () => {
			for (let round = 0; round < 5; round++) {
				arena.tried();
				const client = await raw(url);
				client.socket.pause();
				client.socket.write(get('/large').repeat(3));
				await until(() => arena.served.openIn('uploads').length > 0);
				client.socket.resetAndDestroy();
				await until(() => arena.served.openIn('uploads').length === 0);
			}
			await arena.assertUnharmed('leaving');
		});
	});

	it(`${ABORTED} uploads that are aborted at random places leave nothing, or the whole file`, async () => {
		const seed = Date.now() % 2 ** 31;
		const random = randomOf(seed);
		const content = 'content of which half is never seen '.repeat(3_000);
		const abort = async (index: number) => {
			arena.tried();
			const target = `/aborted/${index % 7}/${index}`;
			const bytes = Buffer.from(post(target, content), 'latin1');
			const cut = Math.min(bytes.length, Math.floor(random() * 1.1 * bytes.length));
			const client = await raw(url, bytes.subarray(0, cut));
			if (cut === bytes.length) await until(() => client.received() !== '');
			else if (random() < 0.5) await until(() => client.socket.bytesWritten === cut);
			if (random() < 0.5) client.socket.resetAndDestroy();
			else client.socket.destroy();
		};
		for (let index = 0; index < ABORTED; index += AT_A_TIME) {
			await Promise.all(Array.from({ length: AT_A_TIME }, (_, offset) => abort(index + offset)));
			await arena.assertUnharmed(`aborted uploads up to ${index}, seed ${seed}`);
		}
		const directory = join(arena.served.root, 'uploads/aborted');
		expect(existsSync(directory), 'some came through whole').to.equal(true);
		for (const name of readdirSync(directory, { recursive: true, encoding: 'utf8' })) {
			if (/^\d\/\d/.test(name)) expect(readFileSync(join(directory, name), 'utf8'), `seed ${seed}`).to.equal(content);
		}
	});

	it('uploads of one byte now and then are not cut off, and hold up nobody', async () => {
		arena.tried(20);
		const bytes = Buffer.concat([Buffer.from(postHead('/drip', body.length, CLOSE)), body]);
		const clients = await Promise.all(Array.from({ length: 20 }, () => raw(url)));
		for (const byte of bytes) {
			for (const { socket } of clients) socket.write(Buffer.of(byte));
			await until(() => clients.every(({ socket }) => socket.writableLength === 0));
		}
		await arena.assertUnharmed('dripping');
		for (const { all } of clients) expect(answersIn(await all)[0]?.status).to.equal(201);
	});

	it(`${CONNECTIONS} idle connections hold up nobody`, async () => {
		arena.tried(CONNECTIONS);
		const idle: Raw[] = [];
		for (let index = 0; index < CONNECTIONS; index += AT_A_TIME) {
			// Of those that were used once, and those that were not.
			const first = (index / AT_A_TIME) % 2 === 0 ? get('/good') : '';
			idle.push(...(await Promise.all(Array.from({ length: AT_A_TIME }, () => raw(url, first)))));
		}
		await arena.assertUnharmed('idle connections');
		const large = await send(url, '/large');
		expect(large.body.length, large.text.slice(0, 200)).to.equal(15_000_000);
		for (const { socket } of idle) socket.destroy();
		await arena.assertUnharmed('idle connections that left');
	});

	it(`${CONNECTIONS} that connect and reset at once hold up nobody`, async () => {
		arena.tried(CONNECTIONS);
		for (let index = 0; index < CONNECTIONS; index += AT_A_TIME) {
			const clients = await Promise.all(Array.from({ length: AT_A_TIME }, () => raw(url, get('/large'))));
			for (const { socket } of clients) socket.resetAndDestroy();
		}
		await until(() => arena.served.openIn('uploads').length === 0);
		await arena.assertUnharmed('resets');
	});

	for (const [what, nonsense, status] of [
		['no HTTP', 'nonsense\r\n\r\n', 400],
		['a method that there is not', 'CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n', 405],
	] as const) {
		it(`${what}, and more behind it: the answer is not lost to a reset, and the connection is cut when it is not closed`, async () => {
			arena.tried();
			const { hostname, port } = new URL(url);
			const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
			let text = '';
			socket.on('data', (bytes: Buffer) => {
				text += bytes.toString('latin1');
			});
			socket.write(nonsense);
			await once(socket, 'end');
			expect(answersIn(text).map((answer) => answer.status)).to.deep.equal([status]);
			const send = promisify<Buffer>(socket.write.bind(socket));
			for (let times = 0; times < 20; times++) await send(Buffer.alloc(100_000, 'x'));
			// Only who writes notices that nobody is there any more.
			socket.on('error', () => undefined);
			await until(() => {
				socket.write('x');
				return socket.destroyed;
			});
			await arena.assertUnharmed(what);
		});
	}

	it('many ranges, conditions and encodings at once are one answer', async () => {
		const ranges = `bytes=${Array.from({ length: 1500 }, (_, index) => `${index}-${index}`).join()}`;
		for (const [more, status] of [
			[`Range: ${ranges}\r\n`, 200],
			['Range: bytes=0-18446744073709551616\r\n', 206],
			['Range: bytes=-99999999999999999999999\r\n', 206],
			['Range: bytes=99999999999999999999-\r\n', 416],
			['Range: bytes=--1\r\n', 200],
			['Range: bytes=1-0\r\n', 200],
			[`If-None-Match: ${'"x",'.repeat(3000)}"y"\r\n`, 200],
			[`If-None-Match: ${'W/'.repeat(6000)}\r\n`, 200],
			[`If-Modified-Since: ${'9'.repeat(5000)}\r\n`, 200],
			[`Accept: ${'application/problem+json;'.repeat(500)}\r\n`, 200],
			['Accept-Encoding: gzip, br, *;q=0\r\n', 200],
		] as const) {
			expect(await arena.attack(get('/good', more + CLOSE)), more.slice(0, 60)).to.deep.equal([status]);
		}
		await arena.assertUnharmed('ranges');
	});

	it('those that do not come to the end of their headers are told so after ten seconds', async () => {
		arena.tried(slow.length);
		for (const { all } of slow) expect(answersIn(await all).map(({ status }) => status)).to.deep.equal([408]);
		await arena.assertUnharmed('slow headers');
	});

	describe('afterwards', () => {
		it('none of it was an error, and memory stayed flat', async () => {
			expect(await arena.close('hostile HTTP, clients')).to.be.below(extentOf({ fast: 300, long: 800 }));
		});
	});
});
