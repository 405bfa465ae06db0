/** One version in the store, for those who read its content. */

import type { Context } from '../context.js';
import { type SourceObject, VersionGone } from './download.js';
import type { StoredVersion } from './locate.js';
import { saysSealed, saysSha256 } from './object-metadata.js';

/** An object of the store as a download reads it, pinned to the version that was found. */
export async function storedObject(
	context: Context,
	{ head }: StoredVersion,
	signal: AbortSignal,
): Promise<SourceObject> {
	const store = await context.store();
	return {
		size: head.size,
		saysSealed: saysSealed(head),
		sha256: saysSha256(head),
		read: async (range) => {
			const body = await store.get(head.key, { range, ifMatch: head.etag, signal });
			if (body === undefined) throw new VersionGone();
			return body;
		},
	};
}
