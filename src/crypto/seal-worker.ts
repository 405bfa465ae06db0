/** The thread of a `SealPool`: seals one file after another with blocking calls, and answers each job once. */

import { Buffer } from 'node:buffer';
import { fsyncSync, readSync, writevSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { type ErrorCode, errnoOf, S3proxyError } from '../errors.js';
import { DEFAULT_SEGMENT_LOG2, FormatError, type FormatReason } from './format.js';
import { Sealer } from './seal.js';

/** One file to seal. Descriptors are the whole process's, so that a number is enough. */
export interface WorkerJob {
	readonly sourceFd: number;
	readonly targetFd: number;
	readonly size: number;
	readonly material: Uint8Array;
	readonly path: string;
	readonly fsync: boolean;
}

/** An error as it crosses the thread boundary: what structured cloning would lose is spelled out. */
export interface WorkerFailure {
	readonly message: string;
	readonly stack: string | undefined;
	/** Set when it is a FormatError. */
	readonly reason?: FormatReason;
	/** Set when it is another S3proxyError. */
	readonly code?: ErrorCode;
	readonly hint?: string | undefined;
	/** Set when it is a system error. */
	readonly system?: { readonly code: string; readonly errno: unknown; readonly syscall: unknown };
}

export type WorkerAnswer =
	| { readonly iv: Uint8Array; readonly sealedSize: number }
	| { readonly failure: WorkerFailure };

/** Plaintext of one segment; used again for every file. */
const segment = Buffer.allocUnsafeSlow(2 ** DEFAULT_SEGMENT_LOG2);
const oneMore = Buffer.alloc(1);

parentPort?.on('message', (job: WorkerJob) => {
	parentPort?.postMessage(answer(job));
});

function answer(job: WorkerJob): WorkerAnswer {
	try {
		return seal(job);
	} catch (error) {
		return { failure: describe(error) };
	}
}

function seal({ sourceFd, targetFd, size, material, path, fsync }: WorkerJob): WorkerAnswer {
	const ikm = Buffer.from(material.buffer, material.byteOffset, material.byteLength);
	const sealer = new Sealer({ ikm, path, size });
	let taken = 0;
	let written = 0;
	// The header goes out with the first segment: one call writes a small file.
	let pieces = [sealer.header];
	for (let length = sealer.nextLength; length !== undefined; length = sealer.nextLength) {
		const filled = readFully(sourceFd, segment.subarray(0, length), taken);
		if (filled < length) throw sealer.sourceError('fewer');
		const { ciphertext, tag } = sealer.sealPieces(segment.subarray(0, length));
		pieces.push(ciphertext, tag);
		written += writeFully(targetFd, pieces, written);
		pieces = [];
		taken += length;
	}
	if (readSync(sourceFd, oneMore, 0, 1, size) !== 0) throw sealer.sourceError('more');
	if (fsync) fsyncSync(targetFd);
	return { iv: Uint8Array.from(sealer.iv), sealedSize: sealer.sealedSize };
}

/** Returns how many bytes there were; fewer than asked for only at the end of the file. */
function readFully(fd: number, into: Buffer, position: number): number {
	let filled = 0;
	while (filled < into.length) {
		const count = readSync(fd, into, filled, into.length - filled, position + filled);
		if (count === 0) break;
		filled += count;
	}
	return filled;
}

/** Writes all pieces, one after the other, and returns their bytes. */
function writeFully(fd: number, pieces: Buffer[], position: number): number {
	let written = 0;
	let left = pieces;
	while (left.length > 0) {
		const count = writevSync(fd, left, position + written);
		written += count;
		left = withoutFirst(left, count);
	}
	return written;
}

/** `pieces` without their first `count` bytes. Pieces without bytes are dropped too. */
function withoutFirst(pieces: Buffer[], count: number): Buffer[] {
	let skip = count;
	const left: Buffer[] = [];
	for (const piece of pieces) {
		const skipped = Math.min(skip, piece.length);
		skip -= skipped;
		if (skipped < piece.length) left.push(piece.subarray(skipped));
	}
	return left;
}

function describe(error: unknown): WorkerFailure {
	if (!(error instanceof Error)) return { message: String(error), stack: undefined };
	const { message, stack } = error;
	if (error instanceof FormatError) return { message, stack, reason: error.reason, hint: error.hint };
	if (error instanceof S3proxyError) return { message, stack, code: error.code, hint: error.hint };
	const code = errnoOf(error);
	if (code === undefined) return { message, stack };
	const { errno, syscall } = error as NodeJS.ErrnoException;
	return { message, stack, system: { code, errno, syscall } };
}
