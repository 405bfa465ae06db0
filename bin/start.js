// `npm start`: the service on this directory as its root, with the pipeline running every few seconds, as cron would.

import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { prepare, project } from './prepare.js';

const PIPELINE_PAUSE_MS = 3000;
const cli = `${project}/bin/run.js`;

prepare();

const stopping = new AbortController();
const children = new Set();

/** Runs `s3proxy args`; resolves with its exit code. */
function s3proxy(args, stdio) {
	const child = spawn(process.execPath, [cli, ...args], { cwd: project, stdio });
	children.add(child);
	const ended = new Promise((resolve) => {
		child.on('error', (error) => {
			console.error(error.message);
			resolve(1);
		});
		child.on('close', (code) => resolve(code ?? 1));
	}).finally(() => children.delete(child));
	return { child, ended };
}

for (const signal of ['SIGINT', 'SIGTERM']) {
	process.on(signal, () => {
		stopping.abort();
		// From a terminal, Ctrl-C reaches the children by itself; a second signal would cut their clean stop short.
		if (signal === 'SIGTERM' || !process.stdin.isTTY) for (const child of children) child.kill('SIGTERM');
	});
}

async function pipeline() {
	while (!stopping.signal.aborted) {
		for (const stage of ['encrypt', 'upload']) {
			if (!stopping.signal.aborted) await s3proxy([stage, '--quiet'], ['ignore', 'inherit', 'inherit']).ended;
		}
		await sleep(PIPELINE_PAUSE_MS, undefined, { signal: stopping.signal }).catch(() => {});
	}
}

function greet(address) {
	console.log(`
s3proxy runs. Try it from another terminal, in ${project}:

  curl -F file=@README.md ${address}/docs/hello                          # store a file
  curl -s ${address}/docs/hello | cmp - README.md && find bucket -type f  # some seconds later: it is in the bucket, encrypted
  rm uploads/docs/hello && curl -s ${address}/docs/hello | head -3        # remove the local copy, and get it back

Stop with Ctrl-C.
`);
}

const { child, ended } = s3proxy(['serve'], ['ignore', 'inherit', 'pipe']);
let log = '';
let greeted = false;
child.stderr.on('data', (chunk) => {
	process.stderr.write(chunk);
	if (greeted) return;
	log += chunk;
	const address = /listening on (http:\S+)/.exec(log)?.[1];
	if (address === undefined) return;
	greeted = true;
	greet(address);
	void pipeline();
});
process.exitCode = await ended;
stopping.abort();
