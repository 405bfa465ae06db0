/** Brings the content of one object into a staging file, verified and decrypted. */

import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from '../context.js';
import { FormatError, HEADER_SIZE, PieceReader } from '../crypto/format.js';
import type { Key } from '../crypto/keyring.js';
import { Opener } from '../crypto/open.js';
import { isS3proxyError, S3proxyError } from '../errors.js';
import { readChunks, writeAll } from '../fs/chunks.js';
import type { ArtifactPath } from '../state/artifact-path.js';
import type { ByteRange } from '../store/object-store.js';

/** Objects up to this size come with one request and are held in memory. */
const SMALL_OBJECT = 4 * 2 ** 20;
/** Larger ones come in ranges of about this size. */
const RANGE_SIZE = 8 * 2 ** 20;
const PARALLEL_RANGES = 4;
/** Objects with segments this large are read one range at a time: every range holds a segment or two in memory. */
const LARGE_SEGMENT_LOG2 = 20;
const ATTEMPTS = 4;
const FIRST_PAUSE_MS = 200;

/** One version of one object, wherever it lies. */
export interface SourceObject {
	/** Bytes. */
	readonly size: number;
	/** Whether its metadata says that it is sealed; a hint, which can only make us stricter. */
	readonly saysSealed: boolean;
	/** What its metadata says of a plain object's content. */
	readonly sha256: string | undefined;
	/** @throws VersionGone when it has been replaced or removed */
	read(range: ByteRange): Promise<AsyncIterable<Buffer>>;
}

/** The object was replaced or removed while it was read: look again which is the newest. */
export class VersionGone extends Error {}

/** Where the content goes, in any order. */
export interface Target {
	write(content: Buffer, position: number): Promise<void>;
	/** What has been written, from its start. */
	read(): AsyncIterable<Buffer>;
}

export interface Download {
	readonly object: SourceObject;
	readonly key: Key;
	readonly path: ArtifactPath;
	readonly target: Target;
	readonly signal: AbortSignal;
}

export function fileTarget(handle: FileHandle): Target {
	return {
		write: (content, position) => writeAll(handle, content, position),
		read: () => readChunks(handle),
	};
}

/** How bytes of the object become bytes of the artifact. */
interface Decoder {
	/** Units that stand by themselves: segments of a sealed object, stretches of a plain one. */
	readonly units: number;
	readonly unitSize: number;
	readonly parallel: number;
	rangeOf(unit: number): ByteRange;
	decode(unit: number, bytes: Buffer): Buffer;
}

/**
 * Downloads with retries and, for large objects, several ranges in parallel.
 * @throws FormatError when it does not authenticate; S3proxyError `not-authentic` when it is plain and may not be;
 *   `store-unreachable`; VersionGone
 */
export async function download(context: Context, download: Download): Promise<{ size: number }> {
	const request = download.object.size > SMALL_OBJECT ? download : { ...download, object: await inMemory(download) };
	const { object } = request;
	const opener = openHeader(context, request, await readFirst(request, HEADER_SIZE));
	const decoder = opener === undefined ? plainDecoder(object) : sealedDecoder(opener);
	await copyRanges(context, request, decoder);
	if (opener === undefined && object.sha256 !== undefined) await verifyDigest(request, object.sha256);
	return { size: opener?.size ?? object.size };
}

async function inMemory(request: Download): Promise<SourceObject> {
	const whole = await readFirst(request, request.object.size);
	return {
		...request.object,
		read: async ({ start, end }) => oneChunk(whole.subarray(start, end + 1)),
	};
}

async function* oneChunk(chunk: Buffer): AsyncGenerator<Buffer> {
	yield chunk;
}

/** The first `length` bytes of the object, fewer if it has not as many. */
async function readFirst({ object, signal }: Download, length: number): Promise<Buffer> {
	const end = Math.min(object.size, length) - 1;
	if (end < 0) return Buffer.alloc(0);
	return retrying(signal, async () => {
		const reader = new PieceReader(await object.read({ start: 0, end }));
		try {
			return Buffer.from(await reader.read(end + 1));
		} finally {
			await reader.close();
		}
	});
}

/** The verified header; undefined when the object is plain and may be. */
function openHeader(context: Context, { object, key, path }: Download, header: Buffer): Opener | undefined {
	const { encryption, acceptPlain } = context.config;
	try {
		return new Opener({ ikm: key.material, path, header, objectSize: object.size });
	} catch (error) {
		if (!(error instanceof FormatError)) throw error;
		// An object that calls itself sealed and is not is damaged, whatever the configuration.
		if (object.saysSealed) throw error;
		if (!encryption) return undefined;
		if (error.reason !== 'ERR_NOT_S3PX' || !acceptPlain) throw error;
		context.log.warn('an object that is not sealed was accepted (accept_plain: true)', { item: path });
		return undefined;
	}
}

function sealedDecoder(opener: Opener): Decoder {
	return {
		units: opener.segmentCount,
		unitSize: opener.segmentSize,
		parallel: opener.segmentLog2 > LARGE_SEGMENT_LOG2 ? 1 : PARALLEL_RANGES,
		rangeOf: (unit) => opener.segmentRange(unit),
		decode: (unit, bytes) => opener.openSegment(unit, bytes),
	};
}

function plainDecoder({ size }: SourceObject): Decoder {
	const unitSize = 2 ** 18;
	return {
		units: Math.ceil(size / unitSize),
		unitSize,
		parallel: PARALLEL_RANGES,
		rangeOf: (unit) => ({ start: unit * unitSize, end: Math.min(size, (unit + 1) * unitSize) - 1 }),
		decode: (_unit, bytes) => bytes,
	};
}

async function copyRanges(context: Context, request: Download, decoder: Decoder): Promise<void> {
	const step = Math.max(1, Math.floor(RANGE_SIZE / decoder.unitSize));
	const failed = new AbortController();
	const signal = AbortSignal.any([request.signal, failed.signal]);
	let next = 0;
	const worker = async () => {
		while (next < decoder.units) {
			signal.throwIfAborted();
			const first = next;
			next = Math.min(decoder.units, first + step);
			const last = next - 1;
			await retrying(signal, () => copyRange({ ...request, signal }, decoder, first, last));
			context.progress.advance(0, (last - first + 1) * decoder.unitSize);
		}
	};
	const workers = Array.from({ length: Math.min(decoder.parallel, Math.ceil(decoder.units / step)) }, async () => {
		try {
			await worker();
		} catch (error) {
			failed.abort(error);
			throw error;
		}
	});
	const outcomes = await Promise.allSettled(workers);
	const reason: unknown = failed.signal.aborted ? failed.signal.reason : undefined;
	if (outcomes.some(({ status }) => status === 'rejected')) throw reason;
}

/** Units `first` to `last` with one request, each verified before it is written. */
async function copyRange(request: Download, decoder: Decoder, first: number, last: number): Promise<void> {
	const range = { start: decoder.rangeOf(first).start, end: decoder.rangeOf(last).end };
	const reader = new PieceReader(await request.object.read(range));
	try {
		for (let unit = first; unit <= last; unit++) {
			request.signal.throwIfAborted();
			const { start, end } = decoder.rangeOf(unit);
			const content = decoder.decode(unit, await reader.read(end - start + 1));
			await request.target.write(content, unit * decoder.unitSize);
		}
	} finally {
		await reader.close();
	}
}

async function verifyDigest({ target, path }: Download, expected: string): Promise<void> {
	const hash = createHash('sha256');
	for await (const chunk of target.read()) hash.update(chunk);
	if (hash.digest('hex') === expected) return;
	throw new S3proxyError('not-authentic', `${path}: the content in the store is not what was uploaded (SHA-256)`, {
		hint: 'The object is damaged; store the artifact again.',
	});
}

/** Runs `attempt` again, from the beginning, while the store cannot be reached. */
async function retrying<T>(signal: AbortSignal, attempt: () => Promise<T>): Promise<T> {
	for (let count = 1; ; count++) {
		try {
			return await attempt();
		} catch (error) {
			if (!isS3proxyError(error, 'store-unreachable') || count === ATTEMPTS || signal.aborted) throw error;
			await sleep(FIRST_PAUSE_MS * 2 ** count * Math.random(), undefined, { signal });
		}
	}
}
