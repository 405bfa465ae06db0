#!/usr/bin/env node
// The command line. Loads nothing but oclif and the one command that was asked for.

// Saves looking through package.json files for an `engines` warning: two thirds of the start of a small command.
process.env.OCLIF_DISABLE_ENGINE_WARNING = '1';

const { execute } = await import('@oclif/core');
await execute({ dir: import.meta.url });
