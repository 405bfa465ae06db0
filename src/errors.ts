/**
 * Every way in which an operation can fail for a reason that a person can act on. Anything else that is thrown is a bug
 * and is shown with its stack.
 */

/** What went wrong, in one word. `OUTCOMES` says what each means to a shell and to an HTTP client. */
export type ErrorCode =
	| 'bad-path'
	| 'bad-usage'
	| 'bad-config'
	| 'bad-key'
	| 'unauthorized'
	| 'bad-form'
	| 'not-multipart'
	| 'not-found'
	| 'conflict'
	| 'too-large'
	| 'checksum-mismatch'
	| 'lock-timeout'
	| 'lock-lost'
	| 'source-changed'
	| 'disk-full'
	| 'io'
	| 'not-authentic'
	| 'store-unreachable'
	| 'store-refused'
	| 'stopping';

export interface Outcome {
	/** Exit code of a command whose whole work failed this way. */
	readonly exit: 1 | 2 | 3 | 4 | 5 | 6;
	/** Status of an HTTP answer. */
	readonly status: number;
	/** Seconds after which the same request may work, for `Retry-After`. */
	readonly retryAfter?: number;
}

/** The one table from codes to exit codes (contract, section 6) and HTTP statuses (section 7). */
export const OUTCOMES: Readonly<Record<ErrorCode, Outcome>> = {
	'bad-path': { exit: 2, status: 400 },
	'bad-usage': { exit: 2, status: 400 },
	'bad-config': { exit: 3, status: 500 },
	'bad-key': { exit: 3, status: 500 },
	unauthorized: { exit: 1, status: 401 },
	'bad-form': { exit: 2, status: 400 },
	'not-multipart': { exit: 2, status: 415 },
	'not-found': { exit: 4, status: 404 },
	conflict: { exit: 1, status: 409 },
	'too-large': { exit: 1, status: 413 },
	'checksum-mismatch': { exit: 1, status: 422 },
	'lock-timeout': { exit: 5, status: 503, retryAfter: 5 },
	'lock-lost': { exit: 1, status: 503, retryAfter: 5 },
	'source-changed': { exit: 1, status: 500 },
	'disk-full': { exit: 1, status: 507 },
	io: { exit: 1, status: 500 },
	'not-authentic': { exit: 1, status: 502 },
	'store-unreachable': { exit: 6, status: 503, retryAfter: 10 },
	'store-refused': { exit: 6, status: 502 },
	stopping: { exit: 1, status: 503, retryAfter: 5 },
};

export interface ErrorDetails {
	/** What the person can do about it; one sentence. */
	readonly hint?: string;
	/** The error underneath, for `--json` and debugging; its message is already part of ours. */
	readonly cause?: unknown;
}

/** A failure with a code, a message that says what and where, and perhaps a hint what to do. */
export class S3proxyError extends Error {
	readonly code: ErrorCode;
	readonly hint: string | undefined;

	constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
		super(message, details.cause === undefined ? undefined : { cause: details.cause });
		this.name = 'S3proxyError';
		this.code = code;
		this.hint = details.hint;
	}

	get outcome(): Outcome {
		return OUTCOMES[this.code];
	}
}

/** Whether `error` is one of ours with one of `codes` (any of ours when none is given). */
export function isS3proxyError(error: unknown, ...codes: ErrorCode[]): error is S3proxyError {
	return error instanceof S3proxyError && (codes.length === 0 || codes.includes(error.code));
}

/** The `code` of a Node.js system error, such as `ENOENT`; undefined for everything else. */
export function errnoOf(error: unknown): string | undefined {
	if (!(error instanceof Error) || !('code' in error) || !('syscall' in error)) return undefined;
	return typeof error.code === 'string' ? error.code : undefined;
}

const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/**
 * Any thrown value as one of ours: system errors become `disk-full` or `io` and name the call and the file; aborts become
 * `stopping`. Values that are neither are returned as they are: they are bugs.
 */
export function explain(error: unknown, doing: string): unknown {
	if (error instanceof S3proxyError) return error;
	if (error instanceof Error && error.name === 'AbortError') {
		return new S3proxyError('stopping', `${doing}: stopped`, { cause: error });
	}
	const errno = errnoOf(error);
	if (errno === undefined || !(error instanceof Error)) return error;
	if (FULL.has(errno)) {
		return new S3proxyError('disk-full', `${doing}: no space left (${error.message})`, {
			cause: error,
			hint: 'Free some space (s3proxy status shows the disk), then try again; nothing half-written was kept.',
		});
	}
	return new S3proxyError('io', `${doing}: ${error.message}`, { cause: error });
}
