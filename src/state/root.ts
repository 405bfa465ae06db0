/** What every function over the state of one root needs. */

import type { Layout } from './layout.js';
import type { Locks } from './locks.js';

export interface Root {
	readonly layout: Layout;
	readonly locks: Locks;
	/** Whether names and data are fsynced (`fsync:` in the config). */
	readonly sync: boolean;
}
