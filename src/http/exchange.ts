/** One request and its answer, as everything in here passes them on. */

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Context } from '../context.js';

export interface Exchange {
	readonly context: Context;
	readonly request: IncomingMessage;
	readonly response: ServerResponse;
	/** `continue`: the client sends its body only when it is told to (`Expect: 100-continue`). */
	readonly expects: 'none' | 'continue' | 'unknown';
}

/** The path and query of a request: `/a/b?c`, also when the client sent `http://host/a/b?c`. */
export function targetOfRequest(request: IncomingMessage): string {
	const target = request.url ?? '';
	const absolute = /^https?:\/\/[^/?]*/i.exec(target);
	if (absolute === null) return target;
	const rest = target.slice(absolute[0].length);
	return rest.startsWith('/') ? rest : `/${rest}`;
}

/** Whether Varnish asks, which takes this header from what its own clients send. */
export function isFromEdge({ headers }: IncomingMessage): boolean {
	return headers['s3proxy-edge'] === '1';
}

/** Resolves when the answer is with the operating system, or its connection is gone. */
export async function closed({ response }: Pick<Exchange, 'response'>): Promise<void> {
	if (response.closed) return;
	await new Promise<void>((resolve) => response.once('close', resolve));
}
