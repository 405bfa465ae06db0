/** Where the bytes of a put come from. */

import { readChunks } from '../fs/chunks.js';
import type { OpenArtifact } from '../state/artifacts.js';
import type { ObjectSource } from '../store/object-store.js';

/** An open file, from its first byte; the file stays open. */
export function fileSource({ handle, stats }: OpenArtifact): ObjectSource {
	return {
		size: stats.size,
		open: () => readChunks(handle),
	};
}

export function bytesSource(bytes: Buffer): ObjectSource {
	return {
		size: bytes.length,
		async *open() {
			yield bytes;
		},
	};
}
