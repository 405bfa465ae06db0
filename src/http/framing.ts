/** What node:http lets through, and a proxy in front could read in another way than we do (RFC 9112, sections 3.2 and 6.1). */

import type { IncomingMessage, ServerResponse } from 'node:http';
import { S3proxyError } from '../errors.js';

/**
 * The connection ends with the answer when it throws: nobody knows where the next request would begin.
 * @throws S3proxyError `bad-usage`
 */
export function assertUnambiguous(request: IncomingMessage, response: ServerResponse): void {
	try {
		check(request);
	} catch (error) {
		response.setHeader('Connection', 'close');
		throw error;
	}
}

function check(request: IncomingMessage): void {
	const hosts = countHosts(request.rawHeaders);
	if (hosts > 1 || (hosts === 0 && request.httpVersion === '1.1')) {
		throw new S3proxyError('bad-usage', `a request has one Host header, not ${hosts}`);
	}
	const coding = request.headers['transfer-encoding'];
	if (coding === undefined) return;
	if (coding.toLowerCase() !== 'chunked') {
		throw new S3proxyError('bad-usage', 'the only Transfer-Encoding that is understood is chunked');
	}
	if (request.httpVersion !== '1.1') throw new S3proxyError('bad-usage', 'HTTP/1.0 has no Transfer-Encoding');
}

function countHosts(rawHeaders: readonly string[]): number {
	let hosts = 0;
	for (let index = 0; index < rawHeaders.length; index += 2) {
		if (rawHeaders[index]?.toLowerCase() === 'host') hosts++;
	}
	return hosts;
}
