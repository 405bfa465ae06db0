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

/** How many full buffers may wait for the disk. */
const MOST_PENDING = 2;

/** Appends chunks to a file from its start: while one buffer is being written, the next are filled. */
export class ChunkWriter {
	readonly #handle: FileHandle;
	readonly #writeBehind: boolean;
	#buffer: Buffer | undefined;
	#filled = 0;
	#position = 0;
	/** Full buffers that are not written yet, the oldest first; a failure does not reject them. */
	readonly #pending: Promise<void>[] = [];
	#unsynced = 0;
	#syncing: Promise<void> | undefined;
	/** The first write or sync that failed. It is final: the kernel tells of a failed fsync once, and a later one would succeed. */
	#failure: { error: unknown } | undefined;

	/** @param options.writeBehind the file will be fsynced in the end: sync what is written while the rest comes */
	constructor(handle: FileHandle, options: { writeBehind: boolean }) {
		this.#handle = handle;
		this.#writeBehind = options.writeBehind;
	}

	/**
	 * Copies `chunk`, which is the caller's again.
	 * @returns false when `room` is to be awaited before the next one
	 */
	take(chunk: Uint8Array): boolean {
		for (let taken = 0; taken < chunk.length; ) {
			this.#buffer ??= idleBuffers.pop() ?? Buffer.allocUnsafeSlow(WRITE_SIZE);
			const room = WRITE_SIZE - this.#filled;
			const part = chunk.length - taken <= room && taken === 0 ? chunk : chunk.subarray(taken, taken + room);
			this.#buffer.set(part, this.#filled);
			this.#filled += part.length;
			taken += part.length;
			if (this.#filled === WRITE_SIZE) this.#flush();
		}
		return this.#pending.length < MOST_PENDING && this.#failure === undefined;
	}

	/** Resolves when more can be taken. @throws what writing or syncing an earlier chunk threw */
	async room(): Promise<void> {
		while (this.#pending.length >= MOST_PENDING) await this.#pending[0];
		this.#throwFailure();
	}

	/** Resolves when all that was taken is written. @throws what writing or syncing any of it threw */
	async end(): Promise<void> {
		this.#flush();
		await this.idle();
		this.#throwFailure();
	}

	/** Resolves when nothing is being written any more, whatever came of it: before the file is closed after a failure. */
	async idle(): Promise<void> {
		await this.#pending.at(-1);
		await this.#syncing;
	}

	#throwFailure(): void {
		if (this.#failure !== undefined) throw this.#failure.error;
	}

	#flush(): void {
		if (this.#buffer === undefined) return;
		this.#pending.push(this.#writeOut(this.#buffer, this.#filled, this.#pending.at(-1)));
		this.#buffer = undefined;
		this.#filled = 0;
	}

	async #writeOut(buffer: Buffer, length: number, before: Promise<void> | undefined): Promise<void> {
		await before;
		try {
			if (this.#failure === undefined) await writeAll(this.#handle, buffer.subarray(0, length), this.#position);
			this.#position += length;
			this.#syncBehind(length);
		} catch (error) {
			this.#failure ??= { error };
		} finally {
			if (idleBuffers.length < IDLE_BUFFERS) idleBuffers.push(buffer);
			void this.#pending.shift();
		}
	}

	#syncBehind(bytes: number): void {
		this.#unsynced += bytes;
		if (!this.#writeBehind || this.#unsynced < WRITE_BEHIND || this.#syncing !== undefined) return;
		if (this.#failure !== undefined) return;
		this.#unsynced = 0;
		this.#syncing = this.#handle
			.datasync()
			.catch((error: unknown) => {
				this.#failure ??= { error };
			})
			.finally(() => {
				this.#syncing = undefined;
			});
	}
}
