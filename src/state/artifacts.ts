/** `uploads/`: the artifacts that nginx serves. */

import { constants, fstatSync, lstatSync, realpathSync, type Stats } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { S3proxyError } from '../errors.js';
import { isErrno } from '../fs/durable.js';
import { type ArtifactPath, SIDECAR_SUFFIX } from './artifact-path.js';
import type { Root } from './root.js';

/** A version of an artifact: its file, held open so that the inode cannot come back as another's, and what it was. */
export interface OpenArtifact {
	readonly handle: FileHandle;
	readonly stats: Stats;
}

/** mtime in whole milliseconds, by which versions of a path are told apart. */
export function versionOf(stats: { readonly mtimeMs: number }): number {
	return Math.round(stats.mtimeMs);
}

export function isSameFile(a: Stats, b: Stats): boolean {
	return a.dev === b.dev && a.ino === b.ino && versionOf(a) === versionOf(b);
}

function conflict(path: ArtifactPath, why: string): S3proxyError {
	return new S3proxyError('conflict', `${path}: ${why}`, {
		hint: 'A name is either an artifact or a directory of artifacts; choose another one.',
	});
}

/**
 * The artifact as it is in `uploads/`; undefined when it is not there.
 * @throws S3proxyError `conflict` when the path is a directory, runs through a file, or leads over a symlink
 */
export function lookUp(root: Root, path: ArtifactPath): Stats | undefined {
	const file = root.layout.artifact(path);
	try {
		const stats = lstatSync(file, { throwIfNoEntry: false });
		if (stats === undefined) return undefined;
		if (stats.isDirectory()) throw conflict(path, 'is a directory');
		if (!stats.isFile()) throw conflict(path, 'is not a regular file');
		if (realpathSync.native(dirname(file)) !== dirname(file)) throw conflict(path, 'leads over a symlink in uploads/');
		return stats;
	} catch (error) {
		if (isErrno(error, 'ENOTDIR')) throw conflict(path, 'runs through an artifact');
		if (isErrno(error, 'ENOENT')) return undefined;
		throw error;
	}
}

/** Opens an artifact for reading; undefined when it is not in `uploads/`. Throws like `lookUp`. */
export async function openArtifact(root: Root, path: ArtifactPath): Promise<OpenArtifact | undefined> {
	if (lookUp(root, path) === undefined) return undefined;
	let handle: FileHandle;
	try {
		handle = await open(root.layout.artifact(path), constants.O_RDONLY | constants.O_NOFOLLOW);
	} catch (error) {
		if (isErrno(error, 'ENOENT')) return undefined;
		throw error;
	}
	try {
		return { handle, stats: fstatSync(handle.fd) };
	} catch (error) {
		await handle.close();
		throw error;
	}
}

type Kind = 'file' | 'directory' | 'nothing' | 'below a file';

function kindOf(name: string): Kind {
	try {
		const stats = lstatSync(name, { throwIfNoEntry: false });
		if (stats === undefined) return 'nothing';
		return stats.isDirectory() ? 'directory' : 'file';
	} catch (error) {
		if (isErrno(error, 'ENOTDIR')) return 'below a file';
		throw error;
	}
}

/**
 * Whether a new artifact may have this name: in `uploads/` and, for those that only the bucket has, in `locks/`.
 * Sidecars count: `a` and `a-iv/b` cannot both be sealed, because `a-iv` would be a file and a directory.
 * @throws S3proxyError `conflict`
 */
export function assertNameIsFree(root: Root, path: ArtifactPath): void {
	lookUp(root, path);
	const components = path.split('/');
	for (const directory of [root.layout.uploads, root.layout.locks]) {
		const own = kindOf(`${directory}/${path}`);
		if (own === 'directory') throw conflict(path, 'is a directory of artifacts');
		if (own === 'below a file') throw conflict(path, 'runs through an artifact');
		if (kindOf(`${directory}/${path}${SIDECAR_SUFFIX}`) === 'directory') {
			throw conflict(path, `its sidecar would be in the way of the artifacts in ${path}${SIDECAR_SUFFIX}/`);
		}
		for (let depth = 1; depth < components.length; depth++) {
			const parent = components.slice(0, depth).join('/');
			if (!parent.endsWith(SIDECAR_SUFFIX)) continue;
			const owner = parent.slice(0, -SIDECAR_SUFFIX.length);
			if (kindOf(`${directory}/${owner}`) === 'file') {
				throw conflict(path, `runs through ${parent}, which is the sidecar of the artifact ${owner}`);
			}
		}
	}
}
