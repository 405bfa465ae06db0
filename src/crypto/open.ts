/** Opening: a sealed object goes in, its plaintext comes out, verified, or an error. */

import type { Buffer } from 'node:buffer';
import { createDecipheriv } from 'node:crypto';
import {
	FormatError,
	HEADER_SIZE,
	openHeader,
	PieceReader,
	parseHeader,
	SEGMENT_CIPHER,
	sealedSize,
	segmentCount,
	segmentLength,
	segmentNonce,
	TAG_SIZE,
} from './format.js';
import { bind } from './key-material.js';

export interface OpenOptions {
	/** The key file, byte for byte. */
	readonly ikm: Buffer;
	/** The artifact path under which the object was found. */
	readonly path: string;
	/** Bytes of the whole object, when the caller knows. */
	readonly objectSize?: number | undefined;
	/** The IV that a local record says the object has; guards against an older genuine object. */
	readonly expectedIv?: Uint8Array | undefined;
}

/** An object whose header is authentic. Segments may be opened in any order, each by itself. */
export class Opener {
	/** Plaintext length in bytes. */
	readonly size: number;
	readonly segmentLog2: number;
	/** Plaintext bytes in every segment but the last. */
	readonly segmentSize: number;
	readonly segmentCount: number;
	readonly iv: Buffer;
	readonly #path: string;
	readonly #key: Buffer;

	/**
	 * Does steps 1 to 7 of "Reading", in this order.
	 *
	 * @param options `header`: the object's first 64 bytes, or all it has.
	 * @throws {FormatError} ERR_PATH, ERR_KEY, ERR_NOT_S3PX, ERR_VERSION, ERR_TRUNCATED, ERR_HEADER, ERR_COMMITMENT,
	 * ERR_STALE, ERR_TRAILING.
	 */
	constructor({ ikm, path, header, objectSize, expectedIv }: OpenOptions & { readonly header: Buffer }) {
		const binding = bind(ikm, path);
		const fields = parseHeader(header, path);
		this.#key = openHeader(header, binding);
		this.#path = path;
		this.size = fields.size;
		this.segmentLog2 = fields.segmentLog2;
		this.segmentSize = 2 ** fields.segmentLog2;
		this.segmentCount = segmentCount(fields.size, fields.segmentLog2);
		this.iv = fields.iv;
		if (expectedIv !== undefined) this.#checkIv(expectedIv);
		if (objectSize !== undefined) this.#checkSize(objectSize);
	}

	/**
	 * Where segment `index` lies in the sealed object: its first byte and its last, as in an HTTP range.
	 *
	 * @throws {RangeError} when there is no such segment.
	 */
	segmentRange(index: number): { start: number; end: number } {
		const start = HEADER_SIZE + index * (this.segmentSize + TAG_SIZE);
		return { start, end: start + this.#sealedLength(index) - 1 };
	}

	/**
	 * Verifies segment `index` and returns its plaintext.
	 *
	 * @param sealed ciphertext || tag
	 * @throws {FormatError} ERR_TRUNCATED, ERR_TRAILING when it has too few or too many bytes; ERR_SEGMENT.
	 * @throws {RangeError} when there is no such segment.
	 */
	openSegment(index: number, sealed: Uint8Array): Buffer {
		const expected = this.#sealedLength(index);
		if (sealed.length < expected) {
			throw new FormatError('ERR_TRUNCATED', `${this.#path}: ends within segment ${index} of ${this.segmentCount}`);
		}
		if (sealed.length > expected) {
			throw new FormatError('ERR_TRAILING', `${this.#path}: segment ${index} of ${this.segmentCount} is too long`);
		}
		const nonce = segmentNonce(index, index === this.segmentCount - 1);
		const decipher = createDecipheriv(SEGMENT_CIPHER, this.#key, nonce, { authTagLength: TAG_SIZE });
		decipher.setAuthTag(sealed.subarray(expected - TAG_SIZE));
		const plain = decipher.update(sealed.subarray(0, expected - TAG_SIZE));
		try {
			decipher.final();
		} catch (error) {
			throw new FormatError(
				'ERR_SEGMENT',
				`${this.#path}: segment ${index} of ${this.segmentCount} is not authentic: it was altered or damaged`,
				{ cause: error },
			);
		}
		return plain;
	}

	/** The error for input that goes on after the last segment. */
	trailingError(): FormatError {
		return new FormatError('ERR_TRAILING', `${this.#path}: has bytes after its last segment`);
	}

	/** The bytes of segment `index` in the sealed object. */
	#sealedLength(index: number): number {
		if (!Number.isInteger(index) || index < 0 || index >= this.segmentCount) {
			throw new RangeError(`no segment ${index} among ${this.segmentCount}`);
		}
		return segmentLength(this.size, this.segmentLog2, index) + TAG_SIZE;
	}

	#checkIv(expected: Uint8Array): void {
		if (this.iv.equals(expected)) return;
		throw new FormatError('ERR_STALE', `${this.#path}: is a genuine object, but not the version that we know of`);
	}

	#checkSize(actual: number): void {
		const expected = sealedSize(this.size, this.segmentLog2);
		if (actual < expected) {
			throw new FormatError('ERR_TRUNCATED', `${this.#path}: has ${actual} bytes instead of ${expected}`);
		}
		if (actual > expected) {
			throw new FormatError('ERR_TRAILING', `${this.#path}: has ${actual} bytes instead of ${expected}`);
		}
	}
}

/**
 * Opens an object from `source`, whose chunks may be of any size: steps 1 to 8 of "Reading". What it yields is a genuine
 * prefix of the artifact, and the whole of it only if the generator ends without an error. Memory is that of two segments.
 *
 * @throws {FormatError} as `Opener` and its `openSegment`. Errors of the source pass through.
 */
export async function* openStream(
	options: OpenOptions & { readonly source: AsyncIterable<Uint8Array> },
): AsyncGenerator<Buffer> {
	const reader = new PieceReader(options.source);
	try {
		const opener = new Opener({ ...options, header: await reader.read(HEADER_SIZE) });
		for (let index = 0; index < opener.segmentCount; index++) {
			const { start, end } = opener.segmentRange(index);
			const plain = opener.openSegment(index, await reader.read(end - start + 1));
			const isLast = index === opener.segmentCount - 1;
			if (isLast && !(await reader.ended())) throw opener.trailingError();
			yield plain;
		}
	} finally {
		await reader.close();
	}
}
