/** Who made a staging file or holds a lock, in a form that tells later whether he is provably dead. */

import { readFileSync, readlinkSync } from 'node:fs';
import { isErrno } from '../fs/durable.js';

interface Owner {
	/** First part of the kernel's boot id; `0` where there is no /proc. */
	readonly boot: string;
	/** Inode of the pid namespace: a pid says nothing about a process in another container. */
	readonly namespace: string;
	readonly pid: number;
	/** Clock ticks from boot to the start of the process: a pid that is used again has another one. */
	readonly started: string;
}

function readOr(read: () => string, otherwise: string): string {
	try {
		return read();
	} catch {
		return otherwise;
	}
}

/** State letter and start time from /proc/<pid>/stat (proc(5)); undefined when there is no such process, or it is hidden. */
function processStat(pid: number): { state: string; started: string } | undefined {
	const stat = readOr(() => readFileSync(`/proc/${pid}/stat`, 'latin1'), '');
	// The second field is the command in parentheses and may contain anything, so count from its end.
	const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
	const [state, started] = [fields[0], fields[19]];
	return state && started ? { state, started } : undefined;
}

function readSelf(): Owner {
	return {
		boot: readOr(() => readFileSync('/proc/sys/kernel/random/boot_id', 'latin1'), '0').slice(0, 8),
		namespace: readOr(() => readlinkSync('/proc/self/ns/pid'), '0').replace(/\D/g, ''),
		pid: process.pid,
		started: processStat(process.pid)?.started ?? '0',
	};
}

/**
 * Whether no process has this pid. /proc does not tell: with `hidepid`, or in a sandboxed unit, it leaves out processes that
 * run, and it cannot be read without a free file descriptor.
 */
function isGone(pid: number): boolean {
	try {
		process.kill(pid, 0);
		return false;
	} catch (error) {
		return isErrno(error, 'ESRCH');
	}
}

let self: Owner | undefined;
let counter = 0;

/** A name for one thing that this process makes: `<boot>-<namespace>-<pid>-<start>-<n>`; never given twice. */
export function ownerToken(): string {
	self ??= readSelf();
	return `${self.boot}-${self.namespace}-${self.pid}-${self.started}-${counter++}`;
}

const TOKEN = /^([0-9a-f]{1,8})-(\d+)-(\d+)-(\d+)-\d+$/;

/**
 * Whether the process that made `token` certainly runs no more: another boot, or this pid namespace and no such process.
 * False when it runs, and when nobody can tell (another container, no /proc or a hidden process, not a token).
 */
export function isProvablyDead(token: string): boolean {
	self ??= readSelf();
	const [, boot, namespace, pid, started] = TOKEN.exec(token) ?? [];
	if (boot === undefined || boot === '0' || self.boot === '0') return false;
	if (boot !== self.boot) return true;
	if (namespace !== self.namespace) return false;
	if (isGone(Number(pid))) return true;
	const stat = processStat(Number(pid));
	return stat !== undefined && started !== '0' && (stat.started !== started || stat.state === 'Z');
}
