/** Sources and readers for the tests of the stores. */

import { createHash } from 'node:crypto';
import type { ObjectSource } from '../../src/store/object-store.js';

export const MEBIBYTE = 2 ** 20;

/** Bytes that differ everywhere, the same for the same seed. */
export function bytes(size: number, seed = 1): Buffer {
	const block = createHash('sha512').update(String(seed)).digest();
	const buffer = Buffer.alloc(size, block);
	for (let at = 0; at + 8 <= size; at += 4096) buffer.writeDoubleLE(at + seed, at);
	return buffer;
}

/** A source of these bytes in chunks of odd lengths; `size` lies when asked to. */
export function sourceOf(
	content: Buffer,
	options: { size?: number; chunk?: number; opened?: () => void } = {},
): ObjectSource {
	const { chunk = 65_521 } = options;
	return {
		size: options.size ?? content.length,
		async *open() {
			options.opened?.();
			for (let at = 0; at < content.length; at += chunk) yield content.subarray(at, at + chunk);
		},
	};
}

/** Yields `good` bytes, then throws `error`. */
export function failingSource(size: number, good: number, error: Error): ObjectSource {
	return {
		size,
		async *open() {
			yield bytes(good);
			throw error;
		},
	};
}

export async function readAll(body: AsyncIterable<Buffer> | undefined): Promise<Buffer | undefined> {
	if (body === undefined) return undefined;
	const chunks: Buffer[] = [];
	for await (const chunk of body) chunks.push(chunk);
	return Buffer.concat(chunks);
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
	const found: T[] = [];
	for await (const item of items) found.push(item);
	return found;
}

/** What `work` throws. */
export async function thrownBy(work: () => Promise<unknown>): Promise<unknown> {
	try {
		await work();
	} catch (error) {
		return error;
	}
	throw new Error('it did not throw');
}
