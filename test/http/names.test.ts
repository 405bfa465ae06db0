import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { makeRoot, treeOf } from '../support/cli.ts';
import { config, type Served, send, serve, store } from '../support/serve.ts';

describe('POST and GET by name', () => {
	let served: Served;
	let url: string;

	before(async () => {
		served = await serve();
		url = served.url;
	});

	const stored = (path: string) => readFileSync(join(served.root, 'uploads', path), 'utf8');

	describe('names', () => {
		const accepted: readonly (readonly [target: string, path: string])[] = [
			['/with%20space', 'with space'],
			['/per%25cent', 'per%cent'],
			['/plus+plus', 'plus+plus'],
			['/and&and', 'and&and'],
			['/hash%23hash', 'hash#hash'],
			['/question%3Fmark', 'question?mark'],
			['/query?x=1', 'query'],
			["/quotes%22'", 'quotes"\''],
			['/%F0%9F%98%80', '😀'],
			['/e%CC%81', 'e\u0301'],
			['/%C3%A9', '\u00e9'],
			['//double///slash/', 'double/slash'],
			['http://somewhere.example/absolute/form', 'absolute/form'],
			['/Gemfile', 'Gemfile'],
			['/Gemfile.lock', 'Gemfile.lock'],
			['/constructor/__proto__', 'constructor/__proto__'],
			[`/${'c'.repeat(250)}`, 'c'.repeat(250)],
			[`/${`${'d'.repeat(195)}/`.repeat(5)}`, 'd'.repeat(195).concat('/').repeat(5).slice(0, -1)],
		];
		for (const [target, path] of accepted) {
			it(`${target.slice(0, 60)} is one, and its Location leads back to it`, async () => {
				const answer = await store(url, target, path);
				expect(answer.text).to.equal(`saved ${path} (${Buffer.byteLength(path)} bytes)\n`);
				expect(stored(path)).to.equal(path);
				expect(answer.headers.location).to.match(
					/^\/(?:[\w.~!$&'()*+,;=:@/-]|%(?!24|26|2B|2C|3A|3B|3D|40)[0-9A-F]{2})+$/,
				);
				expect((await send(url, answer.headers.location ?? '')).text).to.equal(path);
			});
		}

		const path981 = `${'p'.repeat(240)}/`.repeat(4).concat('q'.repeat(17));
		const path980 = path981.slice(0, -1);
		it('a path of 980 bytes is one, of 981 none', async () => {
			expect([path980.length, path981.length]).to.deep.equal([980, 981]);
			expect((await store(url, `/${path980}`, '')).status).to.equal(201);
			expect((await store(url, `/${path981}`, '')).status).to.equal(400);
		});

		const refused = [
			'/',
			'//',
			'/.',
			'/../x',
			'/a/../b',
			'/a/%2e%2e/b',
			'/a/./b',
			'/%2E',
			'/a%2Fb',
			'/a%2fb',
			'/a%00b',
			'/a%0Ab',
			'/a%7F',
			'/a%5Cb',
			'/%ff',
			'/a%',
			'/a%4',
			'/a%zz',
			'/x-iv',
			'/.s3proxy-1',
			'/a/.s3proxy-b/c',
			`/${'c'.repeat(251)}`,
			'*',
		];
		for (const target of refused) {
			it(`${target.slice(0, 60)} is none: 400, for POST and GET`, async () => {
				const before = treeOf(served.root, 'locks');
				for (const answer of [await store(url, target, 'x'), await send(url, target)]) {
					expect(answer.status).to.equal(400);
					expect(answer.text).to.match(/^bad path .*\n$/);
				}
				expect(treeOf(served.root, 'locks')).to.deep.equal(before);
			});
		}
	});

	describe('conflicts', () => {
		for (const [first, second] of [
			['/k1', '/k1/b'],
			['/k2/b', '/k2'],
			['/k3', '/k3-iv/b'],
		] as const) {
			it(`${second} after ${first}: 409, and nothing is left of it`, async () => {
				await store(url, first, 'first');
				const before = treeOf(served.root, 'uploading');
				const { status, text } = await store(url, second, 'second');
				expect(status, text).to.equal(409);
				expect((await send(url, first)).text).to.equal('first');
				expect(treeOf(served.root, 'uploading')).to.deep.equal(before);
			});
		}

		it('an artifact that exists, with overwrite: false: 409 before the body', async () => {
			const { url: other, stop } = await serve({ root: makeRoot({ config: config('overwrite: false\n') }) });
			expect((await store(other, '/a', 'first')).status).to.equal(201);
			expect((await store(other, '/a', 'second')).status).to.equal(409);
			expect((await send(other, '/a')).text).to.equal('first');
			await stop();
		});
	});
});
