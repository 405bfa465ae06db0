import { Args, Flags } from '@oclif/core';
import { EXIT_CODES, S3proxyCommand } from '../command.js';
import { S3proxyError } from '../errors.js';
import type { RunResult } from '../operations/run-items.js';
import { artifactPathOfArgument } from '../terminal/path-argument.js';

export default class Fetch extends S3proxyCommand {
	static override summary = 'Make sure that artifacts are in uploads/, fetching them from the store if need be.';
	static override description =
		`What is fetched is verified and decrypted; nobody sees it before it is whole.\n\n${EXIT_CODES}`;
	static override examples = [
		'<%= config.bin %> fetch release/1.0/app.rpm',
		'<%= config.bin %> fetch release/1.0/app.rpm --output app.rpm',
		'<%= config.bin %> fetch dumps/shop.sql --output - | psql shop',
	];
	static override strict = false;
	static override args = { PATH: Args.string({ description: 'artifact paths', required: true, ignoreStdin: true }) };
	static override flags = {
		jobs: Flags.integer({ description: 'how many at a time (default: 8)', min: 1, max: 256 }),
		output: Flags.string({ description: 'copy the artifact there, too; - is stdout', helpValue: 'FILE' }),
	};

	async run(): Promise<RunResult> {
		const { flags, argv } = await this.parse(Fetch);
		const paths = argv.map((argument) => artifactPathOfArgument(String(argument)));
		const { output } = flags;
		const [first] = paths;
		if (output !== undefined && paths.length !== 1) throw new S3proxyError('bad-usage', '--output takes one PATH');
		if (output === '-' && this.jsonEnabled())
			throw new S3proxyError('bad-usage', '--output - and --json both want stdout');
		return this.withContext(flags, { keys: 'required' }, async (context) => {
			const { copyOut, fetchAll } = await import('../operations/fetch.js');
			const result = await fetchAll(context, paths, flags.jobs);
			if (output !== undefined && first !== undefined && result.failed === 0) await copyOut(context, first, output);
			return output === '-' ? this.exitWith(result) : this.report(result, 'fetched', 'fetch');
		});
	}
}
