/** What `s3proxy ingest` stores: a file, or a stream. */

import { lstat, open, unlink } from 'node:fs/promises';
import type { Context } from '../context.js';
import { purge } from '../edge/purge.js';
import { explain, S3proxyError } from '../errors.js';
import { readChunks } from '../fs/chunks.js';
import type { ArtifactPath } from '../state/artifact-path.js';
import { Ingest, type Stored } from './ingest.js';

/**
 * Stores a file of the local file system.
 * @param options.move takes the file over: it is gone from its place afterwards, and linked instead of copied where possible
 */
export async function ingestFile(
	context: Context,
	file: string,
	path: ArtifactPath,
	options: { move: boolean },
): Promise<Stored> {
	const source = await open(file, 'r').catch((error: unknown) => {
		throw explain(error, `reading ${file}`);
	});
	try {
		const stats = await source.stat();
		if (stats.isDirectory()) throw new S3proxyError('bad-usage', `${file} is a directory; ingest takes one file`);
		context.progress.expect(1, stats.size);
		const ingest = await Ingest.begin(context, path);
		try {
			const alone = stats.isFile() && stats.nlink === 1 && !(await lstat(file)).isSymbolicLink();
			if (!(options.move && alone && (await ingest.takeOver(file, stats.size)))) {
				await receiveAll(context, ingest, readChunks(source));
			}
			const stored = await ingest.commit();
			if (options.move) await unlink(file);
			await purge(context, path);
			context.progress.advance(1, 0);
			return stored;
		} catch (error) {
			await ingest.abandon();
			throw explain(error, `storing ${path}`);
		}
	} finally {
		await source.close();
	}
}

/** Stores what a stream yields. */
export async function ingestStream(
	context: Context,
	source: AsyncIterable<Uint8Array>,
	path: ArtifactPath,
): Promise<Stored> {
	const ingest = await Ingest.begin(context, path);
	try {
		await receiveAll(context, ingest, source);
		const stored = await ingest.commit();
		await purge(context, path);
		return stored;
	} catch (error) {
		await ingest.abandon();
		throw explain(error, `storing ${path}`);
	}
}

async function receiveAll(
	{ abandon, progress }: Context,
	ingest: Ingest,
	source: AsyncIterable<Uint8Array>,
): Promise<void> {
	const content = ingest.receive({ hash: false });
	for await (const chunk of source) {
		abandon.throwIfAborted();
		progress.advance(0, chunk.length);
		if (!content.take(chunk)) await content.room();
	}
	await content.end();
}
