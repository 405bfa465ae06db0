import { spawnSync } from 'node:child_process';
import { createCipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
	closeSync,
	constants,
	mkdtempSync,
	openSync,
	readFileSync,
	rmSync,
	statSync,
	truncateSync,
	writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Worker } from 'node:worker_threads';
import { expect } from 'chai';
import fc from 'fast-check';
import {
	checkFormatPath,
	FormatError,
	type FormatReason,
	HEADER_SIZE,
	hasMagic,
	MAX_SIZE,
	sealedSize,
	segmentCount,
	TAG_SIZE,
} from '../../src/crypto/format.js';
import { keyIdOf } from '../../src/crypto/key-material.js';
import { openLegacyStream } from '../../src/crypto/legacy.js';
import { Opener, type OpenOptions, openStream } from '../../src/crypto/open.js';
import { Sealer, type SealOptions, sealStream } from '../../src/crypto/seal.js';
import type { SealPool as Pool } from '../../src/crypto/seal-pool.js';
import { errnoOf, isS3proxyError } from '../../src/errors.js';

interface Vector {
	name: string;
	key_file_hex: string;
	key_id_sha1: string;
	path: string;
	path_hex: string;
	segment_log2: number;
	iv_hex: string;
	plaintext_length: number;
	plaintext_sha256: string;
	plaintext_hex?: string;
	header_hex: string;
	object_length: number;
	object_sha256: string;
	last_16_bytes_hex: string;
	object_hex?: string;
}

interface Corruption {
	name: string;
	expect: FormatReason;
	object_length: number;
	object_sha256: string;
	path?: string;
	key_file_hex?: string;
	expected_iv_hex?: string;
}

interface Vectors {
	vectors: Vector[];
	corruption_base: {
		key_file_hex: string;
		iv_hex: string;
		path: string;
		segment_log2: number;
		plaintext_length: number;
		object_length: number;
		object_sha256: string;
	};
	corruptions: Corruption[];
}

const VECTORS: Vectors = JSON.parse(readFileSync(new URL('../vectors/vectors.json', import.meta.url), 'utf8'));
const S = 2 ** 14;
const IKM = Buffer.from(VECTORS.corruption_base.key_file_hex, 'hex');

function hex(text: string): Buffer {
	return Buffer.from(text, 'hex');
}

function sha256(bytes: Uint8Array): string {
	return createHash('sha256').update(bytes).digest('hex');
}

/** The plaintext of the vectors that are longer than a byte. */
function pattern(length: number): Buffer {
	const bytes = Buffer.alloc(length);
	for (let i = 0; i < length; i++) bytes[i] = (7 * i + 13 * Math.floor(i / 256) + 5) % 256;
	return bytes;
}

function plaintextOf({ plaintext_hex, plaintext_length }: Vector): Buffer {
	return plaintext_hex === undefined ? pattern(plaintext_length) : hex(plaintext_hex);
}

async function* chunked(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
	for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** Chunks of the given sizes, over and over; a size of 0 is an empty chunk. */
async function* unevenly(bytes: Buffer, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
	for (let at = 0, i = 0; at < bytes.length; i++) {
		const size = sizes[i % sizes.length] ?? 1;
		yield bytes.subarray(at, at + size);
		at += size;
	}
}

async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
	const parts: Uint8Array[] = [];
	for await (const part of source) parts.push(part);
	return Buffer.concat(parts);
}

function sealWhole(plain: Buffer, options: Omit<SealOptions, 'size'>): Buffer {
	const sealer = new Sealer({ ...options, size: plain.length });
	const parts = [sealer.header];
	let at = 0;
	for (let length = sealer.nextLength; length !== undefined; length = sealer.nextLength) {
		parts.push(sealer.sealSegment(plain.subarray(at, at + length)));
		at += length;
	}
	return Buffer.concat(parts);
}

function openWhole(object: Buffer, options: Omit<OpenOptions, 'objectSize'>): Buffer {
	const opener = new Opener({ ...options, header: object.subarray(0, HEADER_SIZE), objectSize: object.length });
	const parts: Buffer[] = [];
	for (let index = 0; index < opener.segmentCount; index++) {
		const { start, end } = opener.segmentRange(index);
		parts.push(opener.openSegment(index, object.subarray(start, end + 1)));
	}
	return Buffer.concat(parts);
}

/** What a stream yielded, and the error it ended with. */
async function drain(source: AsyncIterable<Uint8Array>): Promise<{ released: Buffer; error: unknown }> {
	const parts: Uint8Array[] = [];
	try {
		for await (const part of source) parts.push(part);
	} catch (error) {
		return { released: Buffer.concat(parts), error };
	}
	return { released: Buffer.concat(parts), error: undefined };
}

function reasonOf(error: unknown): FormatReason | undefined {
	return isFormatError(error) ? error.reason : undefined;
}

/** By name: the built modules have a class of their own. */
function isFormatError(error: unknown): error is FormatError {
	return error instanceof Error && error.name === 'FormatError' && 'reason' in error;
}

/** The reason why `work` is refused; fails the test when it throws anything but a FormatError. */
function refusal(work: () => unknown): FormatReason | undefined {
	try {
		work();
	} catch (error) {
		if (isFormatError(error)) return error.reason;
		throw error;
	}
	return undefined;
}

async function rejection(promise: Promise<unknown>): Promise<unknown> {
	return promise.then(
		() => undefined,
		(error: unknown) => error,
	);
}

describe('the vectors', () => {
	const CHUNK_SIZES = [1, 7, 63, 64, 65, S - 1, S, S + 1, S + 15, S + 16, S + 17, 2 * S, 3 * S + 5];

	for (const vector of VECTORS.vectors) {
		describe(vector.name, () => {
			const ikm = hex(vector.key_file_hex);
			const { path, segment_log2: segmentLog2 } = vector;
			const plain = plaintextOf(vector);
			const iv = hex(vector.iv_hex);
			const options = { ikm, path, segmentLog2, iv };
			const object = sealWhole(plain, options);

			it('is what it says it is', () => {
				expect(sha256(plain)).to.equal(vector.plaintext_sha256);
				expect(keyIdOf(ikm)).to.equal(vector.key_id_sha1);
				expect(checkFormatPath(path).toString('hex')).to.equal(vector.path_hex);
			});

			it('is sealed to the bytes that are expected', () => {
				expect(object.subarray(0, HEADER_SIZE).toString('hex')).to.equal(vector.header_hex);
				expect(object.length).to.equal(vector.object_length);
				expect(object.subarray(-TAG_SIZE).toString('hex')).to.equal(vector.last_16_bytes_hex);
				expect(sha256(object)).to.equal(vector.object_sha256);
				if (vector.object_hex !== undefined) expect(object.toString('hex')).to.equal(vector.object_hex);
				const sealer = new Sealer({ ...options, size: plain.length });
				expect(sealer.sealedSize).to.equal(vector.object_length);
				expect(sealer.iv.equals(iv)).to.equal(true);
			});

			it('is opened whole', () => {
				expect(openWhole(object, { ikm, path, expectedIv: iv }).equals(plain)).to.equal(true);
			});

			it('is sealed and opened in chunks of any size', async () => {
				for (const size of CHUNK_SIZES) {
					const sealed = sealStream({ ...options, size: plain.length, source: chunked(plain, size) });
					expect(sha256(await collect(sealed)), `sealed by ${size}`).to.equal(vector.object_sha256);
					const opened = openStream({ ikm, path, source: chunked(object, size) });
					expect(sha256(await collect(opened)), `opened by ${size}`).to.equal(vector.plaintext_sha256);
				}
			});
		});
	}
});

describe('the corruptions', () => {
	const base = VECTORS.corruption_base;
	const SEALED = S + TAG_SIZE;
	const plain = pattern(base.plaintext_length);
	const iv = hex(base.iv_hex);
	const object = sealWhole(plain, { ikm: IKM, path: base.path, segmentLog2: base.segment_log2, iv });
	const header = object.subarray(0, HEADER_SIZE);
	const segments = [0, 1, 2].map((i) => object.subarray(HEADER_SIZE + i * SEALED, HEADER_SIZE + (i + 1) * SEALED));
	const [first = header, second = header, last = header] = segments;

	function flip(at: number, mask: number): Buffer {
		const copy = Buffer.from(object);
		copy[at] = (copy[at] ?? 0) ^ mask;
		return copy;
	}

	/** The object with segment `index` sealed under another final flag. */
	function reflag(index: number, flag: number): Buffer {
		const info = Buffer.concat([header.subarray(0, 20), Buffer.from(base.path)]);
		const key = Buffer.from(hkdfSync('sha256', IKM, iv, info, 64)).subarray(0, 32);
		const nonce = Buffer.alloc(12);
		nonce[10] = index;
		nonce[11] = flag;
		const cipher = createCipheriv('aes-256-gcm', key, nonce);
		const ciphertext = cipher.update(plain.subarray(index * S, (index + 1) * S));
		cipher.final();
		return Buffer.concat([
			header,
			...segments.map((sealed, i) => (i === index ? Buffer.concat([ciphertext, cipher.getAuthTag()]) : sealed)),
		]);
	}

	function bodyOfAnother(): Buffer {
		const otherIv = hex('b0b1b2b3b4b5b6b7b8b9babb');
		const other = sealWhole(plain, { ikm: IKM, path: base.path, segmentLog2: base.segment_log2, iv: otherIv });
		return Buffer.concat([header, other.subarray(HEADER_SIZE)]);
	}

	const MADE: Record<string, () => Buffer> = {
		'magic bit flip': () => flip(0, 1),
		'magic last byte flip': () => flip(7, 1),
		'version 2': () => flip(8, 3),
		'version 0': () => flip(8, 1),
		'segment exponent 14->15 (legal value)': () => flip(9, 14 ^ 15),
		'segment exponent 13 (illegal)': () => flip(9, 14 ^ 13),
		'segment exponent 0xff': () => flip(9, 14 ^ 0xff),
		'reserved byte 10': () => flip(10, 1),
		'reserved byte 11': () => flip(11, 0x80),
		'length low bit': () => flip(19, 1),
		'length huge': () => flip(12, 0x80),
		'IV first byte': () => flip(20, 1),
		'IV last byte': () => flip(31, 0x80),
		'commitment first byte': () => flip(32, 1),
		'commitment last byte': () => flip(63, 0x80),
		'segment 0 first ciphertext byte': () => flip(64, 1),
		'segment 1 tag bit': () => flip(HEADER_SIZE + 2 * SEALED - 1, 1),
		'final tag last bit': () => flip(object.length - 1, 1),
		'segments 0 and 1 swapped': () => Buffer.concat([header, second, first, last]),
		'segment 0 duplicated over 1': () => Buffer.concat([header, first, first, last]),
		'truncated at segment boundary (last segment dropped)': () => Buffer.concat([header, first, second]),
		'last two segments dropped': () => Buffer.concat([header, first]),
		'all segments dropped (header only)': () => header,
		'one byte short': () => object.subarray(0, -1),
		'cut inside header': () => object.subarray(0, 40),
		'middle segment removed': () => Buffer.concat([header, first, last]),
		'one byte appended': () => Buffer.concat([object, Buffer.alloc(1)]),
		'final segment appended again': () => Buffer.concat([object, last]),
		'object concatenated with itself': () => Buffer.concat([object, object]),
		'flag: final segment sealed with flag 0': () => reflag(2, 0),
		'flag: segment 0 sealed with flag 1': () => reflag(0, 1),
		'flag byte 2 on final segment': () => reflag(2, 2),
		'body of another object, same key+path+length': bodyOfAnother,
		'legacy object (GCM, no tag)': () => createCipheriv('aes-256-gcm', IKM, iv).update(plain),
		'plaintext object (encryption: false)': () => plain,
		'empty object': () => Buffer.alloc(0),
		'12-byte -iv object in place of main': () => iv,
	};

	it('start from the object that is expected', () => {
		expect(object.length).to.equal(base.object_length);
		expect(sha256(object)).to.equal(base.object_sha256);
	});

	it('are 47', () => {
		expect(VECTORS.corruptions).to.have.length(47);
	});

	for (const corruption of VECTORS.corruptions) {
		describe(corruption.name, () => {
			// What has no recipe is the genuine object, read with another key, path or expectation.
			const corrupted = MADE[corruption.name]?.() ?? object;
			const path = corruption.path ?? base.path;
			const ikm = corruption.key_file_hex === undefined ? IKM : hex(corruption.key_file_hex);
			const expectedIv = corruption.expected_iv_hex === undefined ? undefined : hex(corruption.expected_iv_hex);
			const options = { ikm, path, expectedIv };

			it('is the object that is expected', () => {
				expect(corrupted.length).to.equal(corruption.object_length);
				expect(sha256(corrupted)).to.equal(corruption.object_sha256);
			});

			it(`gives ${corruption.expect} when the size is known`, () => {
				// A wrong size shows before a wrong segment does; nothing else here has more than one error.
				expect(refusal(() => openWhole(corrupted, options))).to.equal(corruption.expect);
			});

			it(`gives ${corruption.expect} from a stream, after a genuine prefix`, async () => {
				for (const size of [1, 65, S, SEALED, 10 * S]) {
					const { released, error } = await drain(openStream({ ...options, source: chunked(corrupted, size) }));
					expect(reasonOf(error), String(error)).to.equal(corruption.expect);
					expect(released.length).to.be.lessThan(plain.length);
					expect(plain.subarray(0, released.length).equals(released)).to.equal(true);
				}
			});

			it('gives an error that names the path, the reason and no key', async () => {
				const { error } = await drain(openStream({ ...options, source: chunked(corrupted, S) }));
				if (!(error instanceof FormatError)) throw new Error('expected a FormatError');
				expect(error.message).to.contain(corruption.expect);
				if (corruption.expect !== 'ERR_KEY') expect(error.message).to.contain(path);
				expect(error.message).not.to.contain(ikm.toString('hex'));
				const codes: Partial<Record<FormatReason, string>> = { ERR_KEY: 'bad-key', ERR_PATH: 'bad-path' };
				expect(error.code).to.equal(codes[corruption.expect] ?? 'not-authentic');
			});
		});
	}

	it('name the segment that is not authentic', () => {
		const opener = new Opener({ ikm: IKM, path: base.path, header });
		expect(() => opener.openSegment(1, first)).to.throw(FormatError, /segment 1 of 3 .*ERR_SEGMENT/);
	});
});

describe('the order of the steps', () => {
	const path = 'a/b';
	const object = sealWhole(pattern(10), { ikm: IKM, path });

	const TABLE: [string, Buffer, FormatReason][] = [
		['7 bytes', object.subarray(0, 7), 'ERR_NOT_S3PX'],
		['the magic alone', object.subarray(0, 8), 'ERR_TRUNCATED'],
		['another version, and nothing more', Buffer.concat([object.subarray(0, 8), Buffer.from([2])]), 'ERR_VERSION'],
		['63 bytes', object.subarray(0, 63), 'ERR_TRUNCATED'],
		[
			'impossible values and a wrong commitment',
			Buffer.concat([object.subarray(0, 9), Buffer.alloc(55)]),
			'ERR_HEADER',
		],
	];
	for (const [name, header, reason] of TABLE) {
		it(`${name}: ${reason}`, () => {
			expect(refusal(() => new Opener({ ikm: IKM, path, header }))).to.equal(reason);
		});
	}

	it('looks at the path, then the key, then the object', () => {
		const ikm = Buffer.alloc(3);
		expect(refusal(() => new Opener({ ikm, path: '..', header: Buffer.alloc(0) }))).to.equal('ERR_PATH');
		expect(refusal(() => new Opener({ ikm, path, header: Buffer.alloc(0) }))).to.equal('ERR_KEY');
	});

	it('looks at the IV before the size', () => {
		const expectedIv = Buffer.alloc(12);
		const open = () => new Opener({ ikm: IKM, path, header: object, expectedIv, objectSize: 1 });
		expect(refusal(open)).to.equal('ERR_STALE');
	});

	it('accepts a size of 2^46 and no more in a header', () => {
		const sealer = new Sealer({ ikm: IKM, path, size: MAX_SIZE });
		expect(new Opener({ ikm: IKM, path, header: sealer.header }).size).to.equal(MAX_SIZE);
		const header = Buffer.from(sealer.header);
		header[19] = 1;
		expect(refusal(() => new Opener({ ikm: IKM, path, header }))).to.equal('ERR_HEADER');
		const tooLarge = () => new Sealer({ ikm: IKM, path, size: MAX_SIZE + 1 });
		expect(tooLarge).to.throw().with.property('code', 'too-large');
	});

	it('numbers segments beyond 32 bits', () => {
		const sealer = new Sealer({ ikm: IKM, path, size: MAX_SIZE, segmentLog2: 14 });
		expect(sealer.segmentCount).to.equal(2 ** 32);
		const opener = new Opener({ ikm: IKM, path, header: sealer.header });
		const { end } = opener.segmentRange(2 ** 32 - 1);
		expect(end + 1).to.equal(sealer.sealedSize);
	});
});

describe('paths', () => {
	const GOOD = [
		'a',
		'a/b',
		'a b',
		'.a',
		'...',
		'a/..b',
		'-ivx',
		'a-iv/b',
		'déjà/文件',
		'x'.repeat(980),
		'𝄞',
		'a\\b',
		'%2F',
	];
	for (const path of GOOD) {
		it(`accepts ${JSON.stringify(path.slice(0, 20))}`, () => {
			expect(checkFormatPath(path).toString()).to.equal(path);
		});
	}

	const BAD = [
		'',
		'/a',
		'a/',
		'a//b',
		'.',
		'..',
		'a/./b',
		'a/../b',
		'a\nb',
		'a\u0000',
		'\u007f',
		'a-iv',
		'd/-iv',
		'\ud800',
	];
	BAD.push('x'.repeat(981), `${'é'.repeat(490)}x`, 'a\udc00b');
	for (const path of BAD) {
		it(`refuses ${JSON.stringify(path.slice(0, 20))} with ${path.length} characters`, () => {
			expect(refusal(() => checkFormatPath(path))).to.equal('ERR_PATH');
			expect(refusal(() => new Sealer({ ikm: IKM, path, size: 0 }))).to.equal('ERR_PATH');
		});
	}
});

describe('sizes', () => {
	const TABLE: [number, number][] = [
		[0, 1],
		[1, 1],
		[S - 1, 1],
		[S, 1],
		[S + 1, 2],
		[2 * S - 1, 2],
		[2 * S, 2],
		[2 * S + 1, 3],
	];
	for (const [size, count] of TABLE) {
		it(`seals ${size} bytes in ${count} segments and opens them`, async () => {
			const options = { ikm: IKM, path: 'p', segmentLog2: 14 };
			const plain = pattern(size);
			const object = sealWhole(plain, options);
			expect(segmentCount(size, 14)).to.equal(count);
			expect(sealedSize(size, 14))
				.to.equal(object.length)
				.and.to.equal(64 + size + 16 * count);
			expect(hasMagic(object)).to.equal(true);
			expect(openWhole(object, options).equals(plain)).to.equal(true);
			const streamed = openStream({ ...options, source: chunked(object, 1000), objectSize: object.length });
			expect((await collect(streamed)).equals(plain)).to.equal(true);
		});

		it(`refuses a source with one byte more or less than ${size}`, async () => {
			for (const actual of [size - 1, size + 1, size + S]) {
				if (actual < 0) continue;
				const source = chunked(pattern(actual), 1000);
				const { released, error } = await drain(sealStream({ ikm: IKM, path: 'p', size, segmentLog2: 14, source }));
				expect(reasonOf(error)).to.equal('ERR_SOURCE');
				expect(isS3proxyError(error, 'source-changed')).to.equal(true);
				expect(released.length).to.be.lessThan(sealedSize(size, 14));
			}
		});
	}

	it('refuses a segment of the wrong length, and one too many', () => {
		const sealer = new Sealer({ ikm: IKM, path: 'p', size: S + 1, segmentLog2: 14 });
		expect(refusal(() => sealer.sealSegment(pattern(S - 1)))).to.equal('ERR_SOURCE');
		expect(refusal(() => sealer.sealSegment(pattern(S + 1)))).to.equal('ERR_SOURCE');
		sealer.sealSegment(pattern(S));
		sealer.sealSegment(pattern(1));
		expect(refusal(() => sealer.sealSegment(pattern(1)))).to.equal('ERR_SOURCE');
		expect(refusal(() => sealer.sealSegment(pattern(0)))).to.equal('ERR_SOURCE');
	});

	it('opens segments by themselves, from the range that it names', () => {
		const plain = pattern(2 * S + 7);
		const object = sealWhole(plain, { ikm: IKM, path: 'p', segmentLog2: 14 });
		const opener = new Opener({ ikm: IKM, path: 'p', header: object.subarray(0, 64) });
		expect(opener.segmentRange(0)).to.deep.equal({ start: 64, end: 64 + S + 15 });
		expect(opener.segmentRange(2)).to.deep.equal({ start: 64 + 2 * (S + 16), end: object.length - 1 });
		for (const index of [2, 0, 1]) {
			const { start, end } = opener.segmentRange(index);
			const opened = opener.openSegment(index, object.subarray(start, end + 1));
			expect(opened.equals(plain.subarray(index * S, (index + 1) * S))).to.equal(true);
		}
		for (const index of [-1, 3, 0.5, Number.NaN]) expect(() => opener.segmentRange(index)).to.throw(RangeError);
		expect(refusal(() => opener.openSegment(2, object.subarray(-22)))).to.equal('ERR_TRUNCATED');
		expect(refusal(() => opener.openSegment(2, object.subarray(-24)))).to.equal('ERR_TRAILING');
	});

	it('draws a fresh IV each time', () => {
		const ivs = Array.from({ length: 100 }, () => new Sealer({ ikm: IKM, path: 'p', size: 0 }).iv.toString('hex'));
		expect(new Set(ivs).size).to.equal(100);
	});
});

describe('streams', () => {
	/** A source that tells whether it was closed. */
	function watched(bytes: Buffer): { source: AsyncIterable<Uint8Array>; isClosed: () => boolean } {
		let closed = false;
		async function* read(): AsyncGenerator<Uint8Array> {
			try {
				yield* chunked(bytes, 1000);
			} finally {
				closed = true;
			}
		}
		return { source: read(), isClosed: () => closed };
	}

	it('close their source when the consumer stops', async () => {
		const options = { ikm: IKM, path: 'p', segmentLog2: 14 };
		const plain = pattern(3 * S);
		const sealing = watched(plain);
		for await (const chunk of sealStream({ ...options, size: plain.length, source: sealing.source })) {
			if (chunk.length > HEADER_SIZE) break;
		}
		expect(sealing.isClosed()).to.equal(true);
		const opening = watched(sealWhole(plain, options));
		for await (const _chunk of openStream({ ...options, source: opening.source })) break;
		expect(opening.isClosed()).to.equal(true);
	});

	it('close their source after an error', async () => {
		const { source, isClosed } = watched(Buffer.alloc(10_000));
		expect(reasonOf((await drain(openStream({ ikm: IKM, path: 'p', source }))).error)).to.equal('ERR_NOT_S3PX');
		expect(isClosed()).to.equal(true);
	});

	it('pass errors of the source on', async () => {
		const object = sealWhole(pattern(3 * S), { ikm: IKM, path: 'p', segmentLog2: 14 });
		async function* broken(): AsyncGenerator<Uint8Array> {
			yield object.subarray(0, 2 * S);
			throw new Error('the line is dead');
		}
		const { released, error } = await drain(openStream({ ikm: IKM, path: 'p', source: broken() }));
		expect(released.length).to.equal(S);
		expect(error).to.have.property('message', 'the line is dead');
	});

	it('release the last segment only when the input has ended', async () => {
		const object = sealWhole(pattern(S), { ikm: IKM, path: 'p', segmentLog2: 14 });
		let asked = false;
		async function* slow(): AsyncGenerator<Uint8Array> {
			yield object;
			asked = true;
			yield Buffer.alloc(0);
		}
		for await (const _chunk of openStream({ ikm: IKM, path: 'p', source: slow() })) expect(asked).to.equal(true);
	});
});

describe('properties', () => {
	const sizes = fc.oneof(
		fc.nat(200),
		fc.integer({ min: S - 20, max: S + 20 }),
		fc.integer({ min: 2 * S - 20, max: 3 * S }),
	);
	const chunkSizes = fc.array(fc.oneof(fc.integer({ min: 0, max: 100 }), fc.nat(2 * S)), {
		minLength: 1,
		maxLength: 8,
	});
	const progressing = chunkSizes.filter((chunks) => chunks.some((size) => size > 10));
	const keys = fc.uint8Array({ minLength: 32, maxLength: 64 }).map((bytes) => Buffer.concat([IKM, bytes]));
	const paths = fc
		.array(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 4 })
		.map((components) => components.join('/'))
		.filter((path) => refusal(() => checkFormatPath(path)) === undefined);

	it('what is sealed in any chunks opens in any chunks', async () => {
		await fc.assert(
			fc.asyncProperty(sizes, keys, paths, progressing, progressing, async (size, ikm, path, into, out) => {
				const plain = pattern(size);
				const source = unevenly(plain, into);
				const object = await collect(sealStream({ ikm, path, size, segmentLog2: 14, source }));
				expect(object.length).to.equal(sealedSize(size, 14));
				const opened = await collect(openStream({ ikm, path, source: unevenly(object, out) }));
				expect(opened.equals(plain)).to.equal(true);
			}),
			{ numRuns: 150 },
		);
	});

	it('any change to any byte is refused, and only a genuine prefix is released', async () => {
		await fc.assert(
			fc.asyncProperty(sizes, fc.nat(), fc.integer({ min: 1, max: 255 }), async (size, where, mask) => {
				const plain = pattern(size);
				const object = sealWhole(plain, { ikm: IKM, path: 'p', segmentLog2: 14 });
				const at = where % object.length;
				object[at] = (object[at] ?? 0) ^ mask;
				const { released, error } = await drain(openStream({ ikm: IKM, path: 'p', source: chunked(object, 5000) }));
				expect(error).to.be.instanceOf(FormatError);
				expect(plain.subarray(0, released.length).equals(released)).to.equal(true);
				expect(released.length % S).to.equal(0);
				// The segments before the change are released, and none from it on.
				expect(released.length).to.equal(Math.max(0, Math.floor((at - HEADER_SIZE) / (S + TAG_SIZE))) * S);
			}),
			{ numRuns: 300 },
		);
	});

	it('an object cut anywhere is refused, and only a genuine prefix is released', async () => {
		await fc.assert(
			fc.asyncProperty(sizes, fc.nat(), async (size, where) => {
				const plain = pattern(size);
				const object = sealWhole(plain, { ikm: IKM, path: 'p', segmentLog2: 14 });
				const cut = object.subarray(0, where % object.length);
				const { released, error } = await drain(openStream({ ikm: IKM, path: 'p', source: chunked(cut, 5000) }));
				expect(reasonOf(error)).to.equal(cut.length < 8 ? 'ERR_NOT_S3PX' : 'ERR_TRUNCATED');
				expect(plain.subarray(0, released.length).equals(released)).to.equal(true);
			}),
			{ numRuns: 150 },
		);
	});

	it('bytes that are no object are never opened', async () => {
		await fc.assert(
			fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.boolean(), async (bytes, withMagic) => {
				const object = Buffer.concat([withMagic ? hex('89533350580d0a1a01') : Buffer.alloc(0), bytes]);
				const { released, error } = await drain(openStream({ ikm: IKM, path: 'p', source: chunked(object, 64) }));
				expect(error).to.be.instanceOf(FormatError);
				expect(released.length).to.equal(0);
			}),
		);
	});
});

describe('legacy objects', () => {
	it('are decrypted in chunks of any size', async () => {
		const plain = pattern(100_000);
		const iv = randomBytes(12);
		const ikm = Buffer.concat([IKM, Buffer.from('what follows the first 32 bytes is not used')]);
		const object = createCipheriv('aes-256-gcm', IKM, iv).update(plain);
		for (const size of [1, 15, 16, 17, 4096, 200_000]) {
			const opened = await collect(openLegacyStream({ source: chunked(object, size), ikm, iv }));
			expect(opened.equals(plain)).to.equal(true);
		}
	});

	it('need an IV of 12 bytes and a key of 32', async () => {
		const source = chunked(Buffer.alloc(1), 1);
		const iv = Buffer.alloc(12);
		const shortIv = await drain(openLegacyStream({ source, ikm: IKM, iv: Buffer.alloc(11) }));
		expect(reasonOf(shortIv.error)).to.equal('ERR_HEADER');
		const shortKey = await drain(openLegacyStream({ source, ikm: IKM.subarray(1), iv }));
		expect(reasonOf(shortKey.error)).to.equal('ERR_KEY');
	});
});

/** By its shape: the built modules have classes of their own. */
function hasCode(error: unknown, code: string): boolean {
	return error instanceof Error && 'code' in error && error.code === code;
}

describe('SealPool', () => {
	let directory: string;
	let SealPool: typeof Pool;
	let pool: Pool;
	const LARGE = 2 ** 18;

	// As built: worker threads do not load TypeScript.
	const built = new URL('../../dist/crypto/seal-pool.js', import.meta.url).href;
	before(async () => {
		({ SealPool } = (await import(built)) as typeof import('../../src/crypto/seal-pool.js'));
	});

	beforeEach(() => {
		directory = mkdtempSync(join(tmpdir(), 's3proxy-pool-'));
		pool = new SealPool(2);
	});

	afterEach(async () => {
		await pool.close();
		rmSync(directory, { recursive: true });
	});

	interface Attempt {
		size?: number;
		path?: string;
		material?: Buffer;
		target?: string;
		targetFlags?: number | string;
		fsync?: boolean;
	}

	/** A job for the pool, whose files are open. */
	function openJob(plain: Buffer, name: string, attempt: Attempt = {}) {
		const sourceFile = join(directory, name);
		const targetFile = attempt.target ?? join(directory, `${name}.sealed`);
		writeFileSync(sourceFile, plain);
		const sourceFd = openSync(sourceFile, 'r');
		const targetFd = openSync(targetFile, attempt.targetFlags ?? 'w');
		const { size = plain.length, path = name, material = IKM, fsync = false } = attempt;
		return { targetFile, job: { sourceFd, targetFd, size, material, path, fsync } };
	}

	function closeJob({ sourceFd, targetFd }: { sourceFd: number; targetFd: number }): void {
		closeSync(sourceFd);
		closeSync(targetFd);
	}

	/** Seals `plain` through files and returns what the pool says and the object. */
	async function seal(plain: Buffer, name: string, attempt: Attempt = {}) {
		const { targetFile, job } = openJob(plain, name, attempt);
		try {
			const result = await pool.sealFile(job);
			return { ...result, object: readFileSync(targetFile) };
		} finally {
			closeJob(job);
		}
	}

	for (const size of [0, 1, 4096, LARGE - 1, LARGE, LARGE + 1, 5 * LARGE + 3]) {
		it(`seals a file of ${size} bytes`, async () => {
			const plain = pattern(size);
			const { iv, sealedSize: written, object } = await seal(plain, 'file', { fsync: true });
			expect(written).to.equal(object.length).and.to.equal(sealedSize(size));
			expect(openWhole(object, { ikm: IKM, path: 'file', expectedIv: iv }).equals(plain)).to.equal(true);
			expect(iv.length).to.equal(12);
		});
	}

	it('seals many files at once, each under its own name and IV', async () => {
		const names = Array.from({ length: 100 }, (_, i) => `file-${i}`);
		const sealed = await Promise.all(names.map((name, i) => seal(pattern(i * 10), name)));
		for (const [i, { object }] of sealed.entries()) {
			expect(openWhole(object, { ikm: IKM, path: `file-${i}` }).equals(pattern(i * 10))).to.equal(true);
		}
		expect(new Set(sealed.map(({ iv }) => iv.toString('hex'))).size).to.equal(100);
	});

	it('gives ERR_SOURCE when the file is shorter or longer than it should be', async () => {
		for (const [actual, size] of [
			[9, 10],
			[11, 10],
			[0, 1],
			[1, 0],
			[LARGE, LARGE + 1],
			[LARGE + 1, LARGE],
			[3 * LARGE, 2 * LARGE],
		] as const) {
			const error = await rejection(seal(pattern(actual), 'file', { size }));
			expect(reasonOf(error), `${actual} for ${size}`).to.equal('ERR_SOURCE');
			expect(hasCode(error, 'source-changed')).to.equal(true);
			expect(error)
				.to.have.property('message')
				.that.matches(/^file: there are (more|fewer) .* \(ERR_SOURCE\)$/);
		}
	});

	it('notices a file that shrinks while it waits', async () => {
		const file = join(directory, 'shrinking');
		writeFileSync(file, pattern(3 * LARGE));
		const sourceFd = openSync(file, 'r');
		const targetFd = openSync(join(directory, 'target'), 'w');
		const job = { sourceFd, targetFd, size: 3 * LARGE, material: IKM, path: 'p', fsync: false };
		// The thread has yet to start.
		const sealing = pool.sealFile(job);
		truncateSync(file, LARGE);
		expect(reasonOf(await rejection(sealing))).to.equal('ERR_SOURCE');
		closeSync(sourceFd);
		closeSync(targetFd);
	});

	it('keeps code and reason of an error, and goes on afterwards', async () => {
		expect(reasonOf(await rejection(seal(pattern(1), 'a', { path: 'a/../b' })))).to.equal('ERR_PATH');
		expect(reasonOf(await rejection(seal(pattern(1), 'b', { material: Buffer.alloc(31) })))).to.equal('ERR_KEY');
		const error = await rejection(seal(pattern(1), 'c', { size: MAX_SIZE + 1 }));
		expect(hasCode(error, 'too-large')).to.equal(true);
		expect((await seal(pattern(1), 'd')).object.length).to.equal(81);
	});

	it('keeps errno and system call of an error', async function () {
		if (!statSync('/dev/full', { throwIfNoEntry: false })) return this.skip();
		const target = '/dev/full';
		const error = await rejection(seal(pattern(1), 'file', { target, targetFlags: constants.O_WRONLY }));
		expect(errnoOf(error)).to.equal('ENOSPC');
		expect(error).to.have.property('syscall').that.is.a('string');
		expect(error).to.have.property('errno').that.is.a('number');
	});

	it('takes a key that is a part of a larger buffer', async () => {
		const slab = randomBytes(8192);
		const material = slab.subarray(100, 132);
		const { object } = await seal(pattern(5), 'file', { material });
		expect(openWhole(object, { ikm: material, path: 'file' }).equals(pattern(5))).to.equal(true);
	});

	it('stops at once when it is closed', async () => {
		// All are made before the first begins: it would have ended while the others were written.
		const jobs = ['a', 'b', 'c', 'd'].map((name) => openJob(pattern(20 * LARGE), name).job);
		const outcomes = jobs.map((job) => rejection(pool.sealFile(job)));
		await pool.close();
		for (const error of await Promise.all(outcomes)) expect(hasCode(error, 'stopping')).to.equal(true);
		jobs.forEach(closeJob);
		expect(hasCode(await rejection(seal(pattern(1), 'e')), 'stopping')).to.equal(true);
	});

	it('fails the job of a thread that dies, and goes on with another', async () => {
		const starting = once(process, 'worker');
		const outcome = rejection(seal(pattern(20 * LARGE), 'a'));
		const [worker]: Worker[] = await starting;
		await worker?.terminate();
		const error = await outcome;
		expect(hasCode(error, 'io')).to.equal(true);
		expect(error)
			.to.have.property('message')
			.that.matches(/^a: the thread that should seal it failed/);
		expect((await seal(pattern(1), 'b')).object.length).to.equal(81);
	});

	it('starts threads only for what no idle one can take', async () => {
		let started = 0;
		const count = () => {
			started += 1;
		};
		process.on('worker', count);
		try {
			expect(started).to.equal(0);
			await seal(pattern(1), 'a');
			await seal(pattern(1), 'b');
			expect(started).to.equal(1);
			await Promise.all(['c', 'd', 'e', 'f'].map((name) => seal(pattern(1), name)));
			expect(started).to.equal(2);
		} finally {
			process.off('worker', count);
		}
	});

	it('lets the process exit while it is idle', () => {
		const source = JSON.stringify(built);
		const file = JSON.stringify(join(directory, 'file'));
		const script = `
			import { openSync } from 'node:fs';
			const { SealPool } = await import(${source});
			const pool = new SealPool(2);
			const [sourceFd, targetFd] = [openSync('/dev/null', 'r'), openSync(${file}, 'w')];
			await pool.sealFile({ sourceFd, targetFd, size: 0, material: Buffer.from(${JSON.stringify([...IKM])}), path: 'p', fsync: false });
		`;
		const program = join(directory, 'idle.mjs');
		writeFileSync(program, script);
		const child = spawnSync(process.execPath, [program], { timeout: 20_000, encoding: 'utf8' });
		expect(child.stderr).to.equal('');
		expect(child.status).to.equal(0);
		expect(statSync(join(directory, 'file')).size).to.equal(80);
	}).timeout(25_000);

	it('takes one worker or more', () => {
		for (const workers of [0, -1, 1.5, Number.NaN]) expect(() => new SealPool(workers)).to.throw(RangeError);
	});
});
