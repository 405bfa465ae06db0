/** Storing one object: whole or in parts, again from the beginning when that is what helps. */

import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { explain } from '../errors.js';
import { AbortLink } from './abort-link.js';
import type { ObjectSource, PutOptions } from './object-store.js';
import { isConflict, type S3Put, StartAgain, wasOurs } from './s3-attempt.js';
import type { S3Connection } from './s3-connection.js';
import { S3Failure } from './s3-errors.js';
import { putParts } from './s3-multipart.js';
import { SourceReader } from './source-reader.js';

const FIRST_PAUSE_MS = 200;

/**
 * `ObjectStore.put`. Attempts that a repeated request cannot mend start again from `source.open()`, as often as requests are
 * tried; `beforeCommit` is then called again too.
 */
export async function putObject(
	connection: S3Connection,
	key: string,
	source: ObjectSource,
	options: PutOptions,
): Promise<boolean> {
	let reported = 0;
	for (let attempt = 1; ; attempt++) {
		let reached = 0;
		const put: S3Put = {
			connection,
			key,
			source,
			options,
			// What a lost attempt had brought there is not counted twice.
			reached: (bytes) => {
				reached += bytes;
				if (reached > reported) {
					options.onBytes?.(reached - reported);
					reported = reached;
				}
			},
		};
		try {
			return await (source.size <= connection.settings.partSize ? putWhole(put) : putParts(put));
		} catch (error) {
			if (!(error instanceof StartAgain)) throw error;
			if (attempt >= connection.settings.attempts) throw error.failure;
		}
		await pause(FIRST_PAUSE_MS * 2 ** Math.min(attempt, 5) * Math.random(), options.signal);
	}
}

async function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
	try {
		await sleep(milliseconds, undefined, signal === undefined ? {} : { signal });
	} catch (error) {
		throw explain(error, 'storing an object');
	}
}

async function putWhole(put: S3Put): Promise<boolean> {
	const { connection, key, source, options } = put;
	const body = await readWhole(source, options.signal);
	await options.beforeCommit?.();
	try {
		await connection.call({ operation: 'PUT', key, signal: options.signal, upload: true }, (client, send) =>
			client.send(
				new PutObjectCommand({
					Bucket: connection.bucket,
					Key: key,
					Body: body,
					ContentLength: body.length,
					Metadata: { ...options.metadata },
					...(options.onlyIfAbsent === true ? { IfNoneMatch: '*' } : {}),
				}),
				send,
			),
		);
	} catch (error) {
		if (options.onlyIfAbsent === true && error instanceof S3Failure && error.status === 412) {
			const etag = createHash('md5').update(body).digest('hex');
			return await wasOurs(put, error, etag);
		}
		if (isConflict(error)) throw new StartAgain(error);
		throw error;
	}
	put.reached(body.length);
	return true;
}

async function readWhole(source: ObjectSource, signal: AbortSignal | undefined): Promise<Buffer> {
	const link = new AbortLink(signal);
	const reader = new SourceReader(source, link.signal);
	try {
		const body = Buffer.allocUnsafeSlow(source.size);
		await reader.fill(body);
		await reader.expectEnd();
		return body;
	} finally {
		link.release();
		await reader.close();
	}
}
