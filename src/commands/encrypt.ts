import { Args, Flags } from '@oclif/core';
import { EXIT_CODES, S3proxyCommand } from '../command.js';
import type { RunResult } from '../operations/run-items.js';
import { artifactPathOfArgument } from '../terminal/path-argument.js';

export default class Encrypt extends S3proxyCommand {
	static override summary = 'Seal what waits in to_encrypt/: all of it, or just these.';
	static override description = `For crontab: a second run beside the first says so and exits 0.\n\n${EXIT_CODES}`;
	static override examples = ['<%= config.bin %> encrypt', '<%= config.bin %> encrypt release/1.0/app.rpm --jobs 2'];
	static override strict = false;
	static override args = { PATH: Args.string({ description: 'artifact paths', ignoreStdin: true }) };
	static override flags = {
		jobs: Flags.integer({ description: 'how many at a time (default: one a core)', min: 1, max: 256 }),
	};

	async run(): Promise<RunResult> {
		const { flags, argv } = await this.parse(Encrypt);
		const paths = argv.map((argument) => artifactPathOfArgument(String(argument)));
		return this.withContext(flags, { keys: 'required' }, async (context) => {
			const { encrypt } = await import('../operations/encrypt.js');
			return this.report(await encrypt(context, { paths, jobs: flags.jobs }), 'encrypted', 'encrypt');
		});
	}
}
