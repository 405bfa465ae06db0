// A preload (`node --import`) that writes down every call that has changed the root, and every fsync, when it is done.
//   RECORD_ROOT   the directory
//   RECORD_LOG    a file outside: a line of JSON for each, with what a file holds after it was written to

import fs from 'node:fs';
import { interceptCalls } from './fs-calls.js';

const { appendFileSync, fstatSync, openSync, readFileSync } = fs;
const root = process.env.RECORD_ROOT;
const log = openSync(process.env.RECORD_LOG, 'a');
const WRITES = new Set(['write', 'writev', 'writeFile', 'truncate', 'ftruncate']);

await interceptCalls({ root }, (call, proceed) => {
	// What writeFile opens and writes is told by those calls.
	if (call.name === 'writeFile' && call.fd === undefined) return proceed();
	const names = call.paths;
	return call.after(() => {
		const event = {
			name: call.name,
			paths: names.map((path) => (path.startsWith(`${root}/`) ? path.slice(root.length + 1) : path)),
		};
		if (call.name === 'symlink') event.target = call.args[0];
		if (call.fd !== undefined && WRITES.has(call.name)) {
			event.content = readFileSync(`/proc/self/fd/${call.fd}`).toString('base64');
		}
		const isTime = /^f?utimes$/.test(call.name);
		// To the nanosecond: the directory store knows its objects by it.
		if (call.fd !== undefined && (isTime || WRITES.has(call.name))) {
			event.mtime = String(fstatSync(call.fd, { bigint: true }).mtimeNs);
		}
		appendFileSync(log, `${JSON.stringify(event)}\n`);
	});
});
