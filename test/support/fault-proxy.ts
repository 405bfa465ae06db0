/** An HTTP proxy in front of an S3 server that misbehaves on request. */

import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { Transform, type TransformCallback } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/**
 * - `refuse`: the connection is reset before anything is forwarded
 * - `hang`: the request is swallowed and never answered
 * - `hang-body`, `reset`, `truncate`: half of the answer's body, then nothing, a reset, an end
 * - `short`: half of the body, and a length that agrees with it
 * - `corrupt-request`, `corrupt-response`: one byte of the body is another
 * - `status`: answered with `status` and an error document of `code`, without asking the server
 * - `error-in-200`: the same, but with status 200, as S3 does when it has already begun to answer
 * - `drop-response`: the server does what it was asked, and nobody hears of it
 * - `no-range`, `other-range`, `other-version`: the answer has status 200, another Content-Range, another ETag
 */
type FaultMode =
	| 'refuse'
	| 'hang'
	| 'hang-body'
	| 'reset'
	| 'truncate'
	| 'short'
	| 'corrupt-request'
	| 'corrupt-response'
	| 'status'
	| 'error-in-200'
	| 'drop-response'
	| 'no-range'
	| 'other-range'
	| 'other-version';

export interface Fault {
	readonly mode: FaultMode;
	/** Of `METHOD /url`; default: everything. */
	readonly match?: RegExp;
	/** How many such requests go through before it begins. */
	readonly skip?: number;
	/** How often; default: always. */
	readonly count?: number;
	readonly status?: number;
	readonly code?: string;
}

export interface FaultProxy {
	readonly endpoint: string;
	/** `METHOD /url` of every request so far. */
	readonly requests: readonly string[];
	/** Connections that are open now. */
	readonly openSockets: number;
	inject(fault: Fault): void;
	/** No faults any more, no requests remembered, no connections left. */
	reset(): void;
	/** Resolves when as many connections are open as `isSo` wants. */
	sockets(isSo: (open: number) => boolean): Promise<void>;
	stop(): Promise<void>;
}

/** @param upstream URL of the server */
export async function startFaultProxy(upstream: string): Promise<FaultProxy> {
	const { hostname, port } = new URL(upstream);
	const faults: { fault: Fault; skip: number; left: number }[] = [];
	const requests: string[] = [];
	const sockets = new Set<Socket>();
	const watchers = new Set<() => void>();

	const take = (line: string): Fault | undefined => {
		const found = faults.find(({ fault, left }) => left > 0 && (fault.match ?? /^/).test(line));
		if (found === undefined || found.skip-- > 0) return undefined;
		found.left--;
		return found.fault;
	};

	const forward = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
		const line = `${incoming.method} ${incoming.url}`;
		requests.push(line);
		const fault = take(line);
		const mode = fault?.mode;
		if (mode === 'refuse') {
			incoming.socket.resetAndDestroy();
			return;
		}
		if (mode === 'hang') {
			incoming.resume();
			return;
		}
		if (fault !== undefined && (mode === 'status' || mode === 'error-in-200')) {
			incoming.resume();
			await new Promise((resolve) => incoming.once('end', resolve));
			sendError(outgoing, incoming.method === 'HEAD', fault);
			return;
		}
		const { method, url, headers } = incoming;
		const onward = request({ hostname, port, method, path: url, headers, agent: false });
		incoming.once('close', () => {
			if (!incoming.complete) onward.destroy();
		});
		outgoing.once('close', () => onward.destroy());
		const answered = new Promise<IncomingMessage>((resolve, reject) => {
			onward.once('response', resolve);
			onward.once('error', reject);
		});
		const sent = mode === 'corrupt-request' ? pipeline(incoming, flipByte(), onward) : pipeline(incoming, onward);
		sent.catch(() => onward.destroy());
		await answer(await answered, outgoing, mode);
	};

	const server = createServer((incoming, outgoing) => {
		forward(incoming, outgoing).catch(() => incoming.socket.destroy());
	});
	server.on('connection', (socket: Socket) => {
		sockets.add(socket);
		socket.once('close', () => {
			sockets.delete(socket);
			for (const watcher of watchers) watcher();
		});
		for (const watcher of watchers) watcher();
	});
	const endpoint = await listen(server);
	return {
		endpoint,
		requests,
		get openSockets() {
			return sockets.size;
		},
		inject: (fault) => {
			faults.push({ fault, skip: fault.skip ?? 0, left: fault.count ?? Number.POSITIVE_INFINITY });
		},
		reset: () => {
			faults.length = 0;
			requests.length = 0;
			for (const socket of sockets) socket.destroy();
		},
		sockets: (isSo) =>
			new Promise((resolve) => {
				const watcher = () => {
					if (!isSo(sockets.size)) return;
					watchers.delete(watcher);
					resolve();
				};
				watchers.add(watcher);
				watcher();
			}),
		stop: async () => {
			const closed = new Promise((resolve) => server.close(resolve));
			for (const socket of sockets) socket.destroy();
			await closed;
		},
	};
}

async function answer(upstream: IncomingMessage, outgoing: ServerResponse, mode: FaultMode | undefined): Promise<void> {
	if (mode === 'drop-response') {
		upstream.resume();
		await new Promise((resolve) => upstream.once('end', resolve));
		outgoing.socket?.destroy();
		return;
	}
	const headers = { ...upstream.headers };
	if (mode === 'no-range') delete headers['content-range'];
	if (mode === 'other-range') headers['content-range'] = 'bytes 0-1/1000';
	if (mode === 'other-version') headers.etag = '"0123456789abcdef0123456789abcdef"';
	if (mode === 'short') {
		const chunks: Buffer[] = [];
		for await (const chunk of upstream) if (Buffer.isBuffer(chunk)) chunks.push(chunk);
		const whole = Buffer.concat(chunks);
		const half = whole.subarray(0, whole.length >> 1);
		outgoing.writeHead(upstream.statusCode ?? 502, { ...headers, 'content-length': half.length });
		outgoing.end(half);
		return;
	}
	outgoing.writeHead(mode === 'no-range' ? 200 : (upstream.statusCode ?? 502), headers);
	if (mode === 'corrupt-response') {
		await pipeline(upstream, flipByte(), outgoing);
		return;
	}
	if (mode !== 'hang-body' && mode !== 'reset' && mode !== 'truncate') {
		await pipeline(upstream, outgoing);
		return;
	}
	const half = Math.floor(Number(upstream.headers['content-length'] ?? '2') / 2);
	let rest = half;
	outgoing.flushHeaders();
	for await (const chunk of upstream) {
		if (!Buffer.isBuffer(chunk)) break;
		const part = chunk.subarray(0, rest);
		rest -= part.length;
		await new Promise((resolve) => outgoing.write(part, resolve));
		if (rest === 0) break;
	}
	const socket = outgoing.socket;
	if (mode === 'reset') socket?.resetAndDestroy();
	if (mode === 'truncate') socket?.end();
}

function sendError(outgoing: ServerResponse, isHead: boolean, { mode, status, code }: Fault): void {
	const document = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code ?? 'InternalError'}</Code><Message>injected</Message></Error>`;
	outgoing.writeHead(mode === 'error-in-200' ? 200 : (status ?? 500), {
		'content-type': 'application/xml',
		'content-length': Buffer.byteLength(document),
	});
	outgoing.end(isHead ? undefined : document);
}

/** Changes the byte in the middle of the first chunk. */
function flipByte(): Transform {
	let done = false;
	return new Transform({
		transform(chunk: Buffer, _encoding: BufferEncoding, callback: TransformCallback) {
			if (done) return callback(null, chunk);
			done = true;
			const copy = Buffer.from(chunk);
			const middle = copy.length >> 1;
			copy[middle] = (copy[middle] ?? 0) ^ 1;
			callback(null, copy);
		},
	});
}

async function listen(server: Server): Promise<string> {
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	const address = server.address();
	if (address === null || typeof address === 'string') throw new Error('no port');
	server.unref();
	return `http://127.0.0.1:${address.port}`;
}
