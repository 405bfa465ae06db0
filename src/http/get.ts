/** `GET` and `HEAD`: makes sure that the artifact is in `uploads/`, then says so to the edge or sends it to anyone else. */

import { S3proxyError } from '../errors.js';
import type { SharedFetches } from '../operations/fetch.js';
import { type ArtifactPath, artifactPathOfTarget } from '../state/artifact-path.js';
import { lookUp, type OpenArtifact, openArtifact } from '../state/artifacts.js';
import { hasBody } from './answer.js';
import { deferred } from './deferred.js';
import { closed, type Exchange, isFromEdge, targetOfRequest } from './exchange.js';
import { sendFile } from './file-response.js';

/** How often an artifact may vanish between its fetch and our opening it. */
const ATTEMPTS = 5;

export interface GetOptions {
	readonly fetches: SharedFetches;
	/** How long the edge is kept waiting for a fetch before it is told to ask again. */
	readonly longPollMs: number;
}

/** @throws S3proxyError everything that a fetch throws; `bad-path`, `bad-usage` */
export async function get(exchange: Exchange, options: GetOptions): Promise<void> {
	const path = artifactPathOfTarget(targetOfRequest(exchange.request));
	if (hasBody(exchange.request)) throw new S3proxyError('bad-usage', 'a GET or HEAD has no body here');
	if (isFromEdge(exchange.request)) return tellEdge(exchange, path, options);
	const artifact = await openOrFetch(exchange, path, options);
	if (artifact !== undefined) await sendFile(exchange, artifact);
}

/** @returns undefined when the client has not waited for it */
async function openOrFetch(
	exchange: Exchange,
	path: ArtifactPath,
	{ fetches }: GetOptions,
): Promise<OpenArtifact | undefined> {
	for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
		const artifact = await openArtifact(exchange.context.root, path);
		if (artifact !== undefined) return artifact;
		// The fetch goes on when this one leaves.
		const outcome = await Promise.race([fetches.fetch(path), closed(exchange)]);
		if (outcome === undefined) return undefined;
	}
	throw new S3proxyError('store-unreachable', `${path} is evicted again and again before it can be sent`, {
		hint: 'Try again.',
	});
}

/** The edge never gets the file from here: it is told when to ask nginx for it (contract, section 8). */
async function tellEdge(exchange: Exchange, path: ArtifactPath, options: GetOptions): Promise<void> {
	const { response } = exchange;
	const state = await stateForEdge(exchange, path, options);
	response.writeHead(503, {
		'S3proxy-State': state,
		'Retry-After': '1',
		'Cache-Control': 'no-store',
		'Content-Length': '0',
	});
	response.end();
}

async function stateForEdge(
	exchange: Exchange,
	path: ArtifactPath,
	{ fetches, longPollMs }: GetOptions,
): Promise<'ready' | 'pending'> {
	if (lookUp(exchange.context.root, path) !== undefined) return 'ready';
	const pending = deferred<'pending'>();
	const timer = setTimeout(() => pending.resolve('pending'), longPollMs);
	try {
		const ready = fetches.fetch(path).then(() => 'ready' as const);
		return await Promise.race([ready, pending.promise, closed(exchange).then(() => 'pending' as const)]);
	} finally {
		clearTimeout(timer);
	}
}
