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

/** Appends chunks to a file from its start: while some are being written, the next are collected. Holds two batches at most. */
export class ChunkWriter {
	readonly #handle: FileHandle;
	#position = 0;
	#batch: Uint8Array[] = [];
	#batchBytes = 0;
	#writing: Promise<void> = Promise.resolve();

	constructor(handle: FileHandle) {
		this.#handle = handle;
	}

	/** Resolves when more can be taken. @throws what writing an earlier chunk threw */
	async write(chunk: Uint8Array): Promise<void> {
		this.#batch.push(chunk);
		this.#batchBytes += chunk.length;
		if (this.#batchBytes >= WRITE_SIZE) await this.#flush();
	}

	/** Resolves when all that was taken is written. */
	async end(): Promise<void> {
		await this.#flush();
		await this.#writing;
	}

	/** Resolves when nothing is being written any more, whatever came of it: before the file is closed after a failure. */
	async idle(): Promise<void> {
		await this.#writing.catch(() => undefined);
	}

	async #flush(): Promise<void> {
		await this.#writing;
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
		// A short write is rare (a full disk, a signal): the rest goes the plain way, and says what is wrong.
		if (bytesWritten < total) {
			const rest = Buffer.concat(batch).subarray(bytesWritten);
			await writeAll(this.#handle, rest, this.#position);
			this.#position += rest.length;
		}
	}
}
