import { rmSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { s3proxy } from '../support/cli.ts';
import { type Edge, needsEdge, Readers, replaced, sharedEdge, startEdge } from '../support/edge.ts';
import { LONG } from '../support/extent.ts';
import { HeldProxy } from '../support/held-proxy.ts';
import { send, store, until } from '../support/serve.ts';

const ROUNDS = LONG ? 500 : 40;
const READERS = 8;
const LINE = 64;

/** Every version has the same length, so that time and size alone do not tell two of them apart. */
function version(number: number, bytes = 4096): string {
	return `version ${number}`
		.padEnd(LINE - 1)
		.concat('\n')
		.repeat(bytes / LINE);
}

/** The number of the version; fails when the content is not one version from its first to its last byte. */
function versionOf(text: string): number {
	const number = Number(/^version (\d+) /.exec(text)?.[1]);
	expect(text === version(number, text.length), `one version, whole: ${text.slice(0, 200)}`).to.equal(true);
	return number;
}

/** Overwrites `target` again and again while others read it. @returns how often they did */
async function overwriteLoop(edge: Edge, target: string, bytes?: number): Promise<number> {
	let acknowledged = 0;
	let [old, others] = [0, 0];
	expect((await store(edge.url, target, version(0, bytes))).status).to.equal(201);
	const readers = new Readers(READERS, {
		url: edge.url,
		target,
		mark: () => acknowledged,
		onRead: ({ status, text }, mark) => {
			if (status !== 200) others++;
			else if (versionOf(text) < mark) old++;
		},
	});
	try {
		for (let round = 1; round <= ROUNDS; round++) {
			const { status, text } = await store(edge.url, target, version(round, bytes));
			expect(status, text).to.equal(201);
			acknowledged = round;
			expect(versionOf((await send(edge.url, target)).text)).to.equal(round);
		}
		await until(() => readers.reads >= ROUNDS * READERS || readers.failure !== undefined);
	} finally {
		await readers.stop();
	}
	process.stdout.write(`      ${target}: ${ROUNDS} overwrites, ${readers.reads} reads, ${old} of them old\n`);
	expect([old, others]).to.deep.equal([0, 0]);
	return readers.reads;
}

describe('after the answer to a POST nobody sees the old content', () => {
	let edge: Edge;

	before(async function () {
		await needsEdge(this);
		edge = await sharedEdge();
	});

	it('with eight readers', async function () {
		this.timeout(600_000);
		await overwriteLoop(edge, '/overwritten');
	});

	it('with eight readers, and nginx slower than the POSTs', async function () {
		this.timeout(600_000);
		const proxy = new HeldProxy();
		// Old content is on its way for longer than an overwrite takes.
		let asked = 0;
		proxy.hold = (answer) => new Promise((resolve) => setTimeout(() => resolve(answer), (asked++ * 7) % 40));
		const slow = await startEdge({ beforeNginx: (port) => proxy.listen(port) });
		await overwriteLoop(slow, '/overwritten');
		await slow.stop();
		await proxy.stop();
	});

	it('with eight readers, of a large artifact that is piped', async function () {
		this.timeout(600_000);
		const small = await startEdge({ vcl: (text) => replaced(text, '> 8MB', '> 32KB') });
		await overwriteLoop(small, '/piped', 64 * 1024);
		expect(small.counter('MAIN.s_pipe')).to.be.greaterThan(ROUNDS);
		await small.stop();
	});

	it('also when it becomes large, and small again', async () => {
		const edges = await startEdge({ vcl: (text) => replaced(text, '> 8MB', '> 32KB') });
		for (const [number, bytes] of [4096, 65_536, 4096, 65_536, 65_536, 4096].entries()) {
			await store(edges.url, '/f', version(number, bytes));
			const { text } = await send(edges.url, '/f');
			expect([text.length, versionOf(text)]).to.deep.equal([bytes, number]);
		}
		await edges.stop();
	});

	it('a GET that has the old content and is not answered yet holds up the answer to the POST', async () => {
		const proxy = new HeldProxy();
		const slow = await startEdge({ beforeNginx: (port) => proxy.listen(port) });
		await store(slow.url, '/f', version(1));
		let release: () => void = () => undefined;
		let isHeld = false;
		proxy.hold = async (answer, target) => {
			if (target === '/f' && !isHeld) {
				isHeld = true;
				await new Promise<void>((resolve) => {
					release = resolve;
				});
			}
			return answer;
		};
		const reading = send(slow.url, '/f');
		await until(() => isHeld);
		let isAnswered = false;
		const storing = store(slow.shim.url, '/other', 'x').then(() =>
			store(slow.url, '/f', version(2)).finally(() => {
				isAnswered = true;
			}),
		);
		// s3proxy has it: whoever asks it sees the new one. Varnish waits.
		await until(async () => versionOf((await send(slow.shim.url, '/f')).text) === 2);
		expect(isAnswered).to.equal(false);
		release();
		expect((await storing).status).to.equal(201);
		expect(versionOf((await reading).text)).to.equal(1);
		expect(versionOf((await send(slow.url, '/f')).text)).to.equal(2);
		await slow.stop();
		await proxy.stop();
	});

	it('also when the clock is set back: the version before lies in the future', async () => {
		await store(edge.url, '/future', version(1));
		const tomorrow = Date.now() / 1000 + 86_400;
		utimesSync(join(edge.root, 'uploads/future'), tomorrow, tomorrow);
		await send(edge.url, '/future', { method: 'PURGE' });
		const { etag = '', 'last-modified': modified = '' } = (await send(edge.url, '/future')).headers;
		expect((await store(edge.url, '/future', version(2))).status).to.equal(201);
		for (const headers of [{}, { 'If-None-Match': etag }, { 'If-Modified-Since': modified }]) {
			const { status, text } = await send(edge.url, '/future', { headers });
			expect([status, versionOf(text)]).to.deep.equal([200, 2]);
		}
	});

	it('a version of the same length, a moment later, is another one to conditional requests', async () => {
		await store(edge.url, '/quick', version(1));
		for (let round = 2; round <= 6; round++) {
			const { etag = '', 'last-modified': modified = '' } = (await send(edge.url, '/quick')).headers;
			await store(edge.url, '/quick', version(round));
			for (const headers of [{ 'If-None-Match': etag }, { 'If-Modified-Since': modified }]) {
				expect(versionOf((await send(edge.url, '/quick', { headers })).text)).to.equal(round);
			}
		}
	});

	it('the answer to a POST has everything that s3proxy said', async () => {
		const sha256 = '6e9f3bcd8ce5d5a2f8b9e7a5e6d3a9c1f6e0b8f8f1a7f1a4f5f5c6d7e8f9a0b1';
		const wrong = await store(edge.url, '/said', 'x', { name: 'sha256', content: sha256 });
		expect([wrong.status, wrong.headers['content-type']]).to.deep.equal([422, 'text/plain; charset=utf-8']);
		const right = '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881';
		const { status, headers, text } = await store(edge.url, '/said', 'x', { name: 'sha256', content: right });
		expect([status, headers.location, text]).to.deep.equal([201, '/said', `saved said (1 bytes, sha256 ${right})\n`]);
		expect(headers['repr-digest']).to.equal(`sha-256=:${Buffer.from(right, 'hex').toString('base64')}:`);
		expect(Object.keys(headers).filter((name) => /^(s3proxy|x-varnish|via)/.test(name))).to.deep.equal([]);
	});
});

describe('what does not pass Varnish', () => {
	let edge: Edge;

	before(async function () {
		await needsEdge(this);
		edge = await sharedEdge();
	});

	it('an ingest on the command line is seen at once', async () => {
		await store(edge.url, '/cli%20%C3%A9', version(1));
		expect(versionOf((await send(edge.url, '/cli%20%C3%A9')).text)).to.equal(1);
		const { code, stderr } = await s3proxy(edge.root, ['ingest', '-', 'cli é'], { stdin: version(2) });
		expect([code, stderr]).to.deep.equal([0, '']);
		expect(versionOf((await send(edge.url, '/cli%20%C3%A9')).text)).to.equal(2);
	});

	it('a POST to s3proxy itself is seen at once', async () => {
		await store(edge.url, '/direct', version(1));
		await send(edge.url, '/direct');
		expect((await store(edge.shim.url, '/direct', version(2))).status).to.equal(201);
		expect(versionOf((await send(edge.url, '/direct')).text)).to.equal(2);
	});

	it('a name that the edge refuses needs no purge', async () => {
		const { code, stderr } = await s3proxy(edge.root, ['ingest', '-', 'a/.hidden'], { stdin: 'x' });
		expect([code, stderr]).to.deep.equal([0, '']);
	});

	it('a Varnish that cannot be reached is a warning: the artifact is stored', async () => {
		const gone = await startEdge();
		await gone.stopVarnish();
		const { code, stdout, stderr } = await s3proxy(gone.root, ['ingest', '-', 'f'], { stdin: 'x' });
		expect([code, stdout]).to.deep.equal([0, 'saved f (1 byte)\n']);
		expect(stderr).to.match(
			/^warn: could not purge f from Varnish at http:\/\/127\.0\.0\.1:\d+: .*ECONNREFUSED.*some minutes\. .*varnish: in config\.yaml\.\n$/,
		);
		expect((await store(gone.shim.url, '/g', 'x')).status).to.equal(201);
		expect(gone.shim.log()).to.match(/^warn: could not purge g from Varnish/m);
		await gone.stop();
	});

	it('a Varnish that hangs is one after ten seconds; the purge reaches it when it goes on', async function () {
		this.timeout(120_000);
		const hung = await startEdge();
		await store(hung.url, '/f', version(1));
		await send(hung.url, '/f');
		hung.signal('varnish', 'SIGSTOP');
		try {
			const ingest = s3proxy(hung.root, ['ingest', '-', 'f'], { stdin: version(2) });
			const [{ code, stderr }, { status }] = await Promise.all([ingest, store(hung.shim.url, '/g', version(1))]);
			expect([code, status]).to.deep.equal([0, 201]);
			for (const [log, name] of [
				[stderr, 'f'],
				[hung.shim.log(), 'g'],
			]) {
				expect(log).to.match(
					new RegExp(`^warn: could not purge ${name} from Varnish .*: no answer in 10 s\\. The artifact is safe`, 'm'),
				);
			}
		} finally {
			hung.signal('varnish', 'SIGCONT');
		}
		await until(async () => versionOf((await send(hung.url, '/f')).text) === 2);
		expect(versionOf((await send(hung.url, '/g')).text)).to.equal(1);
		await hung.stop();
	});

	it('something else than our Varnish at that address is a warning, too', async () => {
		const edges = await startEdge({
			vcl: (text) => replaced(text, '"127.0.0.0"/8;\n\t"::1";\n}\n\n# The largest', '"192.0.2.1";\n}\n\n# The largest'),
		});
		const { code, stderr } = await s3proxy(edges.root, ['ingest', '-', 'f'], { stdin: 'x' });
		expect(code).to.equal(0);
		expect(stderr).to.match(/^warn: could not purge f .*: it answered with status 405\./);
		await edges.stop();
	});

	it('a purge of what is not cached, or not there at all, is as good', async () => {
		rmSync(join(edge.root, 'uploads/nothing'), { force: true });
		for (const target of ['/nothing', '/nothing']) {
			expect((await send(edge.url, target, { method: 'PURGE' })).text).to.equal('purged /nothing\n');
		}
	});
});
