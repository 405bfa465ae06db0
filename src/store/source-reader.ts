/** Reads a source piece by piece, and exactly as many bytes as it said. */

import { S3proxyError } from '../errors.js';
import type { ObjectSource } from './object-store.js';

/** One reading of a source from its beginning; it is opened when the first byte is asked for. Errors of the source itself are thrown as they are. */
export class SourceReader {
	readonly #source: ObjectSource;
	#iterator: AsyncIterator<Buffer> | undefined;
	readonly #signal: AbortSignal;
	#rest: Buffer = Buffer.alloc(0);
	#taken = 0;
	#waiting = false;

	constructor(source: ObjectSource, signal: AbortSignal) {
		this.#source = source;
		this.#signal = signal;
	}

	/**
	 * Fills `buffer`.
	 * @throws S3proxyError `source-changed` when the source ends before; `stopping` when the signal is aborted
	 */
	async fill(buffer: Buffer): Promise<void> {
		for (let filled = 0; filled < buffer.length; ) {
			if (this.#rest.length === 0) {
				const chunk = await this.#next();
				if (chunk === undefined) throw this.#changed(`only ${this.#taken}`);
				this.#rest = chunk;
				continue;
			}
			const copied = this.#rest.copy(buffer, filled);
			this.#rest = this.#rest.subarray(copied);
			this.#taken += copied;
			filled += copied;
		}
	}

	/** @throws S3proxyError `source-changed` when there is more */
	async expectEnd(): Promise<void> {
		while (this.#rest.length === 0) {
			const chunk = await this.#next();
			if (chunk === undefined) return;
			this.#rest = chunk;
		}
		throw this.#changed('more');
	}

	/** Lets go of the source; never throws. Does not wait for a source that is stuck. */
	async close(): Promise<void> {
		const closed = Promise.resolve(this.#iterator?.return?.()).catch(() => undefined);
		if (!this.#waiting) await closed;
	}

	#changed(yielded: string): S3proxyError {
		return new S3proxyError(
			'source-changed',
			`the source changed while it was read: ${yielded} of ${this.#source.size} bytes came`,
		);
	}

	/** The next chunk; undefined at the end. Listens to the signal only meanwhile: it may outlive millions of chunks. */
	async #next(): Promise<Buffer | undefined> {
		const signal = this.#signal;
		const stopped = () => new S3proxyError('stopping', 'reading the source: stopped', { cause: signal.reason });
		if (signal.aborted) throw stopped();
		this.#iterator ??= this.#source.open()[Symbol.asyncIterator]();
		const iterator = this.#iterator;
		this.#waiting = true;
		let stop = () => {};
		try {
			const result = await new Promise<IteratorResult<Buffer>>((resolve, reject) => {
				stop = () => reject(stopped());
				signal.addEventListener('abort', stop, { once: true });
				iterator.next().then(
					(value) => {
						this.#waiting = false;
						resolve(value);
					},
					(error: unknown) => {
						this.#waiting = false;
						reject(error);
					},
				);
			});
			return result.done === true ? undefined : result.value;
		} finally {
			signal.removeEventListener('abort', stop);
		}
	}
}
