import { Args, Flags } from '@oclif/core';
import { EXIT_CODES, S3proxyCommand } from '../command.js';
import type { RunResult } from '../operations/run-items.js';

export default class ReEncrypt extends S3proxyCommand {
	static override summary = 'Bring every object under an older key to the latest one.';
	static override description =
		`Streams through this machine and stores nothing on it. May be killed and run again at any time.\n\n${EXIT_CODES}`;
	static override examples = [
		'<%= config.bin %> re-encrypt --dry-run',
		'<%= config.bin %> re-encrypt --delete-old',
		'<%= config.bin %> re-encrypt release/1. --jobs 2',
	];
	static override strict = false;
	static override args = {
		PREFIX: Args.string({ description: 'beginnings of artifact paths (default: all)', ignoreStdin: true }),
	};
	static override flags = {
		'delete-old': Flags.boolean({ description: 'remove what the latest key has now' }),
		'dry-run': Flags.boolean({ description: 'only tell what would be done' }),
		'from-legacy': Flags.boolean({
			description: 'also bring over objects of the Ruby ancestor, which nothing authenticates',
		}),
		jobs: Flags.integer({ description: 'how many at a time (default: 8)', min: 1, max: 256 }),
	};

	async run(): Promise<RunResult> {
		const { flags, argv } = await this.parse(ReEncrypt);
		return this.withContext(flags, { keys: 'required' }, async (context) => {
			const { reEncrypt } = await import('../operations/re-encrypt.js');
			const result = await reEncrypt(context, {
				prefixes: argv.map((argument) => String(argument).replace(/^\/+/, '')),
				jobs: flags.jobs,
				deleteOld: flags['delete-old'],
				dryRun: flags['dry-run'],
				fromLegacy: flags['from-legacy'],
			});
			return this.report(result, flags['dry-run'] ? 'would have re-encrypted' : 're-encrypted', 're-encrypt');
		});
	}
}
