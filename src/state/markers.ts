/** `uploading/`: a marker says that an ingest is about to publish and has not made its work link yet. */

import { open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { inDirectory, isErrno, lstatIfThere, syncDirectory, unlinkIfThere } from '../fs/durable.js';
import type { ArtifactPath } from './artifact-path.js';
import type { Root } from './root.js';

/**
 * Durable when it returns: after a power cut, a published artifact has its marker or its work link.
 * @returns whether it was made; false when an ingest that died has left one, which then still vouches for what it published
 */
export async function placeMarker(root: Root, path: ArtifactPath): Promise<boolean> {
	const marker = root.layout.marker(path);
	const made = await inDirectory(dirname(marker), root.sync, () => makeFile(marker));
	if (root.sync) await syncDirectory(dirname(marker));
	return made;
}

async function makeFile(file: string): Promise<boolean> {
	try {
		await (await open(file, 'wx', 0o644)).close();
		return true;
	} catch (error) {
		if (isErrno(error, 'EEXIST') && lstatIfThere(file)?.isFile()) return false;
		throw error;
	}
}

export async function removeMarker(root: Root, path: ArtifactPath): Promise<void> {
	await unlinkIfThere(root.layout.marker(path));
}
