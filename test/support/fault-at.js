// A preload (`node --import`) that kills the process with SIGKILL right before its n-th call that changes a file system.
//   CRASH_LOG   a file outside the root, to which every such call appends its name: 64 bytes each
//   CRASH_AT    n; 0: only count
// The log is shared by all threads of the process, which its length therefore counts.

import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const at = Number(process.env.CRASH_AT ?? 0);
const log = fs.openSync(process.env.CRASH_LOG, 'a+');
const { fstatSync, writeSync } = fs;
const RECORD = 64;

const isMutatingOpen = (flags) =>
	typeof flags === 'number'
		? (flags & (fs.constants.O_CREAT | fs.constants.O_TRUNC)) !== 0
		: /^[wa]|\+/.test(flags ?? 'r');

function step(name) {
	if (at > 0 && fstatSync(log).size / RECORD + 1 >= at) process.kill(process.pid, 'SIGKILL');
	writeSync(log, `${name.slice(0, RECORD - 1).padEnd(RECORD - 1)}\n`);
}

function wrap(object, name, counts = () => true) {
	const original = object[name];
	object[name] = function (...args) {
		if (counts(...args)) step(`${name} ${typeof args[0] === 'string' ? args[0].split('/').slice(-3).join('/') : ''}`);
		return original.apply(this, args);
	};
}

const CHANGES = [
	'rename',
	'link',
	'symlink',
	'unlink',
	'mkdir',
	'rmdir',
	'rm',
	'utimes',
	'chmod',
	'truncate',
	'copyFile',
	'writeFile',
	'appendFile',
];
for (const name of CHANGES) {
	wrap(fs.promises, name);
	wrap(fs, name);
	wrap(fs, `${name}Sync`);
}
for (const object of [fs.promises, fs]) wrap(object, 'open', (_file, flags) => isMutatingOpen(flags));
wrap(fs, 'openSync', (_file, flags) => isMutatingOpen(flags));

// stdout and stderr are pipes here; those below are the changes of files that are open.
const isFile = (fd) => fstatSync(fd).isFile();
for (const name of [
	'write',
	'writev',
	'writeSync',
	'writevSync',
	'futimes',
	'fchmod',
	'ftruncate',
	'futimesSync',
	'fchmodSync',
	'ftruncateSync',
])
	wrap(fs, name, isFile);
const handle = await fs.promises.open('/dev/null', 'r');
const prototype = Object.getPrototypeOf(handle);
await handle.close();
for (const name of ['write', 'writev', 'writeFile', 'appendFile', 'utimes', 'chmod', 'truncate']) wrap(prototype, name);

syncBuiltinESMExports();
