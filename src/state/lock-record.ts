/**
 * What is written in a lock file: the time of the path's newest version, and who holds the lock. Fields lie at fixed
 * offsets and are overwritten in place, so that a crash leaves the old or the new one.
 */

import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { isErrno } from '../fs/durable.js';

const NEWEST_WIDTH = 16;
const OWNER_AT = NEWEST_WIDTH + 1;
const OWNER_WIDTH = 80;
const NOBODY = '-';
const RECORD_WIDTH = OWNER_AT + OWNER_WIDTH + 1;

const line = (text: string, width: number) => Buffer.from(`${text.padEnd(width)}\n`);

export class LockRecord {
	readonly #handle: FileHandle;
	/** Whether this lock file was made just now: nobody has ever held a lock on it. */
	readonly isNew: boolean;

	private constructor(handle: FileHandle, isNew: boolean) {
		this.#handle = handle;
		this.isNew = isNew;
	}

	/** @throws EISDIR when the name is a directory */
	static async open(file: string): Promise<LockRecord> {
		const handle = await open(file, constants.O_RDWR | constants.O_CREAT, 0o644);
		try {
			return new LockRecord(handle, (await handle.stat()).size === 0);
		} catch (error) {
			await handle.close();
			throw error;
		}
	}

	/** Milliseconds since the epoch; 0 when not known. */
	async newest(): Promise<number> {
		const { buffer, bytesRead } = await this.#handle.read(Buffer.alloc(NEWEST_WIDTH), 0, NEWEST_WIDTH, 0);
		const value = Number(buffer.toString('latin1', 0, bytesRead).trim());
		return Number.isSafeInteger(value) && value > 0 ? value : 0;
	}

	async setNewest(milliseconds: number): Promise<void> {
		await this.#handle.write(line(String(milliseconds), NEWEST_WIDTH), 0, OWNER_AT, 0);
	}

	async setOwner(token: string | undefined): Promise<void> {
		await this.#handle.write(line(token ?? NOBODY, OWNER_WIDTH), 0, OWNER_WIDTH + 1, OWNER_AT);
	}

	async close(): Promise<void> {
		await this.#handle.close();
	}
}

/** The owner recorded in a lock file; undefined when there is none, or no such file. */
export async function recordedOwner(file: string): Promise<string | undefined> {
	let handle: FileHandle;
	try {
		handle = await open(file, 'r');
	} catch (error) {
		if (isErrno(error, 'ENOENT', 'ENOTDIR', 'EISDIR')) return undefined;
		throw error;
	}
	try {
		const { buffer, bytesRead } = await handle.read(Buffer.alloc(RECORD_WIDTH), 0, RECORD_WIDTH, 0);
		const owner = buffer.toString('latin1', OWNER_AT, bytesRead).trim();
		return owner === '' || owner === NOBODY ? undefined : owner;
	} catch (error) {
		if (isErrno(error, 'EISDIR')) return undefined;
		throw error;
	} finally {
		await handle.close();
	}
}
