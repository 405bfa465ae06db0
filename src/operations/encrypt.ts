/** Works off `to_encrypt/`: seals what waits there into `encrypted/`. */

import { fstatSync } from 'node:fs';
import { DEFAULT_SEAL_JOBS } from '../config.js';
import type { Context } from '../context.js';
import type { Key } from '../crypto/keyring.js';
import { SealPool } from '../crypto/seal-pool.js';
import { explain, S3proxyError } from '../errors.js';
import { type ArtifactPath, artifactPathIfValid } from '../state/artifact-path.js';
import { isSameFile, lookUp, type OpenArtifact, openArtifact, versionOf } from '../state/artifacts.js';
import type { PathLock } from '../state/held-lock.js';
import { publishPlain, publishSealed, vouched } from '../state/sealed.js';
import { STAGING_NAME, Staging } from '../state/staging.js';
import { walk } from '../state/walk.js';
import { hasWorkLink, removeWorkLink } from '../state/work-links.js';
import { emptyResult, type RunResult, runItems } from './run-items.js';

/** While one artifact is sealed, others have their locks taken and their directories synced. */
const IN_FLIGHT_PER_WORKER = 4;
const GROWTH_MS = 250;

export interface EncryptOptions {
	/** Only these; all that waits when empty. */
	readonly paths: readonly ArtifactPath[];
	/** How many artifacts are sealed at the same time. */
	readonly jobs: number | undefined;
}

/**
 * @returns what was done; `busy` when another run is under way
 * @throws S3proxyError `bad-key`
 */
export async function encrypt(context: Context, { paths, jobs }: EncryptOptions): Promise<RunResult> {
	const { latest } = await context.keyring();
	const workers = jobs ?? context.config.jobs ?? DEFAULT_SEAL_JOBS;
	const result = await context.root.locks.withRun('encrypt', async () => {
		const pool = new SealPool(workers);
		const abandon = () => void pool.close();
		context.abandon.addEventListener('abort', abandon, { once: true });
		try {
			return await runItems(context, {
				items: paths.length > 0 ? paths : waiting(context),
				jobs: workers * IN_FLIGHT_PER_WORKER,
				nameOf: (path) => path,
				work: (path) => encryptOne(context, pool, latest, path),
			});
		} finally {
			context.abandon.removeEventListener('abort', abandon);
			await pool.close();
		}
	});
	return result ?? { ...emptyResult(), busy: true };
}

async function* waiting(context: Context): AsyncGenerator<ArtifactPath> {
	for await (const { path: name, entry } of walk(context.root.layout.toEncrypt)) {
		const path = artifactPathIfValid(name);
		if (path !== undefined && entry.isSymbolicLink()) yield path;
		else if (!STAGING_NAME.test(entry.name)) context.log.warn('to_encrypt/ has a name that is no work link', { name });
	}
}

/** @returns bytes sealed; undefined when the artifact does not wait */
async function encryptOne(context: Context, pool: SealPool, key: Key, path: ArtifactPath): Promise<number | undefined> {
	const { root, abandon } = context;
	if (!hasWorkLink(root, path)) return nothingWaits(context, path);
	return root.locks.withPath(path, abandon, async (lock) => {
		// Another one may have done it while this one waited for the lock.
		if (!hasWorkLink(root, path)) return undefined;
		const artifact = await openArtifact(root, path);
		if (artifact === undefined) throw artifactIsGone(path);
		try {
			const size = artifact.stats.size;
			context.progress.expect(1, size);
			if (context.config.encryption) await seal(context, pool, key, path, artifact, lock);
			else await passOn(context, key, path, artifact, lock);
			return size;
		} finally {
			await artifact.handle.close();
		}
	});
}

async function nothingWaits(context: Context, path: ArtifactPath): Promise<undefined> {
	if (lookUp(context.root, path) !== undefined) return undefined;
	throw new S3proxyError('not-found', `${path} does not wait for encryption, and is not in uploads/`);
}

function artifactIsGone(path: ArtifactPath): S3proxyError {
	return new S3proxyError('not-found', `${path} waits for encryption, but is not in uploads/ any more`, {
		hint: 'If somebody removed it on purpose, s3proxy repair forgets it.',
	});
}

async function seal(
	context: Context,
	pool: SealPool,
	key: Key,
	path: ArtifactPath,
	artifact: OpenArtifact,
	lock: PathLock,
): Promise<void> {
	const { root } = context;
	const directory = root.layout.sealStaging(key.id, path);
	const { size } = artifact.stats;
	const object = await Staging.create(root, root.layout.encrypting, directory, 0o600);
	const growth = new Growth(context, object.handle.fd, size);
	try {
		const { iv } = await pool.sealFile({
			sourceFd: artifact.handle.fd,
			targetFd: object.handle.fd,
			size,
			material: key.material,
			path,
			fsync: false,
		});
		growth.end();
		// Tells the version that was sealed; upload says it to the store.
		object.setVersion(versionOf(artifact.stats));
		await object.syncData();
		await finish(context, path, artifact, lock, () => publishSealed(root, { keyId: key.id, path }, object, iv));
	} catch (error) {
		growth.stop();
		await object.drop();
		throw explain(error, `sealing ${path}`);
	}
}

/** Tells how far a thread has come with a large file, by looking at what it writes. */
class Growth {
	readonly #context: Context;
	readonly #size: number;
	readonly #timer: NodeJS.Timeout;
	#told = 0;

	constructor(context: Context, fd: number, size: number) {
		this.#context = context;
		this.#size = size;
		this.#timer = setInterval(() => this.#tell(fstatSync(fd).size), GROWTH_MS);
	}

	end(): void {
		this.stop();
		this.#tell(this.#size);
	}

	stop(): void {
		clearInterval(this.#timer);
	}

	#tell(written: number): void {
		// What is written has tags, which nobody counts.
		const bytes = Math.min(written, this.#size);
		this.#context.progress.advance(0, bytes - this.#told);
		this.#told = bytes;
	}
}

/** `encryption: false`: the same step without a copy. */
async function passOn(
	context: Context,
	key: Key,
	path: ArtifactPath,
	artifact: OpenArtifact,
	lock: PathLock,
): Promise<void> {
	try {
		await finish(context, path, artifact, lock, () => publishPlain(context.root, { keyId: key.id, path }));
		context.progress.advance(0, artifact.stats.size);
	} catch (error) {
		throw explain(error, `passing ${path} on`);
	}
}

/** The last step: what waits from here on is the file in encrypted/. */
async function finish(
	context: Context,
	path: ArtifactPath,
	artifact: OpenArtifact,
	lock: PathLock,
	publish: () => Promise<void>,
): Promise<void> {
	const { root } = context;
	await vouched(root, path, versionOf(artifact.stats), lock, async () => {
		assertUnchanged(context, path, artifact);
		lock.assertHeld();
		await publish();
		await removeWorkLink(root, path);
	});
}

/** A fence: the name still is the file that was read. One that is gone is none: then this is its only copy. */
function assertUnchanged(context: Context, path: ArtifactPath, artifact: OpenArtifact): void {
	const now = lookUp(context.root, path) ?? fstatSync(artifact.handle.fd);
	if (isSameFile(now, artifact.stats) && now.size === artifact.stats.size) return;
	throw new S3proxyError('source-changed', `${path} changed while it was read`, {
		hint: 'The next run takes the new content. Artifacts are to be replaced with POST or ingest, not written to.',
	});
}
