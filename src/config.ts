/** `config.yaml` to a typed value. Two keys suffice; every other has a default. */

import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { isMap, isScalar, LineCounter, type ParsedNode, parseDocument, type YAMLMap } from 'yaml';
import { S3proxyError } from './errors.js';
import { isErrno } from './fs/durable.js';

type StoreAddress =
	| { readonly kind: 'directory'; readonly directory: string }
	| { readonly kind: 's3'; readonly bucket: string };

interface S3Config {
	readonly region: string | undefined;
	readonly endpoint: string | undefined;
	readonly forcePathStyle: boolean;
	readonly checksums: 'when_required' | 'when_supported';
	/** Bytes. */
	readonly partSize: number;
	/** Seconds of silence. */
	readonly timeout: number;
	readonly attempts: number;
}

export interface Config {
	readonly encryption: boolean;
	readonly store: StoreAddress;
	readonly acceptPlain: boolean;
	readonly overwrite: boolean;
	/** Bytes. */
	readonly maxUploadSize: number;
	readonly fsync: boolean;
	/** How many artifacts a command works on at a time; undefined: what suits the command. */
	readonly jobs: number | undefined;
	/** Seconds. */
	readonly lockTimeout: number;
	readonly log: 'text' | 'json';
	readonly listen: string;
	/** Seconds without a byte from or to an HTTP client. */
	readonly clientTimeout: number;
	/** The file that says who may upload, absolute; undefined: everybody may. */
	readonly auth: string | undefined;
	/** URL of the Varnish in front, told when an artifact changes without its knowledge. */
	readonly varnish: string | undefined;
	readonly s3: S3Config;
}

/** CPU-bound work: one artifact a core. */
export const DEFAULT_SEAL_JOBS = availableParallelism();
/** Work that waits for the store. */
export const DEFAULT_STORE_JOBS = 8;

/** Without a path: an artifact's is put after it. */
const VARNISH_URL = /^http:\/\/(\[[0-9a-f:]+\]|[^:/?#@\s]+)(:\d{1,5})?\/?$/i;

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** Reads values out of one YAML mapping and remembers which keys were asked for, so that the others can be refused. */
class Section {
	readonly #map: YAMLMap | undefined;
	readonly #name: string;
	readonly #fail: (message: string, node?: unknown) => never;
	readonly #known = new Set<string>();

	constructor(map: YAMLMap | undefined, name: string, fail: (message: string, node?: unknown) => never) {
		this.#map = map;
		this.#name = name;
		this.#fail = fail;
	}

	#get(key: string, expected: string, accept: (value: unknown) => boolean): unknown {
		this.#known.add(key);
		const node = this.#map?.get(key, true);
		if (node === undefined || (isScalar(node) && node.value === null)) return undefined;
		const value = isScalar(node) ? node.value : undefined;
		if (!accept(value))
			this.#fail(`${this.#name}${key} must be ${expected}, not ${JSON.stringify(value ?? 'a list or mapping')}`, node);
		return value;
	}

	boolean(key: string, otherwise: boolean): boolean {
		return (this.#get(key, 'true or false', (value) => typeof value === 'boolean') as boolean | undefined) ?? otherwise;
	}

	text(key: string, pattern: RegExp, expected: string): string | undefined {
		return this.#get(key, expected, (value) => typeof value === 'string' && pattern.test(value)) as string | undefined;
	}

	choice<T extends string>(key: string, choices: readonly T[], otherwise: T): T {
		const isChoice = (value: unknown): value is T => choices.some((choice) => choice === value);
		const value = this.#get(key, `one of ${choices.join(', ')}`, isChoice);
		return isChoice(value) ? value : otherwise;
	}

	number(key: string, least: number, most: number, unit: string): number | undefined {
		const accept = (value: unknown) => typeof value === 'number' && value >= least && value <= most;
		return this.#get(key, `${unit} from ${least} to ${most}`, accept) as number | undefined;
	}

	count(key: string, most: number): number | undefined {
		const accept = (value: unknown) => Number.isInteger(value) && Number(value) >= 1 && Number(value) <= most;
		return this.#get(key, `a whole number from 1 to ${most}`, accept) as number | undefined;
	}

	bytes(key: string, least: number, otherwise: number): number {
		const value = this.#get(key, `a size of at least ${least} bytes, such as 8MiB`, (given) => {
			const bytes = sizeOf(given);
			return bytes !== undefined && bytes >= least;
		});
		return sizeOf(value) ?? otherwise;
	}

	section(key: string): Section {
		this.#known.add(key);
		const node = this.#map?.get(key, true) as unknown;
		if (node !== undefined && !isMap(node) && !(isScalar(node) && node.value === null)) {
			this.#fail(`${this.#name}${key} must be a mapping`, node);
		}
		return new Section(isMap(node) ? node : undefined, `${this.#name}${key}.`, this.#fail);
	}

	refuseUnknown(): void {
		for (const { key } of this.#map?.items ?? []) {
			const name = isScalar(key) ? String(key.value) : '(not a name)';
			if (this.#known.has(name)) continue;
			this.#fail(`unknown key ${this.#name}${name}; known are ${[...this.#known].sort().join(', ')}`, key);
		}
	}
}

/** Bytes of `65536`, `64KiB`, `1.5 GiB`, `1T`; undefined for anything else. */
function sizeOf(value: unknown): number | undefined {
	if (typeof value === 'number') return Number.isSafeInteger(value) ? value : undefined;
	if (typeof value !== 'string') return undefined;
	const [, number, unit] = /^(\d+(?:\.\d+)?) ?(?:([KMGT])i?B?|B)?$/i.exec(value.trim()) ?? [];
	const factor = UNITS[(unit ?? '').toUpperCase()];
	if (number === undefined || factor === undefined) return undefined;
	const bytes = Math.floor(Number(number) * factor);
	return Number.isSafeInteger(bytes) ? bytes : undefined;
}

function storeAddress(text: string, root: string): StoreAddress {
	const directory = /^file:(?:\/\/(?=\/))?(.+)$/.exec(text)?.[1];
	if (directory === undefined) return { kind: 's3', bucket: text.slice('s3://'.length) };
	return { kind: 'directory', directory: isAbsolute(directory) ? directory : join(root, directory) };
}

/**
 * @param text the content of config.yaml
 * @param file its name, for errors
 * @param root what a relative `file:` store and `auth` are relative to
 * @throws S3proxyError `bad-config`, naming the key and the line
 */
export function parseConfig(text: string, file: string, root: string): Config {
	const lines = new LineCounter();
	const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
	const failAt = (message: string, offset: number | undefined): never => {
		const where = offset === undefined ? file : `${file}, line ${lines.linePos(offset).line}`;
		throw new S3proxyError('bad-config', `${where}: ${message}`, {
			hint: 'The config.yaml that s3proxy ships lists every key with its meaning and unit.',
		});
	};
	const fail = (message: string, node?: unknown): never =>
		failAt(message, (node as ParsedNode | undefined)?.range?.[0]);
	const [broken] = document.errors;
	if (broken) failAt(`not valid YAML: ${broken.message}`, broken.pos[0]);
	if (document.contents !== null && !isMap(document.contents))
		fail('must be a mapping of keys to values', document.contents);
	const top = new Section(isMap(document.contents) ? document.contents : undefined, '', fail);
	const s3 = top.section('s3');
	const store = top.text(
		'store',
		/^(file:.+|s3:\/\/[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\/?)$/,
		'file:DIRECTORY or s3://BUCKET',
	);
	const auth = top.text('auth', /./, 'the path of a file');
	const config: Config = {
		encryption: top.boolean('encryption', true),
		store: storeAddress((store ?? 'file:bucket').replace(/\/$/, ''), root),
		acceptPlain: top.boolean('accept_plain', false),
		overwrite: top.boolean('overwrite', true),
		maxUploadSize: top.bytes('max_upload_size', 1, 2 ** 40),
		fsync: top.boolean('fsync', true),
		jobs: top.count('jobs', 256),
		lockTimeout: top.number('lock_timeout', 0, 86_400, 'seconds') ?? 60,
		log: top.choice('log', ['text', 'json'], 'text'),
		listen:
			top.text(
				'listen',
				/^(\/.+|\.\/.+|(\[[0-9a-f:]+\]|[^:/\s]+):\d{1,5})$/i,
				'ADDRESS:PORT or the path of a unix socket',
			) ?? '127.0.0.1:9292',
		clientTimeout: top.number('client_timeout', 1, 86_400, 'seconds') ?? 60,
		auth: auth === undefined ? undefined : resolve(root, auth),
		varnish: top.text('varnish', VARNISH_URL, 'a URL such as http://127.0.0.1:80'),
		s3: {
			region: s3.text('region', /./, 'a region name'),
			endpoint: s3.text('endpoint', /^https?:\/\/[^/]/, 'a URL such as https://s3.example.org'),
			forcePathStyle: s3.boolean('force_path_style', false),
			checksums: s3.choice('checksums', ['when_required', 'when_supported'], 'when_required'),
			partSize: s3.bytes('part_size', 5 * 2 ** 20, 8 * 2 ** 20),
			timeout: s3.number('timeout', 1, 3600, 'seconds') ?? 30,
			attempts: s3.count('attempts', 20) ?? 4,
		},
	};
	s3.refuseUnknown();
	top.refuseUnknown();
	return config;
}

/** Reads `config.yaml` of `root`. @throws S3proxyError `bad-config` */
export async function loadConfig(root: string): Promise<Config> {
	const file = join(root, 'config.yaml');
	try {
		return parseConfig(await readFile(file, 'utf8'), file, root);
	} catch (error) {
		if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
		throw new S3proxyError('bad-config', `${file} does not exist`, {
			cause: error,
			hint: 'Make one (two lines suffice: "encryption: true", "store: file:bucket"), or name another directory with --root or S3PROXY_ROOT.',
		});
	}
}
