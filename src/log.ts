/** Logs go to stderr, one line each: for people, or JSON for machines. */

import { isS3proxyError } from './errors.js';

type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;

export interface Log {
	info(message: string, fields?: LogFields): void;
	warn(message: string, fields?: LogFields): void;
	error(message: string, fields?: LogFields): void;
}

type Level = keyof Log;

/** Control characters in names (from the bucket, or the disk) must not forge lines or drive the terminal. */
function printable(text: string): string {
	// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is to be found
	return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) => JSON.stringify(character).slice(1, -1));
}

export function createLog(format: 'text' | 'json', options: { quiet: boolean; write: (line: string) => void }): Log {
	const emit = (level: Level, message: string, fields: LogFields = {}) => {
		if (options.quiet && level === 'info') return;
		if (format === 'json') {
			options.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
			return;
		}
		const rest = Object.entries(fields).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]));
		const prefix = level === 'info' ? '' : `${level}: `;
		options.write(`${printable([prefix + message, ...rest].join(' '))}\n`);
	};
	return {
		info: (message, fields) => emit('info', message, fields),
		warn: (message, fields) => emit('warn', message, fields),
		error: (message, fields) => emit('error', message, fields),
	};
}

/** One line for a person: what was wrong and what to do. A bug has a stack, because nobody can act on it. */
export function describeError(error: unknown): string {
	if (isS3proxyError(error)) return error.hint === undefined ? error.message : `${error.message}. ${error.hint}`;
	return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
