/** `to_encrypt/`: a symlink for every artifact that waits for encryption. */

import { readlink, symlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { inDirectory, isErrno, lstatIfThere, syncDirectory, unlinkIfThere } from '../fs/durable.js';
import type { ArtifactPath } from './artifact-path.js';
import type { Root } from './root.js';
import { publishSymlink } from './staging.js';

/** Says that `path` waits for encryption; durable when it returns. One that is there already is left as it is. */
export async function placeWorkLink(root: Root, path: ArtifactPath): Promise<void> {
	const link = root.layout.workLink(path);
	const target = root.layout.artifact(path);
	try {
		await inDirectory(dirname(link), root.sync, () => symlink(target, link));
	} catch (error) {
		if (!isErrno(error, 'EEXIST')) throw error;
		// A root that was moved has links to where it was.
		if ((await readlink(link).catch(() => undefined)) !== target) await publishSymlink(root, target, link);
	}
	if (root.sync) await syncDirectory(dirname(link));
}

/** Removing it is not made durable: a work link too many costs work, one too few costs data. */
export async function removeWorkLink(root: Root, path: ArtifactPath): Promise<void> {
	await unlinkIfThere(root.layout.workLink(path));
}

export function hasWorkLink(root: Root, path: ArtifactPath): boolean {
	return lstatIfThere(root.layout.workLink(path))?.isSymbolicLink() ?? false;
}
