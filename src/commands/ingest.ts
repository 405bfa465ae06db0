import { Args, Flags } from '@oclif/core';
import { EXIT_CODES, S3proxyCommand } from '../command.js';
import type { Stored } from '../operations/ingest.js';
import { artifactPathOfArgument } from '../terminal/path-argument.js';
import { openStdin } from '../terminal/stdin.js';
import { countText } from '../terminal/words.js';

export default class Ingest extends S3proxyCommand {
	static override summary = 'Store a file, or stdin, as artifact PATH: exactly like POST.';
	static override description =
		`When it says that it saved the artifact, the artifact is durable and will end up in the store.\n\n${EXIT_CODES}`;
	static override examples = [
		'<%= config.bin %> ingest app.rpm release/1.0/app.rpm',
		'<%= config.bin %> ingest --move dump.sql.gz dumps/today.sql.gz',
		'pg_dump shop | <%= config.bin %> ingest - dumps/shop.sql',
	];
	static override args = {
		FILE: Args.string({ description: 'the file, or - for stdin', required: true, ignoreStdin: true }),
		PATH: Args.string({ description: 'the artifact path', required: true, ignoreStdin: true }),
	};
	static override flags = {
		move: Flags.boolean({
			description: 'take the file over: no copy where it can be linked, and it is gone afterwards',
		}),
	};

	async run(): Promise<Stored> {
		const { args, flags } = await this.parse(Ingest);
		const path = artifactPathOfArgument(args.PATH);
		return this.withContext(flags, { keys: 'required' }, async (context) => {
			const { ingestFile, ingestStream } = await import('../operations/ingest-source.js');
			const stored =
				args.FILE === '-'
					? await ingestStream(context, openStdin(context.abandon), path)
					: await ingestFile(context, args.FILE, path, { move: flags.move });
			this.say(`saved ${stored.path} (${countText(stored.size, 'byte')})`);
			return stored;
		});
	}
}
