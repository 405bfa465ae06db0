/** The content of a form's file field: from busboy, and around it where the bytes are known to be nothing but content. */

import { Readable, type Writable } from 'node:stream';

/** What waits for the disk: so many chunks as they came, of 64 KiB at most each. */
const BUFFERED_CHUNKS = 8;

export class FileContent {
	readonly #parser: Writable;
	readonly #part: Readable;
	readonly #chunks: Readable;
	#delimited = false;

	/**
	 * @param parser busboy
	 * @param part the stream that it has made for this field
	 * @param onRoom called when more can be taken
	 */
	constructor(parser: Writable, part: Readable, onRoom: () => void) {
		this.#parser = parser;
		this.#part = part;
		// Of objects: a stream of bytes joins what it holds when it is read, which is one more copy of everything.
		this.#chunks = new Readable({ objectMode: true, highWaterMark: BUFFERED_CHUNKS, read: onRoom });
		this.#chunks.on('error', () => undefined);
		part.on('data', (chunk: Buffer) => this.#chunks.push(chunk));
		part.once('end', () => {
			this.#chunks.push(null);
			// A stream that has its end never asks for more, but the form goes on.
			onRoom();
		});
	}

	get chunks(): AsyncIterable<Uint8Array> {
		return this.#chunks;
	}

	get isFull(): boolean {
		return this.#chunks.readableLength >= BUFFERED_CHUNKS;
	}

	/** Takes content that has no delimiter in it. @returns false while earlier bytes are still with busboy: give it these too */
	take(bytes: Buffer): boolean {
		if (this.#delimited || this.#parser.writableLength > 0 || this.#part.readableLength > 0) return false;
		this.#chunks.push(bytes);
		return true;
	}

	/** A delimiter has come: what follows is not this field's, and busboy is to see the end. */
	delimit(): void {
		this.#delimited = true;
	}

	/** Whoever reads it gets `error`. */
	stop(error: unknown): void {
		this.#chunks.destroy(error instanceof Error ? error : new Error(String(error)));
	}
}
