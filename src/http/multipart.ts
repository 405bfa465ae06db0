/** A multipart form as it comes in: the file streams on, the `sha256` field is kept, everything else is thrown away. */

import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import busboy, { type Busboy, type FieldInfo, type FileInfo } from 'busboy';
import { S3proxyError } from '../errors.js';
import { deferred } from './deferred.js';
import { digestOfField } from './digest.js';
import { FileContent, type FileSink } from './file-content.js';
import { boundaryOf, FormPieces, type Piece } from './form-pieces.js';
import { IdleTimer } from './idle-timer.js';

/** What a form may have around the file: delimiters, headers, other fields. */
export const FORM_OVERHEAD = 64 * 2 ** 10;
/** No `fileSize`: who takes the content counts it, and busboy would cut a file off silently. */
const LIMITS = { fieldSize: 16 * 2 ** 10, fields: 32, files: 8, parts: 64 } as const;
const USE_FORM = "Send a form with one file field named file, such as curl -F 'file=@FILE' URL makes.";

/** The client went away or fell silent: there is nobody to answer. */
export class ClientGone extends Error {}

export interface Form {
	/** Lower-case hex; what the field `sha256` said. */
	readonly sha256: string | undefined;
}

export interface FormOptions {
	/** Bytes of the whole body. */
	readonly limit: number;
	/** Thrown when the body is larger than that. */
	readonly tooLarge: () => Error;
	/** Seconds without a byte. */
	readonly idleTimeout: number;
	/** Where the content of the file field goes; `form` is what has come before it. */
	readonly onFile: (form: Form) => FileSink;
}

function badForm(what: string, hint = USE_FORM): S3proxyError {
	return new S3proxyError('bad-form', what, { hint });
}

/** @throws S3proxyError `not-multipart`, `bad-form` when the header alone shows that the body is no such form */
export function boundaryOfRequest({ headers }: IncomingMessage): string {
	const type = headers['content-type'] ?? '';
	if (!/^multipart\/form-data[ \t]*(;|$)/i.test(type)) {
		throw new S3proxyError('not-multipart', 'the body is not multipart/form-data', { hint: USE_FORM });
	}
	const boundary = boundaryOf(type);
	if (boundary === undefined) throw badForm('Content-Type: multipart/form-data has no boundary');
	return boundary;
}

/**
 * Reads a form to its end. The request is left paused, not destroyed, so that it can be answered.
 * After a failure the file's sink gets nothing more.
 * @throws S3proxyError `bad-form`; ClientGone; whatever `onFile` or its sink throws
 */
export async function readForm(request: IncomingMessage, boundary: string, options: FormOptions): Promise<Form> {
	return new FormReader(request, boundary, options).read();
}

class FormReader {
	readonly #request: IncomingMessage;
	readonly #options: FormOptions;
	readonly #pieces: FormPieces;
	readonly #parser: Busboy;
	readonly #idle: IdleTimer;
	readonly #ended = deferred<void>();
	#received = 0;
	#content: FileContent | undefined;
	#sha256: string | undefined;
	#hint: string | undefined;

	constructor(request: IncomingMessage, boundary: string, options: FormOptions) {
		this.#request = request;
		this.#options = options;
		this.#pieces = new FormPieces(boundary);
		// Our own reading of the boundary, so that busboy and the pieces mean the same.
		const headers = { 'content-type': `multipart/form-data; boundary=${JSON.stringify(boundary)}` };
		this.#parser = openParser(headers);
		this.#idle = new IdleTimer(options.idleTimeout, () => this.#fail(new ClientGone('the client sends nothing more')));
	}

	async read(): Promise<Form> {
		const request = this.#request;
		this.#listenToParser();
		const onData = (chunk: Buffer) => this.#onData(chunk);
		const onEnd = () => {
			this.#idle.stop();
			this.#parser.end();
		};
		const onClose = () => {
			// A request that has come to its end is closed too.
			if (!request.readableEnded) this.#fail(new ClientGone('the client went away'));
		};
		try {
			if (request.destroyed) throw new ClientGone('the client went away');
			request.on('data', onData).once('end', onEnd).once('close', onClose);
			this.#idle.touch();
			await this.#ended.promise;
			await this.#content?.kept;
		} catch (error) {
			request.pause();
			this.#content?.stop();
			this.#parser.destroy();
			throw error;
		} finally {
			this.#idle.stop();
			request.off('data', onData).off('end', onEnd).off('close', onClose);
		}
		if (this.#content === undefined) throw badForm('the form has no file field named "file"', this.#hint);
		return { sha256: this.#sha256 };
	}

	#fail(error: unknown): void {
		this.#ended.reject(error);
	}

	#onData(chunk: Buffer): void {
		this.#idle.touch();
		this.#received += chunk.length;
		try {
			if (this.#received > this.#options.limit) throw this.#options.tooLarge();
			for (const piece of this.#pieces.accept(chunk)) this.#take(piece);
		} catch (error) {
			this.#fail(error);
		}
	}

	#take({ isDelimiter, bytes }: Piece): void {
		if (isDelimiter || this.#content?.take(bytes) !== true) this.#parser.write(bytes);
		// Not before: busboy may see the end of a file's headers only now, when the file is empty.
		if (isDelimiter) this.#content?.delimit();
		if (this.#content?.isFull) this.#pause();
	}

	/** From here on the disk is waited for, not the client. */
	#pause(): void {
		this.#request.pause();
		this.#idle.stop();
	}

	#resume(): void {
		if (this.#request.readableEnded || !this.#request.isPaused()) return;
		this.#idle.touch();
		this.#request.resume();
	}

	#listenToParser(): void {
		const parser = this.#parser;
		parser.on('file', (name, content, info) => this.#onFile(name, content, info));
		parser.on('field', (name, value, info) => this.#onField(name, value, info));
		parser.on('filesLimit', () => this.#fail(badForm(`the form has more than ${LIMITS.files} files`)));
		parser.on('fieldsLimit', () => this.#fail(badForm(`the form has more than ${LIMITS.fields} fields`)));
		parser.on('partsLimit', () => this.#fail(badForm(`the form has ${LIMITS.parts} parts or more`)));
		parser.on('error', (error) => this.#fail(explainParser(error)));
		parser.on('close', () => this.#ended.resolve());
	}

	#onFile(name: string | undefined, part: Readable, { filename }: Partial<FileInfo>): void {
		// Destroying the parser destroys this one too, with an error that the parser tells as well.
		part.on('error', () => undefined);
		if (name === 'file' && filename !== undefined) {
			this.#takeFile(part);
			return;
		}
		if (name === 'file') this.#noteTextField();
		if (name === 'sha256') this.#fail(badForm('the form field "sha256" must be text, not a file'));
		part.resume();
	}

	#takeFile(part: Readable): void {
		if (this.#content !== undefined) {
			this.#fail(badForm('the form has several file fields named "file"'));
			return;
		}
		try {
			const sink = this.#options.onFile({ sha256: this.#sha256 });
			this.#content = new FileContent(this.#parser, part, sink, () => this.#resume());
			this.#content.kept.catch((error: unknown) => this.#fail(error));
		} catch (error) {
			this.#fail(error);
		}
	}

	#onField(name: string | undefined, value: string, { valueTruncated }: FieldInfo): void {
		if (name === 'file') {
			this.#noteTextField();
			return;
		}
		try {
			if (valueTruncated) {
				const field = JSON.stringify(String(name).slice(0, 80));
				throw badForm(`the form field ${field} is longer than ${LIMITS.fieldSize} bytes`);
			}
			if (name !== 'sha256') return;
			if (this.#sha256 !== undefined) throw badForm('the form has several fields named "sha256"');
			this.#sha256 = digestOfField(value);
		} catch (error) {
			this.#fail(error);
		}
	}

	#noteTextField(): void {
		this.#hint = "There is a field named file, but it has no filename: with curl, write 'file=@FILE', not 'file=FILE'.";
	}
}

function openParser(headers: { 'content-type': string }): Busboy {
	try {
		return busboy({ headers, limits: LIMITS });
	} catch (error) {
		throw explainParser(error);
	}
}

/** Busboy throws plain errors; all but bugs of ours are about the form. */
function explainParser(error: unknown): unknown {
	if (!(error instanceof Error) || 'code' in error || error.constructor !== Error) return error;
	const what = /^Unexpected end/.test(error.message) ? 'the form ends before its last delimiter' : error.message;
	return badForm(`malformed form: ${what}`, 'Nothing was stored; send it again.');
}
