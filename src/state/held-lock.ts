/** A lock while it is held. */

import fs, { statSync } from 'node:fs';
import { dirname } from 'node:path';
import lockfile from 'proper-lockfile';
import { S3proxyError } from '../errors.js';
import { inDirectory, isErrno, unlinkIfThere } from '../fs/durable.js';
import type { LockNames } from './layout.js';
import { LockRecord, recordedOwner } from './lock-record.js';
import { ownerToken } from './owner.js';
import { pruneUpwards } from './walk.js';

/** After this long without a sign of life a lock may be taken over. Owners that are provably dead are not waited for. */
export const STALE_MS = 30_000;
const UPDATE_MS = 5_000;

type Callback<T> = (error: Error | null, value?: T) => void;

/** proper-lockfile's few calls, made on the spot: they are looks at names and one mkdir and rmdir (see fs/durable.ts). */
const lockFs = {
	...fs,
	mkdir: (name: string, done: Callback<undefined>) => onTheSpot(() => void fs.mkdirSync(name), done),
	rmdir: (name: string, done: Callback<undefined>) => onTheSpot(() => void fs.rmdirSync(name), done),
	stat: (name: string, done: Callback<fs.Stats>) => onTheSpot(() => fs.statSync(name), done),
};

function onTheSpot<T>(call: () => T, done: Callback<T>): void {
	let value: T;
	try {
		value = call();
	} catch (error) {
		done(error as Error);
		return;
	}
	done(null, value);
}

export interface HeldLock {
	/** Whether it has not been lost. */
	readonly isHeld: boolean;
	/**
	 * The fence before a publish or a removal.
	 * @throws S3proxyError `lock-lost`: do not publish, undo the staging, fail this item
	 */
	assertHeld(): void;
}

export interface PathLock extends HeldLock {
	/** mtime in milliseconds of the newest version of this path that this root ever had; 0 when it had none. */
	readonly newest: number;
	setNewest(milliseconds: number): void;
	/** Takes back the lock file if this lock made it: the path never became an artifact and may not block names. */
	forgetIfNew(): void;
}

/** Whether a lock was lost, and what proper-lockfile said. */
interface Loss {
	cause?: Error;
	toAnother?: boolean;
}

/** A lock that this process holds. */
export class Held implements PathLock {
	readonly #names: LockNames;
	readonly #what: string;
	/** Up to where directories left empty are removed. */
	readonly #top: string;
	readonly #record: LockRecord;
	readonly #token: string;
	readonly #unlock: () => Promise<void>;
	readonly #loss: Loss;
	#forget = false;

	private constructor(
		names: LockNames,
		what: string,
		top: string,
		record: LockRecord,
		token: string,
		unlock: () => Promise<void>,
		loss: Loss,
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
		const loss: Loss = {};
		// A lock that was lost is another's directory now: proper-lockfile would remove it at the end.
		const rmdir = (name: string, done: Callback<undefined>) => (loss.toAnother ? done(null) : lockFs.rmdir(name, done));
		const unlock = await inDirectory(dirname(names.directory), false, () =>
			lockfile.lock(names.file, {
				lockfilePath: names.directory,
				realpath: false,
				stale: STALE_MS,
				update: UPDATE_MS,
				fs: { ...lockFs, rmdir },
				onCompromised: (error: Error) => {
					loss.cause = error;
				},
			}),
		);
		let record: LockRecord | undefined;
		try {
			record = new LockRecord(names.file);
			const token = ownerToken();
			record.setOwner(token);
			return new Held(names, what, top, record, token, unlock, loss);
		} catch (error) {
			record?.close();
			// A record without its owner says nothing, and its name would be in the way for good.
			if (!names.keepFile || record?.isNew) await unlinkIfThere(names.file);
			await unlock();
			throw error;
		}
	}

	get isHeld(): boolean {
		if (this.#loss.cause !== undefined || recordedOwner(this.#names.file) !== this.#token) return false;
		return lockDirectory(this.#names.directory) !== undefined;
	}

	assertHeld(): void {
		if (this.isHeld) return;
		throw new S3proxyError('lock-lost', `the lock of ${this.#what} was lost while working on it`, {
			cause: this.#loss.cause,
			hint: 'The process was stopped, or the disk was very slow. Nothing was changed; it will be done again.',
		});
	}

	get newest(): number {
		return this.#record.newest;
	}

	setNewest(milliseconds: number): void {
		this.#record.setNewest(milliseconds);
	}

	forgetIfNew(): void {
		this.#forget = this.#record.isNew;
	}

	async release(): Promise<void> {
		let cleared = false;
		try {
			// Somebody else's record and lock file are not ours to touch.
			if (this.isHeld) cleared = await this.#leaveNoOwner();
			else this.#loss.toAnother = true;
		} finally {
			this.#record.close();
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
		else this.#record.setOwner(undefined);
		return remove;
	}
}

/** A lock directory: when it was last seen alive, and when it was made. */
interface SeenLock {
	readonly mtimeMs: number;
	readonly birthtimeNs: bigint;
}

/** Undefined when there is none. */
export function lockDirectory(directory: string): SeenLock | undefined {
	try {
		const stats = statSync(directory, { bigint: true, throwIfNoEntry: false });
		if (stats === undefined) return undefined;
		return { mtimeMs: Number(stats.mtimeMs), birthtimeNs: stats.birthtimeNs };
	} catch (error) {
		if (isErrno(error, 'ENOTDIR')) return undefined;
		throw error;
	}
}
