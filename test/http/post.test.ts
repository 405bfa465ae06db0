import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { treeOf } from '../support/cli.ts';
import { BOUNDARY, config, FORM, file, form, type Part, type Served, send, serve, store } from '../support/serve.ts';

const LIMIT = 100_000;
const sha256 = (content: string | Buffer) => createHash('sha256').update(content).digest();

describe('POST', () => {
	let served: Served;
	let url: string;

	before(async () => {
		served = await serve({ config: config(`max_upload_size: ${LIMIT}\n`) });
		url = served.url;
	});

	const post = (target: string, body: Buffer | string, headers: Record<string, string> = {}) =>
		send(url, target, { method: 'POST', headers: { ...FORM, ...headers }, body });
	const stored = (path: string) => readFileSync(join(served.root, 'uploads', path), 'utf8');

	it('stores the file and says where', async () => {
		const { status, headers, text } = await store(url, '/path/to/file', 'x'.repeat(33));
		expect([status, headers.location, text]).to.deep.equal([201, '/path/to/file', 'saved path/to/file (33 bytes)\n']);
		expect(headers).not.to.have.property('repr-digest');
		expect(stored('path/to/file')).to.equal('x'.repeat(33));
		expect(treeOf(served.root, 'to_encrypt')).to.include('path/to/file -> <root>/uploads/path/to/file');
		expect(treeOf(served.root, 'uploading')).to.deep.equal(['path/', 'path/to/']);
	});

	describe('forms', () => {
		const field = (name: string, content: string): Part => ({ name, content });
		const bad: readonly (readonly [what: string, body: Buffer | string, says: RegExp])[] = [
			['an empty body', '', /ends before/],
			['a form without parts', form(), /no file field/],
			['a form without a field named file', form({ name: 'other', filename: 'x', content: 'x' }), /no file field/],
			['a text field named file', form(field('file', 'text')), /has no filename/],
			['a long text field named file', form(field('file', 'x'.repeat(40_000))), /has no filename/],
			['a file field with an empty filename', form({ ...file('x'), filename: '' }), /has no filename/],
			['two file fields', form(file('one'), file('two')), /several/],
			['too many fields', form(...Array.from({ length: 40 }, () => field('a', 'b')), file('x')), /more than 32 fields/],
			[
				'too many files',
				form(...Array.from({ length: 9 }, (_, i) => ({ ...file('x'), name: `f${i}` }))),
				/more than 8/,
			],
			['a field that is too long', form(field('a', 'b'.repeat(20_000)), file('x')), /longer than/],
			['a part with endless headers', `--${BOUNDARY}\r\n${'X: y\r\n'.repeat(9000)}`, /Malformed part header/],
			['a file that breaks off', form(file('x'.repeat(5000))).subarray(0, 3000), /ends before/],
			['a last delimiter that breaks off', form(file('x')).subarray(0, -3), /ends before/],
			['a header that breaks off', `--${BOUNDARY}\r\nContent-Disp`, /ends before|Malformed/],
			['something else', 'file=content', /ends before/],
			['a file with a line that begins with the boundary', form(file(`a\r\n--${BOUNDARY}x\r\nb`)), /goes on/],
			['a bad sha256 field', form(file('x'), field('sha256', 'abc')), /64 hex digits/],
			[
				'two sha256 fields',
				form(field('sha256', 'a'.repeat(64)), field('sha256', 'a'.repeat(64)), file('x')),
				/several/,
			],
			['a sha256 field that is a file', form(file('x'), { ...file('x'), name: 'sha256' }), /must be text/],
		];
		for (const [what, body, says] of bad) {
			it(`${what}: 400, nothing stored`, async () => {
				const { status, text } = await post('/form/bad', body);
				expect([status, text]).to.satisfy(() => status === 400 && says.test(text), `${status} ${text}`);
				expect(treeOf(served.root, 'uploads')).not.to.include('form/');
				expect(treeOf(served.root, 'uploading')).not.to.include('form/');
			});
		}

		for (const type of ['multipart/form-data', 'multipart/form-data; boundary=', 'multipart/form-data; boundary=""']) {
			it(`Content-Type: ${type}: 400`, async () => {
				expect((await post('/form/x', 'x', { 'Content-Type': type })).status).to.equal(400);
			});
		}
		for (const type of [
			'application/octet-stream',
			'application/x-www-form-urlencoded',
			'multipart/mixed; boundary=b',
			'',
		]) {
			it(`Content-Type: ${type || 'none'}: 415`, async () => {
				const headers = type === '' ? {} : { 'Content-Type': type };
				const answer = await send(url, '/form/x', { method: 'POST', headers, body: 'x' });
				expect(answer.status).to.equal(415);
			});
		}

		it('other fields and files are ignored, before and after the file', async () => {
			const other = { ...file(randomBytes(20_000)), name: 'other' };
			const { status, text } = await post(
				'/form/good',
				form(field('a', 'b'), other, file('me'), other, field('file2', 'x')),
			);
			expect([status, text]).to.deep.equal([201, 'saved form/good (2 bytes)\n']);
		});

		it('what follows the last delimiter is not part of the form', async () => {
			await post('/form/epilogue', Buffer.concat([form(file('me')), form(file('not me'))]));
			expect(stored('form/epilogue')).to.equal('me');
		});

		it('content that looks like delimiters comes through whole', async () => {
			const content = `\r\n--\r\n-${BOUNDARY}\r\n--${BOUNDARY.slice(0, -1)}\r\n\r\n--`;
			await store(url, '/form/lookalike', content);
			expect(stored('form/lookalike')).to.equal(content);
		});
	});

	describe('sizes', () => {
		for (const size of [0, 1, LIMIT - 1, LIMIT]) {
			it(`${size} bytes of at most ${LIMIT} are stored`, async () => {
				const content = randomBytes(size);
				expect((await store(url, '/size', content)).text).to.equal(`saved size (${size} bytes)\n`);
				expect((await send(url, '/size')).body.equals(content)).to.equal(true);
			});
		}
		for (const size of [LIMIT + 1, LIMIT * 2, LIMIT * 100]) {
			for (const framing of ['Content-Length', 'chunked']) {
				it(`${size} bytes (${framing}) are too many: 413, and nothing is stored`, async () => {
					const headers = framing === 'chunked' ? { 'Transfer-Encoding': 'chunked' } : {};
					const answer = await post('/sized/large', form(file(Buffer.alloc(size))), headers);
					expect([answer.status, answer.text]).to.deep.equal([
						413,
						`sized/large: larger than ${LIMIT} bytes. The limit is max_upload_size in config.yaml.\n`,
					]);
					expect(treeOf(served.root, 'uploading')).not.to.include('sized/');
				});
			}
		}
		it('ignored files count too: 413', async () => {
			const body = form(file('x'), { ...file(Buffer.alloc(LIMIT * 2)), name: 'other' });
			expect((await post('/many', body, { 'Transfer-Encoding': 'chunked' })).status).to.equal(413);
			expect(treeOf(served.root, 'uploads')).not.to.include('many');
		});
	});

	describe('checksums', () => {
		const [content, hex, base64] = ['content', sha256('content').toString('hex'), sha256('content').toString('base64')];
		const wrong = sha256('other');
		const field = (value: string): Part => ({ name: 'sha256', content: value });
		const good: readonly (readonly [what: string, body: Buffer, header: string | undefined])[] = [
			['a field after the file', form(file(content), field(hex)), undefined],
			['a field before the file', form(field(hex), file(content)), undefined],
			['a field in capitals', form(field(hex.toUpperCase()), file(content)), undefined],
			['a header', form(file(content)), `sha-256=:${base64}:`],
			['a header among others', form(file(content)), `md5=:AAAA:, sha-256=:${base64}:;x=1, sha-512=:BBBB:`],
			['a plain hex header', form(file(content)), `sha-256=${hex}`],
			['a plain base64 header', form(file(content)), `SHA-256=${base64}`],
			['both', form(field(hex), file(content)), `sha-256=:${base64}:`],
		];
		for (const [what, body, header] of good) {
			it(`${what}: checked, and said in the answer`, async () => {
				const answer = await post('/sum/good', body, header === undefined ? {} : { 'Repr-Digest': header });
				expect(answer.text).to.equal(`saved sum/good (7 bytes, sha256 ${hex})\n`);
				expect(answer.headers['repr-digest']).to.equal(`sha-256=:${base64}:`);
			});
		}
		const bad: readonly (readonly [what: string, status: number, body: Buffer, header: string | undefined])[] = [
			['a wrong field before', 422, form(field(wrong.toString('hex')), file(content)), undefined],
			['a wrong field after', 422, form(file(content), field(wrong.toString('hex'))), undefined],
			['a wrong header', 422, form(file(content)), `sha-256=:${wrong.toString('base64')}:`],
			[
				'a right header and a wrong field',
				422,
				form(file(content), field(wrong.toString('hex'))),
				`sha-256=:${base64}:`,
			],
			['a wrong header and a right field', 422, form(field(hex), file(content)), `sha-256=${wrong.toString('hex')}`],
			['a malformed header', 400, form(file(content)), 'sha-256=:abc:'],
			['a header without a value', 400, form(file(content)), 'sha-256'],
			['a header with two of them', 400, form(file(content)), `sha-256=${hex}, sha-256=${wrong.toString('hex')}`],
		];
		for (const [what, expected, body, header] of bad) {
			it(`${what}: ${expected}, nothing stored`, async () => {
				const { status } = await post('/sum/bad', body, header === undefined ? {} : { 'Repr-Digest': header });
				expect(status).to.equal(expected);
				expect(treeOf(served.root, 'uploads')).not.to.include('sum/bad');
				expect(treeOf(served.root, 'locks')).not.to.include('sum/bad');
			});
		}
	});

	it('of many POSTs of one path, the last acknowledged is what is read', async () => {
		const acknowledged: string[] = [];
		await Promise.all(
			Array.from({ length: 20 }, async (_, i) => {
				const { status } = await store(url, '/contended', `version ${i}`);
				if (status === 201) acknowledged.push(`version ${i}`);
			}),
		);
		expect(acknowledged).to.have.length(20);
		const read = stored('contended');
		expect(acknowledged).to.include(read);
		await store(url, '/contended', 'the last');
		expect(stored('contended')).to.equal('the last');
	});
});
