import { EXIT_CODES, S3proxyCommand } from '../command.js';

export default class Serve extends S3proxyCommand {
	static override summary = 'Run the HTTP shim: POST stores, GET makes sure that the artifact is there.';
	static override description =
		`Listens where listen: in config.yaml says (default: 127.0.0.1:9292), until SIGTERM or SIGINT; what is under way is finished, for up to 10 s.\n\n${EXIT_CODES}`;
	static override examples = ['<%= config.bin %> serve', '<%= config.bin %> serve --root /opt/s3proxy'];

	async run(): Promise<void> {
		const { flags } = await this.parse(Serve);
		await this.withContext(flags, { keys: 'optional' }, async (context) => {
			const { serve } = await import('../http/serve.js');
			await serve(context);
		});
	}
}
