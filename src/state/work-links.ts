/**
 * `to_encrypt/`: a symlink for every artifact that waits for encryption. And vouchers: the same symlink under a staging name,
 * while a process puts a version into the store, or takes away what says that one waits.
 */

import { readlink, symlink } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { inDirectory, isErrno, lstatIfThere, syncDirectory, unlinkIfThere } from '../fs/durable.js';
import { type ArtifactPath, artifactPathIfValid } from './artifact-path.js';
import type { Root } from './root.js';
import { publishByRename, publishSymlink, STAGING_NAME, stagingName } from './staging.js';
import { entriesOf } from './walk.js';

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

/**
 * Says that somebody has to look whether `path` waits, should this process die. Not made durable: it is for who was stopped and
 * is killed, and a power cut ends everybody.
 * @returns its file, which is to be removed
 */
export async function placeVoucher(root: Root, path: ArtifactPath): Promise<string> {
	const voucher = stagingName(dirname(root.layout.workLink(path)));
	await inDirectory(dirname(voucher), root.sync, () => symlink(root.layout.artifact(path), voucher));
	return voucher;
}

/** Whether one stands for `path`. */
export async function hasVoucher(root: Root, path: ArtifactPath): Promise<boolean> {
	const directory = dirname(root.layout.workLink(path));
	for await (const { name } of entriesOf(directory)) {
		if (STAGING_NAME.test(name) && (await pathOfVoucher(root, join(directory, name))) === path) return true;
	}
	return false;
}

/** Makes a voucher the work link; durable when it returns. */
export async function redeemVoucher(root: Root, path: ArtifactPath, voucher: string): Promise<void> {
	await publishByRename(root, voucher, root.layout.workLink(path));
}

/** The path that a voucher stands for; undefined when it is none. Its own place is looked at: a root may have been moved. */
export async function pathOfVoucher(root: Root, voucher: string): Promise<ArtifactPath | undefined> {
	try {
		const name = basename(await readlink(voucher));
		return artifactPathIfValid(join(relative(root.layout.toEncrypt, dirname(voucher)), name));
	} catch (error) {
		if (isErrno(error, 'ENOENT', 'EINVAL')) return undefined;
		throw error;
	}
}
