/** A promise and what settles it (`Promise.withResolvers`, which Node.js 20 does not have). */

export interface Deferred<T> {
	readonly promise: Promise<T>;
	readonly resolve: (value: T) => void;
	readonly reject: (reason: unknown) => void;
}

/** A rejection that nobody waits for is no unhandled one. */
export function deferred<T>(): Deferred<T> {
	let settle: Omit<Deferred<T>, 'promise'> | undefined;
	const promise = new Promise<T>((resolve, reject) => {
		settle = { resolve, reject };
	});
	if (settle === undefined) throw new Error('an executor runs at once');
	promise.catch(() => undefined);
	return { promise, ...settle };
}
