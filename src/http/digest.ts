/** The SHA-256 that a client may send along with a file, and how it is said in the answer. */

import { S3proxyError } from '../errors.js';

const HEX = /^[0-9a-f]{64}$/i;
const SHA256_BYTES = 32;

function malformed(what: string): S3proxyError {
	return new S3proxyError('bad-form', what, { hint: 'Nothing was stored.' });
}

/**
 * The digest in a form field, as `sha256sum` prints it.
 * @returns lower-case hex
 * @throws S3proxyError `bad-form`
 */
export function digestOfField(value: string): string {
	const text = value.trim();
	if (!HEX.test(text)) throw malformed('the form field "sha256" is not 64 hex digits');
	return text.toLowerCase();
}

/**
 * The SHA-256 of a `Repr-Digest` header (RFC 9530: `sha-256=:BASE64:`); other algorithms are ignored. Plain hex and
 * plain base64 are taken too.
 * @returns lower-case hex; undefined when the header has no SHA-256
 * @throws S3proxyError `bad-form`
 */
export function digestOfHeader(header: string | undefined): string | undefined {
	let found: string | undefined;
	for (const member of header === undefined ? [] : header.split(',')) {
		const [, name, value] = /^\s*([a-z*][a-z0-9_.*-]*)=([^;]*)(?:;.*)?$/i.exec(member) ?? [];
		if (name === undefined || value === undefined) throw malformed('the header Repr-Digest is malformed');
		if (name.toLowerCase() !== 'sha-256') continue;
		const digest = digestOfValue(value.trim());
		if (found !== undefined && found !== digest) throw malformed('the header Repr-Digest has two SHA-256 digests');
		found = digest;
	}
	return found;
}

function digestOfValue(value: string): string {
	if (HEX.test(value)) return value.toLowerCase();
	const [, encoded = value] = /^:(.*):$/.exec(value) ?? [];
	const bytes = Buffer.from(encoded, 'base64');
	const isWhole = bytes.length === SHA256_BYTES && bytes.toString('base64').startsWith(encoded.replace(/=$/, ''));
	if (!isWhole) throw malformed('the header Repr-Digest has no well-formed sha-256=:BASE64:');
	return bytes.toString('hex');
}

/** A digest in hex as the value of a `Repr-Digest` header. */
export function reprDigest(sha256: string): string {
	return `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`;
}

/**
 * What the client wants checked, of what it said in a header and in the form.
 * @throws S3proxyError `checksum-mismatch` when no content can match both
 */
export function wantedDigest(header: string | undefined, field: string | undefined): string | undefined {
	if (header !== undefined && field !== undefined && header !== field) {
		throw new S3proxyError('checksum-mismatch', `Repr-Digest says SHA-256 ${header}, the form field says ${field}`, {
			hint: 'Nothing was stored.',
		});
	}
	return header ?? field;
}
