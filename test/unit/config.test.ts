import { expect } from 'chai';
import { type Config, parseConfig } from '../../src/config.js';
import { S3proxyError } from '../../src/errors.js';

const parse = (text: string) => parseConfig(text, '/root/config.yaml', '/root');

function refusal(text: string): S3proxyError {
	try {
		parse(text);
	} catch (error) {
		if (error instanceof S3proxyError) return error;
		throw error;
	}
	throw new Error(`accepted: ${text}`);
}

const DEFAULTS: Config = {
	encryption: true,
	store: { kind: 'directory', directory: '/root/bucket' },
	acceptPlain: false,
	overwrite: true,
	maxUploadSize: 2 ** 40,
	fsync: true,
	jobs: undefined,
	lockTimeout: 60,
	log: 'text',
	listen: '127.0.0.1:9292',
	clientTimeout: 60,
	auth: undefined,
	varnish: undefined,
	s3: {
		region: undefined,
		endpoint: undefined,
		forcePathStyle: false,
		checksums: 'when_required',
		partSize: 8 * 2 ** 20,
		timeout: 30,
		attempts: 4,
	},
};

describe('config.yaml', () => {
	it('has a default for every key', () => {
		for (const text of ['', '# nothing\n', 'encryption: true\nstore: file:bucket\n', 's3:\n', 'jobs:\nlisten: ~\n']) {
			expect(parse(text), JSON.stringify(text)).to.deep.equal(DEFAULTS);
		}
	});

	const KEYS: [string, Partial<Config>][] = [
		['encryption: false', { encryption: false }],
		['accept_plain: true', { acceptPlain: true }],
		['overwrite: false', { overwrite: false }],
		['fsync: false', { fsync: false }],
		['jobs: 1', { jobs: 1 }],
		['jobs: 256', { jobs: 256 }],
		['lock_timeout: 0', { lockTimeout: 0 }],
		['lock_timeout: 0.5', { lockTimeout: 0.5 }],
		['lock_timeout: 86400', { lockTimeout: 86_400 }],
		['log: json', { log: 'json' }],
		['auth: auth', { auth: '/root/auth' }],
		['auth: /etc/s3proxy/auth', { auth: '/etc/s3proxy/auth' }],
		['listen: 0.0.0.0:80', { listen: '0.0.0.0:80' }],
		['listen: "[::1]:9292"', { listen: '[::1]:9292' }],
		['listen: localhost:1', { listen: 'localhost:1' }],
		['listen: /run/s3proxy.sock', { listen: '/run/s3proxy.sock' }],
		['client_timeout: 1', { clientTimeout: 1 }],
		['varnish: http://127.0.0.1:80', { varnish: 'http://127.0.0.1:80' }],
		['varnish: "http://[::1]:6081/"', { varnish: 'http://[::1]:6081/' }],
		['varnish: http://cache.example', { varnish: 'http://cache.example' }],
		['store: file:/var/bucket', { store: { kind: 'directory', directory: '/var/bucket' } }],
		['store: file:///var/bucket', { store: { kind: 'directory', directory: '/var/bucket' } }],
		['store: file:a/b/', { store: { kind: 'directory', directory: '/root/a/b' } }],
		['store: s3://bucket', { store: { kind: 's3', bucket: 'bucket' } }],
		['store: s3://my.bucket-1/', { store: { kind: 's3', bucket: 'my.bucket-1' } }],
		['max_upload_size: 1', { maxUploadSize: 1 }],
		['max_upload_size: 65536', { maxUploadSize: 65_536 }],
		['max_upload_size: 64K', { maxUploadSize: 65_536 }],
		['max_upload_size: 64KB', { maxUploadSize: 65_536 }],
		['max_upload_size: 64KiB', { maxUploadSize: 65_536 }],
		['max_upload_size: 1.5 GiB', { maxUploadSize: 1.5 * 2 ** 30 }],
		['max_upload_size: 2t', { maxUploadSize: 2 * 2 ** 40 }],
		['max_upload_size: "100"', { maxUploadSize: 100 }],
		['max_upload_size: 100B', { maxUploadSize: 100 }],
		['s3: {region: eu-central-1}', { s3: { ...DEFAULTS.s3, region: 'eu-central-1' } }],
		['s3: {endpoint: "http://127.0.0.1:7480"}', { s3: { ...DEFAULTS.s3, endpoint: 'http://127.0.0.1:7480' } }],
		['s3: {force_path_style: true}', { s3: { ...DEFAULTS.s3, forcePathStyle: true } }],
		['s3: {checksums: when_supported}', { s3: { ...DEFAULTS.s3, checksums: 'when_supported' } }],
		['s3: {part_size: 5MiB}', { s3: { ...DEFAULTS.s3, partSize: 5 * 2 ** 20 } }],
		['s3: {timeout: 1}', { s3: { ...DEFAULTS.s3, timeout: 1 } }],
		['s3: {attempts: 20}', { s3: { ...DEFAULTS.s3, attempts: 20 } }],
	];
	for (const [text, expected] of KEYS) {
		it(`takes ${text}`, () => {
			expect(parse(text)).to.deep.equal({ ...DEFAULTS, ...expected });
		});
	}

	const REFUSED: [string, number, RegExp][] = [
		['encryption: "true"', 1, /encryption must be true or false, not "true"/],
		['encryption: yes', 1, /encryption must be true or false, not "yes"/],
		['encryption: 1', 1, /encryption must be true or false, not 1/],
		['encryption: [true]', 1, /not "a list or mapping"/],
		['\n\nstore: bucket', 3, /store must be file:DIRECTORY or s3:\/\/BUCKET, not "bucket"/],
		['store: "file:"', 1, /store must be/],
		['store: s3://', 1, /store must be/],
		['store: s3://Bucket', 1, /store must be/],
		['store: s3://bucket/prefix', 1, /store must be/],
		['store: s3://ab', 1, /store must be/],
		['jobs: 0', 1, /jobs must be a whole number from 1 to 256, not 0/],
		['jobs: 257', 1, /jobs/],
		['jobs: 1.5', 1, /jobs/],
		['jobs: many', 1, /jobs/],
		['lock_timeout: -1', 1, /lock_timeout must be seconds from 0 to 86400, not -1/],
		['lock_timeout: 86401', 1, /lock_timeout/],
		['lock_timeout: 60s', 1, /lock_timeout/],
		['lock_timeout: .inf', 1, /lock_timeout/],
		['lock_timeout: .nan', 1, /lock_timeout/],
		['client_timeout: 0', 1, /client_timeout/],
		['log: xml', 1, /log must be one of text, json, not "xml"/],
		['listen: 9292', 1, /listen must be ADDRESS:PORT/],
		['listen: localhost', 1, /listen must be/],
		['listen: "::1:9292"', 1, /listen must be/],
		['max_upload_size: 0', 1, /max_upload_size must be a size of at least 1 bytes/],
		['max_upload_size: -1', 1, /max_upload_size/],
		['max_upload_size: 1.5', 1, /max_upload_size/],
		['max_upload_size: 10 parsecs', 1, /max_upload_size/],
		['max_upload_size: 99999T', 1, /max_upload_size/],
		['s3:\n  part_size: 5242879', 2, /s3\.part_size must be a size of at least 5242880 bytes/],
		['s3:\n  attempts: 0', 2, /s3\.attempts/],
		['s3:\n  timeout: 0.5', 2, /s3\.timeout/],
		['s3:\n\n  endpoint: s3.example.org', 3, /s3\.endpoint must be a URL/],
		['s3:\n  region: 5', 2, /s3\.region/],
		['s3:\n  region: ""', 2, /s3\.region/],
		['s3: true', 1, /s3 must be a mapping/],
		[
			'encryption: true\nencrypt: true',
			2,
			/unknown key encrypt; known are accept_plain, auth, client_timeout, encryption/,
		],
		['s3:\n  region: x\n  acces_key: y', 3, /unknown key s3\.acces_key; known are attempts/],
		['1: 2', 1, /unknown key 1/],
		['? [a]\n: b', 1, /unknown key/],
		['- encryption', 1, /must be a mapping/],
		['just text', 1, /must be a mapping/],
		['encryption: true\nencryption: false', 2, /not valid YAML/],
		['store: "unclosed', 1, /not valid YAML/],
		['a:\n\t- b', 2, /not valid YAML/],
	];
	for (const [text, line, why] of REFUSED) {
		it(`refuses ${JSON.stringify(text)}, and names the key and line ${line}`, () => {
			const error = refusal(text);
			expect(error.code).to.equal('bad-config');
			expect(error.message).to.match(why);
			expect(error.message).to.match(new RegExp(`^/root/config\\.yaml, line ${line}: `));
			expect(error.hint).to.be.a('string');
		});
	}
});
