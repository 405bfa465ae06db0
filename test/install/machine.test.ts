/** The packages on a machine: a Debian of its own, booted, with real systemd. */

import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { makeDirectory } from '../support/cli.ts';
import { LONG } from '../support/extent.ts';
import { boot, canBoot, type Machine, makeSystem } from '../support/machine.ts';
import { needs } from '../support/needs.ts';
import { canPackage, packages } from '../support/packages.ts';

const run = promisify(execFile);
const ADDRESS = 'http://127.0.0.1:9292';
const TIMERS = 's3proxy-encrypt.timer s3proxy-upload.timer';

interface Format {
	readonly kind: 'deb' | 'rpm';
	install(file: string): string;
	upgrade(file: string): string;
	readonly remove: string;
	/** Says what the package manager finds changed. */
	readonly verify: string;
}

const DEB: Format = {
	kind: 'deb',
	install: (file) => `apt-get install -y --no-install-recommends ${file}`,
	upgrade: (file) => `apt-get install -y --no-install-recommends ${file}`,
	remove: 'apt-get remove -y s3proxy',
	verify: 'dpkg -V s3proxy',
};
const RPM: Format = {
	kind: 'rpm',
	// A Debian has none of what it requires in its RPM database.
	install: (file) => `rpm -i --nodeps ${file}`,
	upgrade: (file) => `rpm -U --nodeps ${file}`,
	remove: 'rpm -e s3proxy',
	verify: 'rpm -V --nodeps s3proxy',
};

for (const format of LONG ? [DEB, RPM] : [DEB]) {
	describe(`an installed ${format.kind}`, function () {
		this.timeout(600_000);
		let machine: Machine;
		const content = randomBytes(300_000);

		before(async function () {
			needs(this, (await canBoot()) && (await canPackage()), 'root on Debian, to boot a machine of its own');
			machine = await boot();
			const file = join(makeDirectory(), 'artifact');
			writeFileSync(file, content);
			await machine.bring(file);
		});

		after(() => machine?.stop());

		/** The artifact as the machine serves it is what was stored. */
		const serves = () => machine.sure(`curl -sSf ${ADDRESS}/team/app.bin | cmp - /root/artifact`);

		it('is installed, says that there is no key, and starts nothing', async () => {
			const file = await machine.bring((await packages(1))[format.kind]);
			const said = await machine.sure(format.install(file));
			expect(said).to.include('s3proxy is installed, and has no key yet');
			expect((await machine.run('systemctl is-active "s3proxy*"')).stdout).to.equal('');
			expect(await machine.sure('stat -c "%a %U" /opt/s3proxy /opt/s3proxy/keys /opt/s3proxy/uploads')).to.equal(
				'755 root\n700 s3proxy\n755 s3proxy\n',
			);
			expect((await machine.run(format.verify)).stdout).to.equal('');
		});

		it('starts, is ready when systemctl returns, and stores', async () => {
			await machine.sure('s3proxy rotate-key');
			await machine.sure(`systemctl enable --now s3proxy.service ${TIMERS} s3proxy-repair.timer`);
			await machine.sure(`curl -sSf -F file=@/root/artifact ${ADDRESS}/team/app.bin`);
			await serves();
		});

		it('has keys that nobody else can read, and files of its own user alone', async () => {
			expect(
				(await machine.run('setpriv --reuid=nobody --clear-groups cat /opt/s3proxy/keys/latest')).code,
			).not.to.equal(0);
			await machine.sure('echo by root | s3proxy ingest - team/by-root && s3proxy status');
			const foreign =
				'find /opt/s3proxy/{keys,locks,uploading,uploads,to_encrypt,encrypting,encrypted,to_decrypt,bucket} ! -user s3proxy';
			expect(await machine.sure(foreign)).to.equal('');
			const bypass = await machine.run('S3PROXY_ROOT=/opt/s3proxy s3proxy encrypt');
			expect(bypass.code).to.equal(3);
			expect(bypass.stderr).to.match(/belongs to uid \d+, and this is uid 0/);
		});

		it('has credentials from a file that root alone may read, in the service and on the command line', async () => {
			await machine.sure(`
				printf 'AWS_ACCESS_KEY_ID=one\\nAWS_SECRET_ACCESS_KEY=a/b+c=' | install -m 600 /dev/stdin /etc/s3proxy/credentials
				systemctl restart s3proxy.service`);
			const environment = await machine.sure('cat /proc/$(systemctl show -P MainPID s3proxy.service)/environ');
			expect(environment.split('\0')).to.include.members(['AWS_ACCESS_KEY_ID=one', 'AWS_SECRET_ACCESS_KEY=a/b+c=']);
			const show = 'data:text/javascript,console.log(process.getuid()>0,process.env.AWS_SECRET_ACCESS_KEY)';
			expect(await machine.sure(`NODE_OPTIONS='--import=${show}' s3proxy --version`)).to.match(/^true a\/b\+c=\n/);
			await machine.sure('rm /etc/s3proxy/credentials; systemctl restart s3proxy.service');
		});

		it('is brought into the store by the timers, and comes back from there', async () => {
			await machine.until('[ -z "$(find /opt/s3proxy/to_encrypt /opt/s3proxy/encrypted ! -type d)" ]');
			await machine.sure('grep -rL "" /opt/s3proxy/bucket >/dev/null; ls /opt/s3proxy/bucket/*/team/app.bin-iv');
			await machine.sure('rm /opt/s3proxy/uploads/team/app.bin');
			await serves();
			expect((await machine.run('systemctl --failed --no-legend')).stdout).to.equal('');
		});

		const running = async () => (await machine.run(`systemctl is-active ${TIMERS}`)).stdout;

		it('stops the timers for its weekly repair, and starts them again', async () => {
			await machine.sure('systemctl start s3proxy-repair.service');
			expect(await running()).to.equal('active\nactive\n');
			expect(await machine.sure('journalctl -o cat -u s3proxy-encrypt.timer')).to.match(/Stopped .*\nStarted /);
		});

		it('starts those alone again that ran before repair', async () => {
			await machine.sure('systemctl stop s3proxy-upload.timer; systemctl start s3proxy-repair.service');
			expect(await running()).to.equal('active\ninactive\n');
			await machine.sure('systemctl start s3proxy-upload.timer');
		});

		it('starts them again when repair fails', async () => {
			await machine.sure('mv /opt/s3proxy/config.yaml /root; echo nonsense: 1 > /opt/s3proxy/config.yaml');
			expect((await machine.run('systemctl start s3proxy-repair.service')).code).not.to.equal(0);
			await machine.sure('mv /root/config.yaml /opt/s3proxy/');
			expect(await running()).to.equal('active\nactive\n');
			expect((await machine.run('ls /run/s3proxy-repair.timers')).code).not.to.equal(0);
		});

		it('starts them again when repair is killed', async () => {
			// In the place of a repair that takes its time.
			await machine.sure(`
				mkdir -p /run/systemd/system/s3proxy-repair.service.d
				printf '[Service]\\nExecStart=\\nExecStart=/bin/sleep infinity\\n' > /run/systemd/system/s3proxy-repair.service.d/test.conf
				systemctl daemon-reload; systemctl start --no-block s3proxy-repair.service
			`);
			await machine.until('[ "$(systemctl show -P SubState s3proxy-repair.service)" = start ]');
			expect(await running()).to.equal('inactive\ninactive\n');
			await machine.sure('systemctl kill --kill-whom=main -s KILL s3proxy-repair.service');
			await machine.until(`systemctl is-failed s3proxy-repair.service && systemctl is-active ${TIMERS}`);
			await machine.sure(
				'rm -r /run/systemd/system/s3proxy-repair.service.d; systemctl daemon-reload; systemctl reset-failed',
			);
		});

		it('is started again when it is killed', async () => {
			const pid = 'systemctl show -P MainPID s3proxy.service';
			const before = await machine.sure(pid);
			await machine.sure('systemctl kill --kill-whom=main -s KILL s3proxy.service');
			await machine.until(
				`[ "$(${pid})" -gt 0 ] && [ "$(${pid})" != ${before.trim()} ] && systemctl is-active s3proxy.service`,
			);
			await serves();
		});

		it('comes up by itself after a reboot', async () => {
			await machine.reboot();
			await serves();
			await machine.sure(`systemctl is-active ${TIMERS} s3proxy-repair.timer`);
		});

		it('loses nothing that it acknowledged when it is upgraded while uploads are under way', async () => {
			const file = await machine.bring((await packages(2))[format.kind]);
			await machine.sure('echo "# mine" >> /opt/s3proxy/config.yaml; systemctl stop s3proxy-repair.timer');
			const send = (name: string) => `
				mkfifo /root/${name}
				(curl -s -o /root/${name}.said -w "%{http_code}" -F 'file=@/root/${name};filename=x' ${ADDRESS}/${name} > /root/${name}.code || true) &
				exec 3> /root/${name}; head -c 150000 /root/artifact >&3`;
			// The first one goes on as soon as the service has been told to stop; the second when it has stopped.
			const first = machine.run(`${send('ends')}
				until journalctl -b -u s3proxy.service | grep -q 'SIGTERM: finishing'; do sleep 0.1; done
				tail -c +150001 /root/artifact >&3; exec 3>&-; wait`);
			const second = machine.run(`${send('hangs')}
				until journalctl -b -u s3proxy.service | grep -q 'Stopped s3proxy'; do sleep 0.1; done; exec 3>&-; wait`);
			await machine.until('[ $(find /opt/s3proxy/uploading -type f -name ".s3proxy-*" | wc -l) = 2 ]');
			await machine.sure(format.upgrade(file));
			await Promise.all([first, second]);
			expect(await machine.sure('cat /root/ends.code')).to.equal('201');
			await machine.sure(`curl -sSf ${ADDRESS}/ends | cmp - /root/artifact`);
			expect(await machine.sure('cat /root/hangs.code')).not.to.equal('201');
			expect(await machine.sure(`curl -s -o /dev/null -w '%{http_code}' ${ADDRESS}/hangs`)).to.equal('404');
			expect(await machine.sure('find /opt/s3proxy/uploading -type f')).to.equal('');
		});

		it('runs the new version after the upgrade, with its timers, its keys and the administrator’s config.yaml', async () => {
			const versions = {
				deb: "dpkg -s s3proxy | sed -n 's/^Version: //p'",
				rpm: "rpm -q --qf '%{VERSION}-%{RELEASE}' s3proxy",
			};
			expect(await machine.sure(versions[format.kind])).to.match(/-2\n?$/);
			await serves();
			const states = `systemctl is-active s3proxy.service ${TIMERS} s3proxy-repair.timer`;
			expect((await machine.run(states)).stdout).to.equal('active\nactive\nactive\ninactive\n');
			expect(await machine.sure('tail -1 /opt/s3proxy/config.yaml')).to.equal('# mine\n');
			const changed = (await machine.run(format.verify)).stdout;
			expect(changed).to.match(/^\S+ +c \/opt\/s3proxy\/config\.yaml\n$/);
		});

		it('leaves the keys, config.yaml and the artifacts when it is removed', async () => {
			await machine.sure(format.remove);
			expect(await machine.sure('ls -A /opt/s3proxy')).to.equal(
				[
					'access',
					'bucket',
					'config.yaml',
					'encrypted',
					'encrypting',
					'keys',
					'locks',
					'to_decrypt',
					'to_encrypt',
					'uploading',
					'uploads',
					'',
				].join('\n'),
			);
			await machine.sure('cmp /root/artifact /opt/s3proxy/uploads/team/app.bin; test -s /opt/s3proxy/keys/latest');
			expect(await machine.sure('tail -1 /opt/s3proxy/config.yaml')).to.equal('# mine\n');
			expect((await machine.run('systemctl list-units --plain --no-legend "s3proxy*"')).stdout).to.equal('');
		});

		it('finds them when it is installed again', async () => {
			await machine.sure(format.install(`/root/${(await packages(2))[format.kind].split('/').at(-1)}`));
			await machine.sure('systemctl start s3proxy.service');
			await serves();
			expect(readFileSync(join(machine.directory, 'opt/s3proxy/config.yaml'), 'utf8')).to.match(/# mine\n$/);
		});
	});
}

describe('the RPM in a system that does not run', function () {
	this.timeout(600_000);
	let system = '';
	// `rpm -V` ends with 1 when something has changed.
	const rpm = (...args: string[]) =>
		run('rpm', ['--root', system, ...args]).catch((error: Error & { stdout: string; stderr: string }) => error);

	before(async function () {
		needs(this, (await canBoot()) && (await canPackage()), 'root on Debian, to make a system of its own');
		system = await makeSystem();
		await run('mount', ['-t', 'proc', 'proc', join(system, 'proc')]);
	});

	after(async () => {
		if (system !== '') await run('umount', [join(system, 'proc')]);
	});

	it('is installed, with its user and directories, and rpm -V finds nothing changed', async () => {
		const { stdout, stderr } = await rpm('-i', '--nodeps', (await packages(1)).rpm);
		expect(stdout).to.include('s3proxy is installed, and has no key yet');
		expect(stderr).not.to.match(/warning|fail/i);
		expect((await rpm('-V', '--nodeps', 's3proxy')).stdout).to.equal('');
	});

	it('works, and rpm -V still finds nothing changed', async () => {
		const script =
			's3proxy rotate-key; echo x | s3proxy ingest - a/b; s3proxy encrypt; s3proxy upload; rm /opt/s3proxy/uploads/a/b; s3proxy fetch a/b --output -';
		const { stdout } = await run('chroot', [system, 'sh', '-ec', script]);
		expect(stdout).to.match(/x\n$/);
		expect((await rpm('-V', '--nodeps', 's3proxy')).stdout).to.equal('');
	});

	it('keeps config.yaml and the keys through upgrade and removal', async () => {
		const config = join(system, 'opt/s3proxy/config.yaml');
		appendFileSync(config, '# mine\n');
		const key = readFileSync(join(system, 'opt/s3proxy/keys/private_key'));
		await rpm('-U', '--nodeps', (await packages(2)).rpm);
		expect((await rpm('-q', 's3proxy')).stdout).to.match(/-2\.noarch\n$/);
		expect((await rpm('-V', '--nodeps', 's3proxy')).stdout).to.match(/^\S+ +c \/opt\/s3proxy\/config\.yaml\n$/);
		await rpm('-e', 's3proxy');
		expect(readFileSync(config, 'utf8')).to.match(/# mine\n$/);
		expect(readFileSync(join(system, 'opt/s3proxy/keys/private_key')).equals(key)).to.equal(true);
		expect(existsSync(join(system, 'opt/s3proxy/dist'))).to.equal(false);
	});
});
