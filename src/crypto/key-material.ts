/** What the bytes of a key file must be. */

import { Buffer } from 'node:buffer';
import { createHash } from 'node:crypto';
import { type Binding, checkFormatPath, FormatError } from './format.js';

const MIN_SIZE = 32;
/** The largest key file, in bytes. */
export const MAX_KEY_SIZE = 65536;
const MIN_DECODED_SIZE = 32;
const MIN_DISTINCT_BYTES = 16;

const TAB = 0x09;
const LF = 0x0a;
const CR = 0x0d;

/** The first private key in a file that may hold more, such as the curve's parameters before it. */
const PEM = /^-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----\r?\n(.*?)^-----END \1-----[ \t\r]*$/ms;
/** `Proc-Type` and `DEK-Info` of an encrypted key in the old style. */
const PEM_FIELD = /^[A-Za-z0-9-]+:.*$/gm;

/**
 * Checks that `bytes` can be a key: a random one in binary, hex or base64, or a PEM private key, 32 to 65536 bytes long.
 * A passphrase is none: the key id is a fast hash of the file, so that everybody who sees the bucket can test guesses.
 *
 * @throws {FormatError} ERR_KEY; the message says what is wrong and shows no byte of the key.
 */
export function checkKeyMaterial(bytes: Buffer): void {
	if (bytes.length === 0) throw new FormatError('ERR_KEY', 'the key is empty');
	if (bytes.length < MIN_SIZE || bytes.length > MAX_KEY_SIZE) {
		throw new FormatError(
			'ERR_KEY',
			`the key has ${bytes.length} bytes; it takes at least ${MIN_SIZE}, at most ${MAX_KEY_SIZE}`,
		);
	}
	const material = isText(bytes) ? decode(bytes.toString('utf8')) : bytes;
	if (material === undefined) {
		throw new FormatError(
			'ERR_KEY',
			`the key is text, but neither a PEM private key nor hex or base64 of at least ${MIN_DECODED_SIZE} bytes`,
		);
	}
	if (!isVaried(material)) {
		throw new FormatError('ERR_KEY', `the key has fewer than ${MIN_DISTINCT_BYTES} distinct bytes: it is not random`);
	}
}

/**
 * Checks what a caller binds an object to, the path first: step 1 of "Reading".
 *
 * @throws {FormatError} ERR_PATH, ERR_KEY.
 */
export function bind(ikm: Buffer, path: string): Binding {
	const pathBytes = checkFormatPath(path);
	checkKeyMaterial(ikm);
	return { ikm, pathBytes };
}

/** The key id: the lower-case hex SHA-1 of the key file. */
export function keyIdOf(bytes: Buffer): string {
	return createHash('sha1').update(bytes).digest('hex');
}

/** Whether a person may have typed this: UTF-8 without control characters, other than the white space of a text file. */
function isText(bytes: Buffer): boolean {
	// A random key nearly always fails here, at one of its first bytes.
	if (bytes.some((byte) => (byte < 0x20 && byte !== TAB && byte !== LF && byte !== CR) || byte === 0x7f)) return false;
	try {
		new TextDecoder('utf-8', { fatal: true }).decode(bytes);
		return true;
	} catch {
		return false;
	}
}

/** The bytes that `text` is a PEM private key, hex or base64 of; undefined when it is none or they are too few. */
function decode(text: string): Buffer | undefined {
	const pem = PEM.exec(text)?.[2];
	const body = pem === undefined ? text : pem.replace(PEM_FIELD, '');
	const encoded = unwrap(body.trim());
	if (encoded === undefined) return undefined;
	// The digits decide: what consists of hex digits alone is hex, although base64 would take it for more bytes.
	const decoded = /^[0-9a-f]+$/i.test(encoded) ? fromHex(encoded) : fromBase64(encoded);
	return decoded !== undefined && decoded.length >= MIN_DECODED_SIZE ? decoded : undefined;
}

/** Joins wrapped lines. Lines of different lengths are words or sentences, not one long encoded value. */
function unwrap(text: string): string | undefined {
	const lines = text.split(/\r?\n/);
	const last = lines.pop() ?? '';
	const width = lines[0]?.length ?? last.length;
	if (last.length > width || lines.some((line) => line.length !== width)) return undefined;
	return lines.join('') + last;
}

function fromHex(digits: string): Buffer | undefined {
	return digits.length % 2 === 0 ? Buffer.from(digits, 'hex') : undefined;
}

/** Base64 with either alphabet, with or without padding. */
function fromBase64(text: string): Buffer | undefined {
	if (!/^(?:[A-Za-z0-9+/]+|[A-Za-z0-9_-]+)={0,2}$/.test(text)) return undefined;
	const digits = text.replace(/=+$/, '');
	const isPadded = digits.length !== text.length;
	if (digits.length % 4 === 1 || (isPadded && text.length % 4 !== 0)) return undefined;
	return Buffer.from(digits, 'base64');
}

function isVaried(bytes: Buffer): boolean {
	const seen = new Set<number>();
	for (const byte of bytes) {
		seen.add(byte);
		if (seen.size === MIN_DISTINCT_BYTES) return true;
	}
	return false;
}
