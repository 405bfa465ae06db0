/** Every command killed before and after everything it does: nothing is lost, nothing half is seen, repair makes it sound. */

import { ended, startS3proxy } from '../support/cli.js';
import { isTried } from '../support/extent.ts';
import { needs } from '../support/needs.ts';
import { ageOwnerlessLocks, assertLegal, assertRepairs, assertStored, assertVisible } from './checker.js';
import {
	allowedAfter,
	CallLog,
	crashBucket,
	everyPoint,
	faulty,
	type Outcome,
	pathsOf,
	pointsOf,
	runFaulty,
	type S3Place,
	setUp,
	Tally,
	tearDown,
} from './driver.js';
import { SCENARIOS, type Scenario, type Stage } from './scenarios.js';

/** Repair makes as many calls after most crashes. */
const CALLS_OF_REPAIR = 12;

let place: S3Place | undefined;

async function survives(scenario: Scenario, stage: Stage, outcome: Outcome): Promise<void> {
	const { root, built } = stage;
	const allowed = allowedAfter(scenario, outcome.acknowledged);
	const paths = pathsOf(scenario);
	const seen = assertVisible(root, withNone(allowed));
	await assertLegal(stage, paths);
	await ageOwnerlessLocks(built);
	await assertRepairs(stage, paths);
	if (scenario.adds === undefined) await scenario.again(stage);
	await assertStored(stage, allowed, seen);
}

/** A path may be away from uploads/ at any time. */
function withNone(allowed: Record<string, readonly (number | undefined)[]>) {
	return Object.fromEntries(Object.entries(allowed).map(([path, versions]) => [path, [...versions, undefined]]));
}

const MODES = ['kill', 'kill-after', 'kill, then repair killed'] as const;

describe('a command killed at any point', function () {
	this.timeout(3_600_000);

	before(async () => {
		place = await crashBucket();
	});

	for (const [row, scenario] of SCENARIOS.entries()) {
		for (const [column, mode] of MODES.entries()) {
			if (mode !== 'kill' && !isTried(row + column)) continue;
			it(`(${scenario.name}; ${mode}) loses nothing, shows nothing half, and leaves what repair can clear`, async function () {
				if (scenario.store === 's3') needs(this, place !== undefined, 'an S3 server');
				const store = scenario.store === 's3' ? place : undefined;
				const tally = new Tally(mode);
				const last = await pointsOf(scenario, store, { mode: 'kill' });
				const stride = mode === 'kill' ? 2 * scenario.stride : 5 * scenario.stride;
				await everyPoint(tally, scenario.name, { last, stride }, async (n) => {
					const stage = await setUp(scenario, store);
					const fault = { at: n, mode: mode === 'kill-after' ? mode : 'kill' };
					const outcome = await runFaulty(stage, scenario, fault);
					try {
						if (mode.includes('repair')) await killRepair(stage, 1 + ((n * 7) % CALLS_OF_REPAIR));
						await survives(scenario, stage, outcome);
					} catch (error) {
						throw new Error(`${String(error)}\n${outcome.hit ?? ''}\n${outcome.stderr}`);
					}
					await tearDown(stage);
					if (!outcome.killed) return undefined;
					return outcome.acknowledged ? 'acknowledged' : 'killed';
				});
				tally.close(scenario.name);
			});
		}
	}
});

async function killRepair({ root, built }: Stage, at: number): Promise<void> {
	await ageOwnerlessLocks(built);
	const child = startS3proxy(root, ['repair'], faulty(root, new CallLog(), { at, mode: 'kill' }));
	child.stdin?.end();
	await ended(child);
}
