// A process that takes locks, on the built state library.
//   hold ROOT KIND PATH          says "held", keeps the lock until stdin ends, then says "released" or the error's code
//   count ROOT PATH TIMES FILE   takes the path's lock that many times; the file tells if another is in it meanwhile

import { open, unlink } from 'node:fs/promises';
import { Layout } from '../../dist/state/layout.js';
import { Locks } from '../../dist/state/locks.js';

const [what, root, ...rest] = process.argv.slice(2);
const never = new AbortController().signal;
const locks = new Locks(new Layout(root), 60);
const say = (line) => process.stdout.write(`${line}\n`);

const stdinEnds = async () => {
	for await (const _ of process.stdin);
};

const hold = async (lock) => {
	say('held');
	await stdinEnds();
	await lock.assertHeld();
};

try {
	if (what === 'hold') {
		const [kind, name] = rest;
		if (kind === 'path') await locks.withPath(name, never, hold);
		else if (kind === 'fetch') await locks.withFetch(name, never, hold);
		else if (kind === 'put') await locks.withPut(name, never, hold);
		else await locks.withRun(name, hold);
		say('released');
	} else {
		const [path, times, file] = rest;
		say('ready');
		await stdinEnds();
		for (let count = 0; count < Number(times); count++) {
			await locks.withPath(path, never, async (lock) => {
				const alone = await open(file, 'wx');
				try {
					await lock.assertHeld();
				} finally {
					await alone.close();
					await unlink(file);
				}
			});
		}
		say('done');
	}
} catch (error) {
	say(`failed: ${error.code ?? error.stack} ${error.message}`);
	process.exitCode = 1;
}
