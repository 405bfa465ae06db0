/** Tells Varnish that an artifact has changed without its knowledge: a POST that comes through it needs none of this. */

import type { ClientRequest } from 'node:http';
import type { Context } from '../context.js';
import { type ArtifactPath, targetOf } from '../state/artifact-path.js';

/** Varnish waits for a fetch of the artifact that is under way, and purges what that brings. */
const PURGE_TIMEOUT_MS = 10_000;

/**
 * Makes Varnish forget `path`, when `varnish:` is configured. When this returns, readers get what is in `uploads/`; or there
 * is a warning in the log, because what was done to the artifact is done, and Varnish forgets the old content by itself
 * after a while. Never throws.
 */
export async function purge({ config, log, abandon }: Context, path: ArtifactPath): Promise<void> {
	if (config.varnish === undefined || isHiddenFromEdge(path)) return;
	try {
		const status = await ask(config.varnish, path, abandon);
		if (status === 200) return;
		throw new Error(`it answered with status ${status}`);
	} catch (error) {
		const why = error instanceof Error ? error.message : String(error);
		log.warn(
			`could not purge ${path} from Varnish at ${config.varnish}: ${why}. The artifact is safe, but readers may see the old content for some minutes. See varnish: in config.yaml.`,
		);
	}
}

/** Varnish refuses these names, so it cannot have them. */
function isHiddenFromEdge(path: ArtifactPath): boolean {
	return /(?:^|\/)\./.test(path);
}

async function ask(varnish: string, path: ArtifactPath, abandon: AbortSignal): Promise<number | undefined> {
	const { hostname, port } = new URL(varnish);
	// Loaded when it is needed: most commands do without.
	const { request } = await import('node:http');
	const timeout = AbortSignal.timeout(PURGE_TIMEOUT_MS);
	return new Promise((resolve, reject) => {
		const options = {
			method: 'PURGE',
			// URL keeps the brackets of an IPv6 address.
			hostname: hostname.replace(/^\[|\]$/g, ''),
			port,
			path: targetOf(path),
			agent: false,
			signal: AbortSignal.any([timeout, abandon]),
		};
		const asked: ClientRequest = request(options, (response) => {
			resolve(response.statusCode);
			asked.destroy();
		});
		asked.on('error', (error) => {
			reject(timeout.aborted ? new Error(`no answer in ${PURGE_TIMEOUT_MS / 1000} s`) : error);
		});
		asked.end();
	});
}
