/** Brings every object under an older key to the latest one, streaming. May be killed and run again at any time. */

import { DEFAULT_STORE_JOBS } from '../config.js';
import type { Context } from '../context.js';
import type { Keyring } from '../crypto/keyring.js';
import { S3proxyError } from '../errors.js';
import { type ArtifactPath, artifactPathIfValid, SIDECAR_SUFFIX } from '../state/artifact-path.js';
import type { HeldLock } from '../state/held-lock.js';
import { relinkAfter } from '../state/sealed.js';
import type { ObjectSource, ObjectStore } from '../store/object-store.js';
import { locateInStore, newest, type StoredVersion } from './locate.js';
import { bytesSource } from './object-source.js';
import { emptyResult, type RunResult, runItems } from './run-items.js';
import { type Conversion, underLatestKey } from './under-latest-key.js';

export interface ReEncryptOptions {
	/** Beginnings of artifact paths; everything when empty. */
	readonly prefixes: readonly string[];
	readonly jobs: number | undefined;
	/** Removes what is under older keys once the latest has the same version or a newer one. */
	readonly deleteOld: boolean;
	/** Also takes objects of the Ruby ancestor, which nothing authenticates. */
	readonly fromLegacy: boolean;
	readonly dryRun: boolean;
}

/**
 * @returns what was done; `busy` when another run is under way
 * @throws S3proxyError `bad-key`; `store-unreachable` or `store-refused` when the store cannot be listed
 */
export async function reEncrypt(context: Context, options: ReEncryptOptions): Promise<RunResult> {
	const keyring = await context.keyring();
	const result = await context.root.locks.withRun('re-encrypt', async () => {
		const store = await context.store();
		return runItems(context, {
			items: candidates(context, store, keyring, options),
			jobs: options.jobs ?? context.config.jobs ?? DEFAULT_STORE_JOBS,
			nameOf: (path) => path,
			work: (path) => {
				if (options.dryRun) return tell(context, keyring, path, options);
				return context.root.locks.withPut(path, context.abandon, (lock) =>
					reEncryptOne(context, store, keyring, path, options, lock),
				);
			},
		});
	});
	return result ?? { ...emptyResult(), busy: true };
}

/** Paths that have an object under an older key; one that has several comes several times. */
async function* candidates(
	context: Context,
	store: ObjectStore,
	keyring: Keyring,
	options: ReEncryptOptions,
): AsyncGenerator<ArtifactPath> {
	const prefixes = options.prefixes.length > 0 ? options.prefixes : [''];
	for (const { id } of keyring.all) {
		// A legacy object may lie under the latest key, too.
		if (id === keyring.latest.id && !options.fromLegacy) continue;
		for (const prefix of prefixes) {
			for await (const { key } of store.list(`${id}/${prefix}`, context.abandon)) {
				const path = artifactPathIfValid(key.slice(id.length + 1));
				if (path !== undefined) yield path;
				else if (!key.endsWith(SIDECAR_SUFFIX)) context.log.warn('the store has a name that is no artifact', { key });
			}
		}
	}
}

/** What would be done, for `--dry-run`. */
async function tell(
	context: Context,
	keyring: Keyring,
	path: ArtifactPath,
	options: ReEncryptOptions,
): Promise<number | undefined> {
	const versions = await locateInStore(context, keyring, path);
	const source = newest(versions);
	if (source === undefined) return undefined;
	const old = versions.filter(({ keyId }) => keyId !== keyring.latest.id);
	if (source.keyId !== keyring.latest.id) context.log.info(`would re-encrypt ${source.head.key}`);
	if (options.deleteOld) for (const { head } of old) context.log.info(`would delete ${head.key}`);
	return source.keyId === keyring.latest.id ? undefined : source.head.size;
}

/** @returns bytes brought over; undefined when the latest key had the newest version already */
async function reEncryptOne(
	context: Context,
	store: ObjectStore,
	keyring: Keyring,
	path: ArtifactPath,
	options: ReEncryptOptions,
	lock: HeldLock,
): Promise<number | undefined> {
	const versions = await locateInStore(context, keyring, path);
	const source = newest(versions);
	if (source === undefined) return undefined;
	const conversion = await underLatestKey(context, store, keyring, path, source, options);
	const content = conversion.source;
	try {
		if (content === undefined) {
			await mendSidecar(context, store, conversion);
		} else {
			const existing = versions.find(({ keyId }) => keyId === keyring.latest.id);
			context.progress.expect(1, content.size);
			await bringOver(context, store, conversion, content, existing, lock);
			await assertNewest(context, keyring, path, source);
			await putSidecar(context, store, conversion);
		}
		if (options.deleteOld) await deleteOld(context, store, keyring, path, versions, lock);
	} finally {
		await relinkAfter(context.root, path, source.version, lock);
	}
	return content?.size;
}

/**
 * Puts the object under the latest key, unless an upload has put a newer version there in the meantime: an object that was
 * not there before is put on the condition that it still is not; one that was is looked at again right before.
 */
async function bringOver(
	context: Context,
	store: ObjectStore,
	converted: Conversion,
	source: ObjectSource,
	existing: StoredVersion | undefined,
	lock: HeldLock,
): Promise<void> {
	// Commit point: when the store has answered, the version can be fetched under the latest key.
	const stored = await store.put(converted.key, source, {
		metadata: converted.metadata,
		onlyIfAbsent: existing === undefined,
		signal: context.abandon,
		onBytes: (bytes) => context.progress.advance(0, bytes),
		beforeCommit: async () => {
			lock.assertHeld();
			const now = await store.head(converted.key, context.abandon);
			if (now?.etag !== existing?.head.etag) throw overtaken(converted.key);
		},
	});
	if (!stored) throw overtaken(converted.key);
}

function overtaken(key: string): S3proxyError {
	return new S3proxyError('source-changed', `${key} was put by somebody else while it was re-encrypted`, {
		hint: 'Nothing is lost; the next run looks again.',
	});
}

/** The look after the put: what is under the latest key is not older than what was brought over. */
async function assertNewest(
	context: Context,
	keyring: Keyring,
	path: ArtifactPath,
	source: StoredVersion,
): Promise<StoredVersion> {
	const latest = (await locateInStore(context, keyring, path)).find(({ keyId }) => keyId === keyring.latest.id);
	if (latest !== undefined && latest.version >= source.version) return latest;
	throw overtaken(`${keyring.latest.id}/${path}`);
}

async function putSidecar(context: Context, store: ObjectStore, converted: Conversion): Promise<void> {
	const iv = converted.iv();
	const key = converted.key + SIDECAR_SUFFIX;
	if (iv === undefined) await store.delete(key, context.abandon);
	else await store.put(key, bytesSource(iv), { signal: context.abandon });
}

/** A run that was killed may have left the object without its sidecar. */
async function mendSidecar(context: Context, store: ObjectStore, { key, iv }: Conversion): Promise<void> {
	const bytes = iv();
	if (bytes === undefined || (await store.head(key + SIDECAR_SUFFIX, context.abandon)) !== undefined) return;
	await store.put(key + SIDECAR_SUFFIX, bytesSource(bytes), { signal: context.abandon });
}

/** Deletes the objects under older keys, each before its sidecar, if the latest key has nothing older. */
async function deleteOld(
	context: Context,
	store: ObjectStore,
	keyring: Keyring,
	path: ArtifactPath,
	versions: readonly StoredVersion[],
	lock: HeldLock,
): Promise<void> {
	for (const version of versions) {
		if (version.keyId === keyring.latest.id) continue;
		await assertNewest(context, keyring, path, version);
		// An upload that took the lock may have put a newer one under that key.
		lock.assertHeld();
		await store.delete(version.head.key, context.abandon);
		await store.delete(version.head.key + SIDECAR_SUFFIX, context.abandon);
	}
}
