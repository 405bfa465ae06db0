/** Metadata of the objects of a directory store: small JSON files in a tree of their own. */

import type { BigIntStats } from 'node:fs';
import { open, readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { inDirectory, isErrno, syncDirectory } from '../fs/durable.js';
import type { ObjectMetadata } from './object-store.js';

/** Names that begin so are ours and no objects. */
export const RESERVED = '.s3proxy-';

/**
 * Where the metadata of one version of an object lies: `.s3proxy-metadata/<key>/.s3proxy-<size>-<mtime>-<inode>`. A file for each
 * version, because metadata is put in place before its object and for a moment (after a crash: for good) the object there is
 * still the old one, and because several may be on their way. A directory for each key, so that `a` is not in the way of `a/b`.
 */
export function metadataFile(directory: string, key: string, stats: BigIntStats): string {
	return join(directory, `${RESERVED}metadata`, key, `${contentName(stats)}${stats.ino}`);
}

/** The metadata of exactly this version of an object; none when there is none. */
export async function readMetadata(directory: string, key: string, stats: BigIntStats): Promise<ObjectMetadata> {
	const file = metadataFile(directory, key, stats);
	return (await readFrom(file)) ?? (await readFrom(await movedFile(file, stats))) ?? {};
}

/** Writes the metadata of a version that is about to be published. With `fsync`, durable when it returns. */
export async function writeMetadata(file: string, metadata: ObjectMetadata, fsync: boolean): Promise<void> {
	const directory = dirname(file);
	// Nobody looks for it before its object is there, so it need not appear whole.
	const handle = await inDirectory(directory, fsync, () => open(file, 'w', 0o644));
	try {
		await handle.writeFile(`${JSON.stringify(metadata)}\n`);
		if (fsync) await handle.sync();
	} finally {
		await handle.close();
	}
	if (fsync) await syncDirectory(directory);
}

function contentName(stats: BigIntStats): string {
	return `${RESERVED}${stats.size}-${stats.mtimeNs}-`;
}

/** In a copy of the store (`cp -a`, a restored backup) inode numbers differ: another file for the same size and time will do. */
async function movedFile(file: string, stats: BigIntStats): Promise<string | undefined> {
	try {
		const found = (await readdir(dirname(file))).filter((name) => name.startsWith(contentName(stats)));
		const [only] = found;
		return only !== undefined && found.length === 1 ? join(dirname(file), only) : undefined;
	} catch (error) {
		if (isErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
		throw error;
	}
}

/** Undefined when the file is missing or damaged: metadata is a hint. */
async function readFrom(file: string | undefined): Promise<ObjectMetadata | undefined> {
	if (file === undefined) return undefined;
	let text: string;
	try {
		text = await readFile(file, 'utf8');
	} catch (error) {
		if (isErrno(error, 'ENOENT', 'ENOTDIR', 'EISDIR')) return undefined;
		throw error;
	}
	try {
		const parsed: unknown = JSON.parse(text);
		return isMetadata(parsed) ? parsed : undefined;
	} catch {
		return undefined;
	}
}

function isMetadata(value: unknown): value is ObjectMetadata {
	if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
	return Object.values(value).every((text) => typeof text === 'string');
}
