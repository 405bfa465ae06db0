import { Args, Flags } from '@oclif/core';
import { EXIT_CODES, S3proxyCommand } from '../command.js';
import type { RunResult } from '../operations/run-items.js';
import { artifactPathOfArgument } from '../terminal/path-argument.js';

export default class Upload extends S3proxyCommand {
	static override summary = 'Put what waits in encrypted/ into the store: all of it, or just these.';
	static override description = `For crontab: a second run beside the first says so and exits 0.\n\n${EXIT_CODES}`;
	static override examples = ['<%= config.bin %> upload', '<%= config.bin %> upload release/1.0/app.rpm --jobs 2'];
	static override strict = false;
	static override args = { PATH: Args.string({ description: 'artifact paths', ignoreStdin: true }) };
	static override flags = {
		jobs: Flags.integer({ description: 'how many at a time (default: 8)', min: 1, max: 256 }),
	};

	async run(): Promise<RunResult> {
		const { flags, argv } = await this.parse(Upload);
		const paths = argv.map((argument) => artifactPathOfArgument(String(argument)));
		return this.withContext(flags, { keys: 'required' }, async (context) => {
			const { upload } = await import('../operations/upload.js');
			return this.report(await upload(context, { paths, jobs: flags.jobs }), 'uploaded', 'upload');
		});
	}
}
