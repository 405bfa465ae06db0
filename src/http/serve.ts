/** Runs the service until it is told to stop: what `s3proxy serve` does. */

import { once } from 'node:events';
import type { Context } from '../context.js';
import { repairMarkers } from '../operations/repair.js';
import { rotateKey } from '../operations/rotate-key.js';
import { HttpServer } from './server.js';
import { tellServiceManager } from './service-manager.js';
import { tuneMemoryForUploads } from './upload-memory.js';

const OPEN_TO_ALL =
	'uploads need no token, and other machines can reach this one: whoever does can store and replace every artifact. ' +
	'Listen on loopback, or set auth: in config.yaml and make tokens with s3proxy add-token';

/**
 * Makes a key if there is none, mends what a crash left between publish and work link, then serves until `stopping`.
 * @throws S3proxyError `bad-key`; `bad-config` when it cannot listen, or the file of credentials is not in order
 */
export async function serve(context: Context): Promise<void> {
	const { config, log, stopping } = context;
	tuneMemoryForUploads();
	if ((await context.keyringIfAny()) === undefined) {
		const { newKeyId, file } = await rotateKey(context);
		log.warn(`there was no key, so one was made: ${file}; keep a copy of it in a safe place`, { keyId: newKeyId });
	}
	await repairMarkers(context, ({ what, where, done }) => log.info(`${what}: ${where}: ${done}`));
	const server = new HttpServer(context);
	const { address, openToOthers } = await server.listen();
	if (openToOthers && config.auth === undefined) log.warn(OPEN_TO_ALL);
	log.info(`listening on ${address}`);
	await tellServiceManager('READY=1', log);
	if (!stopping.aborted) await once(stopping, 'abort');
	await Promise.all([server.stop(), tellServiceManager('STOPPING=1', log)]);
	log.info('stopped');
}
