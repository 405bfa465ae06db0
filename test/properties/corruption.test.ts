import { randomBytes } from 'node:crypto';
import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import fc from 'fast-check';
import { FormatError, HEADER_SIZE } from '../../src/crypto/format.ts';
import { openStream } from '../../src/crypto/open.ts';
import { sealStream } from '../../src/crypto/seal.ts';
import { openBuilt } from '../support/built.ts';
import { keyId, makeRoot, treeOf } from '../support/cli.ts';
import { extentOf } from '../support/extent.ts';

const SEGMENT_LOG2 = 14;
const SEGMENT = 2 ** SEGMENT_LOG2;
const SEALED_SEGMENT = SEGMENT + 16;
const SIZES = [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 3 * SEGMENT + 5];

async function* chunksOf(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
	for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function seal(ikm: Buffer, path: string, plain: Buffer): Promise<Buffer> {
	const options = { ikm, path, size: plain.length, segmentLog2: SEGMENT_LOG2, source: chunksOf(plain, 65_536) };
	const pieces: Buffer[] = [];
	for await (const piece of sealStream(options)) pieces.push(piece);
	return Buffer.concat(pieces);
}

interface Genuine {
	readonly ikm: Buffer;
	readonly path: string;
	readonly plain: Buffer;
	readonly sealed: Buffer;
}

type Damage = (object: Buffer, other: Buffer) => Buffer;

const within = (object: Buffer, share: number) => Math.floor(share * object.length);
/** The segments of an object, the header first. */
function cutUp(object: Buffer): Buffer[] {
	const pieces = [object.subarray(0, HEADER_SIZE)];
	for (let at = HEADER_SIZE; at < object.length; at += SEALED_SEGMENT)
		pieces.push(object.subarray(at, at + SEALED_SEGMENT));
	return pieces;
}

const share = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const bytes = fc.uint8Array({ minLength: 1, maxLength: 40 }).map((array) => Buffer.from(array));
const DAMAGE: fc.Arbitrary<Damage> = fc.oneof(
	fc.record({ at: share, bit: fc.nat(7) }).map(
		({ at, bit }): Damage =>
			(object) => {
				const copy = Buffer.from(object);
				const index = within(object, at);
				copy[index] = (copy[index] ?? 0) ^ (1 << bit);
				return copy;
			},
	),
	fc.record({ at: fc.nat(HEADER_SIZE - 1), value: fc.nat(255) }).map(
		({ at, value }): Damage =>
			(object) => {
				const copy = Buffer.from(object);
				copy[at] = value;
				return copy;
			},
	),
	share.map(
		(at): Damage =>
			(object) =>
				object.subarray(0, within(object, at)),
	),
	fc.nat(3).map(
		(count): Damage =>
			(object) =>
				Buffer.concat(cutUp(object).slice(0, 1 + count)),
	),
	bytes.map(
		(more): Damage =>
			(object) =>
				Buffer.concat([object, more]),
	),
	bytes.map(
		(more): Damage =>
			(object) =>
				Buffer.concat([more, object]),
	),
	fc.record({ at: share, more: bytes }).map(
		({ at, more }): Damage =>
			(object) => {
				return Buffer.concat([object.subarray(0, within(object, at)), more, object.subarray(within(object, at))]);
			},
	),
	fc.tuple(fc.nat(4), fc.nat(4)).map(
		([one, two]): Damage =>
			(object) => {
				const pieces = cutUp(object);
				const [first, second] = [pieces[one], pieces[two]];
				if (first === undefined || second === undefined) return object;
				pieces[one] = second;
				pieces[two] = first;
				return Buffer.concat(pieces);
			},
	),
	fc.nat(4).map(
		(index): Damage =>
			(object) => {
				const pieces = cutUp(object);
				return Buffer.concat([...pieces.slice(0, index + 1), ...pieces.slice(index)]);
			},
	),
	fc.nat(4).map(
		(index): Damage =>
			(object, other) => {
				// A header, or a segment, of another object in the same place.
				return Buffer.concat(cutUp(object).map((piece, at) => (at === index ? (cutUp(other)[at] ?? piece) : piece)));
			},
	),
	share.map(
		(at): Damage =>
			(object, other) => {
				return Buffer.concat([object.subarray(0, within(object, at)), other.subarray(within(object, at))]);
			},
	),
	fc.constant<Damage>((_, other) => other),
);

describe('properties of damaged objects', () => {
	it('whatever is done to an object: what is opened is a genuine version of that path, or the beginning of one and an error', async function () {
		this.timeout(extentOf({ fast: 60_000, long: 1_800_000 }));
		const genuine: Genuine[] = [];
		for (const ikm of [randomBytes(32), randomBytes(32)]) {
			for (const path of ['a', 'a/b']) {
				for (const size of SIZES) {
					const plain = randomBytes(size);
					genuine.push({ ikm, path, plain, sealed: await seal(ikm, path, plain) });
				}
			}
		}
		const [refused, whole] = [new Map<string, number>(), { count: 0 }];
		const one = fc.constantFrom(...genuine);
		const property = fc.asyncProperty(
			one,
			one,
			fc.array(DAMAGE, { minLength: 1, maxLength: 3 }),
			fc.integer({ min: 1, max: 70_000 }),
			async (object, other, damages, size) => {
				const damaged = damages.reduce((bytes, damage) => damage(bytes, other.sealed), object.sealed);
				// A genuine object of this very key and path is an older version at worst: the format cannot know.
				const same = genuine.filter(({ ikm, path }) => ikm === object.ikm && path === object.path);
				const opened: Buffer[] = [];
				let error: unknown;
				try {
					const { ikm, path } = object;
					for await (const piece of openStream({ ikm, path, source: chunksOf(damaged, size) })) opened.push(piece);
				} catch (thrown) {
					error = thrown;
				}
				const result = Buffer.concat(opened);
				if (error === undefined) {
					whole.count++;
					expect(same.some(({ sealed, plain }) => sealed.equals(damaged) && plain.equals(result))).to.equal(true);
					return;
				}
				expect(error).to.be.instanceOf(FormatError);
				const { reason } = error as FormatError;
				refused.set(reason, (refused.get(reason) ?? 0) + 1);
				expect(same.some(({ plain }) => plain.subarray(0, result.length).equals(result))).to.equal(true);
				expect(
					same.some(({ sealed }) => sealed.equals(damaged)),
					'a genuine object is not refused',
				).to.equal(false);
			},
		);
		await fc.assert(property, { numRuns: extentOf({ fast: 3_000, long: 200_000 }) });
		const reasons = [...refused].map(([reason, count]) => `${reason} ${count}`).sort();
		process.stdout.write(`    corruption: ${whole.count} were genuine still, refused: ${reasons.join(', ')}\n`);
	});
});

describe('a bucket in which somebody moves things about', () => {
	const content = { a: 'content of a', b: 'content of b' };

	async function rootWithBoth(): Promise<{ root: string; object: (name: string) => string }> {
		const root = makeRoot();
		const built = await openBuilt(root);
		for (const [path, text] of Object.entries(content)) await built.ingest(path, text);
		await built.encrypt();
		await built.upload();
		rmSync(join(root, 'uploads'), { recursive: true });
		return { root, object: (name) => join(root, 'bucket', keyId(root), name) };
	}

	const swap = (one: string, other: string) => {
		const [first, second] = [readFileSync(one), readFileSync(other)];
		writeFileSync(one, second);
		writeFileSync(other, first);
	};

	for (const [what, move] of [
		['swaps two objects', (object) => swap(object('a'), object('b'))],
		[
			'swaps two objects and their sidecars',
			(object) => {
				swap(object('a'), object('b'));
				swap(object('a-iv'), object('b-iv'));
			},
		],
		['puts one object in the place of the other', (object) => copyFileSync(object('b'), object('a'))],
		['puts the sidecar in the place of the object', (object) => copyFileSync(object('a-iv'), object('a'))],
		['empties the object', (object) => writeFileSync(object('a'), '')],
		['puts something plain there', (object) => writeFileSync(object('a'), content.a)],
	] as readonly (readonly [string, (object: (name: string) => string) => void])[]) {
		it(`${what}: refused, and nothing is published`, async () => {
			const { root, object } = await rootWithBoth();
			move(object);
			const built = await openBuilt(root);
			expect(await built.fetch('a').catch((error: Error) => error.message)).to.match(/^error: .*\ba\b/);
			expect(existsSync(join(root, 'uploads/a'))).to.equal(false);
			expect(treeOf(root, 'to_decrypt').filter((name) => !name.endsWith('/'))).to.deep.equal([]);
		});
	}

	for (const [what, move] of [
		['swaps two sidecars', (object) => swap(object('a-iv'), object('b-iv'))],
		['removes the sidecar', (object) => rmSync(object('a-iv'))],
		['writes something else into the sidecar', (object) => writeFileSync(object('a-iv'), 'x'.repeat(5000))],
	] as readonly (readonly [string, (object: (name: string) => string) => void])[]) {
		it(`${what}: the object is complete by itself, and comes back right`, async () => {
			const { root, object } = await rootWithBoth();
			move(object);
			const built = await openBuilt(root);
			for (const [path, text] of Object.entries(content)) {
				await built.fetch(path);
				expect(readFileSync(join(root, 'uploads', path), 'utf8')).to.equal(text);
			}
		});
	}
});
