/** `to_encrypt/`: a symlink for every artifact that waits for encryption. */

import { lstat, readlink, symlink, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { inDirectory, isErrno, syncDirectory } from '../fs/durable.js';
import type { ArtifactPath } from './artifact-path.js';
import type { Root } from './root.js';
import { publishByRename, stagingName } from './staging.js';

/** Says that `path` waits for encryption; durable when it returns. One that is there already is left as it is. */
export async function placeWorkLink(root: Root, path: ArtifactPath): Promise<void> {
	const link = root.layout.workLink(path);
	const target = root.layout.artifact(path);
	try {
		await inDirectory(dirname(link), root.sync, () => symlink(target, link));
	} catch (error) {
		if (!isErrno(error, 'EEXIST')) throw error;
		// A root that was moved has links to where it was.
		if ((await readlink(link).catch(() => undefined)) !== target) await replaceWorkLink(root, link, target);
	}
	if (root.sync) await syncDirectory(dirname(link));
}

async function replaceWorkLink(root: Root, link: string, target: string): Promise<void> {
	const staging = stagingName(dirname(link));
	await symlink(target, staging);
	await publishByRename(root, staging, link);
}

/** Removing it is not made durable: a work link too many costs work, one too few costs data. */
export async function removeWorkLink(root: Root, path: ArtifactPath): Promise<void> {
	await unlink(root.layout.workLink(path)).catch((error: unknown) => {
		if (!isErrno(error, 'ENOENT')) throw error;
	});
}

export async function hasWorkLink(root: Root, path: ArtifactPath): Promise<boolean> {
	try {
		return (await lstat(root.layout.workLink(path))).isSymbolicLink();
	} catch (error) {
		if (isErrno(error, 'ENOENT', 'ENOTDIR')) return false;
		throw error;
	}
}
