/** Says to systemd how the service stands (sd_notify), so that `systemctl start` returns when requests are taken. */

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Log } from '../log.js';

const run = promisify(execFile);

/** Less than a clean stop may take; systemd answers in milliseconds. */
const TIMEOUT_MS = 1_500;

/**
 * Tells the service manager; does nothing when none asked for it (`NOTIFY_SOCKET`). Node.js has no datagram sockets for
 * unix addresses, so systemd's own program sends it, once at the start and once at the stop. That program has to be waited
 * for: systemd only listens to processes that are still there, hence also `NotifyAccess=all` in the unit.
 * Never rejects: what cannot be told is a warning in the log.
 */
export async function tellServiceManager(state: 'READY=1' | 'STOPPING=1', log: Log): Promise<void> {
	if (process.env.NOTIFY_SOCKET === undefined) return;
	try {
		await run('systemd-notify', [state], { timeout: TIMEOUT_MS });
	} catch (error) {
		log.warn(`could not tell systemd ${state}: ${error instanceof Error ? error.message.trim() : String(error)}`);
	}
}
