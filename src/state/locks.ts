/**
 * Locks, on proper-lockfile. They keep processes out of each other's way; they do not carry any promise alone, because
 * proper-lockfile can hand one stale lock to two takers, and a stopped process runs on before it learns that it lost its
 * lock. What carries the promises are the fences (docs/state.md), of which `assertHeld` is one.
 */

import fs from 'node:fs';
import { rename, rmdir, stat } from 'node:fs/promises';
import { dirname, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import lockfile from 'proper-lockfile';
import { S3proxyError } from '../errors.js';
import { inDirectory, isErrno, unlinkIfThere } from '../fs/durable.js';
import { type ArtifactPath, RESERVED_PREFIX } from './artifact-path.js';
import type { Layout, LockNames, RunStage } from './layout.js';
import { LockRecord, recordedOwner } from './lock-record.js';
import { isProvablyDead, ownerToken } from './owner.js';
import { type Patience, stopped, Turns } from './turns.js';
import { pruneUpwards } from './walk.js';

/** After this long without a sign of life a lock may be taken over. Owners that are provably dead are not waited for. */
const STALE_MS = 30_000;
const UPDATE_MS = 5_000;
const POLL_FIRST_MS = 5;
const POLL_MOST_MS = 250;

export interface HeldLock {
	/**
	 * The fence before a publish or a removal.
	 * @throws S3proxyError `lock-lost`: do not publish, undo the staging, fail this item
	 */
	assertHeld(): Promise<void>;
}

export interface PathLock extends HeldLock {
	/** mtime in milliseconds of the newest version of this path that this root ever had; 0 when it had none. */
	newest(): Promise<number>;
	setNewest(milliseconds: number): Promise<void>;
	/** Takes back the lock file if this lock made it: the path never became an artifact and may not block names. */
	forgetIfNew(): void;
}

export class Locks {
	readonly #layout: Layout;
	readonly #timeoutMs: number;
	readonly #turns = new Turns();

	/** @param timeoutSeconds how long to wait for the lock of a path */
	constructor(layout: Layout, timeoutSeconds: number) {
		this.#layout = layout;
		this.#timeoutMs = timeoutSeconds * 1000;
	}

	/**
	 * Runs `use` while holding the lock of `path`.
	 * @throws S3proxyError `lock-timeout`; `conflict` when the path runs through an artifact or is a directory
	 */
	async withPath<T>(path: ArtifactPath, signal: AbortSignal, use: (lock: PathLock) => Promise<T>): Promise<T> {
		return this.#with(this.#layout.lock('path', path), path, this.#limited(path, signal), use);
	}

	/** Runs `use` as the only one on this root that downloads `path`; waits as long as another one does. */
	async withFetch<T>(path: ArtifactPath, signal: AbortSignal, use: (lock: HeldLock) => Promise<T>): Promise<T> {
		return this.#with(this.#layout.lock('fetch', path), path, endless(signal), use);
	}

	/** Runs `use` as the only one on this root that changes the objects of `path` in the bucket. */
	async withPut<T>(path: ArtifactPath, signal: AbortSignal, use: (lock: HeldLock) => Promise<T>): Promise<T> {
		return this.#with(this.#layout.lock('put', path), path, endless(signal), use);
	}

	/** Runs `use` as the only run of `stage` on this root; undefined, at once, when there is one. */
	async withRun<T>(stage: RunStage, use: (lock: HeldLock) => Promise<T>): Promise<T | undefined> {
		const held = await this.#tryAcquire(this.#layout.runLock(stage), stage);
		if (held === undefined) return undefined;
		try {
			return await use(held);
		} finally {
			await held.release();
		}
	}

	/**
	 * Removes the lock whose directory is `directory` if its owner is provably dead or it is stale.
	 * @returns whether it was (with `dryRun`: whether it would be)
	 */
	async clearIfDead(names: LockNames, dryRun: boolean): Promise<boolean> {
		const seen = await lockDirectory(names.directory);
		if (seen === undefined || !(await this.#isAbandoned(names, seen.mtimeMs))) return false;
		if (dryRun) return true;
		if (!names.keepFile) await unlinkIfThere(names.file);
		return removeLockDirectory(names.directory, seen.mtimeNs);
	}

	#limited(path: ArtifactPath, signal: AbortSignal): Patience {
		const timedOut = () =>
			new S3proxyError('lock-timeout', `could not lock ${path} within ${this.#timeoutMs / 1000} s`, {
				hint: `Another process works on it; ${this.#layout.lock('path', path).file} says which.`,
			});
		return { signal, deadline: Date.now() + this.#timeoutMs, timedOut };
	}

	async #with<T>(names: LockNames, what: string, patience: Patience, use: (lock: Held) => Promise<T>): Promise<T> {
		await this.#turns.take(names.directory, patience);
		try {
			const held = await this.#acquire(names, what, patience);
			try {
				return await use(held);
			} finally {
				await held.release();
			}
		} finally {
			this.#turns.done(names.directory);
		}
	}

	async #acquire(names: LockNames, what: string, patience: Patience): Promise<Held> {
		for (let pause = POLL_FIRST_MS; ; pause = Math.min(pause * 2, POLL_MOST_MS)) {
			const held = await this.#tryAcquire(names, what);
			if (held !== undefined) return held;
			// Jitter: processes that began to wait together would collide for ever.
			await sleep(pause * (0.5 + Math.random()), undefined, { signal: patience.signal }).catch(() => undefined);
			if (patience.signal.aborted) throw stopped();
			if (Date.now() > patience.deadline) throw patience.timedOut();
		}
	}

	/** The lock, or undefined when a process that may be alive holds it. */
	async #tryAcquire(names: LockNames, what: string): Promise<Held | undefined> {
		for (;;) {
			try {
				return await Held.take(names, what, this.#layout.locks);
			} catch (error) {
				if (isConflict(error)) throw this.#conflict(what, error);
				if (!(error instanceof Error && 'code' in error && error.code === 'ELOCKED')) throw error;
			}
			if (!(await this.clearIfDead(names, false))) return undefined;
		}
	}

	async #isAbandoned(names: LockNames, mtimeMs: number): Promise<boolean> {
		const owner = await recordedOwner(names.file);
		return (owner !== undefined && isProvablyDead(owner)) || mtimeMs < Date.now() - STALE_MS;
	}

	#conflict(what: string, cause: unknown): S3proxyError {
		const where = relative(this.#layout.root, this.#layout.locks);
		return new S3proxyError('conflict', `${what} runs through an artifact, or is a directory of artifacts`, {
			cause,
			hint: `A name is either an artifact or a directory; ${where}/ shows which names are taken.`,
		});
	}
}

/** A lock that this process holds. */
class Held implements PathLock {
	readonly #names: LockNames;
	readonly #what: string;
	/** Up to where directories left empty are removed. */
	readonly #top: string;
	readonly #record: LockRecord;
	readonly #token: string;
	readonly #unlock: () => Promise<void>;
	readonly #loss: { cause?: Error };
	#forget = false;

	private constructor(
		names: LockNames,
		what: string,
		top: string,
		record: LockRecord,
		token: string,
		unlock: () => Promise<void>,
		loss: { cause?: Error },
	) {
		this.#names = names;
		this.#what = what;
		this.#top = top;
		this.#record = record;
		this.#token = token;
		this.#unlock = unlock;
		this.#loss = loss;
	}

	/** @throws an error with the code `ELOCKED` when somebody holds it */
	static async take(names: LockNames, what: string, top: string): Promise<Held> {
		const loss: { cause?: Error } = {};
		const unlock = await inDirectory(dirname(names.directory), false, () =>
			lockfile.lock(names.file, {
				lockfilePath: names.directory,
				realpath: false,
				stale: STALE_MS,
				update: UPDATE_MS,
				fs,
				onCompromised: (error: Error) => {
					loss.cause = error;
				},
			}),
		);
		try {
			const record = await LockRecord.open(names.file);
			const token = ownerToken();
			if (record.isNew) await record.setNewest(0);
			await record.setOwner(token);
			return new Held(names, what, top, record, token, unlock, loss);
		} catch (error) {
			await unlock();
			throw error;
		}
	}

	async assertHeld(): Promise<void> {
		const ours = this.#loss.cause === undefined && (await recordedOwner(this.#names.file)) === this.#token;
		if (ours && (await lockDirectory(this.#names.directory)) !== undefined) return;
		throw new S3proxyError('lock-lost', `the lock of ${this.#what} was lost while working on it`, {
			cause: this.#loss.cause,
			hint: 'The process was stopped, or the disk was very slow. Nothing was changed; it will be done again.',
		});
	}

	async newest(): Promise<number> {
		return this.#record.newest();
	}

	async setNewest(milliseconds: number): Promise<void> {
		await this.#record.setNewest(milliseconds);
	}

	forgetIfNew(): void {
		this.#forget = this.#record.isNew;
	}

	async release(): Promise<void> {
		let cleared = false;
		try {
			const ours = await this.assertHeld().then(
				() => true,
				() => false,
			);
			// Somebody else's record and lock file are not ours to touch.
			if (ours) cleared = await this.#leaveNoOwner();
		} finally {
			await this.#record.close();
			// ERELEASED: it was compromised, and onCompromised has been told.
			if (this.#loss.cause === undefined) await this.#unlock().catch(() => undefined);
			// An empty directory would be in the way of an artifact of its name.
			if (cleared) await pruneUpwards(dirname(this.#names.directory), this.#top);
		}
	}

	/** @returns whether the lock file is gone */
	async #leaveNoOwner(): Promise<boolean> {
		const remove = this.#forget || !this.#names.keepFile;
		if (remove) await unlinkIfThere(this.#names.file);
		else await this.#record.setOwner(undefined);
		return remove;
	}
}

function endless(signal: AbortSignal): Patience {
	return { signal, deadline: Number.POSITIVE_INFINITY, timedOut: stopped };
}

function isConflict(error: unknown): boolean {
	return isErrno(error, 'ENOTDIR', 'EEXIST', 'EISDIR');
}

async function lockDirectory(directory: string): Promise<{ mtimeMs: number; mtimeNs: bigint } | undefined> {
	try {
		const { mtimeMs, mtimeNs } = await stat(directory, { bigint: true });
		return { mtimeMs: Number(mtimeMs), mtimeNs };
	} catch (error) {
		if (isErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
		throw error;
	}
}

/**
 * Takes an abandoned lock directory away. Of several that try, one wins: the directory is renamed first, and given back
 * if it turns out to be another than the one that was judged (somebody took the lock in between).
 */
async function removeLockDirectory(directory: string, judged: bigint): Promise<boolean> {
	const aside = `${dirname(directory)}/${RESERVED_PREFIX}dead-${ownerToken()}`;
	try {
		await rename(directory, aside);
	} catch (error) {
		if (isErrno(error, 'ENOENT')) return true;
		throw error;
	}
	const taken = await lockDirectory(aside);
	if (taken !== undefined && taken.mtimeNs !== judged) {
		await rename(aside, directory).catch(() => undefined);
		return false;
	}
	await rmdir(aside);
	return true;
}
