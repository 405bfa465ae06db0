/** What must hold of a root before anything is done in it: its directories are this user's, and on one file system. */

import { accessSync, constants, readFileSync, type Stats, statSync } from 'node:fs';
import { errnoOf, S3proxyError } from '../errors.js';
import { isErrno } from '../fs/durable.js';
import type { Layout } from './layout.js';

/** The kernel's list of what is mounted where. */
const MOUNT_TABLE = '/proc/self/mountinfo';

interface Directory {
	readonly path: string;
	readonly stats: Stats;
}

/**
 * Refuses a root in which names could not move by `rename` and `link`, or in which this user may not work, or would leave
 * files that its owner cannot remove. Costs a `stat` for each state directory and a look at the mount table.
 * @throws S3proxyError `bad-config`
 */
export function checkRoot({ root, stateDirectories }: Layout): void {
	const found: Directory[] = [];
	for (const path of stateDirectories) {
		const stats = statSync(path, { throwIfNoEntry: false });
		if (stats !== undefined) found.push({ path, stats });
	}
	if (found.length < stateDirectories.length) refuseIfNotWritable(root);
	refuseSeveralFileSystems(root, found);
	refuseMounts(stateDirectories);
	refuseOthersDirectories(found);
}

function refuseIfNotWritable(root: string): void {
	try {
		accessSync(root, constants.W_OK | constants.X_OK);
	} catch (error) {
		const hint = `Run s3proxy as the user who owns it, or make it this user's: chown ${process.geteuid?.()} ${root}`;
		throw new S3proxyError(
			'bad-config',
			`the root ${root} is not writable (${errnoOf(error)}), and not all of its directories are there`,
			{ cause: error, ...(isErrno(error, 'EACCES', 'EPERM') ? { hint } : {}) },
		);
	}
}

function refuseSeveralFileSystems(root: string, found: readonly Directory[]): void {
	const device = statSync(root).dev;
	const other = found.find(({ stats }) => stats.dev !== device);
	if (other !== undefined) throw elsewhere(other.path);
}

/** The same file system mounted a second time has the same device number, and still no name moves from one to the other. */
function refuseMounts(directories: readonly string[]): void {
	for (const point of mountPoints()) {
		if (directories.some((path) => point === path || point.startsWith(`${path}/`))) throw elsewhere(point);
	}
}

function elsewhere(path: string): S3proxyError {
	return new S3proxyError('bad-config', `${path} is on another file system, or mounted on its own`, {
		hint: 'A rename from one to the other is not atomic. Mount one file system at the root, with all of its directories on it.',
	});
}

/** None where the kernel has no such table. */
function mountPoints(): string[] {
	let table: string;
	try {
		table = readFileSync(MOUNT_TABLE, 'utf8');
	} catch {
		return [];
	}
	// Blanks, tabs, newlines and backslashes in names come as octal numbers; other bytes as they are.
	const named = (name: string) =>
		name.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)));
	return table.split('\n').map((line) => named(line.split(' ')[4] ?? ''));
}

function refuseOthersDirectories(found: readonly Directory[]): void {
	const user = process.geteuid?.();
	const others = found.find(({ stats }) => stats.uid !== user);
	if (user === undefined || others === undefined) return;
	const { path, stats } = others;
	throw new S3proxyError('bad-config', `${path} belongs to uid ${stats.uid}, and this is uid ${user}`, {
		hint: `What one user writes there, another could not replace or remove. Run s3proxy as its owner: sudo -u '#${stats.uid}' s3proxy …`,
	});
}
