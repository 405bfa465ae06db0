/** What a test needs of the machine: on a user's it is skipped with a line that says so, in CI it fails. */

import type { Context } from 'mocha';

export function needs(test: Context, there: boolean, what: string): void {
	if (there) return;
	if (process.env.CI === 'true') throw new Error(`CI has to provide ${what}`);
	process.stderr.write(`skipped, this machine has not ${what}: ${test.test?.title ?? ''}\n`);
	test.skip();
}
