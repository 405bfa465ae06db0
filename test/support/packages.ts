/** The packages, built as `npm run package` does it. */

import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { makeDirectory } from './cli.ts';
import { installPrograms } from './debian.ts';

const run = promisify(execFile);
const BUILD = fileURLToPath(new URL('../../packaging/build.js', import.meta.url));

export interface Packages {
	readonly deb: string;
	readonly rpm: string;
	/** What the build said. */
	readonly said: string;
}

const builds = new Map<number, Promise<Packages>>();

/** Whether both can be built here, with the programs that takes installed if need be. */
export async function canPackage(): Promise<boolean> {
	return (await installPrograms(['dpkg-deb', 'rpmbuild', 'rpm'], ['dpkg', 'rpm'])) === undefined;
}

/** Both packages; one build of each release for the whole test run. @param release a higher one is an upgrade */
export function packages(release: number): Promise<Packages> {
	const build = builds.get(release) ?? buildPackages(release);
	builds.set(release, build);
	return build;
}

async function buildPackages(release: number): Promise<Packages> {
	const out = makeDirectory('suite');
	const { stdout } = await run(process.execPath, [BUILD, '--out', out, '--release', String(release)]);
	const named = (suffix: string) => join(out, readdirSync(out).find((name) => name.endsWith(suffix)) ?? suffix);
	return { deb: named('.deb'), rpm: named('.rpm'), said: stdout };
}

/** A package `nodejs` of the Node.js that runs this, for systems whose own is too old. */
export async function nodePackage(): Promise<string> {
	const directory = makeDirectory('suite');
	const content = join(directory, 'content');
	mkdirSync(join(content, 'DEBIAN'), { recursive: true });
	mkdirSync(join(content, 'usr/bin'), { recursive: true });
	await run('cp', [process.execPath, join(content, 'usr/bin/node')]);
	const { stdout: architecture } = await run('dpkg', ['--print-architecture']);
	const fields = [
		'Package: nodejs',
		`Version: ${process.versions.node}-1`,
		`Architecture: ${architecture.trim()}`,
		'Maintainer: tests <tests@localhost>',
		'Depends: libstdc++6',
		'Description: Node.js of the machine that tests',
	];
	writeFileSync(join(content, 'DEBIAN/control'), `${fields.join('\n')}\n`);
	const file = join(directory, 'nodejs.deb');
	await run('dpkg-deb', ['--root-owner-group', '-Znone', '--build', content, file]);
	return file;
}
