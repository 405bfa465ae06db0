/**
 * Locks, on proper-lockfile. They keep processes out of each other's way; they do not carry any promise alone, because
 * proper-lockfile can hand one stale lock to two takers, and a stopped process runs on before it learns that it lost its
 * lock. What carries the promises are the fences (docs/state.md), of which `assertHeld` is one.
 */

import { mkdirSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { S3proxyError } from '../errors.js';
import { isErrno, lstatIfThere } from '../fs/durable.js';
import { type ArtifactPath, RESERVED_PREFIX } from './artifact-path.js';
import { Held, type HeldLock, lockDirectory, type PathLock, STALE_MS } from './held-lock.js';
import type { Layout, LockNames, RunStage } from './layout.js';
import { recordedNewest, recordedOwner } from './lock-record.js';
import { isProvablyDead } from './owner.js';
import { type Patience, stopped, Turns } from './turns.js';

/** A taker says who he is in the same breath; one that has not after this long died in between. */
const OWNERLESS_MS = 5_000;
const POLL_FIRST_MS = 5;
const POLL_MOST_MS = 250;

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

	/** `PathLock.newest`, also while another holds the lock. */
	newestOf(path: ArtifactPath): number {
		return recordedNewest(this.#layout.lock('path', path).file);
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
		if (!isAbandoned(names)) return false;
		return dryRun || clearAbandoned(names);
	}

	/**
	 * Removes the record of a lock that nobody holds, by taking that lock: so it is nobody else's by now.
	 * @returns whether it was (with `dryRun`: whether it would be)
	 */
	async clearIfAlone(names: LockNames, dryRun: boolean): Promise<boolean> {
		if (names.keepFile || lockDirectory(names.directory) !== undefined) return false;
		if (lstatIfThere(names.file) === undefined) return false;
		if (dryRun) return true;
		const held = await this.#tryAcquire(names, 'a lock that nobody holds');
		await held?.release();
		return held !== undefined;
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

	#conflict(what: string, cause: unknown): S3proxyError {
		const where = relative(this.#layout.root, this.#layout.locks);
		return new S3proxyError('conflict', `${what} runs through an artifact, or is a directory of artifacts`, {
			cause,
			hint: `A name is either an artifact or a directory; ${where}/ shows which names are taken.`,
		});
	}
}

function endless(signal: AbortSignal): Patience {
	return { signal, deadline: Number.POSITIVE_INFINITY, timedOut: stopped };
}

function isConflict(error: unknown): boolean {
	return isErrno(error, 'ENOTDIR', 'EEXIST', 'EISDIR');
}

/**
 * Whether the owner is provably dead, or has given no sign of life for long. A record older than the directory is of an
 * earlier owner: he who made the directory has not come to write his own yet. Nor has he who is not in the record, or he has
 * taken himself back and is about to remove the directory: both take a moment.
 */
function isAbandoned({ file, directory }: LockNames): boolean {
	const seen = lockDirectory(directory);
	if (seen === undefined) return false;
	if (seen.mtimeMs < Date.now() - STALE_MS) return true;
	const written = statSync(file, { bigint: true, throwIfNoEntry: false })?.mtimeNs ?? 0n;
	const owner = written < seen.birthtimeNs ? undefined : recordedOwner(file);
	if (owner !== undefined) return isProvablyDead(owner);
	return Math.max(seen.mtimeMs, Number(written / 1_000_000n)) < Date.now() - OWNERLESS_MS;
}

/**
 * Takes an abandoned lock away: one process at a time, which looks again. Of many that wait for one dead owner, each would
 * otherwise take away the lock of him who was quicker.
 */
function clearAbandoned(names: LockNames): boolean {
	const name = basename(names.directory).slice(RESERVED_PREFIX.length);
	const claim = join(dirname(names.directory), `${RESERVED_PREFIX}dead-${name}`);
	if (!takeClaim(claim)) return false;
	try {
		if (!isAbandoned(names)) return false;
		if (!names.keepFile) rmSync(names.file, { force: true });
		return succeeds(() => rmdirSync(names.directory), 'ENOENT');
	} finally {
		succeeds(() => rmdirSync(claim), 'ENOENT');
	}
}

/** A claim is there for a moment; an older one is of a process that died with it. */
function takeClaim(claim: string): boolean {
	const make = () => succeeds(() => mkdirSync(claim), 'EEXIST', 'ENOENT');
	if (make()) return true;
	const others = lockDirectory(claim);
	if (others === undefined || others.mtimeMs > Date.now() - OWNERLESS_MS) return false;
	return succeeds(() => rmdirSync(claim), 'ENOENT') && make();
}

/** Whether `call` did not fail with one of these codes. */
function succeeds(call: () => void, ...codes: string[]): boolean {
	try {
		call();
		return true;
	} catch (error) {
		if (isErrno(error, ...codes)) return false;
		throw error;
	}
}
