import { expect } from 'chai';
import fc from 'fast-check';
import { BoundaryGuard, boundaryOf } from '../../src/http/boundary-guard.ts';

/** How many bytes of `body` a guard lets through when it comes in pieces of these sizes; 'refused' when it throws. */
function accepted(body: Buffer, sizes: readonly number[]): number | 'refused' {
	const guard = new BoundaryGuard('b');
	let total = 0;
	try {
		for (let at = 0, turn = 0; at < body.length; turn++) {
			const piece = body.subarray(at, at + (sizes[turn % sizes.length] ?? 1));
			total += guard.accept(piece);
			at += piece.length;
		}
	} catch {
		return 'refused';
	}
	return total;
}

describe('the boundary guard', () => {
	for (const [body, expected] of [
		['--b\r\nx\r\n--b--\r\n', 13],
		['--b--', 5],
		['--b--\r\n--b\r\nmore', 5],
		['--b\r\nx\r\n--b\r\ny\r\n--b--', 21],
		['--b\r\nx\r\n--b', 11],
		['preamble\r\n--b--', 15],
		['--bxx', 'refused'],
		['--b\r\nx\r\n--b -', 'refused'],
		['--b\r\nx--bx', 10],
	] as const) {
		it(`${JSON.stringify(body)}: ${expected}, in whatever pieces it comes`, () => {
			for (let size = 1; size <= body.length; size++) expect(accepted(Buffer.from(body), [size])).to.equal(expected);
		});
	}

	it('decides the same of any body in any pieces', () => {
		const bits = fc.constantFrom('\r\n--b', '\r\n', '--', '-', 'b', 'x', '\r', '\n--b');
		const sizes = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 8 });
		fc.assert(
			fc.property(fc.array(bits, { maxLength: 20 }), sizes, (parts, pieces) => {
				const body = Buffer.from(`--b\r\n${parts.join('')}`);
				expect(accepted(body, pieces)).to.equal(accepted(body, [body.length]));
			}),
			{ numRuns: 2000 },
		);
	});

	it('finds the boundary where RFC 2046 lets it be', () => {
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
