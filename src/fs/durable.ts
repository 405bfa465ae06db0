/**
 * What makes a name or content survive a power cut. Every caller says whether it wants to pay for it (`fsync:` in the config).
 *
 * Looks at names are synchronous, here and in the state modules: the kernel answers them from memory in a microsecond, where
 * the way through Node.js' thread pool costs fifty; thousands of small artifacts a second are made of such looks. What may
 * wait for the disk is asynchronous.
 */

import { chmodSync, lstatSync, type Stats } from 'node:fs';
import { mkdir, open, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf } from '../errors.js';

/** Whether `error` is a system error with one of these codes. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
	const code = errnoOf(error);
	return code !== undefined && codes.includes(code);
}

/** What has this name, symlinks not followed; undefined when nothing has, or the path runs through a file. */
export function lstatIfThere(file: string): Stats | undefined {
	try {
		return lstatSync(file, { throwIfNoEntry: false });
	} catch (error) {
		if (isErrno(error, 'ENOTDIR')) return undefined;
		throw error;
	}
}

/** Removes a name if it is there. */
export async function unlinkIfThere(file: string): Promise<void> {
	try {
		await unlink(file);
	} catch (error) {
		if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
	}
}

/** Makes the names in `directory` durable. A failure is the caller's failure: nothing in there may be relied on. */
export async function syncDirectory(directory: string): Promise<void> {
	const handle = await open(directory, 'r');
	try {
		await handle.sync();
	} finally {
		await handle.close();
	}
}

/**
 * `mkdir -p`. With `sync`, every directory in which one was made is synced, up to the first that already existed.
 * @param mode of those that are made, whatever the umask; undefined: as the umask has it
 * @throws ENOTDIR or EEXIST when a component is a file
 */
async function makeDirectories(directory: string, sync: boolean, mode?: number): Promise<void> {
	for (;;) {
		try {
			await mkdir(directory);
			if (mode !== undefined) chmodSync(directory, mode);
			break;
		} catch (error) {
			if (isErrno(error, 'EEXIST')) return;
			if (!isErrno(error, 'ENOENT')) throw error;
			// Goes round again: somebody may clear empty directories between the parent's making and ours.
			await makeDirectories(dirname(directory), sync, mode);
		}
	}
	if (sync) await syncDirectory(dirname(directory));
}

const ATTEMPTS = 10;

/**
 * Runs `make`, which makes a name in `directory`; when the directory is not there (or repair took it away, empty, at this
 * moment), makes it and tries again.
 * @param mode as in `makeDirectories`
 */
export async function inDirectory<T>(
	directory: string,
	sync: boolean,
	make: () => Promise<T>,
	mode?: number,
): Promise<T> {
	for (let attempt = 1; ; attempt++) {
		try {
			return await make();
		} catch (error) {
			if (!isErrno(error, 'ENOENT') || attempt === ATTEMPTS) throw error;
			await makeDirectories(directory, sync, mode);
		}
	}
}
