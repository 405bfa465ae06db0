/** How answers that are not a file leave: one line of text, or a problem document, also while the client still sends. */

import { type IncomingMessage, type OutgoingHttpHeaders, STATUS_CODES } from 'node:http';
import { explain, isS3proxyError, type S3proxyError } from '../errors.js';
import { describeError, type Log } from '../log.js';
import { type Exchange, isFromEdge, targetOfRequest } from './exchange.js';

/**
 * How much is still taken from a client that has its answer and sends on: ordinary clients see the answer meanwhile. More than
 * the kernel's buffers between us hold: what was in them before the answer may not be all that is read after it.
 */
const LINGER_BYTES = 64 * 2 ** 20;
export const LINGER_MS = 2000;
/** What a client that may not upload is asked for. */
const CHALLENGE = 'Bearer realm="s3proxy", Basic realm="s3proxy"';

/** One line for the client. */
export interface Answer {
	readonly status: number;
	readonly line: string;
	readonly headers?: OutgoingHttpHeaders;
}

/** Sends an answer whose body is one line of text. */
export async function answerLine(exchange: Exchange, { status, line, headers }: Answer): Promise<void> {
	await send(exchange, status, { 'Content-Type': 'text/plain; charset=utf-8', ...headers }, `${oneLine(line)}\n`);
}

/** Sends what went wrong: as text, or as a problem document (RFC 9457) to those who ask for it. Never cached. */
export async function answerProblem(exchange: Exchange, { status, line, headers }: Answer): Promise<void> {
	const all = { 'Cache-Control': 'no-store', ...headers };
	if (!wantsProblemDocument(exchange.request)) return answerLine(exchange, { status, line, headers: all });
	const problem = { type: 'about:blank', title: STATUS_CODES[status] ?? 'Error', status, detail: oneLine(line) };
	const body = `${JSON.stringify(problem)}\n`;
	await send(exchange, status, { 'Content-Type': 'application/problem+json', ...all }, body);
}

/** Sends what was thrown, with the status of the one table, and logs what an operator has to know of. */
export async function answerError(exchange: Exchange, thrown: unknown): Promise<void> {
	const { context, request, response } = exchange;
	// Without query, user and password: they are nobody's business, and may be secrets.
	const doing = `${request.method} ${targetOfRequest(request).split('?', 1)[0]}`;
	const error = explain(thrown, doing);
	const known = isS3proxyError(error);
	const { status } = known ? error.outcome : { status: 500 };
	if (status >= 500) logError(context.log, doing, status, error);
	// Too late for another status; a connection that breaks off is what tells the client.
	if (response.headersSent) {
		response.destroy();
		return;
	}
	const headers = known ? headersOf(error) : {};
	await answerProblem(exchange, { status, line: known ? describeError(error) : 'internal error', headers });
}

function headersOf({ code, outcome: { retryAfter } }: S3proxyError): OutgoingHttpHeaders {
	if (code === 'unauthorized') return { 'WWW-Authenticate': CHALLENGE };
	return retryAfter === undefined ? {} : { 'Retry-After': String(retryAfter) };
}

function logError(log: Log, request: string, status: number, error: unknown): void {
	log.error(describeError(error), { request, status });
}

/** Sends an answer. While the client is still sending its body, that is thrown away for a while, then it is cut off. */
async function send(exchange: Exchange, status: number, headers: OutgoingHttpHeaders, body: string): Promise<void> {
	const { request, response } = exchange;
	// HEAD and 304 are kept without a body by node:http.
	// Not as a string, which Node.js would join to the headers and encode them, too.
	const bytes = Buffer.from(body);
	const all = { ...headers, ...lineForEdge(request, body), 'Content-Length': bytes.length };
	if (!isBodyUnderWay(request)) {
		response.writeHead(status, all);
		response.end(bytes);
		return;
	}
	response.writeHead(status, { ...all, Connection: 'close' });
	response.flushHeaders();
	// The client has the whole answer with this. Not `end`, which would close the connection: with unread data in it the
	// kernel sends a reset, and many a client would report that instead of the answer.
	response.write(bytes);
	await discard(exchange);
	response.end();
}

/**
 * The body once more, as a header: Varnish answers a POST after it has purged the old content, and what it can carry
 * over until then is headers.
 */
function lineForEdge(request: IncomingMessage, body: string): OutgoingHttpHeaders {
	if (request.method !== 'POST' || !isFromEdge(request)) return {};
	// Node.js writes one byte for each character.
	return { 'S3proxy-Line': Buffer.from(body.trimEnd(), 'utf8').toString('latin1') };
}

/** Whether the client announced a body that has not come to its end. */
function isBodyUnderWay(request: IncomingMessage): boolean {
	return !request.complete && hasBody(request);
}

/** Whether the request has, or announces, a body. */
export function hasBody({ headers }: IncomingMessage): boolean {
	return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}

async function discard({ request, context }: Exchange): Promise<void> {
	if (request.destroyed) return;
	// Varnish reads an answer when it has sent the whole body. Cut off before, it would give its client none at all.
	const toTheEnd = isFromEdge(request);
	await new Promise<void>((resolve) => {
		let left = toTheEnd ? Number.POSITIVE_INFINITY : LINGER_BYTES;
		const timer = setTimeout(done, toTheEnd ? context.config.clientTimeout * 1000 : LINGER_MS);
		function count(chunk: Buffer) {
			left -= chunk.length;
			if (toTheEnd) timer.refresh();
			if (left < 0) done();
		}
		function done() {
			clearTimeout(timer);
			request.off('data', count).pause();
			resolve();
		}
		request.on('data', count).once('end', done).once('close', done).resume();
	});
}

function wantsProblemDocument({ headers }: IncomingMessage): boolean {
	return (headers.accept ?? '').split(',').some((range) => {
		const [type = '', ...parameters] = range.split(';').map((part) => part.trim().toLowerCase());
		return type === 'application/problem+json' && !parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter));
	});
}

/** Messages may quote what a store or a client said. */
function oneLine(text: string): string {
	return text.replace(/\p{Cc}+/gu, ' ');
}
