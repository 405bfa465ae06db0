/** The keys of a root: which one is the latest, and which older ones there are. */

import type { Buffer } from 'node:buffer';
import { constants, type Dirent, type Stats } from 'node:fs';
import { type FileHandle, open, readdir, readlink, realpath } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { errnoOf, S3proxyError } from '../errors.js';
import { exposureOf } from '../fs/private-file.js';
import { FormatError } from './format.js';
import { checkKeyMaterial, keyIdOf, MAX_KEY_SIZE } from './key-material.js';

const LATEST = 'latest';

/** One key file. */
export interface Key {
	/** Lower-case hex SHA-1 of `material`. */
	readonly id: string;
	/** The key file, byte for byte. */
	readonly material: Buffer;
	/** The file's name in the keys directory. */
	readonly name: string;
}

/** All keys of a root. */
export interface Keyring {
	/** The key that new work uses. */
	readonly latest: Key;
	/** Every key: the latest first, then the others, newest file first. */
	readonly all: readonly Key[];
	byId(id: string): Key | undefined;
}

/**
 * Reads the keys in a directory. `latest` in it is a symlink to one of the key files beside it; every other valid key
 * file belongs to the keyring too. Names that begin with a dot and subdirectories are skipped.
 *
 * @param warn is told in one line about each file that is skipped because it is no key
 * @returns undefined when there is no key at all
 * @throws {S3proxyError} `bad-key` when a key cannot be read or others can read it, and when `latest` is missing, points
 * to nothing or out of the directory, or is no good as a key.
 */
export async function loadKeyring(
	keysDirectory: string,
	warn: (message: string) => void,
): Promise<Keyring | undefined> {
	const entries = await listKeyFiles(keysDirectory);
	const latestName = await readLatest(keysDirectory);
	const found: DatedKey[] = [];
	for (const entry of entries) {
		if (entry.name === latestName) continue;
		const key = await readOlderKey(keysDirectory, entry.name, warn);
		if (key !== undefined) found.push(key);
	}
	if (latestName === undefined) {
		if (found.length === 0) return undefined;
		throw missingLatest(keysDirectory, found);
	}
	const latest = await readLatestKey(keysDirectory, latestName);
	return keyringOf(
		latest,
		found.sort((a, b) => b.changedMs - a.changedMs || (a.name < b.name ? -1 : 1)),
	);
}

/** A key and when its file was written, in milliseconds. */
type DatedKey = Key & { readonly changedMs: number };

/** Why a file is no good as a key. Whether that is an error depends on whether it is the latest. */
class NotAKey extends Error {}

/** A directory among the key files: nothing to warn about. */
class IsDirectory extends NotAKey {}

function keyringOf(latest: Key, others: readonly Key[]): Keyring {
	const keys = new Map<string, Key>();
	for (const { id, material, name } of [latest, ...others]) {
		// Two files with the same bytes are one key.
		if (!keys.has(id)) keys.set(id, { id, material, name });
	}
	const all = [...keys.values()];
	return { latest: all[0] ?? latest, all, byId: (id) => keys.get(id) };
}

async function listKeyFiles(keysDirectory: string): Promise<Dirent[]> {
	try {
		const entries = await readdir(keysDirectory, { withFileTypes: true });
		return entries.filter(({ name }) => name !== LATEST && !name.startsWith('.'));
	} catch (error) {
		if (errnoOf(error) === 'ENOENT') return [];
		throw unreadable(keysDirectory, error);
	}
}

/** The name that `latest` points to; undefined when there is no `latest`. */
async function readLatest(keysDirectory: string): Promise<string | undefined> {
	const path = join(keysDirectory, LATEST);
	const target = await readlink(path).catch((error: unknown) => {
		if (errnoOf(error) === 'ENOENT') return undefined;
		if (errnoOf(error) === 'EINVAL') {
			throw new S3proxyError('bad-key', `${path} is not a symlink`, {
				hint: `Rename it, for instance to private_key, then ln -s private_key ${path}`,
			});
		}
		throw unreadable(path, error);
	});
	if (target === undefined) return undefined;
	const file = resolve(keysDirectory, target);
	const name = file.slice(resolve(keysDirectory).length + 1);
	if (dirname(file) !== resolve(keysDirectory)) throw outside(path, target, keysDirectory);
	if (name.startsWith('.')) {
		throw new S3proxyError('bad-key', `${path} points to ${target}, a hidden file`, {
			hint: 'Give the key file a name without a dot before it: as soon as it is not the latest, it would not be found.',
		});
	}
	return name;
}

async function readLatestKey(keysDirectory: string, name: string): Promise<Key> {
	const link = join(keysDirectory, LATEST);
	const path = join(keysDirectory, name);
	try {
		return await readKey(keysDirectory, name);
	} catch (error) {
		if (isDangling(error)) throw dangling(link, name);
		if (!(error instanceof NotAKey)) throw error;
		throw new S3proxyError('bad-key', `${path}, the latest key: ${error.message}`, {
			cause: error.cause,
			hint: `Point ${link} to a good key (ln -sfn NAME ${link}), or make one: openssl rand -out NAME 32`,
		});
	}
}

async function readOlderKey(
	keysDirectory: string,
	name: string,
	warn: (message: string) => void,
): Promise<DatedKey | undefined> {
	const path = join(keysDirectory, name);
	try {
		return await readKey(keysDirectory, name);
	} catch (error) {
		if (error instanceof IsDirectory) return undefined;
		if (!isDangling(error) && !(error instanceof NotAKey)) throw error;
		warn(`${path} is not used as a key: ${error instanceof NotAKey ? error.message : 'it points to nothing'}`);
		return undefined;
	}
}

/** A symlink to nothing or in a circle, or a file that went away since the directory was read. */
function isDangling(error: unknown): boolean {
	const errno = errnoOf(error);
	return errno === 'ENOENT' || errno === 'ELOOP';
}

/** Reads a key file. Material, id and mode come from one open file, so that they belong together. */
async function readKey(keysDirectory: string, name: string): Promise<DatedKey> {
	const path = join(keysDirectory, name);
	const file = await openKey(path);
	try {
		if (dirname(await realpath(path)) !== (await realpath(keysDirectory))) {
			throw new NotAKey('it is a link to a file outside the keys directory');
		}
		const stat = await file.stat();
		if (stat.isDirectory()) throw new IsDirectory('it is a directory');
		if (!stat.isFile()) throw new NotAKey('it is not a regular file');
		if (stat.size > MAX_KEY_SIZE) throw new NotAKey(`it has ${stat.size} bytes, ${MAX_KEY_SIZE} is the most`);
		const material = await file.readFile();
		assertIsKey(material);
		assertIsPrivate(path, stat);
		return { id: keyIdOf(material), material, name, changedMs: stat.mtimeMs };
	} finally {
		await file.close();
	}
}

async function openKey(path: string): Promise<FileHandle> {
	try {
		// Without O_NONBLOCK a FIFO in the directory would hold us up for ever.
		return await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
	} catch (error) {
		if (errnoOf(error) === 'ENXIO') throw new NotAKey('it is not a regular file');
		if (isDangling(error)) throw error;
		throw unreadable(path, error);
	}
}

function assertIsKey(material: Buffer): void {
	try {
		checkKeyMaterial(material);
	} catch (error) {
		if (!(error instanceof FormatError)) throw error;
		throw new NotAKey(error.message, { cause: error });
	}
}

function assertIsPrivate(path: string, stat: Stats): void {
	const exposure = exposureOf(stat);
	if (exposure === undefined) return;
	throw new S3proxyError('bad-key', `the key ${path} ${exposure}`, { hint: `chmod 0600 ${path}` });
}

function missingLatest(keysDirectory: string, found: readonly Key[]): S3proxyError {
	const path = join(keysDirectory, LATEST);
	const names = found.map(({ name }) => name).sort();
	return new S3proxyError('bad-key', `${path} is missing, although there are keys: ${names.join(', ')}`, {
		hint: `Point it to the key that new objects shall use: ln -s ${names[0]} ${path}`,
	});
}

function dangling(link: string, name: string): S3proxyError {
	return new S3proxyError('bad-key', `${link} is dangling: it points to ${name}, which is not there`, {
		hint: `Put the key file back, or point the link to another key: ln -sfn NAME ${link}`,
	});
}

function outside(link: string, target: string, keysDirectory: string): S3proxyError {
	return new S3proxyError('bad-key', `${link} points to ${target}, which is not directly in ${keysDirectory}`, {
		hint: `Copy the key file there (install -m 0600), then ln -sfn NAME ${link}`,
	});
}

function unreadable(path: string, error: unknown): S3proxyError {
	const message = error instanceof Error ? error.message : String(error);
	return new S3proxyError('bad-key', `${path} cannot be read: ${message}`, {
		cause: error,
		hint: `Run s3proxy as the owner of the keys, or chown ${path} to the user that runs it.`,
	});
}
