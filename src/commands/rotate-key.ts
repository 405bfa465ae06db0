import { EXIT_CODES, S3proxyCommand } from '../command.js';
import type { Rotated } from '../operations/rotate-key.js';

export default class RotateKey extends S3proxyCommand {
	static override summary = 'Make a new key; what is sealed from now on is sealed with it.';
	static override description =
		`Old keys stay: what was sealed with them is still read. Keep a copy of keys/ in a safe place; without it, what is in the bucket cannot be read by anybody.\n\n${EXIT_CODES}`;
	static override examples = ['<%= config.bin %> rotate-key'];

	async run(): Promise<Rotated> {
		const { flags } = await this.parse(RotateKey);
		return this.withContext(flags, { keys: 'unchecked' }, async (context) => {
			const { rotateKey } = await import('../operations/rotate-key.js');
			const rotated = await rotateKey(context);
			this.say(`old key: ${rotated.oldKeyId ?? 'none'}`);
			this.say(`new key: ${rotated.newKeyId} (${rotated.file})`);
			this.say('Keep a copy of keys/ in a safe place now: without it, what is in the bucket cannot be read.');
			return rotated;
		});
	}
}
