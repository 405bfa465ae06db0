// `npm run crash-matrix`: runs all matrices of test/crash at every point, which takes long, and writes docs/crash-matrix.md.
// `npm run crash-matrix -- --fast` tries what `npm test` tries. Further arguments go to mocha.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { prepare, project, run } from './prepare.js';

const [fast, args] = process.argv[2] === '--fast' ? [true, process.argv.slice(3)] : [false, process.argv.slice(2)];
const directory = mkdtempSync(join(tmpdir(), 's3proxy-crash-matrix-'));
const rowsFile = join(directory, 'rows');
writeFileSync(rowsFile, '');

prepare();
// Without .mocharc.json, which names all tests.
const options = ['--no-config', '--node-option', 'import=tsx', '--reporter', 'test/support/reporter.cjs'];
run('npx', ['mocha', ...options, 'test/crash/*.test.ts', ...args], {
	env: { ...process.env, CRASH_MATRIX_ROWS: rowsFile, ...(fast ? {} : { S3PROXY_TEST_LONG: '1' }) },
});

const rows = readFileSync(rowsFile, 'utf8')
	.split('\n')
	.filter((line) => line !== '')
	.map((line) => JSON.parse(line));
rmSync(directory, { recursive: true });

const sum = (name, counted = rows) => counted.reduce((total, row) => total + row[name], 0);
// What a soak counts is operations.
const points = sum(
	'points',
	rows.filter(({ matrix }) => matrix !== 'soak'),
);
const body = rows.map(
	({ matrix, scenario, points, outcomes, findings }) =>
		`| ${scenario} | ${matrix} | ${points} | ${outcomes.join(', ')} | ${findings} |`,
);
const text = `# What was tried to lose an artifact

Written by \`npm run crash-matrix${fast ? ' -- --fast' : ''}\`; do not edit. ${
	fast
		? 'This is the fast part, which `npm test` tries, too: some points of each matrix.'
		: 'Every point of each matrix.'
}
A point is one call that changes the root, or one request to the store. After each, docs/state.md is checked: what readers see,
the state before repair, that repair makes it sound, and that the pipeline brings the newest acknowledged version of every path
into the store and back.

- **kill**, **kill-after**: SIGKILL before the call, after the call. **kill, then repair killed**: and \`repair\` killed at a point of its own.
- **ENOSPC** and the like: the call fails; with ENOSPC all that need space do from then on, with EROFS all; with EIO, EACCES and EMFILE a point is also a call that only looks. The outcome is the exit code, or the HTTP status.
- **power cut**: names that were not synced are gone or there, data that was not synced is lost or zeros.
- **held**, **overtaken**: the first command is stopped at the point while the second runs; overtaken: with its locks stale. The outcome is both exit codes.
- **store faults**: every fault of the proxy at every request. The outcome is \`done\` or what it failed with.
- **soak**: everything at once. The outcome is how often each thing happened.

${points} points and a soak, ${sum('findings')} findings.

| scenario | matrix | points | outcomes | findings |
| --- | --- | --- | --- | --- |
${body.join('\n')}
`;
writeFileSync(join(project, 'docs/crash-matrix.md'), text);
process.stdout.write(`${points} points and a soak, ${sum('findings')} findings: docs/crash-matrix.md\n`);
