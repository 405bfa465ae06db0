/** Sealing: plaintext goes in, the object of docs/format.md comes out. */

import { Buffer } from 'node:buffer';
import { createCipheriv, randomBytes } from 'node:crypto';
import {
	buildHeader,
	DEFAULT_SEGMENT_LOG2,
	FormatError,
	IV_SIZE,
	PieceReader,
	SEGMENT_CIPHER,
	sealedSize,
	segmentCount,
	segmentLength,
	segmentNonce,
	TAG_SIZE,
} from './format.js';
import { bind } from './key-material.js';

export interface SealOptions {
	/** The key file, byte for byte. */
	readonly ikm: Buffer;
	/** The artifact path that the object is bound to. */
	readonly path: string;
	/** Plaintext length in bytes. */
	readonly size: number;
	/** log2 of the plaintext bytes in a segment, 14 to 24; 18 if not given. */
	readonly segmentLog2?: number;
	/** For test vectors alone: an IV must never be used twice, so that one is drawn when none is given. */
	readonly iv?: Buffer;
}

/** A sealed segment in two pieces, for who writes them together without copying them together. */
export interface SealedSegment {
	readonly ciphertext: Buffer;
	readonly tag: Buffer;
}

/** Seals one artifact, once: `header` first, then each segment in order. An attempt that failed needs a new Sealer. */
export class Sealer {
	readonly header: Buffer;
	readonly iv: Buffer;
	/** Bytes of the whole object. */
	readonly sealedSize: number;
	readonly segmentCount: number;
	readonly #path: string;
	readonly #size: number;
	readonly #segmentLog2: number;
	readonly #key: Buffer;
	/** The number of the next segment. */
	#next = 0;

	/**
	 * @throws {FormatError} ERR_PATH, ERR_KEY.
	 * @throws {S3proxyError} `too-large`.
	 */
	constructor({ ikm, path, size, segmentLog2 = DEFAULT_SEGMENT_LOG2, iv = randomBytes(IV_SIZE) }: SealOptions) {
		const { header, key } = buildHeader({ size, segmentLog2, iv }, bind(ikm, path));
		this.header = header;
		this.iv = iv;
		this.sealedSize = sealedSize(size, segmentLog2);
		this.segmentCount = segmentCount(size, segmentLog2);
		this.#path = path;
		this.#size = size;
		this.#segmentLog2 = segmentLog2;
		this.#key = key;
	}

	/** The plaintext bytes that the next segment must have; undefined after the last. */
	get nextLength(): number | undefined {
		return this.#next < this.segmentCount ? segmentLength(this.#size, this.#segmentLog2, this.#next) : undefined;
	}

	/**
	 * Seals the next segment: ciphertext || tag.
	 *
	 * @throws {FormatError} ERR_SOURCE when `plain` has not `nextLength` bytes.
	 */
	sealSegment(plain: Uint8Array): Buffer {
		const { ciphertext, tag } = this.sealPieces(plain);
		return Buffer.concat([ciphertext, tag], ciphertext.length + TAG_SIZE);
	}

	/** `sealSegment` without the last copy. */
	sealPieces(plain: Uint8Array): SealedSegment {
		const expected = this.nextLength;
		if (expected === undefined) throw this.sourceError('more');
		if (plain.length !== expected) throw this.sourceError(plain.length < expected ? 'fewer' : 'more');
		const nonce = segmentNonce(this.#next, this.#next === this.segmentCount - 1);
		this.#next += 1;
		const cipher = createCipheriv(SEGMENT_CIPHER, this.#key, nonce, { authTagLength: TAG_SIZE });
		const ciphertext = cipher.update(plain);
		cipher.final();
		return { ciphertext, tag: cipher.getAuthTag() };
	}

	/** The error for a source that has `found` bytes than it was said to have. */
	sourceError(found: 'more' | 'fewer'): FormatError {
		return new FormatError(
			'ERR_SOURCE',
			`${this.#path}: there are ${found} than the expected ${this.#size} bytes; it changed while it was being sealed`,
		);
	}
}

/**
 * Seals `source`, whose chunks may be of any size. Yields the object's bytes; memory is that of two segments.
 *
 * @throws {FormatError} ERR_PATH, ERR_KEY; ERR_SOURCE when the source has more or fewer than `size` bytes: throw away
 * what was yielded. Errors of the source pass through.
 */
export async function* sealStream(
	options: SealOptions & { readonly source: AsyncIterable<Uint8Array> },
): AsyncGenerator<Buffer> {
	const sealer = new Sealer(options);
	const reader = new PieceReader(options.source);
	try {
		yield sealer.header;
		for (let length = sealer.nextLength; length !== undefined; length = sealer.nextLength) {
			const sealed = sealer.sealSegment(await reader.read(length));
			// Asked before the last segment is out, so that nobody takes the object for complete.
			if (sealer.nextLength === undefined && !(await reader.ended())) throw sealer.sourceError('more');
			yield sealed;
		}
	} finally {
		await reader.close();
	}
}
