/** Content that says what it is: nothing torn, mixed or foreign passes for a version. */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Bytes of a version's body: an empty one, a small one, one of several segments. */
const SIZES = [70_000, 900, 0];
const HEADER = /^s3proxy-test (\S+) version (\d+) length (\d+) sha256 ([0-9a-f]{64})\n/;

/** Version `version` of `path`. @param size of the body, in bytes */
export function contentOf(path: string, version: number, size = SIZES[version % SIZES.length] ?? 0): Buffer {
	const seed = createHash('sha512').update(`${path} ${version}`).digest();
	const body = Buffer.alloc(size, seed);
	const digest = createHash('sha256').update(body).digest('hex');
	return Buffer.concat([
		Buffer.from(`s3proxy-test ${path} version ${version} length ${size} sha256 ${digest}\n`),
		body,
	]);
}

/** Which version of `path` this is. @throws when it is none, or not all of it */
export function versionOf(path: string, content: Buffer): number {
	const [line, name, version, length, digest] = HEADER.exec(content.subarray(0, 1200).toString('latin1')) ?? [];
	if (line === undefined || name !== path)
		throw new Error(`${path}: ${content.length} bytes that are no version of it`);
	const body = content.subarray(line.length);
	if (body.length !== Number(length) || createHash('sha256').update(body).digest('hex') !== digest) {
		throw new Error(`${path}: version ${version} is torn, ${body.length} of ${length} bytes`);
	}
	return Number(version);
}

/** The version that readers see; undefined when there is none. Throws like `versionOf`. */
export function visibleVersion(root: string, path: string): number | undefined {
	const file = join(root, 'uploads', path);
	return existsSync(file) ? versionOf(path, readFileSync(file)) : undefined;
}
