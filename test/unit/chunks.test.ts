import { type FileHandle, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { ChunkWriter } from '../../src/fs/chunks.ts';
import { deferred } from '../../src/http/deferred.ts';
import { makeDirectory } from '../support/cli.js';

const MIB = 2 ** 20;

/** A real file. */
async function newFile(): Promise<{ file: string; handle: FileHandle }> {
	const file = join(makeDirectory(), 'file');
	return { file, handle: await open(file, 'w') };
}

describe('a file that is written in chunks', () => {
	it('is what was taken, whatever the sizes of the chunks', async () => {
		const { file, handle } = await newFile();
		const writer = new ChunkWriter(handle, { writeBehind: true });
		const chunks = [0, 1, MIB - 2, 1, 1, 3 * MIB, 2 * MIB + 1, 5].map((size, n) => Buffer.alloc(size, n + 1));
		for (const chunk of chunks) if (!writer.take(chunk)) await writer.room();
		await writer.end();
		await handle.close();
		expect((await readFile(file)).equals(Buffer.concat(chunks))).to.equal(true);
	});

	it('has room when no more than one full buffer waits for the disk', async () => {
		const { handle } = await newFile();
		const write = handle.write.bind(handle) as (...args: unknown[]) => Promise<unknown>;
		let written = 0;
		// The disk: real, and counted.
		handle.write = (async (...args: unknown[]) => {
			const result = await write(...args);
			written++;
			return result;
		}) as typeof handle.write;
		const writer = new ChunkWriter(handle, { writeBehind: false });
		expect(writer.take(Buffer.alloc(7 * MIB))).to.equal(false);
		await writer.room();
		expect(written).to.be.at.least(6);
		await writer.end();
		await handle.close();
	});

	it('is synced no more after a sync that failed, however much has come meanwhile', async () => {
		const { handle } = await newFile();
		const begun = deferred<void>();
		const sync = deferred<void>();
		let syncs = 0;
		// A disk that says after a long time that it has lost something: not to be had otherwise.
		handle.datasync = () => {
			syncs++;
			begun.resolve();
			return sync.promise;
		};
		const writer = new ChunkWriter(handle, { writeBehind: true });
		for (let n = 0; n < 80; n++) if (!writer.take(Buffer.alloc(MIB))) await writer.room();
		await begun.promise;
		writer.take(Buffer.alloc(MIB));
		sync.reject(new Error('EIO'));
		const failure = await writer.end().then(
			() => undefined,
			(error: unknown) => error,
		);
		expect(String(failure)).to.contain('EIO');
		expect(writer.take(Buffer.alloc(64 * MIB)), 'take').to.equal(false);
		await writer.idle();
		expect(syncs).to.equal(1);
		await handle.close();
	});
});
