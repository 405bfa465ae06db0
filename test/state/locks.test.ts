import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { isS3proxyError, type S3proxyError } from '../../src/errors.js';
import { artifactPath } from '../../src/state/artifact-path.js';
import { Layout } from '../../src/state/layout.js';
import { walkLocks } from '../../src/state/lock-walk.js';
import { Locks } from '../../src/state/locks.js';
import { makeDirectory, tree } from '../support/cli.js';

const CHILD = fileURLToPath(new URL('../support/lock-child.js', import.meta.url));
const never = new AbortController().signal;
const path = artifactPath('a/b');

class Child {
	readonly #process: ChildProcess;
	#said = '';

	constructor(...args: string[]) {
		this.#process = spawn(process.execPath, [CHILD, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
		this.#process.stdout?.on('data', (chunk: Buffer) => {
			this.#said += chunk;
		});
	}

	/** Waits until it has said `word`. */
	async says(word: string): Promise<this> {
		while (!this.#said.includes(word)) {
			if (this.#process.stdout?.readableEnded) throw new Error(`said ${JSON.stringify(this.#said)}, not ${word}`);
			await Promise.race([once(this.#process.stdout ?? process, 'data'), once(this.#process, 'close')]);
		}
		return this;
	}

	/** Ends its stdin, on which it goes on. @returns its last words */
	async ends(): Promise<string> {
		this.#process.stdin?.end();
		if (this.#process.exitCode === null) await once(this.#process, 'close');
		return this.#said.trim().split('\n').at(-1) ?? '';
	}

	async dies(): Promise<void> {
		this.#process.kill('SIGKILL');
		await once(this.#process, 'close');
	}

	signal(name: NodeJS.Signals): void {
		this.#process.kill(name);
	}
}

async function refusal(promise: Promise<unknown>): Promise<S3proxyError> {
	try {
		await promise;
	} catch (error) {
		if (isS3proxyError(error)) return error;
		throw error;
	}
	throw new Error('nothing was thrown');
}

interface Gate {
	readonly opened: Promise<void>;
	open(): void;
}

function gate(): Gate {
	let open = () => {};
	const opened = new Promise<void>((resolve) => {
		open = resolve;
	});
	return { opened, open };
}

describe('the lock of a path', () => {
	let root: string;
	let layout: Layout;
	let locks: Locks;

	beforeEach(() => {
		root = makeDirectory();
		layout = new Layout(root);
		locks = new Locks(layout, 30);
	});

	/** Holds the path's lock until the gate is opened. */
	async function hold(until: Gate): Promise<{ released: Promise<void> }> {
		const taken = gate();
		const released = locks.withPath(path, never, async () => {
			taken.open();
			await until.opened;
		});
		await taken.opened;
		return { released };
	}

	it('leaves the lock file and nothing else', async () => {
		await locks.withPath(path, never, async () => {
			expect(existsSync(layout.lock('path', path).directory)).to.equal(true);
		});
		expect(tree(root)).to.deep.equal(['locks/', 'locks/a/', 'locks/a/b']);
	});

	it('says in the lock file who holds it, and that nobody does', async () => {
		const ownerOf = () => readFileSync(layout.lock('path', path).file, 'latin1').split('\n')[1]?.trim();
		await locks.withPath(path, never, async () => {
			expect(ownerOf()).to.match(new RegExp(`^[0-9a-f]{8}-\\d+-${process.pid}-\\d+-\\d+$`));
		});
		expect(ownerOf()).to.equal('-');
	});

	it('is given first come, first served inside a process', async () => {
		const first = gate();
		const { released } = await hold(first);
		const order: number[] = [];
		const others = [1, 2, 3, 4, 5].map((n) => locks.withPath(path, never, async () => void order.push(n)));
		first.open();
		await Promise.all([released, ...others]);
		expect(order).to.deep.equal([1, 2, 3, 4, 5]);
	});

	it('of another path is another lock: x and x.lock and x/y do not wait for each other', async () => {
		const until = gate();
		const { released } = await hold(until);
		for (const other of ['a/b.lock', 'a/.s3proxy', 'ab', 'c/b']) {
			await locks.withPath(artifactPath(other), never, async () => undefined);
		}
		until.open();
		await released;
	});

	it('passes on when the one before has failed', async () => {
		const failing = locks.withPath(path, never, () => Promise.reject(new Error('on purpose')));
		const next = locks.withPath(path, never, async () => 'done');
		await failing.catch(() => undefined);
		expect(await next).to.equal('done');
	});

	it('keeps the time of the newest version, 0 when there was none', async () => {
		await locks.withPath(path, never, async (lock) => {
			expect(lock.newest).to.equal(0);
			lock.setNewest(1234567890123);
		});
		await new Locks(layout, 1).withPath(path, never, async (lock) => {
			expect(lock.newest).to.equal(1234567890123);
		});
	});

	it('leaves nothing when it is forgotten and it was the first', async () => {
		await locks.withPath(path, never, async (lock) => lock.forgetIfNew());
		expect(tree(root)).to.deep.equal(['locks/']);
	});

	it('leaves the lock file when it is forgotten and it was not the first', async () => {
		await locks.withPath(path, never, async (lock) => lock.setNewest(5));
		await locks.withPath(path, never, async (lock) => lock.forgetIfNew());
		expect(tree(root)).to.deep.equal(['locks/', 'locks/a/', 'locks/a/b']);
	});

	it('is refused for a path that runs through an artifact, and for one that is a directory', async () => {
		await locks.withPath(path, never, async () => undefined);
		for (const name of ['a/b/c', 'a']) {
			const error = await refusal(locks.withPath(artifactPath(name), never, async () => undefined));
			expect(error.code, name).to.equal('conflict');
		}
		expect(tree(root)).to.deep.equal(['locks/', 'locks/a/', 'locks/a/b']);
	});

	it('is not waited for longer than lock_timeout, whoever in this process holds it', async () => {
		const impatient = new Locks(layout, 0.05);
		const until = gate();
		const taken = gate();
		const released = impatient.withPath(path, never, async () => {
			taken.open();
			await until.opened;
		});
		await taken.opened;
		const error = await refusal(impatient.withPath(path, never, async () => undefined));
		expect(error.code).to.equal('lock-timeout');
		expect(error.message).to.equal('could not lock a/b within 0.05 s');
		until.open();
		await released;
		expect(await impatient.withPath(path, never, async () => 'free again')).to.equal('free again');
	});

	it('is not waited for any more when the process is told to stop', async () => {
		const until = gate();
		const { released } = await hold(until);
		const stop = new AbortController();
		const waiting = [locks, new Locks(layout, 30)].map((mine) =>
			refusal(mine.withPath(path, stop.signal, async () => undefined)),
		);
		stop.abort();
		for (const error of await Promise.all(waiting)) expect(error.code).to.equal('stopping');
		until.open();
		await released;
		expect(await locks.withPath(path, never, async () => 'free again')).to.equal('free again');
	});

	const LOSSES: [string, (directory: string) => void][] = [
		['its directory is gone', (directory) => rmSync(directory, { recursive: true })],
		[
			'another has written himself into the lock file',
			() => {
				const { file } = layout.lock('path', path);
				writeFileSync(file, readFileSync(file, 'latin1').replace(/-(\d+)-(\d+)-(\d+)-(\d+)/, '-$1-1-$3-$4'));
			},
		],
	];
	for (const [what, lose] of LOSSES) {
		it(`is lost when ${what}: assertHeld says so`, async () => {
			const error = await refusal(
				locks.withPath(path, never, async (lock) => {
					await lock.assertHeld();
					lose(layout.lock('path', path).directory);
					await lock.assertHeld();
				}),
			);
			expect(error.code).to.equal('lock-lost');
		});
	}

	it('that was lost to another is not taken away from him at the end', async () => {
		const { file, directory } = layout.lock('path', path);
		const other = 'ffffffff-1-1-1-1';
		await locks.withPath(path, never, async () => {
			rmSync(directory, { recursive: true });
			mkdirSync(directory);
			writeFileSync(file, `${'77'.padEnd(16)}\n${other.padEnd(80)}\n`);
		});
		expect(readFileSync(file, 'latin1')).to.contain(other);
		expect(existsSync(directory), 'his lock directory').to.equal(true);
	});

	describe('between processes', () => {
		it('is held by one at a time', async function () {
			this.timeout(30_000);
			const alone = join(root, 'alone');
			const children = [1, 2, 3].map(() => new Child('count', root, 'a/b', '40', alone));
			await Promise.all(children.map((child) => child.says('ready')));
			expect(await Promise.all(children.map((child) => child.ends()))).to.deep.equal(['done', 'done', 'done']);
		});

		it('is not taken from a living owner', async () => {
			const child = await new Child('hold', root, 'path', 'a/b').says('held');
			const error = await refusal(new Locks(layout, 0.1).withPath(path, never, async () => undefined));
			expect(error.code).to.equal('lock-timeout');
			expect(await child.ends()).to.equal('released');
		});

		it('is not taken from a stopped owner', async () => {
			const child = await new Child('hold', root, 'path', 'a/b').says('held');
			child.signal('SIGSTOP');
			const error = await refusal(new Locks(layout, 0.1).withPath(path, never, async () => undefined));
			expect(error.code).to.equal('lock-timeout');
			child.signal('SIGCONT');
			expect(await child.ends()).to.equal('released');
		});

		it('is taken from a dead owner at once, and clean', async () => {
			await (await new Child('hold', root, 'path', 'a/b').says('held')).dies();
			// Staleness would take 30 s; this one waits for a tenth of a second at most.
			expect(await new Locks(layout, 0.1).withPath(path, never, async () => 'mine')).to.equal('mine');
			expect(tree(root)).to.deep.equal(['locks/', 'locks/a/', 'locks/a/b']);
		});

		it('of a dead owner goes to one of many waiting processes at a time', async function () {
			this.timeout(60_000);
			for (let round = 0; round < 4; round++) {
				const child = await new Child('hold', root, 'path', 'a/b').says('held');
				const waiting = [1, 2, 3, 4, 5].map(() => new Child('count', root, 'a/b', '5', join(root, `alone-${round}`)));
				await Promise.all(waiting.map((each) => each.says('ready')));
				await child.dies();
				expect(await Promise.all(waiting.map((each) => each.ends()))).to.deep.equal(Array(5).fill('done'));
			}
		});

		it('that an owner lost while he was stopped is noticed by him', async () => {
			const child = await new Child('hold', root, 'path', 'a/b').says('held');
			child.signal('SIGSTOP');
			const { directory } = layout.lock('path', path);
			const longAgo = new Date(Date.now() - 60_000);
			utimesSync(directory, longAgo, longAgo);
			expect(await new Locks(layout, 5).withPath(path, never, async () => 'mine')).to.equal('mine');
			child.signal('SIGCONT');
			expect(await child.ends()).to.match(/^failed: lock-lost/);
		});
	});
});

describe('the locks of fetches and puts', () => {
	for (const kind of ['fetch', 'put'] as const) {
		it(`leave nothing behind (${kind})`, async () => {
			const root = makeDirectory();
			const locks = new Locks(new Layout(root), 30);
			const run = kind === 'fetch' ? locks.withFetch.bind(locks) : locks.withPut.bind(locks);
			await run(path, never, async (lock) => lock.assertHeld());
			expect(tree(root)).to.deep.equal(['locks/']);
		});

		it(`keep one path's apart, whatever lock_timeout says, and are taken from the dead (${kind})`, async () => {
			const root = makeDirectory();
			const locks = new Locks(new Layout(root), 0);
			const run = kind === 'fetch' ? locks.withFetch.bind(locks) : locks.withPut.bind(locks);
			const child = await new Child('hold', root, kind, 'a/b').says('held');
			const order: string[] = [];
			const waiting = run(path, never, async () => void order.push('second'));
			order.push('first');
			await child.dies();
			await waiting;
			expect(order).to.deep.equal(['first', 'second']);
			expect(tree(root)).to.deep.equal(['locks/']);
		});
	}

	it('do not keep the path itself from its readers and writers', async () => {
		const locks = new Locks(new Layout(makeDirectory()), 1);
		const inner = await locks.withPut(path, never, () =>
			locks.withFetch(path, never, () => locks.withPath(path, never, async () => 'all three')),
		);
		expect(inner).to.equal('all three');
	});
});

describe('the run lock of a stage', () => {
	it('is busy at once while another run works, in this process or another, and free afterwards', async () => {
		const root = makeDirectory();
		const locks = new Locks(new Layout(root), 30);
		const inner = await locks.withRun('encrypt', () => locks.withRun('encrypt', async () => 'twice'));
		expect(inner).to.equal(undefined);
		const child = await new Child('hold', root, 'run', 'encrypt').says('held');
		expect(await locks.withRun('encrypt', async () => 'ran')).to.equal(undefined);
		expect(await locks.withRun('upload', async () => 'ran')).to.equal('ran');
		await child.ends();
		expect(await locks.withRun('encrypt', async () => 'ran')).to.equal('ran');
	});

	it('is taken over at once when the run that held it died', async () => {
		const root = makeDirectory();
		await (await new Child('hold', root, 'run', 'upload').says('held')).dies();
		expect(await new Locks(new Layout(root), 30).withRun('upload', async () => 'ran')).to.equal('ran');
	});
});

describe('the locks on disk', () => {
	let root: string;
	let layout: Layout;
	let locks: Locks;

	beforeEach(() => {
		root = makeDirectory();
		layout = new Layout(root);
		locks = new Locks(layout, 30);
	});

	async function found(): Promise<string[]> {
		const all: string[] = [];
		for await (const { file } of walkLocks(layout)) all.push(file.slice(root.length + 1));
		return all.sort();
	}

	it('are all found, each with the file that says who holds it', async () => {
		const children = [
			new Child('hold', root, 'path', 'a/b'),
			new Child('hold', root, 'path', 'a/b.lock'),
			new Child('hold', root, 'path', 'top'),
			new Child('hold', root, 'fetch', 'deep/er/c'),
			new Child('hold', root, 'put', 'a/b'),
			new Child('hold', root, 'run', 're-encrypt'),
		];
		await Promise.all(children.map((child) => child.says('held')));
		const files = await found();
		expect(files).to.include.members(['locks/a/b', 'locks/a/b.lock', 'locks/top', 'locks/.s3proxy-run-re-encrypt']);
		expect(files).to.have.length(6);
		for await (const names of walkLocks(layout)) expect(await locks.clearIfDead(names, false)).to.equal(false);
		await Promise.all(children.map((child) => child.dies()));
		for await (const names of walkLocks(layout)) {
			expect(await locks.clearIfDead(names, true), 'dry run').to.equal(true);
			expect(existsSync(names.directory)).to.equal(true);
			expect(await locks.clearIfDead(names, false)).to.equal(true);
		}
		expect(await found()).to.deep.equal([]);
		expect(tree(root).filter((name) => !name.endsWith('/'))).to.deep.equal([
			'locks/a/b',
			'locks/a/b.lock',
			'locks/top',
		]);
	});

	it('of the dead are cleared although somebody died while he cleared them', async () => {
		const names = layout.lock('path', path);
		const claim = join(dirname(names.directory), `.s3proxy-dead-${names.directory.split('.s3proxy-')[1]}`);
		const longAgo = new Date(Date.now() - 31_000);
		for (const directory of [names.directory, claim]) {
			mkdirSync(directory, { recursive: true });
			utimesSync(directory, longAgo, longAgo);
		}
		expect(await locks.clearIfDead(names, false)).to.equal(true);
		expect(tree(root)).to.deep.equal(['locks/', 'locks/a/']);
	});

	for (const [when, record] of [
		['before he wrote who he was', ''],
		['while he wrote it', `${'0'.padEnd(16)}\n`],
		['when he had taken it back', `${'1700000000000'.padEnd(16)}\n${'-'.padEnd(80)}\n`],
	] as const) {
		it(`whose owner died ${when} are dead after 5 s`, async () => {
			const names = layout.lock('path', path);
			mkdirSync(names.directory, { recursive: true });
			writeFileSync(names.file, record);
			expect(await locks.clearIfDead(names, false)).to.equal(false);
			const { now } = Date;
			// The times on the disk cannot be from before the directory was made.
			Date.now = () => now() + 5_100;
			try {
				expect(await locks.clearIfDead(names, false)).to.equal(true);
			} finally {
				Date.now = now;
			}
		});
	}

	it('that nobody can tell the owner of are dead when they have not been touched for 30 s', async () => {
		const names = layout.lock('path', path);
		mkdirSync(names.directory, { recursive: true });
		expect(await locks.clearIfDead(names, false)).to.equal(false);
		const longAgo = new Date(Date.now() - 31_000);
		utimesSync(names.directory, longAgo, longAgo);
		expect(await locks.clearIfDead(names, false)).to.equal(true);
		expect(existsSync(dirname(names.directory))).to.equal(true);
		expect(existsSync(names.directory)).to.equal(false);
	});
});
