/**
 * Looks over a multipart body before busboy gets it. Busboy takes every line that begins with the boundary for a
 * delimiter, whatever follows: it would end a file in the middle and say nothing. It also goes on parsing after the end.
 */

import { S3proxyError } from '../errors.js';

const FOLLOWING_BYTES = 2;

/** The boundary that a `multipart/form-data` content type names; undefined when it names none. */
export function boundaryOf(contentType: string): string | undefined {
	const [, quoted, plain] = /;\s*boundary=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))/i.exec(contentType) ?? [];
	const boundary = quoted?.replace(/\\(.)/g, '$1') ?? plain;
	return boundary === '' ? undefined : boundary;
}

export class BoundaryGuard {
	readonly #needle: Buffer;
	/** The end of what has come, in which a delimiter may have begun. The first needs no line break before it. */
	#tail = Buffer.from('\r\n');
	#ended = false;

	constructor(boundary: string) {
		this.#needle = Buffer.from(`\r\n--${boundary}`);
	}

	/**
	 * @returns how many bytes of `chunk` belong to the form: all, until its last delimiter has come
	 * @throws S3proxyError `bad-form` at a delimiter that is none
	 */
	accept(chunk: Buffer): number {
		if (this.#ended) return 0;
		const before = this.#tail.length;
		const reach = this.#needle.length + FOLLOWING_BYTES - 1;
		const end = this.#endIn(Buffer.concat([this.#tail, chunk.subarray(0, reach)]), before);
		if (end !== undefined) return end - before;
		const endInChunk = this.#endIn(chunk, chunk.length);
		if (endInChunk !== undefined) return endInChunk;
		const last = chunk.length >= reach ? chunk : Buffer.concat([this.#tail, chunk]);
		this.#tail = Buffer.from(last.subarray(Math.max(0, last.length - reach)));
		return chunk.length;
	}

	/** Where the form ends, if a last delimiter begins in the first `limit` bytes and is whole. */
	#endIn(bytes: Buffer, limit: number): number | undefined {
		for (let at = bytes.indexOf(this.#needle); at >= 0 && at < limit; at = bytes.indexOf(this.#needle, at + 1)) {
			const end = at + this.#needle.length + FOLLOWING_BYTES;
			if (end > bytes.length) return undefined;
			const following = bytes.toString('latin1', end - FOLLOWING_BYTES, end);
			if (following === '--') {
				this.#ended = true;
				return end;
			}
			if (following !== '\r\n') {
				throw new S3proxyError('bad-form', 'malformed form: a line begins with the boundary and goes on', {
					hint: 'Nothing was stored; the client has to choose a boundary that the file does not contain.',
				});
			}
		}
		return undefined;
	}
}
