import { strictEqual } from 'node:assert';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { makeDirectory } from '../support/cli.ts';
import { needs } from '../support/needs.ts';
import { serve, until } from '../support/serve.ts';

function isThere(program: string): boolean {
	try {
		execFileSync('sh', ['-c', `command -v ${program}`]);
		return true;
	} catch {
		return false;
	}
}

/** Stands in for systemd: writes each datagram as a line. Descriptors that come along are closed, as systemd does. */
const LISTENER = `
import os, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(sys.argv[1])
while True:
    data, descriptors, _, _ = socket.recv_fds(listener, 4096, 4)
    for descriptor in descriptors: os.close(descriptor)
    print(data.decode().replace("\\n", " ").strip(), flush=True)
`;

describe('what serve says to the service manager', () => {
	let listener: ChildProcess | undefined;

	afterEach(() => {
		listener?.kill();
	});

	it('is READY=1 when it listens and STOPPING=1 at the stop', async function () {
		needs(this, isThere('systemd-notify') && isThere('python3'), 'systemd-notify and python3');
		const socket = join(makeDirectory(), 'notify');
		let said = '';
		listener = spawn('python3', ['-c', LISTENER, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
		listener.stdout?.on('data', (chunk: Buffer) => {
			said += chunk;
		});
		await until(() => existsSync(socket));
		const served = await serve({ env: { NOTIFY_SOCKET: socket } });
		await until(() => said.includes('READY=1'));
		strictEqual(said.includes('STOPPING=1'), false);
		const { code, stderr } = await served.stop();
		strictEqual(code, 0);
		strictEqual(said.includes('STOPPING=1'), true);
		strictEqual(stderr.includes('could not tell systemd'), false);
	});

	it('is a warning when nobody listens, and the service runs', async function () {
		needs(this, isThere('systemd-notify'), 'systemd-notify');
		const served = await serve({ env: { NOTIFY_SOCKET: join(makeDirectory(), 'nobody') } });
		await until(() => served.log().includes('could not tell systemd READY=1'));
		strictEqual((await served.stop()).code, 0);
	});

	it('is nothing when it did not ask', async () => {
		const served = await serve({ env: { NOTIFY_SOCKET: undefined, PATH: '/nonexistent' } });
		const { code, stderr } = await served.stop();
		strictEqual(code, 0);
		strictEqual(stderr.includes('systemd'), false);
	});
});
