/** The files of a directory tree, one after the other. */

import type { Dirent } from 'node:fs';
import { opendir } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../fs/durable.js';
import { attempting, stopped } from './directory-errors.js';
import { RESERVED } from './directory-metadata.js';

export interface WalkedFile {
	readonly path: string;
	/** Its last component. */
	readonly name: string;
}

/**
 * All files below `root` of which the path below it may begin with `prefix`; the caller looks closer. Reserved names are not
 * entered. One directory handle for each level is open, and no directory is held in memory.
 */
export async function* walkFiles(
	root: string,
	prefix: string,
	doing: string,
	signal: AbortSignal | undefined,
): AsyncGenerator<WalkedFile> {
	const parts = prefix.split('/');
	const mayHold = (name: string, depth: number) => {
		const part = parts[depth];
		if (part === undefined) return true;
		return depth === parts.length - 1 ? name.startsWith(part) : name === part;
	};
	async function* visit(directory: string, depth: number): AsyncGenerator<WalkedFile> {
		for await (const entry of entriesOf(directory, doing)) {
			if (signal?.aborted) throw stopped(doing, signal);
			const path = join(directory, entry.name);
			if (entry.isFile()) yield { path, name: entry.name };
			else if (entry.isDirectory() && !entry.name.startsWith(RESERVED) && mayHold(entry.name, depth)) {
				yield* visit(path, depth + 1);
			}
		}
	}
	yield* visit(root, 0);
}

/** The entries of a directory; none when it is not there (any more). */
async function* entriesOf(directory: string, doing: string): AsyncGenerator<Dirent> {
	const opened = await attempting(doing, async () => {
		try {
			return await opendir(directory);
		} catch (error) {
			if (isErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
			throw error;
		}
	});
	if (opened === undefined) return;
	try {
		for (;;) {
			const entry = await attempting(doing, () => opened.read());
			if (entry === null) return;
			yield entry;
		}
	} finally {
		await opened.close();
	}
}
