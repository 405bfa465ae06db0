import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { addKey, keyId, makeDirectory, makeRoot, s3proxy, treeOf } from '../support/cli.ts';
import { needs } from '../support/needs.ts';
import { config, intercept, send, serve, serveHere, store } from '../support/serve.ts';

const S3_TO_NOWHERE = 's3: {endpoint: "http://127.0.0.1:1", region: us-east-1, attempts: 1, force_path_style: true}\n';
const CREDENTIALS = { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b', AWS_EC2_METADATA_DISABLED: 'true' };

describe('failures, as a client sees them', () => {
	it('an object that somebody changed: 502, logged, never served', async () => {
		const root = makeRoot({ config: config() });
		const { url, stop, log } = await serve({ root });
		await store(url, '/f', Buffer.alloc(200_000, 'x'));
		for (const stage of ['encrypt', 'upload']) await s3proxy(root, [stage]);
		const object = join(root, 'bucket', keyId(root), 'f');
		const bytes = readFileSync(object);
		bytes[bytes.length - 20] = (bytes[bytes.length - 20] ?? 0) ^ 1;
		writeFileSync(object, bytes);
		rmSync(join(root, 'uploads/f'));
		for (const headers of [{}, { 'S3proxy-Edge': '1' }]) {
			const answer = await send(url, '/f', { headers });
			expect([answer.status, answer.headers['s3proxy-state']], answer.text).to.deep.equal([502, undefined]);
		}
		expect(treeOf(root, 'uploads')).to.deep.equal([]);
		await stop();
		expect(log()).to.match(/^error: .*request=GET \/f status=502$/m);
		expect(log()).not.to.match(/^ {4}at /m);
	});

	it('a store that cannot be reached: 503 and Retry-After; POST works on', async () => {
		const root = makeRoot({ config: config(S3_TO_NOWHERE, 's3://bucket') });
		const { url, stop, log } = await serve({ root, env: CREDENTIALS });
		expect((await store(url, '/f', 'x')).status).to.equal(201);
		for (const headers of [{}, { 'S3proxy-Edge': '1' }]) {
			const { status, headers: said, text } = await send(url, '/not/here', { headers });
			expect([status, said['retry-after'], said['cache-control']], text).to.deep.equal([503, '10', 'no-store']);
			expect(said).not.to.have.property('s3proxy-state');
		}
		expect((await send(url, '/f')).text).to.equal('x');
		await stop();
		expect(log()).to.match(/^error: .*status=503$/m);
		expect(treeOf(root, 'locks')).to.deep.equal(['f']);
	});

	it('a disk that is full: 507, and the staging is gone', async function () {
		const root = makeDirectory();
		const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', root]).status === 0;
		needs(this, mounted, 'the right to mount');
		try {
			writeFileSync(join(root, 'config.yaml'), config());
			addKey(root, 'private_key');
			const { url, stop, log } = await serve({ root });
			const { status, text } = await store(url, '/large/f', Buffer.alloc(4_000_000));
			expect(status, text).to.equal(507);
			expect(text).to.match(/no space left.*nothing half-written was kept\.\n$/);
			expect([treeOf(root, 'uploading'), treeOf(root, 'uploads')]).to.deep.equal([[], []]);
			expect((await store(url, '/small', 'x')).status).to.equal(201);
			await stop();
			expect(log()).to.match(/^error: .*status=507$/m);
		} finally {
			spawnSync('umount', [root]);
		}
	});

	it('a file that cannot be read: 500, and the reason', async function () {
		if (process.getuid?.() === 0) this.skip();
		const root = makeRoot({ config: config() });
		const { url, stop } = await serve({ root });
		await store(url, '/f', 'x');
		chmodSync(join(root, 'uploads/f'), 0);
		expect((await send(url, '/f')).status).to.equal(500);
		await stop();
	});

	it('a symlink in uploads/ is not followed: 409', async () => {
		const root = makeRoot({ config: config() });
		const { url, stop } = await serve({ root });
		mkdirSync(join(root, 'uploads'), { recursive: true });
		spawnSync('ln', ['-s', '/etc', join(root, 'uploads/etc')]);
		spawnSync('ln', ['-s', '/etc/passwd', join(root, 'uploads/passwd')]);
		for (const target of ['/etc/passwd', '/passwd']) {
			expect((await send(url, target)).status).to.equal(409);
			expect((await store(url, target, 'x')).status).to.equal(409);
		}
		await stop();
	});

	it('a bug of ours: 500 without details', async () => {
		const { url, stop } = await serveHere(makeRoot({ config: config() }), {
			wrap: (inner) => intercept(inner, { head: () => Promise.reject(new TypeError('secret detail')) }),
		});
		const { status, text } = await send(url, '/f');
		expect([status, text]).to.deep.equal([500, 'internal error\n']);
		await stop();
	});
});
