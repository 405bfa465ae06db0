// A preload (`node --import`) that does something bad to the process at its n-th call that changes the root, or at its n-th
// request to the store, whatever comes.
//   FAULT_ROOT    the directory whose calls count
//   FAULT_LOG     a file outside, to which every such call appends its name: 160 bytes each, "!" first where the fault was
//   FAULT_AT      n; 0: only count
//   FAULT_MATCH   instead of FAULT_AT: the first call whose name and paths match; "A then B": the first B after an A
//   FAULT_MODE    kill, kill-after, hold (SIGSTOP before the call), hold-kill (the same, and SIGKILL before the next one), or
//                 an errno, which the call fails with; requests do not count then: one that fails is a fault of the store,
//                 which others inject
//   FAULT_STICKY  1: with an errno, also every later call that needs space; 2: every later call (hold: stops at each)
//   FAULT_READS   1: looking, opening and reading count too
// The log is shared by all threads of the process, which its length therefore counts.

import fs from 'node:fs';
import { constants } from 'node:os';
import { interceptCalls } from './fs-calls.js';

const env = process.env;
const root = env.FAULT_ROOT;
const at = Number(env.FAULT_AT ?? 0);
const matches = env.FAULT_MATCH?.split(' then ').map((text) => new RegExp(text));
const mode = env.FAULT_MODE ?? 'kill';
const sticky = Number(env.FAULT_STICKY ?? 0);
const isErrno = /^E/.test(mode);
const NEEDS_NO_SPACE = new Set([
	'unlink',
	'rmdir',
	'rm',
	'open',
	'chmod',
	'fchmod',
	'utimes',
	'futimes',
	'fsync',
	'sync',
]);

const log = fs.openSync(env.FAULT_LOG, 'a+');
const { fstatSync, writeSync } = fs;
const RECORD = 160;
let begun = false;

function isHit(call, text) {
	if (begun && sticky > 0) return sticky === 2 || !NEEDS_NO_SPACE.has(call.name);
	if (matches !== undefined) {
		if (matches[0]?.test(text)) return matches.shift() && matches.length === 0;
		return false;
	}
	return at > 0 && (/^kill/.test(mode) ? at <= countSoFar() + 1 : at === countSoFar() + 1);
}

const countSoFar = () => fstatSync(log).size / RECORD;

function write(line) {
	writeSync(
		log,
		`${Buffer.from(line.padEnd(RECORD))
			.toString('latin1')
			.slice(0, RECORD - 1)}\n`,
		null,
		'latin1',
	);
}

function errnoError(call) {
	const error = new Error(`${mode}: injected, ${call.name} '${call.paths.join("' -> '")}'`);
	return Object.assign(error, { code: mode, errno: -constants.errno[mode], syscall: call.name, path: call.paths[0] });
}

await interceptCalls({ root, reads: env.FAULT_READS === '1' }, (call, proceed) => {
	if (isErrno && call.name === 'request') return proceed();
	if (begun && mode === 'hold-kill') process.kill(process.pid, 'SIGKILL');
	const text = `${call.name} ${call.paths.map((path) => path.replace(`${root}/`, '')).join(' ')}`;
	const hit = isHit(call, text);
	if (hit && mode === 'kill') process.kill(process.pid, 'SIGKILL');
	write(hit ? `!${text}` : text);
	if (!hit) return proceed();
	begun = true;
	if (isErrno) return call.fail(errnoError(call));
	if (/^hold/.test(mode)) {
		process.kill(process.pid, 'SIGSTOP');
		return proceed();
	}
	return call.after(() => process.kill(process.pid, 'SIGKILL'));
});
