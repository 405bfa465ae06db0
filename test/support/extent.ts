/** How much is tried: `npm test` a fixed, fast part of the matrices; `npm run test:long` every point. */

/** Whether every point is tried. */
export const LONG = process.env.S3PROXY_TEST_LONG === '1';

/** Only every so many-th point in the fast part: starting the command line takes a third of a second. */
export function strideOf(fast: number): number {
	return LONG ? 1 : fast;
}

/** One thing in the fast part, another in the long one. */
export function extentOf<T>({ fast, long }: { fast: T; long: T }): T {
	return LONG ? long : fast;
}

/** Of matrices that take turns: whether this one is tried. The fast part tries every third. */
export function isTried(turn: number): boolean {
	return LONG || turn % 3 === 0;
}
