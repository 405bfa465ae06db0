import { expect } from 'chai';
import fc from 'fast-check';
import { boundaryOf, FormPieces, type Piece } from '../../src/http/form-pieces.ts';

/** The pieces of `body` when it comes in chunks of these sizes, neighbours without a delimiter joined; 'refused' when it throws. */
function cut(body: Buffer, sizes: readonly number[]): string[] | 'refused' {
	const form = new FormPieces('b');
	const pieces: Piece[] = [];
	try {
		for (let at = 0, turn = 0; at < body.length; turn++) {
			const chunk = body.subarray(at, at + (sizes[turn % sizes.length] ?? 1));
			pieces.push(...form.accept(chunk));
			at += chunk.length;
		}
	} catch {
		return 'refused';
	}
	const joined: string[] = [];
	let open = false;
	for (const { isDelimiter, bytes } of pieces) {
		expect(bytes.length).to.be.above(0);
		if (open && !isDelimiter) joined.push(`${joined.pop() ?? ''}${bytes.toString()}`);
		else joined.push(bytes.toString());
		open = !isDelimiter;
	}
	return joined;
}

describe('the pieces of a form', () => {
	for (const [body, expected] of [
		['--b\r\nx\r\n--b--\r\n', ['--b', '\r\nx', '\r\n--b--']],
		['--b--', ['--b--']],
		['--b--\r\n--b\r\nmore', ['--b--']],
		['--b\r\nx\r\n--b\r\ny\r\n--b--', ['--b', '\r\nx', '\r\n--b', '\r\ny', '\r\n--b--']],
		['--b\r\n--b\r\n--b--', ['--b', '\r\n--b', '\r\n--b--']],
		['--b\r\nx\r\n--b', ['--b', '\r\nx']],
		['--b\r\nx\r', ['--b', '\r\nx']],
		['--b\r\nx\r\r\n-b', ['--b', '\r\nx\r\r\n-b']],
		['preamble\r\n--b--', ['preamble', '\r\n--b--']],
		['\r\n--b--', ['\r\n--b--']],
		['\r', []],
		['--bxx', 'refused'],
		['--b\r\nx\r\n--b -', 'refused'],
		['--b\r\nx--bx', ['--b', '\r\nx--bx']],
	] as const) {
		it(`${JSON.stringify(body)}: ${JSON.stringify(expected)}, in whatever chunks it comes`, () => {
			for (let size = 1; size <= body.length; size++) {
				expect(cut(Buffer.from(body), [size]), `chunks of ${size}`).to.deep.equal(expected);
			}
		});
	}

	it('are the same of any body in any chunks', () => {
		const bits = fc.constantFrom('\r\n--b', '\r\n', '--', '-', 'b', 'x', '\r', '\n--b');
		const sizes = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 8 });
		fc.assert(
			fc.property(fc.array(bits, { maxLength: 20 }), sizes, (parts, chunks) => {
				const body = Buffer.from(`--b\r\n${parts.join('')}`);
				const whole = cut(body, [body.length]);
				expect(cut(body, chunks)).to.deep.equal(whole);
				if (whole !== 'refused') expect(body.toString().startsWith(whole.join(''))).to.equal(true);
			}),
			{ numRuns: 2000 },
		);
	});

	it('begin with the boundary that RFC 2046 lets a header name', () => {
		for (const [type, boundary] of [
			['multipart/form-data; boundary=abc', 'abc'],
			['multipart/form-data;BOUNDARY=abc; charset=utf-8', 'abc'],
			['multipart/form-data; charset=utf-8; boundary="a b\\"c"', 'a b"c'],
			['multipart/form-data; boundary=""', undefined],
			['multipart/form-data', undefined],
		] as const) {
			expect(boundaryOf(type)).to.equal(boundary);
		}
	});
});
