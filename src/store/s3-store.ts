/** Objects in an S3 bucket. */

import { Readable } from 'node:stream';
import { DeleteObjectCommand, GetObjectCommand, type GetObjectCommandOutput } from '@aws-sdk/client-s3';
import { S3proxyError } from '../errors.js';
import { AbortLink } from './abort-link.js';
import { BodyGuard } from './body-guard.js';
import type {
	GetOptions,
	ObjectHead,
	ObjectInfo,
	ObjectSource,
	ObjectStore,
	PutOptions,
	UnfinishedPut,
} from './object-store.js';
import { plainEtag } from './s3-attempt.js';
import { S3Connection, type S3Settings } from './s3-connection.js';
import { explainS3, failedFor, S3Failure } from './s3-errors.js';
import { listObjects, listUploads } from './s3-list.js';
import { abortUpload } from './s3-multipart.js';
import { putObject } from './s3-put.js';

export type { S3Settings } from './s3-connection.js';

/**
 * Talks to any server that speaks S3. Opens connections only when asked for something.
 *
 * Each request is sent up to `attempts` times. An attempt ends after `timeout` seconds without an answer (with a body: without
 * a byte going either way), so a server that accepts connections and never answers costs about `attempts * timeout` seconds
 * before `store-unreachable`. A failed put of several parts may take `timeout` more to look whether it was stored after all, and
 * five seconds to tidy up. What the answer of a lost CreateMultipartUpload would have named stays until `repair`; it holds no
 * bytes.
 */
export class S3Store implements ObjectStore {
	readonly url: string;
	readonly #connection: S3Connection;

	constructor(settings: S3Settings) {
		this.#connection = new S3Connection(settings);
		this.url = `s3://${this.#connection.bucket}`;
	}

	async head(key: string, signal?: AbortSignal): Promise<ObjectHead | undefined> {
		return await this.#connection.head(key, signal);
	}

	/**
	 * As `ObjectStore.get`. The request is retried until the answer begins; a body that breaks off is the caller's to ask for again.
	 * @throws S3proxyError `store-refused` when the range is not one of the object
	 */
	async get(key: string, options: GetOptions = {}): Promise<BodyGuard | undefined> {
		const link = new AbortLink(options.signal);
		try {
			const output = await this.#request(key, options, link);
			if (output === undefined) {
				link.release();
				return undefined;
			}
			return this.#guard(key, options, output, link);
		} catch (error) {
			link.abort();
			link.release();
			if (isAbsent(error)) return undefined;
			throw error;
		}
	}

	async put(key: string, source: ObjectSource, options: PutOptions = {}): Promise<boolean> {
		return await putObject(this.#connection, key, source, options);
	}

	async delete(key: string, signal?: AbortSignal): Promise<void> {
		const connection = this.#connection;
		try {
			await connection.call({ operation: 'DELETE', key, signal }, (client, send) =>
				client.send(new DeleteObjectCommand({ Bucket: connection.bucket, Key: key }), send),
			);
		} catch (error) {
			if (!isAbsent(error)) throw error;
		}
	}

	list(prefix: string, signal?: AbortSignal): AsyncIterable<ObjectInfo> {
		return listObjects(this.#connection, prefix, signal);
	}

	listUnfinished(prefix: string, signal?: AbortSignal): AsyncIterable<UnfinishedPut> {
		return listUploads(this.#connection, prefix, signal);
	}

	async abortUnfinished({ key, id }: UnfinishedPut, signal?: AbortSignal): Promise<void> {
		await abortUpload(this.#connection, key, id, signal);
	}

	close(): void {
		this.#connection.close();
	}

	/** Asks for the object; undefined when the version was asked for and is not the one that came. */
	async #request(key: string, options: GetOptions, link: AbortLink): Promise<GetObjectCommandOutput | undefined> {
		const connection = this.#connection;
		const { range, ifMatch } = options;
		const command = new GetObjectCommand({
			Bucket: connection.bucket,
			Key: key,
			...(range === undefined ? {} : { Range: `bytes=${range.start}-${range.end}` }),
			...(ifMatch === undefined ? {} : { IfMatch: ifMatch }),
		});
		const output = await connection.call(
			{ operation: 'GET', key, signal: link.signal, download: true },
			(client, send) => client.send(command, send),
		);
		if (ifMatch === undefined || output.ETag === undefined || plainEtag(output.ETag) === plainEtag(ifMatch))
			return output;
		// A server that does not know If-Match.
		swallow(output.Body);
		link.abort();
		return undefined;
	}

	/** Checks that what comes is what was asked for, and has it watched. */
	#guard(key: string, { range, signal }: GetOptions, output: GetObjectCommandOutput, link: AbortLink): BodyGuard {
		const { Body, ContentLength, ContentRange, $metadata } = output;
		const refuse = (what: string) => {
			swallow(Body);
			return new S3proxyError('store-refused', `GET ${this.url}/${key} (${this.#connection.endpoint}): ${what}`);
		};
		if (!(Body instanceof Readable)) throw refuse('the answer has no body');
		if (ContentLength === undefined) throw refuse('the answer does not say how long it is');
		if (range !== undefined) {
			const asked = `bytes ${range.start}-${range.end}`;
			if ($metadata.httpStatusCode !== 206) throw refuse(`the store ignores ranges (asked for ${asked})`);
			if (ContentRange?.split('/')[0] !== asked || ContentLength !== range.end - range.start + 1) {
				throw refuse(`asked for ${asked}, the store sends ${ContentRange} (${ContentLength} bytes)`);
			}
		} else if ($metadata.httpStatusCode !== 200) {
			throw refuse(`status ${$metadata.httpStatusCode} instead of 200`);
		}
		return new BodyGuard(Body, {
			expected: ContentLength,
			timeoutMs: this.#connection.timeoutMs,
			fail: (what, cause) => {
				if (signal?.aborted !== true) return this.#failure(key, what, cause);
				return new S3proxyError('stopping', `GET ${this.url}/${key}: stopped`, { cause: signal.reason });
			},
			release: () => {
				// Closes the connection unless the body was read to its end.
				link.abort();
				link.release();
			},
		});
	}

	#failure(key: string, what: string, cause: unknown): S3proxyError {
		const request = this.#connection.requestOf({ operation: 'GET', key });
		const explained = cause === undefined ? undefined : explainS3(cause, request);
		const why = explained instanceof S3Failure ? ` (${explained.reason})` : '';
		return new S3proxyError(
			'store-unreachable',
			`GET ${request.subject} (${request.endpoint}): ${what}${why}`,
			cause === undefined ? {} : { cause },
		);
	}
}

/** No such object, or not this version of it. */
function isAbsent(error: unknown): boolean {
	return failedFor(error, 'NoSuchKey') || (error instanceof S3Failure && error.status === 412);
}

/** Drops a body that nobody will read. */
function swallow(body: unknown): void {
	if (!(body instanceof Readable)) return;
	body.on('error', () => {});
	body.destroy();
}
