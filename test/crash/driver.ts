/** Runs a scenario's command with a fault at its n-th point, for every n. */

import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { appendFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { s3StoreAt } from '../store/s3-subject.js';
import { openBuilt } from '../support/built.js';
import { ended, makeDirectory, makeRoot, type RunOptions, startS3proxy } from '../support/cli.js';
import { extentOf, strideOf } from '../support/extent.ts';
import type { S3Server } from '../support/radosgw.js';
import { FORM, file, form, send, until } from '../support/serve.js';
import type { Allowed } from './checker.js';
import { contentOf } from './content.js';
import type { Scenario, Stage } from './scenarios.js';

const [FAULT_AT, RECORD_CALLS] = ['fault-at', 'record-calls'].map((name) =>
	fileURLToPath(new URL(`../support/${name}.js`, import.meta.url)),
) as [string, string];
const RECORD = 160;
/** A CLI that starts keeps one processor busy; a little more than there are keeps them all so. */
const AT_A_TIME = 3;

export interface Fault {
	/** 0: none. */
	readonly at: number;
	/** Instead: a regular expression, for the first call whose name and paths it matches; or `A then B`. */
	readonly match?: string;
	readonly mode: string;
	readonly sticky?: 0 | 1 | 2;
	readonly reads?: boolean;
	/** A file in which every call is recorded that is done before the fault. */
	readonly record?: string;
}

/** How a command ended that had a fault. */
export interface Outcome {
	/** Exit code, or status of the answer to the POST; 137 when it was killed. */
	readonly code: number;
	readonly acknowledged: boolean;
	/** Whether the process ended by SIGKILL. */
	readonly killed: boolean;
	readonly stderr: string;
	/** Points that it came to. */
	readonly points: number;
	/** The call at which the fault was; undefined when there was none. */
	readonly hit: string | undefined;
}

/** Where an S3 scenario keeps its objects; every root has keys of its own, so all share one bucket. */
export interface S3Place {
	readonly endpoint: string;
	readonly region: string;
}

let bucket: Promise<S3Server | undefined> | undefined;

/** The bucket of all matrices; undefined when there is no server. */
export function crashBucket(): Promise<S3Server | undefined> {
	bucket ??= s3StoreAt('crash').then((subject) => subject?.server);
	return bucket;
}

/** The lines of `config.yaml` for a store. @param timeout of S3, in seconds */
export function storeConfig(place: S3Place | undefined, timeout: number): string {
	if (place === undefined) return 'store: file:bucket\n';
	const { endpoint, region } = place;
	return `store: s3://crash\ns3: {endpoint: "${endpoint}", region: ${region}, force_path_style: true, part_size: 5MiB, timeout: ${timeout}, attempts: 3}\n`;
}

/** A new root on which `scenario` may begin. */
export async function setUp(scenario: Scenario, place?: S3Place, more = ''): Promise<Stage> {
	const config = scenario.config + storeConfig(place, 1) + more;
	// Preparing it need not survive anything.
	const root = makeRoot({ config: config.replace('fsync: true', 'fsync: false') });
	const stage = { root, built: await openBuilt(root) };
	await scenario.prepare(stage);
	writeFileSync(join(root, 'config.yaml'), config);
	return stage;
}

export async function tearDown({ root, built }: Stage): Promise<void> {
	await built.context.close();
	rmSync(root, { recursive: true, force: true });
}

/** The calls of a command, as the preload wrote them down. */
export class CallLog {
	readonly file = join(makeDirectory(), 'calls');

	lines(): string[] {
		try {
			const text = readFileSync(this.file, 'latin1');
			return text.slice(0, text.length - (text.length % RECORD)).match(new RegExp(`[^]{${RECORD}}`, 'g')) ?? [];
		} catch {
			return [];
		}
	}

	get hit(): string | undefined {
		return this.lines()
			.find((line) => line.startsWith('!'))
			?.slice(1)
			.trim();
	}
}

/** What a command of s3proxy is started with to have a fault. */
export function faulty(root: string, log: CallLog, fault: Fault): RunOptions {
	const { at, match, mode, sticky = 0, reads = false, record } = fault;
	const preloads = record === undefined ? [FAULT_AT] : [RECORD_CALLS, FAULT_AT];
	const env = {
		FAULT_ROOT: root,
		FAULT_LOG: log.file,
		FAULT_AT: String(at),
		...(match === undefined ? {} : { FAULT_MATCH: match }),
		FAULT_MODE: mode,
		FAULT_STICKY: String(sticky),
		FAULT_READS: reads ? '1' : '0',
		...(record === undefined ? {} : { RECORD_ROOT: root, RECORD_LOG: record }),
	};
	return { node: preloads.flatMap((preload) => ['--import', preload]), env };
}

/** Runs the scenario's command with a fault. */
export async function runFaulty(stage: Stage, scenario: Scenario, fault: Fault): Promise<Outcome> {
	const log = new CallLog();
	const { root } = stage;
	const { command, adds } = scenario;
	const content = adds === undefined ? Buffer.alloc(0) : contentOf(adds.path, adds.version);
	const isPost = command === 'post';
	const child = startS3proxy(root, isPost ? ['serve'] : command, faulty(root, log, fault));
	child.stdin?.on('error', () => undefined);
	if (!isPost) child.stdin?.end(content);
	const end = ended(child);
	const status = isPost && adds !== undefined ? await post(child, adds.path, content) : undefined;
	if (isPost) child.kill('SIGTERM');
	const { code, stderr } = await end;
	const lines = log.lines();
	const outcome = { stderr, killed: code === 137, points: lines.length, hit: log.hit };
	if (status !== undefined) return { ...outcome, code: status, acknowledged: status === 201 };
	return { ...outcome, code, acknowledged: code === 0 };
}

/** @returns the status of the answer; undefined when there was none */
async function post(child: ChildProcess, path: string, content: Buffer): Promise<number | undefined> {
	let log = '';
	child.stderr?.on('data', (chunk: Buffer) => {
		log += chunk;
	});
	const url = () => /listening on (\S+)/.exec(log)?.[1];
	await until(() => url() !== undefined || child.exitCode !== null || child.signalCode !== null);
	const request = { method: 'POST', headers: FORM, body: form(file(content)) };
	return send(url() ?? '', `/${path}`, request).then(
		({ status }) => status,
		() => undefined,
	);
}

/** Every path that a scenario's root may have names of, also those that `wreck` makes. */
export function pathsOf(scenario: Scenario): string[] {
	return [...Object.keys(allowedAfter(scenario, true)), 'f/never-published', 'd/orphan'];
}

/** The versions that paths may be in, given what the command said. */
export function allowedAfter({ before, adds }: Scenario, acknowledged: boolean): Allowed {
	const allowed: Record<string, readonly (number | undefined)[]> = {};
	for (const [path, version] of Object.entries(before)) allowed[path] = [version];
	if (adds !== undefined) {
		const earlier = acknowledged ? [] : [before[adds.path]];
		allowed[adds.path] = [...earlier, adds.version];
	}
	return allowed;
}

/** What became of the points of one matrix. */
export class Tally {
	readonly name: string;
	points = 0;
	readonly #outcomes = new Map<string, number>();
	readonly #findings: string[] = [];

	constructor(name: string) {
		this.name = name;
	}

	count(outcome: string, times = 1): void {
		this.points += times;
		this.#outcomes.set(outcome, (this.#outcomes.get(outcome) ?? 0) + times);
	}

	find(where: string, error: unknown): void {
		this.#findings.push(`${where}\n${error instanceof Error ? error.message : String(error)}`);
	}

	/** Prints how many points were tried, writes the row for docs/crash-matrix.md. @throws what was found */
	close(scenario: string): void {
		const outcomes = [...this.#outcomes].sort().map(([what, count]) => `${what}: ${count}`);
		const line = `${this.name}, ${scenario}: ${this.points} points, ${this.#findings.length} findings`;
		process.stdout.write(`      ${line} (${outcomes.join(', ')})\n`);
		const counts = { points: this.points, outcomes: outcomes.join(', '), findings: this.#findings.length };
		const row = { matrix: this.name, scenario, extent: extentOf({ fast: 'fast', long: 'long' }), ...counts };
		const { CRASH_MATRIX_ROWS } = process.env;
		if (CRASH_MATRIX_ROWS !== undefined) appendFileSync(CRASH_MATRIX_ROWS, `${JSON.stringify(row)}\n`);
		if (this.#findings.length > 0) throw new Error(this.#findings.slice(0, 5).join('\n\n'));
		if (this.points === 0) throw new Error('no point was tried');
	}
}

/**
 * Tries every point up to `last`; in the fast part only every `stride`-th, beginning with another one for every matrix.
 * @param tryAt returns what came of it; undefined when the command did not come to that point this time
 */
export async function everyPoint(
	tally: Tally,
	scenario: string,
	{ last, stride }: { last: number; stride: number },
	tryAt: (n: number) => Promise<string | undefined>,
): Promise<void> {
	const step = strideOf(stride);
	// In the first half: threads and polling make some runs shorter than the one that was counted.
	let next = 1 + (seedOf(`${tally.name} ${scenario}`) % Math.min(step, Math.ceil(last / 2)));
	const worker = async () => {
		while (next <= last) {
			const n = next;
			next += step;
			try {
				const outcome = await tryAt(n);
				if (outcome !== undefined) tally.count(outcome);
			} catch (error) {
				tally.find(`${scenario}, ${tally.name} at point ${n}`, error);
			}
		}
	};
	await Promise.all(Array.from({ length: AT_A_TIME }, worker));
}

const pointsSeen = new Map<string, Promise<number>>();

/** How many points a scenario's command has for such a fault, when nothing is in its way. */
export function pointsOf(scenario: Scenario, place: S3Place | undefined, fault: Omit<Fault, 'at'>): Promise<number> {
	const name = `${scenario.name} ${fault.mode} ${fault.reads}`;
	const known = pointsSeen.get(name) ?? countPoints(scenario, place, fault);
	pointsSeen.set(name, known);
	return known;
}

async function countPoints(scenario: Scenario, place: S3Place | undefined, fault: Omit<Fault, 'at'>): Promise<number> {
	const stage = await setUp(scenario, place);
	const { acknowledged, points, stderr } = await runFaulty(stage, scenario, { ...fault, at: 0 });
	await tearDown(stage);
	if (!acknowledged) throw new Error(`${scenario.name} fails without any fault\n${stderr}`);
	return points;
}

function seedOf(name: string): number {
	return createHash('sha256').update(name).digest().readUInt32LE();
}
