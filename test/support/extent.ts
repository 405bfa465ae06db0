/** How much is tried: `npm test` a fixed, fast part of the matrices; `npm run test:long` every point. */

/** Whether this is the long part. */
export const LONG = process.env.S3PROXY_TEST_LONG === '1';

/** Only every so many-th point in the fast part: starting the command line takes a third of a second. */
export function strideOf(fast: number): number {
	return LONG ? 1 : fast;
}
