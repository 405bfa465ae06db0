/** The service, run from outside as `s3proxy serve`, or in this process where a test has to get at its store. */

import type { ChildProcess } from 'node:child_process';
import { readdirSync, readlinkSync } from 'node:fs';
import { type Agent, request as httpRequest, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Context, createContext } from '../../src/context.ts';
import { HttpServer, type HttpServerOptions } from '../../src/http/server.ts';
import type { ObjectStore } from '../../src/store/object-store.ts';
import { type Ended, ended, makeRoot, type RootOptions, type RunOptions, startS3proxy } from './cli.ts';

const servers = new Set<{ stop(): Promise<unknown> }>();

after(async () => {
	for (const server of servers) await server.stop();
});

export interface Served {
	readonly root: string;
	/** `http://127.0.0.1:PORT` */
	readonly url: string;
	readonly child: ChildProcess;
	/** What it has written to stderr. */
	log(): string;
	/** The files below `directory` of its root that it has open. */
	openIn(directory: string): string[];
	/** Sends SIGTERM and waits for the end. */
	stop(): Promise<Ended>;
}

/** A config.yaml for tests; `more` is appended. */
export function config(more = '', store = 'file:bucket'): string {
	return `encryption: true\nstore: ${store}\nfsync: false\nlisten: 127.0.0.1:0\nclient_timeout: 20\n${more}`;
}

/** Starts `s3proxy serve` on a new root (or `options.root`) and waits until it listens. */
export async function serve(options: RootOptions & RunOptions & { root?: string } = {}): Promise<Served> {
	const root = options.root ?? makeRoot({ config: config(), keep: 'suite', ...options });
	const child = startS3proxy(root, ['serve'], options);
	let log = '';
	child.stderr?.on('data', (chunk: Buffer) => {
		log += chunk;
	});
	const end = ended(child);
	const address = () => /listening on ([^\s"]+)/.exec(log)?.[1];
	await until(() => address() !== undefined || child.exitCode !== null);
	const url = address();
	if (url === undefined) throw new Error(`serve did not come up: ${log}`);
	const served = {
		root,
		url,
		child,
		log: () => log,
		openIn: (directory: string) => openFiles(child.pid).filter((name) => name.startsWith(`${join(root, directory)}/`)),
		stop: () => {
			servers.delete(served);
			child.kill('SIGTERM');
			return end;
		},
	};
	servers.add(served);
	return served;
}

function openFiles(pid: number | undefined): string[] {
	const directory = `/proc/${pid}/fd`;
	return readdirSync(directory).flatMap((fd) => {
		try {
			return [readlinkSync(join(directory, fd))];
		} catch {
			// Closed meanwhile.
			return [];
		}
	});
}

export interface ServedHere {
	readonly root: string;
	readonly url: string;
	readonly context: Context;
	readonly stopping: AbortController;
	readonly abandon: AbortController;
	stop(): Promise<void>;
}

/** The same server in this process, on `root`. */
export async function serveHere(
	root: string,
	options: HttpServerOptions & { wrap?: (store: ObjectStore) => ObjectStore } = {},
): Promise<ServedHere> {
	const [stopping, abandon] = [new AbortController(), new AbortController()];
	const context = await createContext(root, {
		progress: { expect: () => undefined, advance: () => undefined },
		stopping: stopping.signal,
		abandon: abandon.signal,
		quiet: true,
		write: () => undefined,
	});
	const { wrap = (store) => store } = options;
	const wrapped = { ...context, store: async () => wrap(await context.store()) };
	const server = new HttpServer(wrapped, options);
	const { address } = await server.listen();
	const served = {
		root,
		url: address,
		context,
		stopping,
		abandon,
		stop: async () => {
			servers.delete(served);
			await server.stop();
			await context.close();
		},
	};
	servers.add(served);
	return served;
}

/** Waits for something that happens in another process. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
	while (!(await condition())) await sleep(5);
}

export interface Answer {
	readonly status: number;
	readonly headers: IncomingHttpHeaders;
	readonly body: Buffer;
	readonly text: string;
}

export interface Request {
	readonly method?: string;
	readonly headers?: OutgoingHttpHeaders;
	readonly body?: Buffer | string;
	/** Default: a connection of its own. */
	readonly agent?: Agent;
}

/** One request; `target` goes out as it is. */
export async function send(
	url: string,
	target: string,
	{ method = 'GET', headers, body, agent }: Request = {},
): Promise<Answer> {
	const { hostname, port } = new URL(url);
	return new Promise((resolve, reject) => {
		const options = { hostname, port, method, path: target, agent: agent ?? false, headers: { ...headers } };
		const request = httpRequest(options, (response) => {
			const chunks: Buffer[] = [];
			response.on('data', (chunk: Buffer) => chunks.push(chunk));
			response.on('error', reject);
			response.on('end', () => {
				const whole = Buffer.concat(chunks);
				resolve({
					status: response.statusCode ?? 0,
					headers: response.headers,
					body: whole,
					text: whole.toString('utf8'),
				});
			});
		});
		request.on('error', reject);
		request.end(body);
	});
}

export const BOUNDARY = '----boundary-of-the-tests';
export const FORM = { 'Content-Type': `multipart/form-data; boundary=${BOUNDARY}` };

export interface Part {
	readonly name: string;
	readonly filename?: string;
	readonly type?: string;
	readonly content: Buffer | string;
}

/** The body of a form. */
export function form(...parts: readonly Part[]): Buffer {
	const encoded = parts.map(({ name, filename, type, content }) => {
		const disposition = `form-data; name="${name}"${filename === undefined ? '' : `; filename="${filename}"`}`;
		const head = `--${BOUNDARY}\r\nContent-Disposition: ${disposition}\r\n${type === undefined ? '' : `Content-Type: ${type}\r\n`}\r\n`;
		return Buffer.concat([Buffer.from(head), Buffer.from(content), Buffer.from('\r\n')]);
	});
	return Buffer.concat([...encoded, Buffer.from(`--${BOUNDARY}--\r\n`)]);
}

/** The file field of a form. */
export function file(content: Buffer | string): Part {
	return { name: 'file', filename: 'f', type: 'application/octet-stream', content };
}

/** Stores `content`, with further parts after the file. */
export async function store(url: string, target: string, content: Buffer | string, ...more: Part[]): Promise<Answer> {
	return send(url, target, { method: 'POST', headers: FORM, body: form(file(content), ...more) });
}

export interface Raw {
	readonly socket: Socket;
	/** What has come so far. */
	received(): string;
	/** Everything, when the server has closed the connection. */
	readonly all: Promise<string>;
}

/** A bare connection on which a test can misbehave. */
export async function raw(url: string, first: Buffer | string = ''): Promise<Raw> {
	const { hostname, port } = new URL(url);
	const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
	let text = '';
	socket.on('data', (chunk: Buffer) => {
		text += chunk.toString('latin1');
	});
	socket.on('error', () => undefined);
	const all = new Promise<string>((resolve) => {
		socket.on('end', () => socket.end());
		socket.on('close', () => resolve(text));
	});
	await new Promise<void>((resolve) => socket.once('connect', resolve));
	socket.write(first);
	return { socket, received: () => text, all };
}

/** The head of a POST of a form with `length` bytes (without: chunked). */
export function postHead(target: string, length?: number, more = ''): string {
	const framing = length === undefined ? 'Transfer-Encoding: chunked' : `Content-Length: ${length}`;
	return `POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Type: ${FORM['Content-Type']}\r\n${framing}\r\n${more}\r\n`;
}

/** `store` with some of its methods replaced. */
export function intercept(store: ObjectStore, replaced: Partial<ObjectStore>): ObjectStore {
	return new Proxy(store, {
		get: (target, name) => {
			const value: unknown = Reflect.get(name in replaced ? replaced : target, name);
			return typeof value === 'function' ? value.bind(target) : value;
		},
	});
}
