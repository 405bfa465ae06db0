import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { isProvablyDead, ownerToken } from '../../src/state/owner.js';
import { needs } from '../support/needs.ts';

describe('an owner token', () => {
	it('is never given twice, and fits a name and a lock record', () => {
		const tokens = Array.from({ length: 1000 }, ownerToken);
		expect(new Set(tokens).size).to.equal(1000);
		for (const token of tokens)
			expect(token)
				.to.match(/^[0-9a-f]{8}-\d+-\d+-\d+-\d+$/)
				.and.to.have.length.below(80);
	});

	it('of this process is not of a dead one', () => {
		expect(isProvablyDead(ownerToken())).to.equal(false);
	});

	it('that another process made is of a dead one as soon as that has ended, not before', async () => {
		const script = `
			const { ownerToken } = await import(${JSON.stringify(new URL('../../dist/state/owner.js', import.meta.url).href)});
			console.log(ownerToken());
			process.stdin.resume();
		`;
		const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
			stdio: ['pipe', 'pipe', 'inherit'],
		});
		const [said] = (await once(child.stdout, 'data')) as [Buffer];
		const token = said.toString().trim();
		expect(isProvablyDead(token)).to.equal(false);
		child.kill('SIGSTOP');
		expect(isProvablyDead(token), 'stopped is not dead').to.equal(false);
		child.kill('SIGKILL');
		await once(child, 'close');
		expect(isProvablyDead(token)).to.equal(true);
	});

	it('of a process that is hidden is not of a dead one', async function () {
		needs(this, process.getuid?.() === 0, 'root, to mount /proc');
		const module = JSON.stringify(new URL('../../dist/state/owner.js', import.meta.url).href);
		const script = `const { isProvablyDead } = await import(${module}); console.log(isProvablyDead(process.argv[1]));`;
		// As a unit with ProtectProc=invisible has it: this process runs, and has no directory in /proc.
		const hidden =
			'mount -t proc -o hidepid=2 proc /proc; exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"';
		const args = ['--mount', 'sh', '-c', hidden, 'sh', process.execPath, '--input-type=module', '-e', script];
		const ask = (token: string) => execFileSync('unshare', [...args, token], { encoding: 'utf8' }).trim();
		expect(ask(ownerToken())).to.equal('false');
		expect(ask(ownerToken().replace(`-${process.pid}-`, '-4194305-'))).to.equal('true');
	});

	const [boot, namespace, pid, started] = ownerToken().split('-');
	const TOKENS: [string, string, boolean][] = [
		['another boot', `ffffffff-${namespace}-${pid}-${started}-0`, true],
		['this pid used again', `${boot}-${namespace}-${pid}-1-0`, true],
		['a pid that cannot be', `${boot}-${namespace}-4194305-1-0`, true],
		['another pid namespace, where nobody can look', `${boot}-1-4194305-1-0`, false],
		['a system without boot ids', `0-${namespace}-4194305-1-0`, false],
		['nothing', '', false],
		['no token', 'x', false],
		['a token with something behind it', `${boot}-${namespace}-4194305-1-0-0`, false],
		['a token with a line feed', `${boot}-${namespace}-4194305-1-0\n`, false],
	];
	for (const [what, token, dead] of TOKENS) {
		it(`of ${what} is ${dead ? '' : 'not '}of a provably dead process`, () => {
			expect(isProvablyDead(token)).to.equal(dead);
		});
	}

	it('says the boot that the kernel says', () => {
		expect(readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').startsWith(boot ?? '?')).to.equal(true);
	});
});
