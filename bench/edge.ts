/** Varnish, nginx and s3proxy as they are shipped, and wrk in front of them. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { freePort } from '../test/support/radosgw.js';
import { makeRoot, scratch, shell, startServer } from './measure.js';

const run = promisify(execFile);
const PROGRAMS = ['/usr/sbin/varnishd', '/usr/sbin/nginx', '/usr/bin/wrk'];

export interface StartedEdge {
	/** URLs of one artifact of 4 KiB. */
	readonly varnish: string;
	readonly nginx: string;
	stop(): Promise<void>;
}

/** @returns undefined when this machine has not what it takes */
export async function startEdge(): Promise<StartedEdge | undefined> {
	if (process.getuid?.() !== 0 || !PROGRAMS.every(existsSync)) return undefined;
	const root = await makeRoot('edge', 'store: file:bucket\nlisten: 127.0.0.1:0\n');
	const directory = join(scratch, 'edge-run');
	await mkdir(join(directory, 'varnish'), { recursive: true });
	// Varnish and nginx run as users of their own.
	for (const entered of [scratch, root, directory]) await chmod(entered, 0o755);
	const shim = await startServer(root);
	const [nginxPort, varnishPort] = [await freePort(), await freePort()];
	const site = readFileSync('nginx/nginx.conf', 'utf8')
		.replace('127.0.0.1:8081', `127.0.0.1:${nginxPort}`)
		.replace('/opt/s3proxy', root);
	const main = `user www-data;\nworker_processes auto;\ndaemon off;\npid nginx.pid;\nerror_log ${directory}/nginx.log;\n`;
	await writeFile(join(directory, 'nginx.conf'), `${main}events {}\nhttp {\n${site}}\n`);
	const vcl = readFileSync('varnish/default.vcl', 'utf8')
		.replace('"8081"', `"${nginxPort}"`)
		.replace('"9292"', `"${new URL(shim.url).port}"`);
	await writeFile(join(directory, 'default.vcl'), vcl);
	const [, command = ''] = /^ExecStart=(\S(?:.*\\\n)*.*)$/m.exec(readFileSync('varnish/varnish.conf', 'utf8')) ?? [];
	const [program = '', ...args] = command
		.replaceAll('\\\n', ' ')
		.replace('-a :80', `-a 127.0.0.1:${varnishPort}`)
		.replace('/etc/varnish/s3proxy.vcl', join(directory, 'default.vcl'))
		.split(/\s+/);
	const children = [
		spawn('nginx', ['-p', directory, '-c', join(directory, 'nginx.conf')], { stdio: 'ignore' }),
		spawn(program, ['-n', join(directory, 'varnish'), ...args], { stdio: 'ignore' }),
	];
	const [varnish, nginx] = [`http://127.0.0.1:${varnishPort}/hot`, `http://127.0.0.1:${nginxPort}/hot`];
	for (const url of [varnish, nginx]) await answers(url);
	await shell(`head -c 4096 /dev/urandom | curl -sSf -F 'file=@-;filename=hot' '${varnish}'`);
	return {
		varnish,
		nginx,
		stop: async () => {
			shim.child.kill('SIGTERM');
			await Promise.all([shim.ended, ...children.map(end)]);
		},
	};
}

async function answers(url: string): Promise<void> {
	while (!(await fetch(url).catch(() => undefined))) await sleep(50);
}

async function end(child: ChildProcess): Promise<void> {
	const gone = once(child, 'exit');
	child.kill('SIGTERM');
	await gone;
}

/** What wrk gets in five seconds with 64 connections. */
export async function requestsPerSecond(url: string): Promise<number> {
	const { stdout } = await run('wrk', ['-t', '2', '-c', '64', '-d', '5s', url]);
	if (/Non-2xx|Socket errors/.test(stdout)) throw new Error(stdout);
	return Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]);
}
