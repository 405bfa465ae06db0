import { Args, Flags } from '@oclif/core';
import { EXIT_CODES, S3proxyCommand } from '../command.js';
import type { RunResult } from '../operations/run-items.js';
import { artifactPathOfArgument } from '../terminal/path-argument.js';

export default class Evict extends S3proxyCommand {
	static override summary = 'Remove local copies of artifacts that the store has; a GET brings them back.';
	static override description =
		`Each is read back from the store and compared byte for byte before its local copy goes. What waits for encryption or upload is left, and fails.\n\n${EXIT_CODES}`;
	static override examples = [
		'<%= config.bin %> evict release/0.9/app.rpm',
		{
			description: 'What has not been read for 30 days',
			command:
				"cd uploads && find . -type f -atime +30 -printf '%P\\0' | xargs -0r <%= config.bin %> evict --root .. --",
		},
	];
	static override strict = false;
	static override args = { PATH: Args.string({ description: 'artifact paths', required: true, ignoreStdin: true }) };
	static override flags = {
		jobs: Flags.integer({ description: 'how many at a time (default: 8)', min: 1, max: 256 }),
	};

	async run(): Promise<RunResult> {
		const { flags, argv } = await this.parse(Evict);
		const paths = argv.map((argument) => artifactPathOfArgument(String(argument)));
		return this.withContext(flags, { keys: 'required' }, async (context) => {
			const { evict } = await import('../operations/evict.js');
			return this.report(await evict(context, { paths, jobs: flags.jobs }), 'evicted', 'evict');
		});
	}
}
