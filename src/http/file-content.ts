/**
 * The content of a form's file field on its way to where it is kept: from busboy, and around it where the bytes are known to
 * be nothing but content.
 */

import type { Readable, Writable } from 'node:stream';
import { deferred } from './deferred.js';

/** Takes the content of a file. */
export interface FileSink {
	/**
	 * Takes the next bytes; they are the caller's again.
	 * @returns false when `room` is to be awaited before the next ones
	 * @throws when they are too many; the sink gets nothing more then
	 */
	take(bytes: Uint8Array): boolean;
	/** Resolves when more can be taken. */
	room(): Promise<void>;
	/** There is no more; resolves when all of it is kept. */
	end(): Promise<void>;
}

export class FileContent {
	readonly #parser: Writable;
	readonly #part: Readable;
	readonly #sink: FileSink;
	readonly #onRoom: () => void;
	readonly #kept = deferred<void>();
	#delimited = false;
	#full = false;
	#stopped = false;

	/**
	 * @param parser busboy
	 * @param part the stream that it has made for this field
	 * @param onRoom called when more can be taken
	 */
	constructor(parser: Writable, part: Readable, sink: FileSink, onRoom: () => void) {
		this.#parser = parser;
		this.#part = part;
		this.#sink = sink;
		this.#onRoom = onRoom;
		part.on('data', (chunk: Buffer) => this.#put(chunk));
		part.once('end', () => {
			if (!this.#stopped) sink.end().then(this.#kept.resolve, this.#kept.reject);
		});
	}

	/** Resolves when all of it is kept. @throws what the sink threw */
	get kept(): Promise<void> {
		return this.#kept.promise;
	}

	get isFull(): boolean {
		return this.#full;
	}

	/** Takes content that has no delimiter in it. @returns false while earlier bytes are still with busboy: give it these too */
	take(bytes: Buffer): boolean {
		if (this.#delimited || this.#parser.writableLength > 0 || this.#part.readableLength > 0) return false;
		this.#put(bytes);
		return true;
	}

	/** A delimiter has come: what follows is not this field's, and busboy is to see the end. */
	delimit(): void {
		this.#delimited = true;
	}

	/** The sink gets nothing more, not even the end, and nobody is told of room. */
	stop(): void {
		this.#stopped = true;
	}

	#put(bytes: Buffer): void {
		if (this.#stopped) return;
		try {
			if (this.#sink.take(bytes) || this.#full) return;
			this.#full = true;
			this.#sink.room().then(() => {
				this.#full = false;
				if (!this.#stopped) this.#onRoom();
			}, this.#kept.reject);
		} catch (error) {
			this.stop();
			this.#kept.reject(error);
		}
	}
}
