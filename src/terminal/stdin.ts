/** What comes on stdin. */

import { fstatSync } from 'node:fs';
import { addAbortSignal, type Readable } from 'node:stream';
import { S3proxyError } from '../errors.js';

/**
 * @param abandon ends it with an AbortError
 * @throws S3proxyError `bad-usage` when it is a directory: Node.js gives that as an empty stream, which would become an
 *   artifact of 0 bytes
 */
export function openStdin(abandon: AbortSignal): Readable {
	if (fstatSync(0).isDirectory()) throw new S3proxyError('bad-usage', 'stdin is a directory; ingest takes one file');
	return addAbortSignal(abandon, process.stdin);
}
