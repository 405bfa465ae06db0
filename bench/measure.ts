/** Runs real processes and tells what they took. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PROJECT = fileURLToPath(new URL('..', import.meta.url));
const CLI = join(PROJECT, 'bin/run.js');
const USAGE = join(PROJECT, 'bench/usage.js');

export interface Measured {
	readonly seconds: number;
	readonly cpuSeconds: number;
	readonly peakMiB: number;
}

/** Where all of it happens: `TMPDIR`, or the system's. Removed at the end. */
export const scratch = mkdtempSync(join(tmpdir(), 's3proxy-bench-'));

export async function cleanUp(): Promise<void> {
	await rm(scratch, { recursive: true, force: true });
}

/** A new root with a key. */
export async function makeRoot(name: string, config: string): Promise<string> {
	const root = join(scratch, name);
	await mkdir(root, { recursive: true });
	await writeFile(join(root, 'config.yaml'), config);
	await s3proxy(root, ['rotate-key']);
	return root;
}

interface Started {
	readonly child: ChildProcess;
	readonly ended: Promise<Measured>;
}

let count = 0;

export function startS3proxy(root: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Started {
	const usage = join(scratch, `usage-${count++}.json`);
	const began = performance.now();
	const child = spawn(process.execPath, ['--import', USAGE, CLI, ...args, '--root', root], {
		stdio: ['ignore', 'ignore', 'pipe'],
		env: { ...process.env, ...env, BENCH_USAGE: usage },
	});
	let log = '';
	child.stderr?.on('data', (chunk: Buffer) => {
		log += chunk.toString();
	});
	const ended = once(child, 'close').then(([code]) => {
		if (code !== 0) throw new Error(`s3proxy ${args.join(' ')}: exit ${String(code)}\n${log}`);
		const seconds = (performance.now() - began) / 1000;
		return { seconds, ...(JSON.parse(readFileSync(usage, 'utf8')) as { cpuSeconds: number; peakMiB: number }) };
	});
	return { child, ended };
}

export function s3proxy(root: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Measured> {
	return startS3proxy(root, args, env).ended;
}

/** Seconds that a shell command takes; `times` gives user and system seconds of the children. */
export async function shell(command: string): Promise<{ seconds: number; cpuSeconds: number }> {
	const began = performance.now();
	const child = spawn('bash', ['-c', `${command}\nstatus=$?; times >&2; exit $status`], {
		stdio: ['ignore', 'ignore', 'pipe'],
	});
	let log = '';
	child.stderr.on('data', (chunk: Buffer) => {
		log += chunk.toString();
	});
	const [code] = await once(child, 'close');
	if (code !== 0) throw new Error(`${command}: exit ${String(code)}\n${log}`);
	const seconds = (performance.now() - began) / 1000;
	const children = log.trim().split('\n').at(-1) ?? '';
	const cpuSeconds = [...children.matchAll(/(\d+)m([\d.]+)s/g)].reduce(
		(sum, [, minutes, rest]) => sum + Number(minutes) * 60 + Number(rest),
		0,
	);
	return { seconds, cpuSeconds };
}

export function median(values: readonly number[]): number {
	return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/** Starts `serve` on a free port. */
export async function startServer(root: string): Promise<Started & { url: string }> {
	const started = startS3proxy(root, ['serve']);
	let log = '';
	const url = await new Promise<string>((resolve, reject) => {
		started.child.stderr?.on('data', (chunk: Buffer) => {
			log += chunk.toString();
			const address = /listening on (http:\S+)/.exec(log)?.[1];
			if (address !== undefined) resolve(address);
		});
		started.ended.catch(reject);
	});
	return { ...started, url };
}
