// `npm test`: lint, types, dead code, and all tests. `npm run test:long`: the same with every point of the matrices, and
// what takes minutes. Further arguments go to mocha.

import { spawn } from 'node:child_process';
import { prepare, project, run } from './prepare.js';

const [long, args] = process.argv[2] === '--long' ? [true, process.argv.slice(3)] : [false, process.argv.slice(2)];
const env = { ...process.env, ...(long ? { S3PROXY_TEST_LONG: '1' } : {}) };

/** Most of what tests do is to start processes and wait, so one process of mocha would leave a processor idle. */
const HALVES = ['test/{cli,edge,http,properties,state,store,unit}/**', 'test/{crash,install}/**'];

/** Runs all tests but `ignored`; `shown`: as it comes, otherwise at the end. @returns its counts, and whether it was green */
async function mocha(ignored, shown) {
	const child = spawn(process.execPath, [`${project}/node_modules/mocha/bin/mocha.js`, '--ignore', ignored], {
		cwd: project,
		env,
		stdio: ['ignore', 'pipe', shown ? 'inherit' : 'pipe'],
	});
	const output = [];
	child.stdout.on('data', (chunk) => {
		output.push(chunk);
		if (shown) process.stdout.write(chunk);
	});
	child.stderr?.on('data', (chunk) => output.push(chunk));
	const code = await new Promise((resolve) => child.on('close', resolve));
	const text = Buffer.concat(output).toString();
	if (!shown) process.stdout.write(text);
	const [, ...counts] = /(\d+) passed, (\d+) failed, (\d+) skipped\s*$/.exec(text) ?? [];
	return { counts: counts.map(Number), green: code === 0 && counts.length > 0 };
}

prepare();
run('npx', ['biome', 'check', '--error-on-warnings', '.']);
run('npx', ['tsc', '-p', 'tsconfig.test.json']);
run('npx', ['knip']);
if (args.length > 0) {
	run('npx', ['mocha', ...args], { env });
} else {
	const halves = await Promise.all(HALVES.map((ignored, half) => mocha(ignored, half === 0)));
	const [passed, failed, skipped] = [0, 1, 2].map((of) =>
		halves.reduce((sum, { counts }) => sum + (counts[of] ?? 0), 0),
	);
	console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
	if (!halves.every(({ green }) => green)) process.exitCode = 1;
}
