/**
 * Reads and writes open files in chunks. Node.js' file streams close their file when they are destroyed, also with
 * `autoClose: false`; ours are held open for the fences.
 */

import type { FileHandle } from 'node:fs/promises';

/** Most artifacts are small, and a buffer costs by its size. */
const FIRST_READ_SIZE = 2 ** 16;
const READ_SIZE = 2 ** 20;
/** Chunks that come in smaller pieces are written together, up to this many bytes. */
const WRITE_SIZE = 2 ** 20;

/** The bytes from `start` to `end`, the last one included, or to the end of the file; each chunk is the caller's to keep. */
export async function* readChunks(
	handle: FileHandle,
	{ start, end }: { start: number; end: number } = { start: 0, end: Number.POSITIVE_INFINITY },
): AsyncGenerator<Buffer> {
	let size = FIRST_READ_SIZE;
	for (let position = start; position <= end; ) {
		const length = Math.min(size, end - position + 1);
		const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(length), 0, length, position);
		if (bytesRead === 0) return;
		if (bytesRead === size) size = READ_SIZE;
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

/**
 * Buffers that no writer has at the moment. Chunks from the network are copied into these and left to the garbage
 * collector at once: those that outlive a scavenge cost a full collection every 64 MiB.
 */
const idleBuffers: Buffer[] = [];
const IDLE_BUFFERS = 16;

/** Appends chunks to a file from its start: while one buffer is being written, the next is filled. */
export class ChunkWriter {
	readonly #handle: FileHandle;
	readonly #writeBehind: boolean;
	#unsynced = 0;
	#syncing: Promise<void> | undefined;
	#syncFailure: { error: unknown } | undefined;
	#position = 0;
	#buffer: Buffer | undefined;
	#filled = 0;
	#writing: Promise<void> = Promise.resolve();

	/** @param options.writeBehind the file will be fsynced in the end: sync what is written while the rest comes */
	constructor(handle: FileHandle, options: { writeBehind: boolean }) {
		this.#handle = handle;
		this.#writeBehind = options.writeBehind;
	}

	/** Resolves when more can be taken; `chunk` is the caller's again. @throws what writing an earlier chunk threw */
	async write(chunk: Uint8Array): Promise<void> {
		for (let taken = 0; taken < chunk.length; ) {
			this.#buffer ??= idleBuffers.pop() ?? Buffer.allocUnsafeSlow(WRITE_SIZE);
			const room = WRITE_SIZE - this.#filled;
			const part = chunk.length - taken <= room && taken === 0 ? chunk : chunk.subarray(taken, taken + room);
			this.#buffer.set(part, this.#filled);
			this.#filled += part.length;
			taken += part.length;
			if (this.#filled === WRITE_SIZE) await this.#flush();
		}
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
		if (this.#buffer === undefined) return;
		this.#writing = this.#writeOut(this.#buffer, this.#filled);
		// Whoever comes next awaits it; until then a failure must not count as unhandled.
		this.#writing.catch(() => undefined);
		this.#buffer = undefined;
		this.#filled = 0;
	}

	async #writeOut(buffer: Buffer, length: number): Promise<void> {
		try {
			await writeAll(this.#handle, buffer.subarray(0, length), this.#position);
		} finally {
			if (idleBuffers.length < IDLE_BUFFERS) idleBuffers.push(buffer);
		}
		this.#position += length;
		this.#syncBehind(length);
	}
}
