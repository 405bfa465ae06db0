/** What every store promises, told as tests. */

import { expect } from 'chai';
import { S3proxyError } from '../../src/errors.js';
import type { ObjectStore } from '../../src/store/object-store.js';
import { bytes, collect, failingSource, MEBIBYTE, readAll, sourceOf, thrownBy } from './sources.js';

export interface Subject {
	readonly store: ObjectStore;
	/** The size up to which an object is put whole. */
	readonly partSize: number;
}

/** @param open called once before the tests; undefined: they are skipped */
export function describeStore(name: string, open: () => Promise<Subject | undefined>): void {
	describe(name, function () {
		this.timeout(30_000);
		let subject: Subject;
		let store: ObjectStore;
		let serial = 0;
		/** A key that no other test uses. */
		const fresh = (name = 'object') => `${(++serial).toString().padStart(40, '0')}/${name}`;

		before(async function () {
			this.timeout(600_000);
			const opened = await open();
			if (opened === undefined) return this.skip();
			subject = opened;
			store = subject.store;
		});

		afterEach('nothing unfinished is left', async () => {
			if (store !== undefined) expect(await collect(store.listUnfinished(''))).to.deep.equal([]);
		});

		after(() => store?.close());

		const partSize = 5 * MEBIBYTE;
		for (const size of [0, 1, 70_000, partSize - 1, partSize, partSize + 1, 3 * partSize + 1]) {
			it(`gives back what was put: ${size} bytes`, async () => {
				expect(subject.partSize).to.equal(partSize);
				const key = fresh();
				const content = bytes(size, size);
				let reached = 0;
				expect(await store.put(key, sourceOf(content), { onBytes: (count) => (reached += count) })).to.equal(true);
				expect(reached).to.equal(size);
				expect((await readAll(await store.get(key)))?.equals(content)).to.equal(true);
				const head = await store.head(key);
				expect(head).to.include({ key, size });
				expect(head?.lastModified).to.be.closeTo(Date.now(), 60_000);
			});
		}

		it('knows nothing of what was never put', async () => {
			const key = fresh();
			expect(await store.head(key)).to.equal(undefined);
			expect(await store.get(key)).to.equal(undefined);
			expect(await store.get(key, { range: { start: 0, end: 0 }, ifMatch: '"none"' })).to.equal(undefined);
			expect(await collect(store.list(key))).to.deep.equal([]);
			await store.delete(key);
		});

		it('does not find an object below another, or above one', async () => {
			const key = fresh('a/b');
			await store.put(key, sourceOf(bytes(3)));
			for (const other of [`${key}/c`, key.slice(0, -2)]) {
				expect(await store.head(other)).to.equal(undefined);
				expect(await store.get(other)).to.equal(undefined);
				await store.delete(other);
			}
			expect(await store.head(key)).to.include({ size: 3 });
		});

		for (const size of [10, partSize + 1]) {
			it(`keeps metadata: ${size} bytes`, async () => {
				const key = fresh();
				const metadata = { 's3proxy-format': '1', 's3proxy-mtime': '1700000000000', 'x-y': 'a b' };
				await store.put(key, sourceOf(bytes(size)), { metadata });
				expect((await store.head(key))?.metadata).to.deep.equal(metadata);
				await store.put(key, sourceOf(bytes(size, 2)));
				expect((await store.head(key))?.metadata).to.deep.equal({});
			});
		}

		it('gives ranges', async () => {
			const key = fresh();
			const content = bytes(partSize + 1000);
			await store.put(key, sourceOf(content));
			const last = content.length - 1;
			for (const [start, end] of [
				[0, 0],
				[0, last],
				[last, last],
				[partSize - 1, partSize],
				[1, 300_000],
			] as const) {
				const part = await readAll(await store.get(key, { range: { start, end } }));
				expect(part?.equals(content.subarray(start, end + 1)), `${start}-${end}`).to.equal(true);
			}
		});

		for (const [start, end] of [
			[10, 10],
			[9, 10],
			[100, 200],
		] as const) {
			it(`refuses bytes ${start}-${end} of 10`, async () => {
				const key = fresh();
				await store.put(key, sourceOf(bytes(10)));
				const error = await thrownBy(() => store.get(key, { range: { start, end } }));
				expect(error).to.be.instanceOf(S3proxyError).with.property('code', 'store-refused');
			});
		}

		it('gives a version, or nothing once it is replaced or removed', async () => {
			const key = fresh();
			await store.put(key, sourceOf(bytes(100, 1)));
			const ifMatch = (await store.head(key))?.etag ?? '';
			expect((await readAll(await store.get(key, { ifMatch })))?.equals(bytes(100, 1))).to.equal(true);
			expect(await readAll(await store.get(key, { ifMatch, range: { start: 1, end: 2 } }))).to.have.length(2);
			await store.put(key, sourceOf(bytes(100, 2)));
			expect(await store.get(key, { ifMatch })).to.equal(undefined);
			expect(await store.get(key, { ifMatch, range: { start: 0, end: 1 } })).to.equal(undefined);
			await store.delete(key);
			expect(await store.get(key, { ifMatch })).to.equal(undefined);
		});

		it('lists the etag that head gives', async () => {
			const key = fresh();
			await store.put(key, sourceOf(bytes(100)));
			const head = await store.head(key);
			const [listed] = await collect(store.list(key));
			expect(listed).to.include({ key, size: 100, etag: head?.etag });
		});

		for (const size of [100, partSize + 1]) {
			it(`puts only if absent: ${size} bytes`, async () => {
				const key = fresh();
				expect(await store.put(key, sourceOf(bytes(size, 1)), { onlyIfAbsent: true })).to.equal(true);
				expect(await store.put(key, sourceOf(bytes(size, 2)), { onlyIfAbsent: true })).to.equal(false);
				expect(await store.put(key, sourceOf(bytes(size, 1)), { onlyIfAbsent: true })).to.equal(false);
				expect((await readAll(await store.get(key)))?.equals(bytes(size, 1))).to.equal(true);
			});
		}

		it('lets one of 16 puts at once win, and keeps what that one put', async () => {
			const key = fresh();
			const put = (_: unknown, seed: number) =>
				store.put(key, sourceOf(bytes(1000, seed)), { onlyIfAbsent: true, metadata: { seed: String(seed) } });
			const won = await Promise.all(Array.from({ length: 16 }, put));
			expect(won.filter((one) => one)).to.have.length(1);
			const seed = won.indexOf(true);
			expect((await readAll(await store.get(key)))?.equals(bytes(1000, seed))).to.equal(true);
			expect((await store.head(key))?.metadata).to.deep.equal({ seed: String(seed) });
		});

		it('keeps one of 16 puts of one key at once, whole and with its metadata', async () => {
			const key = fresh();
			const put = (_: unknown, seed: number) =>
				store.put(key, sourceOf(bytes(1000 + seed, seed)), { metadata: { seed: String(seed) } });
			await Promise.all(Array.from({ length: 16 }, put));
			const head = await store.head(key);
			const seed = Number(head?.metadata.seed);
			expect((await readAll(await store.get(key)))?.equals(bytes(1000 + seed, seed))).to.equal(true);
		});

		it('gives the old object or the new one, whole, while it is replaced', async () => {
			const key = fresh();
			const versions = [bytes(partSize * 2, 1), bytes(partSize * 2, 2)];
			const [first, second] = versions.map((content) => sourceOf(content));
			if (first === undefined || second === undefined) throw new Error('two versions');
			await store.put(key, first);
			const body: AsyncIterable<Buffer> | undefined = await store.get(key);
			const iterator = body?.[Symbol.asyncIterator]();
			const chunks: Buffer[] = [];
			for (let next = await iterator?.next(); next?.done === false; next = await iterator?.next()) {
				if (chunks.length === 0) await store.put(key, second);
				chunks.push(next.value);
			}
			const got = Buffer.concat(chunks);
			expect(versions.some((content) => content.equals(got))).to.equal(true);
			expect((await readAll(await store.get(key)))?.equals(bytes(partSize * 2, 2))).to.equal(true);
		});

		it('takes odd names', async () => {
			const prefix = fresh('');
			const names = [
				'a b',
				' leading and trailing ',
				'a%20b',
				'a+b',
				'a&b=c',
				'a#b',
				'a?b',
				`"double" and 'single'`,
				'a;b,c',
				'~',
				'a.b',
				'...',
				'.hidden',
				'*',
				'<x>',
				'[1]',
				'{y}',
				'|',
				'^`',
				'$@!',
				'(z)',
				':',
				'👩‍🚀',
				'e\u0301',
				'\u00e9',
				'中文',
				'a/b c/d+e',
				'back\u00a0',
				'-iv',
				'x-iv',
				'toString',
				'__proto__',
			];
			for (const name of names) await store.put(prefix + name, sourceOf(Buffer.from(name)));
			const listed = await collect(store.list(prefix));
			expect(listed.map(({ key }) => key).sort()).to.deep.equal(names.map((name) => prefix + name).sort());
			for (const name of names) {
				expect(String(await readAll(await store.get(prefix + name))), name).to.equal(name);
				expect(await collect(store.list(prefix + name)), name).to.deep.include(
					(await store.head(prefix + name)) && listed.find(({ key }) => key === prefix + name),
				);
				await store.delete(prefix + name);
			}
			expect(await collect(store.list(prefix))).to.deep.equal([]);
		});

		it('takes keys of 1024 bytes', async () => {
			const start = `${fresh('')}${'é'.repeat(100)}/`;
			const name = `${'n'.repeat(249)}/`;
			const key = `${start}${name.repeat(4)}`.slice(0, 1024 - 100).padEnd(1024 - 100, 'k');
			expect(Buffer.byteLength(key)).to.equal(1024);
			await store.put(key, sourceOf(bytes(10)));
			expect(await store.head(key)).to.include({ key, size: 10 });
			expect((await collect(store.list(key))).map((object) => object.key)).to.deep.equal([key]);
		});

		it('lists more than a page, and prefixes that end within a name', async function () {
			this.timeout(60_000);
			const prefix = fresh('');
			const names = Array.from({ length: 1050 }, (_, index) => `d${index % 7}/f ${String(index).padStart(4, '0')}`);
			const todo = [...names];
			const worker = async () => {
				for (let name = todo.pop(); name !== undefined; name = todo.pop())
					await store.put(prefix + name, sourceOf(bytes(1)));
			};
			await Promise.all(Array.from({ length: 16 }, worker));
			const below = async (start: string) =>
				(await collect(store.list(prefix + start))).map(({ key }) => key.slice(prefix.length)).sort();
			expect(await below('')).to.deep.equal([...names].sort());
			for (const start of ['d3', 'd3/', 'd3/f', 'd3/f 00', 'd3/f 0003', 'x', 'd', 'd3/x/']) {
				expect(await below(start), start).to.deep.equal(names.filter((name) => name.startsWith(start)).sort());
			}
		});

		it('deletes', async () => {
			const key = fresh('deep/down/below');
			await store.put(key, sourceOf(bytes(10)), { metadata: { a: 'b' } });
			await store.delete(key);
			expect(await store.head(key)).to.equal(undefined);
			expect(await collect(store.list(key.slice(0, 41)))).to.deep.equal([]);
			await store.put(key.slice(0, -11), sourceOf(bytes(10)));
			expect(await store.head(key.slice(0, -11))).to.include({ size: 10 });
		});

		describe('a put that fails changes nothing', () => {
			const failure = new Error('as wanted');
			for (const size of [0, 100, 2 * partSize + 1]) {
				const unchanged = async (fail: (key: string) => Promise<unknown>) => {
					const [absent, present] = [fresh(), fresh()];
					await store.put(present, sourceOf(bytes(7)), { metadata: { old: 'yes' } });
					const errors = [];
					for (const key of [absent, present]) errors.push(await thrownBy(() => fail(key)));
					expect(await store.head(absent)).to.equal(undefined);
					expect((await store.head(present))?.metadata).to.deep.equal({ old: 'yes' });
					expect((await readAll(await store.get(present)))?.equals(bytes(7))).to.equal(true);
					expect(await collect(store.listUnfinished(''))).to.deep.equal([]);
					return errors;
				};

				it(`source too long: ${size} bytes`, async () => {
					for (const error of await unchanged((key) => store.put(key, sourceOf(bytes(size + 1), { size })))) {
						expect(error).to.be.instanceOf(S3proxyError).with.property('code', 'source-changed');
					}
				});

				it(`beforeCommit throws: ${size} bytes`, async () => {
					const beforeCommit = () => Promise.reject(failure);
					const errors = await unchanged((key) => store.put(key, sourceOf(bytes(size)), { beforeCommit }));
					expect(errors).to.deep.equal([failure, failure]);
				});

				it(`aborted before: ${size} bytes`, async () => {
					for (const error of await unchanged((key) =>
						store.put(key, sourceOf(bytes(size)), { signal: AbortSignal.abort() }),
					)) {
						expect(error).to.be.instanceOf(S3proxyError).with.property('code', 'stopping');
					}
				});

				it(`aborted at the commit: ${size} bytes`, async () => {
					for (const error of await unchanged((key) => {
						const stop = new AbortController();
						const beforeCommit = async () => stop.abort();
						return store.put(key, sourceOf(bytes(size)), { signal: stop.signal, beforeCommit });
					})) {
						expect(error).to.be.instanceOf(S3proxyError).with.property('code', 'stopping');
					}
				});

				if (size === 0) continue;
				it(`source too short: ${size} bytes`, async () => {
					for (const error of await unchanged((key) => store.put(key, sourceOf(bytes(size - 1), { size })))) {
						expect(error).to.be.instanceOf(S3proxyError).with.property('code', 'source-changed');
					}
				});

				it(`source fails: ${size} bytes`, async () => {
					const errors = await unchanged((key) => store.put(key, failingSource(size, size - 1, failure)));
					expect(errors).to.deep.equal([failure, failure]);
				});

				it(`aborted while the source is stuck: ${size} bytes`, async () => {
					for (const error of await unchanged((key) => {
						const stop = new AbortController();
						async function* open(): AsyncGenerator<Buffer> {
							yield bytes(size - 1);
							stop.abort();
							await new Promise(() => {});
						}
						return store.put(key, { size, open }, { signal: stop.signal });
					})) {
						expect(error).to.be.instanceOf(S3proxyError).with.property('code', 'stopping');
					}
				});
			}
		});

		it('calls beforeCommit when nothing is visible yet', async () => {
			const key = fresh();
			for (const size of [10, partSize + 1]) {
				const seen: unknown[] = [];
				const beforeCommit = async () => void seen.push((await store.head(key))?.size);
				await store.put(key, sourceOf(bytes(size)), { beforeCommit });
				expect(seen).to.deep.equal([size === 10 ? undefined : 10]);
			}
		});

		it('lets a source be closed when a put fails', async () => {
			let closed = false;
			async function* open(): AsyncGenerator<Buffer> {
				try {
					for (;;) yield bytes(1000);
				} finally {
					closed = true;
				}
			}
			await thrownBy(() => store.put(fresh(), { size: 1500, open }));
			expect(closed).to.equal(true);
		});

		it('ends a body when it is aborted', async () => {
			const key = fresh();
			await store.put(key, sourceOf(bytes(partSize)));
			const stop = new AbortController();
			const body = await store.get(key, { signal: stop.signal });
			const error = await thrownBy(async () => {
				for await (const chunk of body ?? []) if (chunk.length > 0) stop.abort();
			});
			expect(error).to.be.instanceOf(S3proxyError).with.property('code', 'stopping');
		});

		it('lets a body be destroyed unread, half read and read', async () => {
			const key = fresh();
			await store.put(key, sourceOf(bytes(partSize)));
			(await store.get(key))?.destroy();
			const half = await store.get(key);
			await half?.[Symbol.asyncIterator]().next();
			half?.destroy();
			const whole = await store.get(key);
			await readAll(whole);
			whole?.destroy();
		});
	});
}
