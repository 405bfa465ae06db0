/** One bucket of one S3 server: clients, time-outs, retries. */

import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { HeadBucketCommand, HeadObjectCommand, S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import { explain, S3proxyError } from '../errors.js';
import { AbortLink } from './abort-link.js';
import type { ObjectHead } from './object-store.js';
import { explainS3, noSuchBucket, S3Failure, type S3Request } from './s3-errors.js';

export interface S3Settings {
	readonly bucket: string;
	/** Default: what the SDK finds in the environment and in ~/.aws, otherwise us-east-1. */
	readonly region?: string | undefined;
	/** URL; default: AWS. */
	readonly endpoint?: string | undefined;
	/** `endpoint/bucket/key` instead of `bucket.endpoint/key`. */
	readonly forcePathStyle: boolean;
	/** Whether checksums go along where the server might not know them. */
	readonly checksums: 'when_required' | 'when_supported';
	/** Bytes of one part of a multipart upload, at least 5 MiB; sources up to this size are put whole. */
	readonly partSize: number;
	/** Seconds of silence after which a request has failed. */
	readonly timeout: number;
	/** How often one request is sent before it has failed. */
	readonly attempts: number;
}

/** Enough for some puts of six parts and some dozens of gets at once; a request that finds none waits up to `timeout`. */
const MAX_SOCKETS = 128;
const CONNECT_TIMEOUT_MS = 10_000;
const FIRST_PAUSE_MS = 100;
const THROTTLED_PAUSE_MS = 500;
/** Between two attempts. */
const MAX_PAUSE_MS = 5_000;

/** What a request is about, and what ends it early. */
export interface S3Call {
	readonly operation: string;
	/** Object key, or key prefix; empty for the bucket. */
	readonly key: string;
	readonly signal?: AbortSignal | undefined;
	/** A body goes along: it may take as long as it likes while bytes flow. */
	readonly upload?: boolean;
	/** The answer is a stream whose time-outs the caller watches. */
	readonly download?: boolean;
}

/** What goes to the SDK's `send` beside the command. */
interface SendOptions {
	readonly abortSignal?: AbortSignal;
	readonly requestTimeout: number;
}

/** Sends one command with one of the clients. */
type Send<T> = (client: S3Client, options: SendOptions) => Promise<T>;

// Commands run from cron, where a line on stderr is a mail: which Node.js the SDK will want next year is ours to follow.
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';

const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error() {} };

/**
 * Every request ends: an attempt is given up after `timeout` seconds without an answer (or, with a body, without a byte going
 * either way), and there are `attempts` attempts with pauses of at most some seconds between them, so a server that accepts
 * and never answers has failed a request after about `attempts * timeout` seconds.
 */
export class S3Connection {
	readonly settings: S3Settings;
	/** For people; without credentials. */
	readonly endpoint: string;
	readonly timeoutMs: number;
	readonly #client: S3Client;
	readonly #downloads: S3Client;
	readonly #agents: readonly [HttpAgent, HttpsAgent];
	#bucketSeen = false;

	constructor(settings: S3Settings) {
		this.settings = { ...settings, bucket: settings.bucket.replace(/\/+$/, '') };
		this.endpoint = endpointForPeople(settings.endpoint);
		this.timeoutMs = settings.timeout * 1000;
		const agents = { keepAlive: true, maxSockets: MAX_SOCKETS };
		this.#agents = [new HttpAgent(agents), new HttpsAgent(agents)];
		this.#client = new S3Client(this.#clientConfig({ socketTimeout: this.timeoutMs }));
		// The SDK's socket time-out also ticks while the reader of a body takes its time, so these watch their bodies themselves.
		const { credentials, region } = this.#client.config;
		this.#downloads = new S3Client({ ...this.#clientConfig({}), credentials, region });
	}

	get bucket(): string {
		return this.settings.bucket;
	}

	/**
	 * Runs one request, with retries.
	 * @throws S3Failure `store-unreachable` or `store-refused`; S3proxyError `stopping`
	 */
	async call<T>(call: S3Call, run: Send<T>): Promise<T> {
		const request = this.requestOf(call);
		for (let attempt = 1; ; attempt++) {
			let failure: unknown;
			try {
				const output = await (call.download === true ? this.#download(call, run) : this.#send(call, run));
				this.#bucketSeen = true;
				return output;
			} catch (error) {
				failure = explainS3(error, request, attempt);
			}
			if (attempt >= this.settings.attempts || !(failure instanceof S3Failure) || !failure.isTransient) throw failure;
			await pause(attempt, failure.isThrottling, call.signal);
		}
	}

	async #send<T>(call: S3Call, run: Send<T>): Promise<T> {
		return await run(this.#client, {
			// Zero: only the idle time-out, for bodies that flow on a slow line.
			requestTimeout: call.upload === true ? 0 : this.timeoutMs,
			...(call.signal === undefined ? {} : { abortSignal: call.signal }),
		});
	}

	/** Without the idle time-out an error document that never ends needs another one. */
	async #download<T>(call: S3Call, run: Send<T>): Promise<T> {
		const link = new AbortLink(call.signal);
		let isLate = false;
		const deadline = setTimeout(() => {
			isLate = true;
			link.abort();
		}, 2 * this.timeoutMs);
		try {
			// On success the link stays: who aborts the call later closes the body's connection.
			return await run(this.#downloads, { requestTimeout: this.timeoutMs, abortSignal: link.signal });
		} catch (error) {
			link.release();
			if (!isLate || call.signal?.aborted === true) throw error;
			throw Object.assign(new Error('the answer did not come in time', { cause: error }), { name: 'TimeoutError' });
		} finally {
			clearTimeout(deadline);
		}
	}

	/** How `call` is named in messages. */
	requestOf({ operation, key }: S3Call): S3Request {
		const { endpoint, bucket } = this;
		return { operation, subject: `s3://${bucket}${key === '' ? '' : `/${key}`}`, endpoint, bucket };
	}

	/** As `ObjectStore.head`. */
	async head(key: string, signal?: AbortSignal): Promise<ObjectHead | undefined> {
		const call = { operation: 'HEAD', key, signal };
		try {
			const output = await this.call(call, (client, options) =>
				client.send(new HeadObjectCommand({ Bucket: this.bucket, Key: key }), options),
			);
			const { ContentLength: size, ETag: etag, LastModified, Metadata: metadata = {} } = output;
			if (size !== undefined && etag !== undefined) {
				return { key, size, etag, lastModified: LastModified?.getTime() ?? 0, metadata };
			}
			const { subject, endpoint } = this.requestOf(call);
			throw new S3proxyError(
				'store-refused',
				`HEAD ${subject} (${endpoint}): the answer has no Content-Length or no ETag`,
			);
		} catch (error) {
			if (!(error instanceof S3Failure) || error.status !== 404 || error.reason === 'NoSuchBucket') throw error;
			await this.#assertBucket(call);
			return undefined;
		}
	}

	/** The answer to a HEAD has no body, so a missing object and a missing bucket look alike: asks once which it is. */
	async #assertBucket(call: S3Call): Promise<void> {
		if (this.#bucketSeen) return;
		try {
			await this.call({ ...call, operation: 'HEAD', key: '' }, (client, options) =>
				client.send(new HeadBucketCommand({ Bucket: this.bucket }), options),
			);
		} catch (error) {
			if (!(error instanceof S3Failure)) throw error;
			if (error.status === 404) throw noSuchBucket(this.requestOf(call), error, error);
			// Who may read objects need not be allowed to ask for the bucket; that it can refuse says that it is there.
			if (error.status !== 403) throw error;
		}
	}

	close(): void {
		this.#client.destroy();
		this.#downloads.destroy();
		for (const agent of this.#agents) agent.destroy();
	}

	#clientConfig(timeouts: { socketTimeout?: number }): S3ClientConfig {
		const { settings } = this;
		const when = settings.checksums === 'when_supported' ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED';
		return {
			region: settings.region ?? defaultRegion(),
			...(settings.endpoint === undefined ? {} : { endpoint: settings.endpoint }),
			forcePathStyle: settings.forcePathStyle,
			followRegionRedirects: true,
			requestChecksumCalculation: when,
			responseChecksumValidation: when,
			// `call` tries again itself: the SDK stops doing so when some dozens of retries have failed, until hundreds of requests
			// have worked, and never does after damage on the way.
			maxAttempts: 1,
			// A round trip before each part, and many servers behind proxies never send the 100.
			expectContinueHeader: false,
			requestHandler: {
				httpAgent: this.#agents[0],
				httpsAgent: this.#agents[1],
				connectionTimeout: Math.min(CONNECT_TIMEOUT_MS, this.timeoutMs),
				requestTimeout: this.timeoutMs,
				throwOnRequestTimeout: true,
				logger: quiet,
				...timeouts,
			},
		};
	}
}

/** Waits before another attempt, each time about twice as long, never the same time as others who wait. */
async function pause(attempt: number, isThrottling: boolean, signal: AbortSignal | undefined): Promise<void> {
	const longest = Math.min(MAX_PAUSE_MS, (isThrottling ? THROTTLED_PAUSE_MS : FIRST_PAUSE_MS) * 2 ** (attempt - 1));
	try {
		await sleep(longest * (0.5 + Math.random() / 2), undefined, signal === undefined ? {} : { signal });
	} catch (error) {
		throw explain(error, 'waiting for the store');
	}
}

/** The region as the SDK finds it (environment, ~/.aws/config), otherwise us-east-1, which most S3-like servers take. */
function defaultRegion(): () => Promise<string> {
	let found: Promise<string> | undefined;
	const find = async () => {
		try {
			return await new S3Client({}).config.region();
		} catch (error) {
			if (error instanceof Error && error.message === 'Region is missing') return 'us-east-1';
			throw error;
		}
	};
	return () => {
		found ??= find();
		return found;
	};
}

function endpointForPeople(endpoint: string | undefined): string {
	const text = endpoint ?? process.env.AWS_ENDPOINT_URL_S3 ?? process.env.AWS_ENDPOINT_URL;
	if (text === undefined) return 'AWS';
	if (!URL.canParse(text)) return 'an endpoint that is no URL';
	const { protocol, host } = new URL(text);
	return `${protocol}//${host}`;
}
