/** What must hold of a root after anything has happened to it (docs/state.md). */

import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync, rmSync, utimesSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { expect } from 'chai';
import { recordedOwner } from '../../src/state/lock-record.js';
import { walkLocks } from '../../src/state/lock-walk.js';
import { isAbandonedStaging, STAGING_NAME } from '../../src/state/staging.js';
import type { BuiltRoot } from '../support/built.js';
import { visibleVersion } from './content.js';
import type { Stage } from './scenarios.js';

/** The versions that each path may be in. */
export type Allowed = Readonly<Record<string, readonly (number | undefined)[]>>;

const LOCK_NAME = /^\.s3proxy-(?:(?:path|fetch|put)-[0-9a-f]{32}|run-[a-z-]+|dead-.+)(?:\.lock)?$/;
const KEY_NAME = /^(?:private_key(?:-[0-9a-f]{40})?|latest)$/;

/** Every name below the root that is not a directory of artifacts, relative to it. */
function namesOf(directory: string, prefix = ''): string[] {
	return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
		const name = prefix + entry.name;
		if (prefix === '' && entry.name === 'bucket') return [];
		const isPlain = entry.isDirectory() && !entry.name.startsWith('.s3proxy-');
		return isPlain ? namesOf(join(directory, entry.name), `${name}/`) : [name];
	});
}

/** Whether docs/state.md knows this name, given the paths that there may be. */
function isKnown(root: string, name: string, paths: readonly string[]): boolean {
	const [area = '', ...rest] = name.split('/');
	const isStaging = STAGING_NAME.test(basename(name));
	const path = rest.join('/');
	const [keyId = '', ...below] = rest;
	switch (area) {
		case 'config.yaml':
		case 'auth':
			return rest.length === 0;
		case 'keys':
			return isStaging || KEY_NAME.test(path);
		case 'locks':
			return paths.includes(path) || LOCK_NAME.test(basename(name));
		case 'uploading':
			return isStaging || paths.includes(path);
		case 'uploads':
			return paths.includes(path);
		case 'to_encrypt':
			return isStaging || (paths.includes(path) && readlinkSync(join(root, name)) === join(root, 'uploads', path));
		case 'encrypting':
			return isStaging && /^[0-9a-f]{40}$/.test(keyId);
		case 'encrypted':
			return /^[0-9a-f]{40}$/.test(keyId) && paths.some((one) => [one, `${one}-iv`].includes(below.join('/')));
		case 'to_decrypt':
			return isStaging;
		default:
			// Of add-token, beside the file of credentials.
			return isStaging && rest.length === 0;
	}
}

/** The file of credentials, if there is one: whole lines, and the token that was added first. */
function assertCredentials(root: string): void {
	const file = join(root, 'auth');
	if (!existsSync(file)) return;
	expect(readFileSync(file, 'utf8'), 'auth').to.match(/^first:sha256\$\S+\n(?:second:sha256\$\S+\n)*$/);
}

/** A dead process's word that somebody has to look whether it waits. */
function hasVoucher(root: string, path: string): boolean {
	const directory = dirname(join(root, 'to_encrypt', path));
	const names = existsSync(directory) ? readdirSync(directory) : [];
	const vouchers = names.filter((name) => STAGING_NAME.test(name)).map((name) => join(directory, name));
	return vouchers.some((voucher) => readlinkSync(voucher) === join(root, 'uploads', path));
}

/** An evict that died has it. */
function isTakenByEvict(root: string, path: string): boolean {
	const directory = join(root, 'to_decrypt', path);
	return existsSync(directory) && readdirSync(directory).some((name) => STAGING_NAME.test(name));
}

const mtimeOf = (file: string) => Math.round(lstatSync(file).mtimeMs);

/** What is wrong with the state that `path` is in; undefined: it is one of the table. */
async function illegality({ root, built }: Stage, path: string): Promise<string | undefined> {
	const artifact = join(root, 'uploads', path);
	const link = lstatSync(join(root, 'to_encrypt', path), { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
	if (!existsSync(artifact)) return link && !isTakenByEvict(root, path) ? 'a work link to nothing' : undefined;
	if (link || hasVoucher(root, path) || existsSync(join(root, 'uploading', path))) return undefined;
	const version = mtimeOf(artifact);
	const encrypted = join(root, 'encrypted');
	const sealed = (existsSync(encrypted) ? readdirSync(encrypted) : [])
		.map((keyId) => join(encrypted, keyId, path))
		.filter((file) => existsSync(file))
		.map(mtimeOf);
	const newest = Math.max(0, ...sealed, ...(await built.stored(path)));
	return newest < version ? 'a version that nothing waits for' : undefined;
}

/** Every state that a crash may leave. */
export async function assertLegal(stage: Stage, paths: readonly string[]): Promise<void> {
	const strange = namesOf(stage.root).filter((name) => !isKnown(stage.root, name, paths));
	expect(strange, 'names that docs/state.md does not know').to.deep.equal([]);
	assertCredentials(stage.root);
	for (const path of paths) expect(await illegality(stage, path), path).to.equal(undefined);
}

/** What readers see is whole, and one of the versions that it may be. @returns what they see */
export function assertVisible(root: string, allowed: Allowed): Record<string, number> {
	const seen: Record<string, number> = {};
	for (const [path, versions] of Object.entries(allowed)) {
		const version = visibleVersion(root, path);
		if (version === undefined) continue;
		expect(versions, `uploads/${path}`).to.include(version);
		seen[path] = version;
	}
	return seen;
}

/** Staging, markers and what the dead left in `encrypted/`. */
function leftovers(root: string): string[] {
	const names = namesOf(root);
	const isOrphan = (name: string) =>
		name.startsWith('encrypted/') && name.endsWith('-iv') && !names.includes(name.replace(/-iv$/, ''));
	return names.filter((name) => name.includes('.s3proxy-') || name.startsWith('uploading/') || isOrphan(name));
}

/** Nothing is there that only a command under way may have. */
function assertTidy(root: string, when: string): void {
	expect(leftovers(root), when).to.deep.equal([]);
}

/**
 * A process that died between making a lock's directory and writing down that it is its own cannot be told from a living
 * one: such a lock is free after some seconds. This lets them pass.
 */
export async function ageOwnerlessLocks({ context }: BuiltRoot, all = false): Promise<void> {
	const longAgo = Date.now() / 1000 - 31;
	for await (const { file, directory } of walkLocks(context.root.layout)) {
		if (!existsSync(directory)) continue;
		if (all || isOwnerless(file, directory)) utimesSync(directory, longAgo, longAgo);
	}
}

/** Nobody has written himself down, or it was an earlier owner who has. */
function isOwnerless(file: string, directory: string): boolean {
	return recordedOwner(file) === undefined || lstatSync(file).mtimeMs < lstatSync(directory).birthtimeMs;
}

/** Staging of processes that live is not repair's. */
export function assertNoStagingOfTheDead(root: string): void {
	const dead = namesOf(root).filter((name) => isAbandonedStaging(basename(name), Date.now()));
	expect(dead, 'staging that its process has left').to.deep.equal([]);
}

/** Repairs once: then the root is sound, and a second time finds nothing. */
export async function assertRepairs(stage: Stage, paths: readonly string[]): Promise<void> {
	await stage.built.repair();
	assertTidy(stage.root, 'after repair');
	await assertLegal(stage, paths);
	expect(await stage.built.repair(), 'second repair').to.deep.equal([]);
}

/**
 * Runs the pipeline to its end. Then the store has the newest version of every path, and it comes back from there.
 * @param seen what readers saw before: nothing older may come back
 */
export async function assertStored(stage: Stage, allowed: Allowed, seen: Record<string, number>): Promise<void> {
	const { root, built } = stage;
	await built.encrypt();
	await built.upload();
	const waiting = namesOf(root).filter((name) => /^(?:to_encrypt|encrypted)\//.test(name));
	expect(waiting, 'after encrypt and upload').to.deep.equal([]);
	rmSync(join(root, 'uploads'), { recursive: true, force: true });
	for (const [path, versions] of Object.entries(allowed)) {
		const found = (await built.stored(path)).length > 0;
		expect(found || versions.includes(undefined), `${path}: it is in the store`).to.equal(true);
		if (!found) continue;
		await built.fetch(path);
		const version = visibleVersion(root, path);
		expect(versions, `${path} as it comes back from the store`).to.include(version);
		expect(version, `${path}: readers saw it`).to.be.at.least(seen[path] ?? 0);
	}
}
