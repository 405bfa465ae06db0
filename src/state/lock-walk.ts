/** Finds the locks of a root on disk: what `repair` looks through. */

import { join } from 'node:path';
import { lstatIfThere } from '../fs/durable.js';
import { RESERVED_PREFIX } from './artifact-path.js';
import { lockDirectory } from './held-lock.js';
import { type Layout, type LockNames, lockHash } from './layout.js';
import { entriesOf } from './walk.js';

const LOCK_DIRECTORY = /^(\.s3proxy-(path|fetch|put|run|dead)-(.*?))(?:\.lock)?$/;

/** A record without its lock directory: what is left when it could not be removed (an input/output error) with the lock. */
const LONE_RECORD = /^\.s3proxy-(?:fetch|put|run)-/;

/** Every lock directory below `locks/`, whoever holds it, and every record of a lock that nobody holds. */
export async function* walkLocks(layout: Layout, directory = layout.locks): AsyncGenerator<LockNames> {
	for await (const entry of entriesOf(directory)) {
		if (entry.isFile() && LONE_RECORD.test(entry.name)) {
			const file = join(directory, entry.name);
			const names = { file, directory: `${file}.lock`, keepFile: false };
			if (lockDirectory(names.directory) === undefined && lstatIfThere(file) !== undefined) yield names;
		}
		if (!entry.isDirectory()) continue;
		const [, own, kind, rest] = LOCK_DIRECTORY.exec(entry.name) ?? [];
		const lock = join(directory, entry.name);
		if (own === undefined || rest === undefined) yield* walkLocks(layout, lock);
		else if (kind === 'path') yield { file: await fileOfHash(directory, rest), directory: lock, keepFile: true };
		else yield { file: join(directory, own), directory: lock, keepFile: false };
	}
}

/** The lock file in `directory` for whose name `hash` stands; a name that nothing has if there is none. */
async function fileOfHash(directory: string, hash: string): Promise<string> {
	for await (const { name } of entriesOf(directory)) {
		if (lockHash(name) === hash) return join(directory, name);
	}
	return join(directory, `${RESERVED_PREFIX}nobody`);
}
