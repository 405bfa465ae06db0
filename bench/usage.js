// Preloaded into a measured process: writes its CPU seconds and peak memory to a file when it ends.

import { writeFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

if (isMainThread && process.env.BENCH_USAGE) {
	process.on('exit', () => {
		const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage();
		const usage = { cpuSeconds: (userCPUTime + systemCPUTime) / 1e6, peakMiB: maxRSS / 1024 };
		writeFileSync(process.env.BENCH_USAGE, JSON.stringify(usage));
	});
}
