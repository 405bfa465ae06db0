/** `POST /path/to/file`: stores the file of a form. */

import { purge } from '../edge/purge.js';
import { Ingest, type Stored } from '../operations/ingest.js';
import { tooLarge } from '../operations/received-content.js';
import { type ArtifactPath, artifactPathOfTarget, targetOf } from '../state/artifact-path.js';
import type { Access } from './access.js';
import { answerLine } from './answer.js';
import { digestOfHeader, reprDigest, wantedDigest } from './digest.js';
import { type Exchange, isFromEdge, targetOfRequest } from './exchange.js';
import { boundaryOfRequest, ClientGone, FORM_OVERHEAD, readForm } from './multipart.js';

/**
 * @param access who may; undefined: everybody
 * @throws S3proxyError everything that an ingest throws; `unauthorized`, `bad-config` (the file of credentials), `bad-path`,
 *   `bad-form`, `not-multipart`, `too-large`. Nothing is stored then.
 */
export async function post(exchange: Exchange, access: Access | undefined): Promise<void> {
	const { context, request, response } = exchange;
	// Before anything else: who may not upload learns nothing of what is here.
	const by = access?.admit(request.headers.authorization);
	// All that can be known before the body, so that nobody sends gigabytes for nothing.
	const path = artifactPathOfTarget(targetOfRequest(request));
	const boundary = boundaryOfRequest(request);
	const header = request.headers['repr-digest'];
	const inHeader = digestOfHeader(Array.isArray(header) ? header.join(',') : header);
	const limit = context.config.maxUploadSize + FORM_OVERHEAD;
	if (Number(request.headers['content-length'] ?? 0) > limit) throw tooLarge(path, context.config.maxUploadSize);
	const ingest = await Ingest.begin(context, path);
	try {
		if (exchange.expects === 'continue') response.writeContinue();
		const stored = await receive(exchange, { ingest, path, boundary, inHeader, limit });
		// Varnish purges by itself what comes through it.
		if (!isFromEdge(request)) await purge(context, path);
		await acknowledge(exchange, stored, by);
	} catch (error) {
		await ingest.abandon();
		if (!(error instanceof ClientGone)) throw error;
		request.socket.destroy();
	}
}

interface Upload {
	readonly ingest: Ingest;
	readonly path: ArtifactPath;
	readonly boundary: string;
	/** The digest that the header named. */
	readonly inHeader: string | undefined;
	/** Bytes of the whole body. */
	readonly limit: number;
}

async function receive({ context, request }: Exchange, upload: Upload): Promise<Stored> {
	const { ingest, path, boundary, inHeader, limit } = upload;
	const { sha256 } = await readForm(request, boundary, {
		limit,
		tooLarge: () => tooLarge(path, context.config.maxUploadSize),
		idleTimeout: context.config.clientTimeout,
		onFile: (form) => ingest.receive({ hash: wantedDigest(inHeader, form.sha256) !== undefined }),
	});
	return ingest.commit({ sha256: wantedDigest(inHeader, sha256) });
}

async function acknowledge(exchange: Exchange, stored: Stored, by: string | undefined): Promise<void> {
	const { path, size, sha256 } = stored;
	exchange.context.log.info('stored', { item: path, bytes: size, by });
	const digest = sha256 === undefined ? '' : `, sha256 ${sha256}`;
	await answerLine(exchange, {
		status: 201,
		line: `saved ${path} (${size} bytes${digest})`,
		headers: {
			Location: targetOf(path),
			...(sha256 === undefined ? {} : { 'Repr-Digest': reprDigest(sha256) }),
		},
	});
}
