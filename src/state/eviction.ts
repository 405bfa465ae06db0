/** Taking a local copy away. */

import { link, rename } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { inDirectory, isErrno, lstatIfThere, syncDirectory } from '../fs/durable.js';
import { type ArtifactPath, artifactPathIfValid } from './artifact-path.js';
import { isSameFile, lookUp, type OpenArtifact, versionOf } from './artifacts.js';
import type { PathLock } from './held-lock.js';
import type { Root } from './root.js';
import { keyIdsInEncrypted } from './sealed.js';
import { discardStaging, publishByRename, SERVED_DIRECTORY, STAGING_NAME, stagingName } from './staging.js';
import { entriesOf, pruneUpwards } from './walk.js';
import { hasVoucher, hasWorkLink, placeWorkLink } from './work-links.js';

/** `put`: an upload is under way, or was killed; whatever it puts may come to the store yet. */
export type Stage = 'ingest' | 'encrypt' | 'upload' | 'put';

/** Which stage has not come to its end for `path`; undefined when none is under way. In the order in which an artifact goes through them. */
export async function stageAhead(root: Root, path: ArtifactPath): Promise<Stage | undefined> {
	if (lstatIfThere(root.layout.marker(path))?.isFile()) return 'ingest';
	if (hasWorkLink(root, path)) return 'encrypt';
	for await (const keyId of keyIdsInEncrypted(root)) {
		if (lstatIfThere(root.layout.sealed(keyId, path)) !== undefined) return 'upload';
	}
	return (await hasVoucher(root, path)) ? 'put' : undefined;
}

/**
 * Removes an artifact from `uploads/`, under the path's lock, if the name still is the file that is held open. It is taken
 * away before it is looked at: between a look and an unlink, whoever took a lost lock could publish another version. Who
 * is killed before that look leaves it in staging: `takenByEvict`.
 * @returns false when it is another file, or waits for a stage again; then it is left, or put back
 */
export async function removeArtifact(
	root: Root,
	path: ArtifactPath,
	{ stats }: OpenArtifact,
	lock: PathLock,
): Promise<boolean> {
	const { layout } = root;
	const artifact = layout.artifact(path);
	const taken = stagingName(layout.evictStaging(path));
	lock.assertHeld();
	try {
		await inDirectory(dirname(taken), root.sync, () => rename(artifact, taken));
	} catch (error) {
		await discardStaging(taken, layout.toDecrypt);
		if (isErrno(error, 'ENOENT', 'ENOTDIR')) return false;
		throw error;
	}
	let isOurs = false;
	try {
		const now = lstatIfThere(taken);
		isOurs = now !== undefined && isSameFile(now, stats) && (await stageAhead(root, path)) === undefined;
	} finally {
		// Also when a look has failed: this may be another version's only copy. What cannot be put back stays in staging.
		if (isOurs || (await putBack(root, taken, artifact))) await discardStaging(taken, layout.toDecrypt);
		await pruneUpwards(dirname(artifact), layout.uploads);
	}
	return isOurs;
}

/** @returns false when an older version has the name by now: a fetch that had lost its lock, too */
async function putBack(root: Root, taken: string, artifact: string): Promise<boolean> {
	try {
		await inDirectory(dirname(artifact), root.sync, () => link(taken, artifact), SERVED_DIRECTORY);
		if (root.sync) await syncDirectory(dirname(artifact));
		return true;
	} catch (error) {
		// ENOENT: who holds the lock has put it back (`returnNewer`).
		if (!isErrno(error, 'EEXIST', 'ENOENT')) throw error;
	}
	const [stats, here] = [lstatIfThere(taken), lstatIfThere(artifact)];
	return stats === undefined || (here !== undefined && versionOf(here) >= versionOf(stats));
}

/** The artifact whose version a file in `to_decrypt/` is, whole, because an evict took it there; undefined when it is a download. */
export function takenByEvict(root: Root, file: string): ArtifactPath | undefined {
	const path = artifactPathIfValid(relative(root.layout.toDecrypt, dirname(file)));
	// A directory of artifacts has no lock file.
	return path !== undefined && lstatIfThere(root.layout.lock('path', path).file)?.isFile() ? path : undefined;
}

/** Puts back what an evict that died has taken, and has it encrypted: whether it was, nobody knows. */
export async function returnTaken(root: Root, path: ArtifactPath, taken: string, lock: PathLock): Promise<void> {
	// First: killed between the two, it is still taken, and the next repair comes here again.
	await placeWorkLink(root, path);
	lock.assertHeld();
	await publishByRename(root, taken, root.layout.artifact(path), SERVED_DIRECTORY);
	await pruneUpwards(dirname(taken), root.layout.toDecrypt);
}

/**
 * Puts back, under the path's lock, a version newer than `version` that an evict has taken: dead, or one that has lost
 * that lock and has not looked yet at what it took. Whoever has published it did so after anything the store has.
 * @returns whether there was one, and no newer one in `uploads/`
 */
export async function returnNewer(root: Root, path: ArtifactPath, version: number): Promise<boolean> {
	const { layout } = root;
	const here = lookUp(root, path);
	let newest = Math.max(version, here === undefined ? 0 : versionOf(here));
	let found: string | undefined;
	for await (const { name } of entriesOf(layout.evictStaging(path))) {
		const taken = join(layout.evictStaging(path), name);
		const stats = STAGING_NAME.test(name) ? lstatIfThere(taken) : undefined;
		if (stats === undefined || versionOf(stats) <= newest) continue;
		newest = versionOf(stats);
		found = taken;
	}
	if (found === undefined) return false;
	await placeWorkLink(root, path);
	if (await putBack(root, found, layout.artifact(path))) await discardStaging(found, layout.toDecrypt);
	return true;
}
