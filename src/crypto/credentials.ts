/**
 * Who may upload: names, and the SHA-256 of tokens. A token has 256 random bits, so a fast hash keeps it secret. A password
 * that a person chose would not be kept by one; so nothing that does not look like a token of ours is ever accepted
 * (docs/decisions/0002-tokens.md).
 */

import { Buffer } from 'node:buffer';
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { S3proxyError } from '../errors.js';

const TOKEN_BYTES = 32;
const TOKEN_PREFIX = 's3proxy_';
const TOKEN = /^s3proxy_[A-Za-z0-9_-]{43}$/;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$/;
const DIGEST = /^sha256\$([0-9a-f]{64})$/;

/** One line of the file of credentials. */
export interface Credential {
	readonly name: string;
	/** SHA-256 of the whole token. */
	readonly tokenDigest: Buffer;
}

/** What a client says it is. */
export interface Claim {
	/** undefined: it says a token alone. */
	readonly name: string | undefined;
	readonly token: string;
}

function sha256(text: string): Buffer {
	return createHash('sha256').update(text).digest();
}

/** A new token: 256 random bits, in characters that need no quoting in a shell, a URL or a header. */
export function makeToken(): string {
	return TOKEN_PREFIX + randomBytes(TOKEN_BYTES).toString('base64url');
}

/** Whether `name` can stand before the colon of a line, and before that of Basic authentication. */
export function isCredentialName(name: string): boolean {
	return NAME.test(name);
}

/** The line that lets the bearer of `token` in as `name`, without a line break. */
export function credentialLine(name: string, token: string): string {
	return `${name}:sha256$${sha256(token).toString('hex')}`;
}

/**
 * Reads a file of credentials: a line each, `NAME:sha256$DIGEST`; empty lines and those that begin with `#` count for nothing.
 * A name may have several lines, so that a token can be replaced while the old one still works.
 * @param file its name, for errors
 * @throws S3proxyError `bad-config`, naming the line and showing nothing of it
 */
export function parseCredentials(text: string, file: string): Credential[] {
	const credentials: Credential[] = [];
	for (const [index, line] of text.split('\n').entries()) {
		const entry = line.trim();
		if (entry === '' || entry.startsWith('#')) continue;
		const colon = entry.indexOf(':');
		const name = entry.slice(0, Math.max(0, colon));
		const digest = DIGEST.exec(entry.slice(colon + 1))?.[1];
		if (!isCredentialName(name) || digest === undefined) {
			throw new S3proxyError('bad-config', `${file}, line ${index + 1}: not NAME:sha256$DIGEST`, {
				hint: 'Remove the line; s3proxy add-token NAME makes a good one.',
			});
		}
		credentials.push({ name, tokenDigest: Buffer.from(digest, 'hex') });
	}
	return credentials;
}

/**
 * Whom a claim lets in. How long this takes does not depend on what is right in the claim: every credential is compared, and
 * of all of them digests of one length.
 * @returns the name of the credential; undefined when there is none
 */
export function admitted(credentials: readonly Credential[], { name, token }: Claim): string | undefined {
	if (!TOKEN.test(token)) return undefined;
	const tokenDigest = sha256(token);
	const nameDigest = name === undefined ? undefined : sha256(name);
	let found: string | undefined;
	for (const credential of credentials) {
		const ownNameDigest = sha256(credential.name);
		const isName = timingSafeEqual(nameDigest ?? ownNameDigest, ownNameDigest);
		const isToken = timingSafeEqual(tokenDigest, credential.tokenDigest);
		found = isName && isToken ? credential.name : found;
	}
	return found;
}
