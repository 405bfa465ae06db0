/** Files that hold secrets: their owner alone may read and write them. */

import type { Stats } from 'node:fs';

const GROUP_OR_OTHERS = 0o077;

/** Who else has access to a file, for people; undefined when its owner alone has. */
export function exposureOf({ mode }: Pick<Stats, 'mode'>): string | undefined {
	if ((mode & GROUP_OR_OTHERS) === 0) return undefined;
	return `is accessible to group or others (mode ${(mode & 0o777).toString(8).padStart(4, '0')})`;
}
