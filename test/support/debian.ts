/** Programs of Debian's packages that a test needs. */

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const POLICY = '/usr/sbin/policy-rc.d';

function isInstalled(program: string): boolean {
	const directories = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'];
	return directories.some((directory) => existsSync(join(directory, program)));
}

/**
 * Installs `packages` unless all of `programs` are there.
 * @returns why it cannot be done; undefined when they are there
 */
export async function installPrograms(
	programs: readonly string[],
	packages: readonly string[],
): Promise<string | undefined> {
	const missing = programs.filter((program) => !isInstalled(program));
	if (missing.length === 0) return undefined;
	if (!isInstalled('apt-get')) return `${missing.join(', ')} missing, and this is no Debian`;
	if (process.getuid?.() !== 0) return `${missing.join(', ')} missing, and only root can install them`;
	process.stderr.write(`installing ${packages.join(', ')} for tests\n`);
	// Says to the packages' scripts: start no services.
	const ownPolicy = !existsSync(POLICY);
	if (ownPolicy) await writeFile(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
	try {
		await aptGet('install', packages).catch(async () => {
			await aptGet('update', []);
			await aptGet('install', packages);
		});
	} catch (error) {
		return `installing ${packages.join(', ')} failed: ${String(error)}`;
	} finally {
		if (ownPolicy) await rm(POLICY, { force: true });
	}
	return undefined;
}

async function aptGet(what: 'install' | 'update', packages: readonly string[]): Promise<void> {
	const rest = what === 'install' ? ['-y', '--no-install-recommends', ...packages] : [];
	await run('apt-get', ['-q', '-o', 'DPkg::Lock::Timeout=600', what, ...rest], {
		env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
		maxBuffer: 2 ** 26,
	});
}
