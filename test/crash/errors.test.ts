/** Every call failing once, or from then on: a clear message, nothing lost, nothing left, and it works when the cause is gone. */

import { expect } from 'chai';
import { isTried } from '../support/extent.ts';
import { needs } from '../support/needs.ts';
import {
	ageOwnerlessLocks,
	assertLegal,
	assertNoStagingOfTheDead,
	assertRepairs,
	assertStored,
	assertVisible,
} from './checker.js';
import {
	allowedAfter,
	crashBucket,
	everyPoint,
	type Fault,
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

/** How file systems fail: once, for everything that needs space from now on, or for everything from now on. */
const ERRORS: readonly Omit<Fault, 'at'>[] = [
	{ mode: 'ENOSPC', sticky: 1 },
	{ mode: 'EDQUOT', sticky: 0 },
	{ mode: 'EIO', sticky: 0, reads: true },
	{ mode: 'EMFILE', sticky: 0, reads: true },
	{ mode: 'EROFS', sticky: 2 },
	{ mode: 'EACCES', sticky: 0, reads: true },
];

const FULL = new Set(['ENOSPC', 'EDQUOT']);
const REMOVES = /^(?:unlink|rmdir|rm) /;
const SYNCS = /^(?:sync|datasync|fsync|fdatasync) /;
/** Exit codes: an item failed, a bad key or config (which could not be read), no lock, the store refuses. */
const EXITS = [0, 1, 3, 5, 6];
/** The answers to a POST: also those of the `serve` that did not start. */
const STATUSES = [201, 500, 503, 507, ...EXITS];

function assertSaysWhat({ command }: Scenario, { mode }: Omit<Fault, 'at'>, outcome: Outcome): void {
	const { code, acknowledged, stderr, hit = '' } = outcome;
	expect(code, 'exit code or status').to.be.oneOf(command === 'post' ? STATUSES : EXITS);
	expect(stderr, 'no stack').not.to.match(/^\s+at /m);
	if (acknowledged) {
		expect(hit, 'a failed fsync may not be passed over').not.to.match(SYNCS);
		return;
	}
	expect(stderr, 'what was wrong').to.match(FULL.has(mode) ? /no space left/ : new RegExp(mode));
	expect(stderr, 'where').to.match(/d\/|e\/|keys|locks|config\.yaml|\/s3proxy-test-/);
	if (FULL.has(mode) && command === 'post' && code >= 500) expect(code).to.equal(507);
}

async function recovers(scenario: Scenario, stage: Stage, outcome: Outcome): Promise<void> {
	const allowed = allowedAfter(scenario, outcome.acknowledged);
	const paths = pathsOf(scenario);
	const withNone = Object.entries(allowed).map(([path, versions]) => [path, [...versions, undefined]]);
	const seen = assertVisible(stage.root, Object.fromEntries(withNone));
	await assertLegal(stage, paths);
	await ageOwnerlessLocks(stage.built);
	// Works when the cause is gone, before anybody repairs anything.
	await scenario.again(stage);
	await assertRepairs(stage, paths);
	await assertStored(stage, allowedAfter(scenario, true), seen);
}

describe('a command whose file system fails at any point', function () {
	this.timeout(3_600_000);
	let place: S3Place | undefined;

	before(async () => {
		place = await crashBucket();
	});

	for (const [row, scenario] of SCENARIOS.entries()) {
		for (const [column, error] of ERRORS.entries()) {
			if (!isTried(row + column)) continue;
			it(`(${scenario.name}; ${error.mode}) says so, loses nothing, leaves no staging, and works afterwards`, async function () {
				if (scenario.store === 's3') needs(this, place !== undefined, 'an S3 server');
				const store = scenario.store === 's3' ? place : undefined;
				const tally = new Tally(error.mode);
				const last = await pointsOf(scenario, store, error);
				const stride = scenario.stride * (error.reads ? 24 : 6);
				await everyPoint(tally, scenario.name, { last, stride }, async (n) => {
					const stage = await setUp(scenario, store);
					const outcome = await runFaulty(stage, scenario, { at: n, ...error });
					if (outcome.hit === undefined) return undefined;
					try {
						assertSaysWhat(scenario, error, outcome);
						// Who may not remove anything any more leaves it to repair.
						const mayStay = error.sticky === 2 || REMOVES.test(outcome.hit);
						if (!mayStay && scenario.command[0] !== 'repair') assertNoStagingOfTheDead(stage.root);
						await recovers(scenario, stage, outcome);
					} catch (finding) {
						throw new Error(`${String(finding)}\n${outcome.hit}\nended with ${outcome.code}: ${outcome.stderr}`);
					}
					await tearDown(stage);
					return String(outcome.code);
				});
				tally.close(scenario.name);
			});
		}
	}
});
