/** What both ways of storing an object share: what an attempt works with, and how to find out what came of it. */

import type { ObjectMetadata, ObjectSource, PutOptions } from './object-store.js';
import type { S3Connection } from './s3-connection.js';
import { failedFor, S3Failure } from './s3-errors.js';

/** What one attempt at a put works with. */
export interface S3Put {
	readonly connection: S3Connection;
	readonly key: string;
	readonly source: ObjectSource;
	readonly options: PutOptions;
	/** Bytes that this attempt has brought to the store. */
	readonly reached: (bytes: number) => void;
}

/** This attempt is lost, but another one, from the source's beginning, may work. */
export class StartAgain extends Error {
	readonly failure: S3Failure;

	constructor(failure: S3Failure) {
		super(failure.message, { cause: failure });
		this.failure = failure;
	}
}

/** Whether somebody else was writing this very object at this moment. */
export function isConflict(error: unknown): error is S3Failure {
	return error instanceof S3Failure && (error.status === 409 || failedFor(error, 'NoSuchKey'));
}

/**
 * "There is one already", said to a repeated request, may be about what the first one stored, whose answer was lost.
 * @param etag what the store calls this content, without quotes
 */
export async function wasOurs(put: S3Put, refusal: S3Failure, etag: string | undefined): Promise<boolean> {
	return refusal.attempts > 1 && (await isStored(put, etag, put.options.signal));
}

/** Whether the store has exactly what was to be stored, as far as it tells. */
export async function isStored(
	{ connection, key, source, options }: S3Put,
	etag: string | undefined,
	signal: AbortSignal | undefined,
): Promise<boolean> {
	const head = await connection.head(key, signal);
	if (head === undefined || head.size !== source.size || !sameMetadata(head.metadata, options.metadata ?? {})) {
		return false;
	}
	const theirs = plainEtag(head.etag);
	// With some kinds of server-side encryption the ETag is not made from MD5s and proves nothing.
	return etag === undefined || !MD5_ETAG.test(theirs) || theirs === etag;
}

const MD5_ETAG = /^[0-9a-f]{32}(-\d+)?$/;

/** The hexadecimal part of an ETag. */
export function plainEtag(etag: string): string {
	return etag.replace(/^W\//, '').replaceAll('"', '').toLowerCase();
}

function sameMetadata(left: ObjectMetadata, right: ObjectMetadata): boolean {
	const names = Object.keys(left);
	return names.length === Object.keys(right).length && names.every((name) => left[name] === right[name]);
}
