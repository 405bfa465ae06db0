/** Removes local copies of what the store provably has. */

import { DEFAULT_STORE_JOBS } from '../config.js';
import type { Context } from '../context.js';
import { purge } from '../edge/purge.js';
import { explain, S3proxyError } from '../errors.js';
import { readChunks } from '../fs/chunks.js';
import type { ArtifactPath } from '../state/artifact-path.js';
import { type OpenArtifact, openArtifact, versionOf } from '../state/artifacts.js';
import { removeArtifact, type Stage, stageAhead } from '../state/eviction.js';
import { download, type Target, VersionGone } from './download.js';
import { locate, locateInStore, newest } from './locate.js';
import { type RunResult, runItems } from './run-items.js';
import { storedObject } from './stored-object.js';

export interface EvictOptions {
	readonly paths: readonly ArtifactPath[];
	readonly jobs?: number | undefined;
}

/**
 * Removes local copies. Each is read back from the store first, authenticated, and compared byte for byte.
 * @throws S3proxyError `bad-key`
 */
export async function evict(context: Context, { paths, jobs }: EvictOptions): Promise<RunResult> {
	return runItems(context, {
		items: paths,
		jobs: jobs ?? context.config.jobs ?? DEFAULT_STORE_JOBS,
		nameOf: (path) => path,
		work: (path) => evictOne(context, path),
	});
}

/** @returns bytes that are free now; undefined when there is no local copy */
async function evictOne(context: Context, path: ArtifactPath): Promise<number | undefined> {
	const { root, abandon } = context;
	const artifact = await openArtifact(root, path);
	if (artifact === undefined) {
		if ((await locate(context, path)) !== undefined) return undefined;
		throw new S3proxyError('not-found', `${path} is not in uploads/ and not in the store`);
	}
	try {
		await refuseWaiting(context, path);
		// Without the lock: it takes long, and must not hold up a POST, whose version is another file.
		await compareWithStore(context, path, artifact);
		const removed = await root.locks.withPath(path, abandon, async (lock) => {
			await refuseWaiting(context, path);
			return removeArtifact(root, path, artifact, lock);
		});
		if (!removed) throw changed(path);
		await purge(context, path);
		return artifact.stats.size;
	} catch (error) {
		throw error instanceof VersionGone ? changedInStore(path) : explain(error, `evicting ${path}`);
	} finally {
		await artifact.handle.close();
	}
}

const WAITS: Readonly<Record<Stage, readonly [what: string, hint: string]>> = {
	ingest: ['its ingest has not been done', 'If nothing is storing it, run s3proxy repair.'],
	encrypt: ['its encrypt has not been done', 'Run s3proxy encrypt first.'],
	upload: ['its upload has not been done', 'Run s3proxy upload first.'],
	put: ['an upload of it has not come to its end', 'If no s3proxy upload is running, run s3proxy repair.'],
};

async function refuseWaiting({ root }: Context, path: ArtifactPath): Promise<void> {
	const stage = await stageAhead(root, path);
	if (stage === undefined) return;
	const [what, hint] = WAITS[stage];
	throw new S3proxyError('conflict', `${path}: ${what}, so this may be the only copy`, { hint });
}

function changed(path: ArtifactPath): S3proxyError {
	return new S3proxyError('conflict', `${path} was replaced while it was compared with the store`, {
		hint: 'The new version was left; evict it when it is in the store.',
	});
}

function changedInStore(path: ArtifactPath): S3proxyError {
	return new S3proxyError('conflict', `${path}: its object in the store changed, or went, while it was compared`, {
		hint: 'The local copy was left; try again.',
	});
}

/** @throws S3proxyError `conflict` when the newest version in the store is not what is held open; VersionGone */
async function compareWithStore(context: Context, path: ArtifactPath, artifact: OpenArtifact): Promise<void> {
	const keyring = await context.keyring();
	const stored = newest(await locateInStore(context, keyring, path));
	const key = stored === undefined ? undefined : keyring.byId(stored.keyId);
	if (stored === undefined || key === undefined) throw differs(path, 'the store does not have it');
	if (stored.version !== versionOf(artifact.stats)) throw differs(path, 'the store has another version');
	const { abandon: signal } = context;
	context.progress.expect(1, artifact.stats.size);
	const target = comparison(path, artifact);
	const { size } = await download(context, {
		object: await storedObject(context, stored, signal),
		key,
		path,
		target,
		signal,
	});
	if (size !== artifact.stats.size) throw differs(path, 'the store has another content');
}

function differs(path: ArtifactPath, what: string): S3proxyError {
	return new S3proxyError('conflict', `${path}: ${what}, so the local copy was left`, {
		hint: 'Store it again with s3proxy ingest, encrypt and upload it; then it can be evicted.',
	});
}

/** Takes a download, and keeps nothing: what comes must be what the file has. */
function comparison(path: ArtifactPath, { handle }: OpenArtifact): Target {
	return {
		write: async (content, position) => {
			const here = Buffer.allocUnsafe(content.length);
			const { bytesRead } = await handle.read(here, 0, here.length, position);
			if (!here.subarray(0, bytesRead).equals(content)) throw differs(path, 'the store has another content');
		},
		read: () => readChunks(handle),
	};
}
