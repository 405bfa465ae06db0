import { chmodSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { s3proxy } from '../support/cli.ts';
import { type Edge, needsEdge, replaced, startEdge } from '../support/edge.ts';
import { LONG } from '../support/extent.ts';
import { HeldProxy } from '../support/held-proxy.ts';
import { postHead, raw, send, store, until } from '../support/serve.ts';

/** An answer of Varnish's own: one line, not cached, with a time to come back. */
async function isUnavailable(edge: Edge, target: string, line: RegExp): Promise<void> {
	const { status, headers, text } = await send(edge.url, target);
	expect([status, headers['content-type'], headers['cache-control']], text).to.deep.equal([
		503,
		'text/plain; charset=utf-8',
		'no-store',
	]);
	expect(Number(headers['retry-after'])).to.be.greaterThan(0);
	expect(text).to.match(line);
}

describe('failures behind the edge', () => {
	let edge: Edge;

	before(async function () {
		await needsEdge(this);
		edge = await startEdge();
		for (const name of ['hot', 'stored', 'stored-2', 'stored-3']) await store(edge.url, `/${name}`, name);
		await send(edge.url, '/hot');
	});

	after(() => edge?.stop());

	it('s3proxy is down: what is here is served, the rest and POST get 503 at once; then it is back', async function () {
		this.timeout(120_000);
		await edge.shim.stop();
		expect((await send(edge.url, '/hot')).text).to.equal('hot');
		expect((await send(edge.url, '/stored')).text).to.equal('stored');
		await isUnavailable(edge, '/absent', /^s3proxy does not answer\. Try again\.\n$/);
		await edge.untilBackend('shim', 'sick');
		await isUnavailable(edge, '/absent-2', /^s3proxy does not answer\. Try again\.\n$/);
		// Of what is sent, nothing is read.
		const { all } = await raw(edge.url, postHead('/hot', 20_000_000));
		expect(await all).to.match(/^HTTP\/1\.1 503 .*s3proxy does not answer; nothing was stored\. Try again\.\n$/s);
		await edge.startShim();
		await edge.untilBackend('shim', 'healthy');
		expect((await store(edge.url, '/hot', 'hot again')).status).to.equal(201);
		expect((await send(edge.url, '/hot')).text).to.equal('hot again');
	});

	it('s3proxy hangs: what is here is served, the rest gets 503 when the probe has noticed; then it goes on', async function () {
		this.timeout(120_000);
		await store(edge.url, '/hot', 'hot');
		const { child } = edge.shim;
		child.kill('SIGSTOP');
		try {
			expect((await send(edge.url, '/hot')).text).to.equal('hot');
			expect((await send(edge.url, '/stored-2')).text).to.equal('stored-2');
			await edge.untilBackend('shim', 'sick');
			await isUnavailable(edge, '/absent-3', /^s3proxy does not answer\. Try again\.\n$/);
			expect((await store(edge.url, '/hot', 'x')).status).to.equal(503);
		} finally {
			child.kill('SIGCONT');
		}
		await edge.untilBackend('shim', 'healthy');
		expect((await send(edge.url, '/absent-4')).status).to.equal(404);
		expect((await send(edge.url, '/hot')).text).to.equal('hot');
	});

	it('nginx is down: what is cached is served, the rest gets 503, POST works; then it is back', async function () {
		this.timeout(120_000);
		await store(edge.url, '/hot', 'hot');
		await send(edge.url, '/hot');
		await edge.stopNginx();
		expect((await send(edge.url, '/hot')).text).to.equal('hot');
		await isUnavailable(edge, '/stored-3', /^nginx does not answer\. Try again\.\n$/);
		expect((await store(edge.url, '/meanwhile', 'x')).status).to.equal(201);
		await edge.startNginx();
		await edge.untilBackend('nginx', 'healthy');
		for (const [target, text] of [
			['/stored-3', 'stored-3'],
			['/meanwhile', 'x'],
		]) {
			await until(async () => (await send(edge.url, target ?? '')).status === 200);
			expect((await send(edge.url, target ?? '')).text).to.equal(text);
		}
	});

	it('nginx hangs: what is cached is served, the rest gets 503, POST works; then it goes on', async function () {
		this.timeout(120_000);
		for (const name of ['/hot', '/not-cached']) await store(edge.url, name, name);
		await send(edge.url, '/hot');
		edge.signal('nginx', 'SIGSTOP');
		try {
			expect((await send(edge.url, '/hot')).text).to.equal('/hot');
			await edge.untilBackend('nginx', 'sick');
			await isUnavailable(edge, '/not-cached', /^nginx does not answer\. Try again\.\n$/);
			expect((await store(edge.url, '/while-it-hangs', 'x')).status).to.equal(201);
		} finally {
			edge.signal('nginx', 'SIGCONT');
		}
		await edge.untilBackend('nginx', 'healthy');
		for (const target of ['/not-cached', '/while-it-hangs']) {
			await until(async () => (await send(edge.url, target)).status === 200);
		}
		expect((await send(edge.url, '/while-it-hangs')).text).to.equal('x');
	});

	it('nginx may not read uploads/, or an artifact: the answer says so', async function () {
		this.timeout(120_000);
		for (const name of ['/closed/dir', '/closed-file']) await store(edge.url, name, 'x');
		chmodSync(join(edge.root, 'uploads/closed'), 0o700);
		chmodSync(join(edge.root, 'uploads/closed-file'), 0o600);
		for (const name of ['/closed/dir', '/closed-file']) {
			await isUnavailable(edge, name, /nginx does not find it.*nginx's user may not read uploads\//);
		}
		expect(edge.nginxLog()).to.match(
			/closed\/dir" failed \(13: Permission denied\)[\s\S]*closed-file" failed \(13: Permission denied\)/,
		);
		chmodSync(join(edge.root, 'uploads/closed'), 0o755);
		chmodSync(join(edge.root, 'uploads/closed-file'), 0o644);
		for (const name of ['/closed/dir', '/closed-file']) {
			await until(async () => (await send(edge.url, name)).status === 200);
		}
	});

	it("the store is down: what is here is served, the rest gets 503 with s3proxy's words, POST works", async function () {
		this.timeout(120_000);
		const s3 = 's3: {endpoint: "http://127.0.0.1:1", region: us-east-1, attempts: 1, force_path_style: true}\n';
		const env = { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b', AWS_EC2_METADATA_DISABLED: 'true' };
		const cut = await startEdge({ config: `store: s3://bucket\nfsync: false\n${s3}`, env });
		expect((await store(cut.url, '/f', 'x')).status).to.equal(201);
		expect((await send(cut.url, '/f')).text).to.equal('x');
		const answers = await Promise.all(Array.from({ length: 20 }, () => send(cut.url, '/absent')));
		for (const { status, headers, text } of answers) {
			expect([status, headers['retry-after']], text).to.deep.equal([503, '10']);
			expect(text).to.match(/^HEAD s3:\/\/bucket\/[^\n]+\n$/);
		}
		expect((await store(cut.url, '/absent', 'here')).status).to.equal(201);
		expect((await send(cut.url, '/absent')).text).to.equal('here');
		await cut.stop();
	});

	it('what is too old is served on while a newer copy cannot be had, and replaced when it can', async function () {
		this.timeout(120_000);
		const proxy = new HeldProxy();
		const aged = await startEdge({
			beforeNginx: (port) => proxy.listen(port),
			vcl: (text) => replaced(text, 'beresp.ttl = 10m', 'beresp.ttl = 0.01s'),
		});
		await store(aged.url, '/f', 'x');
		expect((await send(aged.url, '/f')).text).to.equal('x');
		let failed = 0;
		proxy.hold = async (answer, target) => {
			if (target !== '/f') return answer;
			failed++;
			return { ...answer, status: 500, body: Buffer.alloc(answer.body.length) };
		};
		while (failed < 3) expect((await send(aged.url, '/f')).text).to.equal('x');
		expect((await send(aged.url, '/f')).text).to.equal('x');
		proxy.hold = async (answer) => answer;
		const body = () => send(aged.url, '/f').then(({ text }) => text);
		expect(await body()).to.equal('x');
		expect((await store(aged.url, '/f', 'y')).status).to.equal(201);
		expect(await body()).to.equal('y');
		await aged.stopNginx();
		expect(await body()).to.equal('y');
		await aged.stop();
		await proxy.stop();
	});
});

describe('a restart under load', () => {
	for (const part of ['s3proxy', 'nginx', 'varnish'] as const) {
		it(`of ${part} loses nothing that was acknowledged, and nobody gets a wrong byte`, async function () {
			this.timeout(180_000);
			await needsEdge(this);
			const edge = await startEdge();
			const acknowledged = new Map<string, string>();
			let [isOver, wrong, served, refused] = [false, 0, 0, 0];
			const contentOf = (name: string, round: number) => `${name} ${round} `.repeat(2000);
			const writer = async (name: string) => {
				for (let round = 0; !isOver; round++) {
					const content = contentOf(name, round);
					const answer = await store(edge.url, `/${name}`, content).catch(() => undefined);
					if (answer?.status === 201) acknowledged.set(name, content);
					// It may have been stored or not: only what is acknowledged next is known.
					else acknowledged.delete(name);
				}
			};
			const reader = async (name: string) => {
				while (!isOver) {
					const answer = await send(edge.url, `/${name}`).catch(() => undefined);
					if (answer?.status !== 200) {
						refused++;
						continue;
					}
					served++;
					const round = Number(/^\S+ (\d+) /.exec(answer.text)?.[1]);
					if (answer.text !== contentOf(name, round)) wrong++;
				}
			};
			const names = ['a', 'b', 'c', 'd'];
			const load = names.flatMap((name) => [writer(name), reader(name)]);
			for (let restart = 0; restart < (LONG ? 5 : 1); restart++) {
				const before = served;
				await until(() => served > before + 50);
				if (part === 's3proxy') {
					await edge.shim.stop();
					await edge.startShim();
				} else if (part === 'nginx') {
					await edge.stopNginx();
					await edge.startNginx();
				} else {
					await edge.stopVarnish();
					await edge.startVarnish();
				}
				const after = served;
				await until(() => served > after + 50 && acknowledged.size === names.length);
			}
			isOver = true;
			await Promise.all(load);
			for (const [name, content] of acknowledged) {
				await until(async () => (await send(edge.url, `/${name}`)).status === 200);
				expect((await send(edge.url, `/${name}`)).text).to.equal(content);
			}
			process.stdout.write(`      ${part}: ${served} reads, ${refused} refused, ${wrong} wrong\n`);
			expect(wrong).to.equal(0);
			await edge.stop();
		});
	}
});

describe('what an operator may get wrong', () => {
	it('the port of s3proxy is in use: serve says which, and what to do', async function () {
		await needsEdge(this);
		const edge = await startEdge();
		const { code, stderr } = await s3proxy(edge.root, ['serve']);
		expect(code).to.equal(3);
		expect(stderr).to.match(/cannot listen on 127\.0\.0\.1:\d+: .*\nAnother process listens there already/);
		rmSync(join(edge.root, 'uploads'), { recursive: true, force: true });
		await edge.stop();
	});
});
