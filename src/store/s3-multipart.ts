/** Storing one object in parts. */

import { createHash } from 'node:crypto';
import {
	AbortMultipartUploadCommand,
	CompleteMultipartUploadCommand,
	CreateMultipartUploadCommand,
	ListPartsCommand,
	UploadPartCommand,
} from '@aws-sdk/client-s3';
import { isS3proxyError, S3proxyError } from '../errors.js';
import { AbortLink } from './abort-link.js';
import { isConflict, isStored, plainEtag, type S3Put, StartAgain, wasOurs } from './s3-attempt.js';
import { failedFor, S3Failure } from './s3-errors.js';
import { SourceReader } from './source-reader.js';

const MEBIBYTE = 2 ** 20;
const MAX_PARTS = 10_000;
const MAX_PARALLEL = 6;
/** Bytes of all parts in memory; a single part may be larger. */
const MAX_BUFFERED = 64 * MEBIBYTE;
/** Time for tidying up after a failure: SIGTERM leaves ten seconds for everything. `repair` does what was not done. */
const TIDY_MS = 5_000;

interface Plan {
	readonly partSize: number;
	readonly parts: number;
	readonly parallel: number;
}

/** How an object of `size` bytes is cut up: 10,000 parts at most, about 64 MiB in memory. */
export function planParts(size: number, wanted: number): Plan {
	const needed = Math.ceil(size / MAX_PARTS / MEBIBYTE) * MEBIBYTE;
	const partSize = Math.max(wanted, needed);
	const parallel = Math.min(MAX_PARALLEL, Math.max(1, Math.floor(MAX_BUFFERED / partSize)));
	return { partSize, parts: Math.ceil(size / partSize), parallel };
}

/** One attempt. Whatever fails, no upload is left behind as far as the store can be reached. */
export async function putParts(put: S3Put): Promise<boolean> {
	const { connection, key, options } = put;
	// Saves the way for something that would be refused at its end.
	if (options.onlyIfAbsent === true && (await connection.head(key, options.signal)) !== undefined) return false;
	const uploadId = await create(put);
	let finished = false;
	try {
		const etags = await uploadParts(put, uploadId);
		// Ceph ignores the condition on completing; this leaves it a window of milliseconds.
		if (options.onlyIfAbsent === true && (await connection.head(key, options.signal)) !== undefined) return false;
		await options.beforeCommit?.();
		finished = await complete(put, uploadId, etags);
		return finished;
	} catch (error) {
		if (failedFor(error, 'NoSuchUpload', 'InvalidPart', 'InvalidPartOrder') || isConflict(error)) {
			throw new StartAgain(error);
		}
		throw error;
	} finally {
		if (!finished) await giveUp(put, uploadId);
	}
}

async function create({ connection, key, options }: S3Put): Promise<string> {
	const call = { operation: 'CREATE UPLOAD', key, signal: options.signal };
	const { UploadId } = await connection.call(call, (client, send) =>
		client.send(
			new CreateMultipartUploadCommand({ Bucket: connection.bucket, Key: key, Metadata: { ...options.metadata } }),
			send,
		),
	);
	if (UploadId !== undefined && UploadId !== '') return UploadId;
	throw new S3proxyError(
		'store-refused',
		`CREATE UPLOAD s3://${connection.bucket}/${key}: the store gave no upload id`,
	);
}

/** Reads the source part by part and uploads several at once. @returns the parts' ETags, when all are there */
async function uploadParts(put: S3Put, uploadId: string): Promise<string[]> {
	const { source, options, connection } = put;
	const { partSize, parts, parallel } = planParts(source.size, connection.settings.partSize);
	const link = new AbortLink(options.signal);
	const reader = new SourceReader(source, link.signal);
	const etags: string[] = [];
	const spare: Buffer[] = [];
	const running = new Set<Promise<void>>();
	let failure: { readonly error: unknown } | undefined;
	const fail = (error: unknown) => {
		failure ??= { error };
		link.abort();
	};
	try {
		for (let number = 1; number <= parts && failure === undefined; number++) {
			// A buffer that has been used comes back only when its part is stored, so memory is bounded.
			const buffer = spare.pop() ?? Buffer.allocUnsafeSlow(partSize);
			const body = buffer.subarray(0, Math.min(partSize, source.size - (number - 1) * partSize));
			await reader.fill(body);
			if (number === parts) await reader.expectEnd();
			const upload = async () => {
				try {
					etags[number - 1] = await uploadPart(put, uploadId, number, body, link.signal);
					spare.push(buffer);
					put.reached(body.length);
				} catch (error) {
					fail(error);
				}
			};
			const task: Promise<void> = upload().finally(() => running.delete(task));
			running.add(task);
			if (running.size >= parallel) await Promise.race(running);
		}
	} catch (error) {
		fail(error);
	} finally {
		await Promise.all(running);
		link.release();
		await reader.close();
	}
	if (failure !== undefined) throw failure.error;
	return etags;
}

async function uploadPart(
	{ connection, key }: S3Put,
	uploadId: string,
	number: number,
	body: Buffer,
	signal: AbortSignal,
): Promise<string> {
	const call = { operation: `PUT PART ${number}`, key, signal, upload: true };
	const { ETag } = await connection.call(call, (client, send) =>
		client.send(
			new UploadPartCommand({
				Bucket: connection.bucket,
				Key: key,
				UploadId: uploadId,
				PartNumber: number,
				Body: body,
				ContentLength: body.length,
			}),
			send,
		),
	);
	if (ETag !== undefined) return ETag;
	throw new S3proxyError('store-refused', `PUT PART s3://${connection.bucket}/${key}: the store gave no ETag`);
}

/** The commit point: when this returns true, the object is visible and durable. */
async function complete(put: S3Put, uploadId: string, etags: readonly string[]): Promise<boolean> {
	const { connection, key, options } = put;
	const call = { operation: 'COMPLETE UPLOAD', key, signal: options.signal };
	try {
		await connection.call(call, (client, send) =>
			client.send(
				new CompleteMultipartUploadCommand({
					Bucket: connection.bucket,
					Key: key,
					UploadId: uploadId,
					MultipartUpload: { Parts: etags.map((ETag, index) => ({ ETag, PartNumber: index + 1 })) },
					...(options.onlyIfAbsent === true ? { IfNoneMatch: '*' } : {}),
				}),
				send,
			),
		);
		return true;
	} catch (error) {
		if (!(error instanceof S3Failure)) throw error;
		const etag = multipartEtag(etags);
		if (options.onlyIfAbsent === true && error.status === 412) return await wasOurs(put, error, etag);
		if (await answerWasLost(put, error, etag)) return true;
		// Ceph says "already in progress" (500) of an upload that is gone.
		if (error.code === 'store-unreachable' && (await isGone(put, uploadId))) throw new StartAgain(error);
		throw error;
	}
}

/** After a failure that does not tell whether the upload was completed: asks the store what it has. */
async function answerWasLost(put: S3Put, failure: S3Failure, etag: string | undefined): Promise<boolean> {
	if (failure.reason !== 'NoSuchUpload' && failure.code !== 'store-unreachable') return false;
	try {
		return await isStored(put, etag, deadlineOf(put));
	} catch (error) {
		// When the store does not say, the failure stands.
		if (isS3proxyError(error)) return false;
		throw error;
	}
}

/** Whether the store says that there is no such upload (any more). */
async function isGone(put: S3Put, uploadId: string): Promise<boolean> {
	const { connection, key } = put;
	try {
		await connection.call({ operation: 'LIST PARTS', key, signal: deadlineOf(put) }, (client, send) =>
			client.send(new ListPartsCommand({ Bucket: connection.bucket, Key: key, UploadId: uploadId, MaxParts: 1 }), send),
		);
		return false;
	} catch (error) {
		if (!isS3proxyError(error)) throw error;
		// Ceph says the latter.
		return failedFor(error, 'NoSuchUpload', 'NoSuchKey');
	}
}

/** For questions after a failure: they must not take as long as that did. */
function deadlineOf({ connection, options }: S3Put): AbortSignal {
	const deadline = AbortSignal.timeout(connection.timeoutMs);
	return options.signal === undefined ? deadline : AbortSignal.any([options.signal, deadline]);
}

/** What S3 calls an object of these parts; undefined when the parts' ETags are not MD5s. */
function multipartEtag(etags: readonly string[]): string | undefined {
	const digests = etags.map(plainEtag);
	if (!digests.every((digest) => /^[0-9a-f]{32}$/.test(digest))) return undefined;
	return `${createHash('md5')
		.update(Buffer.from(digests.join(''), 'hex'))
		.digest('hex')}-${digests.length}`;
}

/** Frees what the store holds of an upload that came to nothing; the failure that led here matters more than one in here. */
async function giveUp({ connection, key }: S3Put, uploadId: string): Promise<void> {
	const signal = AbortSignal.timeout(Math.min(TIDY_MS, connection.timeoutMs));
	try {
		await abortUpload(connection, key, uploadId, signal);
	} catch (error) {
		if (!isS3proxyError(error)) throw error;
	}
}

/** Gives up an upload; one that is gone is no error. */
export async function abortUpload(
	connection: S3Put['connection'],
	key: string,
	uploadId: string,
	signal: AbortSignal | undefined,
): Promise<void> {
	try {
		await connection.call({ operation: 'ABORT UPLOAD', key, signal }, (client, send) =>
			client.send(new AbortMultipartUploadCommand({ Bucket: connection.bucket, Key: key, UploadId: uploadId }), send),
		);
	} catch (error) {
		if (!failedFor(error, 'NoSuchUpload')) throw error;
	}
}
