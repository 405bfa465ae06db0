/** Taking a local copy away. */

import { link, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { inDirectory, isErrno, lstatIfThere } from '../fs/durable.js';
import type { ArtifactPath } from './artifact-path.js';
import { isSameFile, type OpenArtifact } from './artifacts.js';
import type { PathLock } from './held-lock.js';
import type { Root } from './root.js';
import { keyIdsInEncrypted } from './sealed.js';
import { Staging } from './staging.js';
import { pruneUpwards } from './walk.js';
import { hasWorkLink } from './work-links.js';

/** Which stage has not come to its end for `path`; undefined when none is under way. In the order in which an artifact goes through them. */
export async function stageAhead(root: Root, path: ArtifactPath): Promise<'ingest' | 'encrypt' | 'upload' | undefined> {
	if (lstatIfThere(root.layout.marker(path))?.isFile()) return 'ingest';
	if (hasWorkLink(root, path)) return 'encrypt';
	for await (const keyId of keyIdsInEncrypted(root)) {
		if (lstatIfThere(root.layout.sealed(keyId, path)) !== undefined) return 'upload';
	}
	return undefined;
}

/**
 * Removes an artifact from `uploads/`, under the path's lock, if the name still is the file that is held open. It is taken
 * away before it is looked at: between a look and an unlink, whoever took a lost lock could publish another version.
 * @returns false when it is another file, or waits for a stage again; then it is left, or put back
 */
export async function removeArtifact(
	root: Root,
	path: ArtifactPath,
	{ stats }: OpenArtifact,
	lock: PathLock,
): Promise<boolean> {
	const artifact = root.layout.artifact(path);
	const taken = await Staging.create(root, root.layout.toDecrypt, root.layout.fetchStaging(path));
	try {
		lock.assertHeld();
		await rename(artifact, taken.file);
	} catch (error) {
		await taken.drop();
		if (isErrno(error, 'ENOENT', 'ENOTDIR')) return false;
		throw error;
	}
	await taken.close();
	let isOurs = false;
	try {
		const now = lstatIfThere(taken.file);
		isOurs = now !== undefined && isSameFile(now, stats) && (await stageAhead(root, path)) === undefined;
	} finally {
		// Also when a look has failed: this may be another version's only copy. What cannot be put back stays in staging.
		if (!isOurs) await putBack(root, taken.file, artifact);
		await taken.drop();
		await pruneUpwards(dirname(artifact), root.layout.uploads);
	}
	return isOurs;
}

/** Unless a newer version has the name by now. */
async function putBack(root: Root, taken: string, artifact: string): Promise<void> {
	try {
		await inDirectory(dirname(artifact), root.sync, () => link(taken, artifact));
	} catch (error) {
		if (!isErrno(error, 'EEXIST')) throw error;
	}
}
