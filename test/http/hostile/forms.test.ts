import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { type Arena, answersIn, openArena } from '../../support/hostile.ts';
import { BOUNDARY, FORM, postHead, raw } from '../../support/serve.ts';

const part = (headers: string, content: string) => `--${BOUNDARY}\r\n${headers}\r\n\r\n${content}\r\n`;
const field = (name: string, content: string) => part(`Content-Disposition: form-data; name="${name}"`, content);
const fileField = (content: string, filename = '"f"', more = '') =>
	part(`Content-Disposition: form-data; name="file"; filename=${filename}${more}`, content);
const END = `--${BOUNDARY}--\r\n`;
const good = `${fileField('content')}${END}`;

const NESTED = `--inner\r\nContent-Disposition: file; filename="a"\r\n\r\nA\r\n--inner--\r\n`;

/** The bodies of forms, the statuses that they get, and of those that are stored, the content. */
const FORMS: readonly (readonly [what: string, body: string, status: number, content?: string])[] = [
	['a multipart in the file field', fileField(NESTED, '"f"', '\r\nContent-Type: multipart/mixed; boundary=inner'), 201],
	['a form in the file field', fileField(good.replaceAll(BOUNDARY, 'other')), 201],
	['a hundred forms in one another', `${fileField('--x\r\n'.repeat(100))}${END}`, 201, '--x\r\n'.repeat(100)],
	['a thousand parts', field('a', 'b').repeat(1000) + good, 400],
	['ten thousand empty parts', `--${BOUNDARY}\r\n\r\n\r\n`.repeat(10_000) + good, 400],
	['ten thousand delimiters', `--${BOUNDARY}\r\n`.repeat(10_000) + good, 400],
	['a thousand files', fileField('x').replace('"file"', '"x"').repeat(1000) + good, 400],
	['a field of a megabyte', field('a', 'b'.repeat(2 ** 20)) + good, 400],
	['a field name of 15,000 bytes', field('n'.repeat(15_000), 'b') + good, 201, 'content'],
	['a field name of a megabyte', field('n'.repeat(2 ** 20), 'b') + good, 400],
	['a filename of 10,000 bytes', fileField('content', `"${'f'.repeat(10_000)}"`) + END, 201, 'content'],
	['a filename with directories', fileField('content', '"../../../secret"') + END, 201, 'content'],
	['a filename with a NUL', fileField('content', '"a\0b"') + END, 400],
	[
		'an encoded filename',
		part(`Content-Disposition: form-data; name="file"; filename*=UTF-8''%2e%2e%2fx`, 'content') + END,
		201,
		'content',
	],
	[
		'a filename in an unknown charset',
		part(`Content-Disposition: form-data; name="file"; filename*=x-none''%ff`, 'content') + END,
		400,
	],
	['a field name with directories', field('../../secret', 'x') + good, 201, 'content'],
	['a field named __proto__', field('__proto__', 'x') + good, 201, 'content'],
	['headers without end in a part', `--${BOUNDARY}\r\n${'X: y\r\n'.repeat(100_000)}`, 400],
	['a header line without end in a part', `--${BOUNDARY}\r\nX: ${'y'.repeat(2 ** 20)}`, 400],
	['no disposition', part('Content-Type: text/plain', 'content') + END, 400],
	['an attachment', part('Content-Disposition: attachment; name="file"; filename="f"', 'content') + END, 400],
	[
		'two dispositions',
		part(
			'Content-Disposition: form-data; name="x"\r\nContent-Disposition: form-data; name="file"; filename="f"',
			'content',
		) + END,
		400,
	],
	[
		'a part in base64',
		fileField('Y29udGVudA==', '"f"', '\r\nContent-Transfer-Encoding: base64') + END,
		201,
		'Y29udGVudA==',
	],
	['a preamble of a megabyte', `${'p'.repeat(2 ** 20)}\r\n${good}`, 201, 'content'],
	['an epilogue of a megabyte', good + 'e'.repeat(2 ** 20), 201, 'content'],
	['a second form behind the first', good + good, 201, 'content'],
	['another boundary', good.replaceAll(BOUNDARY, 'other'), 400],
	['line feeds alone', good.replaceAll('\r\n', '\n'), 400],
	['spaces behind the boundary', good.replace(`${BOUNDARY}\r\n`, `${BOUNDARY} \t\r\n`), 400],
	['the boundary with more behind it', good.replace(`${BOUNDARY}--`, `${BOUNDARY}-`), 400],
	['a last delimiter without line break', good.slice(0, -2), 201, 'content'],
	['a last delimiter of one hyphen', good.slice(0, -3), 400],
	[
		'a delimiter without carriage return in the file',
		`${fileField(`a\n--${BOUNDARY}--\r\nb`)}${END}`,
		201,
		`a\n--${BOUNDARY}--\r\nb`,
	],
	[
		'half a delimiter at the end of the file',
		`${fileField(`a\r\n--${BOUNDARY.slice(0, 9)}`)}${END}`,
		201,
		`a\r\n--${BOUNDARY.slice(0, 9)}`,
	],
	['a hundred thousand half delimiters', `${fileField(`\r\n--${BOUNDARY.slice(0, -1)}`.repeat(100_000))}${END}`, 201],
	['nothing', '', 400],
	['zeros', '\0'.repeat(100_000), 400],
	['gzip', '\x1f\x8b\x08\0\0\0\0\0', 400],
	['JSON', '{"file": "content"}', 400],
];

const BOUNDARIES: readonly (readonly [type: string, boundary: string, status: number])[] = [
	['multipart/form-data; boundary=x; boundary=y', 'x', 201],
	['multipart/form-data; boundary="x"', 'x', 201],
	['multipart/form-data; boundary="a\\"b"', 'a"b', 201],
	['multipart/form-data; boundary=x y', 'x', 201],
	[`multipart/form-data; boundary=${'x'.repeat(70)}`, 'x'.repeat(70), 201],
	[`multipart/form-data; boundary=${'x'.repeat(10_000)}`, 'x'.repeat(10_000), 201],
	['multipart/form-data; boundary=-', '-', 201],
	['multipart/form-data; boundary=--', '--', 201],
	['multipart/form-data; boundary=', '', 400],
	['multipart/form-data; boundary=""', '', 400],
	['multipart/form-data; boundary', 'x', 400],
	['multipart/form-data; xboundary=x', 'x', 400],
	['multipart/form-data; x="; boundary=y"; boundary=x', 'x', 400],
	['multipart/form-data', 'x', 400],
	['multipart/form-dataX; boundary=x', 'x', 415],
	['multipart/form-data, text/plain; boundary=x', 'x', 415],
	['text/plain; multipart/form-data; boundary=x', 'x', 415],
	['multipart/mixed; boundary=x', 'x', 415],
	['', 'x', 415],
];

describe('hostile HTTP: forms', () => {
	let arena: Arena;
	const asPost = (body: string, more = '') => {
		const bytes = Buffer.from(body, 'latin1');
		return Buffer.concat([Buffer.from(postHead('/f', bytes.length, `Connection: close\r\n${more}`)), bytes]);
	};

	before(async () => {
		arena = await openArena();
	});

	for (const [what, body, status, content] of FORMS) {
		it(`${what}: ${status}`, async () => {
			const whole = status === 201 && !body.includes(END) && !body.endsWith('--') ? body + END : body;
			expect(await arena.attack(asPost(whole))).to.deep.equal([status]);
			const stored = content === undefined ? undefined : readFileSync(join(arena.served.root, 'uploads/f'), 'latin1');
			expect(stored).to.equal(content);
			await arena.assertUnharmed(what);
		});
	}

	for (const [type, boundary, status] of BOUNDARIES) {
		it(`Content-Type: ${type.slice(0, 60)}: ${status}`, async () => {
			const head = asPost(good.replaceAll(BOUNDARY, boundary)).toString('latin1');
			const attack = head.replace(FORM['Content-Type'], type);
			expect(await arena.attack(Buffer.from(attack, 'latin1'))).to.deep.equal([status]);
			await arena.assertUnharmed(type);
		});
	}

	for (const [what, begin, more, status] of [
		['fields', '', field('a', 'b'.repeat(1000)), 400],
		['a field', field('a', '').slice(0, -2), 'b'.repeat(65_536), 413],
		['a file', fileField('').slice(0, -2), 'b'.repeat(65_536), 413],
		['a file that is ignored', fileField('').slice(0, -2).replace('"file"', '"x"'), 'b'.repeat(65_536), 413],
		['a preamble', '', 'b'.repeat(65_536), 413],
		['an epilogue', good, 'b'.repeat(65_536), 413],
		['headers of a part', `--${BOUNDARY}\r\n`, 'X: y\r\n'.repeat(1000), 400],
	] as const) {
		it(`${what} without end, chunked: ${status}, and then cut off`, async () => {
			arena.tried();
			const client = await raw(arena.url, postHead('/endless'));
			const send = (text: string) => client.socket.write(`${text.length.toString(16)}\r\n${text}\r\n`);
			if (begin !== '') send(begin);
			// A turn of the event loop for each: who reads the answer while he sends stops sending.
			const pour = () => {
				if (client.received() !== '' || client.socket.destroyed) return;
				if (client.socket.writableLength < 2 ** 20) send(more);
				setImmediate(pour);
			};
			pour();
			expect(answersIn(await client.all).map((answer) => answer.status)).to.deep.equal([status]);
			await arena.assertUnharmed(what);
		});
	}

	describe('afterwards', () => {
		it('none of it was an error, and memory stayed flat', async () => {
			expect(await arena.close('hostile HTTP, forms')).to.be.below(200);
		});
	});
});
