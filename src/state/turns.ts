/** First come, first served, inside one process. */

import { S3proxyError } from '../errors.js';

interface Waiter {
	readonly start: () => void;
}

/** How long somebody is willing to wait. */
export interface Patience {
	readonly signal: AbortSignal;
	/** Milliseconds since the epoch; Infinity: as long as it takes. */
	readonly deadline: number;
	/** What is thrown when the deadline has passed. */
	readonly timedOut: () => S3proxyError;
}

/** Names that are taken, and who waits for each, in order. */
export class Turns {
	readonly #queues = new Map<string, Waiter[]>();

	/**
	 * Resolves when it is the caller's turn for `name`; he must call `done(name)` afterwards.
	 * @throws S3proxyError `stopping` when the signal is aborted first; what `timedOut` gives
	 */
	async take(name: string, patience: Patience): Promise<void> {
		if (patience.signal.aborted) throw stopped();
		const queue = this.#queues.get(name);
		if (queue === undefined) {
			this.#queues.set(name, []);
			return;
		}
		await new Promise<void>((resolve, reject) => {
			const leave = (error: S3proxyError) => {
				queue.splice(queue.indexOf(waiter), 1);
				settle();
				reject(error);
			};
			const onAbort = () => leave(stopped());
			const timer = Number.isFinite(patience.deadline)
				? setTimeout(() => leave(patience.timedOut()), Math.max(0, patience.deadline - Date.now()))
				: undefined;
			const settle = () => {
				clearTimeout(timer);
				patience.signal.removeEventListener('abort', onAbort);
			};
			const waiter: Waiter = {
				start: () => {
					settle();
					resolve();
				},
			};
			queue.push(waiter);
			patience.signal.addEventListener('abort', onAbort, { once: true });
		});
	}

	/** Passes the turn on. */
	done(name: string): void {
		const next = this.#queues.get(name)?.shift();
		if (next === undefined) this.#queues.delete(name);
		else next.start();
	}
}

/** What ends a wait when the process stops. */
export function stopped(): S3proxyError {
	return new S3proxyError('stopping', 'stopped while waiting');
}
