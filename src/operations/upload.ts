/** Works off `encrypted/`: puts what waits there into the store. */

import { createHash } from 'node:crypto';
import { DEFAULT_STORE_JOBS } from '../config.js';
import type { Context } from '../context.js';
import { FormatError, HEADER_SIZE } from '../crypto/format.js';
import type { Keyring } from '../crypto/keyring.js';
import { Opener } from '../crypto/open.js';
import { S3proxyError } from '../errors.js';
import { type ArtifactPath, SIDECAR_SUFFIX } from '../state/artifact-path.js';
import { isSameFile, lookUp, type OpenArtifact, versionOf } from '../state/artifacts.js';
import type { HeldLock } from '../state/held-lock.js';
import {
	keyIdsInEncrypted,
	openSealed,
	removeUploaded,
	type SealedName,
	vouched,
	walkSealed,
} from '../state/sealed.js';
import { placeWorkLink } from '../state/work-links.js';
import type { ObjectStore } from '../store/object-store.js';
import { metadataOf, versionOfObject } from './object-metadata.js';
import { bytesSource, fileSource } from './object-source.js';
import { emptyResult, type RunResult, runItems } from './run-items.js';

export interface UploadOptions {
	/** Only these; all that waits when empty. */
	readonly paths: readonly ArtifactPath[];
	/** How many artifacts are uploaded at the same time. */
	readonly jobs: number | undefined;
}

/**
 * @returns what was done; `busy` when another run is under way
 * @throws S3proxyError `bad-key`
 */
export async function upload(context: Context, { paths, jobs }: UploadOptions): Promise<RunResult> {
	const keyring = await context.keyring();
	const result = await context.root.locks.withRun('upload', async () => {
		const store = await context.store();
		return runItems(context, {
			items: paths.length > 0 ? waitingOf(context, paths) : waiting(context),
			jobs: jobs ?? context.config.jobs ?? DEFAULT_STORE_JOBS,
			nameOf: ({ keyId, path }) => `${keyId}/${path}`,
			work: (name) => uploadOne(context, store, keyring, name),
		});
	});
	return result ?? { ...emptyResult(), busy: true };
}

async function* waiting(context: Context): AsyncGenerator<SealedName> {
	for await (const found of walkSealed(context.root)) {
		if ('path' in found) yield found;
		else if (found.sidecarOf === undefined) {
			context.log.warn('encrypted/ has a name that no stage made', { name: `${found.keyId}/${found.name}` });
		}
	}
}

async function* waitingOf(context: Context, paths: readonly ArtifactPath[]): AsyncGenerator<SealedName> {
	for await (const keyId of keyIdsInEncrypted(context.root)) {
		for (const path of paths) yield { keyId, path };
	}
}

/** @returns bytes of the object; undefined when it does not wait */
async function uploadOne(
	context: Context,
	store: ObjectStore,
	keyring: Keyring,
	name: SealedName,
): Promise<number | undefined> {
	const { root, abandon } = context;
	return root.locks.withPut(name.path, abandon, async (lock) => {
		// Held open to the end: one file from first to last byte, and its inode cannot come back as another's.
		const file = await openSealed(root, name);
		if (file === undefined) return undefined;
		try {
			const sealed = await openHeader(keyring, name, file);
			if (sealed === undefined && context.config.encryption) return await sendBack(context, name, file);
			context.progress.expect(1, file.stats.size);
			await vouched(root, name.path, versionOf(file.stats), lock, async () => {
				await put(context, store, name, file, sealed, lock);
				lock.assertHeld();
				await root.locks.withPath(name.path, abandon, async (pathLock) => {
					pathLock.assertHeld();
					await removeUploaded(root, name, file.stats);
				});
			});
			return file.stats.size;
		} finally {
			await file.handle.close();
		}
	});
}

/** The object's own header, verified: its IV and the artifact's size; undefined when it is a plain file. */
async function openHeader(keyring: Keyring, name: SealedName, file: OpenArtifact): Promise<Opener | undefined> {
	const key = keyring.byId(name.keyId);
	if (key === undefined) {
		throw new S3proxyError('bad-key', `encrypted/${name.keyId}/ waits for upload, but that key is not in keys/`, {
			hint: 'Put the key file back; without it, what is uploaded could never be read.',
		});
	}
	const { buffer, bytesRead } = await file.handle.read(Buffer.alloc(HEADER_SIZE), 0, HEADER_SIZE, 0);
	const header = buffer.subarray(0, bytesRead);
	try {
		return new Opener({ ikm: key.material, path: name.path, header, objectSize: file.stats.size });
	} catch (error) {
		// Also when it has the magic: then it is an artifact that happens to be a sealed object of someone else.
		if (error instanceof FormatError) return undefined;
		throw error;
	}
}

/** A plain file that has waited since `encryption` was turned on may not leave the machine: it is sealed first. */
async function sendBack(context: Context, name: SealedName, file: OpenArtifact): Promise<undefined> {
	const { root, abandon } = context;
	return root.locks.withPath(name.path, abandon, async (lock) => {
		if (lookUp(root, name.path) === undefined) {
			throw new S3proxyError('not-authentic', `encrypted/${name.keyId}/${name.path} is not sealed, or damaged`, {
				hint: 'config.yaml says encryption: true, and uploads/ has no artifact of this name to seal again.',
			});
		}
		await placeWorkLink(root, name.path);
		await vouched(root, name.path, versionOf(file.stats), lock, () => removeUploaded(root, name, file.stats));
		context.log.warn('encrypted/ had a file that is not sealed; it waits for encryption again', { item: name.path });
		return undefined;
	});
}

/** Puts object and sidecar, unless a newer version is there already: then there is nothing to do. */
async function put(
	context: Context,
	store: ObjectStore,
	name: SealedName,
	file: OpenArtifact,
	sealed: Opener | undefined,
	lock: HeldLock,
): Promise<void> {
	const key = `${name.keyId}/${name.path}`;
	const { stats } = file;
	const metadata = metadataOf({
		sealed: sealed !== undefined,
		size: sealed?.size ?? stats.size,
		mtime: versionOf(stats),
		sha256: sealed === undefined ? await digestOf(file) : undefined,
	});
	try {
		// Commit point: when the store has answered, the version can be fetched.
		await store.put(key, fileSource(file), {
			metadata,
			signal: context.abandon,
			onBytes: (bytes) => context.progress.advance(0, bytes),
			beforeCommit: async () => {
				lock.assertHeld();
				if (await isOvertaken(context, store, name, versionOf(stats))) throw new Overtaken();
			},
		});
	} catch (error) {
		if (error instanceof Overtaken) return;
		throw error;
	}
	if (!isSameFile(await file.handle.stat(), stats)) {
		throw new S3proxyError('source-changed', `${key} changed while it was uploaded`, {
			hint: 'The next run uploads it again.',
		});
	}
	lock.assertHeld();
	if (sealed === undefined) await store.delete(key + SIDECAR_SUFFIX, context.abandon);
	else await store.put(key + SIDECAR_SUFFIX, bytesSource(sealed.iv), { signal: context.abandon });
}

class Overtaken extends Error {}

/**
 * Whether the store has a newer version of this root, put by a run that took over a lost lock; the one here was published or
 * put late. Of one that this root does not know (it may have been made anew, and the clock set back) the last put wins.
 */
async function isOvertaken(
	{ root, abandon }: Context,
	store: ObjectStore,
	{ keyId, path }: SealedName,
	version: number,
): Promise<boolean> {
	const newest = root.locks.newestOf(path);
	// As a rule: the store need not be asked.
	if (newest <= version) return false;
	const stored = await store.head(`${keyId}/${path}`, abandon);
	if (stored === undefined) return false;
	const there = versionOfObject(stored);
	return there > version && there <= newest;
}

async function digestOf(file: OpenArtifact): Promise<string> {
	const hash = createHash('sha256');
	for await (const chunk of fileSource(file).open()) hash.update(chunk);
	return hash.digest('hex');
}
