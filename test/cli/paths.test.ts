import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { openBuilt } from '../support/built.js';
import {
	DEFAULT_CONFIG,
	keyId,
	makeDirectory,
	makeRoot,
	PLAIN_CONFIG,
	s3proxy,
	shell,
	tree,
	treeOf,
} from '../support/cli.js';

/** A path of exactly `length` bytes, in components of at most 250. */
function pathOf(length: number): string {
	const full = Math.floor((length - 1) / 251);
	return [...Array<string>(full).fill('d'.repeat(250)), 'f'.repeat(length - full * 251)].join('/');
}

/** Odd, and valid: all of them live side by side in one root. */
const ODD: [string, string, string?][] = [
	['980 bytes', pathOf(980)],
	['a component of 250 bytes', `long/${'x'.repeat(250)}`],
	['a component of 250 bytes of emoji and letters', `long/${'🎉'.repeat(62)}ab`],
	['spaces', ' leading and trailing '],
	['percent signs', '100%/%41%2F%00'],
	['plus, ampersand, hash, question mark', 'a+b&c#d?e=f'],
	['quotes and a dollar', `it's "$HOME" \`id\``],
	['a semicolon, a pipe, a star', 'a;b|c*d'],
	['emoji', '👩‍👩‍👧/🎉'],
	['combining characters', 'normal/e\u0301'],
	['the same precomposed', 'normal/\u00e9'],
	['U+FFFD', '\ufffd'],
	['right to left', 'שלום/مرحبا'],
	['a line separator', 'a\u2028b'],
	['Gemfile', 'Gemfile'],
	['Gemfile.lock beside it', 'Gemfile.lock'],
	['a name like a hash lock', 'Gemfile.lock.lock'],
	['three dots', '...'],
	['a hidden file', '.hidden/.file'],
	['-iv in a directory', 'c-iv/d'],
	['upper case beside lower case', 'CASE'],
	['lower case beside upper case', 'case'],
	['a key id', '0123456789abcdef0123456789abcdef01234567'],
	['__proto__', '__proto__'],
	['runs of slashes', '//runs///of//slashes', 'runs/of/slashes'],
	['a leading slash', '/leading/slash', 'leading/slash'],
	['a trailing slash', 'trailing/slash/', 'trailing/slash'],
];

const REFUSED: [string, string, RegExp][] = [
	['981 bytes', pathOf(981), /longer than 980 bytes/],
	['a component of 251 bytes', 'x'.repeat(251), /longer than 250 bytes/],
	['a line feed', 'a\nb', /control character 0x0a/],
	['an escape', 'a\u001b[31mb', /control character 0x1b/],
	['dot dot', '../a', /"\.\."/],
	['dot dot inside', 'a/../../etc/passwd', /"\.\."/],
	['a dot', './a', /"\."/],
	['slashes alone', '//', /empty/],
	['nothing', '', /empty/],
	['a backslash', 'a\\b', /backslash/],
	['a sidecar', 'x-iv', /sidecar/],
	['a reserved name', '.s3proxy-x', /may not begin/],
	['a reserved directory', '.s3proxy-x/a', /may not begin/],
];

describe('odd artifact paths', () => {
	for (const [encryption, config] of [
		[true, DEFAULT_CONFIG],
		[false, PLAIN_CONFIG],
	] as const) {
		it(`go through the whole pipeline, all beside each other, and come back byte for byte (encryption: ${encryption})`, async () => {
			const root = makeRoot({ config });
			const built = await openBuilt(root);
			const contents = new Map<string, Buffer>();
			for (const [index, [what, given, path = given]] of ODD.entries()) {
				const content = Buffer.from([index, ...Buffer.from(what)]);
				await built.ingest(given, content);
				contents.set(path, content);
			}
			contents.set('empty', Buffer.alloc(0));
			contents.set('one byte', Buffer.from([0]));
			await built.ingest('empty', '');
			await built.ingest('one byte', Buffer.from([0]));
			expect(await built.encrypt()).to.equal(contents.size);
			expect(await built.upload()).to.equal(contents.size);
			rmSync(join(root, 'uploads'), { recursive: true });
			const { code, stderr } = await s3proxy(root, ['fetch', ...contents.keys()]);
			expect(code, stderr).to.equal(0);
			for (const [path, content] of contents) {
				expect(readFileSync(join(root, 'uploads', path)).equals(content), path).to.equal(true);
				expect(readFileSync(join(root, 'bucket', keyId(root), path)).length, path).to.equal(
					encryption ? 64 + content.length + 16 : content.length,
				);
			}
			const uploaded = treeOf(root, 'uploads').filter((name) => !name.endsWith('/'));
			expect(uploaded).to.deep.equal([...contents.keys()].sort());
		});
	}

	it('come from the shell as they are', async () => {
		const root = makeRoot();
		const odd = ODD.filter((_, index) => index % 3 === 0);
		await Promise.all(
			odd.map(async ([what, given, path = given]) => {
				const { code, stdout, stderr } = await s3proxy(root, ['ingest', '-', given], { stdin: what });
				expect(code, stderr).to.equal(0);
				expect(stdout).to.equal(`saved ${path} (${what.length} bytes)\n`);
				expect(readFileSync(join(root, 'uploads', path), 'utf8')).to.equal(what);
			}),
		);
	});
});

describe('bad artifact paths', () => {
	it('are refused by ingest and fetch, exit code 2, with the rule they break, and leave nothing', async () => {
		const root = makeRoot();
		const before = tree(root);
		await Promise.all(
			REFUSED.map(async ([what, path, why]) => {
				for (const args of [
					['ingest', '-', '--', path],
					['fetch', '--', path],
				]) {
					const { code, stderr } = await s3proxy(root, args);
					expect(code, `${what}: ${stderr}`).to.equal(2);
					expect(stderr, what).to.match(why);
					expect(stderr, `${what}: nothing that drives a terminal`).not.to.contain('\u001b');
				}
			}),
		);
		expect(tree(root)).to.deep.equal(before);
	});

	it('of invalid UTF-8 are refused, not stored under U+FFFD', async () => {
		const root = makeRoot();
		const before = tree(root);
		for (const bytes of ['a\\377b', '\\303\\050', '\\355\\240\\200']) {
			const { code, stderr } = await shell(root, `$RUN ingest - "$(printf '${bytes}')" < /dev/null`);
			expect(code, stderr).to.equal(2);
			expect(stderr).to.contain('not valid UTF-8');
		}
		expect(tree(root)).to.deep.equal(before);
	});
});

describe('names in each other’s way', () => {
	const CONFLICTS: [string, string, RegExp][] = [
		['a', 'a/b', /runs through an artifact/],
		['a/b', 'a', /is a directory/],
		['a', 'a/b/c/d', /runs through an artifact/],
		['a/b/c', 'a/b', /is a directory/],
		['a', 'a-iv/b', /sidecar/],
		['a-iv/b', 'a', /sidecar/],
	];
	it('are conflicts, exit code 1, before and after eviction; the first one stays', async () => {
		await Promise.all(
			CONFLICTS.map(async ([first, second, why]) => {
				const root = makeRoot();
				const built = await openBuilt(root);
				await built.ingest(first, 'first');
				const refused = async () => {
					const { code, stderr } = await s3proxy(root, ['ingest', '-', second], { stdin: 'second' });
					expect(code, `${first}, then ${second}: ${stderr}`).to.equal(1);
					expect(stderr).to.match(why).and.to.contain(second);
				};
				const before = tree(root);
				await refused();
				expect(tree(root)).to.deep.equal(before);
				await built.encrypt();
				await built.upload();
				rmSync(join(root, 'uploads'), { recursive: true });
				await refused();
				expect(await built.fetch(first)).to.equal(1);
				expect(readFileSync(join(root, 'uploads', first), 'utf8')).to.equal('first');
			}),
		);
	});

	it('are conflicts for fetch, too', async () => {
		const root = makeRoot();
		const built = await openBuilt(root);
		await built.ingest('a/b', 'x');
		for (const path of ['a', 'a/b/c']) {
			const { code, stderr } = await s3proxy(root, ['fetch', path]);
			expect(code, `${path}: ${stderr}`).to.equal(1);
			expect(stderr).to.contain(path);
		}
	});
});

describe('what does not exist', () => {
	it('leaves nothing behind when it is asked for, whatever command asks', async () => {
		const root = makeRoot();
		const built = await openBuilt(root);
		await built.ingest('there', 'x');
		await built.encrypt();
		await built.upload();
		await built.repair();
		const before = tree(root);
		const output = join(makeDirectory(), 'out');
		for (const args of [
			['fetch', 'not/there'],
			['fetch', 'not/there', '--output', output],
			['encrypt', 'not/there'],
		]) {
			expect((await s3proxy(root, args)).code, args.join(' ')).to.equal(4);
			expect(tree(root), args.join(' ')).to.deep.equal(before);
		}
		// Nothing waits under that name: that is no failure, as it is none when nothing waits at all.
		expect((await s3proxy(root, ['upload', 'not/there'])).code).to.be.oneOf([0, 4]);
		expect(tree(root), 'upload').to.deep.equal(before);
	});

	it('leaves nothing behind when an ingest of it fails half-way', async () => {
		const root = makeRoot({ config: `${DEFAULT_CONFIG}max_upload_size: 3\n` });
		writeFileSync(join(root, 'four'), '1234');
		const before = tree(root);
		for (const args of [
			['ingest', '-', 'new/path'],
			['ingest', '--move', join(root, 'four'), 'new/path'],
		]) {
			expect((await s3proxy(root, args, { stdin: '1234' })).code).to.equal(1);
			expect(tree(root).filter((name) => name !== 'uploading/')).to.deep.equal(before);
		}
	});
});
