import { existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import fc from 'fast-check';
import { openStream } from '../../src/crypto/open.ts';
import { type ArtifactPath, artifactPath } from '../../src/state/artifact-path.ts';
import type { Layout } from '../../src/state/layout.ts';
import { type BuiltRoot, openBuilt } from '../support/built.ts';
import { DEFAULT_CONFIG, makeRoot, PLAIN_CONFIG, treeOf } from '../support/cli.ts';
import { extentOf } from '../support/extent.ts';

/** Names that are in one another's way wherever somebody joins strings. */
const PATHS = ['a', 'b/a', 'b/a.lock', 'b/c/a', 'Ä'].map(artifactPath);

type Step =
	| { readonly do: 'ingest'; readonly path: ArtifactPath; readonly content: string }
	| { readonly do: 'fetch' | 'evict'; readonly path: ArtifactPath }
	| { readonly do: 'encrypt' | 'upload' | 'repair' | 'rotate-key' }
	| { readonly do: 're-encrypt'; readonly deleteOld: boolean };

const path = fc.constantFrom(...PATHS);
const content = fc.oneof(
	fc.string({ maxLength: 40 }),
	fc.integer({ min: 0, max: 600_000 }).map((size) => 'x'.repeat(size)),
);
const STEP: fc.Arbitrary<Step> = fc.oneof(
	{ weight: 4, arbitrary: fc.record({ do: fc.constant('ingest' as const), path, content }) },
	{ weight: 3, arbitrary: fc.record({ do: fc.constantFrom('fetch' as const, 'evict' as const), path }) },
	{ weight: 5, arbitrary: fc.record({ do: fc.constantFrom('encrypt' as const, 'upload' as const) }) },
	{ weight: 2, arbitrary: fc.record({ do: fc.constantFrom('repair' as const, 'rotate-key' as const) }) },
	{ weight: 1, arbitrary: fc.record({ do: fc.constant('re-encrypt' as const), deleteOld: fc.boolean() }) },
);

/** A root, and beside it what it should be: the newest acknowledged content of each path. */
class Pair {
	readonly #root: BuiltRoot;
	readonly #directory: string;
	readonly #newest = new Map<ArtifactPath, string>();

	constructor(root: BuiltRoot, directory: string) {
		this.#root = root;
		this.#directory = directory;
	}

	async run(step: Step): Promise<void> {
		if (step.do === 'ingest') {
			await this.#root.ingest(step.path, step.content);
			this.#newest.set(step.path, step.content);
		}
		if (step.do === 'fetch') await this.#fetch(step.path);
		if (step.do === 'evict') this.#evict(step.path);
		if (step.do === 'encrypt') await this.#root.encrypt();
		if (step.do === 'upload') await this.#root.upload();
		if (step.do === 'rotate-key') await this.#root.rotateKey();
		if (step.do === 're-encrypt') await this.#root.reEncrypt(step);
		// Nothing has crashed: of all that repair looks for, there is nothing but empty directories.
		if (step.do === 'repair') {
			for (const finding of await this.#root.repair()) expect(finding).to.match(/^empty directories: /);
		}
	}

	async #fetch(path: ArtifactPath): Promise<void> {
		const expected = this.#newest.get(path);
		if (expected !== undefined) {
			await this.#root.fetch(path);
			expect(readFileSync(join(this.#directory, 'uploads', path), 'utf8')).to.equal(expected);
			return;
		}
		const before = treeOf(this.#directory, 'locks');
		const failure = await this.#root.fetch(path).catch((error: Error) => error.message);
		expect(failure).to.match(/is not in uploads\/ and not in the store/);
		expect(treeOf(this.#directory, 'locks')).to.deep.equal(before);
	}

	/** Removes the local copy when something else has the version: what an operator, or evict, may do. */
	#evict(path: ArtifactPath): void {
		if (existsSync(this.#layout.workLink(path))) return;
		rmSync(this.#layout.artifact(path), { force: true });
	}

	get #layout(): Layout {
		return this.#root.context.root.layout;
	}

	/** Names below a directory of the root, other than directories. */
	#files(area: string): string[] {
		return treeOf(this.#directory, area).filter((name) => !name.endsWith('/'));
	}

	/** docs/state.md, for a root on which nothing is under way. */
	async assertLegal(): Promise<void> {
		for (const name of this.#files('to_encrypt')) {
			const [link = ''] = name.split(' -> ');
			expect(existsSync(join(this.#directory, 'to_encrypt', link)), `${name} points to something`).to.equal(true);
		}
		for (const area of ['uploading', 'encrypting', 'to_decrypt']) expect(this.#files(area), area).to.deep.equal([]);
		const sealed = this.#files('encrypted');
		for (const name of sealed) if (name.endsWith('-iv')) expect(sealed).to.include(name.slice(0, -'-iv'.length));
		expect(treeOf(this.#directory, 'locks').filter((name) => name.includes('.lock/'))).to.deep.equal([]);
		for (const [path, expected] of this.#newest) await this.#assertReadable(path, expected);
	}

	/** The guarantee: the newest acknowledged version can be read, and something will bring or has brought it to the bucket. */
	async #assertReadable(path: ArtifactPath, expected: string): Promise<void> {
		const local = this.#layout.artifact(path);
		const isLocal = existsSync(local);
		if (isLocal) expect(readFileSync(local, 'utf8'), `${path} in uploads/`).to.equal(expected);
		if (existsSync(this.#layout.workLink(path))) return;
		const copy = await this.#newestCopy(path);
		expect(copy?.content, `${path} in encrypted/ or the bucket`).to.equal(expected);
		if (isLocal) expect(copy?.version).to.equal(Math.round(statSync(local).mtimeMs));
	}

	/** What waits in encrypted/ or lies in the bucket, read by means of the format alone. */
	async #newestCopy(path: ArtifactPath): Promise<{ version: number; content: string } | undefined> {
		const { context } = this.#root;
		const store = await context.store();
		let newest: { version: number; keyId: string; bytes: Buffer } | undefined;
		const consider = (version: number, keyId: string, bytes: Buffer) => {
			if (newest === undefined || version > newest.version) newest = { version, keyId, bytes };
		};
		const { all } = await context.keyring();
		for (const { id } of all) {
			const waiting = this.#layout.sealed(id, path);
			if (existsSync(waiting)) consider(Math.round(statSync(waiting).mtimeMs), id, readFileSync(waiting));
			const head = await store.head(`${id}/${path}`);
			if (head === undefined) continue;
			consider(Number(head.metadata['s3proxy-mtime']), id, readFileSync(join(this.#directory, 'bucket', id, path)));
		}
		if (newest === undefined) return undefined;
		const { version, keyId, bytes } = newest;
		if (!context.config.encryption) return { version, content: bytes.toString('utf8') };
		const key = all.find(({ id }) => id === keyId);
		const pieces: Buffer[] = [];
		const source = (async function* () {
			yield bytes;
		})();
		for await (const piece of openStream({ ikm: key?.material ?? Buffer.alloc(0), path, source })) pieces.push(piece);
		return { version, content: Buffer.concat(pieces).toString('utf8') };
	}

	/** In the end everything is in the bucket alone. */
	async assertAllStored(): Promise<void> {
		// Where an older version waits under an older key and is uploaded last, the newest is sealed once more: a work link too
		// many costs work. Then nothing older waits.
		for (let run = 1; run <= 2; run++) {
			await this.#root.encrypt();
			await this.#root.upload();
		}
		expect(this.#files('to_encrypt')).to.deep.equal([]);
		expect(this.#files('encrypted')).to.deep.equal([]);
		rmSync(join(this.#directory, 'uploads'), { recursive: true, force: true });
		await this.assertLegal();
		for (const path of this.#newest.keys()) await this.#fetch(path);
	}
}

describe('properties of random sequences of operations', () => {
	// Sealing starts threads, which takes most of the time: what is about names and orders is tried without.
	for (const [what, config, runs] of [
		['sealed', DEFAULT_CONFIG, extentOf({ fast: 15, long: 1_000 })],
		['plain', PLAIN_CONFIG, extentOf({ fast: 45, long: 3_000 })],
	] as const) {
		it(`${what}: at every moment the newest acknowledged version can be read, and in the end the bucket has it`, async function () {
			this.timeout(extentOf({ fast: 120_000, long: 3_600_000 }));
			let steps = 0;
			const property = fc.asyncProperty(
				fc.array(STEP, { minLength: 1, maxLength: 25, size: 'max' }),
				async (sequence) => {
					const directory = makeRoot({ config });
					const root = await openBuilt(directory);
					const pair = new Pair(root, directory);
					try {
						for (const step of sequence) {
							await pair.run(step);
							await pair.assertLegal();
							steps++;
						}
						await pair.assertAllStored();
					} finally {
						await root.context.close();
						rmSync(directory, { recursive: true });
					}
				},
			);
			await fc.assert(property, { numRuns: runs });
			process.stdout.write(`    sequences, ${what}: tried ${steps} steps\n`);
		});
	}
});
