/**
 * Everything at once: writers overwrite the same paths over HTTP, readers read, and the pipeline's commands are killed at random.
 * What a reader gets is never torn, and never older than what was acknowledged when it asked.
 */

import { existsSync, mkdirSync, rmdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { artifactPath } from '../../src/state/artifact-path.js';
import { Layout } from '../../src/state/layout.js';
import { openBuilt } from '../support/built.js';
import { ended, makeRoot, startS3proxy } from '../support/cli.js';
import { extentOf } from '../support/extent.ts';
import { needs } from '../support/needs.ts';
import { send, serve, store } from '../support/serve.js';
import { ageOwnerlessLocks, assertStored, assertVisible } from './checker.js';
import { contentOf, versionOf } from './content.js';
import { crashBucket, storeConfig, Tally } from './driver.js';

const SECONDS = extentOf({ fast: 8, long: 180 });
const PATHS = Array.from({ length: 20 }, (_, n) => `soak/${n % 3}/p${n}`);
const CONFIG = 'encryption: true\nfsync: false\nlisten: 127.0.0.1:0\nlock_timeout: 10\n';
const WORKERS = [
	...[['encrypt'], ['upload'], ['encrypt'], ['upload']],
	...[['fetch', ...PATHS.slice(0, 5)], ['repair'], ['rotate-key'], ['re-encrypt', '--delete-old']],
];
/** Of a request to S3: with everything at once, a second is not long. */
const STORE_TIMEOUT = 20;
/** Of every hundred commands, so many are killed, so many stopped while their locks become stale. */
const KILLED = 30;
const STOPPED = 10;

/** One path's versions: numbers that were given out, and what was acknowledged. */
class History {
	#next = 1;
	#acknowledged = 0;

	begin(): number {
		return this.#next++;
	}

	acknowledge(version: number): void {
		this.#acknowledged = Math.max(this.#acknowledged, version);
	}

	get acknowledged(): number {
		return this.#acknowledged;
	}

	/** What may be there at the end. */
	get allowed(): number[] {
		return Array.from({ length: this.#next - this.#acknowledged }, (_, n) => this.#acknowledged + n);
	}
}

const random = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)] as T;

describe('everything at once', function () {
	this.timeout((SECONDS + 120) * 1000);

	for (const store of ['file', 's3'] as const) {
		it(`(${store} store) for some time: nothing acknowledged is lost or goes back, nothing torn is seen`, async function () {
			const place = store === 's3' ? await crashBucket() : undefined;
			if (store === 's3') needs(this, place !== undefined, 'an S3 server');
			await soak(store, CONFIG + storeConfig(place, STORE_TIMEOUT));
		});
	}
});

async function soak(name: string, config: string): Promise<void> {
	const root = makeRoot({ config });
	const built = await openBuilt(root);
	const { url } = await serve({ root });
	const histories = new Map(PATHS.map((path) => [path, new History()]));
	const until = Date.now() + SECONDS * 1000;
	const findings: string[] = [];
	const counts = { written: 0, refused: 0, read: 0, evicted: 0, run: 0, killed: 0, stopped: 0, robbed: 0 };
	const forever = async (work: () => Promise<unknown>) => {
		while (Date.now() < until && findings.length === 0) await work();
	};

	// Each path has one writer, so that the order of its versions is known.
	const writer = (mine: readonly string[]) =>
		forever(async () => {
			const path = random(mine);
			const history = histories.get(path);
			if (history === undefined) return;
			const version = history.begin();
			const { status } = await store(url, `/${path}`, contentOf(path, version));
			if (status === 201) history.acknowledge(version);
			else expect(status, 'refused for a lock that was lost or not free').to.equal(503);
			counts[status === 201 ? 'written' : 'refused']++;
		});

	const reader = () =>
		forever(async () => {
			const path = random(PATHS);
			const known = histories.get(path)?.acknowledged ?? 0;
			const { status, body, text } = await send(url, `/${path}`);
			counts.read++;
			if (status === 404 && known === 0) return;
			// The store was asked while it was being changed, or a lock was held.
			if (status === 503) return;
			if (status !== 200) findings.push(`${path}: ${status} ${text}`);
			else if (versionOf(path, body) < known)
				findings.push(`${path}: ${versionOf(path, body)}, ${known} was acknowledged`);
		});

	const worker = () =>
		forever(async () => {
			const child = startS3proxy(root, [...random(WORKERS), '--quiet']);
			const end = ended(child);
			const fate = Math.random() * 100;
			counts.run++;
			if (fate < KILLED + STOPPED) {
				await Promise.race([end, sleep(50 + Math.random() * 650)]);
				if (fate < KILLED) {
					counts.killed += child.kill('SIGKILL') ? 1 : 0;
				} else if (child.kill('SIGSTOP')) {
					counts.stopped++;
					await ageOwnerlessLocks(built, true);
					await sleep(200);
					child.kill('SIGCONT');
				}
			}
			await end;
		});

	/** A lock that is taken from its holder: the next one gets it, too. */
	const robber = () =>
		forever(async () => {
			await sleep(100);
			const { directory } = new Layout(root).lock('path', artifactPath(random(PATHS)));
			if (!existsSync(directory)) return;
			try {
				rmdirSync(directory);
				mkdirSync(directory);
				await sleep(50);
				rmdirSync(directory);
				counts.robbed++;
			} catch {
				// Its holder was quicker.
			}
		});

	/** Most are refused: they wait, or were replaced meanwhile. */
	const evicter = () =>
		forever(async () => {
			await sleep(50);
			counts.evicted += await built.evict(random(PATHS)).catch(() => 0);
		});

	await Promise.all([
		writer(PATHS.slice(0, 10)),
		writer(PATHS.slice(10)),
		reader(),
		reader(),
		worker(),
		worker(),
		evicter(),
		robber(),
	]);
	const tally = new Tally('soak');
	for (const [what, count] of Object.entries(counts)) tally.count(what, count);
	for (const finding of findings) tally.find('soak', finding);
	tally.close(`${name} store, ${SECONDS} s`);
	await ageOwnerlessLocks(built);
	await built.repair();
	// Where an older version waits under an older key and is uploaded last, the newest is sealed once more.
	await built.encrypt();
	await built.upload();
	const allowed = Object.fromEntries([...histories].map(([path, history]) => [path, history.allowed]));
	const seen = assertVisible(root, allowed);
	const written = Object.fromEntries(Object.entries(allowed).filter(([, [newest]]) => newest !== 0));
	await assertStored({ root, built }, written, seen);
	expect(counts.written, 'it did something').to.be.above(20);
	await built.context.close();
}
