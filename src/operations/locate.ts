/** Where the versions of an artifact are. */

import type { Context } from '../context.js';
import type { Keyring } from '../crypto/keyring.js';
import type { ArtifactPath } from '../state/artifact-path.js';
import { lookUp, versionOf } from '../state/artifacts.js';
import { openSealed } from '../state/sealed.js';
import type { ObjectHead } from '../store/object-store.js';
import { versionOfObject } from './object-metadata.js';

export type Location =
	| { readonly kind: 'uploads'; readonly size: number }
	| { readonly kind: 'encrypted'; readonly keyId: string; readonly version: number }
	| { readonly kind: 'store'; readonly keyId: string; readonly version: number; readonly head: ObjectHead };

/** What the store has under one key. */
export type StoredVersion = Location & { kind: 'store' };

/**
 * The newest version that can be had: what is in `uploads/`, or else the newest of what waits in `encrypted/` and of what
 * the store has under any of our keys.
 * @returns undefined when the store said, for every key, that it has none
 * @throws S3proxyError `conflict`; `bad-key`; `store-unreachable` or `store-refused` when that cannot be known
 */
export async function locate(context: Context, path: ArtifactPath): Promise<Location | undefined> {
	const here = lookUp(context.root, path);
	if (here !== undefined) return { kind: 'uploads', size: here.size };
	const keyring = await context.keyring();
	const [waiting, stored] = await Promise.all([
		locateSealed(context, keyring, path),
		locateInStore(context, keyring, path),
	]);
	return newest([...waiting, ...stored]);
}

/** Every version in the store, one per key at most, in the keyring's order. */
export async function locateInStore(context: Context, keyring: Keyring, path: ArtifactPath): Promise<StoredVersion[]> {
	const store = await context.store();
	const heads = await Promise.all(keyring.all.map(({ id }) => store.head(`${id}/${path}`, context.abandon)));
	return keyring.all.flatMap(({ id }, index) => {
		const head = heads[index];
		return head === undefined ? [] : [{ kind: 'store', keyId: id, version: versionOfObject(head), head }];
	});
}

async function locateSealed(context: Context, keyring: Keyring, path: ArtifactPath): Promise<Location[]> {
	const found: Location[] = [];
	for (const { id } of keyring.all) {
		const sealed = await openSealed(context.root, { keyId: id, path });
		if (sealed === undefined) continue;
		await sealed.handle.close();
		found.push({ kind: 'encrypted', keyId: id, version: versionOf(sealed.stats) });
	}
	return found;
}

/** The newest; of several that are equally new the first, which is under the newest key or on this machine. */
export function newest<T extends Location>(locations: readonly T[]): T | undefined {
	const age = (location: T) => (location.kind === 'uploads' ? Number.POSITIVE_INFINITY : location.version);
	return locations.reduce<T | undefined>(
		(best, location) => (best === undefined || age(location) > age(best) ? location : best),
		undefined,
	);
}
