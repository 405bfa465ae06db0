/** What an S3 server (or the way to it) said, as one of our errors. */

import { type ErrorCode, S3proxyError } from '../errors.js';

/** What was being done when it failed. */
export interface S3Request {
	/** For people: `PUT`, `LIST`. */
	readonly operation: string;
	/** `s3://bucket/key` */
	readonly subject: string;
	readonly endpoint: string;
	readonly bucket: string;
}

/** A failed request, with what the caller may want to decide on. The SDK's own error is the `cause`. */
export class S3Failure extends S3proxyError {
	/** The S3 error code, such as `NoSuchUpload`, or the name of the SDK's or Node.js's error. */
	readonly reason: string;
	/** HTTP status; undefined when no answer came. */
	readonly status: number | undefined;
	/** How often the request was sent. With more than one, an earlier one may have worked. */
	readonly attempts: number;
	/** The same request may work; the SDK has perhaps learnt from this one what time it is there. */
	readonly isTransient: boolean;
	/** The store asks to be left alone for a moment. */
	readonly isThrottling: boolean;

	constructor(code: ErrorCode, message: string, facts: S3Facts, hint: string | undefined, cause: unknown) {
		super(code, message, hint === undefined ? { cause } : { cause, hint });
		this.reason = facts.reason;
		this.status = facts.status;
		this.attempts = facts.attempts;
		const metadata = cause instanceof Error ? recordOf(cause, '$metadata') : undefined;
		this.isTransient = code === 'store-unreachable' || metadata?.clockSkewCorrected === true;
		this.isThrottling = facts.status === 429 || facts.status === 503;
	}
}

/** Whether `error` is a failure for one of these reasons. */
export function failedFor(error: unknown, ...reasons: string[]): error is S3Failure {
	return error instanceof S3Failure && reasons.includes(error.reason);
}

export interface S3Facts {
	readonly reason: string;
	readonly status: number | undefined;
	readonly attempts: number;
}

const CREDENTIALS_HINT =
	'Check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of this machine) and ' +
	'what they permit in this bucket.';
const CLOCK_HINT = "This machine's clock and the store's differ: synchronise this machine's clock (NTP).";
const REGION_HINT = 's3.region (or AWS_REGION) is probably not the region of the bucket.';
const TLS_HINT =
	"The store's TLS certificate is not trusted: name your authority's certificate in NODE_EXTRA_CA_CERTS, or mend s3.endpoint.";

const HINTS = new Map<string, string>([
	['RequestTimeTooSkewed', CLOCK_HINT],
	['RequestExpired', CLOCK_HINT],
	['RequestInTheFuture', CLOCK_HINT],
	['PermanentRedirect', REGION_HINT],
	['AuthorizationHeaderMalformed', REGION_HINT],
	['IllegalLocationConstraintException', REGION_HINT],
	['InvalidBucketName', 'Check the bucket name in store.'],
	['EPROTO', 's3.endpoint says https, but what answers there does not speak TLS.'],
	['EntityTooSmall', 'The store wants larger parts: raise s3.part_size.'],
	['NotImplemented', 'This store lacks an S3 function that s3proxy needs.'],
]);

const CREDENTIALS = new Set([
	'AccessDenied',
	'Forbidden',
	'InvalidAccessKeyId',
	'SignatureDoesNotMatch',
	'CredentialsProviderError',
	'ExpiredToken',
	'InvalidToken',
	'InvalidSecurity',
	'TokenRefreshRequired',
	'AccountProblem',
]);

const UNREACHABLE = new Set([
	'TimeoutError',
	'SlowDown',
	'InternalError',
	'ServiceUnavailable',
	'RequestTimeout',
	'OperationAborted',
	'ECONNREFUSED',
	'ECONNRESET',
	'ECONNABORTED',
	'ETIMEDOUT',
	'EPIPE',
	'ENOTFOUND',
	'EAI_AGAIN',
	'EAI_FAIL',
	'ENODATA',
	'EHOSTUNREACH',
	'EHOSTDOWN',
	'ENETUNREACH',
	'ENETDOWN',
	'EADDRNOTAVAIL',
	'EMFILE',
	'ENFILE',
	'ERR_STREAM_PREMATURE_CLOSE',
	'ERR_SOCKET_CLOSED',
	'ERR_HTTP_SOCKET_ASSIGNED',
]);

/** The server got other bytes than were sent, or its answer cannot be read: the same request may well work. */
const DAMAGED = ['XAmzContentSHA256Mismatch', 'BadDigest', 'IncompleteBody', 'GarbledAnswer'];

const TLS_CODE =
	/^(CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|ERR_TLS_|ERR_SSL_|HOSTNAME_MISMATCH|INVALID_CA|INVALID_PURPOSE)/;

/**
 * Any error of the SDK or of Node.js's network as a `store-unreachable`, `store-refused` or (aborts) `stopping`. Errors that
 * have nothing to do with the store are returned as they are: they are bugs.
 * @param attempts how often the request has been sent
 */
export function explainS3(error: unknown, request: S3Request, attempts = 1): unknown {
	if (error instanceof S3proxyError || !(error instanceof Error)) return error;
	const what = `${request.operation} ${request.subject} (${request.endpoint})`;
	if (error.name === 'AbortError') return new S3proxyError('stopping', `${what}: stopped`, { cause: error });
	const facts = factsOf(error, attempts);
	if (facts === undefined) return error;
	if (facts.reason === 'NoSuchBucket') return noSuchBucket(request, facts, error);
	// A HEAD has no error document; the SDK then has nothing to say but this.
	const text = ['', 'UnknownError', facts.reason].includes(error.message) ? '' : `: ${error.message}`;
	const status = facts.status === undefined ? '' : ` (status ${facts.status})`;
	return new S3Failure(
		codeOf(facts),
		`${what}: ${facts.reason}${text.replace(/[\r\n]+/g, ' ')}${status}`,
		facts,
		hintOf(facts),
		error,
	);
}

/** The bucket itself is missing; S3 says so only where an answer has a body. */
export function noSuchBucket(request: S3Request, facts: S3Facts, cause?: unknown): S3Failure {
	return new S3Failure(
		'store-refused',
		`${request.operation} ${request.subject}: bucket ${request.bucket} does not exist at ${request.endpoint}`,
		{ ...facts, reason: 'NoSuchBucket' },
		'Create the bucket, or mend store and s3.endpoint in config.yaml.',
		cause,
	);
}

/** Undefined when `error` has nothing of a request, an answer or a socket. */
function factsOf(error: Error, attempts: number): S3Facts | undefined {
	const metadata = recordOf(error, '$metadata');
	const status = typeof metadata?.httpStatusCode === 'number' ? metadata.httpStatusCode : undefined;
	const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined;
	// The SDK names its own time-outs; a message of the HTTP parser (HPE_…) or of TLS has only a code.
	if (error.name === 'TimeoutError') return { reason: 'TimeoutError', status, attempts };
	if (code !== undefined && (UNREACHABLE.has(code) || TLS_CODE.test(code) || !code.startsWith('ERR_')))
		return { reason: code, status, attempts };
	// An answer that could not be parsed: the SDK hangs the answer on the parser's error.
	const answered = '$response' in error || '$responseBodyText' in error;
	if (answered && recordOf(error, '$fault') === undefined && !('$fault' in error)) {
		return { reason: 'GarbledAnswer', status, attempts };
	}
	if ('$fault' in error || error.name === 'InvalidBucketName' || CREDENTIALS.has(error.name)) {
		return { reason: error.name, status, attempts };
	}
	return status === undefined ? undefined : { reason: error.name, status, attempts };
}

function recordOf(error: Error, name: string): Record<string, unknown> | undefined {
	const value: unknown = Reflect.get(error, name);
	return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : undefined;
}

function codeOf({ reason, status }: S3Facts): ErrorCode {
	if (HINTS.has(reason) || CREDENTIALS.has(reason) || TLS_CODE.test(reason)) return 'store-refused';
	if (UNREACHABLE.has(reason) || DAMAGED.includes(reason) || reason.startsWith('HPE_')) return 'store-unreachable';
	if (status === undefined || status === 429 || status === 408) return 'store-unreachable';
	// 501 is an answer to what was asked, not a sign of overload.
	return status >= 500 && status !== 501 ? 'store-unreachable' : 'store-refused';
}

function hintOf({ reason, status }: S3Facts): string | undefined {
	const hint = HINTS.get(reason);
	if (hint !== undefined) return hint;
	if (TLS_CODE.test(reason)) return TLS_HINT;
	if (CREDENTIALS.has(reason) || status === 401 || status === 403) return CREDENTIALS_HINT;
	if (reason === 'ENOTFOUND' || reason === 'ECONNREFUSED') return 'Check s3.endpoint, and whether the store runs.';
	return undefined;
}
