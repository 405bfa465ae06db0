/** Objects of the Ruby ancestor: AES-256-CTR and nothing that would authenticate them. */

import { Buffer } from 'node:buffer';
import { createDecipheriv } from 'node:crypto';
import { FormatError, IV_SIZE } from './format.js';

const KEY_SIZE = 32;
/** The ancestor used GCM and kept no tag: its first block is encrypted under counter 2. */
const FIRST_COUNTER = Buffer.from([0, 0, 0, 2]);

export interface LegacyOptions {
	/** The object's bytes, in chunks of any size. */
	readonly source: AsyncIterable<Uint8Array>;
	/** The key file, byte for byte; its first 32 bytes are the key. */
	readonly ikm: Buffer;
	/** The bytes of the `-iv` object. */
	readonly iv: Uint8Array;
}

/**
 * Decrypts a legacy object. **What it yields is not authentic**: with a wrong key or an altered object it is garbage and
 * no error is thrown. For `re-encrypt --from-legacy` alone; never serve it.
 *
 * @throws {FormatError} ERR_KEY for fewer than 32 bytes of key; ERR_HEADER for an IV that has not 12 bytes. Errors of the
 * source pass through.
 */
export async function* openLegacyStream({ source, ikm, iv }: LegacyOptions): AsyncGenerator<Buffer> {
	if (ikm.length < KEY_SIZE) throw new FormatError('ERR_KEY', `a legacy key has at least ${KEY_SIZE} bytes`);
	if (iv.length !== IV_SIZE) {
		throw new FormatError('ERR_HEADER', `the -iv of a legacy object has ${IV_SIZE} bytes, not ${iv.length}`);
	}
	const counter = Buffer.concat([iv, FIRST_COUNTER]);
	const decipher = createDecipheriv('aes-256-ctr', ikm.subarray(0, KEY_SIZE), counter);
	for await (const chunk of source) yield decipher.update(chunk);
	decipher.final();
}
