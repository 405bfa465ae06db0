import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect } from 'chai';
import { makeDirectory, makeRoot, s3proxy } from '../support/cli.ts';
import { needs } from '../support/needs.ts';

/** A certificate that no authority knows, for `localhost`, made by openssl. */
function selfSigned(): { key: Buffer; cert: Buffer; certFile: string } {
	const directory = makeDirectory();
	const [keyFile, certFile] = [join(directory, 'key.pem'), join(directory, 'cert.pem')];
	const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
	const files = ['-keyout', keyFile, '-out', certFile];
	execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', ...names, ...files], {
		stdio: 'ignore',
	});
	return { key: readFileSync(keyFile), cert: readFileSync(certFile), certFile };
}

describe('an S3 endpoint whose certificate is not trusted', () => {
	it('is refused with exit code 6 and a word on NODE_EXTRA_CA_CERTS, with which it is trusted', async function () {
		needs(this, existsSync('/usr/bin/openssl'), 'openssl');
		const { key, cert, certFile } = selfSigned();
		let requests = 0;
		const server = createServer({ key, cert }, (_request, response) => {
			requests++;
			response.writeHead(404).end();
		}).listen(0, 'localhost');
		await once(server, 'listening');
		const { port } = server.address() as AddressInfo;
		const s3 = `s3: {region: x, endpoint: "https://localhost:${port}", force_path_style: true}`;
		const root = makeRoot({ config: `encryption: true\nstore: s3://bucket\n${s3}\n` });
		const env = { AWS_ACCESS_KEY_ID: 'x', AWS_SECRET_ACCESS_KEY: 'x' };
		try {
			const refused = await s3proxy(root, ['fetch', 'a'], { env });
			expect(refused.code, refused.stderr).to.equal(6);
			expect(refused.stderr).to.contain(`https://localhost:${port}`).and.contain('NODE_EXTRA_CA_CERTS');
			expect(requests, 'nothing was said to it').to.equal(0);
			const trusted = await s3proxy(root, ['fetch', 'a'], { env: { ...env, NODE_EXTRA_CA_CERTS: certFile } });
			expect(trusted.stderr).not.to.contain('certificate');
			expect(requests).to.be.above(0);
		} finally {
			server.close();
		}
	});
});
