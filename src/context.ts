/** The composition root: from a directory with a config.yaml to everything that an operation needs. */

import { setMaxListeners } from 'node:events';
import { realpath } from 'node:fs/promises';
import { type Config, loadConfig } from './config.js';
import { type Keyring, loadKeyring } from './crypto/keyring.js';
import { S3proxyError } from './errors.js';
import { isErrno } from './fs/durable.js';
import { createLog, type Log } from './log.js';
import { Layout } from './state/layout.js';
import { Locks } from './state/locks.js';
import type { Root } from './state/root.js';
import { checkRoot } from './state/root-check.js';
import type { ObjectStore } from './store/object-store.js';

/** Told what an operation is doing; a terminal may draw it. */
export interface Progress {
	/** More work has become known. */
	expect(items: number, bytes: number): void;
	advance(items: number, bytes: number): void;
}

export interface Context {
	readonly config: Config;
	readonly root: Root;
	readonly log: Log;
	readonly progress: Progress;
	/** Aborted: take no new items. */
	readonly stopping: AbortSignal;
	/** Aborted, some seconds later: give up the current ones too. */
	readonly abandon: AbortSignal;
	/**
	 * The keys as they are now; another process may have rotated them since the last call.
	 * @throws S3proxyError `bad-key`, also when there is none at all
	 */
	keyring(): Promise<Keyring>;
	/** The same; undefined when there is no key at all. */
	keyringIfAny(): Promise<Keyring | undefined>;
	/** The store, opened when it is first asked for: loading the AWS SDK takes a while. */
	store(): Promise<ObjectStore>;
	/** Lets go of the store's idle connections. */
	close(): Promise<void>;
}

export interface ContextOptions {
	readonly progress: Progress;
	readonly stopping: AbortSignal;
	readonly abandon: AbortSignal;
	/** Where log lines go. */
	readonly write: (line: string) => void;
	/** Whether the log leaves out what is no warning. */
	readonly quiet: boolean;
}

/** The root as an absolute path without symlinks, so that a symlink below it can be told from one above it. */
export async function resolveRoot(directory: string): Promise<string> {
	try {
		return await realpath(directory);
	} catch (error) {
		if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
		throw new S3proxyError('bad-config', `the root ${directory} does not exist`, {
			cause: error,
			hint: 'Name another directory with --root or S3PROXY_ROOT.',
		});
	}
}

async function openStore(config: Config): Promise<ObjectStore> {
	if (config.store.kind === 'directory') {
		const { DirectoryStore } = await import('./store/directory-store.js');
		return new DirectoryStore(config.store.directory, { fsync: config.fsync });
	}
	const { S3Store } = await import('./store/s3-store.js');
	return new S3Store({ bucket: config.store.bucket, ...config.s3 });
}

/**
 * @param directory the root, as `resolveRoot` gives it
 * @throws S3proxyError `bad-config`
 */
export async function createContext(directory: string, options: ContextOptions): Promise<Context> {
	// Some for each job and request: with more than ten, Node.js would warn of a leak.
	setMaxListeners(0, options.stopping, options.abandon);
	const config = await loadConfig(directory);
	const layout = new Layout(directory);
	checkRoot(layout);
	const log = createLog(config.log, options);
	const keyringIfAny = () => loadKeyring(layout.keys, (message) => log.warn(message));
	let store: Promise<ObjectStore> | undefined;
	return {
		progress: options.progress,
		stopping: options.stopping,
		abandon: options.abandon,
		log,
		config,
		root: { layout, locks: new Locks(layout, config.lockTimeout), sync: config.fsync },
		keyringIfAny,
		keyring: async () => {
			const keyring = await keyringIfAny();
			if (keyring !== undefined) return keyring;
			throw new S3proxyError('bad-key', `there is no key in ${layout.keys}`, {
				hint: 'Make one with: s3proxy rotate-key. Then keep a copy of keys/ in a safe place: without it, what is in the bucket cannot be read.',
			});
		},
		store: () => {
			store ??= openStore(config);
			return store;
		},
		close: async () => {
			// A store that could not be opened has told whoever asked for it.
			await store?.then(
				(opened) => opened.close(),
				() => undefined,
			);
		},
	};
}
