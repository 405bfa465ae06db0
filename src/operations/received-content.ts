/** The content of an artifact as it comes in: counted, hashed if that is wanted, and written to its staging file. */

import { createHash, type Hash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { explain, S3proxyError } from '../errors.js';
import { ChunkWriter } from '../fs/chunks.js';
import type { ArtifactPath } from '../state/artifact-path.js';

export interface ReceivedContentOptions {
	/** Bytes; more are refused. */
	readonly limit: number;
	/** Whether the SHA-256 will be wanted; without it, it can be had only by reading the file again. */
	readonly hash: boolean;
	/** Whether the file will be fsynced in the end. */
	readonly sync: boolean;
}

export class ReceivedContent {
	readonly #path: ArtifactPath;
	readonly #limit: number;
	readonly #hash: Hash | undefined;
	readonly #writer: ChunkWriter;
	#size = 0;
	#whole = false;

	constructor(path: ArtifactPath, handle: FileHandle, { limit, hash, sync }: ReceivedContentOptions) {
		this.#path = path;
		this.#limit = limit;
		this.#hash = hash ? createHash('sha256') : undefined;
		this.#writer = new ChunkWriter(handle, { writeBehind: sync });
	}

	/**
	 * Takes the next bytes; they are the caller's again.
	 * @returns false when `room` is to be awaited before the next ones
	 * @throws S3proxyError `too-large`
	 */
	take(chunk: Uint8Array): boolean {
		this.#size += chunk.length;
		if (this.#size > this.#limit) throw tooLarge(this.#path, this.#limit);
		this.#hash?.update(chunk);
		return this.#writer.take(chunk);
	}

	/** Resolves when more can be taken. @throws S3proxyError `disk-full`, `io` */
	async room(): Promise<void> {
		await this.#writer.room().catch(this.#explain);
	}

	/** Resolves when all of it is written; not yet synced. @throws S3proxyError `disk-full`, `io` */
	async end(): Promise<void> {
		await this.#writer.end().catch(this.#explain);
		this.#whole = true;
	}

	/** Resolves when nothing is being written any more, whatever came of it. */
	async idle(): Promise<void> {
		await this.#writer.idle();
	}

	/** Whether all of it is written. */
	get isWhole(): boolean {
		return this.#whole;
	}

	/** Bytes that have come. */
	get size(): number {
		return this.#size;
	}

	/** Once, after the end: lower-case hex; undefined when it was not wanted. */
	digest(): string | undefined {
		return this.#hash?.digest('hex');
	}

	readonly #explain = (error: unknown): never => {
		throw explain(error, `storing ${this.#path}`);
	};
}

export function tooLarge(path: ArtifactPath, limit: number): S3proxyError {
	return new S3proxyError('too-large', `${path}: larger than ${limit} bytes`, {
		hint: 'The limit is max_upload_size in config.yaml.',
	});
}
