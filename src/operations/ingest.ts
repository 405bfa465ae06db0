/** Stores an artifact: what POST and `s3proxy ingest` do, wherever its content comes from. */

import { createHash, type Hash } from 'node:crypto';
import type { Context } from '../context.js';
import { explain, S3proxyError } from '../errors.js';
import { readChunks } from '../fs/chunks.js';
import { isErrno } from '../fs/durable.js';
import type { ArtifactPath } from '../state/artifact-path.js';
import { assertNameIsFree, lookUp, openArtifact, versionOf } from '../state/artifacts.js';
import type { PathLock } from '../state/held-lock.js';
import { placeMarker, removeMarker } from '../state/markers.js';
import { Staging } from '../state/staging.js';
import { pruneUpwards } from '../state/walk.js';
import { placeWorkLink } from '../state/work-links.js';
import { locate } from './locate.js';
import { ReceivedContent, tooLarge } from './received-content.js';

/** Every version of a path is this much later than the one before: nginx's ETag knows whole seconds only (EDGE.md). */
const VERSION_STEP_MS = 1000;

export interface Stored {
	readonly path: ArtifactPath;
	/** Bytes. */
	readonly size: number;
	/** Lower-case hex, when it was asked for. */
	readonly sha256: string | undefined;
	/** Milliseconds since the epoch: the version's mtime. */
	readonly mtime: number;
}

export interface CommitOptions {
	/** Lower-case hex; when the content has another one, nothing is stored. */
	readonly sha256?: string | undefined;
}

/** One ingest: `begin`, `receive`, then `commit` or `abandon`. After a failure, `abandon`. */
export class Ingest {
	readonly #context: Context;
	readonly #path: ArtifactPath;
	#staging: Staging;
	#content: ReceivedContent | undefined;
	/** Bytes of a file that was taken over. */
	#takenOverSize = 0;
	/** Lower-case hex, when one is to be checked. */
	#digest: string | undefined;
	/** Whether the marker is ours, and not of an ingest that died. */
	#marked = false;

	private constructor(context: Context, path: ArtifactPath, staging: Staging) {
		this.#context = context;
		this.#path = path;
		this.#staging = staging;
	}

	/**
	 * Checks all that can be known before the content comes, and makes the staging file.
	 * @throws S3proxyError `conflict`; with `overwrite: false` also what asking the store throws
	 */
	static async begin(context: Context, path: ArtifactPath): Promise<Ingest> {
		const { root } = context;
		assertNameIsFree(root, path);
		await refuseOverwrite(context, path);
		const directory = root.layout.ingestStaging(path);
		try {
			return new Ingest(context, path, await Staging.create(root, root.layout.uploading, directory));
		} catch (error) {
			if (isErrno(error, 'ENOTDIR', 'EEXIST')) throw nameIsTaken(path, error);
			throw explain(error, `storing ${path}`);
		}
	}

	/**
	 * Takes the content, which goes into staging; once. It has come to its end before `commit`.
	 * @param options.hash whether the SHA-256 will be wanted (it can also be had later, for another read)
	 */
	receive({ hash }: { hash: boolean }): ReceivedContent {
		const { config, root } = this.#context;
		const options = { limit: config.maxUploadSize, hash, sync: root.sync };
		this.#content = new ReceivedContent(this.#path, this.#staging.handle, options);
		return this.#content;
	}

	/** Bytes of the content. */
	get size(): number {
		return this.#content?.size ?? this.#takenOverSize;
	}

	/**
	 * Takes a whole file over by linking it into staging.
	 * @returns false when that cannot be done: copy it
	 * @throws S3proxyError `too-large`
	 */
	async takeOver(file: string, size: number): Promise<boolean> {
		const { root, config } = this.#context;
		if (size > config.maxUploadSize) throw tooLarge(this.#path, config.maxUploadSize);
		const directory = root.layout.ingestStaging(this.#path);
		const adopted = await Staging.adopt(root, root.layout.uploading, directory, file);
		if (adopted === undefined) return false;
		await this.#staging.drop();
		this.#staging = adopted;
		this.#takenOverSize = size;
		return true;
	}

	/**
	 * Publishes the artifact. When this returns, content, names and work link are durable: it will end up in the store.
	 * @throws S3proxyError `checksum-mismatch`, `conflict`, `lock-timeout`, `lock-lost`, `disk-full`, `io`
	 */
	async commit(options: CommitOptions = {}): Promise<Stored> {
		try {
			return await this.#commit(options);
		} catch (error) {
			if (isErrno(error, 'ENOTDIR', 'EEXIST', 'EISDIR', 'ENOTEMPTY')) throw nameIsTaken(this.#path, error);
			throw explain(error, `storing ${this.#path}`);
		}
	}

	async #commit({ sha256 }: CommitOptions): Promise<Stored> {
		if (this.#content?.isWhole === false)
			throw new Error('an ingest is committed before its content has come to its end');
		if (sha256 !== undefined) await this.#checkDigest(sha256);
		await this.#staging.syncData();
		const { root, abandon } = this.#context;
		const { newest, ...stored } = await root.locks.withPath(this.#path, abandon, async (lock) => {
			try {
				return { ...(await this.#publish(lock)), newest: lock.newest };
			} catch (error) {
				if (this.#staging.isPublished) {
					await this.#leaveToRepair();
				} else {
					lock.forgetIfNew();
					await this.#takeBack();
				}
				throw error;
			}
		});
		return stored.mtime < newest ? await this.#renumber(stored) : stored;
	}

	/**
	 * The lock was lost right before the publish, which has replaced a newer version. The answer to this one comes last: it is
	 * the newest now, whatever is in the store, unless it was replaced as well.
	 */
	async #renumber(stored: Stored): Promise<Stored> {
		const { root, abandon } = this.#context;
		const path = this.#path;
		return root.locks.withPath(path, abandon, async (lock) => {
			const artifact = await openArtifact(root, path);
			if (artifact === undefined) return stored;
			try {
				if (versionOf(artifact.stats) !== stored.mtime) return stored;
				const mtime = await nextVersion(this.#context, path, lock);
				lock.setNewest(mtime);
				lock.assertHeld();
				await artifact.handle.utimes(mtime / 1000, mtime / 1000);
				if (root.sync) await artifact.handle.sync();
				// It may have been sealed under its old number.
				await placeWorkLink(root, path);
				return { ...stored, mtime };
			} finally {
				await artifact.handle.close();
			}
		});
	}

	async #publish(lock: PathLock): Promise<Stored> {
		const { root } = this.#context;
		const path = this.#path;
		assertNameIsFree(root, path);
		await refuseOverwrite(this.#context, path);
		const mtime = await nextVersion(this.#context, path, lock);
		this.#staging.setVersion(mtime);
		await this.#staging.syncData();
		this.#marked = await placeMarker(root, path);
		lock.setNewest(mtime);
		// Whoever closes a file without a name last waits until its blocks are free, a fifth of a second a GiB: not the client.
		const replaced = await openArtifact(root, path).catch(() => undefined);
		try {
			lock.assertHeld();
			// Commit point: readers see the new version, whole, from here on. The marker vouches for the work link.
			await this.#staging.publishAs(root.layout.artifact(path));
			// Acknowledged from here on: the link is durable, so the version ends up in the store.
			await placeWorkLink(root, path);
			await removeMarker(root, path);
		} finally {
			replaced?.handle.close().catch(() => undefined);
		}
		return { path, size: this.size, sha256: this.#digest, mtime };
	}

	/** Readers see the version already, though it was not acknowledged: it has to wait for somebody. The marker stays. */
	async #leaveToRepair(): Promise<void> {
		await placeWorkLink(this.#context.root, this.#path).catch(() => undefined);
	}

	/** Undoes, in the reverse order of creation, what a publish that failed has made. */
	async #takeBack(): Promise<void> {
		const { root } = this.#context;
		if (this.#marked) await removeMarker(root, this.#path).catch(() => undefined);
		const artifact = root.layout.artifact(this.#path);
		await pruneUpwards(artifact.slice(0, artifact.lastIndexOf('/')), root.layout.uploads).catch(() => undefined);
	}

	/** Leaves nothing of an ingest that did not come to its commit; after a commit it does nothing. */
	async abandon(): Promise<void> {
		if (this.#staging.isPublished) return;
		await this.#content?.idle();
		await this.#staging.drop();
	}

	async #checkDigest(expected: string): Promise<void> {
		this.#digest = this.#content?.digest() ?? (await digestOf(this.#staging));
		if (this.#digest === expected) return;
		throw new S3proxyError(
			'checksum-mismatch',
			`${this.#path}: SHA-256 of the ${this.size} bytes received is ${this.#digest}, not ${expected}`,
			{ hint: 'Nothing was stored; send it again.' },
		);
	}
}

async function digestOf(staging: Staging): Promise<string> {
	const hash: Hash = createHash('sha256');
	for await (const chunk of readChunks(staging.handle)) hash.update(chunk);
	return hash.digest('hex');
}

async function nextVersion(context: Context, path: ArtifactPath, lock: PathLock): Promise<number> {
	const current = lookUp(context.root, path);
	const newest = Math.max(lock.newest, current === undefined ? 0 : versionOf(current));
	return Math.max(Date.now(), newest + VERSION_STEP_MS);
}

async function refuseOverwrite(context: Context, path: ArtifactPath): Promise<void> {
	if (context.config.overwrite || (await locate(context, path)) === undefined) return;
	throw new S3proxyError('conflict', `${path} exists already`, {
		hint: 'config.yaml says overwrite: false; choose another name.',
	});
}

function nameIsTaken(path: ArtifactPath, cause: unknown): S3proxyError {
	return new S3proxyError('conflict', `${path} runs through an artifact, or is a directory of artifacts`, {
		cause,
		hint: 'A name is either an artifact or a directory; choose another one.',
	});
}
