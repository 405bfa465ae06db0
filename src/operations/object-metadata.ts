/** The user metadata of an object. All of it is a hint: whoever can write to the bucket can write this. */

import type { ObjectHead, ObjectMetadata } from '../store/object-store.js';

const FORMAT = 's3proxy-format';
const SIZE = 's3proxy-size';
const MTIME = 's3proxy-mtime';
/** Of plain objects only, which nothing else protects from a flipped bit. No digest of sealed content goes into the bucket. */
const SHA256 = 's3proxy-sha256';

/** Later than this, no clock of ours has been: somebody made it up. */
const LATEST_MTIME = Date.UTC(2200, 0);

export interface StoredAs {
	readonly sealed: boolean;
	/** Bytes of the artifact. */
	readonly size: number;
	/** Milliseconds since the epoch. */
	readonly mtime: number;
	/** Lower-case hex; plain objects only. */
	readonly sha256?: string | undefined;
}

export function metadataOf({ sealed, size, mtime, sha256 }: StoredAs): ObjectMetadata {
	const common = { [FORMAT]: sealed ? '1' : 'plain', [SIZE]: String(size), [MTIME]: String(mtime) };
	return sealed || sha256 === undefined ? common : { ...common, [SHA256]: sha256 };
}

/** By which versions are compared: the mtime of the ingest, or when the store got the object. */
export function versionOfObject({ metadata, lastModified }: ObjectHead): number {
	const text = metadata[MTIME];
	const mtime = Number(text);
	const plausible = text !== undefined && /^\d{1,16}$/.test(text) && mtime > 0 && mtime < LATEST_MTIME;
	return plausible ? mtime : Math.round(lastModified);
}

export function saysSealed({ metadata }: ObjectHead): boolean {
	return metadata[FORMAT] === '1';
}

/** Lower-case hex; undefined when the object does not say. */
export function saysSha256({ metadata }: ObjectHead): string | undefined {
	const digest = metadata[SHA256];
	return digest !== undefined && /^[0-9a-f]{64}$/.test(digest) ? digest : undefined;
}
