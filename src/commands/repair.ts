import { Flags } from '@oclif/core';
import { EXIT_CODES, S3proxyCommand } from '../command.js';
import type { Finding } from '../operations/repair.js';
import { countText } from '../terminal/words.js';

export default class Repair extends S3proxyCommand {
	static override summary = 'After a crash, and weekly: mend what was begun and not ended.';
	static override description =
		`Takes the same locks as everything else, so that it is safe while the service runs. Never removes an artifact.\n\n${EXIT_CODES}`;
	static override examples = ['<%= config.bin %> repair', '<%= config.bin %> repair --dry-run'];
	static override flags = { 'dry-run': Flags.boolean({ description: 'only tell what would be done' }) };

	async run(): Promise<{ findings: Finding[]; errors: string[] }> {
		const { flags } = await this.parse(Repair);
		return this.withContext(flags, { keys: 'optional' }, async (context) => {
			const { repair } = await import('../operations/repair.js');
			const findings: Finding[] = [];
			const report = (finding: Finding) => {
				// Kept for --json alone: a root may have a great many.
				if (this.jsonEnabled()) findings.push(finding);
				this.say(`${finding.what}: ${finding.where}: ${finding.done}`);
			};
			const repaired = await repair(context, report, { dryRun: flags['dry-run'] });
			const found = countText(repaired.findings, 'finding');
			if (flags['dry-run']) this.say(`${found}; nothing was changed`);
			else if (repaired.errors.length === 0) this.say(`the root is sound; ${found}`);
			process.exitCode = repaired.errors[0]?.outcome.exit ?? 0;
			return { findings, errors: repaired.errors.map(({ message }) => message) };
		});
	}
}
