/** An S3 server that misbehaves at any request: success after retries, or a clear failure in time; nothing lost, nothing left. */

import { expect } from 'chai';
import { OUTCOMES } from '../../src/errors.js';
import { s3StoreAt } from '../store/s3-subject.js';
import { type Fault, type FaultProxy, startFaultProxy } from '../support/fault-proxy.js';
import { needs } from '../support/needs.ts';
import type { S3Server } from '../support/radosgw.js';
import { assertRepairs, assertStored, assertVisible } from './checker.js';
import { allowedAfter, everyPoint, type S3Place, setUp, Tally, tearDown } from './driver.js';
import { SCENARIOS, type Scenario, type Stage } from './scenarios.js';

/** Each once, in a burst that the three attempts get over, or for good. */
const FAULTS: readonly (Omit<Fault, 'skip'> & { readonly name: string })[] = [
	{ name: 'connection refused once', mode: 'refuse', count: 1 },
	{ name: 'connection refused', mode: 'refuse' },
	{ name: 'no answer once', mode: 'hang', count: 1 },
	{ name: 'no answer', mode: 'hang' },
	{ name: 'nothing after the header', mode: 'hang-body', count: 1 },
	{ name: 'reset in the body', mode: 'reset', count: 1 },
	{ name: 'truncated body', mode: 'truncate', count: 1 },
	{ name: 'silently short body', mode: 'short', count: 1 },
	{ name: 'one byte flipped', mode: 'corrupt-response', count: 1 },
	{ name: 'one byte flipped on the way there', mode: 'corrupt-request', count: 1 },
	{ name: '403', mode: 'status', status: 403, code: 'AccessDenied' },
	{ name: '403 clock skew', mode: 'status', status: 403, code: 'RequestTimeTooSkewed' },
	{ name: '404', mode: 'status', status: 404, code: 'NoSuchKey', count: 1, match: /^(?!HEAD)/ },
	{ name: '500 burst', mode: 'status', status: 500, code: 'InternalError', count: 2 },
	{ name: '503 burst', mode: 'status', status: 503, code: 'SlowDown', count: 2 },
	{ name: '503', mode: 'status', status: 503, code: 'SlowDown' },
	{ name: 'error in a 200', mode: 'error-in-200', count: 1 },
	{ name: 'answer lost after the store acted', mode: 'drop-response', count: 1 },
];

/** Three attempts of a second for each of the few requests that an item may still make, and the pauses between. */
const BOUND_MS = 30_000;
const STRIDE = 13;

let server: S3Server | undefined;

before(async function () {
	this.timeout(600_000);
	server = (await s3StoreAt('crash').catch(() => undefined))?.server ?? server;
});

interface Failure {
	readonly code: keyof typeof OUTCOMES;
	readonly message: string;
}

/** What an operation failed with; undefined when it did not. */
async function failureOf(work: () => Promise<unknown>): Promise<Failure | undefined> {
	try {
		await work();
		return undefined;
	} catch (error) {
		if (!(error instanceof Error)) throw error;
		const cause = error.cause;
		if (cause !== null && typeof cause === 'object' && 'code' in cause && 'message' in cause) return cause as Failure;
		if ('code' in error && String(error.code) in OUTCOMES) return error as Error & Failure;
		throw error;
	}
}

async function proxied(place: S3Place, use: (proxy: FaultProxy, place: S3Place) => Promise<string | undefined>) {
	const proxy = await startFaultProxy(place.endpoint);
	try {
		return await use(proxy, { ...place, endpoint: proxy.endpoint });
	} finally {
		await proxy.stop();
	}
}

async function isAllWell(scenario: Scenario, stage: Stage): Promise<void> {
	const allowed = allowedAfter(scenario, true);
	const withNone = Object.entries(allowed).map(([path, versions]) => [path, [...versions, undefined]]);
	const seen = assertVisible(stage.root, Object.fromEntries(withNone));
	await assertRepairs(stage, Object.keys(allowed));
	await scenario.again(stage);
	await assertStored(stage, allowed, seen);
}

async function requestsOf(scenario: Scenario, place: S3Place): Promise<number> {
	const count = await proxied(place, async (proxy, through) => {
		const stage = await setUp(scenario, through);
		proxy.reset();
		await scenario.again(stage);
		const { length } = proxy.requests;
		await tearDown(stage);
		return String(length);
	});
	return Number(count);
}

describe('an S3 server that misbehaves at any request', function () {
	this.timeout(3_600_000);
	for (const scenario of SCENARIOS.filter(({ store }) => store === 's3')) {
		for (const fault of FAULTS) {
			it(`(${scenario.name}; ${fault.name}) costs time or a clear failure, and nothing else`, async function () {
				needs(this, server !== undefined, 'an S3 server');
				if (server === undefined) return;
				const place = server;
				const tally = new Tally(fault.name);
				await everyPoint(tally, scenario.name, { last: await requestsOf(scenario, place), stride: STRIDE }, async (n) =>
					proxied(place, async (proxy, through) => {
						const stage = await setUp(scenario, through);
						proxy.reset();
						proxy.inject({ ...fault, skip: n - 1 });
						const began = Date.now();
						const failure = await failureOf(() => scenario.again(stage));
						const requests = [...proxy.requests];
						const took = Date.now() - began;
						proxy.reset();
						try {
							expect(took, 'milliseconds').to.be.lessThan(BOUND_MS);
							if (failure !== undefined) assertClear(failure);
							await isAllWell(scenario, stage);
						} catch (error) {
							throw new Error(`${String(error)}\n${failure?.code}: ${failure?.message}\n${requests.join('\n')}`);
						}
						await tearDown(stage);
						return failure?.code ?? 'done';
					}),
				);
				tally.close(scenario.name);
			});
		}
	}

	it('or whose name does not resolve, is named in the error: exit code 6', async function () {
		needs(this, server !== undefined, 'an S3 server');
		const scenario = SCENARIOS.find(({ name }) => name === 'upload to S3');
		if (scenario === undefined || server === undefined) throw new Error('no such scenario');
		const stage = await setUp(scenario, { ...server, endpoint: 'http://no-such-host.invalid:1' }).catch(
			(error: unknown) => error,
		);
		expect(stage).to.be.an('error').with.property('message').that.contains('no-such-host.invalid');
	});
});

/** It says what and where; and what is there is never called absent. */
function assertClear({ code, message }: Failure): void {
	expect(code).to.be.oneOf(['store-unreachable', 'store-refused', 'source-changed', 'not-authentic']);
	expect(message).to.match(/d\/|e\/|s3:\/\/crash/);
	expect(OUTCOMES[code].exit, 'exit code').to.be.oneOf([1, 6]);
}
