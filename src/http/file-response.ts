/** Sends an artifact itself, with the headers that nginx gives it. */

import type { IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { S3proxyError } from '../errors.js';
import { readChunks } from '../fs/chunks.js';
import type { OpenArtifact } from '../state/artifacts.js';
import { answerProblem } from './answer.js';
import type { Exchange } from './exchange.js';
import { evaluate, type Range, rangeOf, type Validators, validatorsOf } from './preconditions.js';

/** Answers with the file or what the request's conditions make of it, and closes it, whatever happens. */
export async function sendFile(exchange: Exchange, artifact: OpenArtifact): Promise<void> {
	try {
		await answerWith(exchange, artifact);
	} finally {
		await artifact.handle.close();
	}
}

async function answerWith(exchange: Exchange, artifact: OpenArtifact): Promise<void> {
	const { request, response } = exchange;
	const { size } = artifact.stats;
	const validators = validatorsOf(artifact.stats);
	const verdict = evaluate(request.headers, validators);
	if (verdict === 'failed') {
		return answerProblem(exchange, { status: 412, line: 'the artifact is not the version that the request names' });
	}
	setCommonHeaders(response, validators);
	if (verdict === 'not-modified') {
		response.writeHead(304).end();
		return;
	}
	// Ranges are defined for GET only.
	const range = request.method === 'GET' ? rangeOf(request.headers, validators, size) : undefined;
	if (range === 'unsatisfiable') {
		const headers = { 'Content-Range': `bytes */${size}` };
		return answerProblem(exchange, { status: 416, line: `the artifact has ${size} bytes`, headers });
	}
	writeHead(response, size, range);
	const { start, end } = range ?? { start: 0, end: size - 1 };
	if (request.method === 'HEAD' || end < start) response.end();
	else await stream(exchange, artifact, { start, end });
}

function setCommonHeaders(response: ServerResponse, { etag, lastModified }: Validators): void {
	response.setHeader('ETag', etag);
	response.setHeader('Last-Modified', lastModified);
	response.setHeader('Accept-Ranges', 'bytes');
}

function writeHead(response: ServerResponse, size: number, range: Range | undefined): void {
	// Artifacts are anything that anybody stored: no browser is to guess that one is a page.
	response.setHeader('Content-Type', 'application/octet-stream');
	response.setHeader('X-Content-Type-Options', 'nosniff');
	if (range === undefined) {
		response.writeHead(200, { 'Content-Length': size });
		return;
	}
	const { start, end } = range;
	response.writeHead(206, { 'Content-Length': end - start + 1, 'Content-Range': `bytes ${start}-${end}/${size}` });
}

async function stream(exchange: Exchange, { handle }: OpenArtifact, { start, end }: Range): Promise<void> {
	const { context, request, response } = exchange;
	let left = end - start + 1;
	async function* counted() {
		for await (const chunk of readChunks(handle, { start, end })) {
			left -= chunk.length;
			yield chunk;
		}
	}
	cutOffWhenIdle(request, response, context.config.clientTimeout);
	try {
		await pipeline(counted, response, { end: false });
	} catch (error) {
		// The client has left; it needs no more.
		if (response.destroyed) return;
		throw error;
	}
	if (left === 0) response.end();
	// Somebody has written to the file in place. A connection that breaks off is better than an answer that looks whole.
	else throw new S3proxyError('source-changed', 'the artifact became shorter while it was sent');
}

function cutOffWhenIdle({ socket }: IncomingMessage, response: ServerResponse, seconds: number): void {
	response.setTimeout(seconds * 1000, () => socket.destroy());
}
