import { lstatSync, mkdirSync, readFileSync, renameSync, rmSync, type Stats, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { artifactPath } from '../../src/state/artifact-path.js';
import { openArtifact } from '../../src/state/artifacts.js';
import { returnNewer } from '../../src/state/eviction.js';
import type { HeldLock } from '../../src/state/held-lock.js';
import { Layout } from '../../src/state/layout.js';
import { Locks } from '../../src/state/locks.js';
import type { Root } from '../../src/state/root.js';
import { openSealed, publishPlain, relinkIfOther, removeUploaded, vouched } from '../../src/state/sealed.js';
import { abandonedStaging, isAbandonedStaging, Staging } from '../../src/state/staging.js';
import { placeWorkLink, removeWorkLink } from '../../src/state/work-links.js';
import { openBuilt } from '../support/built.js';
import { makeDirectory, makeRoot, PLAIN_CONFIG, tree, treeOf } from '../support/cli.js';

const KEY = 'a'.repeat(40);
const path = artifactPath('d/x');
const LINK = 'd/x -> <root>/uploads/d/x';

function newRoot(): Root {
	const layout = new Layout(makeDirectory());
	return { layout, locks: new Locks(layout, 5), sync: true };
}

/** Puts a version there as a finished stage would have: a new file, renamed into place. */
function put(file: string, content: string, version: number): void {
	mkdirSync(dirname(file), { recursive: true });
	rmSync(file, { force: true });
	writeFileSync(file, content);
	utimesSync(file, version / 1000, version / 1000);
}

const FIRST = 1_700_000_000_000;
const SECOND = FIRST + 1000;
const HELD: HeldLock = { isHeld: true, assertHeld: () => undefined };
const LOST: HeldLock = { ...HELD, isHeld: false };
const links = (root: Root) => treeOf(root.layout.root, 'to_encrypt').filter((name) => name.includes('->'));

describe('after encrypt has removed a work link', () => {
	it('it is made again when uploads/ holds a newer version that nothing waits for', async () => {
		const root = newRoot();
		put(root.layout.artifact(path), 'two', SECOND);
		expect(await relinkIfOther(root, path, FIRST)).to.equal(true);
		expect(links(root)).to.deep.equal([LINK]);
		expect(await relinkIfOther(root, path, FIRST), 'now it waits').to.equal(false);
	});

	const NOT: [string, (root: Root) => Promise<void> | void][] = [
		['it is the version that was sealed', (root) => put(root.layout.artifact(path), 'one', FIRST)],
		[
			'it is an older one, which must not replace what was sealed',
			(root) => put(root.layout.artifact(path), 'zero', FIRST - 1000),
		],
		['the artifact is gone', () => undefined],
		[
			'its name is a directory here, and an artifact of another root that has the same bucket',
			(root) => put(join(root.layout.artifact(path), 'y'), 'one', SECOND),
		],
		[
			'the newer version waits in encrypted/ already',
			(root) => {
				put(root.layout.artifact(path), 'two', SECOND);
				put(root.layout.sealed('b'.repeat(40), path), 'sealed two', SECOND);
			},
		],
	];
	for (const [what, prepare] of NOT) {
		it(`it is not when ${what}`, async () => {
			const root = newRoot();
			await prepare(root);
			expect(await relinkIfOther(root, path, FIRST)).to.equal(false);
			expect(links(root)).to.deep.equal([]);
		});
	}
});

describe('while that is removed which says that a version waits', () => {
	it('a voucher is there, and afterwards a work link for what has come meanwhile', async () => {
		const root = newRoot();
		put(root.layout.artifact(path), 'one', FIRST);
		await vouched(root, path, FIRST, HELD, async () => {
			expect(treeOf(root.layout.root, 'to_encrypt').join()).to.match(/\.s3proxy-\S+ -> <root>\/uploads\/d\/x/);
			expect(links(root)).to.have.length(1);
			put(root.layout.artifact(path), 'two', SECOND);
		});
		expect(links(root)).to.deep.equal([LINK]);
	});

	it('a newer version waits again when the lock was lost, though it is sealed: who holds it may be about to remove that', async () => {
		const root = newRoot();
		put(root.layout.artifact(path), 'two', SECOND);
		put(root.layout.sealed(KEY, path), 'sealed two', SECOND);
		await vouched(root, path, FIRST, HELD, async () => undefined);
		expect(links(root), 'not lost').to.deep.equal([]);
		await vouched(root, path, FIRST, LOST, async () => undefined);
		expect(links(root)).to.deep.equal([LINK]);
	});

	it('a removal that fails leaves no voucher', async () => {
		const root = newRoot();
		put(root.layout.artifact(path), 'one', FIRST);
		const failure = new Error('EIO');
		const thrown = await vouched(root, path, FIRST, HELD, () => Promise.reject(failure)).catch(
			(error: unknown) => error,
		);
		expect(thrown).to.equal(failure);
		expect(links(root)).to.deep.equal([]);
	});
});

describe('after upload has put an object', () => {
	const name = { keyId: KEY, path };

	async function uploaded(root: Root) {
		put(root.layout.sealed(KEY, path), 'sealed one', FIRST);
		put(root.layout.sidecar(KEY, path), 'iv of one...', FIRST);
		put(root.layout.artifact(path), 'one', FIRST);
		const file = await openSealed(root, name);
		if (file === undefined) throw new Error('not there');
		return file;
	}

	const remove = (root: Root, stats: Stats) =>
		vouched(root, path, FIRST, HELD, () => removeUploaded(root, name, stats));

	it('its file and its sidecar are removed', async () => {
		const root = newRoot();
		const file = await uploaded(root);
		await remove(root, file.stats);
		await file.handle.close();
		expect(treeOf(root.layout.root, 'encrypted')).to.deep.equal([`${KEY}/`, `${KEY}/d/`]);
		expect(links(root)).to.deep.equal([]);
	});

	it('a file that has replaced it in the meantime stays, with its sidecar', async () => {
		const root = newRoot();
		const file = await uploaded(root);
		put(root.layout.sealed(KEY, path), 'sealed two', SECOND);
		put(root.layout.sidecar(KEY, path), 'iv of two...', SECOND);
		await remove(root, file.stats);
		await file.handle.close();
		expect(readFileSync(root.layout.sealed(KEY, path), 'utf8')).to.equal('sealed two');
		expect(readFileSync(root.layout.sidecar(KEY, path), 'utf8')).to.equal('iv of two...');
	});

	it('the same inode written anew is another version, and stays', async () => {
		const root = newRoot();
		const file = await uploaded(root);
		utimesSync(root.layout.sealed(KEY, path), SECOND / 1000, SECOND / 1000);
		await remove(root, file.stats);
		await file.handle.close();
		expect(lstatSync(root.layout.sealed(KEY, path)).size).to.be.above(0);
	});

	it('when it is gone, somebody else has uploaded: the artifact is encrypted and uploaded once more', async () => {
		const root = newRoot();
		const file = await uploaded(root);
		rmSync(root.layout.sealed(KEY, path));
		await remove(root, file.stats);
		await file.handle.close();
		expect(links(root)).to.deep.equal([LINK]);
	});

	it('a newer artifact that nothing waits for gets its work link', async () => {
		const root = newRoot();
		const file = await uploaded(root);
		put(root.layout.artifact(path), 'two', SECOND);
		await remove(root, file.stats);
		await file.handle.close();
		expect(links(root)).to.deep.equal([LINK]);
	});
});

describe('publishing', () => {
	async function staged(root: Root, content: string): Promise<Staging> {
		const staging = await Staging.create(root, root.layout.toDecrypt, root.layout.fetchStaging(path));
		await staging.handle.write(content);
		return staging;
	}

	it('unless taken makes the name when it is free, and leaves no staging', async () => {
		const root = newRoot();
		expect(await (await staged(root, 'fetched')).publishUnlessTaken(root.layout.artifact(path))).to.equal(true);
		expect(tree(root.layout.root)).to.deep.equal([
			'to_decrypt/',
			'to_decrypt/d/',
			'uploads/',
			'uploads/d/',
			'uploads/d/x',
		]);
	});

	it('unless taken refuses when somebody was quicker, whose file stays as it is', async () => {
		const root = newRoot();
		const staging = await staged(root, 'fetched');
		put(root.layout.artifact(path), 'posted', SECOND);
		expect(await staging.publishUnlessTaken(root.layout.artifact(path))).to.equal(false);
		expect(readFileSync(root.layout.artifact(path), 'utf8')).to.equal('posted');
		expect(treeOf(root.layout.root, 'to_decrypt')).to.deep.equal(['d/']);
	});

	it('replaces what was there, and what somebody reads stays whole', async () => {
		const root = newRoot();
		put(root.layout.artifact(path), 'old', FIRST);
		const reader = await openArtifact(root, path);
		await (await staged(root, 'new')).publishAs(root.layout.artifact(path));
		expect(readFileSync(root.layout.artifact(path), 'utf8')).to.equal('new');
		expect(await reader?.handle.readFile('utf8')).to.equal('old');
		await reader?.handle.close();
	});

	it('that is dropped leaves neither file nor directory', async () => {
		const root = newRoot();
		const staging = await staged(root, 'half');
		await staging.drop();
		await staging.drop();
		expect(tree(root.layout.root)).to.deep.equal(['to_decrypt/']);
	});

	it('with encryption: false is a hard link, also the second time', async () => {
		const root = newRoot();
		put(root.layout.artifact(path), 'one', FIRST);
		for (let time = 0; time < 2; time++) {
			await publishPlain(root, { keyId: KEY, path });
			expect(lstatSync(root.layout.sealed(KEY, path)).ino).to.equal(lstatSync(root.layout.artifact(path)).ino);
			expect(treeOf(root.layout.root, 'encrypting')).to.deep.equal([`${KEY}/`, `${KEY}/d/`]);
		}
	});
});

describe('a work link', () => {
	it('is made once, points to the artifact absolutely, and is gone when it is removed', async () => {
		const root = newRoot();
		await placeWorkLink(root, path);
		await placeWorkLink(root, path);
		expect(links(root)).to.deep.equal([LINK]);
		await removeWorkLink(root, path);
		await removeWorkLink(root, path);
		expect(links(root)).to.deep.equal([]);
	});
});

describe('what an evict has taken, when a fetch comes', () => {
	const taken = (root: Root, number: number, content: string, version: number) =>
		put(join(root.layout.evictStaging(path), `.s3proxy-0-1-1-1-${number}`), content, version);
	const visible = (root: Root) => readFileSync(root.layout.artifact(path), 'utf8');

	it('is put back, the newest of several, and waits', async () => {
		const root = newRoot();
		taken(root, 1, 'two', SECOND);
		taken(root, 2, 'three', SECOND + 1000);
		taken(root, 3, 'one', FIRST);
		expect(await returnNewer(root, path, FIRST)).to.equal(true);
		expect(visible(root)).to.equal('three');
		expect(links(root)).to.deep.equal([LINK]);
	});

	it('is left when it is not newer than what the fetch brings', async () => {
		const root = newRoot();
		taken(root, 1, 'one', FIRST);
		expect(await returnNewer(root, path, FIRST)).to.equal(false);
		expect(links(root)).to.deep.equal([]);
	});

	it('is left when a POST has stored a newer one', async () => {
		const root = newRoot();
		taken(root, 1, 'two', SECOND);
		put(root.layout.artifact(path), 'three', SECOND + 1000);
		expect(await returnNewer(root, path, FIRST)).to.equal(false);
		expect(visible(root)).to.equal('three');
	});
});

describe('a staging file', () => {
	it('is abandoned when its owner is dead, or unknown and a day old', async () => {
		const root = newRoot();
		const own = await Staging.create(root, root.layout.uploading, root.layout.uploading);
		const mine = own.file.slice(dirname(own.file).length + 1);
		await own.close();
		const now = Date.now();
		const old = now - 25 * 3_600_000;
		expect(isAbandonedStaging(mine, now), 'mine').to.equal(false);
		expect(isAbandonedStaging(mine.replace(/-\d+-(\d+)$/, '-1-$1'), now), 'my pid, another start').to.equal(true);
		expect(isAbandonedStaging(mine.replace(/^(\.s3proxy-)[0-9a-f]+/, '$1ffffffff'), now), 'another boot').to.equal(
			true,
		);
		const elsewhere = mine.replace(/^(\.s3proxy-[0-9a-f]+)-\d+/, '$1-1');
		expect(isAbandonedStaging(elsewhere, now), 'another container').to.equal(false);
		expect(isAbandonedStaging(elsewhere, old), 'another container, long ago').to.equal(true);
		for (const other of ['x', '.s3proxy-', '.s3proxy-x', `${mine}x`, `x${mine}`]) {
			expect(isAbandonedStaging(other, old), other).to.equal(false);
		}
	});

	it('is as old as its last change: its mtime is its version, which fetch may have from years ago', async () => {
		const root = newRoot();
		const staging = await Staging.create(root, root.layout.toDecrypt, root.layout.toDecrypt);
		const elsewhere = staging.file.replace(/(\.s3proxy-[0-9a-f]+)-\d+/, '$1-1');
		renameSync(staging.file, elsewhere);
		staging.setVersion(FIRST);
		expect(abandonedStaging(elsewhere)).to.equal(undefined);
		await staging.close();
	});
});

describe('an older version that turns up in uploads/', () => {
	it('(this root was made anew, and its clock is behind) is the last word: nobody here knows the newer one', async () => {
		const root = makeRoot({ config: PLAIN_CONFIG });
		const built = await openBuilt(root);
		await built.ingest('d/x', 'one');
		const ahead = Date.now() / 1000 + 3600;
		utimesSync(join(root, 'uploads/d/x'), ahead, ahead);
		await built.encrypt();
		await built.upload();
		for (const area of ['locks', 'uploads']) rmSync(join(root, area), { recursive: true });
		const second = await built.ingest('d/x', 'two');
		// As by an ingest that died before its publish.
		const { signal } = new AbortController();
		await built.context.root.locks.withPath(path, signal, async (lock) => lock.setNewest(second + 1000));
		await built.encrypt();
		await built.upload();
		rmSync(join(root, 'uploads'), { recursive: true });
		await built.fetch('d/x');
		expect(readFileSync(join(root, 'uploads/d/x'), 'utf8')).to.equal('two');
	});

	it('(a slow fetch has published it after the newer one was evicted) does not replace the newer one in the store', async () => {
		const root = makeRoot({ config: PLAIN_CONFIG });
		const built = await openBuilt(root);
		const first = await built.ingest('d/x', 'one');
		await built.encrypt();
		await built.upload();
		await built.ingest('d/x', 'two');
		await built.encrypt();
		put(join(root, 'uploads/d/x'), 'one', first);
		await built.repair();
		await built.upload();
		await built.encrypt();
		await built.upload();
		rmSync(join(root, 'uploads'), { recursive: true });
		await built.fetch('d/x');
		expect(readFileSync(join(root, 'uploads/d/x'), 'utf8')).to.equal('two');
	});
});

describe('an ingest that fails under the lock', () => {
	it('leaves the marker of an earlier one that died after its publish: it vouches for what readers see', async () => {
		const root = makeRoot({ config: PLAIN_CONFIG });
		const built = await openBuilt(root);
		await built.ingest('d/x', 'one');
		const [artifact, marker, link] = ['uploads', 'uploading', 'to_encrypt'].map((area) => `${root}/${area}/d/x`) as [
			string,
			string,
			string,
		];
		rmSync(link);
		writeFileSync(marker, '');
		const spoil = () => {
			renameSync(artifact, `${root}/aside`);
			mkdirSync(artifact);
		};
		const error = await built.ingest('d/x', 'two', spoil).catch((thrown: unknown) => thrown);
		expect(error).to.have.property('code', 'conflict');
		rmSync(artifact, { recursive: true });
		renameSync(`${root}/aside`, artifact);
		expect(await built.repair()).to.deep.include('marker: uploading/d/x: made the work link');
		expect(tree(root)).to.include('to_encrypt/d/x -> <root>/uploads/d/x');
	});
});
