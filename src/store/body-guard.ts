/** A body from a server: as many bytes as it announced, without long silence, or an error. */

import { Readable } from 'node:stream';

export interface BodyGuardOptions {
	/** Bytes that must arrive: no more, no fewer. */
	readonly expected: number;
	/** Milliseconds without a byte, while somebody waits for one, after which the body has failed. */
	readonly timeoutMs: number;
	/** The error to fail with; `cause` is what the socket said, if it said anything. */
	readonly fail: (what: string, cause?: unknown) => Error;
	/** Called once when the body has ended, failed or was destroyed; frees the connection. */
	readonly release: () => void;
}

/** Passes `source` on. The clock stands still while the reader takes its time: only the server's silence counts. */
export class BodyGuard extends Readable {
	readonly #source: Readable;
	readonly #options: BodyGuardOptions;
	#received = 0;
	#idle: NodeJS.Timeout | undefined;

	constructor(source: Readable, options: BodyGuardOptions) {
		super({ highWaterMark: 2 ** 18 });
		this.#source = source;
		this.#options = options;
		source.pause();
		source.on('data', (chunk: Buffer) => this.#take(chunk));
		source.on('end', () => this.#end());
		source.on('error', (error) => this.destroy(options.fail('the connection broke', error)));
		source.on('close', () => {
			if (!source.readableEnded) this.destroy(options.fail('the connection was closed'));
		});
	}

	override _read(): void {
		this.#idle ??= setTimeout(() => this.#silent(), this.#options.timeoutMs);
		this.#source.resume();
	}

	override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
		this.#stopClock();
		if (!this.#source.readableEnded) {
			// What the socket has to say about being destroyed interests nobody any more.
			this.#source.removeAllListeners('error');
			this.#source.on('error', () => {});
			this.#source.destroy();
		}
		this.#options.release();
		callback(error);
	}

	#take(chunk: Buffer): void {
		if (this.destroyed) return;
		this.#received += chunk.length;
		if (this.#received > this.#options.expected) {
			this.destroy(this.#options.fail(`more than the ${this.#options.expected} bytes announced arrived`));
			return;
		}
		if (this.push(chunk)) {
			this.#idle?.refresh();
			return;
		}
		this.#source.pause();
		this.#stopClock();
	}

	#end(): void {
		if (this.destroyed) return;
		this.#stopClock();
		const { expected, fail } = this.#options;
		if (this.#received === expected) this.push(null);
		else this.destroy(fail(`only ${this.#received} of ${expected} bytes arrived`));
	}

	#silent(): void {
		this.destroy(this.#options.fail(`no byte arrived for ${this.#options.timeoutMs / 1000} s`));
	}

	#stopClock(): void {
		clearTimeout(this.#idle);
		this.#idle = undefined;
	}
}
