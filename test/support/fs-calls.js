// Puts something around every call of node:fs that changes the file system below a directory (or looks at it, opens and
// reads there, if asked), and around every HTTP request. For preloads: what is imported afterwards gets the wrapped functions.

import fs from 'node:fs';
import http from 'node:http';
import { syncBuiltinESMExports } from 'node:module';

const { readlinkSync } = fs;

const CHANGES = [
	...['rename', 'link', 'symlink', 'unlink', 'mkdir', 'rmdir', 'rm'],
	...['utimes', 'chmod', 'truncate', 'copyFile', 'writeFile', 'appendFile'],
];
const FD_CHANGES = ['write', 'writev', 'futimes', 'fchmod', 'ftruncate', 'fsync', 'fdatasync'];
const HANDLE_CHANGES = [
	'write',
	'writev',
	'writeFile',
	'appendFile',
	'utimes',
	'chmod',
	'truncate',
	'sync',
	'datasync',
];

const READS = ['opendir', 'readdir', 'readlink', 'lstat', 'stat', 'access'];
const HANDLE_READS = ['read', 'stat'];

const isChangingOpen = (flags) =>
	typeof flags === 'number'
		? (flags & (fs.constants.O_CREAT | fs.constants.O_TRUNC)) !== 0
		: /^[wa]|\+/.test(flags ?? 'r');

/** What an open file is called now; files that were removed have " (deleted)" behind it. */
function pathOf(fd) {
	try {
		return readlinkSync(`/proc/self/fd/${fd}`);
	} catch {
		return '';
	}
}

const STYLES = {
	sync: {
		fail: (error) => {
			throw error;
		},
		after: (proceed, done) => {
			const result = proceed();
			done();
			return result;
		},
	},
	promise: {
		fail: (error) => Promise.reject(error),
		after: async (proceed, done) => {
			const result = await proceed();
			done();
			return result;
		},
	},
	callback: {
		fail: (error, args) => void process.nextTick(args.at(-1), error),
		after: (proceed, done, args) => {
			const callback = args.at(-1);
			return proceed((...results) => {
				done();
				callback(...results);
			});
		},
	},
	request: {
		fail: (error) => {
			throw error;
		},
		after: (proceed, done) => proceed().once('response', done),
	},
};

/**
 * @param options.root calls below this directory; `options.reads`: also those that only look
 * @param around gets `{ name, paths, args, fd, fail(error), after(done) }` and `proceed()`, and returns what one of the last three does
 */
export async function interceptCalls({ root, reads = false }, around) {
	const isBelow = (path) => path === root || path.startsWith(`${root}/`);

	const wrap = (object, name, style, { pathsOf, counts = () => true }) => {
		const original = object[name];
		object[name] = function (...args) {
			const plain = () => original.apply(this, args);
			if (!counts(...args)) return plain();
			const { paths, fd } = pathsOf.call(this, args);
			if (style !== 'request' && !paths.some(isBelow)) return plain();
			const proceed = (callback) =>
				callback === undefined ? plain() : original.apply(this, [...args.slice(0, -1), callback]);
			const { fail, after } = STYLES[style];
			const call = { name: name.replace(/Sync$/, ''), paths, args, fd };
			call.fail = (error) => fail(error, args);
			call.after = (done) => after(proceed, done, args);
			return around(call, proceed);
		};
	};

	const byName = {
		pathsOf: (args) => ({ paths: args.slice(0, 2).filter((arg) => typeof arg === 'string') }),
	};
	const byFd = { pathsOf: ([fd]) => ({ paths: [pathOf(fd)], fd }) };
	const byHandle = {
		pathsOf() {
			return { paths: [pathOf(this.fd)], fd: this.fd };
		},
	};
	const everywhere = (name, how) => {
		wrap(fs.promises, name, 'promise', how);
		wrap(fs, name, 'callback', how);
		wrap(fs, `${name}Sync`, 'sync', how);
	};
	for (const name of CHANGES) everywhere(name, byName);
	everywhere('open', { ...byName, counts: (_file, flags) => reads || isChangingOpen(flags) });
	for (const name of FD_CHANGES) {
		wrap(fs, name, 'callback', byFd);
		wrap(fs, `${name}Sync`, 'sync', byFd);
	}
	if (reads) {
		for (const name of READS) everywhere(name, byName);
		for (const name of ['readSync', 'fstatSync']) wrap(fs, name, 'sync', byFd);
	}
	const handle = await fs.promises.open('/dev/null', 'r');
	const prototype = Object.getPrototypeOf(handle);
	await handle.close();
	for (const name of reads ? [...HANDLE_CHANGES, ...HANDLE_READS] : HANDLE_CHANGES)
		wrap(prototype, name, 'promise', byHandle);

	const ofRequest = ([options]) => ({ paths: [`${options.method} ${options.path}`] });
	wrap(http, 'request', 'request', { pathsOf: ofRequest });
	syncBuiltinESMExports();
}
