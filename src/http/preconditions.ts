/** Conditional requests and ranges (RFC 9110, sections 13 and 14), with nginx's ETag. No input or output in here. */

import type { Stats } from 'node:fs';
import type { IncomingHttpHeaders } from 'node:http';

export interface Validators {
	/** As nginx makes it, so that an answer of ours and one of nginx's are the same to a cache. */
	readonly etag: string;
	readonly lastModified: string;
	/** Whole seconds since the epoch. */
	readonly seconds: number;
}

/** Bytes from `start` to `end`, the last one included. */
export interface Range {
	readonly start: number;
	readonly end: number;
}

export function validatorsOf({ mtimeMs, size }: Pick<Stats, 'mtimeMs' | 'size'>): Validators {
	const seconds = Math.floor(mtimeMs / 1000);
	return {
		etag: `"${seconds.toString(16)}-${size.toString(16)}"`,
		lastModified: new Date(seconds * 1000).toUTCString(),
		seconds,
	};
}

/** What the conditions of a request come to: send it, 412, or 304. Of each pair the entity tag counts. */
export function evaluate(headers: IncomingHttpHeaders, validators: Validators): 'send' | 'failed' | 'not-modified' {
	const ifMatch = headers['if-match'];
	if (ifMatch !== undefined) {
		if (!lists(ifMatch, validators.etag, 'strong')) return 'failed';
	} else {
		const since = secondsOf(headers['if-unmodified-since']);
		if (since !== undefined && since < validators.seconds) return 'failed';
	}
	const ifNoneMatch = headers['if-none-match'];
	if (ifNoneMatch !== undefined) return lists(ifNoneMatch, validators.etag, 'weak') ? 'not-modified' : 'send';
	// The very time, as nginx does it (if_modified_since exact): a time that went back is a change too.
	return secondsOf(headers['if-modified-since']) === validators.seconds ? 'not-modified' : 'send';
}

/**
 * The one range that a GET asks for; undefined when it asks for none, for several, or for something that is no range:
 * then it gets everything, which RFC 9110 allows.
 */
export function rangeOf(
	headers: IncomingHttpHeaders,
	validators: Validators,
	size: number,
): Range | 'unsatisfiable' | undefined {
	const [, first = '', last = ''] = /^bytes[ \t]*=[ \t]*(\d*)-(\d*)[ \t]*$/i.exec(headers.range ?? '') ?? [];
	if (first === '' && last === '') return undefined;
	if (!isStillCurrent(headers['if-range'], validators)) return undefined;
	if (first === '') return suffixOf(Number(last), size);
	const start = Number(first);
	const end = last === '' ? Number.POSITIVE_INFINITY : Number(last);
	if (end < start) return undefined;
	return start < size ? { start, end: Math.min(end, size - 1) } : 'unsatisfiable';
}

function suffixOf(length: number, size: number): Range | 'unsatisfiable' | undefined {
	if (length === 0) return 'unsatisfiable';
	// Satisfiable, says the RFC, but no Content-Range can say so.
	if (size === 0) return undefined;
	return { start: Math.max(0, size - length), end: size - 1 };
}

function isStillCurrent(ifRange: string | string[] | undefined, { etag, seconds }: Validators): boolean {
	if (ifRange === undefined) return true;
	const condition = String(ifRange).trim();
	return condition === etag || (!condition.endsWith('"') && secondsOf(condition) === seconds);
}

function lists(header: string, etag: string, comparison: 'strong' | 'weak'): boolean {
	if (header.trim() === '*') return true;
	for (const [, weak, tag] of header.matchAll(/(W\/)?("[^"]*")/g)) {
		if (tag === etag && (weak === undefined || comparison === 'weak')) return true;
	}
	return false;
}

/** Seconds since the epoch; undefined for what is no date, which counts as if it were not there. */
function secondsOf(date: string | undefined): number | undefined {
	const milliseconds = Date.parse(date ?? '');
	return Number.isNaN(milliseconds) ? undefined : Math.floor(milliseconds / 1000);
}
