// What `npm start` and `npm test` do first on any machine: dependencies and build, if they are not there or not up to date.

import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const project = fileURLToPath(new URL('..', import.meta.url));

/** Runs a command in the project's directory; ends this process with its exit code when it fails. */
export function run(command, args, options = {}) {
	const { status, error, signal } = spawnSync(command, args, { cwd: project, stdio: 'inherit', ...options });
	if (error) console.error(`${command}: ${error.message}`);
	if (status === 0) return;
	console.error(`failed: ${[command, ...args].join(' ')}${signal ? ` (${signal})` : ''}`);
	process.exit(status ?? 1);
}

function modified(name) {
	return statSync(`${project}/${name}`, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** Installs what package-lock.json says, unless npm did so after it last changed; then builds. */
export function prepare() {
	const [major, minor] = process.versions.node.split('.').map(Number);
	if (major < 20 || (major === 20 && minor < 19)) {
		console.error(`s3proxy needs Node.js 20.19 or later; this is ${process.versions.node}`);
		process.exit(1);
	}
	if (modified('node_modules/.package-lock.json') < modified('package-lock.json')) {
		// Not `npm ci`: it fails where a registry does not have the optional packages of other platforms.
		run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error']);
	}
	run('npm', ['run', '--silent', 'build']);
}
