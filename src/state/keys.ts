/** `keys/`: the names of key files. What a key is, the crypto module knows. */

import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { S3proxyError } from '../errors.js';
import { isErrno, lstatIfThere, syncDirectory } from '../fs/durable.js';
import type { Root } from './root.js';
import { publishSymlink, Staging } from './staging.js';

const FIRST_KEY = 'private_key';

/** Makes `keys/` readable by its owner alone if it is not there. */
async function makeKeysDirectory({ layout, sync }: Root): Promise<void> {
	try {
		await mkdir(layout.keys, { mode: 0o700 });
	} catch (error) {
		if (isErrno(error, 'EEXIST')) return;
		throw error;
	}
	await chmod(layout.keys, 0o700);
	if (sync) await syncDirectory(layout.root);
}

/**
 * Stores a new key, mode 0600: the first one as `private_key`, others with their key id behind it, so that a file and its
 * prefix in the bucket are easily matched. Content and name are durable when it returns.
 * @returns the file's name in `keys/`
 */
export async function publishKey(root: Root, keyId: string, material: Buffer): Promise<string> {
	await makeKeysDirectory(root);
	const first = lstatIfThere(join(root.layout.keys, FIRST_KEY));
	const name = first === undefined ? FIRST_KEY : `${FIRST_KEY}-${keyId}`;
	const staging = await Staging.create(root, root.layout.keys, root.layout.keys, 0o600);
	try {
		await staging.handle.write(material);
		await staging.syncData();
		if (await staging.publishUnlessTaken(join(root.layout.keys, name))) return name;
	} catch (error) {
		await staging.drop();
		throw error;
	}
	throw new S3proxyError('lock-lost', `keys/${name} appeared while a key was made`, { hint: 'Try again.' });
}

/** Makes `keys/latest` point to the key file `name`, atomically; durable when it returns. */
export async function pointLatestAt(root: Root, name: string): Promise<void> {
	// Commit point: new work uses the new key.
	await publishSymlink(root, name, join(root.layout.keys, 'latest'));
}

/** Whether there is a `keys/latest`, wherever it points. */
export async function hasLatest({ layout }: Root): Promise<boolean> {
	return lstatIfThere(join(layout.keys, 'latest')) !== undefined;
}
