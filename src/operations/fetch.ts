/** Makes sure that artifacts are in `uploads/`: the way back from the store. */

import { createWriteStream } from 'node:fs';
import { rename } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { DEFAULT_STORE_JOBS } from '../config.js';
import type { Context } from '../context.js';
import type { Key } from '../crypto/keyring.js';
import { purge } from '../edge/purge.js';
import { explain, S3proxyError } from '../errors.js';
import { readChunks } from '../fs/chunks.js';
import { isErrno, unlinkIfThere } from '../fs/durable.js';
import type { ArtifactPath } from '../state/artifact-path.js';
import { lookUp, openArtifact, versionOf } from '../state/artifacts.js';
import { removeArtifact, returnNewer } from '../state/eviction.js';
import type { HeldLock } from '../state/held-lock.js';
import { openSealed } from '../state/sealed.js';
import { Staging } from '../state/staging.js';
import type { ByteRange } from '../store/object-store.js';
import { download, fileTarget, type SourceObject, VersionGone } from './download.js';
import { type Location, locate } from './locate.js';
import { type RunResult, runItems } from './run-items.js';
import { storedObject } from './stored-object.js';

/** How often a download looks whether a POST has overtaken it. */
const LOOK_AGAIN_MS = 500;
/** How often the newest version may vanish from under a download. */
const ATTEMPTS = 5;

export interface Fetched {
	/** Whether it was in `uploads/` already. */
	readonly present: boolean;
	/** Bytes of the artifact. */
	readonly size: number;
}

/**
 * Fetches several artifacts.
 * @throws S3proxyError `bad-key`
 */
export async function fetchAll(context: Context, paths: readonly ArtifactPath[], jobs?: number): Promise<RunResult> {
	return runItems(context, {
		items: paths,
		jobs: jobs ?? context.config.jobs ?? DEFAULT_STORE_JOBS,
		nameOf: (path) => path,
		work: async (path) => {
			const { present, size } = await fetchArtifact(context, path);
			return present ? undefined : size;
		},
	});
}

/**
 * Makes sure that `path` is in `uploads/`. One download per path and root: others wait for it, in whatever process.
 * When it returns after a download, the artifact is whole, authentic and durable.
 * @throws S3proxyError `not-found` only when the store said so; `not-authentic`, `store-unreachable`, `store-refused`,
 *   `conflict`, `disk-full`
 */
async function fetchArtifact(context: Context, path: ArtifactPath): Promise<Fetched> {
	const { root, abandon } = context;
	const here = lookUp(root, path);
	if (here !== undefined) return { present: true, size: here.size };
	// Asked before anything is locked: a request for what does not exist leaves nothing behind.
	await mustExist(context, path);
	return root.locks.withFetch(path, abandon, async (lock) => {
		for (let attempt = 1; ; attempt++) {
			try {
				return await fetchNewest(context, path, lock);
			} catch (error) {
				if (!(error instanceof VersionGone) || attempt === ATTEMPTS) throw explainFetch(error, path);
			}
		}
	});
}

function explainFetch(error: unknown, path: ArtifactPath): unknown {
	if (error instanceof VersionGone) {
		return new S3proxyError('store-unreachable', `${path} is being replaced in the store all the time`, {
			hint: 'Try again.',
		});
	}
	if (isErrno(error, 'ENOTDIR', 'EEXIST', 'EISDIR')) {
		return new S3proxyError('conflict', `${path} runs through an artifact, or is a directory of artifacts`, {
			cause: error,
		});
	}
	return explain(error, `fetching ${path}`);
}

async function mustExist(context: Context, path: ArtifactPath): Promise<Location> {
	const location = await locate(context, path);
	if (location !== undefined) return location;
	throw new S3proxyError('not-found', `${path} is not in uploads/ and not in the store`);
}

async function fetchNewest(context: Context, path: ArtifactPath, lock: HeldLock): Promise<Fetched> {
	const location = await mustExist(context, path);
	if (location.kind === 'uploads') return { present: true, size: location.size };
	const { root } = context;
	const staging = await Staging.create(root, root.layout.toDecrypt, root.layout.fetchStaging(path));
	const overtaken = new Overtaken(context, path);
	try {
		const size = await withObject(context, location, path, overtaken.signal, (object, key) => {
			context.progress.expect(1, object.size);
			return download(context, { object, key, path, target: fileTarget(staging.handle), signal: overtaken.signal });
		});
		// As it was ingested, so that nginx's ETag and Last-Modified are what they were.
		staging.setVersion(location.version);
		await staging.syncData();
		lock.assertHeld();
		await publish(context, path, staging, location.version);
		return { present: false, ...size };
	} catch (error) {
		await staging.drop();
		// An error of the overtaken download says nothing: there is a newer version, and it is in uploads/.
		const here = overtaken.byPost ? lookUp(root, path) : undefined;
		if (here === undefined) throw error;
		return { present: true, size: here.size };
	} finally {
		overtaken.stopLooking();
	}
}

async function publish(context: Context, path: ArtifactPath, staging: Staging, version: number): Promise<void> {
	const { root, abandon } = context;
	const isLate = await root.locks.withPath(path, abandon, async (lock) => {
		lock.setNewest(version);
		const { newest } = lock;
		// A newer version came and went while this one was downloaded; one that never came to its publish does not count.
		if (newest > version && ((await returnNewer(root, path, version)) || (await hasNewer(context, path, version))))
			throw new VersionGone();
		lock.assertHeld();
		// Commit point: readers see it. A newer POST has taken the name already; then this one is dropped.
		await staging.publishUnlessTaken(root.layout.artifact(path));
		return lock.newest > newest;
	});
	// The lock was lost right before the publish: a newer version may have come, and gone from here.
	if (!isLate) return;
	await retract(context, path, version);
	throw new VersionGone();
}

/** Takes back what readers may not see any more. */
async function retract(context: Context, path: ArtifactPath, version: number): Promise<void> {
	const { root, abandon } = context;
	const artifact = await openArtifact(root, path);
	if (artifact === undefined) return;
	try {
		if (versionOf(artifact.stats) !== version) return;
		await root.locks.withPath(path, abandon, (lock) => removeArtifact(root, path, artifact, lock));
		await purge(context, path);
	} finally {
		await artifact.handle.close();
	}
}

async function hasNewer(context: Context, path: ArtifactPath, version: number): Promise<boolean> {
	const newest = await locate(context, path);
	return newest !== undefined && newest.kind !== 'uploads' && newest.version > version;
}

/** Opens the version at `location` for the time of `use`. */
async function withObject<T>(
	context: Context,
	location: Location & { kind: 'encrypted' | 'store' },
	path: ArtifactPath,
	signal: AbortSignal,
	use: (object: SourceObject, key: Key) => Promise<T>,
): Promise<T> {
	const key = (await context.keyring()).byId(location.keyId);
	// The keyring was asked a moment ago which keys there are; somebody has removed one since.
	if (key === undefined) throw new VersionGone();
	if (location.kind === 'store') return use(await storedObject(context, location, signal), key);
	const file = await openSealed(context.root, { keyId: location.keyId, path });
	if (file === undefined) throw new VersionGone();
	try {
		const read = async (range: ByteRange) => readChunks(file.handle, range);
		return await use({ size: file.stats.size, saysSealed: false, sha256: undefined, read }, key);
	} finally {
		await file.handle.close();
	}
}

/** Watches for a POST of the path whose download is under way: whoever waits for the download wants the new file. */
class Overtaken {
	byPost = false;
	readonly #controller = new AbortController();
	readonly #timer: NodeJS.Timeout;
	readonly #abandon: AbortSignal;
	readonly #onAbandon = () => this.#controller.abort(this.#abandon.reason);

	constructor({ root, abandon }: Context, path: ArtifactPath) {
		this.#abandon = abandon;
		abandon.addEventListener('abort', this.#onAbandon, { once: true });
		if (abandon.aborted) this.#onAbandon();
		const look = async () => {
			if (lookUp(root, path) === undefined) return;
			this.byPost = true;
			this.#controller.abort();
		};
		// A failure to look is no news; publishing looks again.
		this.#timer = setInterval(() => void look().catch(() => undefined), LOOK_AGAIN_MS);
	}

	get signal(): AbortSignal {
		return this.#controller.signal;
	}

	stopLooking(): void {
		clearInterval(this.#timer);
		this.#abandon.removeEventListener('abort', this.#onAbandon);
	}
}

/**
 * Copies an artifact that is in `uploads/` out of the root.
 * @param output a file, which is replaced when the copy is whole; `-` is stdout
 * @throws S3proxyError `io`, `disk-full`
 */
export async function copyOut(context: Context, path: ArtifactPath, output: string): Promise<void> {
	const artifact = await openArtifact(context.root, path);
	if (artifact === undefined) throw new S3proxyError('not-found', `${path} was removed from uploads/ again`);
	const source = artifact.handle.createReadStream({ highWaterMark: 2 ** 20 });
	try {
		if (output === '-') {
			await pipeline(source, process.stdout, { end: false });
			return;
		}
		const partial = `${output}.s3proxy-part-${process.pid}`;
		try {
			await pipeline(source, createWriteStream(partial, { flags: 'wx', flush: true }));
			await rename(partial, output);
		} catch (error) {
			await unlinkIfThere(partial);
			throw error;
		}
	} catch (error) {
		// Whoever reads our stdout has seen enough: `s3proxy fetch … --output - | head`.
		if (output !== '-' || !isErrno(error, 'EPIPE')) throw explain(error, `writing ${output}`);
	} finally {
		source.destroy();
	}
}

/** The fetches of one process: whoever asks for a path that is being fetched waits for that. */
export class SharedFetches {
	readonly #context: Context;
	readonly #underWay = new Map<ArtifactPath, Promise<Fetched>>();

	constructor(context: Context) {
		this.#context = context;
	}

	/** Throws like `fetchArtifact`. It goes on when the one who asked does not wait any more. */
	fetch(path: ArtifactPath): Promise<Fetched> {
		const known = this.#underWay.get(path);
		if (known !== undefined) return known;
		const fetching = fetchArtifact(this.#context, path).finally(() => this.#underWay.delete(path));
		this.#underWay.set(path, fetching);
		return fetching;
	}

	/** Resolves when nothing is under way. */
	async settled(): Promise<void> {
		await Promise.allSettled(this.#underWay.values());
	}
}
