/**
 * What s3proxy asks of the place where objects lie. Both implementations pass one test suite (`test/store`).
 *
 * Object keys are `<key id>/<artifact path>` and `<key id>/<artifact path>-iv`: valid UTF-8 of at most 1024 bytes, no
 * component that is empty, `.`, `..` or begins with `.s3proxy-`.
 *
 * Promises of every method:
 * - An object is seen whole or not at all; a put that failed has changed nothing that a reader can see.
 * - "Does not exist" is said only when the store itself said so. Everything else is thrown as an `S3proxyError`:
 *   `store-unreachable` (no answer, an answer that broke off, the store is overloaded: later may help) or `store-refused`
 *   (no such bucket, wrong credentials, access denied: somebody has to do something).
 * - Every call ends: each attempt has time-outs for connecting and for silence, and attempts are counted.
 * - Memory is bounded whatever the size of an object.
 */

/** User metadata of an object, names in lower case without prefix. */
export type ObjectMetadata = Readonly<Record<string, string>>;

export interface ObjectInfo {
	readonly key: string;
	/** Bytes. */
	readonly size: number;
	/** Opaque; changes whenever the object is replaced. */
	readonly etag: string;
	/** Milliseconds since the epoch, the store's own clock. */
	readonly lastModified: number;
}

export interface ObjectHead extends ObjectInfo {
	readonly metadata: ObjectMetadata;
}

/** Bytes from `start` to `end`, the last one included, as in HTTP. */
export interface ByteRange {
	readonly start: number;
	readonly end: number;
}

export interface GetOptions {
	readonly range?: ByteRange;
	/** Only this version: when the object has been replaced or removed since, `get` returns undefined. */
	readonly ifMatch?: string;
	readonly signal?: AbortSignal;
}

/** Where the bytes of a put come from. May be asked again from the beginning when an attempt failed. */
export interface ObjectSource {
	/** Exactly how many bytes `open` yields; a source that yields more or fewer fails the put (`source-changed`). */
	readonly size: number;
	open(): AsyncIterable<Buffer>;
}

export interface PutOptions {
	readonly metadata?: ObjectMetadata;
	/** Put only if no object has this key: `If-None-Match: *`. */
	readonly onlyIfAbsent?: boolean;
	/** Called right before the object becomes visible; when it throws, nothing is stored and `put` throws the same. */
	readonly beforeCommit?: () => Promise<void>;
	readonly signal?: AbortSignal;
	/** Called with the number of bytes that have reached the store since the last call. */
	readonly onBytes?: (bytes: number) => void;
}

export interface ObjectStore {
	/** For people: `s3://bucket` or `file:/path`. */
	readonly url: string;

	/** What the store knows of an object; undefined when it says that there is none. */
	head(key: string, signal?: AbortSignal): Promise<ObjectHead | undefined>;

	/**
	 * The content of an object or a range of it; undefined when there is none, or not this version. The stream fails when the
	 * store falls silent, breaks off or sends fewer or more bytes than it announced. Whoever does not read it to the end must
	 * destroy it.
	 */
	get(
		key: string,
		options?: GetOptions,
	): Promise<(NodeJS.ReadableStream & AsyncIterable<Buffer> & { destroy(): void }) | undefined>;

	/**
	 * Stores an object, replacing an older one; when the returned promise resolves, it is durable by the store's own word.
	 * @returns false when `onlyIfAbsent` was given and an object has this key
	 */
	put(key: string, source: ObjectSource, options?: PutOptions): Promise<boolean>;

	/** Removes an object; one that does not exist is no error. */
	delete(key: string, signal?: AbortSignal): Promise<void>;

	/** All objects whose key begins with `prefix`, in pages, in no promised order. */
	list(prefix: string, signal?: AbortSignal): AsyncIterable<ObjectInfo>;

	/** Unfinished multipart uploads (or staging files) whose key begins with `prefix`. */
	listUnfinished(prefix: string, signal?: AbortSignal): AsyncIterable<UnfinishedPut>;

	/** Gives up an unfinished put and frees what it holds; one that is gone is no error. */
	abortUnfinished(unfinished: UnfinishedPut, signal?: AbortSignal): Promise<void>;

	/** Closes idle connections. */
	close(): void;
}

export interface UnfinishedPut {
	readonly key: string;
	/** Opaque to the caller. */
	readonly id: string;
	/** Milliseconds since the epoch. */
	readonly started: number;
}
