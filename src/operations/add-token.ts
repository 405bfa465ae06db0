/** Makes a token with which somebody may upload. */

import type { Context } from '../context.js';
import { credentialLine, isCredentialName, makeToken, parseCredentials } from '../crypto/credentials.js';
import { explain, S3proxyError } from '../errors.js';
import { appendToAuthFile } from '../state/auth-file.js';

export interface AddedToken {
	readonly name: string;
	/** Shown once: the file has its hash alone. */
	readonly token: string;
	/** The file of credentials. */
	readonly file: string;
}

/**
 * Adds a token for `name` to the file of credentials; durable when this returns. Other tokens stay, also those of `name`. A
 * service that runs takes it from now on.
 * @throws S3proxyError `bad-usage`; `bad-config` when there is no `auth:` or its file is not in order; `lock-timeout` when
 *   another add-token runs
 */
export async function addToken(context: Context, name: string): Promise<AddedToken> {
	const { root } = context;
	const { auth } = context.config;
	if (!isCredentialName(name)) {
		throw new S3proxyError('bad-usage', `bad name ${JSON.stringify(name)}`, {
			hint: 'A name has up to 64 letters, digits, dots, underscores, @ and hyphens, and begins with a letter or digit.',
		});
	}
	if (auth === undefined) {
		throw new S3proxyError('bad-config', 'config.yaml does not say where credentials are, so uploads need none', {
			hint: 'Write "auth: auth" into it, add the token, then start serve again.',
		});
	}
	const added = await root.locks.withRun('add-token', async () => {
		const token = makeToken();
		try {
			await appendToAuthFile(root, auth, credentialLine(name, token), (text) => parseCredentials(text, auth));
		} catch (error) {
			throw explain(error, 'adding a token');
		}
		return { name, token, file: auth };
	});
	if (added !== undefined) return added;
	throw new S3proxyError('lock-timeout', 'another add-token is running', { hint: 'Wait for it to end.' });
}
