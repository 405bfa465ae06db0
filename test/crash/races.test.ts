/** Every pair of commands that meet on a path: one is held at each of its calls while the other runs through. */

import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import type { Ended } from '../support/cli.js';
import { isTried } from '../support/extent.ts';
import { until } from '../support/serve.js';
import { ageOwnerlessLocks, assertLegal, assertRepairs, assertStored, assertVisible } from './checker.js';
import { contentOf } from './content.js';
import { everyPoint, setUp, Tally, tearDown } from './driver.js';
import { comesToRest, type Holdable, startHeld } from './held.js';
import type { Scenario, Stage } from './scenarios.js';

const X = 'd/x';

/** A command in a race; `adds`: the version that it ingests. */
interface Runner {
	readonly name: string;
	readonly command: readonly string[];
	readonly adds?: number;
}

const ingests = (version: number): Runner => ({ name: 'ingest', command: ['ingest', '-', X], adds: version });
const runs = (...command: string[]): Runner => ({ name: command[0] ?? '', command });
const ENCRYPT = runs('encrypt', '--jobs', '1');
const UPLOAD = runs('upload', '--jobs', '1');
const FETCH = runs('fetch', X);
const RE_ENCRYPT = runs('re-encrypt', '--delete-old', '--jobs', '1');
const EVICT = runs('evict', X);
const ROTATE = runs('rotate-key');
const REPAIR = runs('repair');

/** How a race begins: what has happened to version 1, and to version 2 if that is acknowledged already. */
interface Start {
	readonly newest: 1 | 2;
	prepare(stage: Stage): Promise<void>;
}

const ingest = ({ built }: Stage, version: number) => built.ingest(X, contentOf(X, version));

const WAITING: Start = { newest: 1, prepare: async (stage) => void (await ingest(stage, 1)) };
const SEALED: Start = {
	newest: 1,
	prepare: async (stage) => {
		await ingest(stage, 1);
		await stage.built.encrypt();
	},
};
const STORED: Start = {
	newest: 1,
	prepare: async (stage) => {
		await SEALED.prepare(stage);
		await stage.built.upload();
	},
};
const EVICTED: Start = {
	newest: 1,
	prepare: async (stage) => {
		await STORED.prepare(stage);
		rmSync(join(stage.root, 'uploads'), { recursive: true });
	},
};
const SEALED_AND_WAITING: Start = {
	newest: 2,
	prepare: async (stage) => {
		await SEALED.prepare(stage);
		await ingest(stage, 2);
	},
};
const UNDER_TWO_KEYS: Start = {
	newest: 2,
	prepare: async (stage) => {
		await SEALED.prepare(stage);
		await stage.built.upload();
		await stage.built.rotateKey();
		await ingest(stage, 2);
		await stage.built.encrypt();
	},
};

/** Contract 4.2; each is tried both ways. */
const PAIRS: readonly [Start, Runner, Runner][] = [
	[WAITING, ingests(2), ENCRYPT],
	[SEALED, ingests(2), UPLOAD],
	[SEALED_AND_WAITING, ENCRYPT, UPLOAD],
	[SEALED, UPLOAD, UPLOAD],
	[WAITING, ENCRYPT, ENCRYPT],
	[EVICTED, ingests(2), FETCH],
	[EVICTED, FETCH, FETCH],
	[STORED, ingests(2), EVICT],
	[STORED, EVICT, EVICT],
	[UNDER_TWO_KEYS, RE_ENCRYPT, UPLOAD],
	[WAITING, ingests(2), ingests(3)],
	[WAITING, ingests(2), REPAIR],
	[WAITING, ENCRYPT, REPAIR],
	[SEALED, UPLOAD, REPAIR],
	[WAITING, ENCRYPT, ROTATE],
];

/** Where the other one, alone, would find nothing to do, so that there is no call at which to hold it. */
const ONE_WAY: readonly [Start, Runner, Runner][] = [
	[STORED, EVICT, FETCH],
	[EVICTED, FETCH, EVICT],
	[SEALED, UPLOAD, EVICT],
];

/**
 * `held`: the other one has to wait for locks, or give up. `overtaken`: the first was stopped for so long that its locks
 * are stale, and the other takes them: only the fences are left. `overtaken, killed`: and it comes no further than that call.
 */
const KINDS = ['held', 'overtaken', 'overtaken, killed'] as const;

const CONFIG = 'encryption: true\nfsync: false\n';
/** Two processes a point. */
const STRIDE = 29;
/** How often somebody who waits has tried to get a lock, when the other one is let go on. */
const TRIES = 3;
/** What `ended` gives for SIGKILL. */
const KILLED = 137;

const waitsForLock = ({ log }: Holdable) => {
	const tries = log.lines().filter((line) => /^mkdir locks\/.*\.s3proxy-(?:fetch|put|path)-\w+\.lock/.test(line));
	return tries.length >= TRIES && tries.slice(-TRIES).every((line) => line === tries.at(-1));
};

function start({ root }: Stage, { command, adds }: Runner, at: number, mode = 'hold'): Holdable {
	return startHeld(root, command, { at, mode }, adds === undefined ? undefined : contentOf(X, adds));
}

/** @returns how it went; undefined when `first` never came to that call */
async function race(stage: Stage, begin: Start, kind: string, runners: [Runner, Runner], at: number) {
	const [one, other] = runners;
	const isKilled = kind === 'overtaken, killed';
	const first = start(stage, one, at, isKilled ? 'hold-kill' : 'hold');
	if (!(await comesToRest(first))) {
		await first.end;
		return undefined;
	}
	if (kind !== 'held') await ageOwnerlessLocks(stage.built, true);
	const second = start(stage, other, 0);
	await until(() => second.hasEnded() || waitsForLock(second));
	const waited = !second.hasEnded();
	assertVisible(stage.root, { [X]: [1, 2, 3] });
	first.child.kill('SIGCONT');
	const [a, b] = await Promise.all([first.end, second.end]);
	const what = `${one.name} held at: ${first.log.hit}\n${a.code}: ${a.stderr}\n${other.name}: ${b.code}: ${b.stderr}`;
	try {
		for (const { code } of [a, b]) expect(code, 'exit code').to.be.oneOf(isKilled ? [0, 1, 5, KILLED] : [0, 1, 5]);
		await ageOwnerlessLocks(stage.built);
		await assertOutcome(stage, begin, runners, [a, b]);
	} catch (error) {
		throw new Error(`${String(error)}\n${what}`);
	}
	return `${a.code}/${waited ? 'waited, ' : ''}${b.code}`;
}

/** The newest that was acknowledged is what comes back; of two that were under way together, the one that readers see. */
async function assertOutcome(stage: Stage, { newest }: Start, runners: readonly Runner[], ends: readonly Ended[]) {
	const adds = runners.flatMap(({ adds: version }, index) =>
		version === undefined ? [] : [{ version, acknowledged: ends[index]?.code === 0 }],
	);
	const isReplaced = adds.some(({ acknowledged }) => acknowledged);
	const versions = [...(isReplaced ? [] : [newest]), ...adds.map(({ version }) => version)];
	const seen = assertVisible(stage.root, { [X]: versions });
	await assertLegal(stage, [X]);
	await assertRepairs(stage, [X]);
	const visible = seen[X];
	const allowed = visible === undefined ? versions : [visible];
	await assertStored(stage, { [X]: allowed }, seen);
}

describe('a command that meets another at any point', function () {
	this.timeout(3_600_000);
	for (const [row, pair] of [...PAIRS, ...ONE_WAY].entries()) {
		const [begin, one, other] = pair;
		const orders: [Runner, Runner][] =
			one === other || other.adds !== undefined || ONE_WAY.includes(pair)
				? [[one, other]]
				: [
						[one, other],
						[other, one],
					];
		for (const [order, runners] of orders.entries()) {
			const name = `${runners[0].name} while ${runners[1].name}`;
			for (const [column, kind] of KINDS.entries()) {
				if (!isTried(row + order + column)) continue;
				it(`(${name}; ${kind}) loses nothing, and readers see only what is whole`, async () => {
					const scenario: Scenario = {
						name,
						config: CONFIG,
						store: 'file',
						before: { [X]: begin.newest },
						command: [],
						prepare: begin.prepare,
						again: async () => undefined,
						stride: STRIDE,
					};
					const more = 'lock_timeout: 0\n';
					const counting = await setUp(scenario, undefined, more);
					const counted = start(counting, runners[0], 0);
					await counted.end;
					await tearDown(counting);
					const tally = new Tally(kind);
					const last = counted.log.lines().length;
					await everyPoint(tally, name, { last, stride: STRIDE }, async (n) => {
						const stage = await setUp(scenario, undefined, more);
						const outcome = await race(stage, begin, kind, runners, n);
						await tearDown(stage);
						return outcome;
					});
					tally.close(name);
				});
			}
		}
	}
});
