/**
 * Reads and writes open files in chunks. Node.js' file streams close their file when they are destroyed, also with
 * `autoClose: false`; ours are held open for the fences.
 */

import type { FileHandle } from 'node:fs/promises';

const READ_SIZE = 2 ** 20;
/** Chunks that come in smaller pieces are written together, up to this many bytes. */
const WRITE_SIZE = 2 ** 20;

/** The bytes from `start` to `end`, the last one included, or to the end of the file; each chunk is the caller's to keep. */
export async function* readChunks(
	handle: FileHandle,
	{ start, end }: { start: number; end: number } = { start: 0, end: Number.POSITIVE_INFINITY },
): AsyncGenerator<Buffer> {
	for (let position = start; position <= end; ) {
		const length = Math.min(READ_SIZE, end - position + 1);
		const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(length), 0, length, position);
		if (bytesRead === 0) return;
		position += bytesRead;
		yield buffer.subarray(0, bytesRead);
	}
}

/** Writes all of `content` at `position`, in however many calls that takes. */
export async function writeAll(handle: FileHandle, content: Uint8Array, position: number): Promise<void> {
	for (let written = 0; written < content.length; ) {
		const { bytesWritten } = await handle.write(content, written, content.length - written, position + written);
		written += bytesWritten;
	}
}

/** How much is written before the disk is told to begin: otherwise all of it would wait for the fsync at the end. */
const WRITE_BEHIND = 32 * 2 ** 20;

/** Appends chunks to a file from its start: while some are being written, the next are collected. Holds two batches at most. */
export class ChunkWriter {
	readonly #handle: FileHandle;
	readonly #writeBehind: boolean;
	#unsynced = 0;
	#syncing: Promise<void> | undefined;
	#syncFailure: { error: unknown } | undefined;
	#position = 0;
	#batch: Uint8Array[] = [];
	#batchBytes = 0;
	#writing: Promise<void> = Promise.resolve();

	/** @param options.writeBehind the file will be fsynced in the end: sync what is written while the rest comes */
	constructor(handle: FileHandle, options: { writeBehind: boolean }) {
		this.#handle = handle;
		this.#writeBehind = options.writeBehind;
	}

	/** Resolves when more can be taken. @throws what writing an earlier chunk threw */
	async write(chunk: Uint8Array): Promise<void> {
		this.#batch.push(chunk);
		this.#batchBytes += chunk.length;
		if (this.#batchBytes >= WRITE_SIZE) await this.#flush();
	}

	/** Resolves when all that was taken is written. @throws also what syncing an earlier part threw */
	async end(): Promise<void> {
		await this.#flush();
		await this.#writing;
		await this.#syncing;
		this.#throwSyncFailure();
	}

	/** Resolves when nothing is being written any more, whatever came of it: before the file is closed after a failure. */
	async idle(): Promise<void> {
		await this.#writing.catch(() => undefined);
		await this.#syncing;
	}

	/** The kernel tells of a failed fsync once: a later one would succeed without the data. */
	#throwSyncFailure(): void {
		if (this.#syncFailure !== undefined) throw this.#syncFailure.error;
	}

	#syncBehind(bytes: number): void {
		this.#unsynced += bytes;
		if (!this.#writeBehind || this.#unsynced < WRITE_BEHIND || this.#syncing !== undefined) return;
		this.#unsynced = 0;
		this.#syncing = this.#handle
			.datasync()
			.catch((error: unknown) => {
				this.#syncFailure = { error };
			})
			.finally(() => {
				this.#syncing = undefined;
			});
	}

	async #flush(): Promise<void> {
		await this.#writing;
		this.#throwSyncFailure();
		const batch = this.#batch;
		this.#batch = [];
		this.#batchBytes = 0;
		this.#writing = this.#writeBatch(batch);
		// Whoever comes next awaits it; until then a failure must not count as unhandled.
		this.#writing.catch(() => undefined);
	}

	async #writeBatch(batch: Uint8Array[]): Promise<void> {
		const total = batch.reduce((bytes, { length }) => bytes + length, 0);
		if (total === 0) return;
		const { bytesWritten } = await this.#handle.writev(batch, this.#position);
		this.#position += bytesWritten;
		this.#syncBehind(total);
		// A short write is rare (a full disk, a signal): the rest goes the plain way, and says what is wrong.
		if (bytesWritten < total) {
			const rest = Buffer.concat(batch).subarray(bytesWritten);
			await writeAll(this.#handle, rest, this.#position);
			this.#position += rest.length;
		}
	}
}
