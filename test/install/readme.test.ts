import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { LONG } from '../support/extent.ts';
import { boot, canBoot, type Machine } from '../support/machine.ts';
import { needs } from '../support/needs.ts';
import { canPackage, packages } from '../support/packages.ts';

const README = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
const [, block = ''] = /## Install\n.*?```sh\n(.*?)```/s.exec(README) ?? [];
const commands = block.trim().split('\n');

describe('the README’s installation', function () {
	this.timeout(600_000);
	let machine: Machine;

	it('has at most ten commands', () => {
		expect(commands).to.have.length.within(1, 10);
	});

	// Varnish brings a compiler: a minute more to download than everything else.
	if (!LONG) return;

	before(async function () {
		needs(this, (await canBoot()) && (await canPackage()), 'root on Debian, to boot a machine of its own');
		machine = await boot(['nginx', 'varnish', 'cron']);
		await machine.bring((await packages(1)).deb);
	});

	after(() => machine?.stop());

	it('ends, as typed, with an artifact that came through Varnish and nginx', async () => {
		const said = await machine.sure(`cd /root\n${block}`);
		expect(said).to.include('saved hello (');
		expect(said).to.include('ID=debian');
		// nginx sets no Age.
		expect(await machine.sure('curl -sI http://localhost/hello')).to.match(/^HTTP\/1\.1 200 .*\nAge: \d+/is);
	});

	it('brings an artifact back through all three when its local copy is gone', async () => {
		await machine.until('[ -z "$(find /opt/s3proxy/to_encrypt /opt/s3proxy/encrypted ! -type d)" ]');
		await machine.sure('rm /opt/s3proxy/uploads/hello; systemctl restart varnish');
		await machine.until('curl -sf http://localhost/hello | cmp - /etc/os-release');
		await machine.sure('cmp /opt/s3proxy/uploads/hello /etc/os-release');
	});

	it('has nothing that failed, also after a reboot', async () => {
		await machine.reboot();
		await machine.until('curl -sf http://localhost/hello | cmp - /etc/os-release');
		expect((await machine.run('systemctl --failed --no-legend --plain')).stdout).to.equal('');
	});

	it('works with cron instead of the timers', async () => {
		await machine.sure(
			'cp /usr/share/s3proxy/s3proxy.cron /etc/cron.d/s3proxy; systemctl disable --now s3proxy-encrypt.timer s3proxy-upload.timer s3proxy-repair.timer',
		);
		await machine.sure('curl -sf -F file=@/etc/hostname http://localhost/by-cron');
		await machine.until('ls /opt/s3proxy/bucket/*/by-cron && [ ! -e /opt/s3proxy/encrypted/*/by-cron ]');
		expect(await machine.sure('find /opt/s3proxy/bucket /opt/s3proxy/locks ! -user s3proxy')).to.equal('');
	});
});
