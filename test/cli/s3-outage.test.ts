/** A real S3 server that dies while it is used, and comes back; and one whose clock is another than ours. */

import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { type S3Subject, s3StoreAt } from '../store/s3-subject.js';
import { type BuiltRoot, openBuilt } from '../support/built.js';
import { ended, makeRoot, s3proxy, startS3proxy } from '../support/cli.js';
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.js';
import { needs } from '../support/needs.ts';
import { send, serve, until } from '../support/serve.js';

const BUCKET = 'outage';
const CLOCK_OFF = fileURLToPath(new URL('../support/clock-off.js', import.meta.url));
/** Eight parts. */
const LARGE = randomBytes(40 * 2 ** 20);

describe('a real S3 server', function () {
	this.timeout(120_000);

	let subject: S3Subject;
	let proxy: FaultProxy;
	let root: string;
	let built: BuiltRoot;

	before(async function () {
		const started = await s3StoreAt(BUCKET);
		needs(this, started !== undefined, 'an S3 server');
		// `needs` has skipped the suite otherwise.
		if (started !== undefined) subject = started;
	});

	beforeEach(async () => {
		// Tells what is asked for.
		proxy = await startFaultProxy(subject.server.endpoint);
		const { region } = subject.server;
		const s3 = `{endpoint: "${proxy.endpoint}", region: ${region}, force_path_style: true, part_size: 5MiB, timeout: 2, attempts: 2}`;
		root = makeRoot({
			config: `encryption: true\nfsync: false\nlisten: 127.0.0.1:0\nstore: s3://${BUCKET}\ns3: ${s3}\n`,
		});
		built = await openBuilt(root);
		await built.ingest('d/large', LARGE);
		await built.ingest('d/small', 'small');
		await built.encrypt();
	});

	afterEach(async () => {
		await built.context.close();
		await proxy.stop();
	});

	const asks = (what: RegExp) => until(() => proxy.requests.some((request) => what.test(request)));
	const unfinished = async () => {
		const found: unknown[] = [];
		for await (const one of subject.open().listUnfinished('')) found.push(one);
		return found;
	};

	it('that is killed in the middle of an upload: exit code 6; the next run does the rest, and nothing stays behind', async () => {
		const upload = startS3proxy(root, ['upload', 'd/large']);
		const outcome = ended(upload);
		await asks(/^PUT .*partNumber=3/);
		await subject.server.kill();
		const { code, stderr } = await outcome;
		await subject.server.restart();
		expect(code, stderr).to.equal(6);
		expect(stderr)
			.to.contain(proxy.endpoint)
			.and.not.to.match(/^\s+at /m);
		await built.upload();
		await built.repair();
		expect(await unfinished()).to.deep.equal([]);
		rmSync(join(root, 'uploads'), { recursive: true });
		const { bytes } = await s3proxy(root, ['fetch', 'd/large', '--output', '-']);
		expect(bytes.equals(LARGE)).to.equal(true);
	});

	it('that is killed in the middle of a fetch: 503, never 404 or half of it; then it comes', async () => {
		await built.upload();
		rmSync(join(root, 'uploads'), { recursive: true });
		const { url } = await serve({ root });
		const cold = send(url, '/d/large');
		await asks(/^GET .*\/d\/large/);
		await subject.server.kill();
		for (const { status, headers, text } of [await cold, await send(url, '/d/large'), await send(url, '/d/small')]) {
			expect([status, headers['retry-after']], text).to.deep.equal([503, '10']);
		}
		await subject.server.restart();
		expect((await send(url, '/d/small')).text).to.equal('small');
		expect((await send(url, '/d/large')).body.equals(LARGE)).to.equal(true);
	});

	for (const [name, off] of [
		['an hour ahead', 3_600_000],
		['a day behind', -86_400_000],
	] as const) {
		it(`whose clock differs, as ours is ${name}: upload and fetch work`, async () => {
			const options = { node: ['--import', CLOCK_OFF], env: { CLOCK_OFF: String(off) } };
			const upload = await s3proxy(root, ['upload'], options);
			expect([upload.code, upload.stderr]).to.deep.equal([0, '']);
			rmSync(join(root, 'uploads'), { recursive: true });
			const fetched = await s3proxy(root, ['fetch', 'd/large', '--output', '-'], options);
			expect(fetched.code, fetched.stderr).to.equal(0);
			expect(fetched.bytes.equals(LARGE)).to.equal(true);
		});
	}
});
