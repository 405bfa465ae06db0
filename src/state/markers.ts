/** `uploading/`: a marker says that an ingest is about to publish and has not made its work link yet. */

import { open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { inDirectory, syncDirectory, unlinkIfThere } from '../fs/durable.js';
import type { ArtifactPath } from './artifact-path.js';
import type { Root } from './root.js';

/** Durable when it returns: after a power cut, a published artifact has its marker or its work link. */
export async function placeMarker(root: Root, path: ArtifactPath): Promise<void> {
	const marker = root.layout.marker(path);
	const handle = await inDirectory(dirname(marker), root.sync, () => open(marker, 'w', 0o644));
	await handle.close();
	if (root.sync) await syncDirectory(dirname(marker));
}

export async function removeMarker(root: Root, path: ArtifactPath): Promise<void> {
	await unlinkIfThere(root.layout.marker(path));
}
