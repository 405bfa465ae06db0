/** Objects as plain files in a directory: for trying s3proxy out, and for a bucket that is a mounted disk. */

import { randomUUID } from 'node:crypto';
import { type BigIntStats, constants } from 'node:fs';
import { type FileHandle, link, open, rename, rmdir, stat } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { Readable } from 'node:stream';
import { S3proxyError } from '../errors.js';
import { inDirectory, isErrno, syncDirectory, unlinkIfThere } from '../fs/durable.js';
import { AbortLink } from './abort-link.js';
import { attempting, refusal, stopped } from './directory-errors.js';
import { metadataFile, RESERVED, readMetadata, writeMetadata } from './directory-metadata.js';
import { walkFiles } from './directory-walk.js';
import type {
	GetOptions,
	ObjectHead,
	ObjectInfo,
	ObjectSource,
	ObjectStore,
	PutOptions,
	UnfinishedPut,
} from './object-store.js';
import { SourceReader } from './source-reader.js';

const STAGING = `${RESERVED}staging`;
const CHUNK = 2 ** 20;
/** What open and stat say of a path at which there is no file. */
const ABSENT = ['ENOENT', 'ENOTDIR', 'EISDIR', 'ENAMETOOLONG', 'ELOOP'];

/**
 * An object lies at `<directory>/<key>`, its metadata below `<directory>/.s3proxy-metadata/<key>/`, what is being written at
 * `<directory>/.s3proxy-staging/<key>/.s3proxy-<random>`. A put is: staging written and synced; metadata written and synced; the
 * object renamed in place (the commit point), its directory synced. So a key that runs through another (`a` and `a/b`) is
 * refused, which S3 would take. Puts of one key at the same time, by any number of processes, leave one of them whole.
 * The directory is made by the first put; until then the store is empty.
 */
export class DirectoryStore implements ObjectStore {
	readonly url: string;
	readonly #directory: string;
	readonly #fsync: boolean;

	/** @param options.fsync whether a put survives a power cut once it has returned */
	constructor(directory: string, options: { readonly fsync: boolean }) {
		this.#directory = resolve(directory);
		this.#fsync = options.fsync;
		this.url = `file:${this.#directory}`;
	}

	async head(key: string): Promise<ObjectHead | undefined> {
		const file = this.#file(key);
		return await attempting(`reading ${this.url}/${key}`, async () => {
			const stats = await statFile(file);
			if (stats === undefined) return undefined;
			return { ...infoOf(key, stats), metadata: await readMetadata(this.#directory, key, stats) };
		});
	}

	/** @throws S3proxyError `store-refused` when the range is not one of the object */
	async get(key: string, options: GetOptions = {}): Promise<Readable | undefined> {
		const what = `reading ${this.url}/${key}`;
		const file = this.#file(key);
		return await attempting(what, async () => {
			const handle = await openFile(file);
			if (handle === undefined) return undefined;
			let body: Readable | undefined;
			try {
				if (options.signal?.aborted) throw stopped(what, options.signal);
				// From here on everything is about the opened file, whatever the name is given to.
				const stats = await handle.stat({ bigint: true });
				if (!stats.isFile()) return undefined;
				const { size, etag } = infoOf(key, stats);
				if (options.ifMatch !== undefined && options.ifMatch !== etag) return undefined;
				const { start, end } = options.range ?? { start: 0, end: size - 1 };
				if (options.range !== undefined && (start < 0 || start > end || end >= size)) {
					throw new S3proxyError('store-refused', `${what}: bytes ${start}-${end} are not all within its ${size}`);
				}
				body = Readable.from(readRange(handle, start, end + 1, what, options.signal), { objectMode: false });
				return body;
			} finally {
				if (body === undefined) await handle.close();
				// A generator that was never started does not run its `finally`.
				else body.once('close', () => void handle.close().catch(() => undefined));
			}
		});
	}

	async put(key: string, source: ObjectSource, options: PutOptions = {}): Promise<boolean> {
		const file = this.#file(key);
		const staging = join(this.#directory, STAGING, key, `${RESERVED}${randomUUID()}`);
		const doing = `storing ${this.url}/${key}`;
		const present = async () => options.onlyIfAbsent === true && (await statFile(file)) !== undefined;
		if (await attempting(doing, present)) return false;
		try {
			const staged = await this.#stage(staging, source, options, doing);
			if (await attempting(doing, present)) return false;
			await options.beforeCommit?.();
			if (options.signal?.aborted) throw stopped(doing, options.signal);
			return await attempting(doing, () => this.#publish(key, staging, staged, options));
		} finally {
			// What cannot be removed now is found by `repair`; how the put ended matters more.
			await this.#removeStaging(staging).catch(() => undefined);
		}
	}

	async delete(key: string): Promise<void> {
		const file = this.#file(key);
		await attempting(`removing ${this.url}/${key}`, async () => {
			const stats = await statFile(file);
			if (stats === undefined) return;
			// The object first: metadata without an object is nothing, an object without metadata has lost it.
			await unlinkIfThere(file);
			if (this.#fsync) await syncDirectory(dirname(file));
			await removeEmptyParents(file, this.#directory);
			await this.#forget(metadataFile(this.#directory, key, stats));
		});
	}

	async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<ObjectInfo> {
		for await (const { path, name } of walkFiles(this.#directory, prefix, `listing ${this.url}`, signal)) {
			if (name.startsWith(RESERVED)) continue;
			const key = keyOf(this.#directory, path);
			if (!key.startsWith(prefix)) continue;
			// It may have been removed since.
			const stats = await attempting(`listing ${this.url}`, () => statFile(path));
			if (stats !== undefined) yield infoOf(key, stats);
		}
	}

	/** Staging files; `started` is when one was last written to. */
	async *listUnfinished(prefix: string, signal?: AbortSignal): AsyncGenerator<UnfinishedPut> {
		const root = join(this.#directory, STAGING);
		for await (const { path, name } of walkFiles(root, prefix, `listing ${this.url}`, signal)) {
			const key = keyOf(root, dirname(path));
			if (!name.startsWith(RESERVED) || !key.startsWith(prefix)) continue;
			const stats = await attempting(`listing ${this.url}`, () => statFile(path));
			if (stats !== undefined) yield { key, id: name, started: Number(stats.mtimeMs) };
		}
	}

	async abortUnfinished({ key, id }: UnfinishedPut): Promise<void> {
		const file = this.#file(key);
		if (!id.startsWith(RESERVED) || id.includes(sep)) throw new TypeError(`not an unfinished put: ${id}`);
		const staging = join(this.#directory, STAGING, relative(this.#directory, file), id);
		await attempting(`tidying ${this.url}/${key}`, () => this.#removeStaging(staging));
	}

	/** Nothing is held open between calls. */
	close(): void {}

	/** Where an object lies. The caller has checked the key; this is for the caller's bugs. */
	#file(key: string): string {
		const bad = (part: string) => part === '' || part === '.' || part === '..' || part.startsWith(RESERVED);
		if (key.includes('\0') || key.split('/').some(bad))
			throw new TypeError(`not an object key: ${JSON.stringify(key)}`);
		return join(this.#directory, key);
	}

	/** Copies the source into staging; durable when it returns, with `fsync`. */
	async #stage(staging: string, source: ObjectSource, options: PutOptions, doing: string): Promise<BigIntStats> {
		const handle = await attempting(doing, () =>
			inDirectory(dirname(staging), false, () => open(staging, 'wx', 0o644)),
		);
		const signal = new AbortLink(options.signal);
		const reader = new SourceReader(source, signal.signal);
		try {
			const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK, Math.max(1, source.size)));
			for (let copied = 0; copied < source.size; ) {
				// Errors of the source are the caller's own and pass unchanged.
				const piece = buffer.subarray(0, Math.min(buffer.length, source.size - copied));
				await reader.fill(piece);
				await attempting(doing, () => handle.writeFile(piece));
				copied += piece.length;
				options.onBytes?.(piece.length);
			}
			await reader.expectEnd();
			return await attempting(doing, async () => {
				if (this.#fsync) await handle.sync();
				return await handle.stat({ bigint: true });
			});
		} finally {
			signal.release();
			await reader.close();
			await handle.close();
		}
	}

	async #publish(key: string, staging: string, staged: BigIntStats, options: PutOptions): Promise<boolean> {
		const file = this.#file(key);
		const metadata = metadataFile(this.#directory, key, staged);
		const replaced = await statFile(file);
		const hasMetadata = Object.keys(options.metadata ?? {}).length > 0;
		if (hasMetadata) await writeMetadata(metadata, options.metadata ?? {}, this.#fsync);
		try {
			// The commit point: from here on everybody sees the new object.
			await inDirectory(dirname(file), this.#fsync, () =>
				options.onlyIfAbsent === true ? link(staging, file) : rename(staging, file),
			);
		} catch (error) {
			if (hasMetadata) await this.#forget(metadata).catch(() => undefined);
			// A directory of that name is no object, though it refuses the link just the same.
			if (isErrno(error, 'EEXIST') && options.onlyIfAbsent === true && (await statFile(file)) !== undefined)
				return false;
			throw error;
		}
		if (this.#fsync) await syncDirectory(dirname(file));
		// What is left of an old version when this fails is in nobody's way.
		if (replaced !== undefined) await this.#forget(metadataFile(this.#directory, key, replaced)).catch(() => undefined);
		return true;
	}

	/** Removes a metadata file and the directories that it leaves empty. */
	async #forget(metadata: string): Promise<void> {
		await unlinkIfThere(metadata);
		await removeEmptyParents(metadata, this.#directory);
	}

	async #removeStaging(staging: string): Promise<void> {
		await unlinkIfThere(staging);
		await removeEmptyParents(staging, this.#directory);
	}
}

async function statFile(file: string): Promise<BigIntStats | undefined> {
	try {
		const stats = await stat(file, { bigint: true });
		return stats.isFile() ? stats : undefined;
	} catch (error) {
		if (isErrno(error, ...ABSENT)) return undefined;
		throw error;
	}
}

async function openFile(file: string): Promise<FileHandle | undefined> {
	try {
		// Non-blocking: opening a FIFO that somebody put there would hang.
		return await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
	} catch (error) {
		if (isErrno(error, ...ABSENT)) return undefined;
		throw error;
	}
}

function infoOf(key: string, stats: BigIntStats): ObjectInfo {
	return {
		key,
		size: Number(stats.size),
		etag: `${stats.mtimeNs}-${stats.size}-${stats.ino}`,
		lastModified: Number(stats.mtimeMs),
	};
}

/** Bytes `start` to before `end` of an open file, all of them or an error. */
async function* readRange(
	handle: FileHandle,
	start: number,
	end: number,
	what: string,
	signal: AbortSignal | undefined,
): AsyncGenerator<Buffer> {
	try {
		for (let position = start; position < end; ) {
			if (signal?.aborted) throw stopped(what, signal);
			const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK / 4, end - position));
			const { bytesRead } = await handle.read(buffer, 0, buffer.length, position);
			if (bytesRead === 0) {
				throw new S3proxyError('store-unreachable', `${what}: the file ends ${end - position} bytes early`);
			}
			position += bytesRead;
			yield buffer.subarray(0, bytesRead);
		}
	} catch (error) {
		throw refusal(error, what);
	}
}

/** Removes the directories above `file`, up to but without `directory`, as long as they are empty. */
async function removeEmptyParents(file: string, directory: string): Promise<void> {
	for (let parent = dirname(file); parent.startsWith(directory + sep); parent = dirname(parent)) {
		try {
			await rmdir(parent);
		} catch (error) {
			if (isErrno(error, 'ENOENT', 'ENOTDIR')) continue;
			if (isErrno(error, 'ENOTEMPTY', 'EEXIST', 'EBUSY')) return;
			throw error;
		}
	}
}

function keyOf(root: string, path: string): string {
	return relative(root, path).split(sep).join('/');
}
