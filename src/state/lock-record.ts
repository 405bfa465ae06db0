/**
 * What is written in a lock file: the time of the path's newest version, and who holds the lock. Fields lie at fixed
 * offsets and are overwritten in place, so that a crash leaves the old or the new one.
 */

import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { isErrno } from '../fs/durable.js';

const NEWEST_WIDTH = 16;
const OWNER_AT = NEWEST_WIDTH + 1;
const OWNER_WIDTH = 80;
const NOBODY = '-';
const RECORD_WIDTH = OWNER_AT + OWNER_WIDTH + 1;

export class LockRecord {
	readonly #fd: number;
	/** Whether this lock file was made just now: nobody has ever held a lock on it. */
	readonly isNew: boolean;

	/** @throws EISDIR when the name is a directory */
	constructor(file: string) {
		this.#fd = openSync(file, constants.O_RDWR | constants.O_CREAT, 0o644);
		try {
			this.isNew = readRecord(this.#fd) === '';
		} catch (error) {
			closeSync(this.#fd);
			throw error;
		}
	}

	/** Milliseconds since the epoch; 0 when not known. Of now: who has lost the lock finds the next holder's. */
	get newest(): number {
		return newestIn(readRecord(this.#fd));
	}

	/** Who has lost the lock does not set it back. */
	setNewest(milliseconds: number): void {
		if (milliseconds > this.newest) this.#write(String(milliseconds), NEWEST_WIDTH, 0);
	}

	setOwner(token: string | undefined): void {
		if (this.isNew && this.newest === 0) this.#write('0', NEWEST_WIDTH, 0);
		this.#write(token ?? NOBODY, OWNER_WIDTH, OWNER_AT);
	}

	close(): void {
		closeSync(this.#fd);
	}

	#write(text: string, width: number, position: number): void {
		writeSync(this.#fd, `${text.padEnd(width)}\n`, position);
	}
}

function readRecord(fd: number): string {
	const buffer = Buffer.alloc(RECORD_WIDTH);
	return buffer.toString('latin1', 0, readSync(fd, buffer, 0, RECORD_WIDTH, 0));
}

function newestIn(record: string): number {
	const newest = Number(record.slice(0, NEWEST_WIDTH).trim());
	return Number.isSafeInteger(newest) && newest > 0 ? newest : 0;
}

/** The owner recorded in a lock file; undefined when there is none, or no such file. */
export function recordedOwner(file: string): string | undefined {
	const owner = recordIn(file).slice(OWNER_AT).trim();
	return owner === '' || owner === NOBODY ? undefined : owner;
}

/** As `LockRecord.newest`, for who does not hold the lock. */
export function recordedNewest(file: string): number {
	return newestIn(recordIn(file));
}

/** Empty when there is no such file. */
function recordIn(file: string): string {
	let fd: number;
	try {
		fd = openSync(file, 'r');
	} catch (error) {
		if (isErrno(error, 'ENOENT', 'ENOTDIR')) return '';
		throw error;
	}
	try {
		return readRecord(fd);
	} catch (error) {
		if (isErrno(error, 'EISDIR')) return '';
		throw error;
	} finally {
		closeSync(fd);
	}
}
