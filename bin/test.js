// `npm test`: lint, types, dead code, and all tests.

import { prepare, run } from './prepare.js';

prepare();
run('npx', ['biome', 'check', '--error-on-warnings', '.']);
run('npx', ['tsc', '-p', 'tsconfig.test.json']);
run('npx', ['knip']);
run('npx', ['mocha', ...process.argv.slice(2)]);
