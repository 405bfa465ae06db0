#!/usr/bin/env node
// The command line. Loads nothing but oclif and the one command that was asked for.

const [only, ...others] = process.argv.slice(2);
if (others.length === 0 && (only === '--version' || only === '-v')) {
	// In oclif's words; oclif would take twice the time of Node.js itself to say them.
	const { readFile } = await import('node:fs/promises');
	const { name, version } = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8'));
	console.log(`${name}/${version} ${process.platform}-${process.arch} node-${process.version}`);
} else {
	// Saves looking through package.json files for an `engines` warning: two thirds of the start of a small command.
	process.env.OCLIF_DISABLE_ENGINE_WARNING = '1';
	const { execute } = await import('@oclif/core');
	await execute({ dir: import.meta.url });
}
