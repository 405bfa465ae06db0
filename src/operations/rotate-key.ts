/** Makes a new key and points `keys/latest` at it. */

import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { Context } from '../context.js';
import { keyIdOf } from '../crypto/key-material.js';
import { explain, S3proxyError } from '../errors.js';
import { hasLatest, pointLatestAt, publishKey } from '../state/keys.js';

const KEY_BYTES = 32;

export interface Rotated {
	/** null when there was no key before. */
	readonly oldKeyId: string | null;
	readonly newKeyId: string;
	/** The new key file. */
	readonly file: string;
}

/**
 * The new key and its name are durable before `latest` moves, and `latest` when this returns. Old keys stay.
 * @throws S3proxyError `bad-key` when what is in keys/ is not in order; `lock-timeout` when another rotation runs
 */
export async function rotateKey(context: Context): Promise<Rotated> {
	const { root } = context;
	const rotated = await root.locks.withRun('rotate-key', async () => {
		// Without `latest` (a first rotation was killed) there is no old key; making one is what mends it.
		const old = (await hasLatest(root)) ? await context.keyringIfAny() : undefined;
		const material = randomBytes(KEY_BYTES);
		const newKeyId = keyIdOf(material);
		try {
			const name = await publishKey(root, newKeyId, material);
			await pointLatestAt(root, name);
			return { oldKeyId: old?.latest.id ?? null, newKeyId, file: join(root.layout.keys, name) };
		} catch (error) {
			throw explain(error, 'making a key');
		}
	});
	if (rotated !== undefined) return rotated;
	throw new S3proxyError('lock-timeout', 'another rotate-key is running', { hint: 'Wait for it to end.' });
}
