/** S3 stores on the test server, with its credentials in the environment as the SDK wants them. */

import { type S3Settings, S3Store } from '../../src/store/s3-store.js';
import { type S3Server, s3Server } from '../support/radosgw.js';
import { MEBIBYTE } from './sources.js';

export interface S3Subject {
	readonly server: S3Server;
	open(settings?: Partial<S3Settings>): S3Store;
}

const saved = { ...process.env };

after(() => {
	for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_EC2_METADATA_DISABLED'])
		setEnvironment(name, saved[name]);
});

function setEnvironment(name: string, value: string | undefined): void {
	if (value === undefined) delete process.env[name];
	else process.env[name] = value;
}

/** A new bucket and stores on it; undefined when there is no server. */
export async function s3StoreAt(bucket: string): Promise<S3Subject | undefined> {
	const server = await s3Server();
	if (server === undefined) return undefined;
	useCredentials(server);
	await server.createBucket(bucket);
	const { endpoint, region } = server;
	const defaults: S3Settings = {
		bucket,
		endpoint,
		region,
		forcePathStyle: true,
		checksums: 'when_required',
		partSize: 5 * MEBIBYTE,
		timeout: 10,
		attempts: 3,
	};
	return { server, open: (settings = {}) => new S3Store({ ...defaults, ...settings }) };
}

/** For stores that are opened from now on. */
export function useCredentials(credentials: { accessKeyId?: string; secretAccessKey?: string }): void {
	setEnvironment('AWS_ACCESS_KEY_ID', credentials.accessKeyId);
	setEnvironment('AWS_SECRET_ACCESS_KEY', credentials.secretAccessKey);
	setEnvironment('AWS_EC2_METADATA_DISABLED', 'true');
}
