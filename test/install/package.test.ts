import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { makeDirectory } from '../support/cli.ts';
import { needs } from '../support/needs.ts';
import { canPackage, packages } from '../support/packages.ts';

const run = promisify(execFile);
const lines = (text: string) => text.split('\n').filter((line) => line !== '');

/** mode, owner and group, name of all that is in the .deb; names begin with `/`. */
async function inDeb(file: string): Promise<string[]> {
	const { stdout } = await run('dpkg-deb', ['-c', file], { maxBuffer: 2 ** 24 });
	return lines(stdout).map((line) => {
		const [mode, owner, , , , ...name] = line.split(/\s+/);
		return `${mode} ${owner} ${name
			.join(' ')
			.replace(/^\./, '')
			.replace(/(.)\/$/, '$1')}`;
	});
}

async function inRpm(file: string): Promise<string[]> {
	const format = '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]';
	const { stdout } = await run('rpm', ['-qp', '--qf', format, file], { maxBuffer: 2 ** 24 });
	return lines(stdout);
}

const FORMATS = [
	{ format: 'the .deb', kind: 'deb', list: inDeb },
	{ format: 'the RPM', kind: 'rpm', list: inRpm },
] as const;

describe('the packages', function () {
	this.timeout(120_000);

	before(async function () {
		needs(this, await canPackage(), 'dpkg-deb and rpmbuild');
	});

	for (const { format, kind, list } of FORMATS) {
		describe(format, () => {
			it('has the contract’s tree, the command, the units, and files to enable', async () => {
				const names = (await list((await packages(1))[kind])).map((line) => line.replace(/^\S+ \S+ /, ''));
				expect(names).to.include.members([
					'/opt/s3proxy/bin/run.js',
					'/opt/s3proxy/config.yaml',
					'/opt/s3proxy/dist/command.js',
					'/opt/s3proxy/node_modules/@oclif/core/package.json',
					'/usr/bin/s3proxy',
					'/usr/lib/systemd/system/s3proxy.service',
					'/usr/lib/systemd/system/s3proxy-encrypt.timer',
					'/usr/lib/systemd/system/s3proxy-upload.timer',
					'/usr/lib/systemd/system/s3proxy-repair.timer',
					'/usr/share/s3proxy/default.vcl',
					'/usr/share/s3proxy/varnish.conf',
					'/usr/share/s3proxy/nginx.conf',
					'/usr/share/s3proxy/s3proxy.cron',
					'/usr/share/doc/s3proxy/README.md',
					'/usr/share/doc/s3proxy/copyright',
				]);
			});

			it('has nothing below /etc and /var, no key, no test, no source map, no types, nothing for development', async () => {
				const names = (await list((await packages(1))[kind])).map((line) => line.replace(/^\S+ \S+ /, ''));
				const unwanted =
					/^\/(etc|var)\/|^\/opt\/s3proxy\/(keys|test|src|bench)\b|\.(map|ts|mts|cts)$|\.test\.|private_key|\/(mocha|typescript|chai|tsx|dist-es|dist-types)(\/|$)/;
				expect(names.filter((name) => unwanted.test(name))).to.deep.equal([]);
			});

			it('belongs to root, and only programs are executable', async () => {
				const entries = await list((await packages(1))[kind]);
				const odd = entries.filter((line) => !/^(drwxr-xr-x|-rw-r--r--) root\/root /.test(line));
				expect(odd).to.deep.equal([
					'-rwxr-xr-x root/root /opt/s3proxy/bin/run.js',
					'-rwxr-xr-x root/root /usr/bin/s3proxy',
				]);
			});
		});
	}

	it('have the same files', async () => {
		const { deb, rpm } = await packages(1);
		const files = (entries: string[]) => entries.filter((line) => line.startsWith('-')).sort();
		expect(files(await inRpm(rpm))).to.deep.equal(files(await inDeb(deb)));
	});

	it('leave config.yaml to the administrator', async () => {
		const { deb, rpm } = await packages(1);
		const conffiles = await run('dpkg-deb', ['--info', deb, 'conffiles']);
		expect(conffiles.stdout).to.equal('/opt/s3proxy/config.yaml\n');
		expect((await run('rpm', ['-qpc', rpm])).stdout).to.equal('/opt/s3proxy/config.yaml\n');
	});

	it('require a Node.js that is new enough, and recommend nginx and Varnish', async () => {
		const { deb, rpm } = await packages(1);
		expect((await run('dpkg-deb', ['-f', deb, 'Depends', 'Recommends'])).stdout).to.match(
			/Depends: nodejs \(>= 20\.19\).*\nRecommends: nginx, varnish/,
		);
		expect((await run('rpm', ['-qp', '--requires', rpm])).stdout).to.match(/^nodejs >= 1:20\.19$/m);
		expect((await run('rpm', ['-qp', '--recommends', rpm])).stdout).to.equal('nginx\nvarnish >= 7\n');
	});

	it('say their size, and the same commit makes the same bytes', async () => {
		const [first, again] = await Promise.all([packages(1), makeAgain()]);
		expect(first.said).to.match(/\.deb: \d\.\d MiB, \d+ files, \d+\.\d MiB installed\n.*\.rpm: \d\.\d MiB, \d+ files/);
		expect(readFileSync(again.deb).equals(readFileSync(first.deb)), 'deb').to.equal(true);
		expect(readFileSync(again.rpm).equals(readFileSync(first.rpm)), 'rpm').to.equal(true);
	});

	it('have every module that the program can come to load', async () => {
		const unpacked = makeDirectory();
		await run('dpkg-deb', ['-x', (await packages(1)).deb, unpacked]);
		const root = join(unpacked, 'opt/s3proxy');
		const missing = readdirSync(root, { recursive: true, encoding: 'utf8' })
			.filter((name) => /\.[cm]?js$/.test(name))
			.flatMap((name) =>
				imports(root, name).filter((wanted) => resolves(process.cwd(), name, wanted) && !resolves(root, name, wanted)),
			);
		// oclif looks for it in a checkout, and does without.
		expect(missing).to.deep.equal(['typescript']);
	});
});

async function makeAgain() {
	const out = makeDirectory();
	await run(process.execPath, ['packaging/build.js', '--out', out]);
	const named = (suffix: string) => join(out, readdirSync(out).find((name) => name.endsWith(suffix)) ?? suffix);
	return { deb: named('.deb'), rpm: named('.rpm') };
}

/** What a module names in `require`, `import` and `from`. */
function imports(root: string, name: string): string[] {
	const code = readFileSync(join(root, name), 'utf8');
	return [...code.matchAll(/(?:require\(|import\(|from |import )["']([^"']+)["']/g)].map(([, wanted]) => wanted ?? '');
}

/** Whether the module `name` below `root` finds `wanted`. */
function resolves(root: string, name: string, wanted: string): boolean {
	try {
		createRequire(join(root, name)).resolve(wanted);
		return true;
	} catch {
		return false;
	}
}
