/** What an object under an older key becomes under the latest one. */

import type { Context } from '../context.js';
import { FormatError, HEADER_SIZE, IV_SIZE, PieceReader, sealedSize } from '../crypto/format.js';
import type { Key, Keyring } from '../crypto/keyring.js';
import { openLegacyStream } from '../crypto/legacy.js';
import { Opener, openStream } from '../crypto/open.js';
import { sealStream } from '../crypto/seal.js';
import { S3proxyError } from '../errors.js';
import { type ArtifactPath, SIDECAR_SUFFIX } from '../state/artifact-path.js';
import type { ByteRange, ObjectMetadata, ObjectSource, ObjectStore } from '../store/object-store.js';
import type { StoredVersion } from './locate.js';
import { metadataOf, saysSealed, saysSha256 } from './object-metadata.js';

/** Where the header of a sealed object keeps its IV (FORMAT.md). */
const IV_AT = 20;

export interface Conversion {
	readonly key: string;
	readonly metadata: ObjectMetadata;
	/**
	 * Reads the old object and yields the new one; every time it is opened it is sealed with a fresh IV. Undefined when the
	 * object is where and what it should be already.
	 */
	readonly source: ObjectSource | undefined;
	/** The IV of what was yielded last; undefined for a plain object. */
	iv(): Buffer | undefined;
}

/**
 * How to bring `source` over.
 * @throws FormatError when it does not authenticate; S3proxyError `not-authentic` when it is not sealed and may not be
 */
export async function underLatestKey(
	context: Context,
	store: ObjectStore,
	keyring: Keyring,
	path: ArtifactPath,
	source: StoredVersion,
	options: { readonly fromLegacy: boolean },
): Promise<Conversion> {
	const old: OldObject = { context, store, path, version: source, key: keyOf(keyring, source) };
	const opener = await openHeader(old);
	if (opener !== undefined) {
		if (source.keyId === keyring.latest.id) return asItIs(source, opener.iv);
		const plain = async function* () {
			yield* openStream({ source: await read(old), ikm: old.key.material, path, objectSize: source.head.size });
		};
		return sealed(keyring.latest, old, opener.size, plain);
	}
	const legacyIv = options.fromLegacy && !saysSealed(source.head) ? await readLegacyIv(old) : undefined;
	if (legacyIv !== undefined) {
		const plain = async function* () {
			yield* openLegacyStream({ source: await read(old), ikm: old.key.material, iv: legacyIv });
		};
		return sealed(keyring.latest, old, source.head.size, plain);
	}
	if (source.keyId === keyring.latest.id) return asItIs(source, undefined);
	return plainObject(keyring.latest, old);
}

function asItIs({ head }: StoredVersion, iv: Buffer | undefined): Conversion {
	return { key: head.key, metadata: head.metadata, source: undefined, iv: () => iv };
}

interface OldObject {
	readonly context: Context;
	readonly store: ObjectStore;
	readonly path: ArtifactPath;
	readonly version: StoredVersion;
	readonly key: Key;
}

function keyOf(keyring: Keyring, { keyId, head }: StoredVersion): Key {
	const key = keyring.byId(keyId);
	if (key === undefined) throw new S3proxyError('bad-key', `the key of ${head.key} is not in keys/`);
	return key;
}

/** The verified header; undefined when the object has not the magic. */
async function openHeader(old: OldObject): Promise<Opener | undefined> {
	const { path, key, version } = old;
	const end = Math.min(version.head.size, HEADER_SIZE) - 1;
	const header = end < 0 ? Buffer.alloc(0) : await readAll(await read(old, { start: 0, end }), HEADER_SIZE);
	try {
		return new Opener({ ikm: key.material, path, header, objectSize: version.head.size });
	} catch (error) {
		if (error instanceof FormatError && error.reason === 'ERR_NOT_S3PX') return undefined;
		throw error;
	}
}

/** The 12 bytes of the sidecar, which a legacy object cannot do without; undefined when there is none of this size. */
async function readLegacyIv({ store, context, version }: OldObject): Promise<Buffer | undefined> {
	const body = await store.get(version.head.key + SIDECAR_SUFFIX, { signal: context.abandon });
	if (body === undefined) return undefined;
	const iv = await readAll(body, IV_SIZE + 1);
	return iv.length === IV_SIZE ? iv : undefined;
}

async function readAll(source: AsyncIterable<Buffer>, most: number): Promise<Buffer> {
	const reader = new PieceReader(source);
	try {
		return Buffer.from(await reader.read(most));
	} finally {
		await reader.close();
	}
}

/** The old object's bytes, of the version that was found to be the newest and no other. */
async function read({ store, context, version }: OldObject, range?: ByteRange): Promise<AsyncIterable<Buffer>> {
	const { key, etag } = version.head;
	const options = { ifMatch: etag, signal: context.abandon };
	const body = await store.get(key, range === undefined ? options : { ...options, range });
	if (body !== undefined) return body;
	throw new S3proxyError('source-changed', `${key} was replaced or removed while it was re-encrypted`, {
		hint: 'Nothing is lost; the next run looks again.',
	});
}

function sealed(latest: Key, old: OldObject, size: number, plain: () => AsyncIterable<Buffer>): Conversion {
	const { path } = old;
	let iv: Buffer | undefined;
	return {
		key: `${latest.id}/${path}`,
		metadata: metadataOf({ sealed: true, size, mtime: old.version.version }),
		iv: () => iv,
		source: {
			size: sealedSize(size),
			async *open() {
				iv = undefined;
				for await (const chunk of sealStream({ source: plain(), ikm: latest.material, path, size })) {
					// The header comes first.
					iv ??= Buffer.from(chunk.subarray(IV_AT, IV_AT + IV_SIZE));
					yield chunk;
				}
			},
		},
	};
}

/** A plain object is sealed where the configuration accepts it and wants sealed ones, and copied where it wants plain ones. */
function plainObject(latest: Key, old: OldObject): Conversion {
	const { context, path, version } = old;
	const { head } = version;
	const plain = async function* () {
		yield* await read(old);
	};
	if (!context.config.encryption) {
		const metadata = metadataOf({ sealed: false, size: head.size, mtime: version.version, sha256: saysSha256(head) });
		return { key: `${latest.id}/${path}`, metadata, source: { size: head.size, open: plain }, iv: () => undefined };
	}
	if (context.config.acceptPlain && !saysSealed(head)) return sealed(latest, old, head.size, plain);
	throw new S3proxyError('not-authentic', `${head.key} is not sealed (ERR_NOT_S3PX)`, {
		hint: 'If it was stored with encryption: false, set accept_plain: true for the migration; objects of the Ruby ancestor need --from-legacy.',
	});
}
