/** Works on many items, some at a time, in a stream: memory does not grow with their number. */

import type { Context } from '../context.js';
import { type ErrorCode, explain, isS3proxyError, OUTCOMES, type S3proxyError } from '../errors.js';
import { describeError } from '../log.js';

/** After this many failures of the store in a row, with no success between, the rest is not tried. */
const STORE_FAILURES_IN_A_ROW = 3;

export interface RunResult {
	/** Items done. */
	done: number;
	/** Items that needed nothing. */
	skipped: number;
	/** Items that failed; each has been named in the log. */
	failed: number;
	/** Bytes of the items done. */
	bytes: number;
	/** Whether items were left because the process was told to stop, or the store is away. */
	incomplete: boolean;
	/** What failed, as long as it was all the same; undefined when nothing failed. */
	failure: { code: ErrorCode; message: string } | 'mixed' | undefined;
	/** Another run of the same stage was under way: nothing was done. */
	busy?: true;
}

export function emptyResult(): RunResult {
	return { done: 0, skipped: 0, failed: 0, bytes: 0, incomplete: false, failure: undefined };
}

/** Exit code of a run: 0, or what all failures have in common if nothing was done, or 1. */
export function exitCodeOf(result: RunResult): number {
	if (result.failure === undefined) return 0;
	if (result.failure === 'mixed' || result.done > 0) return 1;
	return OUTCOMES[result.failure.code].exit;
}

function remember(result: RunResult, error: S3proxyError): void {
	result.failed++;
	const sameAsBefore =
		result.failure === undefined || (result.failure !== 'mixed' && result.failure.code === error.code);
	result.failure = sameAsBefore ? { code: error.code, message: error.message } : 'mixed';
}

export interface Items<T> {
	readonly items: AsyncIterable<T> | Iterable<T>;
	readonly jobs: number;
	/** For messages. */
	nameOf(item: T): string;
	/** @returns the number of bytes worked on, or undefined when there was nothing to do */
	work(item: T): Promise<number | undefined>;
}

/**
 * Runs `work` for every item, `jobs` at a time. An item that fails is logged and counted, and the others go on.
 * @throws whatever is not an error of ours: a bug
 */
export async function runItems<T>(context: Context, { items, jobs, nameOf, work }: Items<T>): Promise<RunResult> {
	const result = emptyResult();
	const running = new Set<Promise<void>>();
	let storeFailures = 0;
	let bug: { error: unknown } | undefined;

	const one = async (item: T) => {
		try {
			const bytes = await work(item);
			storeFailures = 0;
			if (bytes === undefined) result.skipped++;
			else {
				result.done++;
				result.bytes += bytes;
			}
			context.progress.advance(1, 0);
		} catch (thrown) {
			const error = explain(thrown, nameOf(item));
			if (!isS3proxyError(error)) {
				bug ??= { error };
				return;
			}
			if (error.code === 'stopping') {
				result.incomplete = true;
				return;
			}
			remember(result, error);
			context.log.error(describeError(error));
			if (isS3proxyError(error, 'store-unreachable', 'store-refused')) storeFailures++;
		}
	};

	for await (const item of items) {
		if (context.stopping.aborted || storeFailures >= STORE_FAILURES_IN_A_ROW || bug !== undefined) {
			result.incomplete = true;
			break;
		}
		const task: Promise<void> = one(item).finally(() => running.delete(task));
		running.add(task);
		if (running.size >= jobs) await Promise.race(running);
	}
	await Promise.all(running);
	if (bug !== undefined) throw bug.error;
	return result;
}
