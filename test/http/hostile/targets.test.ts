import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { type Arena, openArena } from '../../support/hostile.ts';
import { FORM, file, form } from '../../support/serve.ts';

const body = form(file('written by an attacker'));

/** Ways out of a directory, of which none is a path: 400 for every method. */
const UP = ['..', '%2e%2e', '%2E%2e', '.%2e', '%2e.'];
const REFUSED = [
	...UP.flatMap((up) => [`/${up}`, `/${up}/secret`, `/a/${up}/${up}/secret`, `/a/b/${up}`, `//${up}//secret`]),
	'/%2e',
	'/a/./b',
	'/..%2fsecret',
	'/%2e%2e%2fsecret',
	'/..%5csecret',
	'/..\\secret',
	'/a%2fb',
	'/%2fetc%2fpasswd',
	'/C:\\secret',
	'/a%00',
	'/secret%00.txt',
	'/%00',
	'/a%0d%0aX:y',
	'/a%0aSet-Cookie:x',
	'/a%1b[2J',
	'/a%7f',
	'/a%08',
	'/a%c2%80%ff',
	'/%c0%ae%c0%ae/secret',
	'/%c0%af',
	'/%e0%80%ae/secret',
	'/%f0%80%80%ae/secret',
	'/%f8%80%80%80%ae',
	'/%ed%a0%80',
	'/%f4%90%80%80',
	'/%80',
	'/\xff',
	'/%',
	'/%2',
	'/%zz',
	'/%u002e%u002e/secret',
	'/a%%32%65',
	'/.s3proxy-x',
	'/a/.s3proxy-x/b',
	'/%2es3proxy-x',
	'/.s3proxy-health/x',
	'/a-iv',
	'/a%2div',
	'/a/-iv',
	`/${'x'.repeat(251)}`,
	`/${'%C3%A9'.repeat(126)}`,
	`/${'x/'.repeat(491)}`,
	'/',
	'//',
	'/?',
	'/?/../secret',
	'*',
	'http://x',
	'http://x/',
	'http://x/../secret',
	'http://x/%2e%2e/secret',
	'file:///etc/passwd',
	'ftp://x/secret',
	'x:y',
];

/** Targets that look like a way out and are the name of an artifact below `uploads/`. */
const NAMES: readonly (readonly [target: string, path: string])[] = [
	['/...', '...'],
	['/..a/secret', '..a/secret'],
	['/a../secret', 'a../secret'],
	['/%252e%252e/secret', '%2e%2e/secret'],
	['/%25%32%65', '%2e'],
	['/b%252fc', 'b%2fc'],
	['/~root/.ssh/authorized_keys', '~root/.ssh/authorized_keys'],
	['/$HOME', '$HOME'],
	['/;id', ';id'],
	['/%60id%60', '`id`'],
	['/-rf', '-rf'],
	['/keys/private_key', 'keys/private_key'],
	['/config.yaml', 'config.yaml'],
	['/etc/passwd', 'etc/passwd'],
	['/__proto__/polluted', '__proto__/polluted'],
	['/a?x=/../../secret', 'a'],
	['/c;/..;/secret', 'c;/..;/secret'],
	['/%EF%BC%8E%EF%BC%8E/secret', '\uff0e\uff0e/secret'],
	['/%E2%80%AE/secret', '\u202e/secret'],
	['http://x@y:1/absolute', 'absolute'],
	['http://x//d', 'd'],
];

describe('hostile HTTP: targets', () => {
	let arena: Arena;
	const request = (method: string, target: string) => {
		const head = `${method} ${target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n`;
		if (method !== 'POST') return Buffer.from(`${head}\r\n`, 'latin1');
		const form = `Content-Type: ${FORM['Content-Type']}\r\nContent-Length: ${body.length}\r\n\r\n`;
		return Buffer.concat([Buffer.from(head + form, 'latin1'), body]);
	};

	before(async () => {
		arena = await openArena();
	});

	for (const target of REFUSED) {
		it(`${JSON.stringify(target.slice(0, 60))}: 400 for POST, GET and HEAD`, async () => {
			for (const method of ['POST', 'GET', 'HEAD']) {
				expect(await arena.attack(request(method, target)), method).to.deep.equal([400]);
			}
			await arena.assertUnharmed(target);
		});
	}

	for (const [target, path] of NAMES) {
		it(`${target} is below uploads/: ${JSON.stringify(path)}`, async () => {
			expect(await arena.attack(request('POST', target))).to.deep.equal([201]);
			expect(existsSync(join(arena.served.root, 'uploads', path))).to.equal(true);
			expect(await arena.attack(request('GET', target))).to.deep.equal([200]);
			await arena.assertUnharmed(target);
		});
	}

	describe('afterwards', () => {
		it('none of it was an error, and memory stayed flat', async () => {
			expect(await arena.close('hostile HTTP, targets')).to.be.below(200);
		});
	});
});
