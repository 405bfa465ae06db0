/** Numbers for people. */

const UNITS = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `33 bytes`, `1.5 MiB`. */
export function bytesText(bytes: number): string {
	if (bytes < 1024) return countText(bytes, 'byte');
	let value = bytes / 1024;
	let unit = 0;
	while (value >= 1024 && unit < UNITS.length - 1) {
		value /= 1024;
		unit++;
	}
	return `${value.toFixed(value < 10 ? 1 : 0)} ${UNITS[unit]}`;
}

/** `1 artifact`, `2 artifacts`. */
export function countText(count: number, what: string): string {
	return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** `42 s`, `3 min`, `5 h`, `2 d`. */
export function durationText(seconds: number): string {
	if (seconds < 120) return `${Math.round(seconds)} s`;
	if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
	if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
	return `${Math.round(seconds / 86_400)} d`;
}
