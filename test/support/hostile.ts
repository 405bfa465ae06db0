/** A service in the middle of things that must not be touched, and what is asked of it after every attack. */

import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { addKey, makeDirectory } from './cli.ts';
import { config, raw, type Served, send, serve, store, until } from './serve.ts';

/** Below the root, where a POST makes names. */
const ITS_OWN = new Set(['uploads', 'uploading', 'to_encrypt', 'locks']);

export interface Arena {
	readonly served: Served;
	readonly url: string;
	/** One attack more. */
	tried(count?: number): void;
	/**
	 * Sends `bytes` on a connection of its own.
	 * @param options.end closes our side behind them
	 * @returns the statuses of the answers, in their order, when the server has closed the connection
	 */
	attack(bytes: Buffer | string, options?: { end?: boolean }): Promise<number[]>;
	/** Another client is served, nothing is left of the attack, and nothing but `uploads/` has changed. */
	assertUnharmed(what: string): Promise<void>;
	/** Stops the service. @returns its peak memory in MiB */
	close(title: string): Promise<number>;
}

/** @param more further lines of config.yaml */
export async function openArena(more = ''): Promise<Arena> {
	const outer = makeDirectory('suite');
	const root = join(outer, 'srv/root');
	mkdirSync(root, { recursive: true });
	for (const name of ['secret', 'srv/secret', 'srv/root/secret', 'srv/uploads/secret', 'srv/root-iv/secret']) {
		mkdirSync(join(outer, name, '..'), { recursive: true });
		writeFileSync(join(outer, name), 'must not be seen');
	}
	symlinkSync(join(outer, 'secret'), join(outer, 'srv/root/link'));
	const timeouts = config(`max_upload_size: 20000000\n${more}`).replace('client_timeout: 20', 'client_timeout: 1');
	writeFileSync(join(root, 'config.yaml'), timeouts);
	addKey(root, 'private_key');
	const served = await serve({ root });
	const untouchable = () => fingerprint(outer, '', (name) => ITS_OWN.has(name.replace(/^srv\/root\//, '')));
	const before = untouchable();
	let count = 0;
	return {
		served,
		url: served.url,
		tried: (more = 1) => {
			count += more;
		},
		attack: async (bytes, { end = false } = {}) => {
			count++;
			const client = await raw(served.url, bytes);
			if (end) client.socket.end();
			const answers = answersIn(await client.all);
			expect(answers.map(({ body }) => body).join(), 'what was answered').not.to.include('must not be seen');
			return answers.map(({ status }) => status);
		},
		assertUnharmed: async (what) => {
			const content = `good after ${what}`;
			const { status, text } = await store(served.url, '/good', content);
			expect(status, `${what}: ${text}`).to.equal(201);
			expect((await send(served.url, '/good')).text, what).to.equal(content);
			await until(() => !hasStaging(join(root, 'uploading')));
			expect(untouchable(), what).to.deep.equal(before);
			expect(readdirSync(join(root, 'uploads')), what).not.to.include('smuggled');
		},
		close: async (title) => {
			const peak = peakMemory(served.child.pid);
			const { code } = await served.stop();
			expect([code, served.log()]).to.satisfy(
				() => code === 0 && !/^error|Unhandled|internal error|^ {4}at /m.test(served.log()),
				served.log(),
			);
			process.stdout.write(`    ${title}: tried ${count}, ${peak} MiB at most\n`);
			return peak;
		},
	};
}

/** Names, and digests of content, of everything below `directory`. */
function fingerprint(directory: string, prefix: string, ignored: (name: string) => boolean): string[] {
	return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
		const [name, path] = [prefix + entry.name, join(directory, entry.name)];
		if (ignored(name)) return [];
		if (entry.isDirectory()) return [`${name}/`, ...fingerprint(path, `${name}/`, ignored)];
		if (entry.isSymbolicLink()) return [`${name} -> ${readlinkSync(path)}`];
		return [`${name} ${createHash('sha256').update(readFileSync(path)).digest('hex')}`];
	});
}

function hasStaging(directory: string): boolean {
	return readdirSync(directory, { recursive: true, encoding: 'utf8' }).some((name) => name.includes('.s3proxy-'));
}

/** VmHWM of a process, in MiB. */
function peakMemory(pid: number | undefined): number {
	const [, kib] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
	return Math.round(Number(kib) / 1024);
}

export interface RawAnswer {
	readonly status: number;
	readonly body: string;
}

/** Takes what a connection received apart. 100s are left out; what is no answer gives the status NaN. */
export function answersIn(text: string): RawAnswer[] {
	const answers: RawAnswer[] = [];
	for (let rest = text; rest !== ''; ) {
		const [head = ''] = rest.split('\r\n\r\n', 1);
		const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1]);
		const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0);
		const from = head.length + 4;
		if (status !== 100) answers.push({ status, body: rest.slice(from, from + length) });
		rest = Number.isNaN(status) ? '' : rest.slice(from + length);
	}
	return answers;
}

/** `bytes` as one chunk of a chunked body. */
export function chunk(bytes: Buffer | string): string {
	const text = Buffer.from(bytes).toString('latin1');
	return `${text.length.toString(16)}\r\n${text}\r\n`;
}
