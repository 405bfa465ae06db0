/** Every command that writes, in every configuration that changes the order of its calls: what all matrices try. */

import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { artifactPath } from '../../src/state/artifact-path.js';
import { Layout } from '../../src/state/layout.js';
import type { BuiltRoot } from '../support/built.js';
import { keyId } from '../support/cli.js';
import { contentOf } from './content.js';

/** The newest version of every path. */
type Versions = Readonly<Record<string, number>>;

/** A root in which a scenario begins. */
export interface Stage {
	readonly root: string;
	readonly built: BuiltRoot;
}

export interface Scenario {
	readonly name: string;
	readonly config: string;
	/** `s3`: on the test server, where requests are points, too. */
	readonly store: 'file' | 's3';
	prepare(stage: Stage): Promise<void>;
	/** The command line; `post`: the command is `serve`, and a POST of `adds`. */
	readonly command: readonly string[] | 'post';
	/** Acknowledged before the command begins. */
	readonly before: Versions;
	/** What the command stores: acknowledged when it has succeeded. */
	readonly adds?: { readonly path: string; readonly version: number };
	/** Does the same once more, when nothing is in the way. */
	again(stage: Stage): Promise<unknown>;
	/** Only every so many-th point in the fast part. */
	readonly stride: number;
}

const [X, Y, Z] = ['d/x', 'd/y', 'e/deep/z'] as const;
const SEALED = 'encryption: true\nfsync: true\nlisten: 127.0.0.1:0\n';
const PLAIN = SEALED.replace('encryption: true', 'encryption: false');
const DEAD = '00000000-1-1-1-1';
/** Two parts of a multipart upload. */
const LARGE = 6 * 2 ** 20;

async function ingest({ built }: Stage, versions: Versions, size?: number): Promise<void> {
	for (const [path, version] of Object.entries(versions)) await built.ingest(path, contentOf(path, version, size));
}

async function store(stage: Stage, versions: Versions, size?: number): Promise<void> {
	await ingest(stage, versions, size);
	await stage.built.encrypt();
	await stage.built.upload();
}

const removeLocal = ({ root }: Stage) => rmSync(join(root, 'uploads'), { recursive: true });

/** A root that a crash of everything at once has left behind; `repair` has something to do in every step. */
async function wreck(stage: Stage): Promise<void> {
	await store(stage, { [X]: 1, [Y]: 1 });
	await ingest(stage, { [X]: 2, [Z]: 1 });
	const { root } = stage;
	const make = (name: string, content = '') => {
		mkdirSync(dirname(join(root, name)), { recursive: true });
		writeFileSync(join(root, name), content);
	};
	// Published, and not said so yet.
	rmSync(join(root, 'to_encrypt', X));
	make(`uploading/${X}`);
	make('uploading/f/never-published');
	for (const area of ['uploading/d', `encrypting/${keyId(root)}/d`, 'to_decrypt/d', 'keys'])
		make(`${area}/.s3proxy-${DEAD}`);
	make(`encrypted/${keyId(root)}/d/orphan-iv`, '123456789012');
	make(`bucket/.s3proxy-staging/${keyId(root)}/d/x/.s3proxy-1234`, 'half');
	const { file, directory } = new Layout(root).lock('put', artifactPath(X));
	mkdirSync(directory, { recursive: true });
	writeFileSync(file, `${'0'.padEnd(16)}\n${DEAD.padEnd(80)}\n`);
	mkdirSync(join(root, 'encrypted', keyId(root), 'empty'), { recursive: true });
}

const file = { config: SEALED, store: 'file' } as const;
const plain = { config: PLAIN, store: 'file' } as const;
const s3 = { config: SEALED, store: 's3' } as const;

const ingestNew = {
	before: {},
	adds: { path: X, version: 1 },
	prepare: async () => undefined,
	again: (stage: Stage) => ingest(stage, { [X]: 1 }),
};
const ingestOver = {
	before: { [X]: 1 },
	adds: { path: X, version: 2 },
	prepare: (stage: Stage) => store(stage, { [X]: 1 }),
	again: (stage: Stage) => ingest(stage, { [X]: 2 }),
};
const encryptSeveral = {
	command: ['encrypt', '--jobs', '2'],
	before: { [X]: 2, [Y]: 1, [Z]: 1 },
	prepare: async (stage: Stage) => {
		await store(stage, { [X]: 1, [Y]: 1 });
		await ingest(stage, { [X]: 2, [Z]: 1 });
	},
	again: ({ built }: Stage) => built.encrypt(),
};
const uploadSeveral = {
	command: ['upload', '--jobs', '2'],
	before: { [X]: 2, [Y]: 1, [Z]: 1 },
	prepare: async (stage: Stage) => {
		await encryptSeveral.prepare(stage);
		await stage.built.encrypt();
	},
	again: ({ built }: Stage) => built.upload(),
};
const fetchSeveral = {
	command: ['fetch', X, Y],
	before: { [X]: 2, [Y]: 1 },
	prepare: async (stage: Stage) => {
		await store(stage, { [X]: 2, [Y]: 1 });
		removeLocal(stage);
	},
	again: async ({ built }: Stage) => {
		for (const path of [X, Y]) await built.fetch(path);
	},
};
const evictSeveral = {
	command: ['evict', X, Y],
	before: { [X]: 2, [Y]: 1 },
	prepare: (stage: Stage) => store(stage, { [X]: 2, [Y]: 1 }),
	again: async ({ built }: Stage) => {
		for (const path of [X, Y]) await built.evict(path);
	},
};
const reEncryptSeveral = {
	command: ['re-encrypt', '--delete-old', '--jobs', '2'],
	before: { [X]: 2, [Y]: 1 },
	prepare: async (stage: Stage) => {
		await store(stage, { [X]: 1, [Y]: 1 });
		await stage.built.rotateKey();
		await store(stage, { [X]: 2 });
		removeLocal(stage);
	},
	again: ({ built }: Stage) => built.reEncrypt(),
};

export const SCENARIOS: readonly Scenario[] = [
	{ ...file, ...ingestNew, name: 'ingest of a new path', command: ['ingest', '-', X], stride: 5 },
	{ ...file, ...ingestOver, name: 'ingest over an older version', command: ['ingest', '-', X], stride: 4 },
	{ ...file, ...ingestOver, name: 'POST over an older version', command: 'post', stride: 5 },
	{ ...file, ...encryptSeveral, name: 'encrypt', stride: 9 },
	{ ...plain, ...encryptSeveral, name: 'encrypt, encryption: false', stride: 8 },
	{
		...plain,
		...encryptSeveral,
		name: 'encrypt, encryption: false, an older version waits',
		prepare: async (stage) => {
			await ingest(stage, { [X]: 1, [Y]: 1 });
			await stage.built.encrypt();
			await ingest(stage, { [X]: 2, [Z]: 1 });
		},
		stride: 10,
	},
	{ ...file, ...uploadSeveral, name: 'upload', stride: 13 },
	{ ...plain, ...uploadSeveral, name: 'upload, encryption: false', stride: 11 },
	{ ...s3, ...uploadSeveral, name: 'upload to S3', stride: 8 },
	{
		...s3,
		...uploadSeveral,
		name: 'upload to S3 in parts',
		before: { [X]: 2 },
		prepare: async (stage) => {
			await ingest(stage, { [X]: 2 }, LARGE);
			await stage.built.encrypt();
		},
		stride: 4,
	},
	{
		...s3,
		...reEncryptSeveral,
		name: 're-encrypt --delete-old on S3 in parts',
		before: { [X]: 2 },
		prepare: async (stage) => {
			await store(stage, { [X]: 2 }, LARGE);
			await stage.built.rotateKey();
			removeLocal(stage);
		},
		stride: 12,
	},
	{
		...s3,
		...fetchSeveral,
		name: 'fetch from S3 in ranges',
		command: ['fetch', X],
		before: { [X]: 2 },
		prepare: async (stage) => {
			await store(stage, { [X]: 2 }, LARGE);
			removeLocal(stage);
		},
		again: ({ built }) => built.fetch(X),
		stride: 12,
	},
	{ ...file, ...fetchSeveral, name: 'fetch', stride: 8 },
	{ ...plain, ...fetchSeveral, name: 'fetch, encryption: false', stride: 9 },
	{ ...s3, ...fetchSeveral, name: 'fetch from S3', stride: 8 },
	{ ...file, ...evictSeveral, name: 'evict', stride: 6 },
	{ ...plain, ...evictSeveral, name: 'evict, encryption: false', stride: 7 },
	{ ...s3, ...evictSeveral, name: 'evict, S3', stride: 6 },
	{
		...file,
		name: 'rotate-key',
		command: ['rotate-key'],
		before: { [X]: 2 },
		prepare: async (stage) => {
			await store(stage, { [X]: 1 });
			await ingest(stage, { [X]: 2 });
		},
		again: ({ built }) => built.rotateKey(),
		stride: 3,
	},
	{
		...file,
		name: 'add-token',
		config: `${SEALED}auth: auth\n`,
		command: ['add-token', 'second'],
		before: { [X]: 1 },
		prepare: async (stage) => {
			await ingest(stage, { [X]: 1 });
			await stage.built.addToken('first');
		},
		again: ({ built }) => built.addToken('second'),
		stride: 3,
	},
	{ ...file, ...reEncryptSeveral, name: 're-encrypt --delete-old', stride: 11 },
	{ ...s3, ...reEncryptSeveral, name: 're-encrypt --delete-old on S3', stride: 5 },
	{
		...file,
		name: 'repair',
		command: ['repair'],
		before: { [X]: 2, [Y]: 1, [Z]: 1 },
		prepare: wreck,
		again: ({ built }) => built.repair(),
		stride: 4,
	},
];
