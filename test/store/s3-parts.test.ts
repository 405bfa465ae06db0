import { expect } from 'chai';
import { planParts } from '../../src/store/s3-multipart.js';
import { MEBIBYTE } from './sources.js';

describe('cutting an object into parts', () => {
	const TEBIBYTE = 2 ** 40;
	for (const size of [1, 5 * MEBIBYTE, 80_000 * MEBIBYTE, 80_000 * MEBIBYTE + 1, TEBIBYTE, 5 * TEBIBYTE]) {
		for (const wanted of [5 * MEBIBYTE, 8 * MEBIBYTE, 64 * MEBIBYTE, 100 * MEBIBYTE]) {
			it(`keeps to S3's limits and to its memory: ${size} bytes, parts of ${wanted}`, () => {
				const { partSize, parts, parallel } = planParts(size, wanted);
				expect(partSize).to.be.at.least(wanted);
				expect(parts).to.be.within(1, 10_000);
				expect(parts * partSize).to.be.at.least(size);
				expect((parts - 1) * partSize).to.be.lessThan(size);
				expect(parallel).to.be.within(1, 6);
				if (parallel > 1) expect(parallel * partSize).to.be.at.most(64 * MEBIBYTE);
			});
		}
	}
});
