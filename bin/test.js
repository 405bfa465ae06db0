// `npm test`: lint, types, dead code, and all tests. `npm run test:long`: the same with every point of the matrices, and
// what takes minutes. Further arguments go to mocha.

import { prepare, run } from './prepare.js';

const [long, args] = process.argv[2] === '--long' ? [true, process.argv.slice(3)] : [false, process.argv.slice(2)];

prepare();
run('npx', ['biome', 'check', '--error-on-warnings', '.']);
run('npx', ['tsc', '-p', 'tsconfig.test.json']);
run('npx', ['knip']);
run('npx', ['mocha', ...args], { env: { ...process.env, ...(long ? { S3PROXY_TEST_LONG: '1' } : {}) } });
