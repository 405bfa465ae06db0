/**
 * A power cut after any call: what a journalling file system may then have. Names are made and removed in order; an fsync of
 * anything makes all before it durable. A file's content is durable up to its last fsync, and may be lost, or zeros, after it.
 */

import { execFileSync } from 'node:child_process';
import {
	existsSync,
	linkSync,
	mkdirSync,
	readFileSync,
	renameSync,
	rmdirSync,
	rmSync,
	symlinkSync,
	unlinkSync,
	writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openBuilt } from '../support/built.js';
import { makeDirectory, s3proxy } from '../support/cli.js';
import { strideOf } from '../support/extent.ts';
import { needs } from '../support/needs.ts';
import { ageOwnerlessLocks, assertRepairs, assertStored, assertVisible } from './checker.js';
import { contentOf } from './content.js';
import {
	allowedAfter,
	crashBucket,
	everyPoint,
	pathsOf,
	pointsOf,
	runFaulty,
	type S3Place,
	setUp,
	Tally,
	tearDown,
} from './driver.js';
import { SCENARIOS, type Scenario, type Stage } from './scenarios.js';

const PRELOAD = fileURLToPath(new URL('../support/record-calls.js', import.meta.url));
const STRIDE = 31;

/** A call that succeeded, as the preload wrote it down. */
interface Event {
	readonly name: string;
	/** Relative to the root. */
	readonly paths: readonly string[];
	/** Of a symlink. */
	readonly target?: string;
	/** Base64: all that the file holds after it was written to. */
	readonly content?: string;
	/** Nanoseconds since the epoch. */
	readonly mtime?: string;
}

const MAKES = new Set(['open', 'mkdir', 'rename', 'link', 'symlink']);
const SYNCS = new Set(['sync', 'datasync', 'fsync', 'fdatasync']);
const LOSSES = ['lost', 'zeros'] as const;

/** A file since the recording began. */
class RecordedFile {
	#content: Buffer | undefined;
	#synced: Buffer | undefined;
	mtime: string | undefined;

	write(content: Buffer): void {
		this.#content = content;
	}

	sync(): void {
		this.#synced = this.#content ?? this.#synced;
	}

	/** What may be left of it; undefined: what it held before the recording began. */
	after(loss: (typeof LOSSES)[number]): Buffer | undefined {
		if (this.#content === undefined || this.#synced === this.#content) return this.#content;
		return loss === 'zeros' ? Buffer.alloc(this.#content.length) : this.#synced;
	}
}

/** The files of a recording, by the names that they have at the moment. */
class Files {
	readonly #byName = new Map<string, RecordedFile>();

	/** Follows what happens to names, and to content. */
	follow({ name, paths: [path = '', to = ''], content, mtime }: Event): void {
		const known = this.#byName.get(path);
		if (known === undefined && (name === 'open' || content !== undefined)) this.#byName.set(path, new RecordedFile());
		const file = this.#byName.get(path);
		if (file === undefined) return;
		if (name === 'rename' || name === 'link') this.#byName.set(to, file);
		if (name === 'rename' || name === 'unlink' || name === 'rm') this.#byName.delete(path);
		if (mtime !== undefined) file.mtime = mtime;
		if (content !== undefined) file.write(Buffer.from(content, 'base64'));
		if (SYNCS.has(name)) file.sync();
	}

	get all(): Iterable<[string, RecordedFile]> {
		return this.#byName;
	}
}

/** Does to the root what a call did to its names. */
function applyName(root: string, { name, paths: [path = '', to = ''], target }: Event): void {
	const file = join(root, path);
	// What was made in a directory may have been written down before the directory: another fetch made that at this moment.
	if (MAKES.has(name)) mkdirSync(dirname(join(root, to === '' ? path : to)), { recursive: true });
	switch (name) {
		case 'open':
			writeFileSync(file, '', { flag: 'a', mode: path.startsWith('keys/') ? 0o600 : 0o644 });
			break;
		case 'mkdir':
			mkdirSync(file, { recursive: true });
			break;
		case 'rmdir':
			rmdirSync(file);
			break;
		case 'unlink':
			unlinkSync(file);
			break;
		case 'rm':
			rmSync(file, { force: true });
			break;
		case 'rename':
			renameSync(file, join(root, to));
			break;
		case 'link':
			linkSync(file, join(root, to));
			break;
		case 'symlink':
			symlinkSync(target ?? '', join(root, to === '' ? path : to));
			break;
		default:
	}
}

/** Node.js itself cannot set nanoseconds. */
function setTimes(times: readonly [string, string][]): void {
	const commands = times.map(([ns, file]) => `touch -d @${ns.slice(0, -9)}.${ns.slice(-9)} '${file}'`);
	execFileSync('sh', ['-c', commands.join('\n')]);
}

/** A copy with its times and hard links. */
function copyTree(from: string, to: string): void {
	execFileSync('cp', ['-a', from, to]);
}

/**
 * Brings the root into a state that a cut after `events` may leave.
 * @param names how many of them have come to the disk as far as they concern names
 */
function cut(root: string, base: string, events: readonly Event[], names: number, loss: (typeof LOSSES)[number]): void {
	rmSync(root, { recursive: true });
	copyTree(base, root);
	// Content is known by all that was done; the names that it is found under are those that have come to the disk.
	const live = new Files();
	const onDisk = new Map<RecordedFile, string>();
	events.forEach((event, index) => {
		live.follow(event);
		if (index < names) applyName(root, event);
		if (index === names - 1) for (const [path, file] of live.all) onDisk.set(file, path);
	});
	const times: [string, string][] = [];
	for (const [file, path] of onDisk) {
		const content = file.after(loss);
		if (content !== undefined) writeFileSync(join(root, path), content);
		if (file.mtime !== undefined) times.push([file.mtime, join(root, path)]);
	}
	setTimes(times);
}

async function record(stage: Stage, { command, adds }: Scenario): Promise<Event[]> {
	const log = join(makeDirectory(), 'events');
	const { code, stderr } = await s3proxy(stage.root, command === 'post' ? [] : command, {
		stdin: adds === undefined ? '' : contentOf(adds.path, adds.version),
		node: ['--import', PRELOAD],
		env: { RECORD_ROOT: stage.root, RECORD_LOG: log },
	});
	if (code !== 0) throw new Error(stderr);
	return eventsIn(log);
}

function eventsIn(log: string): Event[] {
	if (!existsSync(log)) return [];
	// Whoever is killed while he writes a line has not done what it says.
	const whole = readFileSync(log, 'utf8').split('\n').slice(0, -1);
	return whole.map((line) => JSON.parse(line) as Event);
}

/** How many of the names have come to the disk for certain. */
function syncedOf(events: readonly Event[]): number {
	return events.findLastIndex(({ name }) => SYNCS.has(name)) + 1;
}

function describeCut(events: readonly Event[], names: number, loss: string): string {
	const last = JSON.stringify({ ...events.at(-1), content: undefined });
	return `cut after ${last}, ${events.length - names} names and data ${loss}`;
}

async function survives(root: string, scenario: Scenario, acknowledged: boolean): Promise<void> {
	const stage = { root, built: await openBuilt(root) };
	const allowed = allowedAfter(scenario, acknowledged);
	const withNone = Object.entries(allowed).map(([path, versions]) => [path, [...versions, undefined]]);
	const seen = assertVisible(root, Object.fromEntries(withNone));
	// Coming up again takes longer than any lock is good for.
	await ageOwnerlessLocks(stage.built, true);
	await assertRepairs(stage, pathsOf(scenario));
	await assertStored(stage, allowed, seen);
	await stage.built.context.close();
}

describe('after a power cut at any point', function () {
	this.timeout(3_600_000);
	let place: S3Place | undefined;

	before(async () => {
		place = await crashBucket();
	});

	const isReplayed = ({ store, command }: Scenario) => store === 'file' && command !== 'post';
	for (const scenario of SCENARIOS.filter(isReplayed)) {
		it(`of ${scenario.name}, nothing that was acknowledged depends on what was not synced`, async () => {
			const stage = await setUp(scenario);
			const { root } = stage;
			const base = join(makeDirectory(), 'base');
			copyTree(root, base);
			const events = await record(stage, scenario);
			const tally = new Tally('power cut');
			const step = strideOf(STRIDE);
			// The last one is the one after which the command has said that it is done.
			for (let last = events.length; last > 0; last -= step) {
				const done = events.slice(0, last);
				for (const names of new Set([syncedOf(done), last])) {
					for (const loss of LOSSES) {
						try {
							cut(root, base, done, names, loss);
							await survives(root, scenario, last === events.length);
							tally.count(loss);
						} catch (error) {
							tally.find(describeCut(done, names, loss), error);
						}
					}
				}
			}
			await tearDown(stage);
			tally.close(scenario.name);
		});
	}

	// A bucket, or what a client was told, cannot be had again as it was at every point: there is one run for each.
	for (const scenario of SCENARIOS.filter((one) => !isReplayed(one))) {
		it(`of ${scenario.name}, nothing that was acknowledged depends on what was not synced`, async function () {
			if (scenario.store === 's3') needs(this, place !== undefined, 'an S3 server');
			const store = scenario.store === 's3' ? place : undefined;
			const tally = new Tally('power cut');
			const last = 1 + (await pointsOf(scenario, store, { mode: 'kill' }));
			await everyPoint(tally, scenario.name, { last, stride: STRIDE }, async (n) => {
				const stage = await setUp(scenario, store);
				const [base, log] = [join(makeDirectory(), 'base'), join(makeDirectory(), 'events')];
				copyTree(stage.root, base);
				const { acknowledged } = await runFaulty(stage, scenario, { at: n, mode: 'kill', record: log });
				const done = eventsIn(log);
				// In turns: each point has one of the four.
				const names = n % 2 === 0 ? syncedOf(done) : done.length;
				const loss = n % 4 < 2 ? 'lost' : 'zeros';
				try {
					cut(stage.root, base, done, names, loss);
					await survives(stage.root, scenario, acknowledged);
				} catch (error) {
					throw new Error(`${describeCut(done, names, loss)}\n${String(error)}`);
				}
				await tearDown(stage);
				return loss;
			});
			tally.close(scenario.name);
		});
	}
});
