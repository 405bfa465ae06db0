/** A progress bar on stderr, for anything that takes longer than a second. */

import type { Progress } from '../context.js';
import { bytesText, countText, durationText } from './words.js';

const FIRST_DRAWN_MS = 1000;
const REDRAW_MS = 200;
const BAR_WIDTH = 24;
const CLEAR_LINE = '\r\u001b[K';

export interface TerminalProgress extends Progress {
	/** Writes something above the bar. */
	above(write: () => void): void;
	/** Removes the bar. */
	end(): void;
}

/** @param options.visible whether stderr is a terminal and the user wants to see it */
export function createProgress(options: { visible: boolean }): TerminalProgress {
	const [expected, reached] = [
		{ items: 0, bytes: 0 },
		{ items: 0, bytes: 0 },
	];
	const began = Date.now();
	let drawn = false;
	const clear = () => {
		if (drawn) process.stderr.write(CLEAR_LINE);
		drawn = false;
	};
	const draw = () => {
		if (Date.now() - began < FIRST_DRAWN_MS || expected.items === 0) return;
		process.stderr.write(CLEAR_LINE + line(expected, reached, (Date.now() - began) / 1000));
		drawn = true;
	};
	const timer = options.visible ? setInterval(draw, REDRAW_MS).unref() : undefined;
	return {
		expect: (items, bytes) => {
			expected.items += items;
			expected.bytes += bytes;
		},
		advance: (items, bytes) => {
			reached.items += items;
			reached.bytes += bytes;
		},
		above: (write) => {
			clear();
			write();
		},
		end: () => {
			clearInterval(timer);
			clear();
		},
	};
}

interface Amount {
	readonly items: number;
	readonly bytes: number;
}

function line(expected: Amount, reached: Amount, seconds: number): string {
	const rate = reached.bytes / seconds;
	const share = expected.bytes === 0 ? 0 : Math.min(1, reached.bytes / expected.bytes);
	const filled = Math.round(share * BAR_WIDTH);
	const remaining = rate > 0 ? durationText(Math.max(0, expected.bytes - reached.bytes) / rate) : '?';
	return [
		`[${'='.repeat(filled)}${' '.repeat(BAR_WIDTH - filled)}]`,
		`${bytesText(reached.bytes)} of ${bytesText(expected.bytes)}`,
		`${bytesText(rate)}/s`,
		`${remaining} left`,
		countText(reached.items, 'item'),
	].join('  ');
}
