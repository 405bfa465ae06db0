import { EXIT_CODES, S3proxyCommand } from '../command.js';
import type { Status as Report, Waiting } from '../operations/status.js';
import { bytesText, durationText } from '../terminal/words.js';

export default class Status extends S3proxyCommand {
	static override summary = 'What waits where: counts, bytes, oldest age; keys; disk.';
	static override description = EXIT_CODES;
	static override examples = ['<%= config.bin %> status', '<%= config.bin %> status --json'];

	async run(): Promise<Report> {
		const { flags } = await this.parse(Status);
		return this.withContext(flags, { keys: 'optional' }, async (context) => {
			const { status } = await import('../operations/status.js');
			const report = await status(context);
			for (const line of lines(report)) this.say(line);
			return report;
		});
	}
}

function lines(report: Report): string[] {
	const free = `${bytesText(report.disk.freeBytes)} of ${bytesText(report.disk.totalBytes)} free`;
	return [
		`root                    ${report.root}`,
		`store                   ${report.store}${report.encryption ? '' : ' (encryption: false)'}`,
		`arriving                ${waiting(report.arriving)}`,
		`markers                 ${waiting(report.markers)}`,
		`waiting for encryption  ${waiting(report.waitingForEncryption)}`,
		`waiting for upload      ${waiting(report.waitingForUpload)}`,
		`fetching                ${waiting(report.fetching)}`,
		`latest key              ${report.keys.latest ?? 'none; make one with: s3proxy rotate-key'}`,
		`older keys              ${report.keys.older.join(' ') || 'none'}`,
		`disk                    ${free}`,
	];
}

function waiting({ count, bytes, oldestSeconds }: Waiting): string {
	if (count === 0) return 'none';
	const oldest = oldestSeconds === null ? '' : `, oldest ${durationText(oldestSeconds)}`;
	return `${count} (${bytesText(bytes)}${oldest})`;
}
