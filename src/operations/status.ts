/** What waits where. */

import { type Stats, statSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Context } from '../context.js';
import { isErrno, lstatIfThere } from '../fs/durable.js';
import { SIDECAR_SUFFIX } from '../state/artifact-path.js';
import { STAGING_NAME } from '../state/staging.js';
import { walk } from '../state/walk.js';

export interface Waiting {
	readonly count: number;
	readonly bytes: number;
	/** Seconds since the oldest of them was stored; null when nothing waits. */
	readonly oldestSeconds: number | null;
}

export interface Status {
	readonly root: string;
	readonly store: string;
	readonly encryption: boolean;
	/** Uploads coming in, or left behind by a crash. */
	readonly arriving: Waiting;
	/** Ingests that have published and not said so yet; one that stays is for repair. */
	readonly markers: Waiting;
	readonly waitingForEncryption: Waiting;
	readonly waitingForUpload: Waiting;
	/** Downloads under way, or left behind by a crash. */
	readonly fetching: Waiting;
	readonly keys: { readonly latest: string | null; readonly older: readonly string[] };
	readonly disk: { readonly freeBytes: number; readonly totalBytes: number };
}

/** Reads the directories in which something can wait; it does not walk `uploads/`, which may have millions of files. */
export async function status(context: Context): Promise<Status> {
	const { layout } = context.root;
	const isStaging = (name: string) => STAGING_NAME.test(basename(name));
	const keyring = await context.keyringIfAny();
	const disk = await statfs(layout.root);
	const { store } = context.config;
	return {
		root: layout.root,
		store: store.kind === 's3' ? `s3://${store.bucket}` : `file:${store.directory}`,
		encryption: context.config.encryption,
		arriving: await count(layout.uploading, isStaging, lstatIfThere),
		markers: await count(layout.uploading, (name) => !isStaging(name), lstatIfThere),
		waitingForEncryption: await count(layout.toEncrypt, (name) => !isStaging(name), statBehindLink),
		waitingForUpload: await count(layout.encrypted, (name) => !name.endsWith(SIDECAR_SUFFIX), lstatIfThere),
		fetching: await count(layout.toDecrypt, isStaging, lstatIfThere),
		keys: {
			latest: keyring?.latest.id ?? null,
			older: keyring?.all.filter(({ id }) => id !== keyring.latest.id).map(({ id }) => id) ?? [],
		},
		disk: { freeBytes: disk.bavail * disk.bsize, totalBytes: disk.blocks * disk.bsize },
	};
}

async function count(
	directory: string,
	counts: (name: string) => boolean,
	look: (file: string) => Stats | undefined,
): Promise<Waiting> {
	let [found, bytes, oldest] = [0, 0, Number.POSITIVE_INFINITY];
	for await (const { path: name } of walk(directory)) {
		if (!counts(name)) continue;
		const stats = look(join(directory, name));
		found++;
		bytes += stats?.size ?? 0;
		oldest = Math.min(oldest, stats?.mtimeMs ?? Number.POSITIVE_INFINITY);
	}
	const oldestSeconds = Number.isFinite(oldest) ? Math.max(0, Math.round((Date.now() - oldest) / 1000)) : null;
	return { count: found, bytes, oldestSeconds };
}

/** The artifact behind a work link; undefined when it is gone. */
function statBehindLink(link: string): Stats | undefined {
	try {
		return statSync(link, { throwIfNoEntry: false });
	} catch (error) {
		if (isErrno(error, 'ENOTDIR', 'ELOOP')) return undefined;
		throw error;
	}
}
