/** The built operations, called in this process: for what has to be quick, or cannot be seen from outside. */

import type { Context } from '../../src/context.js';
import type { Finding } from '../../src/operations/repair.js';
import type { RunResult } from '../../src/operations/run-items.js';
import type { ObjectStore } from '../../src/store/object-store.js';

/** A module of `dist/` with the types of the same one in `src/`. */
async function built<T>(name: string): Promise<T> {
	return (await import(new URL(`../../dist/${name}.js`, import.meta.url).href)) as T;
}

const { createContext } = await built<typeof import('../../src/context.js')>('context');
const { addToken } = await built<typeof import('../../src/operations/add-token.js')>('operations/add-token');
const { encrypt } = await built<typeof import('../../src/operations/encrypt.js')>('operations/encrypt');
const { evict } = await built<typeof import('../../src/operations/evict.js')>('operations/evict');
const { fetchAll } = await built<typeof import('../../src/operations/fetch.js')>('operations/fetch');
const { ingestStream } =
	await built<typeof import('../../src/operations/ingest-source.js')>('operations/ingest-source');
const { locateInStore } = await built<typeof import('../../src/operations/locate.js')>('operations/locate');
const { reEncrypt } = await built<typeof import('../../src/operations/re-encrypt.js')>('operations/re-encrypt');
const { repair } = await built<typeof import('../../src/operations/repair.js')>('operations/repair');
const { rotateKey } = await built<typeof import('../../src/operations/rotate-key.js')>('operations/rotate-key');
const { upload } = await built<typeof import('../../src/operations/upload.js')>('operations/upload');
const { artifactPath } = await built<typeof import('../../src/state/artifact-path.js')>('state/artifact-path');

/** The operations on one root; those that fail for an item throw what was logged. */
export interface BuiltRoot {
	readonly context: Context;
	/** @param atEnd runs when the content has come and nothing is published yet */
	ingest(path: string, content: string | Uint8Array, atEnd?: () => void): Promise<number>;
	encrypt(): Promise<number>;
	upload(): Promise<number>;
	fetch(path: string): Promise<number>;
	/** @param store instead of the root's own */
	evict(path: string, store?: ObjectStore): Promise<number>;
	reEncrypt(options?: { deleteOld: boolean }): Promise<number>;
	/** @returns the new key's id */
	rotateKey(): Promise<string>;
	addToken(name: string): Promise<void>;
	/** @returns a line for each finding */
	repair(): Promise<string[]>;
	/** The versions of `path` in the store: their mtimes, one per key at most. */
	stored(path: string): Promise<number[]>;
}

/** @param root as `makeRoot` gives it */
export async function openBuilt(root: string): Promise<BuiltRoot> {
	const logged: string[] = [];
	const never = new AbortController().signal;
	const context = await createContext(root, {
		progress: { expect: () => undefined, advance: () => undefined },
		stopping: never,
		abandon: never,
		write: (line) => void logged.push(line),
		quiet: true,
	});
	const done = (result: RunResult) => {
		if (result.busy) throw new Error('another run is under way');
		if (result.failed > 0) throw new Error(logged.splice(0).join(''), { cause: result.failure });
		return result.done;
	};
	const all = { paths: [], jobs: 1 };
	return {
		context,
		ingest: async (path, content, atEnd) => {
			const chunks = (async function* () {
				yield Buffer.from(content);
				atEnd?.();
			})();
			return (await ingestStream(context, chunks, artifactPath(path))).mtime;
		},
		encrypt: async () => done(await encrypt(context, all)),
		upload: async () => done(await upload(context, all)),
		fetch: async (path) => done(await fetchAll(context, [artifactPath(path)])),
		evict: async (path, store) => {
			const ours = store === undefined ? context : { ...context, store: async () => store };
			return done(await evict(ours, { paths: [artifactPath(path)], jobs: 1 }));
		},
		reEncrypt: async ({ deleteOld } = { deleteOld: true }) =>
			done(await reEncrypt(context, { prefixes: [], jobs: 1, deleteOld, fromLegacy: false, dryRun: false })),
		rotateKey: async () => (await rotateKey(context)).newKeyId,
		addToken: async (name) => void (await addToken(context, name)),
		stored: async (path) => {
			const versions = await locateInStore(context, await context.keyring(), artifactPath(path));
			return versions.map(({ version }) => version);
		},
		repair: async () => {
			const found: string[] = [];
			const report = ({ what, where, done: did }: Finding) => void found.push(`${what}: ${where}: ${did}`);
			const { errors } = await repair(context, report, { dryRun: false });
			if (errors[0] !== undefined) throw errors[0];
			return found;
		},
	};
}
