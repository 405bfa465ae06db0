/** Settings of V8 and glibc without which half of the processor time of an upload goes into memory for its chunks. */

import { setFlagsFromString } from 'node:v8';

/** Twice this may lie free at the end of glibc's heap before it is given back. */
const BLOCK_BYTES = 16 * 2 ** 20;

/**
 * Every chunk of an upload is a buffer outside V8's heap, up to 64 KiB large, and garbage at once.
 * - When a scavenge frees those at once instead of on another thread, the garbage collector knows that they are gone and does
 *   without five full collections in six (and 30 % of the processor).
 * - glibc gives the end of its heap back as soon as 128 KiB are free there, and the next chunk waits for the kernel to make
 *   new pages: 0.2 s a GiB. Once a large block was freed, it keeps twice the size of that (mallopt(3), M_MMAP_THRESHOLD).
 *   Nothing is ever written to that block, so it takes no memory.
 */
export function tuneMemoryForUploads(): void {
	setFlagsFromString('--no-concurrent-array-buffer-sweeping');
	Buffer.allocUnsafeSlow(BLOCK_BYTES);
}
