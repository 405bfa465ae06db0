/** A Debian of its own in a directory, booted with real systemd by systemd-nspawn. It has no network but loopback. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { type Ended, ended, makeDirectory } from './cli.ts';
import { installPrograms } from './debian.ts';
import { nodePackage } from './packages.ts';
import { until } from './serve.ts';

const run = promisify(execFile);

const PROGRAMS = ['debootstrap', 'systemd-nspawn', 'nsenter', 'setpriv'];
const PACKAGES = ['debootstrap', 'systemd-container', 'util-linux'];
/** What is in it beside what every Debian has. */
const INCLUDED = ['systemd', 'systemd-sysv', 'dbus', 'iproute2', 'libstdc++6', 'curl', 'rpm'];

const machines = new Set<Machine>();

after(async () => {
	for (const machine of machines) await machine.stop();
});

/** Whether machines can be made here: root, and Debian. */
export async function canBoot(): Promise<boolean> {
	if (process.getuid?.() !== 0 || !existsSync('/etc/debian_version')) return false;
	return (await installPrograms(PROGRAMS, PACKAGES)) === undefined;
}

const bases = new Map<string, Promise<string>>();

/** A directory with a new Debian, `more` of its packages, and this Node.js, for `rpm --root` and the like. */
export async function makeSystem(more: readonly string[] = []): Promise<string> {
	const included = [...INCLUDED, ...more].join(',');
	// One download of each for a test run: it takes a minute.
	const base = bases.get(included) ?? bootstrap(included);
	bases.set(included, base);
	const directory = join(makeDirectory('suite'), 'system');
	await run('cp', ['-a', '--reflink=auto', await base, directory]);
	return directory;
}

async function bootstrap(included: string): Promise<string> {
	const directory = join(makeDirectory('suite'), 'base');
	// From where this machine's apt has its own, and of the same release.
	const format = '$(CREATED_BY) $(CODENAME) $(REPO_URI)';
	const { stdout } = await run('apt-get', ['indextargets', '--format', format]);
	const codename = /^VERSION_CODENAME=(\w+)$/m.exec(await readFile('/etc/os-release', 'utf8'))?.[1] ?? '';
	const line = stdout.split('\n').find((one) => one.startsWith(`Packages ${codename} `)) ?? '';
	const args = ['--variant=minbase', `--include=${included}`, codename, directory, line.split(' ')[2] ?? ''];
	await run('debootstrap', args, { maxBuffer: 2 ** 26 });
	writeFileSync(join(directory, 'etc/hosts'), '127.0.0.1 localhost\n');
	const node = await nodePackage();
	await run('cp', [node, join(directory, 'root/nodejs.deb')]);
	await run('chroot', [directory, 'dpkg', '-i', '/root/nodejs.deb']);
	return directory;
}

/** Boots a new system. */
export async function boot(more: readonly string[] = []): Promise<Machine> {
	const machine = new Machine(await makeSystem(more));
	machines.add(machine);
	await machine.start();
	return machine;
}

export class Machine {
	readonly directory: string;
	#container: ChildProcess | undefined;

	constructor(directory: string) {
		this.directory = directory;
	}

	/** Waits until everything that starts by itself has started. */
	async start(): Promise<void> {
		const name = basename(dirname(this.directory));
		const options = ['--quiet', '--register=no', '--keep-unit', '--private-network', '--boot', '-M', name];
		// Goes when this process does, whatever becomes of it.
		const container = spawn('setpriv', ['--pdeathsig', 'KILL', 'systemd-nspawn', ...options, '-D', this.directory], {
			stdio: 'ignore',
		});
		this.#container = container;
		await until(async () => {
			if (container.exitCode !== null) throw new Error(`systemd-nspawn ended with ${container.exitCode}`);
			return /running|degraded/.test((await this.run('systemctl is-system-running')).stdout);
		});
	}

	/** The machine's first process, seen from outside; another one for a moment while it starts. */
	get #leader(): string {
		const pid = this.#container?.pid;
		return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0] ?? '';
	}

	/** Runs a shell script in it, as root. */
	run(script: string): Promise<Ended> {
		const inside = ['-t', this.#leader, '-m', '-u', '-i', '-n', '-p', '--', '/usr/bin/env', '-i'];
		const environment = ['PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root', 'DEBIAN_FRONTEND=noninteractive'];
		return ended(spawn('nsenter', [...inside, ...environment, '/bin/bash', '-c', script], { cwd: '/' }));
	}

	/** The same; @returns stdout @throws when it fails, with what it said */
	async sure(script: string): Promise<string> {
		const { code, stdout, stderr } = await this.run(`set -e -o pipefail; ${script}`);
		if (code === 0) return stdout;
		const journal = await this.run('journalctl --no-pager --lines=40');
		throw new Error(`exit code ${code} from: ${script}\n${stdout}${stderr}\n${journal.stdout}`);
	}

	/** Waits until a script ends with exit code 0. */
	async until(script: string): Promise<void> {
		await until(async () => (await this.run(script)).code === 0);
	}

	/** Copies a file into `/root`. */
	async bring(file: string): Promise<string> {
		await run('cp', [file, join(this.directory, 'root')]);
		return `/root/${basename(file)}`;
	}

	async reboot(): Promise<void> {
		const gone = this.#gone();
		await this.run('systemctl reboot');
		await gone;
		await this.start();
	}

	async stop(): Promise<void> {
		machines.delete(this);
		const gone = this.#gone();
		// Its first process, and with that all of it: it would outlive systemd-nspawn.
		const leader = Number(this.#container?.exitCode === null ? this.#leader : 0);
		if (leader > 0) process.kill(leader, 'SIGKILL');
		this.#container?.kill('SIGKILL');
		await gone;
	}

	async #gone(): Promise<void> {
		const container = this.#container;
		if (container !== undefined && container.exitCode === null) await once(container, 'exit');
	}
}
