/** Where the service listens: a TCP address, or a unix socket. */

import { lstat, unlink } from 'node:fs/promises';
import type { Server } from 'node:http';
import { BlockList, connect, isIPv6 } from 'node:net';
import { resolve } from 'node:path';
import { errnoOf, S3proxyError } from '../errors.js';
import { isErrno } from '../fs/durable.js';

/** What fits into a `sockaddr_un`; libuv cuts off the rest and says nothing. */
const MAX_SOCKET_PATH_BYTES = 107;

const HINTS: Readonly<Record<string, string>> = {
	EADDRINUSE: 'Another process listens there already, perhaps another s3proxy; stop it, or choose another one',
	EACCES: 'This user may not listen there; ports below 1024 need a privilege, a socket needs a writable directory',
	EADDRNOTAVAIL: 'This machine does not have that address',
	ENOENT: 'The directory of the socket does not exist',
};

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');

/** Whether a server that listens can be reached from other machines: not on a unix socket, not on loopback. */
export function isOpenToOthers(server: Server): boolean {
	const address = server.address();
	if (address === null || typeof address === 'string') return false;
	return !LOOPBACK.check(address.address, isIPv6(address.address) ? 'ipv6' : 'ipv4');
}

/**
 * @param listen `ADDRESS:PORT` or the path of a unix socket, as in the config
 * @param root what a relative path is relative to
 * @returns the address for people, with the real port
 * @throws S3proxyError `bad-config`
 */
export async function listenOn(server: Server, listen: string, root: string): Promise<string> {
	try {
		return /^\.?\//.test(listen) ? await onSocket(server, resolve(root, listen)) : await onPort(server, listen);
	} catch (error) {
		if (error instanceof S3proxyError || !(error instanceof Error)) throw error;
		const hint = HINTS[errnoOf(error) ?? ''];
		throw new S3proxyError('bad-config', `cannot listen on ${listen}: ${error.message}`, {
			cause: error,
			hint: hint === undefined ? 'See listen: in config.yaml.' : `${hint} (listen: in config.yaml).`,
		});
	}
}

async function onPort(server: Server, listen: string): Promise<string> {
	const [, bracketed, name, port] = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(listen) ?? [];
	await listening(server, { host: bracketed ?? name ?? listen, port: Number(port) });
	const address = server.address();
	const actual = address === null || typeof address === 'string' ? port : address.port;
	return `http://${bracketed === undefined ? name : `[${bracketed}]`}:${actual}`;
}

async function onSocket(server: Server, path: string): Promise<string> {
	if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
		throw new S3proxyError('bad-config', `cannot listen on ${path}: longer than ${MAX_SOCKET_PATH_BYTES} bytes`, {
			hint: 'Choose a shorter path for the unix socket (listen: in config.yaml).',
		});
	}
	// As open as a port on loopback is; the directory it is in says who may come.
	const options = { path, readableAll: true, writableAll: true };
	try {
		await listening(server, options);
	} catch (error) {
		if (!isErrno(error, 'EADDRINUSE') || !(await isStaleSocket(path))) throw error;
		await unlink(path);
		await listening(server, options);
	}
	return `unix:${path}`;
}

async function listening(server: Server, options: object): Promise<void> {
	await new Promise<void>((resolve, reject) => {
		const onListening = () => {
			server.off('error', reject);
			resolve();
		};
		server.once('error', reject);
		server.once('listening', onListening);
		try {
			server.listen(options);
		} catch (error) {
			reject(error);
		}
	}).catch((error: unknown) => {
		server.removeAllListeners('listening');
		throw error;
	});
}

/** Whether `path` is the socket of a process that is gone. */
async function isStaleSocket(path: string): Promise<boolean> {
	if (!(await lstat(path)).isSocket()) return false;
	return new Promise((resolve) => {
		const socket = connect(path);
		const answer = (stale: boolean) => {
			socket.destroy();
			resolve(stale);
		};
		socket.once('connect', () => answer(false));
		socket.once('error', (error) => answer(isErrno(error, 'ECONNREFUSED', 'ENOENT')));
	});
}
