/**
 * Cuts a multipart body at its delimiters before busboy gets it, for two reasons. Busboy takes every line that begins with
 * the boundary for a delimiter, whatever follows: it would end a file in the middle and say nothing; it also goes on
 * parsing after the end. And what has no delimiter in it need not go through busboy, which looks at every byte again.
 */

import { S3proxyError } from '../errors.js';

const FOLLOWING_BYTES = 2;

/** The boundary that a `multipart/form-data` content type names; undefined when it names none. */
export function boundaryOf(contentType: string): string | undefined {
	const [, quoted, plain] = /;\s*boundary=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))/i.exec(contentType) ?? [];
	const boundary = quoted?.replace(/\\(.)/g, '$1') ?? plain;
	return boundary === '' ? undefined : boundary;
}

export interface Piece {
	/** A delimiter is alone in its piece; other bytes contain no delimiter, and none begins in them. */
	readonly isDelimiter: boolean;
	readonly bytes: Buffer;
}

export class FormPieces {
	readonly #delimiter: Buffer;
	/** The end of what has come, in which a delimiter may have begun. */
	#held: Buffer;
	/** The first delimiter needs no line break before it: one that the form does not have is looked at. */
	#invented: number;
	#ended = false;

	constructor(boundary: string) {
		this.#delimiter = Buffer.from(`\r\n--${boundary}`);
		this.#held = Buffer.from('\r\n');
		this.#invented = this.#held.length;
	}

	/**
	 * @returns what the form is known to go on with; nothing after its last delimiter
	 * @throws S3proxyError `bad-form` at a delimiter that is none
	 */
	accept(chunk: Buffer): Piece[] {
		if (this.#ended) return [];
		const bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
		const pieces: Piece[] = [];
		let from = 0;
		for (let at = bytes.indexOf(this.#delimiter); at >= 0; at = bytes.indexOf(this.#delimiter, from)) {
			const end = at + this.#delimiter.length;
			// What follows has not come: `#undecidedIn` holds it back.
			if (end + FOLLOWING_BYTES > bytes.length) break;
			this.#ended = isLast(bytes, end);
			this.#add(pieces, false, bytes.subarray(from, at));
			// The line break after it is left: another delimiter may begin there.
			from = this.#ended ? end + FOLLOWING_BYTES : end;
			this.#add(pieces, true, bytes.subarray(at, from));
			if (this.#ended) return pieces;
		}
		const undecided = this.#undecidedIn(bytes, from);
		this.#add(pieces, false, bytes.subarray(from, undecided));
		this.#held = Buffer.from(bytes.subarray(undecided));
		return pieces;
	}

	#add(pieces: Piece[], isDelimiter: boolean, whole: Buffer): void {
		if (whole.length === 0) return;
		const bytes = whole.subarray(this.#invented);
		this.#invented = 0;
		if (bytes.length > 0) pieces.push({ isDelimiter, bytes });
	}

	/** Where in `bytes` the delimiter begins that is not whole, or whose following bytes have not come; their end if there is none. */
	#undecidedIn(bytes: Buffer, from: number): number {
		const least = Math.max(from, bytes.length - this.#delimiter.length - FOLLOWING_BYTES + 1);
		for (let at = bytes.indexOf('\r', least); at >= 0; at = bytes.indexOf('\r', at + 1)) {
			const length = Math.min(this.#delimiter.length, bytes.length - at);
			if (bytes.compare(this.#delimiter, 0, length, at, at + length) === 0) return at;
		}
		return bytes.length;
	}
}

function isLast(bytes: Buffer, end: number): boolean {
	const following = bytes.toString('latin1', end, end + FOLLOWING_BYTES);
	if (following === '--' || following === '\r\n') return following === '--';
	throw new S3proxyError('bad-form', 'malformed form: a line begins with the boundary and goes on', {
		hint: 'Nothing was stored; the client has to choose a boundary that the file does not contain.',
	});
}
