/** Walks over directories in a stream: memory does not grow with the number of files. */

import type { Dirent } from 'node:fs';
import { opendir, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isErrno } from '../fs/durable.js';
import { RESERVED_PREFIX } from './artifact-path.js';

export interface Found {
	/** Relative to where the walk began. */
	readonly path: string;
	readonly entry: Dirent;
}

/** Everything below `directory` that is not a directory, depth first, in no promised order; symlinks are not followed. */
export async function* walk(directory: string, prefix = ''): AsyncGenerator<Found> {
	for await (const entry of entriesOf(join(directory, prefix))) {
		const path = join(prefix, entry.name);
		if (entry.isDirectory()) yield* walk(directory, path);
		else yield { path, entry };
	}
}

/** The entries of one directory; none when it does not exist. */
export async function* entriesOf(directory: string): AsyncGenerator<Dirent> {
	try {
		for await (const entry of await opendir(directory, { bufferSize: 256 })) yield entry;
	} catch (error) {
		// Repair clears empty directories while others walk.
		if (!isErrno(error, 'ENOENT')) throw error;
	}
}

/** Removes `directory` if it is empty; false when it is not, or gone. */
async function removeIfEmpty(directory: string): Promise<boolean> {
	try {
		await rmdir(directory);
		return true;
	} catch (error) {
		if (isErrno(error, 'ENOTEMPTY', 'EEXIST', 'ENOENT')) return false;
		throw error;
	}
}

/** Removes the empty directories from `directory` upwards, `top` itself not. */
export async function pruneUpwards(directory: string, top: string): Promise<void> {
	for (let current = directory; current !== top && current.startsWith(`${top}/`); current = dirname(current)) {
		if (!(await removeIfEmpty(current))) return;
	}
}

/**
 * Removes (or, with `dryRun`, counts) the directories below `directory` that hold nothing but empty directories.
 * @returns how many
 */
export async function pruneBelow(directory: string, dryRun: boolean): Promise<number> {
	return (await pruneTree(directory, dryRun)).removed;
}

async function pruneTree(directory: string, dryRun: boolean): Promise<{ removed: number; empty: boolean }> {
	let removed = 0;
	let empty = true;
	for await (const entry of entriesOf(directory)) {
		// Lock directories are empty by nature, and not clutter.
		const prunable = entry.isDirectory() && !entry.name.startsWith(RESERVED_PREFIX);
		const below = prunable ? await pruneTree(join(directory, entry.name), dryRun) : undefined;
		removed += below?.removed ?? 0;
		if (below?.empty && (dryRun || (await removeIfEmpty(join(directory, entry.name))))) removed++;
		else empty = false;
	}
	return { removed, empty };
}
