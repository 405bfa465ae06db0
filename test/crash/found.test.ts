/** What the matrices have found once, each at its own point: the fast part of them may pass it over. */

import { mkdirSync, readlinkSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { s3proxy, tree } from '../support/cli.js';
import { send, serve } from '../support/serve.js';
import { ageOwnerlessLocks, assertNoStagingOfTheDead, assertRepairs, assertStored, assertVisible } from './checker.js';
import { contentOf, visibleVersion } from './content.js';
import { allowedAfter, CallLog, type Fault, faulty, pathsOf, runFaulty, setUp } from './driver.js';
import { comesToRest, goesOn, type Holdable, startHeld } from './held.js';
import { SCENARIOS, type Scenario, type Stage } from './scenarios.js';

interface Found {
	readonly what: string;
	readonly scenario: string;
	/** The call that fails. */
	readonly match: string;
	readonly mode?: string;
	readonly reads?: boolean;
	/** What must hold right after the command has failed. */
	readonly holds?: (stage: Stage) => void;
}

const FOUND: readonly Found[] = [
	{ what: 'a fetch that cannot make its staging file ends', scenario: 'fetch', match: '^open to_decrypt/' },
	{
		what: 'a version that readers see waits for encryption, although the sync after its publish failed',
		scenario: 'ingest over an older version',
		match: '^sync uploads/d$',
		holds: ({ root }) => expect(tree(root)).to.include('to_encrypt/d/x -> <root>/uploads/d/x'),
	},
	{ what: 'staging whose mode cannot be set is removed', scenario: 'encrypt', match: '^fchmod encrypting/' },
	{
		what: 'a sidecar that cannot be written whole is removed',
		scenario: 'encrypt',
		match: '^write encrypting/',
		mode: 'ENOSPC',
	},
	{
		what: 'a symlink that cannot be renamed is removed',
		scenario: 'rotate-key',
		match: '^rename keys/.* keys/latest$',
	},
	{
		what: 'a local copy that evict could not look at once more is put back',
		scenario: 'evict',
		match: '^lstat to_decrypt/',
		reads: true,
		holds: ({ root }) => expect(tree(root).filter((name) => /^uploads\/d\/[xy]$/.test(name))).to.have.length(1),
	},
	...[
		{ scenario: 'encrypt', removes: '^unlink to_encrypt/d/[xy]$' },
		{ scenario: 'upload', removes: '^unlink encrypted/\\w+/d/[xy]$' },
	].map(({ scenario, removes }) => ({
		...{ what: `what cannot be looked at after ${scenario} waits, without repair`, scenario, reads: true },
		match: `${removes} then ^lstat uploads/d/[xy]$`,
		holds: ({ root }: Stage) =>
			expect(tree(root).filter((name) => /^to_encrypt\/d\/[xy] ->/.test(name))).not.to.be.empty,
	})),
	...['write', 'unlink'].map((call) => ({
		what: `a lock whose record fails (${call}) is one that repair clears`,
		scenario: 'upload',
		match: `^${call} locks/d/.s3proxy-put-`,
	})),
];

function scenarioOf(name: string): Scenario {
	const found = SCENARIOS.find((scenario) => scenario.name === name);
	if (found === undefined) throw new Error(`no scenario ${name}`);
	return found;
}

describe('what the matrices have found', () => {
	for (const { what, scenario: name, match, mode = 'EIO', reads = false, holds } of FOUND) {
		it(what, async () => {
			const scenario = scenarioOf(name);
			const stage = await setUp(scenario);
			const outcome = await runFaulty(stage, scenario, { at: 0, match, mode, reads });
			expect(outcome.hit, 'the call was made').not.to.equal(undefined);
			expect(outcome.code, outcome.stderr).to.equal(1);
			holds?.(stage);
			assertNoStagingOfTheDead(stage.root);
			await assertRepairs(stage, pathsOf(scenario));
			await assertStored(stage, allowedAfter(scenario, false), {});
		});
	}

	it('a sync that failed while the rest was coming is not passed over, though the next one succeeds', async () => {
		const scenario = scenarioOf('ingest over an older version');
		const stage = await setUp(scenario);
		const log = new CallLog();
		const fault = faulty(stage.root, log, { at: 0, match: '^datasync uploading/', mode: 'EIO' });
		const stdin = Buffer.alloc(40 * 2 ** 20);
		const { code, stderr } = await s3proxy(stage.root, ['ingest', '-', 'd/x'], { ...fault, stdin });
		expect(log.hit, 'the call was made').not.to.equal(undefined);
		expect(code, stderr).to.equal(1);
		expect(stderr).to.contain('EIO').and.to.contain('d/x');
		assertNoStagingOfTheDead(stage.root);
		await assertRepairs(stage, pathsOf(scenario));
		await assertStored(stage, allowedAfter(scenario, false), {});
	});

	it('a sealed file that cannot be looked at does not stay open', async () => {
		const { root } = await setUp(scenarioOf('upload'));
		rmSync(join(root, 'uploads'), { recursive: true });
		const fault = faulty(root, new CallLog(), { at: 0, match: '^fstat encrypted/', mode: 'EIO', reads: true });
		const served = await serve({ root, ...fault });
		const { status, text } = await send(served.url, '/d/x');
		expect(status, text).to.equal(500);
		expect(served.openIn('encrypted')).to.deep.equal([]);
	});
});

describe('a version that an evict takes, which has lost its lock', () => {
	/** An evict of version 1 that is stopped before it takes what has that name; version 2 is stored meanwhile. */
	async function overtakenEvict(mode: 'hold' | 'hold-kill'): Promise<{ stage: Stage; evict: Holdable }> {
		const stage = await setUp({ ...scenarioOf('evict'), prepare: async () => undefined });
		await stage.built.ingest('d/x', contentOf('d/x', 1));
		await stage.built.encrypt();
		await stage.built.upload();
		// So that the first rename succeeds.
		mkdirSync(join(stage.root, 'to_decrypt/d/x'), { recursive: true });
		const at: Fault = { at: 0, match: '^rename uploads/d/x', mode, sticky: 2 };
		const evict = startHeld(stage.root, ['evict', 'd/x'], at);
		expect(await comesToRest(evict), 'it is stopped').to.equal(true);
		await ageOwnerlessLocks(stage.built, true);
		await stage.built.ingest('d/x', contentOf('d/x', 2));
		evict.child.kill('SIGCONT');
		await comesToRest(evict);
		expect(visibleVersion(stage.root, 'd/x'), 'it has taken version 2').to.equal(undefined);
		return { stage, evict };
	}

	async function isStored(stage: Stage): Promise<void> {
		await ageOwnerlessLocks(stage.built);
		await assertRepairs(stage, ['d/x']);
		await assertStored(stage, { 'd/x': [2] }, { 'd/x': 2 });
	}

	for (const mode of ['hold', 'hold-kill'] as const) {
		const ends = mode === 'hold' ? 'goes on' : 'is killed';
		it(`is what a reader gets meanwhile, not the older one of the store; then the evict ${ends}`, async () => {
			const { stage, evict } = await overtakenEvict(mode);
			const { code, stderr } = await s3proxy(stage.root, ['fetch', 'd/x']);
			expect(code, stderr).to.equal(0);
			assertVisible(stage.root, { 'd/x': [2] });
			if (mode === 'hold') expect((await goesOn(evict)).code).to.equal(1);
			assertVisible(stage.root, { 'd/x': [2] });
			await isStored(stage);
		});
	}

	it('is kept when an older one has its name, and repair puts it back', async () => {
		const { stage, evict } = await overtakenEvict('hold');
		// As by a fetch that was stopped between its last look and its publish.
		const artifact = join(stage.root, 'uploads/d/x');
		mkdirSync(dirname(artifact), { recursive: true });
		writeFileSync(artifact, contentOf('d/x', 1));
		utimesSync(artifact, 1, 1);
		const { code, stderr } = await goesOn(evict);
		expect(code, stderr).to.equal(1);
		await isStored(stage);
	});
});

describe('a version that is published late, over a newer one', () => {
	for (const rotated of [false, true]) {
		it(`is the newest${rotated ? ', under a newer key too' : ''}: its answer came last`, async () => {
			const stage = await setUp({ ...scenarioOf('encrypt'), prepare: async () => undefined });
			const at: Fault = { at: 0, match: '^rename uploading/d/.* uploads/d/x$', mode: 'hold' };
			const late = startHeld(stage.root, ['ingest', '-', 'd/x'], at, contentOf('d/x', 1));
			expect(await comesToRest(late), 'it is stopped').to.equal(true);
			await ageOwnerlessLocks(stage.built, true);
			await stage.built.ingest('d/x', contentOf('d/x', 2));
			await stage.built.encrypt();
			await stage.built.upload();
			if (rotated) await stage.built.rotateKey();
			const { code, stderr } = await goesOn(late);
			expect(code, stderr).to.equal(0);
			assertVisible(stage.root, { 'd/x': [1] });
			await assertRepairs(stage, ['d/x']);
			await assertStored(stage, { 'd/x': [1] }, { 'd/x': 1 });
		});
	}
});

describe('an older version that comes late', () => {
	const LATE = [
		// Even when somebody removes the newer one by hand, who does not ask whether that is safe.
		{ command: 'encrypt', match: '^rename encrypting/.* encrypted/.*d/x$', isRemoved: true },
		{ command: 'upload', match: '^rename bucket/.* bucket/.*d/x$', isRemoved: false },
	];
	for (const { command, match, isRemoved } of LATE) {
		for (const mode of ['hold', 'hold-kill']) {
			const ends = mode === 'hold' ? '' : ', killed right afterwards,';
			it(`(${command})${ends} does not replace the newer one, which is not evicted meanwhile`, async () => {
				const stage = await setUp({ ...scenarioOf('encrypt'), prepare: async () => undefined });
				await stage.built.ingest('d/x', contentOf('d/x', 1));
				if (command === 'upload') await stage.built.encrypt();
				const late = startHeld(stage.root, [command], { at: 0, match, mode });
				expect(await comesToRest(late), 'it is stopped').to.equal(true);
				await ageOwnerlessLocks(stage.built, true);
				await stage.built.ingest('d/x', contentOf('d/x', 2));
				await stage.built.encrypt();
				await stage.built.upload();
				const evicted = await stage.built.evict('d/x').catch((error: unknown) => String(error));
				expect(evicted).to.contain('an upload of it has not come to its end');
				if (isRemoved) rmSync(join(stage.root, 'uploads'), { recursive: true });
				await goesOn(late);
				await ageOwnerlessLocks(stage.built);
				await assertRepairs(stage, ['d/x']);
				await assertStored(stage, { 'd/x': [2] }, { 'd/x': 2 });
			});
		}
	}

	describe('(re-encrypt)', () => {
		/** Runs the commands that store a version, under the key that `latest` points to. */
		async function run(root: string, version: number, ...names: string[]): Promise<void> {
			for (const name of names) {
				const command = name === 'ingest' ? ['ingest', '-', 'd/x'] : [name];
				const { code, stderr } = await s3proxy(root, command, { stdin: contentOf('d/x', version) });
				expect(code, stderr).to.equal(0);
			}
		}

		function pointLatestTo(root: string, key: string): void {
			rmSync(join(root, 'keys/latest'));
			symlinkSync(key, join(root, 'keys/latest'));
		}

		async function underTwoKeys(): Promise<{ stage: Stage; keys: [string, string] }> {
			const stage = await setUp({ ...scenarioOf('encrypt'), prepare: async () => undefined });
			const latest = join(stage.root, 'keys/latest');
			const older = readlinkSync(latest);
			await s3proxy(stage.root, ['rotate-key']);
			return { stage, keys: [older, readlinkSync(latest)] };
		}

		async function goesOnAlone(stage: Stage, late: Holdable): Promise<void> {
			await goesOn(late);
			await ageOwnerlessLocks(stage.built);
			await assertRepairs(stage, ['d/x']);
			await assertStored(stage, { 'd/x': [3] }, { 'd/x': 3 });
		}

		it('does not replace the newer one', async () => {
			const { stage, keys } = await underTwoKeys();
			const { root } = stage;
			await run(root, 1, 'ingest', 'encrypt', 'upload');
			// As after a key that was given up: the newest is under the older one, and something older is in its way.
			pointLatestTo(root, keys[0]);
			await run(root, 2, 'ingest', 'encrypt', 'upload');
			pointLatestTo(root, keys[1]);
			const match = '^rename bucket/.* bucket/.*d/x$';
			const late = startHeld(root, ['re-encrypt'], { at: 0, match, mode: 'hold' });
			expect(await comesToRest(late), 'it is stopped').to.equal(true);
			await ageOwnerlessLocks(stage.built, true);
			await run(root, 3, 'ingest', 'encrypt', 'upload');
			await goesOnAlone(stage, late);
		});

		it('does not delete the newer one, which was sealed under the older key', async () => {
			const { stage, keys } = await underTwoKeys();
			const { root } = stage;
			pointLatestTo(root, keys[0]);
			await run(root, 1, 'ingest', 'encrypt', 'upload');
			pointLatestTo(root, keys[1]);
			await run(root, 1, 're-encrypt');
			pointLatestTo(root, keys[0]);
			await run(root, 3, 'ingest', 'encrypt');
			pointLatestTo(root, keys[1]);
			// It has asked the store what there is, and is about to delete the older one.
			const match = `^mkdir locks/d/.s3proxy-put-.* then ^open bucket/${keys[1].replace('private_key-', '')}/d/x`;
			const late = startHeld(root, ['re-encrypt', '--delete-old'], { at: 0, match, mode: 'hold', reads: true });
			expect(await comesToRest(late), 'it is stopped').to.equal(true);
			await ageOwnerlessLocks(stage.built, true);
			await run(root, 3, 'upload', 'repair');
			expect((await s3proxy(root, ['evict', 'd/x'])).code).to.equal(0);
			await goesOnAlone(stage, late);
		});
	});

	it('(fetch) is not what readers are left with', async () => {
		const stage = await setUp({ ...scenarioOf('encrypt'), prepare: async () => undefined });
		const { built, root } = stage;
		const store = async (version: number) => {
			await built.ingest('d/x', contentOf('d/x', version));
			await built.encrypt();
			await built.upload();
			await built.evict('d/x');
		};
		await store(1);
		const match = '^link to_decrypt/d/.* uploads/d/x$';
		const late = startHeld(root, ['fetch', 'd/x'], { at: 0, match, mode: 'hold' });
		expect(await comesToRest(late), 'it is stopped').to.equal(true);
		await ageOwnerlessLocks(built, true);
		await store(2);
		const { code, stderr } = await goesOn(late);
		expect(code, stderr).to.equal(0);
		expect(visibleVersion(root, 'd/x')).to.equal(2);
	});
});
