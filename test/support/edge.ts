/** Real Varnish, nginx and s3proxy, from the files that are shipped; only ports and directories are others. */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { Agent, get as httpGet, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Context } from 'mocha';
import { makeDirectory, makeRoot, type RunOptions } from './cli.ts';
import { installPrograms } from './debian.ts';
import { needs } from './needs.ts';
import { freePort } from './radosgw.ts';
import { type Answer, type Served, send, serve, until } from './serve.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const shipped = (name: string) => readFileSync(join(PROJECT, name), 'utf8');

const PACKAGES = ['varnish', 'nginx-light', 'iproute2'];

let obstacle: Promise<string | undefined> | undefined;

/** Skips a test, or a suite in its `before`, on a machine that cannot run the edge; in CI that is an error. */
export async function needsEdge(test: Context): Promise<void> {
	test.timeout(300_000);
	// Varnish and nginx are started by root, as the users they are made for.
	const isRoot = process.getuid?.() === 0;
	if (isRoot) obstacle ??= installPrograms(['varnishd', 'varnishadm', 'varnishstat', 'nginx', 'ip'], PACKAGES);
	const why = isRoot ? await obstacle : 'this is not root';
	needs(test, why === undefined, `Varnish and nginx (${why})`);
}

/** `text` with `what` replaced wherever it stands; it must be there. */
export function replaced(text: string, what: string, by: string): string {
	if (!text.includes(what)) throw new Error(`the shipped file has no ${what} any more`);
	return text.replaceAll(what, by);
}

export interface EdgeOptions extends Pick<RunOptions, 'env'> {
	/** What config.yaml has besides the address. */
	readonly config?: string;
	readonly root?: string;
	/** Where Varnish finds nginx, when something stands in between: given its real port. */
	readonly beforeNginx?: (port: number) => Promise<number>;
	/** Where Varnish finds s3proxy, when the test starts that itself. */
	readonly shimPort?: number;
	/** Further changes to the VCL's parameters. */
	readonly vcl?: (text: string) => string;
	/** Where Varnish listens (default: 127.0.0.1). */
	readonly address?: string;
}

const EDGE_CONFIG = 'encryption: true\nstore: file:bucket\nfsync: false\nclient_timeout: 20\n';

const running = new Set<Edge>();

after(async () => {
	for (const edge of running) await edge.stop();
});

/** Starts all three and waits until Varnish answers and knows that s3proxy is well. */
export async function startEdge(options: EdgeOptions = {}): Promise<Edge> {
	const ports = { varnish: await freePort(), nginx: await freePort(), shim: options.shimPort ?? (await freePort()) };
	const edge = new Edge(options, ports);
	running.add(edge);
	try {
		await edge.start();
	} catch (error) {
		await edge.stop();
		throw error;
	}
	return edge;
}

interface Ports {
	readonly varnish: number;
	readonly nginx: number;
	readonly shim: number;
}

export class Edge {
	readonly root: string;
	/** Of Varnish. */
	readonly url: string;
	readonly ports: Ports;
	readonly #directory: string;
	readonly #options: EdgeOptions;
	#varnish: ChildProcess | undefined;
	#nginx: ChildProcess | undefined;
	#shim: Served | undefined;
	#log = '';

	constructor(options: EdgeOptions, ports: Ports) {
		this.#options = options;
		this.ports = ports;
		this.#directory = makeDirectory('suite');
		// mkdtemp gives a directory to its owner alone; Varnish and nginx run as users of their own.
		chmodSync(this.#directory, 0o755);
		this.root = options.root ?? makeRoot({ config: null, keep: 'suite' });
		chmodSync(this.root, 0o755);
		this.url = `http://${options.address ?? '127.0.0.1'}:${ports.varnish}`;
		const config = options.config ?? EDGE_CONFIG;
		writeFileSync(join(this.root, 'config.yaml'), `${config}listen: 127.0.0.1:${ports.shim}\nvarnish: ${this.url}\n`);
	}

	async start(): Promise<void> {
		if (this.#options.shimPort === undefined) await this.startShim();
		await this.startNginx();
		await this.startVarnish();
	}

	/** s3proxy itself, past Varnish. */
	get shim(): Served {
		if (this.#shim === undefined) throw new Error('s3proxy does not run');
		return this.#shim;
	}

	async startShim(): Promise<void> {
		this.#shim = await serve({ env: this.#options.env ?? {}, root: this.root });
	}

	async startNginx(): Promise<void> {
		const site = replaced(
			replaced(shipped('nginx/nginx.conf'), '127.0.0.1:8081', `127.0.0.1:${this.ports.nginx}`),
			'/opt/s3proxy/uploads',
			join(this.root, 'uploads'),
		);
		const file = join(this.#directory, 'nginx.conf');
		const main = `user www-data;\ndaemon off;\npid nginx.pid;\nerror_log ${this.#directory}/nginx.log;\nevents {\n\tworker_connections 4096;\n}\n`;
		const http = `http {\n\taccess_log off;\n\tclient_body_temp_path body;\n\tinclude site.conf;\n}\n`;
		writeFileSync(file, main + http);
		writeFileSync(join(this.#directory, 'site.conf'), site);
		this.#nginx = spawn('nginx', ['-p', this.#directory, '-c', file], { stdio: ['ignore', 'ignore', 'pipe'] });
		this.#gather(this.#nginx);
		await this.#answers(this.#nginx, `http://127.0.0.1:${this.ports.nginx}`);
	}

	async startVarnish(): Promise<void> {
		const { beforeNginx, vcl = (text) => text, address = '127.0.0.1' } = this.#options;
		const nginxPort = (await beforeNginx?.(this.ports.nginx)) ?? this.ports.nginx;
		const file = join(this.#directory, 'default.vcl');
		const text = replaced(shipped('varnish/default.vcl'), '"8081"', `"${nginxPort}"`);
		writeFileSync(file, vcl(replaced(text, '"9292"', `"${this.ports.shim}"`)));
		mkdirSync(this.#workDirectory, { recursive: true });
		const [command = '', ...args] = shippedCommand(`${address}:${this.ports.varnish}`, file);
		this.#varnish = spawn(command, ['-n', this.#workDirectory, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
		this.#gather(this.#varnish);
		await this.#answers(this.#varnish, this.url);
	}

	get #workDirectory(): string {
		return join(this.#directory, 'varnish');
	}

	#gather(child: ChildProcess): void {
		for (const stream of [child.stdout, child.stderr]) {
			stream?.on('data', (chunk: Buffer) => {
				this.#log += chunk;
			});
		}
	}

	async #answers(child: ChildProcess, url: string): Promise<void> {
		const isUp = async () => {
			if (child.exitCode !== null) throw new Error(`it did not come up: ${this.#log}`);
			return send(url, '/.s3proxy-health').then(
				() => true,
				() => false,
			);
		};
		await until(isUp);
	}

	/** What Varnish's probe says of a backend: resolves when it says so. */
	async untilBackend(name: 'nginx' | 'shim', state: 'healthy' | 'sick'): Promise<void> {
		await until(() => new RegExp(`${name}\\s.*\\s${state}`, 'i').test(this.varnishadm('backend.list')));
	}

	varnishadm(...args: string[]): string {
		return execFileSync('varnishadm', ['-n', this.#workDirectory, ...args], { encoding: 'utf8' });
	}

	/** A counter of varnishstat, such as `MAIN.s_pipe`. */
	counter(name: string): number {
		const text = execFileSync('varnishstat', ['-n', this.#workDirectory, '-1', '-f', name], { encoding: 'utf8' });
		return Number(/\s(\d+)\s/.exec(text)?.[1] ?? Number.NaN);
	}

	/** Sends a signal to those processes that serve: Varnish's and nginx's first ones only look after them. */
	signal(part: 'varnish' | 'nginx', signal: 'SIGSTOP' | 'SIGCONT'): void {
		for (const pid of childrenOf(part === 'varnish' ? this.#varnish : this.#nginx)) process.kill(pid, signal);
	}

	/** Bytes of Varnish's worker process: now and at most. */
	varnishMemory(): { readonly now: number; readonly peak: number } {
		const [pid] = childrenOf(this.#varnish);
		const status = readFileSync(`/proc/${pid}/status`, 'utf8');
		const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
		return { now: kib('VmRSS') * 1024, peak: kib('VmHWM') * 1024 };
	}

	/** What nginx has written to its error log. */
	nginxLog(): string {
		return readFileSync(join(this.#directory, 'nginx.log'), 'utf8');
	}

	async stopNginx(): Promise<void> {
		await end(this.#nginx);
	}

	async stopVarnish(): Promise<void> {
		await end(this.#varnish);
	}

	async stop(): Promise<void> {
		running.delete(this);
		await Promise.all([end(this.#varnish), end(this.#nginx), this.#shim?.stop()]);
	}
}

/** The command line of varnish/varnish.conf, with another address and VCL. */
function shippedCommand(address: string, vcl: string): string[] {
	const [, line = ''] = /^ExecStart=(\S(?:.*\\\n)*.*)$/m.exec(shipped('varnish/varnish.conf')) ?? [];
	const command = replaced(replaced(line, '-a :80', `-a ${address}`), '/etc/varnish/s3proxy.vcl', vcl);
	return command.replaceAll('\\\n', ' ').split(/\s+/);
}

function childrenOf(parent: ChildProcess | undefined): number[] {
	const pids = execFileSync('pgrep', ['-P', String(parent?.pid)], { encoding: 'utf8' });
	return pids.trim().split('\n').map(Number);
}

async function end(child: ChildProcess | undefined): Promise<void> {
	if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
	const gone = once(child, 'exit');
	child.kill('SIGTERM');
	await gone;
}

/** A client that reads in its own time: the answer's head, and then as much as it is asked to take. */
export async function slowReader(url: string, target: string): Promise<IncomingMessage> {
	return new Promise((resolve, reject) => {
		httpGet(`${url}${target}`, { agent: false }, resolve).on('error', reject);
	});
}

/** Many readers of one artifact, each with a connection of its own, as fast as they are answered. */
export class Readers {
	readonly #agents: Agent[] = [];
	readonly #loops: Promise<void>[] = [];
	#stopped = false;
	reads = 0;
	/** What the first one that gave up ran into. */
	failure: unknown;

	/** @param onRead told the answer, and when the request was begun: what `mark` gave then */
	constructor(
		count: number,
		options: { url: string; target: string; mark: () => number; onRead: (answer: Answer, mark: number) => void },
	) {
		const { url, target, mark, onRead } = options;
		for (let index = 0; index < count; index++) {
			const agent = new Agent({ keepAlive: true, maxSockets: 1 });
			this.#agents.push(agent);
			const loop = async () => {
				while (!this.#stopped) {
					const marked = mark();
					onRead(await send(url, target, { agent }), marked);
					this.reads++;
				}
			};
			this.#loops.push(
				loop().catch((error: unknown) => {
					this.failure ??= error;
				}),
			);
		}
	}

	/** @throws what a reader ran into */
	async stop(): Promise<void> {
		this.#stopped = true;
		await Promise.all(this.#loops);
		for (const agent of this.#agents) agent.destroy();
		if (this.failure !== undefined) throw this.failure;
	}
}

let shared: Promise<Edge> | undefined;

/** One edge for all tests that leave it as it is. */
export function sharedEdge(): Promise<Edge> {
	shared ??= startEdge();
	return shared;
}
