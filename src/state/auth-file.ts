/** The file of credentials: who may upload. What stands in it, the crypto module knows. */

import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf, S3proxyError } from '../errors.js';
import { isErrno } from '../fs/durable.js';
import { exposureOf } from '../fs/private-file.js';
import type { Root } from './root.js';
import { Staging } from './staging.js';

/** Some 10,000 credentials: more is a mistake in the name of the file. */
const MAX_SIZE = 2 ** 20;

interface AuthFile {
	readonly text: string;
	readonly stats: Stats;
}

/**
 * Reads the file of credentials. Content and mode are of one open file. It is read at once, not by way of the thread pool:
 * a few hundred bytes that the kernel has in memory, before each upload.
 * @throws S3proxyError `bad-config` when it cannot be read, or others than its owner have access to it
 */
export function readAuthFile(file: string): AuthFile {
	try {
		// Without O_NONBLOCK a FIFO would hold us up for ever.
		const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
		try {
			const stats = fstatSync(fd);
			assertIsGood(file, stats);
			return { text: readFileSync(fd, 'utf8'), stats };
		} finally {
			closeSync(fd);
		}
	} catch (error) {
		if (errnoOf(error) === undefined || !(error instanceof Error)) throw error;
		throw new S3proxyError('bad-config', `${file}, which says who may upload, cannot be read: ${error.message}`, {
			cause: error,
			hint: 'Make it with: s3proxy add-token NAME; or change auth: in config.yaml.',
		});
	}
}

function assertIsGood(file: string, stats: Stats): void {
	const fail = (why: string, hint: string): never => {
		throw new S3proxyError('bad-config', `${file}, which says who may upload, ${why}`, { hint });
	};
	if (!stats.isFile()) fail('is not a regular file', 'Change auth: in config.yaml.');
	if (stats.size > MAX_SIZE) fail(`has more than ${MAX_SIZE} bytes`, 'Remove what is not needed any more.');
	const exposure = exposureOf(stats);
	if (exposure !== undefined) fail(exposure, `chmod 0600 ${file}`);
}

/**
 * Adds a line to the file of credentials, which is made, mode 0600, if it is not there. Whoever reads it meanwhile sees it
 * with the line or without; it is durable when this returns. The caller keeps others from doing the same at the same time.
 * @param check is given what is there, and throws when that is not in order
 * @throws S3proxyError `bad-config`, as `readAuthFile` does
 */
export async function appendToAuthFile(
	root: Root,
	named: string,
	line: string,
	check: (text: string) => void,
): Promise<void> {
	// The file itself, not a link to it: a rename would replace the link.
	const file = await realpath(named).catch((error: unknown) => {
		if (isErrno(error, 'ENOENT')) return undefined;
		throw error;
	});
	const old = file === undefined ? undefined : readAuthFile(file);
	const text = old?.text ?? '';
	check(text);
	const target = file ?? named;
	const directory = dirname(target);
	const staging = await Staging.create(root, directory, directory, 0o600);
	try {
		// Root may do this for the user that the service runs as.
		if (old !== undefined) await staging.handle.chown(old.stats.uid, old.stats.gid);
		const separator = text === '' || text.endsWith('\n') ? '' : '\n';
		await staging.handle.writeFile(`${text}${separator}${line}\n`);
		await staging.syncData();
		// Commit point: the bearer of the token may upload.
		await staging.publishAs(target);
	} catch (error) {
		await staging.drop();
		throw error;
	}
}
