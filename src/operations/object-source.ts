/** Where the bytes of a put come from. */

import type { OpenArtifact } from '../state/artifacts.js';
import type { ObjectSource } from '../store/object-store.js';

const READ_SIZE = 2 ** 20;

/** An open file, from its first byte; the file stays open. */
export function fileSource({ handle, stats }: OpenArtifact): ObjectSource {
	return {
		size: stats.size,
		open: () => handle.createReadStream({ start: 0, autoClose: false, highWaterMark: READ_SIZE }),
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
