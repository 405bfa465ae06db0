/** Notices a client that has stopped sending. Runs only while it is the client that is waited for. */

export class IdleTimer {
	readonly #milliseconds: number;
	readonly #onIdle: () => void;
	#timer: NodeJS.Timeout | undefined;

	constructor(seconds: number, onIdle: () => void) {
		this.#milliseconds = seconds * 1000;
		this.#onIdle = onIdle;
	}

	/** A byte has come, or is waited for from now on. */
	touch(): void {
		if (this.#timer === undefined) this.#timer = setTimeout(this.#onIdle, this.#milliseconds);
		else this.#timer.refresh();
	}

	/** It is not the client's turn. */
	stop(): void {
		clearTimeout(this.#timer);
		this.#timer = undefined;
	}
}
