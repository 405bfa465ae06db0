import { expect } from 'chai';
import fc from 'fast-check';
import { S3proxyError } from '../../src/errors.js';
import {
	type ArtifactPath,
	artifactPath,
	artifactPathIfValid,
	artifactPathOfTarget,
	MAX_COMPONENT_BYTES,
	MAX_PATH_BYTES,
	targetOf,
} from '../../src/state/artifact-path.js';
import { Layout } from '../../src/state/layout.js';

function refusalOf(make: () => unknown): S3proxyError {
	try {
		const made = make();
		throw new Error(`accepted as ${JSON.stringify(made)}`);
	} catch (error) {
		if (error instanceof S3proxyError) return error;
		throw error;
	}
}

/** A path of exactly `length` bytes, in components of at most 200. */
function pathOf(length: number): string {
	const full = Math.floor((length - 1) / 201);
	return [...Array<string>(full).fill('d'.repeat(200)), 'f'.repeat(length - full * 201)].join('/');
}

describe('artifact paths as a shell gives them', () => {
	const ACCEPTED: [string, string, string?][] = [
		['one component', 'a'],
		['three components', 'path/to/file'],
		['runs of slashes, which collapse', 'a//b///c', 'a/b/c'],
		['a leading slash, which goes', '/a/b', 'a/b'],
		['a trailing slash, which goes', 'a/b/', 'a/b'],
		['980 bytes', pathOf(980)],
		['a component of 250 bytes', 'x'.repeat(250)],
		['a component of 250 bytes in 125 characters', 'ä'.repeat(125)],
		['a space', 'a b'],
		['only a space', ' '],
		['a percent sign that is not decoded', 'a%2Fb'],
		['question mark, hash, plus, ampersand', 'a?b#c+d&e'],
		['quotes', `'"\``],
		['three dots', '...'],
		['a hidden file', '.hidden'],
		['a reserved prefix without its dash', '.s3proxy'],
		['a reserved prefix inside a component', 'x.s3proxy-y'],
		['-iv in a directory', 'a-iv/b'],
		['-iv inside a name', 'a-iv.gz'],
		['iv without a dash', 'iv'],
		['upper-case -IV', 'a-IV'],
		['emoji', '🎉/👩‍👩‍👧'],
		['combining characters, not normalised', 'e\u0301'],
		['precomposed characters, not normalised', '\u00e9'],
		['U+FFFD itself', '\ufffd'],
		['C1 control characters', 'a\u0085b'],
		['a name that begins with a dash', '-rf'],
		['a name like a lock', 'Gemfile.lock'],
		['a colon and a star', 'C:*'],
	];
	for (const [what, given, expected = given] of ACCEPTED) {
		it(`accepts ${what}`, () => {
			expect(artifactPath(given)).to.equal(expected);
		});
	}

	const REFUSED: [string, string, RegExp][] = [
		['nothing', '', /empty/],
		['a slash alone', '/', /empty/],
		['slashes alone', '///', /empty/],
		['981 bytes', pathOf(981), /longer than 980 bytes/],
		['a component of 251 bytes', 'x'.repeat(251), /longer than 250 bytes/],
		['a directory of 251 bytes', `${'x'.repeat(251)}/a`, /longer than 250 bytes/],
		['a component of 252 bytes in 126 characters', 'ä'.repeat(126), /longer than 250 bytes/],
		['a dot', '.', /"\."/],
		['a dot before', './a', /"\."/],
		['a dot between', 'a/./b', /"\."/],
		['dot dot', '..', /"\.\."/],
		['dot dot before', '../a', /"\.\."/],
		['dot dot between', 'a/../b', /"\.\."/],
		['dot dot at the end', 'a/..', /"\.\."/],
		['a line feed', 'a\nb', /control character 0x0a/],
		['NUL', 'a\0b', /control character 0x00/],
		['0x1f', 'a\x1fb', /control character 0x1f/],
		['DEL', 'a\x7fb', /control character 0x7f/],
		['a backslash', 'a\\b', /backslash/],
		['a lone high surrogate', 'a\ud800', /UTF-8/],
		['a lone low surrogate', '\udc00a', /UTF-8/],
		['a sidecar', 'x-iv', /sidecar/],
		['a sidecar in a directory', 'a/b/x-iv', /sidecar/],
		['-iv alone', '-iv', /sidecar/],
		['a sidecar with a slash behind it', 'x-iv/', /sidecar/],
		['a reserved name', '.s3proxy-x', /may not begin with/],
		['a reserved prefix alone', '.s3proxy-', /may not begin with/],
		['a reserved directory', '.s3proxy-x/a', /may not begin with/],
	];
	for (const [what, given, why] of REFUSED) {
		it(`refuses ${what}, and says why`, () => {
			const error = refusalOf(() => artifactPath(given));
			expect(error.code).to.equal('bad-path');
			expect(error.message).to.match(why);
			expect(artifactPathIfValid(given)).to.equal(undefined);
		});
	}

	it('takes a name found on disk only as it stands', () => {
		expect(artifactPathIfValid('a/b')).to.equal('a/b');
		for (const other of ['a//b', '/a', 'a/']) expect(artifactPathIfValid(other)).to.equal(undefined);
	});
});

describe('artifact paths of request targets', () => {
	const ACCEPTED: [string, string][] = [
		['/a', 'a'],
		['/a/b?query=/../x', 'a/b'],
		['/a?', 'a'],
		['//a///b/', 'a/b'],
		['/a%20b', 'a b'],
		['/a+b', 'a+b'],
		['/%61', 'a'],
		['/100%25', '100%'],
		['/%252F', '%2F'],
		['/%3F%23', '?#'],
		['/%E2%82%AC', '€'],
		['/e%CC%81', 'e\u0301'],
		// Node.js gives one character per byte of what was not encoded.
		['/\xe2\x82\xac', '€'],
	];
	for (const [target, path] of ACCEPTED) {
		it(`decodes ${JSON.stringify(target)} once`, () => {
			expect(artifactPathOfTarget(target)).to.equal(path);
		});
	}

	const REFUSED: [string, RegExp][] = [
		['/', /empty/],
		['', /begins with/],
		['a', /begins with/],
		['*', /begins with/],
		['http://host/a', /begins with/],
		['/?a', /empty/],
		['/a%2Fb', /encoded slash/],
		['/a%2fb', /encoded slash/],
		['/a%00', /0x00/],
		['/a%0A', /0x0a/],
		['/a%7F', /0x7f/],
		['/a%5Cb', /backslash/],
		['/%2e%2e/a', /"\.\."/],
		['/%2E', /"\."/],
		['/a%', /two hex digits/],
		['/a%2', /two hex digits/],
		['/a%GG', /two hex digits/],
		['/%FF', /UTF-8/],
		['/%C0%AF', /UTF-8/],
		['/%ED%A0%80', /UTF-8/],
		['/%E2%82', /UTF-8/],
		['/\xff', /UTF-8/],
		['/a-i%76', /sidecar/],
		['/%2Es3proxy-x', /may not begin with/],
	];
	for (const [target, why] of REFUSED) {
		it(`refuses ${JSON.stringify(target)}, and says why`, () => {
			const error = refusalOf(() => artifactPathOfTarget(target));
			expect(error.code).to.equal('bad-path');
			expect(error.message).to.match(why);
		});
	}
});

describe('artifact paths, whatever is asked for', () => {
	const spice = fc.constantFrom(
		'/',
		'//',
		'.',
		'..',
		'-iv',
		'.s3proxy-',
		'%',
		'%2F',
		'\\',
		'\0',
		'\n',
		' ',
		'é',
		'🎉',
		'a',
	);
	const text = fc.oneof(
		fc
			.array(fc.oneof(spice, fc.string({ unit: 'binary', maxLength: 3 })), { maxLength: 12 })
			.map((parts) => parts.join('')),
		fc
			.array(fc.oneof(spice, fc.string({ unit: 'grapheme', maxLength: 9 })), { maxLength: 8 })
			.map((parts) => parts.join('/')),
		fc.integer({ min: 240, max: 260 }).map((length) => 'x'.repeat(length)),
	);

	function accepted(make: () => ArtifactPath): ArtifactPath | undefined {
		try {
			return make();
		} catch (error) {
			expect(error).to.be.instanceOf(S3proxyError);
			return undefined;
		}
	}

	function assertAllRules(path: ArtifactPath): void {
		const bytes = Buffer.from(path, 'utf8');
		expect(bytes.toString('utf8'), 'valid UTF-8').to.equal(path);
		expect(bytes.length).to.be.within(1, MAX_PATH_BYTES);
		expect(bytes.some((byte) => byte < 0x20 || byte === 0x7f || byte === 0x5c)).to.equal(false);
		for (const component of path.split('/')) {
			expect(component).not.to.be.oneOf(['', '.', '..']);
			expect(Buffer.byteLength(component)).to.be.at.most(MAX_COMPONENT_BYTES);
			expect(component.startsWith('.s3proxy-')).to.equal(false);
		}
		expect(path.endsWith('-iv')).to.equal(false);
	}

	it('keep every rule when they are accepted, and come back from URL, disk and object key', () => {
		const layout = new Layout('/root');
		fc.assert(
			fc.property(text, (given) => {
				const path = accepted(() => artifactPath(given));
				if (path === undefined) return;
				assertAllRules(path);
				expect(artifactPath(path), 'idempotent').to.equal(path);
				expect(artifactPathOfTarget(targetOf(path)), 'URL').to.equal(path);
				expect(targetOf(path)).to.match(/^\/[\x21-\x7e]+$/);
				expect(artifactPathIfValid(layout.artifact(path).slice('/root/uploads/'.length)), 'disk').to.equal(path);
				const key = `${'0'.repeat(40)}/${path}`;
				expect(artifactPathIfValid(key.slice(41)), 'object key').to.equal(path);
				expect(Buffer.byteLength(`${key}-iv`)).to.be.at.most(1024);
			}),
			{ numRuns: 3000 },
		);
	});

	it('never lead out of their directories', () => {
		const layout = new Layout('/root');
		fc.assert(
			fc.property(text, (given) => {
				const path = accepted(() => artifactPath(given));
				if (path === undefined) return;
				for (const [name, directory] of [
					[layout.artifact(path), '/root/uploads/'],
					[layout.marker(path), '/root/uploading/'],
					[layout.workLink(path), '/root/to_encrypt/'],
					[layout.sealed('k', path), '/root/encrypted/k/'],
					[layout.lock('path', path).file, '/root/locks/'],
					[layout.lock('path', path).directory, '/root/locks/'],
					[layout.lock('fetch', path).directory, '/root/locks/'],
				] as const) {
					expect(name.startsWith(directory), name).to.equal(true);
					expect(name.split('/')).not.to.include('..');
					expect(Buffer.byteLength(name.slice(name.lastIndexOf('/') + 1))).to.be.at.most(255);
				}
			}),
			{ numRuns: 3000 },
		);
	});

	it('of any request target either keep every rule or are refused as bad', () => {
		const byte = fc.integer({ min: 0x21, max: 0xff }).map((code) => String.fromCharCode(code));
		const escaped = fc.integer({ min: 0, max: 255 }).map((code) => `%${code.toString(16).padStart(2, '0')}`);
		const target = fc.array(fc.oneof(byte, escaped, fc.constantFrom('/', '.', '%2e', '%c3%a9')), { maxLength: 20 });
		fc.assert(
			fc.property(target, (parts) => {
				const path = accepted(() => artifactPathOfTarget(`/${parts.join('')}`));
				if (path !== undefined) assertAllRules(path);
			}),
			{ numRuns: 3000 },
		);
	});

	it('have a lock of their own: the lock of x is not an artifact x.lock, and no two paths share one', () => {
		const layout = new Layout('/root');
		fc.assert(
			fc.property(text, text, (one, other) => {
				const [a, b] = [accepted(() => artifactPath(one)), accepted(() => artifactPath(other))];
				if (a === undefined || b === undefined || a === b) return;
				const directories = (path: ArtifactPath) =>
					(['path', 'fetch', 'put'] as const).map((kind) => layout.lock(kind, path).directory);
				expect(directories(a)).not.to.have.any.members(directories(b));
			}),
			{ numRuns: 2000 },
		);
	});
});
