/** Artifact paths as a shell gives them. */

import { isUtf8 } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { S3proxyError } from '../errors.js';
import { type ArtifactPath, artifactPath } from '../state/artifact-path.js';

/**
 * @throws S3proxyError `bad-path`; also for bytes that are not valid UTF-8, which Node.js has replaced by U+FFFD: stored under
 * that name, nobody would find it again
 */
export function artifactPathOfArgument(argument: string): ArtifactPath {
	if (argument.includes('\ufffd') && !argumentsAreUtf8()) {
		throw new S3proxyError('bad-path', `bad path ${JSON.stringify(argument)}: not valid UTF-8`);
	}
	return artifactPath(argument);
}

function argumentsAreUtf8(): boolean {
	try {
		return isUtf8(readFileSync('/proc/self/cmdline'));
	} catch {
		// No /proc: then U+FFFD is taken for what it is.
		return true;
	}
}
