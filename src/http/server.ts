/** The HTTP shim: takes connections, hands requests on, and stops without losing any. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Context } from '../context.js';
import { S3proxyError } from '../errors.js';
import { SharedFetches } from '../operations/fetch.js';
import { Access } from './access.js';
import { answerError, answerProblem, LINGER_MS } from './answer.js';
import { Connections } from './connections.js';
import { deferred } from './deferred.js';
import { closed, type Exchange, targetOfRequest } from './exchange.js';
import { assertUnambiguous } from './framing.js';
import { get } from './get.js';
import { answerHealth, HEALTH_TARGET } from './health.js';
import { isOpenToOthers, listenOn } from './listen.js';
import { post } from './post.js';

const HEADERS_TIMEOUT_MS = 10_000;
const CHECK_INTERVAL_MS = 2_000;
/** Longer than the edge keeps idle connections, so that it is not us who closes one it is about to use. */
const KEEP_ALIVE_MS = 70_000;
const METHODS = 'GET, HEAD, POST';
const SOCKET_BUFFER = 256 * 2 ** 10;
/** Default of `longPollMs`; the edge's first_byte_timeout is this and a margin. */
const LONG_POLL_MS = 20_000;
/** Default of `graceMs`. */
const GRACE_MS = 8_000;

export interface HttpServerOptions {
	/** How long the edge is kept waiting for a fetch. */
	readonly longPollMs?: number;
	/** How long `stop` waits for requests under way. */
	readonly graceMs?: number;
}

export interface Listening {
	/** For people: `http://127.0.0.1:9292` or `unix:/path`. */
	readonly address: string;
	/** Whether other machines can reach it. */
	readonly openToOthers: boolean;
}

export class HttpServer {
	readonly #context: Context;
	readonly #access: Access | undefined;
	readonly #server: Server;
	readonly #fetches: SharedFetches;
	readonly #longPollMs: number;
	readonly #graceMs: number;
	/** Requests under way. */
	readonly #running = new Map<ServerResponse, Promise<void>>();
	readonly #connections = new Connections();
	#stopping = false;

	constructor(context: Context, { longPollMs = LONG_POLL_MS, graceMs = GRACE_MS }: HttpServerOptions = {}) {
		this.#context = context;
		this.#access = context.config.auth === undefined ? undefined : new Access(context.config.auth);
		this.#fetches = new SharedFetches(context);
		this.#longPollMs = longPollMs;
		this.#graceMs = graceMs;
		this.#server = createServer({
			// Would end an upload that takes its time; silence of a client is noticed where its body is read.
			requestTimeout: 0,
			headersTimeout: HEADERS_TIMEOUT_MS,
			connectionsCheckingInterval: CHECK_INTERVAL_MS,
			keepAliveTimeout: KEEP_ALIVE_MS,
			highWaterMark: SOCKET_BUFFER,
			// We look ourselves, and say what is wrong.
			requireHostHeader: false,
		});
		this.#server.on('request', (request, response) => this.#take(request, response, 'none'));
		this.#server.on('checkContinue', (request, response) => this.#take(request, response, 'continue'));
		this.#server.on('checkExpectation', (request, response) => this.#take(request, response, 'unknown'));
		this.#server.on('connect', ({ method }, socket) => {
			endWith(socket, '405 Method Not Allowed', `there is no ${method} here`, `Allow: ${METHODS}`);
		});
		this.#server.on('clientError', (error: NodeJS.ErrnoException, socket) => this.#refuse(error, socket));
	}

	/**
	 * Begins to take connections.
	 * @throws S3proxyError `bad-config`
	 */
	async listen(): Promise<Listening> {
		const { config, root } = this.#context;
		this.#access?.check();
		const address = await listenOn(this.#server, config.listen, root.layout.root);
		return { address, openToOthers: isOpenToOthers(this.#server) };
	}

	/**
	 * Takes no more connections or requests, lets those under way finish for some seconds (until the context is abandoned,
	 * if that is sooner), cuts off the rest, and returns when nothing is under way any more, downloads included.
	 */
	async stop(): Promise<void> {
		this.#stopping = true;
		const serverClosed = new Promise((resolve) => this.#server.close(resolve));
		this.#server.closeIdleConnections();
		for (const response of this.#running.keys()) {
			if (!response.headersSent) response.setHeader('Connection', 'close');
		}
		await this.#finishOrGrace();
		this.#server.closeAllConnections();
		await Promise.all(this.#running.values());
		await this.#fetches.settled();
		await serverClosed;
	}

	async #finishOrGrace(): Promise<void> {
		const { abandon } = this.#context;
		const { promise: over, resolve: giveUp } = deferred<'over'>();
		const onAbandon = () => giveUp('over');
		const timer = setTimeout(onAbandon, this.#graceMs);
		abandon.addEventListener('abort', onAbandon, { once: true });
		if (abandon.aborted) onAbandon();
		while (this.#running.size > 0) {
			const outcome = await Promise.race([Promise.all(this.#running.values()), over]);
			if (outcome === 'over') break;
		}
		clearTimeout(timer);
		abandon.removeEventListener('abort', onAbandon);
	}

	#take(request: IncomingMessage, response: ServerResponse, expects: 'none' | 'continue' | 'unknown'): void {
		// A connection that breaks is noticed by whoever reads or writes; it must not be an uncaught error meanwhile.
		request.on('error', () => undefined);
		response.on('error', () => undefined);
		const exchange = { context: this.#context, request, response, expects };
		const answered = this.#connections.inTurn(request, response, () => this.#answer(exchange));
		const running = answered?.finally(() => {
			this.#running.delete(response);
			if (this.#stopping) this.#server.closeIdleConnections();
		});
		if (running !== undefined) this.#running.set(response, running);
	}

	/** Never rejects; resolves when the answer is out or the connection gone. */
	async #answer(exchange: Exchange): Promise<void> {
		try {
			await this.#dispatch(exchange);
		} catch (error) {
			await answerError(exchange, error).catch(() => exchange.response.destroy());
		}
		await closed(exchange);
	}

	async #dispatch(exchange: Exchange): Promise<void> {
		const { method } = exchange.request;
		if (this.#stopping || this.#context.stopping.aborted) {
			exchange.response.setHeader('Connection', 'close');
			throw new S3proxyError('stopping', 's3proxy is shutting down', { hint: 'Try again in a moment.' });
		}
		assertUnambiguous(exchange.request, exchange.response);
		if (exchange.expects === 'unknown') {
			return answerProblem(exchange, { status: 417, line: 'the only Expect that is understood is 100-continue' });
		}
		if (method === 'POST') return post(exchange, this.#access);
		if (method === 'GET' || method === 'HEAD') {
			if (targetOfRequest(exchange.request) === HEALTH_TARGET) return answerHealth(exchange);
			return get(exchange, { fetches: this.#fetches, longPollMs: this.#longPollMs });
		}
		const headers = { Allow: METHODS };
		return answerProblem(exchange, { status: 405, line: `there is no ${method} here`, headers });
	}

	/** Something that is not HTTP, or not in time. */
	#refuse({ code }: NodeJS.ErrnoException, duplex: Duplex): void {
		const socket = duplex as Socket;
		// What comes behind the last word is thrown away until the client closes, too: see `endWith`.
		if (socket.writableEnded) return;
		const fate = !socket.writable || code === 'ECONNRESET' ? 'cut' : this.#connections.afterNonsense(socket);
		if (fate === 'cut') socket.destroy();
		if (fate === 'answer') endWith(socket, ...refusalOf(code));
	}
}

/** The last that is said on a connection, where there is no request that could be answered. */
function endWith(socket: Duplex, status: string, line: string, ...headers: string[]): void {
	const body = `${line}\n`;
	const head = [
		`HTTP/1.1 ${status}`,
		'Content-Type: text/plain; charset=utf-8',
		`Content-Length: ${body.length}`,
		'Connection: close',
		...headers,
	];
	socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
	// Closed with unread data in it, the kernel would send a reset, and many a client would report that instead of the answer.
	socket.resume();
	const timer = setTimeout(() => socket.destroy(), LINGER_MS);
	socket.once('close', () => clearTimeout(timer));
}

function refusalOf(code: string | undefined): [status: string, line: string] {
	if (code === 'HPE_HEADER_OVERFLOW') return ['431 Request Header Fields Too Large', 'the headers are too large'];
	if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return ['408 Request Timeout', 'the request did not come in time'];
	return ['400 Bad Request', 'malformed request'];
}
