import { expect } from 'chai';
import { treeOf } from '../support/cli.ts';
import { send, serve, store } from '../support/serve.ts';

const PROBE = '/.s3proxy-health';

describe('the health of the service', () => {
	it('is told to GET and HEAD, never cached, and leaves nothing', async () => {
		const { url, root, stop } = await serve();
		const got = await send(url, PROBE);
		expect([got.status, got.text, got.headers['cache-control']]).to.deep.equal([200, 'ok\n', 'no-store']);
		expect((await send(url, PROBE, { method: 'HEAD' })).status).to.equal(200);
		expect((await send(url, PROBE, { headers: { 'S3proxy-Edge': '1' } })).status).to.equal(200);
		expect(treeOf(root, 'uploads')).to.deep.equal([]);
		await stop();
	});

	it('has a name that no artifact can have', async () => {
		const { url, stop } = await serve();
		expect((await store(url, PROBE, 'x')).status).to.equal(400);
		expect((await send(url, `${PROBE}/x`)).status).to.equal(400);
		await stop();
	});
});
