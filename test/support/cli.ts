/** The built command line, run from outside on temporary roots. */

import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
	chmodSync,
	existsSync,
	mkdirSync,
	mkdtempSync,
	readdirSync,
	readFileSync,
	readlinkSync,
	realpathSync,
	rmSync,
	symlinkSync,
	writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const RUN = fileURLToPath(new URL('../../bin/run.js', import.meta.url));

export const DEFAULT_CONFIG = 'encryption: true\nstore: file:bucket\nfsync: false\n';
export const PLAIN_CONFIG = 'encryption: false\nstore: file:bucket\nfsync: false\n';

const roots = new Map<string, 'test' | 'suite'>();

function removeRoots(...whose: string[]): void {
	for (const [root, owner] of roots) {
		if (!whose.includes(owner)) continue;
		rmSync(root, { recursive: true, force: true });
		roots.delete(root);
	}
}

afterEach(() => removeRoots('test'));
after(() => removeRoots('test', 'suite'));

export interface RootOptions {
	/** The text of config.yaml; null: there is none. */
	readonly config?: string | null;
	/** Whether there is a key (default: yes). */
	readonly key?: boolean;
	/** `suite`: it is there until the last test has ended. */
	readonly keep?: 'test' | 'suite';
}

/** A temporary directory; gone after the test. */
export function makeDirectory(keep: 'test' | 'suite' = 'test'): string {
	const directory = realpathSync(mkdtempSync(join(tmpdir(), 's3proxy-test-')));
	roots.set(directory, keep);
	return directory;
}

/** A temporary root; gone after the test. */
export function makeRoot({ config = DEFAULT_CONFIG, key = true, keep = 'test' }: RootOptions = {}): string {
	const root = makeDirectory(keep);
	if (config !== null) writeFileSync(join(root, 'config.yaml'), config);
	if (key) addKey(root, 'private_key');
	return root;
}

/** Makes a key and points `latest` at it. @returns its id */
export function addKey(root: string, name: string, material: Buffer = randomBytes(32)): string {
	mkdirSync(join(root, 'keys'), { recursive: true, mode: 0o700 });
	writeFileSync(join(root, 'keys', name), material, { mode: 0o600 });
	chmodSync(join(root, 'keys', name), 0o600);
	rmSync(join(root, 'keys/latest'), { force: true });
	symlinkSync(name, join(root, 'keys/latest'));
	return keyId(root);
}

/** The id of the latest key. */
export function keyId(root: string): string {
	return createHash('sha1')
		.update(readFileSync(join(root, 'keys/latest')))
		.digest('hex');
}

export interface Ended {
	/** Of a process that a signal killed: 128 and its number, as a shell says it. */
	readonly code: number;
	readonly stdout: string;
	readonly stderr: string;
	/** stdout as it came. */
	readonly bytes: Buffer;
}

export interface RunOptions {
	readonly stdin?: string | Uint8Array;
	readonly env?: NodeJS.ProcessEnv;
	/** Options of node itself. */
	readonly node?: readonly string[];
	readonly cwd?: string;
}

function environment(root: string | undefined, extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
	const { FORCE_COLOR, NODE_OPTIONS, S3PROXY_ROOT, ...inherited } = process.env;
	return { ...inherited, ...(root === undefined ? {} : { S3PROXY_ROOT: root }), ...extra };
}

/** Runs `s3proxy ...args` on `root` to its end. */
export function s3proxy(root: string | undefined, args: readonly string[], options: RunOptions = {}): Promise<Ended> {
	const spawned = { env: environment(root, options.env), ...(options.cwd === undefined ? {} : { cwd: options.cwd }) };
	return run(process.execPath, [...(options.node ?? []), RUN, ...args], spawned, options.stdin);
}

/** Starts `s3proxy ...args` on `root`, for tests that interfere with it. */
export function startS3proxy(root: string, args: readonly string[], options: RunOptions = {}): ChildProcess {
	return spawn(process.execPath, [...(options.node ?? []), RUN, ...args], { env: environment(root, options.env) });
}

/** Runs a shell script; `$RUN` is `node bin/run.js`, and S3PROXY_ROOT is set. */
export function shell(root: string, script: string, env: NodeJS.ProcessEnv = {}): Promise<Ended> {
	const command = `RUN="${process.execPath} ${RUN}"\n${script}`;
	return run('/bin/bash', ['-c', command], { env: environment(root, env) });
}

async function run(
	command: string,
	args: readonly string[],
	options: SpawnOptions,
	stdin?: string | Uint8Array,
): Promise<Ended> {
	const child = spawn(command, [...args], { ...options, stdio: 'pipe' });
	child.stdin?.on('error', () => undefined);
	child.stdin?.end(stdin ?? '');
	return ended(child);
}

/** Waits for the end of a child whose output is piped. */
export async function ended(child: ChildProcess): Promise<Ended> {
	const out: Buffer[] = [];
	const err: Buffer[] = [];
	child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
	child.stderr?.on('data', (chunk: Buffer) => err.push(chunk));
	const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
	const bytes = Buffer.concat(out);
	return {
		code: code ?? (signal === 'SIGKILL' ? 137 : 128),
		stdout: bytes.toString('utf8'),
		stderr: Buffer.concat(err).toString('utf8'),
		bytes,
	};
}

/**
 * All names below `root`, sorted: directories with `/` at the end, symlinks with their target. The latest key's id is
 * `<key id>`, the root's own name `<root>`. What the store keeps beside its objects is left out.
 */
export function tree(root: string): string[] {
	const id = existsSync(join(root, 'keys/latest')) ? keyId(root) : '';
	const readable = (name: string) => (id === '' ? name : name.replaceAll(id, '<key id>')).replaceAll(root, '<root>');
	return names(root, '').map(readable).sort();
}

function names(directory: string, prefix: string): string[] {
	return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
		const [name, path] = [prefix + entry.name, join(directory, entry.name)];
		if (name.startsWith('bucket/.s3proxy-')) return [];
		if (entry.isDirectory()) return [`${name}/`, ...names(path, `${name}/`)];
		return [entry.isSymbolicLink() ? `${name} -> ${readlinkSync(path)}` : name];
	});
}

/** The same for one directory below the root, without its own name. */
export function treeOf(root: string, directory: string): string[] {
	return tree(root)
		.filter((name) => name.startsWith(`${directory}/`))
		.map((name) => name.slice(directory.length + 1))
		.filter((name) => name !== '');
}
