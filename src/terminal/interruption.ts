/** SIGINT and SIGTERM: first take no new items, then give up the current ones, then go. */

import { constants } from 'node:os';

const ABANDON_AFTER_MS = 5_000;
const EXIT_AFTER_MS = 10_000;

export class Interruption {
	readonly #stopping = new AbortController();
	readonly #abandon = new AbortController();
	readonly #say: (line: string) => void;
	#signal: 'SIGINT' | 'SIGTERM' | undefined;

	/** @param say tells the user, on stderr */
	constructor(say: (line: string) => void) {
		this.#say = say;
		process.on('SIGINT', this.#onSignal);
		process.on('SIGTERM', this.#onSignal);
		// A file size limit (ulimit -f) then is an error of the write, which is reported; by default it kills.
		process.on('SIGXFSZ', this.#onFileTooLarge);
	}

	get stopping(): AbortSignal {
		return this.#stopping.signal;
	}

	get abandon(): AbortSignal {
		return this.#abandon.signal;
	}

	/** What a shell expects of a command that was stopped: 128 and the signal's number; undefined when none came. */
	get exitCode(): number | undefined {
		return this.#signal === undefined ? undefined : 128 + constants.signals[this.#signal];
	}

	ignore(): void {
		process.off('SIGINT', this.#onSignal);
		process.off('SIGTERM', this.#onSignal);
		process.off('SIGXFSZ', this.#onFileTooLarge);
	}

	readonly #onFileTooLarge = () => undefined;

	readonly #onSignal = (signal: NodeJS.Signals) => {
		if (this.#signal !== undefined) {
			this.#abandon.abort();
			return;
		}
		this.#signal = signal === 'SIGINT' ? 'SIGINT' : 'SIGTERM';
		this.#say(`${signal}: finishing what is under way`);
		this.#stopping.abort();
		setTimeout(() => this.#abandon.abort(), ABANDON_AFTER_MS).unref();
		setTimeout(() => process.exit(this.exitCode), EXIT_AFTER_MS).unref();
	};
}
