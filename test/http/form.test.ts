import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect } from 'chai';
import fc from 'fast-check';
import { deferred } from '../../src/http/deferred.ts';
import { ClientGone, readForm } from '../../src/http/multipart.ts';
import { BOUNDARY, FORM, file, form, raw, until } from '../support/serve.ts';

/** How many chunks the sink takes before it wants to be waited for. */
const ROOM = 8;

/** What a form's file was, sent in these chunks of the transfer encoding: each comes as one event. The file begins in the first. */
async function received(chunks: readonly Buffer[], room: (request: IncomingMessage) => Promise<void>): Promise<Buffer> {
	const parts: Uint8Array[] = [];
	const { promise: fileBegun, resolve: beginFile } = deferred<void>();
	const server = createServer((request, response) => {
		const sink = {
			take: (part: Uint8Array) => parts.push(Buffer.from(part)) % ROOM !== 0,
			room: () => room(request),
			end: async () => undefined,
		};
		const options = {
			limit: 2 ** 30,
			tooLarge: () => new Error('too large'),
			idleTimeout: 60,
			onFile: () => {
				beginFile();
				return sink;
			},
		};
		readForm(request, BOUNDARY, options).then(
			() => response.end('done'),
			(error: unknown) => response.destroy(error as Error),
		);
	}).listen(0, '127.0.0.1');
	await once(server, 'listening');
	const head = `POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: ${FORM['Content-Type']}\r\nTransfer-Encoding: chunked\r\n\r\n`;
	const line = (text: string) => Buffer.from(`${text}\r\n`);
	const encoded = chunks.flatMap((chunk) => [line(chunk.length.toString(16)), chunk, line('')]);
	const { port } = server.address() as AddressInfo;
	const { all, socket } = await raw(`http://127.0.0.1:${port}`, head);
	socket.write(Buffer.concat(encoded.slice(0, 3)));
	// What comes from here on need not go through busboy.
	await fileBegun;
	socket.write(Buffer.concat([...encoded.slice(3), line('0'), line('')]));
	expect(await all).to.match(/done/);
	server.close();
	return Buffer.concat(parts);
}

function inPieces(body: Buffer, ...ends: readonly number[]): Buffer[] {
	const cuts = [0, ...ends, body.length].sort((a, b) => a - b);
	return cuts.slice(1).map((end, n) => body.subarray(cuts[n], end));
}

describe('a form', () => {
	it('is read to its end, also when the disk is waited for as the last chunk comes', async () => {
		const content = Buffer.alloc(100, 'content ');
		const body = form(file(content));
		const begin = body.indexOf('content ');
		const paused = (request: IncomingMessage) => until(() => request.isPaused());
		// Some of these are as many chunks as the disk takes at a time; the last one comes with the end of the form.
		for (let count = 1; count <= 40; count++) {
			const chunks = inPieces(body, ...Array.from({ length: count }, (_, n) => begin + 1 + n));
			expect((await received(chunks, paused)).equals(content), `${count} chunks`).to.equal(true);
		}
	});

	it('gives an empty file, and nothing of the field after it', async () => {
		const body = form(file(''), { name: 'other', content: 'field' });
		for (const chunks of [[body], inPieces(body, body.indexOf('name="other"'))]) {
			expect((await received(chunks, async () => undefined)).toString()).to.equal('');
		}
	});

	it('gives the file byte for byte, whatever it holds and however it is cut', async () => {
		const bits = fc.constantFrom('\r\n', '\r', '--', `\r\n--${BOUNDARY.slice(0, 9)}`, 'x', 'content', '\r\n-');
		const content = fc.array(bits, { maxLength: 60 }).map((parts) => Buffer.from(`x${parts.join('')}`));
		const cuts = fc.array(fc.nat(1000), { maxLength: 12 });
		await fc.assert(
			fc.asyncProperty(content, cuts, async (wanted, ends) => {
				const body = form(file(wanted), { name: 'other', content: 'field' });
				const begin = body.indexOf('\r\n\r\n') + '\r\n\r\nx'.length;
				const cutsAfter = ends.map((end) => begin + end).filter((end) => end < body.length);
				const chunks = inPieces(body, begin, ...cutsAfter).filter(({ length }) => length > 0);
				expect((await received(chunks, async () => undefined)).toString()).to.equal(wanted.toString());
			}),
			{ numRuns: 200 },
		);
	});

	it('that its client has left is not read on when the disk has room again', async () => {
		const room = deferred<void>();
		const full = deferred<void>();
		const read = deferred<{ request: IncomingMessage; error: unknown }>();
		const sink = {
			take: () => {
				full.resolve();
				return false;
			},
			room: () => room.promise,
			end: async () => undefined,
		};
		const server = createServer((request) => {
			const options = { limit: 2 ** 30, tooLarge: () => new Error('too large'), idleTimeout: 60, onFile: () => sink };
			readForm(request, BOUNDARY, options).catch((error: unknown) => read.resolve({ request, error }));
		}).listen(0, '127.0.0.1');
		await once(server, 'listening');
		const { port } = server.address() as AddressInfo;
		const head = `POST / HTTP/1.1\r\nHost: x\r\nContent-Type: ${FORM['Content-Type']}\r\nContent-Length: 1000000\r\n\r\n`;
		const { socket } = await raw(`http://127.0.0.1:${port}`, head);
		const body = form(file(Buffer.alloc(1000, 'content ')));
		socket.write(body.subarray(0, body.length - 200));
		await full.promise;
		socket.destroy();
		const { request, error } = await read.promise;
		expect(error).to.be.instanceOf(ClientGone);
		room.resolve();
		await room.promise;
		await new Promise(setImmediate);
		expect(request.isPaused()).to.equal(true);
		server.close();
	});
});
