/** `encrypted/`: what waits for upload, one directory a key. */

import { constants, fstatSync, type Stats, writeFileSync } from 'node:fs';
import { type FileHandle, link, open, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isS3proxyError } from '../errors.js';
import { inDirectory, isErrno, lstatIfThere, unlinkIfThere } from '../fs/durable.js';
import { type ArtifactPath, artifactPathIfValid, SIDECAR_SUFFIX } from './artifact-path.js';
import { isSameFile, lookUp, type OpenArtifact, versionOf } from './artifacts.js';
import type { HeldLock } from './held-lock.js';
import type { Root } from './root.js';
import { discardStaging, publishByRename, type Staging, stagingName } from './staging.js';
import { entriesOf, walk } from './walk.js';
import { hasWorkLink, placeVoucher, placeWorkLink, redeemVoucher } from './work-links.js';

const KEY_ID = /^[0-9a-f]{40}$/;

/** A name in `encrypted/`. */
export interface SealedName {
	readonly keyId: string;
	readonly path: ArtifactPath;
}

/** A name in `encrypted/` that is no file waiting for upload. */
export interface StrangeName {
	readonly keyId: string;
	readonly name: string;
	/** Of which it is the sidecar; undefined when it is nothing that s3proxy makes. */
	readonly sidecarOf: ArtifactPath | undefined;
}

export async function* keyIdsInEncrypted(root: Root): AsyncGenerator<string> {
	for await (const entry of entriesOf(root.layout.encrypted)) {
		if (entry.isDirectory() && KEY_ID.test(entry.name)) yield entry.name;
	}
}

/** Everything in `encrypted/`, in no promised order. */
export async function* walkSealed(root: Root): AsyncGenerator<SealedName | StrangeName> {
	for await (const keyId of keyIdsInEncrypted(root)) {
		for await (const { path: name, entry } of walk(`${root.layout.encrypted}/${keyId}`)) {
			const path = artifactPathIfValid(name);
			if (path !== undefined && entry.isFile()) yield { keyId, path };
			else yield { keyId, name, sidecarOf: sidecarOwner(name) };
		}
	}
}

function sidecarOwner(name: string): ArtifactPath | undefined {
	return name.endsWith(SIDECAR_SUFFIX) ? artifactPathIfValid(name.slice(0, -SIDECAR_SUFFIX.length)) : undefined;
}

/** Opens what waits for upload; undefined when nothing does. */
export async function openSealed(root: Root, { keyId, path }: SealedName): Promise<OpenArtifact | undefined> {
	let handle: FileHandle;
	try {
		handle = await open(root.layout.sealed(keyId, path), constants.O_RDONLY | constants.O_NOFOLLOW);
	} catch (error) {
		if (isErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
		throw error;
	}
	try {
		const stats = fstatSync(handle.fd);
		if (stats.isFile()) return { handle, stats };
	} catch (error) {
		await handle.close();
		throw error;
	}
	await handle.close();
	return undefined;
}

function statSealed(root: Root, { keyId, path }: SealedName): Stats | undefined {
	return lstatIfThere(root.layout.sealed(keyId, path));
}

/**
 * Makes a sealed artifact ready for upload; both names durable when it returns. The sidecar goes first: without its object it
 * is an orphan that says nothing, while the object is complete by itself.
 */
export async function publishSealed(root: Root, name: SealedName, object: Staging, iv: Uint8Array): Promise<void> {
	const sidecar = stagingName(root.layout.sealStaging(name.keyId, name.path));
	try {
		// Its data is not synced: upload takes the IV from the object's own header.
		writeFileSync(sidecar, iv, { flag: 'wx', mode: 0o600 });
		await publishByRename(root, sidecar, root.layout.sidecar(name.keyId, name.path));
	} catch (error) {
		await unlinkIfThere(sidecar);
		throw error;
	}
	// Commit point: from here on the artifact can be uploaded without its file in uploads/.
	await object.publishAs(root.layout.sealed(name.keyId, name.path));
}

/** The same with `encryption: false`: a hard link to the artifact, no copy, and no sidecar. */
export async function publishPlain(root: Root, name: SealedName): Promise<void> {
	const staging = stagingName(root.layout.sealStaging(name.keyId, name.path));
	try {
		await inDirectory(dirname(staging), root.sync, () => link(root.layout.artifact(name.path), staging));
		await removeSidecar(root, name);
		// Commit point: from here on the artifact can be uploaded without its name in uploads/.
		await publishByRename(root, staging, root.layout.sealed(name.keyId, name.path));
		// rename does nothing and keeps both names when they are the same file already.
		await unlinkIfThere(staging);
	} catch (error) {
		await discardStaging(staging, root.layout.encrypting);
		throw error;
	}
}

/** Removes a sidecar if it is there. */
async function removeSidecar(root: Root, { keyId, path }: SealedName): Promise<void> {
	await unlinkIfThere(root.layout.sidecar(keyId, path));
}

/**
 * Removes a sidecar whose object is not there, under the path's lock.
 * @returns whether it did (with `dryRun`: whether it would)
 */
export async function removeOrphanSidecar(root: Root, name: SealedName, dryRun: boolean): Promise<boolean> {
	if (statSealed(root, name) !== undefined) return false;
	if (lstatIfThere(root.layout.sidecar(name.keyId, name.path)) === undefined) return false;
	if (!dryRun) await removeSidecar(root, name);
	return true;
}

/**
 * Removes what has been uploaded, `vouched` and under the path's lock, if the name still is the file that was. If it is
 * another, that one waits for the next upload. If it is gone, somebody else uploaded at the same time and nobody knows whose
 * put came last.
 */
export async function removeUploaded(root: Root, name: SealedName, uploaded: Stats): Promise<void> {
	const now = statSealed(root, name);
	if (now !== undefined && isSameFile(now, uploaded)) {
		await unlink(root.layout.sealed(name.keyId, name.path));
		await removeSidecar(root, name);
	} else if (now === undefined) {
		const current = lookUp(root, name.path);
		if (current !== undefined && versionOf(current) >= versionOf(uploaded)) await placeWorkLink(root, name.path);
	}
}

/**
 * Runs `work`, which puts a version of `path` into the store or takes away that one waits, then looks whether there is a newer
 * one than the `handled`. Who has lost the `lock` may replace or take away that one, and be killed before the look: then a
 * voucher is left, and repair looks.
 */
export async function vouched(
	root: Root,
	path: ArtifactPath,
	handled: number,
	lock: HeldLock,
	work: () => Promise<void>,
): Promise<void> {
	const voucher = await placeVoucher(root, path);
	try {
		await work();
	} finally {
		await lookAgain(root, path, handled, lock, voucher);
	}
}

async function lookAgain(
	root: Root,
	path: ArtifactPath,
	handled: number,
	lock: HeldLock,
	voucher: string,
): Promise<void> {
	try {
		await relinkAfter(root, path, handled, lock);
	} catch (error) {
		// Nobody knows whether it waits, so it does: what was handled is handled once more.
		await redeemVoucher(root, path, voucher);
		throw error;
	}
	await unlinkIfThere(voucher);
}

/** The fence after `handled` was put or removed under `lock`: has a newer version wait, if need be. */
export async function relinkAfter(root: Root, path: ArtifactPath, handled: number, lock: HeldLock): Promise<void> {
	if (lock.isHeld) await relinkIfOther(root, path, handled);
	// That it is sealed says nothing: who took the lock may have put it, before ours, and be about to remove that file.
	else if (versionHere(root, path) > handled) await placeWorkLink(root, path);
}

/**
 * If `uploads/` holds a newer version of `path` than `handled` and nothing says that it waits, makes its work link. Not under
 * the path's lock it may make one too many.
 * An older one (a slow fetch has brought it back after the newer one was evicted) may not replace what was handled.
 * @returns whether it did
 */
export async function relinkIfOther(root: Root, path: ArtifactPath, handled: number, dryRun = false): Promise<boolean> {
	const version = versionHere(root, path);
	if (version <= handled || hasWorkLink(root, path)) return false;
	for await (const keyId of keyIdsInEncrypted(root)) {
		const sealed = statSealed(root, { keyId, path });
		if (sealed !== undefined && versionOf(sealed) === version) return false;
	}
	if (!dryRun) await placeWorkLink(root, path);
	return true;
}

/** The version in `uploads/`; 0 when there is none, also when the name is something else there: the bucket may be shared. */
function versionHere(root: Root, path: ArtifactPath): number {
	try {
		const here = lookUp(root, path);
		return here === undefined ? 0 : versionOf(here);
	} catch (error) {
		if (isS3proxyError(error) && error.code === 'conflict') return 0;
		throw error;
	}
}
