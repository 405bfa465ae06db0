/** A command that is stopped at one of its calls, while something else happens. */

import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { type Ended, ended, startS3proxy } from '../support/cli.js';
import { until } from '../support/serve.js';
import { CallLog, type Fault, faulty } from './driver.js';

export interface Holdable {
	readonly child: ChildProcess;
	readonly log: CallLog;
	readonly end: Promise<Ended>;
	hasEnded(): boolean;
}

/** Starts a command with a fault; `stdin` is all that it is given to read. */
export function startHeld(root: string, command: readonly string[], fault: Fault, stdin?: Buffer): Holdable {
	const log = new CallLog();
	const child = startS3proxy(root, command, faulty(root, log, fault));
	child.stdin?.on('error', () => undefined);
	child.stdin?.end(stdin ?? '');
	return { child, log, end: ended(child), hasEnded: () => child.exitCode !== null || child.signalCode !== null };
}

/** Waits until it is stopped: then true. False when it has ended instead. */
export async function comesToRest(command: Holdable): Promise<boolean> {
	await until(() => command.hasEnded() || isStopped(command.child));
	return !command.hasEnded();
}

function isStopped({ pid }: ChildProcess): boolean {
	const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
	return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T');
}

/** Lets a command that is stopped at every call run to its end. */
export async function goesOn(command: Holdable): Promise<Ended> {
	do command.child.kill('SIGCONT');
	while (await comesToRest(command));
	return command.end;
}
