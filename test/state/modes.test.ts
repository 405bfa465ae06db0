import { rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { makeRoot, shell } from '../support/cli.ts';
import { LONG } from '../support/extent.ts';

describe('modes', () => {
	for (const umask of LONG ? ['000', '022', '027', '077'] : ['077']) {
		it(`umask ${umask}: nginx's user can read what ingest and fetch publish, and nobody the keys`, async () => {
			const root = makeRoot();
			const modes = () =>
				['uploads', 'uploads/a', 'uploads/a/b', 'uploads/a/b/f', 'uploads/a/g'].map((name) =>
					(statSync(join(root, name)).mode & 0o777).toString(8),
				);
			const readable = ['755', '755', '755', '644', '644'];
			const script = `umask ${umask} && echo x | $RUN ingest - a/b/f && touch g && $RUN ingest --move g a/g`;
			expect((await shell(root, `cd "$S3PROXY_ROOT" && ${script}`)).code).to.equal(0);
			expect(modes()).to.deep.equal(readable);
			expect((await shell(root, `umask ${umask} && $RUN encrypt && $RUN upload`)).code).to.equal(0);
			rmSync(join(root, 'uploads'), { recursive: true });
			expect((await shell(root, `umask ${umask} && $RUN fetch a/b/f a/g && $RUN rotate-key`)).code).to.equal(0);
			expect(modes()).to.deep.equal(readable);
			expect(statSync(join(root, 'keys/latest')).mode & 0o077).to.equal(0);
		});
	}
});
