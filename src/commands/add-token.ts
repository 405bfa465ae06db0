import { Args } from '@oclif/core';
import { EXIT_CODES, S3proxyCommand } from '../command.js';
import type { AddedToken } from '../operations/add-token.js';

export default class AddToken extends S3proxyCommand {
	static override summary = 'Make a token with which NAME may upload; it is shown once, on stdout.';
	static override description =
		`The file that auth: in config.yaml names gets a line with the token's hash. Other tokens stay, also those of NAME; to take one back, remove its line. A running serve sees both at once.\n\n${EXIT_CODES}`;
	static override examples = [
		'<%= config.bin %> add-token ci',
		'TOKEN=$(<%= config.bin %> add-token ci) && curl -H "Authorization: Bearer $TOKEN" -F file=@app.rpm http://127.0.0.1:9292/app.rpm',
	];
	static override args = {
		NAME: Args.string({ description: 'who it is for, as the log names it', required: true, ignoreStdin: true }),
	};

	async run(): Promise<AddedToken> {
		const { args, flags } = await this.parse(AddToken);
		return this.withContext(flags, { keys: 'unchecked' }, async (context) => {
			const { addToken } = await import('../operations/add-token.js');
			const added = await addToken(context, args.NAME);
			// The result itself: --quiet does not leave it out.
			this.log(added.token);
			context.log.info(`${args.NAME} may upload with this token, which is not shown again; ${added.file} has its hash`);
			return added;
		});
	}
}
