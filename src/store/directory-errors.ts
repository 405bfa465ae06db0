/** What a file system refuses, as one of our errors. */

import { errnoOf, explain, isS3proxyError, S3proxyError } from '../errors.js';

/** Runs `work`; a system error becomes `store-refused`, `disk-full` or `io` and says what was tried. */
export async function attempting<T>(what: string, work: () => Promise<T>): Promise<T> {
	try {
		return await work();
	} catch (error) {
		throw refusal(error, what);
	}
}

const REFUSED = new Map<string, string>([
	['EACCES', 'Give the user that runs s3proxy access to the store directory.'],
	['EPERM', 'Give the user that runs s3proxy access to the store directory.'],
	['EROFS', 'The store directory is on a read-only file system.'],
	['ENOTDIR', 'A part of the path is an object itself; a directory store cannot hold both.'],
	['EISDIR', 'There are objects below this name; a directory store cannot hold both.'],
	['ENOTEMPTY', 'There are objects below this name; a directory store cannot hold both.'],
	['EEXIST', 'A part of the path is an object itself, or has objects below it; a directory store cannot hold both.'],
	['ENAMETOOLONG', 'The name is too long for the file system of the store directory.'],
]);

/** One error as `attempting` throws it. */
export function refusal(error: unknown, what: string): unknown {
	if (isS3proxyError(error)) return error;
	const hint = REFUSED.get(errnoOf(error) ?? '');
	if (hint === undefined || !(error instanceof Error)) return explain(error, what);
	return new S3proxyError('store-refused', `${what}: ${error.message}`, { hint, cause: error });
}

/** The error of something that `signal` ended. */
export function stopped(what: string, signal: AbortSignal): S3proxyError {
	return new S3proxyError('stopping', `${what}: stopped`, { cause: signal.reason });
}
