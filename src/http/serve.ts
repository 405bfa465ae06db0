/** Runs the service until it is told to stop: what `s3proxy serve` does. */

import { once } from 'node:events';
import type { Context } from '../context.js';
import { repairMarkers } from '../operations/repair.js';
import { rotateKey } from '../operations/rotate-key.js';
import { HttpServer } from './server.js';
import { tellServiceManager } from './service-manager.js';

/**
 * Makes a key if there is none, mends what a crash left between publish and work link, then serves until `stopping`.
 * @throws S3proxyError `bad-key`; `bad-config` when it cannot listen
 */
export async function serve(context: Context): Promise<void> {
	const { log, stopping } = context;
	if ((await context.keyringIfAny()) === undefined) {
		const { newKeyId, file } = await rotateKey(context);
		log.warn(`there was no key, so one was made: ${file}; keep a copy of it in a safe place`, { keyId: newKeyId });
	}
	await repairMarkers(context, ({ what, where, done }) => log.info(`${what}: ${where}: ${done}`));
	const server = new HttpServer(context);
	const { address } = await server.listen();
	log.info(`listening on ${address}`);
	await tellServiceManager('READY=1', log);
	if (!stopping.aborted) await once(stopping, 'abort');
	await Promise.all([server.stop(), tellServiceManager('STOPPING=1', log)]);
	log.info('stopped');
}
