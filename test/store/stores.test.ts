import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DirectoryStore } from '../../src/store/directory-store.js';
import { describeStore } from './conformance.js';
import { s3StoreAt } from './s3-subject.js';
import { MEBIBYTE } from './sources.js';

const directories: string[] = [];

after(async () => {
	for (const directory of directories) await rm(directory, { recursive: true });
});

for (const fsync of [false, true]) {
	describeStore(`a directory store, fsync: ${fsync}`, async () => {
		const directory = await mkdtemp(join(tmpdir(), 's3proxy-store-'));
		directories.push(directory);
		return { store: new DirectoryStore(join(directory, 'made', 'later'), { fsync }), partSize: 5 * MEBIBYTE };
	});
}

describeStore('an S3 store', async () => {
	const subject = await s3StoreAt('conformance');
	return subject && { store: subject.open(), partSize: 5 * MEBIBYTE };
});
