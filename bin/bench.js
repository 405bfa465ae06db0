// `npm run bench`: speed and memory, in a table. Takes some minutes; wants a quiet machine.

import { prepare, run } from './prepare.js';

prepare();
run(process.execPath, ['--import', 'tsx', 'bench/bench.ts', ...process.argv.slice(2)]);
