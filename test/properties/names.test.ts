import { expect } from 'chai';
import fc from 'fast-check';
import {
	type ArtifactPath,
	artifactPath,
	artifactPathIfValid,
	artifactPathOfTarget,
	targetOf,
} from '../../src/state/artifact-path.ts';
import { Layout } from '../../src/state/layout.ts';
import { ownerToken } from '../../src/state/owner.ts';
import { extentOf } from '../support/extent.ts';

const RUNS = { numRuns: extentOf({ fast: 2_000, long: 200_000 }) };
const KEYS = ['0'.repeat(40), '1'.repeat(40)] as const;
const layout = new Layout('/root');

/** Of what our own names are made, and what somebody could make one of. */
const SPICE = [
	'-iv',
	'.lock',
	'.s3proxy-',
	's3proxy-',
	'path-',
	'fetch-',
	'run-encrypt',
	'-',
	'.',
	'..',
	'%',
	'%2F',
	'%2e',
	'?',
];
const character = fc.oneof(
	fc.constantFrom('a', 'b', 'é', 'e\u0301', '😀', ' ', '+', '#', ';', '~', '\u00ad', '\u202e'),
	fc.string({ unit: 'grapheme', minLength: 1, maxLength: 1 }),
);
const component = fc.array(fc.oneof(fc.constantFrom(...SPICE), character), { minLength: 1, maxLength: 5 });
const anyPath = fc
	.array(component, { minLength: 1, maxLength: 4 })
	.map((components) => artifactPathIfValid(components.map((parts) => parts.join('')).join('/')))
	.filter((path) => path !== undefined);

/** Two paths of which the second is made out of the first: what is likeliest to share a name with it. */
const relatives = fc
	.tuple(anyPath, fc.constantFrom(...SPICE, '/', '/a', 'a', '\u0301', '/-iv'), fc.nat(12), fc.nat(3))
	.map(([path, piece, at, cut]) => {
		const where = Math.min(at, path.length);
		return [path, artifactPathIfValid(path.slice(0, where) + piece + path.slice(where + cut))] as const;
	})
	.filter((pair): pair is readonly [ArtifactPath, ArtifactPath] => pair[1] !== undefined && pair[0] !== pair[1]);

/** Every name on disk that belongs to a path, and whether it is a file's or a lock directory's. */
function namesOnDisk(path: ArtifactPath): string[] {
	const locks = (['path', 'fetch', 'put'] as const).map((kind) => layout.lock(kind, path));
	return [
		layout.artifact(path),
		layout.marker(path),
		layout.workLink(path),
		...KEYS.flatMap((id) => [layout.sealed(id, path), layout.sidecar(id, path)]),
		...new Set(locks.flatMap(({ file, directory }) => [file, directory])),
	];
}

const objectKeys = (path: ArtifactPath) => KEYS.flatMap((id) => [`${id}/${path}`, `${id}/${path}-iv`]);

describe('properties of names', function () {
	this.timeout(extentOf({ fast: 60_000, long: 1_800_000 }));

	it('a path comes back from its URL, from every directory and from its object key', () => {
		fc.assert(
			fc.property(anyPath, (path) => {
				expect(artifactPath(path)).to.equal(path);
				expect(artifactPathOfTarget(targetOf(path))).to.equal(path);
				expect(artifactPathOfTarget(`${targetOf(path)}?query=/../x`)).to.equal(path);
				expect(targetOf(artifactPathOfTarget(targetOf(path)))).to.equal(targetOf(path));
				expect(new URL(targetOf(path), 'http://x').pathname, 'as a browser reads it').to.equal(targetOf(path));
				for (const directory of [layout.uploads, layout.uploading, layout.toEncrypt]) {
					const name = namesOnDisk(path).find((name) => name.startsWith(`${directory}/`)) ?? '';
					expect(artifactPathIfValid(name.slice(directory.length + 1))).to.equal(path);
				}
				for (const key of objectKeys(path)) {
					expect(artifactPathIfValid(key.slice(41))).to.equal(key.endsWith('-iv') ? undefined : path);
				}
			}),
			RUNS,
		);
	});

	it('one path has no two names that are the same', () => {
		fc.assert(
			fc.property(anyPath, (path) => {
				for (const names of [namesOnDisk(path), objectKeys(path)]) expect(new Set(names).size).to.equal(names.length);
			}),
			RUNS,
		);
	});

	it('two paths share no name in any directory, no object key, and no URL', () => {
		fc.assert(
			fc.property(fc.oneof(relatives, fc.tuple(anyPath, anyPath)), ([one, other]) => {
				if (one === other) return;
				expect(namesOnDisk(one)).not.to.have.any.members(namesOnDisk(other));
				expect(objectKeys(one)).not.to.have.any.members(objectKeys(other));
				expect(targetOf(one)).not.to.equal(targetOf(other));
			}),
			RUNS,
		);
	});

	it('no name of an artifact is one that s3proxy makes for itself', () => {
		const stages = ['encrypt', 'upload', 're-encrypt', 'rotate-key', 'add-token'] as const;
		const ours = new Set(stages.flatMap((stage) => Object.values(layout.runLock(stage))).map(String));
		fc.assert(
			fc.property(anyPath, (path) => {
				for (const name of namesOnDisk(path)) {
					expect(ours.has(name), name).to.equal(false);
					const isLock = name.startsWith(`${layout.locks}/`) && name !== layout.lock('path', path).file;
					const reserved = name.split('/').some((part) => part.startsWith('.s3proxy-'));
					expect(reserved, name).to.equal(isLock);
				}
				const beside = `${layout.ingestStaging(path)}/.s3proxy-${ownerToken()}`;
				expect(artifactPathIfValid(beside.slice(layout.uploading.length + 1))).to.equal(undefined);
			}),
			RUNS,
		);
	});
});
