// `npm run crash-matrix`: runs all matrices of test/crash at every point, which takes some hours, and writes
// docs/crash-matrix.md. `-- --fast` tries what `npm test` tries. Further arguments go to mocha: `-- -g 'power cut'` tries some
// of the matrices, and replaces only their rows.

import { spawnSync } from 'node:child_process';
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
// What is found fails this command, and is on the page, too.
const { status } = spawnSync('npx', ['mocha', ...options, 'test/crash/*.test.ts', ...args], {
	cwd: project,
	stdio: 'inherit',
	env: { ...process.env, CRASH_MATRIX_ROWS: rowsFile, ...(fast ? {} : { S3PROXY_TEST_LONG: '1' }) },
});
process.exitCode = status ?? 1;

const page = join(project, 'docs/crash-matrix.md');
const earlier = args.length === 0 ? [] : rowsOf(readFileSync(page, 'utf8'));
const tried = readFileSync(rowsFile, 'utf8')
	.split('\n')
	.filter((line) => line !== '')
	.map((line) => JSON.parse(line));
rmSync(directory, { recursive: true });
const rows = [...new Map([...earlier, ...tried].map((row) => [`${row.matrix}, ${row.scenario}`, row])).values()];
rows.sort((one, other) => one.matrix.localeCompare(other.matrix));

const sum = (name, of) => of.reduce((total, row) => total + row[name], 0);
const matrices = [...new Set(rows.map(({ matrix }) => matrix))].map((matrix) => {
	const of = rows.filter((row) => row.matrix === matrix);
	const { length: long } = of.filter(({ extent }) => extent === 'long');
	return `| ${matrix} | ${of.length} | ${long} | ${sum('points', of)} | ${sum('findings', of)} |`;
});
const body = rows.map(
	({ scenario, matrix, points, extent, outcomes, findings }) =>
		`| ${scenario} | ${matrix} | ${points} | ${extent} | ${outcomes} | ${findings} |`,
);
const text = `# What was tried to lose an artifact

Written by \`npm run crash-matrix\`; do not edit. Where the extent is \`long\`, every point was tried; where it is \`fast\`, some, as
by \`npm test\`.

A point is one call that changes the root, or one request to the store. After each, docs/state.md is checked: what readers see,
the state before repair, that repair makes it sound, and that the pipeline brings the newest acknowledged version of every path
into the store and back.

- **kill**, **kill-after**: SIGKILL before the call, after the call. **kill, then repair killed**: and \`repair\` killed at a point of its own.
- **ENOSPC** and the like: the call fails; with ENOSPC all that need space do from then on, with EROFS all; with EIO, EACCES and EMFILE a point is also a call that only looks. The outcome is the exit code, or the HTTP status.
- **power cut**: names that were not synced are gone or there, data that was not synced is lost or zeros.
- **held**, **overtaken**: the first command is stopped at the point while the second runs; overtaken: with its locks stale. **overtaken, killed**: and the first comes no further. The outcome is both exit codes.
- **store faults**: every fault of the proxy at every request. The outcome is \`done\` or what it failed with.
- **soak**: everything at once. What is counted is operations; the outcome is how often each thing happened.

| matrix | scenarios | of them long | points | findings |
| --- | --- | --- | --- | --- |
${matrices.join('\n')}

| scenario | matrix | points | extent | outcomes | findings |
| --- | --- | --- | --- | --- | --- |
${body.join('\n')}
`;
writeFileSync(page, text);
// As `npm test` wants it.
run('npx', ['biome', 'format', '--write', page]);
process.stdout.write(`${matrices.join('\n')}\n`);

/** The rows that a page has. */
function rowsOf(text) {
	const cells = [...text.matchAll(/^\| (.+) \|$/gm)].map(([, line]) => line.split('|').map((cell) => cell.trim()));
	return cells
		.filter(({ length }) => length === 6)
		.slice(2)
		.map(([scenario, matrix, points, extent, outcomes, findings]) => ({
			...{ scenario, matrix, extent, outcomes },
			...{ points: Number(points), findings: Number(findings) },
		}));
}
