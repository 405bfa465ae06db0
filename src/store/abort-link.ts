/** An abort signal of our own that also follows the caller's. */

/**
 * Unlike `AbortSignal.any`, it lets go of the caller's signal, which lives as long as the process: one of these is made for
 * every request.
 */
export class AbortLink {
	readonly #controller = new AbortController();
	readonly #outer: AbortSignal | undefined;
	readonly #follow = () => this.#controller.abort(this.#outer?.reason);

	constructor(outer: AbortSignal | undefined) {
		this.#outer = outer;
		if (outer?.aborted) this.#follow();
		else outer?.addEventListener('abort', this.#follow, { once: true });
	}

	get signal(): AbortSignal {
		return this.#controller.signal;
	}

	abort(): void {
		this.#controller.abort();
	}

	/** From here on the caller's signal is not followed any more. */
	release(): void {
		this.#outer?.removeEventListener('abort', this.#follow);
	}
}
