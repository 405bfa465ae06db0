/** An S3 server that misbehaves at any request: success after retries, or a clear failure in time; nothing lost, nothing left. */

import { expect } from 'chai';
import { OUTCOMES } from '../../src/errors.js';
import { openBuilt } from '../support/built.js';
import { makeRoot, s3proxy } from '../support/cli.js';
import { type Fault, type FaultProxy, startFaultProxy } from '../support/fault-proxy.js';
import { needs } from '../support/needs.ts';
import type { S3Server } from '../support/radosgw.js';
import { assertRepairs, assertStored, assertVisible } from './checker.js';
import { allowedAfter, crashBucket, everyPoint, type S3Place, setUp, Tally, tearDown } from './driver.js';
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
/** Prime, so that every fault comes at some request. */
const STRIDE = 43;

let server: S3Server | undefined;

interface Failure {
	readonly code: keyof typeof OUTCOMES;
	readonly message: string;
}

function isFailure(thrown: unknown): thrown is Failure {
	if (thrown === null || typeof thrown !== 'object' || !('code' in thrown && 'message' in thrown)) return false;
	return String(thrown.code) in OUTCOMES;
}

/** What an operation failed with; undefined when it did not. */
async function failureOf(work: () => Promise<unknown>): Promise<Failure | undefined> {
	try {
		await work();
		return undefined;
	} catch (error) {
		if (!(error instanceof Error)) throw error;
		// Thrown by the built modules, whose class is another than that of src/.
		if (isFailure(error)) return error;
		const { cause } = error;
		if (isFailure(cause)) return cause;
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

	before(async () => {
		server = await crashBucket();
	});

	for (const scenario of SCENARIOS.filter(({ store }) => store === 's3')) {
		it(`(${scenario.name}) costs time or a clear failure, and nothing else`, async function () {
			needs(this, server !== undefined, 'an S3 server');
			if (server === undefined) return;
			const place = server;
			const tally = new Tally('store faults');
			const last = (await requestsOf(scenario, place)) * FAULTS.length;
			await everyPoint(tally, scenario.name, { last, stride: STRIDE }, async (point) => {
				const fault = FAULTS[(point - 1) % FAULTS.length];
				const skip = Math.floor((point - 1) / FAULTS.length);
				if (fault === undefined) return undefined;
				return proxied(place, (proxy, through) => misbehave(scenario, through, proxy, { ...fault, skip }));
			});
			tally.close(scenario.name);
		});
	}

	for (const command of [['upload'], ['fetch', 'd/gone'], ['re-encrypt']]) {
		it(`or whose name does not resolve, is named in the error: exit code 6 (${command[0]})`, async () => {
			const endpoint = 'http://no-such-host.invalid:1';
			const root = makeRoot({
				config: `encryption: true\nstore: s3://crash\ns3: {endpoint: "${endpoint}", force_path_style: true, timeout: 1, attempts: 2}\n`,
			});
			const built = await openBuilt(root);
			await built.ingest('d/x', 'content');
			await built.encrypt();
			await built.rotateKey();
			const env = { AWS_ACCESS_KEY_ID: 'x', AWS_SECRET_ACCESS_KEY: 'y', AWS_EC2_METADATA_DISABLED: 'true' };
			const { code, stderr } = await s3proxy(root, command, { env });
			expect(code, stderr).to.equal(6);
			expect(stderr).to.contain('no-such-host.invalid');
		});
	}
});

/** @returns how the operation ended */
async function misbehave(scenario: Scenario, place: S3Place, proxy: FaultProxy, fault: Fault & { name: string }) {
	const stage = await setUp(scenario, place);
	proxy.reset();
	proxy.inject(fault);
	const began = Date.now();
	const failure = await failureOf(() => scenario.again(stage));
	const took = Date.now() - began;
	const requests = [...proxy.requests];
	proxy.reset();
	try {
		expect(took, 'milliseconds').to.be.lessThan(BOUND_MS);
		if (failure !== undefined) assertClear(failure);
		await isAllWell(scenario, stage);
	} catch (error) {
		throw new Error(`${fault.name}: ${String(error)}\n${failure?.code}: ${failure?.message}\n${requests.join('\n')}`);
	}
	await tearDown(stage);
	return failure?.code ?? 'done';
}

/** It says what and where; and what is there is never called absent. */
function assertClear({ code, message }: Failure): void {
	// A conflict: evict leaves a local copy whose object is not there any more when it is read.
	expect(code).to.be.oneOf(['store-unreachable', 'store-refused', 'source-changed', 'not-authentic', 'conflict']);
	expect(message).to.match(/d\/|e\/|s3:\/\/crash/);
	expect(OUTCOMES[code].exit, 'exit code').to.be.oneOf([1, 6]);
}
