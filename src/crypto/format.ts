/**
 * The sealed object's layout, s3px/v1: its header, its sizes, the keys that belong to it (docs/format.md). Sealing and
 * opening are in `seal.ts` and `open.ts`.
 */

import { Buffer } from 'node:buffer';
import { hkdfSync, timingSafeEqual } from 'node:crypto';
import { type ErrorCode, type ErrorDetails, S3proxyError } from '../errors.js';

/** Bytes before the first segment. */
export const HEADER_SIZE = 64;
/** Bytes of the IV in the header, and of the sidecar that copies it. */
export const IV_SIZE = 12;
/** Bytes of the authentication tag that ends every segment. */
export const TAG_SIZE = 16;
/** log2 of the plaintext bytes in a segment, as we write it: 256 KiB. */
export const DEFAULT_SEGMENT_LOG2 = 18;
/** The largest plaintext, in bytes. */
export const MAX_SIZE = 2 ** 46;

/** The cipher that segments are sealed with. */
export const SEGMENT_CIPHER = 'aes-256-gcm';

const MAGIC = Buffer.from('89533350580d0a1a', 'hex');
const VERSION = 1;
const MIN_SEGMENT_LOG2 = 14;
const MAX_SEGMENT_LOG2 = 24;
const MAX_PATH_SIZE = 980;

/** Where the header's fields begin. */
const AT = { version: 8, segmentLog2: 9, reserved: 10, size: 12, iv: 20, commitment: 32 } as const;
const KEY_SIZE = 32;
const COMMITMENT_SIZE = HEADER_SIZE - AT.commitment;

/** Why an object, a key or a path was refused; the names are those of docs/format.md. */
export type FormatReason =
	| 'ERR_PATH'
	| 'ERR_KEY'
	| 'ERR_SOURCE'
	| 'ERR_NOT_S3PX'
	| 'ERR_VERSION'
	| 'ERR_TRUNCATED'
	| 'ERR_HEADER'
	| 'ERR_COMMITMENT'
	| 'ERR_STALE'
	| 'ERR_TRAILING'
	| 'ERR_SEGMENT';

const CODES: Partial<Record<FormatReason, ErrorCode>> = {
	ERR_KEY: 'bad-key',
	ERR_PATH: 'bad-path',
	ERR_SOURCE: 'source-changed',
};

/**
 * Something that the format refuses. `code` is `bad-key`, `bad-path` or `source-changed` for what the caller gave, and
 * `not-authentic` for everything that an object can have wrong. The message never holds key bytes.
 */
export class FormatError extends S3proxyError {
	readonly reason: FormatReason;

	/** The message becomes `what`, followed by the reason in parentheses. */
	constructor(reason: FormatReason, what: string, details: ErrorDetails = {}) {
		super(CODES[reason] ?? 'not-authentic', `${what} (${reason})`, details);
		this.name = 'FormatError';
		this.reason = reason;
	}
}

/** The fields of a header that the rest of the object follows from. */
export interface HeaderFields {
	/** Plaintext length in bytes. */
	readonly size: number;
	/** log2 of the plaintext bytes in a segment. */
	readonly segmentLog2: number;
	readonly iv: Buffer;
}

/** What an object is bound to; `bind` in `key-material.ts` makes it from what it has checked. */
export interface Binding {
	/** The key file, byte for byte. */
	readonly ikm: Buffer;
	/** The artifact path, as `checkFormatPath` returned it. */
	readonly pathBytes: Buffer;
}

/** Whether `bytes` begin like a sealed object. False for fewer than 8 bytes. */
export function hasMagic(bytes: Uint8Array): boolean {
	return bytes.length >= MAGIC.length && MAGIC.equals(bytes.subarray(0, MAGIC.length));
}

/** How many segments hold `size` bytes of plaintext: at least one, which is empty when `size` is 0. */
export function segmentCount(size: number, segmentLog2: number = DEFAULT_SEGMENT_LOG2): number {
	return Math.max(1, Math.ceil(size / 2 ** segmentLog2));
}

/** The plaintext bytes in segment `index`. Only the last segment is shorter than the others. */
export function segmentLength(size: number, segmentLog2: number, index: number): number {
	return Math.min(size - index * 2 ** segmentLog2, 2 ** segmentLog2);
}

/** The bytes of the sealed object for `size` bytes of plaintext. */
export function sealedSize(size: number, segmentLog2: number = DEFAULT_SEGMENT_LOG2): number {
	return HEADER_SIZE + size + TAG_SIZE * segmentCount(size, segmentLog2);
}

/**
 * Checks an artifact path by the rule of the format and returns its bytes, which are what an object is bound to.
 *
 * @throws {FormatError} ERR_PATH.
 */
export function checkFormatPath(path: string): Buffer {
	const bytes = Buffer.from(path, 'utf8');
	const wrong = whatIsWrongWith(path, bytes);
	if (wrong !== undefined) throw new FormatError('ERR_PATH', `the path ${JSON.stringify(path)} ${wrong}`);
	return bytes;
}

function whatIsWrongWith(path: string, bytes: Buffer): string | undefined {
	if (bytes.length === 0) return 'is empty';
	if (bytes.length > MAX_PATH_SIZE) return `has ${bytes.length} bytes, ${MAX_PATH_SIZE} is the most`;
	// A lone surrogate became U+FFFD above.
	if (bytes.toString('utf8') !== path) return 'is not valid Unicode';
	if (bytes.some((byte) => byte < 0x20 || byte === 0x7f)) return 'contains a control character';
	if (path.endsWith('-iv')) return 'ends in -iv, which is the name of a sidecar';
	if (path.split('/').some((component) => component === '' || component === '.' || component === '..')) {
		return 'has a component that is empty, . or ..';
	}
	return undefined;
}

/**
 * Makes the header of a new object, and the key that its segments are sealed with.
 *
 * @throws {S3proxyError} `too-large` for a size above 2^46.
 * @throws {RangeError} when the caller has a bug: the other numbers are impossible.
 */
export function buildHeader(fields: HeaderFields, binding: Binding): { header: Buffer; key: Buffer } {
	const { size, segmentLog2, iv } = fields;
	if (size > MAX_SIZE)
		throw new S3proxyError('too-large', `${size} bytes are too many to seal, ${MAX_SIZE} is the most`);
	if (!Number.isSafeInteger(size) || size < 0) throw new RangeError(`not a size in bytes: ${size}`);
	if (!isSegmentLog2(segmentLog2)) throw new RangeError(`not the log2 of a segment size: ${segmentLog2}`);
	if (iv.length !== IV_SIZE) throw new RangeError(`an IV has ${IV_SIZE} bytes, not ${iv.length}`);
	const header = Buffer.alloc(HEADER_SIZE);
	MAGIC.copy(header);
	header[AT.version] = VERSION;
	header[AT.segmentLog2] = segmentLog2;
	header.writeBigUInt64BE(BigInt(size), AT.size);
	iv.copy(header, AT.iv);
	const { key, commitment } = derive(header, binding);
	commitment.copy(header, AT.commitment);
	return { header, key };
}

/**
 * Reads the header of an object: steps 2 to 4 of "Reading". The fields are not authentic yet; nothing may be done with
 * them before `openHeader` has returned.
 *
 * @param bytes the object's first 64 bytes, or all it has
 * @throws {FormatError} ERR_NOT_S3PX, ERR_VERSION, ERR_TRUNCATED, ERR_HEADER.
 */
export function parseHeader(bytes: Buffer, path: string): HeaderFields {
	if (!hasMagic(bytes)) throw new FormatError('ERR_NOT_S3PX', `${path}: is not an object sealed by s3proxy`);
	const version = bytes[AT.version];
	if (version !== undefined && version !== VERSION) {
		throw new FormatError('ERR_VERSION', `${path}: is sealed in version ${version} of the format, we know ${VERSION}`);
	}
	if (bytes.length < HEADER_SIZE) {
		throw new FormatError('ERR_TRUNCATED', `${path}: ends after ${bytes.length} bytes, within the header`);
	}
	const segmentLog2 = bytes.readUInt8(AT.segmentLog2);
	// Above 2^53 this is not exact, but still far above MAX_SIZE.
	const size = bytes.readUInt32BE(AT.size) * 2 ** 32 + bytes.readUInt32BE(AT.size + 4);
	if (!isSegmentLog2(segmentLog2) || size > MAX_SIZE || bytes.readUInt16BE(AT.reserved) !== 0) {
		throw new FormatError('ERR_HEADER', `${path}: has a header with impossible values`);
	}
	return { size, segmentLog2, iv: Buffer.from(bytes.subarray(AT.iv, AT.iv + IV_SIZE)) };
}

/**
 * Authenticates a header that `parseHeader` accepted: step 5 of "Reading". Returns the key of the segments.
 *
 * @throws {FormatError} ERR_COMMITMENT.
 */
export function openHeader(header: Buffer, binding: Binding): Buffer {
	const { key, commitment } = derive(header, binding);
	if (!timingSafeEqual(commitment, header.subarray(AT.commitment, HEADER_SIZE))) {
		throw new FormatError(
			'ERR_COMMITMENT',
			`${binding.pathBytes.toString()}: was sealed with another key or for another path, or its header was altered`,
		);
	}
	return key;
}

/** The nonce of a segment: its number in 11 bytes, then 1 if it is the last, else 0. */
export function segmentNonce(index: number, isLast: boolean): Buffer {
	const nonce = Buffer.alloc(12);
	// 6 bytes are the most that Node.js writes at once, and more than the 2^32 segments there can be.
	nonce.writeUIntBE(index, 5, 6);
	nonce[11] = isLast ? 1 : 0;
	return nonce;
}

function derive(header: Buffer, { ikm, pathBytes }: Binding): { key: Buffer; commitment: Buffer } {
	const iv = header.subarray(AT.iv, AT.iv + IV_SIZE);
	const info = Buffer.concat([header.subarray(0, AT.iv), pathBytes]);
	const derived = Buffer.from(hkdfSync('sha256', ikm, iv, info, KEY_SIZE + COMMITMENT_SIZE));
	return { key: derived.subarray(0, KEY_SIZE), commitment: derived.subarray(KEY_SIZE) };
}

function isSegmentLog2(value: number): boolean {
	return Number.isInteger(value) && value >= MIN_SEGMENT_LOG2 && value <= MAX_SEGMENT_LOG2;
}

/**
 * Cuts a stream of chunks of any size into pieces of exact sizes. It holds one chunk and one piece at a time, however
 * small or large the chunks are.
 */
export class PieceReader {
	readonly #iterator: AsyncIterator<Uint8Array>;
	/** What is left of the chunk that came last. */
	#chunk: Uint8Array = new Uint8Array(0);
	#ended = false;
	/** Pieces that span chunks are put together here. */
	#scratch: Buffer = Buffer.alloc(0);

	constructor(source: AsyncIterable<Uint8Array>) {
		this.#iterator = source[Symbol.asyncIterator]();
	}

	/** The next `length` bytes; fewer only at the end. They may change with the next call. */
	async read(length: number): Promise<Buffer> {
		if (this.#chunk.length === 0) await this.#fill();
		if (this.#chunk.length >= length) {
			const whole = this.#take(length);
			return Buffer.from(whole.buffer, whole.byteOffset, whole.byteLength);
		}
		if (this.#scratch.length < length) this.#scratch = Buffer.allocUnsafeSlow(length);
		let filled = 0;
		while (filled < length && (await this.#fill())) {
			const part = this.#take(length - filled);
			this.#scratch.set(part, filled);
			filled += part.length;
		}
		return this.#scratch.subarray(0, filled);
	}

	/** Whether nothing comes any more. */
	async ended(): Promise<boolean> {
		return !(await this.#fill());
	}

	/** Lets the source go; call it when done, also after an error. */
	async close(): Promise<void> {
		if (this.#ended) return;
		this.#ended = true;
		await this.#iterator.return?.();
	}

	#take(most: number): Uint8Array {
		const part = this.#chunk.subarray(0, most);
		this.#chunk = this.#chunk.subarray(part.length);
		return part;
	}

	/** Makes sure that there is a byte to take, if there is one at all. */
	async #fill(): Promise<boolean> {
		while (this.#chunk.length === 0 && !this.#ended) await this.#next();
		return this.#chunk.length > 0;
	}

	async #next(): Promise<void> {
		// A source that throws has ended too: nobody needs to close it then.
		this.#ended = true;
		const { done, value } = await this.#iterator.next();
		if (done === true) return;
		this.#ended = false;
		this.#chunk = value;
	}
}
