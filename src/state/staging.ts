/** Files that nobody may see yet. Only the process that made one knows its name, so nobody else ever writes or publishes it. */

import { fchmodSync, futimesSync, type Stats } from 'node:fs';
import { type FileHandle, link, open, rename, symlink, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { inDirectory, isErrno, lstatIfThere, syncDirectory, unlinkIfThere } from '../fs/durable.js';
import { RESERVED_PREFIX } from './artifact-path.js';
import { isProvablyDead, ownerToken } from './owner.js';
import type { Root } from './root.js';
import { pruneUpwards } from './walk.js';

export const STAGING_NAME = /^\.s3proxy-([0-9a-f]+-\d+-\d+-\d+-\d+)$/;
/** Staging whose owner cannot be told dead or alive (another container) is left alone for this long. */
const UNKNOWN_OWNER_MS = 24 * 60 * 60 * 1000;

/** Mode of what nginx serves: it runs as another user, whatever our umask is. */
const SERVED = 0o644;
export const SERVED_DIRECTORY = 0o755;

/** A name in `directory` that no process has used or will use. */
export function stagingName(directory: string): string {
	return join(directory, RESERVED_PREFIX + ownerToken());
}

/** Whether a file with a staging name was left behind by a process that died. @param changedMs its last change, not its mtime, which is the version's */
export function isAbandonedStaging(name: string, changedMs: number): boolean {
	const owner = STAGING_NAME.exec(name)?.[1];
	if (owner === undefined) return false;
	return isProvablyDead(owner) || changedMs < Date.now() - UNKNOWN_OWNER_MS;
}

/** What a process that died has left behind under such a name; undefined when it is another's, or nothing. */
export function abandonedStaging(file: string): Stats | undefined {
	const stats = lstatIfThere(file);
	return stats !== undefined && isAbandonedStaging(basename(file), stats.ctimeMs) ? stats : undefined;
}

export class Staging {
	readonly file: string;
	readonly handle: FileHandle;
	readonly #root: Root;
	readonly #area: string;
	/** Of directories that are made to publish it; undefined: as the umask has it. */
	readonly #directoryMode: number | undefined;
	#closed = false;
	#published = false;

	private constructor(root: Root, area: string, file: string, handle: FileHandle, mode: number) {
		this.#root = root;
		this.#area = area;
		this.file = file;
		this.handle = handle;
		// nginx has to get as far as the file.
		this.#directoryMode = mode === SERVED ? SERVED_DIRECTORY : undefined;
	}

	/**
	 * An empty file in `directory`, which is made if need be.
	 * @param area the top directory, up to which `drop` removes directories left empty
	 * @param mode SERVED for what nginx serves one day, 0o600 for secrets
	 */
	static async create(root: Root, area: string, directory: string, mode = SERVED): Promise<Staging> {
		const file = stagingName(directory);
		const handle = await inDirectory(directory, root.sync, () => open(file, 'wx+', mode));
		try {
			// The umask may have taken away what nginx needs to read.
			fchmodSync(handle.fd, mode);
		} catch (error) {
			await handle.close();
			await discardStaging(file, area);
			throw error;
		}
		return new Staging(root, area, file, handle, mode);
	}

	/**
	 * A second name, in staging, for a whole file from outside: no copy, and whatever happens it keeps its own name.
	 * @returns undefined when this file system or the file's owner does not allow it
	 */
	static async adopt(root: Root, area: string, directory: string, outside: string): Promise<Staging | undefined> {
		const file = stagingName(directory);
		let handle: FileHandle | undefined;
		try {
			await inDirectory(directory, root.sync, () => link(outside, file));
			handle = await open(file, 'r');
			await handle.chmod(SERVED);
			return new Staging(root, area, file, handle, SERVED);
		} catch (error) {
			await handle?.close();
			await discardStaging(file, area);
			if (isErrno(error, 'EXDEV', 'EPERM', 'EACCES', 'EMLINK')) return undefined;
			throw error;
		}
	}

	/** Sets the mtime, in milliseconds since the epoch: the version that this file is. */
	setVersion(milliseconds: number): void {
		futimesSync(this.handle.fd, milliseconds / 1000, milliseconds / 1000);
	}

	/** Makes the data durable. A failure is final for this file: the kernel may have dropped what it could not write. */
	async syncData(): Promise<void> {
		if (this.#root.sync) await this.handle.sync();
	}

	/** Gives the finished file its name, replacing what had it: the commit point. The name is durable when this returns. */
	async publishAs(target: string): Promise<void> {
		await this.close();
		await inDirectory(dirname(target), this.#root.sync, () => rename(this.file, target), this.#directoryMode);
		this.#published = true;
		if (this.#root.sync) await syncDirectory(dirname(target));
	}

	/** Whether `publishAs` has come to its commit point: what fails after it does not take the name back. */
	get isPublished(): boolean {
		return this.#published;
	}

	/** The same, unless the name is taken: then false, and the staging is dropped. */
	async publishUnlessTaken(target: string): Promise<boolean> {
		await this.close();
		let published = true;
		try {
			await inDirectory(dirname(target), this.#root.sync, () => link(this.file, target), this.#directoryMode);
		} catch (error) {
			if (!isErrno(error, 'EEXIST')) throw error;
			published = false;
		}
		if (published && this.#root.sync) await syncDirectory(dirname(target));
		await unlink(this.file);
		return published;
	}

	/** Removes the file, and the directories that it leaves empty. */
	async drop(): Promise<void> {
		await this.close();
		await discardStaging(this.file, this.#area);
	}

	async close(): Promise<void> {
		if (this.#closed) return;
		this.#closed = true;
		await this.handle.close();
	}
}

/**
 * `rename` with its directories, durable when it returns. The one place that replaces a name below the root.
 * @param directoryMode of directories that are made; undefined: as the umask has it
 */
export async function publishByRename(root: Root, from: string, to: string, directoryMode?: number): Promise<void> {
	await inDirectory(dirname(to), root.sync, () => rename(from, to), directoryMode);
	if (root.sync) await syncDirectory(dirname(to));
}

/** Makes a symlink and gives it its name, replacing what had it; durable when it returns. After a failure nothing is left. */
export async function publishSymlink(root: Root, target: string, link: string): Promise<void> {
	const staging = stagingName(dirname(link));
	try {
		await symlink(target, staging);
		await publishByRename(root, staging, link);
	} catch (error) {
		await unlinkIfThere(staging);
		throw error;
	}
}

/** Removes a staging name if it is there, and the directories that it leaves empty, up to `area`. */
export async function discardStaging(file: string, area: string): Promise<void> {
	await unlinkIfThere(file);
	await pruneUpwards(dirname(file), area);
}
