import { match, strictEqual } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeRoot, s3proxy, shell } from '../support/cli.ts';
import { needs } from '../support/needs.ts';

const NOBODY = 65534;
const isRoot = process.getuid?.() === 0;
const STATE = ['locks', 'uploading', 'uploads', 'to_encrypt', 'encrypting', 'encrypted', 'to_decrypt'];

/** Each on its own, with arguments that would do something. */
const COMMANDS = [
	['ingest', '-', 'a'],
	['encrypt'],
	['upload'],
	['fetch', 'a'],
	['repair'],
	['repair', '--dry-run'],
	['rotate-key'],
	['re-encrypt'],
	['serve'],
	['status'],
];

async function refused(root: string, args: readonly string[], why: RegExp): Promise<void> {
	const { code, stdout, stderr } = await s3proxy(root, args);
	strictEqual(code, 3, `${args.join(' ')}: ${stderr}`);
	strictEqual(stdout, '');
	match(stderr, why);
	strictEqual(stderr.includes('    at '), false, 'no stack');
}

/** Runs `use` while something is mounted at a directory of the root. */
async function mounted(args: readonly string[], point: string, use: () => Promise<void>): Promise<void> {
	mkdirSync(point, { recursive: true });
	execFileSync('mount', [...args, point]);
	try {
		await use();
	} finally {
		execFileSync('umount', [point]);
	}
}

describe('a root that is not one file system', () => {
	before(function () {
		needs(this, isRoot && process.platform === 'linux', 'root on Linux, to mount something');
	});

	it('is refused by every command', async () => {
		const root = makeRoot();
		await mounted(['-t', 'tmpfs', 'tmpfs'], join(root, 'uploads'), async () => {
			for (const command of COMMANDS) await refused(root, command, /uploads is on another file system.*\n.*not atomic/);
		});
	});

	for (const directory of STATE) {
		it(`is refused when it is ${directory}/`, async () => {
			const root = makeRoot();
			await mounted(['-t', 'tmpfs', 'tmpfs'], join(root, directory), () =>
				refused(root, ['status'], new RegExp(`/${directory} is on another file system`)),
			);
		});
	}

	it('is refused when it is the same one, mounted twice', async () => {
		const root = makeRoot();
		const other = makeRoot();
		await mounted(['--bind', other], join(root, 'encrypted'), () =>
			refused(root, ['encrypt'], /encrypted is on another file system, or mounted on its own/),
		);
	});

	it('is refused when it is somewhere below, whatever its name', async () => {
		const root = makeRoot();
		await mounted(['-t', 'tmpfs', 'tmpfs'], join(root, 'uploads/big images/ä'), () =>
			refused(root, ['encrypt'], /uploads\/big images\/ä is on another file system/),
		);
	});

	it('may be one in all: the root itself mounted, keys and the store elsewhere', async () => {
		const root = makeRoot();
		await mounted(['-t', 'tmpfs', 'tmpfs'], join(root, 'whole'), async () => {
			const whole = join(root, 'whole');
			writeFileSync(join(whole, 'config.yaml'), `encryption: true\nstore: file:${join(root, 'store')}\n`);
			await mounted(['-t', 'tmpfs', '-o', 'mode=700', 'tmpfs'], join(whole, 'keys'), async () => {
				const { code, stderr } = await shell(
					whole,
					'set -e; $RUN rotate-key; echo x | $RUN ingest - a; $RUN encrypt; $RUN upload; rm $S3PROXY_ROOT/uploads/a; $RUN fetch a',
				);
				strictEqual(code, 0, stderr);
			});
		});
	});
});

describe('a root that is somebody else’s', () => {
	before(function () {
		needs(this, isRoot, 'root, to be several users');
	});

	it('is refused to root, and nothing is written', async () => {
		const root = makeRoot();
		for (const name of STATE) {
			mkdirSync(join(root, name));
			chownSync(join(root, name), NOBODY, NOBODY);
		}
		const before = readdirSync(root, { recursive: true }).length;
		for (const command of [['encrypt'], ['ingest', '-', 'a']]) {
			await refused(root, command, /locks belongs to uid 65534, and this is uid 0\n.*sudo -u '#65534' s3proxy/);
		}
		strictEqual(readdirSync(root, { recursive: true }).length, before);
	});

	it('is refused to a user who may not write to it', async () => {
		const root = makeRoot();
		chmodSync(root, 0o755);
		const { code, stderr } = await shell(root, `setpriv --reuid=${NOBODY} --clear-groups $RUN status`);
		strictEqual(code, 3, stderr);
		match(stderr, /the root \S+ is not writable \(EACCES\), and not all of its directories are there\n.*chown 65534/);
	});

	it('works when only its directories are the user’s', async () => {
		const root = makeRoot({ key: false });
		chmodSync(root, 0o755);
		for (const name of [...STATE, 'keys', 'bucket']) {
			mkdirSync(join(root, name), { mode: 0o700 });
			chownSync(join(root, name), NOBODY, NOBODY);
		}
		const run = `setpriv --reuid=${NOBODY} --clear-groups $RUN`;
		const script = `set -e; ${run} rotate-key; echo x | ${run} ingest - a/b; ${run} encrypt; ${run} upload; ${run} repair`;
		const { code, stderr } = await shell(root, script);
		strictEqual(code, 0, stderr);
	});
});
