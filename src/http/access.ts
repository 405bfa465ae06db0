/** Who may upload: what `Authorization` says, held against the file of credentials. */

import { admitted, type Claim, type Credential, parseCredentials } from '../crypto/credentials.js';
import { S3proxyError } from '../errors.js';
import { readAuthFile } from '../state/auth-file.js';

export class Access {
	readonly #file: string;
	#text = '';
	#credentials: readonly Credential[] = [];

	/** @param file the file of credentials, absolute */
	constructor(file: string) {
		this.#file = file;
	}

	/** @throws S3proxyError `bad-config` when the file of credentials is not in order */
	check(): void {
		this.#load();
	}

	/**
	 * Lets a client in by the credentials as they are at this moment.
	 * @param authorization the header, if it was sent
	 * @returns its name
	 * @throws S3proxyError `unauthorized`, whatever is wrong; `bad-config` when nobody can be let in
	 */
	admit(authorization: string | undefined): string {
		const credentials = this.#load();
		const claim = claimOf(authorization ?? '');
		const name = claim === undefined ? undefined : admitted(credentials, claim);
		if (name !== undefined) return name;
		throw new S3proxyError('unauthorized', 'uploads need a token', {
			hint: 'Send it as "Authorization: Bearer TOKEN", or as the password of your name (curl -u NAME:TOKEN).',
		});
	}

	/** Read every time, so that a token that was taken back lets nobody in; parsed only when it is another text. */
	#load(): readonly Credential[] {
		const { text } = readAuthFile(this.#file);
		if (text !== this.#text) {
			this.#credentials = parseCredentials(text, this.#file);
			this.#text = text;
		}
		return this.#credentials;
	}
}

/** undefined when the header is neither Bearer nor Basic (RFC 6750, RFC 7617). */
function claimOf(authorization: string): Claim | undefined {
	const [, scheme = '', value = ''] = /^(bearer|basic) +([\w.~+/=-]+) *$/i.exec(authorization) ?? [];
	if (scheme.toLowerCase() === 'bearer') return { name: undefined, token: value };
	const [, name, token] = /^([^:]*):(.*)$/s.exec(Buffer.from(value, 'base64').toString('utf8')) ?? [];
	return name === undefined || token === undefined ? undefined : { name, token };
}
