import { expect } from 'chai';
import { type Arena, chunk, openArena } from '../../support/hostile.ts';
import { FORM, file, form } from '../../support/serve.ts';

const TYPE = `Content-Type: ${FORM['Content-Type']}\r\n`;
const body = form(file('content')).toString('latin1');
const length = body.length;
const hex = length.toString(16);
const CLOSE = 'Connection: close\r\n';

const post = (headers: string, content: string, line = 'POST /f HTTP/1.1') =>
	`${line}\r\nHost: x\r\n${TYPE}${CLOSE}${headers}\r\n${content}`;
const posted = (value: string, content = body) => post(`Content-Length: ${value}\r\n`, content);
const coded = (value: string, content = `${chunk(body)}0\r\n\r\n`) => post(`Transfer-Encoding:${value}\r\n`, content);
const chunked = (content: string) => coded(' chunked', content);
const get = (headers: string, line = 'GET /f HTTP/1.1') => `${line}\r\nHost: x\r\n${CLOSE}${headers}\r\n`;
/** What must never be taken for a request. */
const smuggled = `POST /smuggled HTTP/1.1\r\nHost: x\r\n${TYPE}Content-Length: ${length}\r\n\r\n${body}`;

/** What is sent, as latin1, and the statuses that come back before the connection is closed. */
type Row = readonly (readonly [what: string, bytes: string, ...statuses: number[]])[];

const LENGTHS: Row = [
	[
		'a length and chunked',
		post(`Content-Length: ${length}\r\nTransfer-Encoding: chunked\r\n`, `0\r\n\r\n${smuggled}`),
		400,
	],
	['chunked and a length', post('Transfer-Encoding: chunked\r\nContent-Length: 5\r\n', `0\r\n\r\n${smuggled}`), 400],
	['two lengths', post(`Content-Length: ${length}\r\nContent-Length: 0\r\n`, body), 400],
	['the same length twice', post(`Content-Length: ${length}\r\n`.repeat(2), body), 400],
	['a list of lengths', posted(`${length}, ${length}`), 400],
	['a length with a sign', posted(`+${length}`), 400],
	['a negative length', posted('-1'), 400],
	['a length in hex', posted(`0x${hex}`), 400],
	['a length with an exponent', posted('1e2'), 400],
	['a length with a fraction', posted(`${length}.0`), 400],
	['an empty length', posted(''), 400],
	['a length with a space in it', posted('1 1'), 400],
	['a length of 2^64', posted('18446744073709551616'), 400],
	['a length of a hundred digits', posted('9'.repeat(100)), 400],
	['a length in other digits', posted('\u0661'), 400],
	['a length with zeros before it', posted(`000${length}`), 201],
	['a space before the colon', post(`Content-Length : ${length}\r\n`, body), 400],
	['an underscore in the name', post(`Content_Length: ${length}\r\n`, body), 400],
	['no length at all', post('', body), 400],
	['a length that is too small by one', posted(`${length - 3}`), 400],
	['a length of zero', posted('0'), 400],
	['a second request behind the last', posted(`${length}`, body + smuggled), 201],
	['nonsense behind the last request', posted(`${length}`, `${body}\0\0\0`), 201],
	['a length with GET', get(`Content-Length: ${smuggled.length}\r\n`) + smuggled, 400],
	['chunked with GET', `${get('Transfer-Encoding: chunked\r\n')}0\r\n\r\n${smuggled}`, 400],
	['chunked with HEAD', `${get('Transfer-Encoding: chunked\r\n', 'HEAD /f HTTP/1.1')}0\r\n\r\n${smuggled}`, 400],
];

const CODINGS: Row = [
	['chunked in capitals', coded(' CHUNKED'), 201],
	['chunked behind a tab', coded('\tchunked'), 201],
	['chunked behind a vertical tab', coded(' \vchunked'), 400],
	['chunked behind a no-break space', coded(' \xa0chunked'), 400],
	['chunked in quotes', coded(' "chunked"'), 400],
	['chunked with a parameter', coded(' chunked;q=1'), 400],
	['chunked with a NUL', coded(' chunked\0'), 400],
	['xchunked', coded(' xchunked'), 400],
	['chunke', coded(' chunke'), 400],
	['identity', coded(' identity'), 400],
	['chunked, identity', coded(' chunked, identity'), 400],
	['gzip, chunked', coded(' gzip, chunked'), 400],
	['chunked twice in one', coded(' chunked, chunked'), 400],
	['chunked twice', coded(` chunked\r\nTransfer-Encoding: chunked`), 400],
	['chunked and an empty one', coded(' chunked\r\nTransfer-Encoding: '), 400],
	['an empty one', coded(' '), 400],
	['a space before the colon', post('Transfer-Encoding : chunked\r\n', `${chunk(body)}0\r\n\r\n`), 400],
	['folded', coded('\r\n chunked'), 400],
	['with HTTP/1.0', coded(' chunked').replace('HTTP/1.1', 'HTTP/1.0'), 400],
];

const CHUNKS: Row = [
	['one chunk', chunked(`${chunk(body)}0\r\n\r\n`), 201],
	['a byte a chunk', chunked(`${[...body].map(chunk).join('')}0\r\n\r\n`), 201],
	['capital hex digits and zeros before', chunked(`000${hex.toUpperCase()}\r\n${body}\r\n000\r\n\r\n`), 201],
	['an extension', chunked(`${hex};a=b\r\n${body}\r\n0\r\n\r\n`), 201],
	['an extension with a line feed', chunked(`${hex};a="x\ny"\r\n${body}\r\n0\r\n\r\n`), 400],
	['an extension of 20,000 bytes', chunked(`${hex};${'a'.repeat(20_000)}\r\n${body}\r\n0\r\n\r\n`), 400],
	['a negative size', chunked(`-5\r\n${body}\r\n0\r\n\r\n`), 400],
	['a size with 0x', chunked(`0x${hex}\r\n${body}\r\n0\r\n\r\n`), 400],
	['a size of 2^80', chunked(`${'f'.repeat(20)}\r\n${body}\r\n0\r\n\r\n`), 400],
	['a size of 2^63, and silence', chunked(`7fffffffffffffff\r\n${body}`)],
	['a size that is too small', chunked(`${(length - 3).toString(16)}\r\n${body}\r\n0\r\n\r\n`), 400],
	['a size that is too large', chunked(`${(length + 3).toString(16)}\r\n${body}\r\n0\r\n\r\n`), 400],
	['no size', chunked(`\r\n${body}\r\n0\r\n\r\n`), 400],
	['a space before the size', chunked(` ${hex}\r\n${body}\r\n0\r\n\r\n`), 400],
	['a space behind the size', chunked(`${hex} \r\n${body}\r\n0\r\n\r\n`), 400],
	['line feeds alone', chunked(`${hex}\n${body}\n0\n\n`), 400],
	['no line break behind the data', chunked(`${hex}\r\n${body}0\r\n\r\n`), 400],
	['a last chunk that is missing, and silence', chunked(chunk(body))],
	['a length among the trailers', chunked(`${chunk(body)}0\r\nContent-Length: 5\r\n\r\n`), 400],
	['other trailers', chunked(`${chunk(body)}0\r\nX: y\r\n\r\n`), 201],
	['trailers without end', chunked(`${chunk(body)}0\r\n${`X: ${'y'.repeat(1000)}\r\n`.repeat(20)}\r\n`), 431],
];

const HEADERS: Row = [
	['bare line feeds', posted(`${length}`).replaceAll('\r\n', '\n'), 400],
	['one bare line feed', post(`X: y\nContent-Length: ${length}\r\n`, body), 400],
	['a bare carriage return', post(`X: y\rContent-Length: 3\r\nContent-Length: ${length}\r\n`, body), 400],
	['a carriage return in the request line', post(`Content-Length: ${length}\r\n`, body, 'POST /f\r HTTP/1.1'), 400],
	['headers that end with a line feed', `${post(`Content-Length: ${length}\r\n`, '').slice(0, -2)}\n${body}`, 400],
	['a folded header', post(`X: a\r\n b\r\nContent-Length: ${length}\r\n`, body), 400],
	['a length in a folded header', post(`X: a\r\n Content-Length: 0\r\nContent-Length: ${length}\r\n`, body), 400],
	['a NUL in a header', post(`X: a\0b\r\nContent-Length: ${length}\r\n`, body), 400],
	['a NUL in the target', get('', 'GET /a\0b HTTP/1.1'), 400],
	['a header without a colon', get('nonsense\r\n'), 400],
	['a header without a name', get(': y\r\n'), 400],
	['a space before the first header', get('', 'GET /f HTTP/1.1\r\n X: y'), 400],
	['no Host', `GET /f HTTP/1.1\r\n${CLOSE}\r\n`, 400],
	['two Hosts', get('Host: y\r\n'), 400],
	['the same Host twice', get('Host: x\r\n'), 400],
	['no Host with HTTP/1.0', `GET /f HTTP/1.0\r\n\r\n`, 200],
	['an unknown Expect', post(`Expect: 200-ok\r\nContent-Length: ${length}\r\n`, body), 417],
	['a header of 20,000 bytes', get(`X: ${'x'.repeat(20_000)}\r\n`), 431],
	['a header name of 20,000 bytes', get(`${'x'.repeat(20_000)}: y\r\n`), 431],
	['a million headers', get('X: y\r\n'.repeat(1_000_000)), 431],
	['a target of 20,000 bytes', get('', `GET /${'a/'.repeat(10_000)} HTTP/1.1`), 431],
	['a target of 15,000 bytes', get('', `GET /${'a/'.repeat(7_500)} HTTP/1.1`), 400],
	['a query of 15,000 bytes', get('', `GET /f?${'a&'.repeat(7_500)} HTTP/1.1`), 200],
];

const PROTOCOLS: Row = [
	['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
	['HTTP/1.2', get('', 'GET /f HTTP/1.2'), 400],
	['HTTP/9.9', get('', 'GET /f HTTP/9.9'), 400],
	['http/1.1', get('', 'GET /f http/1.1'), 400],
	['get', get('', 'get /f HTTP/1.1'), 400],
	['a method that nobody knows', get('', 'STORE /f HTTP/1.1'), 400],
	['a tab behind the method', get('', 'GET\t/f HTTP/1.1'), 400],
	['a greeting of TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
	['a greeting of SSH', 'SSH-2.0-OpenSSH_9.2\r\n', 400],
	['zeros', '\0'.repeat(70_000), 400],
	['CONNECT', get('', 'CONNECT x:1 HTTP/1.1'), 405],
	['an upgrade', get('Upgrade: websocket\r\n').replace(CLOSE, 'Connection: close, Upgrade\r\n'), 200],
	['an upgrade of a POST', posted(`${length}`).replace(CLOSE, 'Connection: close, Upgrade\r\nUpgrade: h2c\r\n'), 201],
	...['PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'PROPFIND', 'PURGE', 'SUBSCRIBE'].map(
		(method) => [method, get('', `${method} /f HTTP/1.1`), 405] as const,
	),
	['OPTIONS *', get('', 'OPTIONS * HTTP/1.1'), 405],
];

describe('hostile HTTP: framing', () => {
	let arena: Arena;

	before(async () => {
		arena = await openArena();
		expect(await arena.attack(posted(`${length}`))).to.deep.equal([201]);
	});

	for (const [theme, rows] of Object.entries({ LENGTHS, CODINGS, CHUNKS, HEADERS, PROTOCOLS })) {
		describe(theme.toLowerCase(), () => {
			for (const [what, bytes, ...statuses] of rows) {
				it(`${what}: ${statuses.join() || 'cut off'}`, async () => {
					expect(await arena.attack(Buffer.from(bytes, 'latin1'))).to.deep.equal(statuses);
					await arena.assertUnharmed(what);
				});
			}
		});
	}

	describe('afterwards', () => {
		it('none of it was an error, and memory stayed flat', async () => {
			expect(await arena.close('hostile HTTP, framing')).to.be.below(200);
		});
	});
});
