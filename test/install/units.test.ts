import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { makeDirectory } from '../support/cli.ts';
import { needs } from '../support/needs.ts';

const run = promisify(execFile);
const SYSTEMD = fileURLToPath(new URL('../../systemd', import.meta.url));
const units = readdirSync(SYSTEMD).filter((name) => /\.(service|timer)$/.test(name));
const services = units.filter((name) => name.endsWith('.service'));
/** Of 10; systemd's own word for it is "OK". */
const MOST_EXPOSURE = 2.0;

describe('the systemd units', () => {
	before(function () {
		needs(this, existsSync('/usr/bin/systemd-analyze'), 'systemd-analyze');
	});

	it('are correct: systemd-analyze has nothing to say', async () => {
		const directory = makeDirectory();
		mkdirSync(join(directory, 'usr/bin'), { recursive: true });
		// It looks for the programs, too, and this machine has none of ours.
		const program = join(directory, 'usr/bin/s3proxy');
		writeFileSync(program, '', { mode: 0o755 });
		for (const unit of units) {
			const text = readFileSync(join(SYSTEMD, unit), 'utf8').replaceAll('/usr/bin/s3proxy', program);
			writeFileSync(join(directory, unit), text);
		}
		const files = units.map((unit) => join(directory, unit));
		const { stdout, stderr } = await run('systemd-analyze', ['verify', '--man=no', ...files]);
		expect(stdout + stderr).to.equal('');
	});

	for (const service of services) {
		it(`${service} is exposed by no more than ${MOST_EXPOSURE}`, async () => {
			const args = ['security', '--offline=true', '--no-pager', join(SYSTEMD, service)];
			const { stdout } = await run('systemd-analyze', args);
			const exposure = Number(/Overall exposure level for \S+: (\d+\.\d)/.exec(stdout)?.[1]);
			expect(exposure, stdout).to.be.at.most(MOST_EXPOSURE);
		});
	}

	it('have one sandbox, and only the root is writable', () => {
		const writable = services.map((name) =>
			readFileSync(join(SYSTEMD, name), 'utf8').match(/^(ReadWritePaths|ProtectSystem)=.*/gm),
		);
		for (const lines of writable) expect(lines).to.deep.equal(['ProtectSystem=strict', 'ReadWritePaths=/opt/s3proxy']);
	});
});
