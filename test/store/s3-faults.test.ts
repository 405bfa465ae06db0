import { expect } from 'chai';
import { type ErrorCode, isS3proxyError, type S3proxyError } from '../../src/errors.js';
import type { S3Settings, S3Store } from '../../src/store/s3-store.js';
import { type Fault, type FaultProxy, startFaultProxy } from '../support/fault-proxy.js';
import { type S3Subject, s3StoreAt, useCredentials } from './s3-subject.js';
import { bytes, collect, MEBIBYTE, readAll, sourceOf, thrownBy } from './sources.js';

const SMALL = 1000;
const LARGE = 11 * MEBIBYTE + 1;
/** Seconds of silence, and attempts, of the stores under test. */
const TIMEOUT = 0.4;
const ATTEMPTS = 3;
/** Pauses between attempts and tidying up come on top. */
const BOUND_MS = 2 * (ATTEMPTS * TIMEOUT * 1000 + 2500);

describe('an S3 store and a bad way to it', function () {
	this.timeout(30_000);
	let subject: S3Subject;
	let proxy: FaultProxy;
	let store: S3Store;
	/** Not through the proxy. */
	let direct: S3Store;
	const opened: S3Store[] = [];
	let serial = 0;
	const fresh = () => `faults/${++serial}`;

	const open = (settings: Partial<S3Settings> = {}) => {
		const one = subject.open({ endpoint: proxy.endpoint, timeout: TIMEOUT, attempts: ATTEMPTS, ...settings });
		opened.push(one);
		return one;
	};

	before(async function () {
		this.timeout(600_000);
		const found = await s3StoreAt('faults');
		if (found === undefined) return this.skip();
		subject = found;
		proxy = await startFaultProxy(subject.server.endpoint);
		direct = subject.open();
		store = open();
	});

	afterEach('no upload is left', async () => {
		proxy.reset();
		expect(await collect(direct.listUnfinished(''))).to.deep.equal([]);
	});

	after(async () => {
		for (const one of opened) one.close();
		direct?.close();
		await proxy?.stop();
	});

	/** What `work` throws: one of ours, with this code, in time, and naming what it was about. */
	async function fails(code: ErrorCode, work: () => Promise<unknown>, about = 's3://faults'): Promise<S3proxyError> {
		const began = Date.now();
		const error = await thrownBy(work);
		if (!isS3proxyError(error)) throw error;
		expect(error.code, error.message).to.equal(code);
		expect(error.message).to.include(about);
		expect(error.message + String(error.hint)).not.to.include(subject.server.secretAccessKey);
		expect(Date.now() - began, 'milliseconds').to.be.lessThan(BOUND_MS);
		return error;
	}

	const isKept = async (key: string, content: Buffer) =>
		expect((await readAll(await direct.get(key)))?.equals(content), `${key} as it was put`).to.equal(true);

	type Work = (key: string, using?: S3Store) => Promise<unknown>;
	const operations: Record<string, { readonly match: RegExp; readonly work: Work; readonly prepare?: Work }> = {
		'put whole': { match: /^PUT/, work: (key, using = store) => using.put(key, sourceOf(bytes(SMALL))) },
		'create upload': { match: /^POST .*uploads/, work: (key, using = store) => using.put(key, sourceOf(bytes(LARGE))) },
		'put part': { match: /^PUT .*partNumber=2/, work: (key, using = store) => using.put(key, sourceOf(bytes(LARGE))) },
		'complete upload': {
			match: /^POST .*uploadId/,
			work: (key, using = store) => using.put(key, sourceOf(bytes(LARGE))),
		},
		head: {
			match: /^HEAD/,
			work: (key, using = store) => using.head(key),
			prepare: (key) => direct.put(key, sourceOf(bytes(SMALL))),
		},
		get: {
			match: /^GET/,
			work: async (key, using = store) => await readAll(await using.get(key)),
			prepare: (key) => direct.put(key, sourceOf(bytes(SMALL))),
		},
		list: {
			match: /^GET .*list-type/,
			work: async (key, using = store) => await collect(using.list(key)),
			prepare: (key) => direct.put(key, sourceOf(bytes(SMALL))),
		},
		delete: {
			match: /^DELETE/,
			work: (key, using = store) => using.delete(key),
			prepare: (key) => direct.put(key, sourceOf(bytes(SMALL))),
		},
	};

	/** The operation did what it is for. */
	async function worked(name: string, key: string, result: unknown): Promise<void> {
		if (name === 'head') expect(result).to.include({ key, size: SMALL });
		else if (name === 'get') expect(Buffer.isBuffer(result) && result.equals(bytes(SMALL))).to.equal(true);
		else if (name === 'list') expect(result).to.have.length(1);
		else if (name === 'delete') expect(await direct.head(key)).to.equal(undefined);
		else {
			expect(result).to.equal(true);
			await isKept(key, bytes(name === 'put whole' ? SMALL : LARGE));
		}
	}

	/** A lost answer to "create upload" leaves one without parts, whose id nobody knows; repair finds it. */
	const removeUnknown = async () => {
		for await (const unfinished of direct.listUnfinished('')) await direct.abortUnfinished(unfinished);
	};

	for (const [name, { match, work, prepare }] of Object.entries(operations)) {
		const passing: Fault[] = [
			{ mode: 'refuse', count: 2 },
			{ mode: 'hang', count: 1 },
			{ mode: 'drop-response', count: 1 },
			{ mode: 'status', count: 1, status: 503, code: 'SlowDown' },
			{ mode: 'status', count: 2, status: 500 },
		];
		if (name === 'put whole' || name === 'put part') passing.push({ mode: 'corrupt-request', count: 1 });
		// A body of a get is the caller's to ask for again.
		if (name === 'list' || name === 'complete upload' || name === 'create upload') {
			for (const mode of ['reset', 'truncate', 'hang-body'] as const) passing.push({ mode, count: 1 });
		}
		if (name === 'complete upload') passing.push({ mode: 'error-in-200', count: 1 });
		for (const fault of passing) {
			it(`${name} gets over ${fault.mode}${fault.status ?? ''} (${fault.count} times)`, async () => {
				const key = fresh();
				await prepare?.(key);
				proxy.inject({ ...fault, match });
				await worked(name, key, await work(key));
				expect(
					proxy.requests.filter((line) => match.test(line)),
					'requests',
				).to.have.length.greaterThan(1);
				if (name === 'create upload') await removeUnknown();
			});
		}

		const lasting: [Fault, ErrorCode][] = [
			[{ mode: 'refuse' }, 'store-unreachable'],
			[{ mode: 'hang' }, 'store-unreachable'],
			[{ mode: 'status', status: 500, code: 'InternalError' }, 'store-unreachable'],
			[{ mode: 'status', status: 403, code: 'AccessDenied' }, 'store-refused'],
			[{ mode: 'status', status: 403, code: 'RequestTimeTooSkewed' }, 'store-refused'],
		];
		if (name === 'put whole' || name === 'put part') lasting.push([{ mode: 'corrupt-request' }, 'store-unreachable']);
		for (const [fault, code] of lasting) {
			it(`${name} ends with ${code} when there is only ${fault.mode} ${fault.code ?? ''}`, async () => {
				const key = fresh();
				await prepare?.(key);
				proxy.inject({ ...fault, match });
				const error = await fails(code, () => work(key));
				if (code === 'store-refused') expect(error.hint).to.be.a('string');
				if (prepare === undefined) expect(await direct.head(key)).to.equal(undefined);
				else await isKept(key, bytes(SMALL));
				// The server may have been asked, and only the answer is not known to us.
				if (name === 'create upload') await removeUnknown();
			});
		}
	}

	for (const mode of ['hang-body', 'reset', 'truncate'] as const) {
		for (const range of [undefined, { start: 5, end: 8 * MEBIBYTE }]) {
			it(`the body of a get fails when there is ${mode}, ${range ? 'range' : 'all'}`, async () => {
				const key = fresh();
				await direct.put(key, sourceOf(bytes(LARGE)));
				proxy.inject({ mode, match: /^GET/, count: 1 });
				const body = await store.get(key, range === undefined ? {} : { range });
				await fails('store-unreachable', () => readAll(body));
				const again = await readAll(await store.get(key, range === undefined ? {} : { range }));
				expect(again?.equals(bytes(LARGE).subarray(range?.start ?? 0, range ? range.end + 1 : LARGE))).to.equal(true);
			});
		}
	}

	it('a get whose error document never ends fails in time', async () => {
		proxy.inject({ mode: 'hang-body', match: /^GET/ });
		await fails('store-unreachable', () => store.get(fresh()));
	});

	it('a range that is not the one asked for is refused', async () => {
		const key = fresh();
		await direct.put(key, sourceOf(bytes(SMALL)));
		const get = () => store.get(key, { range: { start: 1, end: 2 } });
		proxy.inject({ mode: 'no-range', count: 1 });
		expect((await fails('store-refused', get)).message).to.include('the store ignores ranges');
		proxy.inject({ mode: 'other-range', count: 1 });
		expect((await fails('store-refused', get)).message).to.include(
			'asked for bytes 1-2, the store sends bytes 0-1/1000',
		);
	});

	it('another version is not given out by a server that does not know If-Match', async () => {
		const key = fresh();
		await direct.put(key, sourceOf(bytes(SMALL)));
		const ifMatch = (await direct.head(key))?.etag ?? '';
		proxy.inject({ mode: 'other-version' });
		expect(await store.get(key, { ifMatch })).to.equal(undefined);
	});

	it('a list that is none is no empty one', async () => {
		const key = fresh();
		await direct.put(key, sourceOf(bytes(SMALL)));
		proxy.inject({ mode: 'error-in-200', match: /list-type/ });
		await fails('store-unreachable', () => collect(store.list(key)));
	});

	it('a slow reader is not taken for a silent server', async () => {
		const key = fresh();
		await direct.put(key, sourceOf(bytes(LARGE)));
		const body: AsyncIterable<Buffer> | undefined = await open({ timeout: 0.2 }).get(key);
		let read = 0;
		for await (const chunk of body ?? []) {
			// Three times as long as the server may be silent: the time is what is tested.
			if (read === 0) await new Promise((resolve) => setTimeout(resolve, 600));
			read += chunk.length;
		}
		expect(read).to.equal(LARGE);
	});

	it('a body that is destroyed closes its connection, one read to the end keeps it', async () => {
		const key = fresh();
		await direct.put(key, sourceOf(bytes(LARGE)));
		const fresher = open({ timeout: 30 });
		await proxy.sockets((count) => count === 0);
		await readAll(await fresher.get(key));
		expect(proxy.openSockets).to.equal(1);
		const body = await fresher.get(key);
		expect(proxy.openSockets).to.equal(1);
		body?.destroy();
		await proxy.sockets((count) => count === 0);
	});

	it('an aborted get closes its connection', async () => {
		const key = fresh();
		await direct.put(key, sourceOf(bytes(LARGE)));
		const stop = new AbortController();
		const body = await open().get(key, { signal: stop.signal });
		stop.abort();
		await fails('stopping', () => readAll(body));
		await proxy.sockets((count) => count === 0);
	});

	for (const size of [SMALL, LARGE]) {
		it(`a put aborted while the server is silent ends at once: ${size} bytes`, async () => {
			const stop = new AbortController();
			proxy.inject({ mode: 'hang', match: size === SMALL ? /^PUT/ : /^PUT .*partNumber/ });
			const began = Date.now();
			const put = open({ timeout: 30 }).put(fresh(), sourceOf(bytes(size)), { signal: stop.signal });
			await proxy.sockets((count) => count > 0);
			stop.abort();
			await fails('stopping', () => put, '');
			expect(Date.now() - began).to.be.lessThan(2000);
		});

		for (const [mode, match] of [
			['drop-response', size === SMALL ? /^PUT/ : /^POST .*uploadId/],
			['hang-body', size === SMALL ? /^PUT/ : /^POST .*uploadId/],
		] as const) {
			it(`a conditional put of which the answer is lost (${mode}) is known as ours: ${size} bytes`, async () => {
				const key = fresh();
				const metadata = { a: '1' };
				proxy.inject({ mode, match, count: 1 });
				expect(await store.put(key, sourceOf(bytes(size)), { onlyIfAbsent: true, metadata })).to.equal(true);
				await isKept(key, bytes(size));
				expect(await store.put(key, sourceOf(bytes(size, 2)), { onlyIfAbsent: true, metadata })).to.equal(false);
			});
		}
	}

	it('a conditional put refused at its retry is not ours when the object is another', async () => {
		const key = fresh();
		proxy.inject({ mode: 'status', status: 500, match: /^PUT/, count: 1 });
		const beforeCommit = async () => {
			await direct.put(key, sourceOf(bytes(SMALL, 2)));
		};
		expect(await store.put(key, sourceOf(bytes(SMALL)), { onlyIfAbsent: true, beforeCommit })).to.equal(false);
		await isKept(key, bytes(SMALL, 2));
	});

	it('a put starts again when its upload is gone', async () => {
		const key = fresh();
		let begun = 0;
		let bytesReached = 0;
		const source = sourceOf(bytes(LARGE), { opened: () => begun++ });
		const beforeCommit = async () => {
			if (begun === 1) await removeUnknown();
		};
		const onBytes = (count: number) => {
			bytesReached += count;
		};
		expect(await store.put(key, source, { beforeCommit, onBytes })).to.equal(true);
		expect({ begun, bytesReached }).to.deep.equal({ begun: 2, bytesReached: LARGE });
		await isKept(key, bytes(LARGE));
	});

	it('a put whose upload goes again and again fails', async () => {
		let begun = 0;
		const source = sourceOf(bytes(LARGE), { opened: () => begun++ });
		await fails('store-unreachable', () => store.put(fresh(), source, { beforeCommit: removeUnknown }));
		expect(begun).to.equal(ATTEMPTS);
	});

	it('a conditional put that conflicts with another is tried again', async () => {
		for (const [size, match] of [
			[SMALL, /^PUT/],
			[LARGE, /^POST .*uploadId/],
		] as const) {
			const key = fresh();
			proxy.inject({ mode: 'status', status: 409, code: 'ConditionalRequestConflict', match, count: 1 });
			expect(await store.put(key, sourceOf(bytes(size)), { onlyIfAbsent: true })).to.equal(true);
			await isKept(key, bytes(size));
		}
	});

	describe('that is misconfigured', () => {
		const everything: Record<string, (store: S3Store) => Promise<unknown>> = {
			head: (one) => one.head('x'),
			get: (one) => one.get('x'),
			list: (one) => collect(one.list('x')),
			'list uploads': (one) => collect(one.listUnfinished('x')),
			put: (one) => one.put('x', sourceOf(bytes(SMALL))),
			'put in parts': (one) => one.put('x', sourceOf(bytes(LARGE))),
			delete: (one) => one.delete('x'),
		};
		for (const [name, work] of Object.entries(everything)) {
			it(`${name}: no such bucket`, async () => {
				const error = await fails('store-refused', () => work(open({ bucket: 'nonesuch' })), 's3://nonesuch');
				expect(error.message).to.include(`bucket nonesuch does not exist at ${proxy.endpoint}`);
				expect(error.hint).to.include('Create the bucket');
			});

			it(`${name}: wrong credentials`, async () => {
				useCredentials({ ...subject.server, secretAccessKey: 'wrong' });
				const [wrongSecret, wrongId] = [open(), open()];
				expect((await fails('store-refused', () => work(wrongSecret))).hint).to.include('credentials');
				useCredentials({ ...subject.server, accessKeyId: 'nobody' });
				expect((await fails('store-refused', () => work(wrongId))).hint).to.include('credentials');
				useCredentials(subject.server);
			});

			it(`${name}: no server there`, async () => {
				await fails('store-unreachable', () => work(open({ endpoint: 'http://127.0.0.1:1' })));
				await fails('store-unreachable', () => work(open({ endpoint: 'http://nonexistent.invalid' })));
			});

			it(`${name}: TLS where there is none`, async () => {
				await fails('store-refused', () => work(open({ endpoint: subject.server.endpoint.replace('http', 'https') })));
			});
		}

		it('no credentials at all', async () => {
			useCredentials({});
			const error = await fails('store-refused', () => open().head('x'));
			expect(error.hint).to.include('AWS_ACCESS_KEY_ID');
			useCredentials(subject.server);
		});

		it('a name that is no bucket', async () => {
			expect((await fails('store-refused', () => open({ bucket: 'a/b' }).head('x'), 's3://a/b')).hint).to.include(
				'bucket',
			);
		});

		it('checksums where the server takes them', async () => {
			const careful = open({ checksums: 'when_supported', timeout: 10 });
			for (const size of [0, SMALL, LARGE]) {
				const key = fresh();
				await careful.put(key, sourceOf(bytes(size)));
				expect((await readAll(await careful.get(key)))?.equals(bytes(size))).to.equal(true);
			}
		});
	});
});
