/** Brings a root after any crash to a state where nothing is lost and nothing is stale. The steps are those of docs/state.md. */

import { basename, dirname, join, relative } from 'node:path';
import type { Context } from '../context.js';
import { explain, isS3proxyError, type S3proxyError } from '../errors.js';
import { lstatIfThere } from '../fs/durable.js';
import { describeError } from '../log.js';
import { type ArtifactPath, artifactPathIfValid } from '../state/artifact-path.js';
import { lookUp, versionOf } from '../state/artifacts.js';
import { returnTaken, takenByEvict } from '../state/eviction.js';
import { walkLocks } from '../state/lock-walk.js';
import { removeMarker } from '../state/markers.js';
import { openSealed, relinkIfOther, removeOrphanSidecar, vouched, walkSealed } from '../state/sealed.js';
import { abandonedStaging, discardStaging, STAGING_NAME } from '../state/staging.js';
import { entriesOf, pruneBelow, walk } from '../state/walk.js';
import { hasWorkLink, pathOfVoucher, placeWorkLink, removeWorkLink } from '../state/work-links.js';
import { locate } from './locate.js';

export interface Finding {
	/** What was found: the step's word for it. */
	readonly what: string;
	/** Relative to the root, or an object's key. */
	readonly where: string;
	/** What was done about it. */
	readonly done: string;
}

export interface Repaired {
	readonly findings: number;
	/** Errors that kept a step from its work; each has been logged. */
	readonly errors: S3proxyError[];
}

interface Step {
	readonly name: string;
	find(context: Context, dryRun: boolean): AsyncIterable<Finding>;
}

/** The part that `serve` runs when it starts. */
const MARKERS: readonly Step[] = [
	{ name: 'markers', find: mendMarkers },
	{ name: 'vouchers', find: mendVouchers },
	{ name: 'evictions', find: mendEvictions },
];

const STEPS: readonly Step[] = [
	...MARKERS,
	{ name: 'staging', find: removeStaging },
	{ name: 'work links', find: removeDanglingLinks },
	{ name: 'sealed', find: mendSealed },
	{ name: 'locks', find: removeDeadLocks },
	{ name: 'empty directories', find: removeEmptyDirectories },
	{ name: 'unfinished uploads', find: abortUnfinishedPuts },
];

/**
 * Runs all steps, taking the same locks as everything else. Never removes an artifact.
 * @param report is told each finding as it is made
 * @param options.dryRun only tells
 */
export function repair(
	context: Context,
	report: (finding: Finding) => void,
	options: { dryRun: boolean },
): Promise<Repaired> {
	return runSteps(context, STEPS, report, options.dryRun);
}

/** Makes the work links of what died after a publish, or amid a removal: nothing that readers can see may wait for nobody. */
export function repairMarkers(context: Context, report: (finding: Finding) => void): Promise<Repaired> {
	return runSteps(context, MARKERS, report, false);
}

async function runSteps(
	context: Context,
	steps: readonly Step[],
	report: (finding: Finding) => void,
	dryRun: boolean,
): Promise<Repaired> {
	let findings = 0;
	const errors: S3proxyError[] = [];
	for (const step of steps) {
		try {
			for await (const finding of step.find(context, dryRun)) {
				findings++;
				report(finding);
				context.stopping.throwIfAborted();
			}
		} catch (thrown) {
			const error = explain(thrown, `repairing ${step.name}`);
			if (!isS3proxyError(error)) throw error;
			if (error.code === 'stopping') throw error;
			context.log.error(describeError(error), { step: step.name });
			errors.push(error);
		}
	}
	return { findings, errors };
}

async function* mendMarkers(context: Context, dryRun: boolean): AsyncGenerator<Finding> {
	const { root } = context;
	for await (const { path: name, entry } of walk(root.layout.uploading)) {
		const path = artifactPathIfValid(name);
		if (path === undefined || !entry.isFile()) continue;
		const where = join('uploading', name);
		const published = lookUp(root, path) !== undefined;
		const done = published ? 'made the work link' : 'removed; there is no artifact of that name';
		if (dryRun) {
			yield { what: 'marker', where, done: `would have: ${done}` };
			continue;
		}
		const found = await root.locks.withPath(path, context.abandon, async () => {
			// The ingest that made it may have ended while this waited for its lock.
			if (lstatIfThere(root.layout.marker(path)) === undefined) return undefined;
			const here = lookUp(root, path) !== undefined;
			if (here) await placeWorkLink(root, path);
			await removeMarker(root, path);
			return here ? 'made the work link' : 'removed; there is no artifact of that name';
		});
		if (found !== undefined) yield { what: 'marker', where, done: found };
	}
}

async function* mendVouchers(context: Context, dryRun: boolean): AsyncGenerator<Finding> {
	const { root } = context;
	const { layout } = root;
	for await (const { path: name, entry } of walk(layout.toEncrypt)) {
		const voucher = join(layout.toEncrypt, name);
		if (!entry.isSymbolicLink() || abandonedStaging(voucher) === undefined) continue;
		const path = await pathOfVoucher(root, voucher);
		let isNeeded = false;
		if (path !== undefined) {
			const relink = () => relinkIfOther(root, path, 0, dryRun);
			isNeeded = await (dryRun ? relink() : root.locks.withPath(path, context.abandon, relink));
		}
		if (!dryRun) await discardStaging(voucher, layout.toEncrypt);
		const done = did(dryRun, isNeeded ? 'made the work link' : 'removed; nothing needs a work link');
		yield { what: 'voucher', where: join('to_encrypt', name), done };
	}
}

/** An evict that had lost its lock may have taken a version that is nowhere else. */
async function* mendEvictions(context: Context, dryRun: boolean): AsyncGenerator<Finding> {
	const { root } = context;
	const { layout } = root;
	for await (const { path: name, entry } of walk(layout.toDecrypt)) {
		const taken = join(layout.toDecrypt, name);
		const path = STAGING_NAME.test(entry.name) ? takenByEvict(root, taken) : undefined;
		if (path === undefined) continue;
		const done = await root.locks.withPath(path, context.abandon, async (lock) => {
			const stats = abandonedStaging(taken);
			if (stats === undefined) return undefined;
			const isSpare = await isElsewhere(context, path, versionOf(stats));
			if (!dryRun && isSpare) await discardStaging(taken, layout.toDecrypt);
			if (!dryRun && !isSpare) await returnTaken(root, path, taken, lock);
			return isSpare ? 'removed' : 'put back';
		});
		if (done !== undefined)
			yield { what: 'version that evict took', where: join('to_decrypt', name), done: did(dryRun, done) };
	}
}

/** Whether this version of an artifact, or a newer one, can be had without what evict has taken. */
async function isElsewhere(context: Context, path: ArtifactPath, version: number): Promise<boolean> {
	const here = lookUp(context.root, path);
	if (here !== undefined) return versionOf(here) >= version;
	const newest = await locate(context, path);
	return newest !== undefined && newest.kind !== 'uploads' && newest.version >= version;
}

/** But vouchers, and what evict took: if the steps for these have failed, it is left to the next repair. */
async function* removeStaging(context: Context, dryRun: boolean): AsyncGenerator<Finding> {
	const { layout } = context.root;
	for await (const { area, file } of stagingFiles(context)) {
		const stats = abandonedStaging(file);
		if (stats === undefined) continue;
		if (area === layout.toEncrypt && stats.isSymbolicLink()) continue;
		if (area === layout.toDecrypt && takenByEvict(context.root, file) !== undefined) continue;
		if (!dryRun) await discardStaging(file, area);
		yield { what: 'staging', where: relative(layout.root, file), done: did(dryRun, 'removed') };
	}
}

async function* stagingFiles({ config, root }: Context): AsyncGenerator<{ area: string; file: string }> {
	const { layout } = root;
	for (const area of [...layout.stagingAreas, layout.toEncrypt, layout.keys]) {
		for await (const { path: name } of walk(area)) {
			if (STAGING_NAME.test(basename(name))) yield { area, file: join(area, name) };
		}
	}
	if (config.auth === undefined) return;
	// That directory may be anybody's; what lies beside the file of credentials is all that can be ours.
	const area = dirname(config.auth);
	for await (const { name } of entriesOf(area)) {
		if (STAGING_NAME.test(name)) yield { area, file: join(area, name) };
	}
}

async function* removeDanglingLinks(context: Context, dryRun: boolean): AsyncGenerator<Finding> {
	const { root } = context;
	for await (const { path: name, entry } of walk(root.layout.toEncrypt)) {
		const path = artifactPathIfValid(name);
		if (path === undefined || !entry.isSymbolicLink()) continue;
		const dangles = async () => hasWorkLink(root, path) && lookUp(root, path) === undefined;
		if (!(await dangles())) continue;
		const removed =
			dryRun ||
			(await root.locks.withPath(path, context.abandon, async (lock) => {
				if (!(await dangles())) return false;
				await vouched(root, path, 0, lock, () => removeWorkLink(root, path));
				return true;
			}));
		if (removed) yield { what: 'work link to nothing', where: join('to_encrypt', name), done: did(dryRun, 'removed') };
	}
}

async function* mendSealed(context: Context, dryRun: boolean): AsyncGenerator<Finding> {
	const { root } = context;
	for await (const found of walkSealed(root)) {
		if ('path' in found) {
			const file = await openSealed(root, found);
			if (file === undefined) continue;
			await file.handle.close();
			const relink = (only: boolean) => relinkIfOther(root, found.path, versionOf(file.stats), only);
			if (!(await relink(true))) continue;
			if (!dryRun && !(await root.locks.withPath(found.path, context.abandon, () => relink(false)))) continue;
			const where = join('uploads', found.path);
			yield { what: 'version that nothing waits for', where, done: did(dryRun, 'made the work link') };
		} else if (found.sidecarOf !== undefined) {
			const name = { keyId: found.keyId, path: found.sidecarOf };
			const remove = () => removeOrphanSidecar(root, name, dryRun);
			const removed = dryRun ? await remove() : await root.locks.withPath(name.path, context.abandon, remove);
			const where = join('encrypted', found.keyId, found.name);
			if (removed) yield { what: 'orphaned sidecar', where, done: did(dryRun, 'removed') };
		}
	}
}

async function* removeDeadLocks(context: Context, dryRun: boolean): AsyncGenerator<Finding> {
	const { layout, locks } = context.root;
	for await (const names of walkLocks(layout)) {
		const [what, where] = (await locks.clearIfDead(names, dryRun))
			? ['abandoned lock', names.directory]
			: ['record of no lock', names.file];
		if (where === names.file && !(await locks.clearIfAlone(names, dryRun))) continue;
		yield { what, where: relative(layout.root, where), done: did(dryRun, 'removed') };
	}
}

async function* removeEmptyDirectories(context: Context, dryRun: boolean): AsyncGenerator<Finding> {
	const { layout } = context.root;
	for (const area of [...layout.stagingAreas, layout.toEncrypt, layout.encrypted, layout.uploads, layout.locks]) {
		const count = await pruneBelow(area, dryRun);
		const done = did(dryRun, `removed ${count}`);
		if (count > 0) yield { what: 'empty directories', where: `${relative(layout.root, area)}/`, done };
	}
}

/** Only when nobody uploads: then whatever is unfinished under our key ids will never be finished. */
async function* abortUnfinishedPuts(context: Context, dryRun: boolean): AsyncGenerator<Finding> {
	const keyring = await context.keyringIfAny();
	if (keyring === undefined) return;
	const findings = await context.root.locks.withRun('upload', () =>
		context.root.locks.withRun('re-encrypt', async () => {
			const store = await context.store();
			const found: Finding[] = [];
			for (const { id } of keyring.all) {
				for await (const unfinished of store.listUnfinished(`${id}/`, context.abandon)) {
					if (!dryRun) await store.abortUnfinished(unfinished, context.abandon);
					found.push({ what: 'unfinished upload', where: unfinished.key, done: did(dryRun, 'aborted') });
				}
			}
			return found;
		}),
	);
	if (findings === undefined) context.log.info('an upload is running: unfinished ones were not looked for');
	yield* findings ?? [];
}

function did(dryRun: boolean, what: string): string {
	return dryRun ? `would have: ${what}` : what;
}
