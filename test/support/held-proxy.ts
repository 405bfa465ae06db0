/** Stands between Varnish and nginx: has nginx's whole answer at once, and passes it on when the test wants. */

import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, request } from 'node:http';
import type { AddressInfo } from 'node:net';

interface Answered {
	readonly status: number;
	readonly headers: IncomingHttpHeaders;
	readonly body: Buffer;
}

export class HeldProxy {
	/** Asked before an answer goes on; changes it by returning another. */
	hold: (answer: Answered, target: string) => Promise<Answered> = async (answer) => answer;
	readonly #server = createServer((incoming, outgoing) => {
		const target = incoming.url ?? '';
		const { method = 'GET', headers } = incoming;
		this.#ask(method, target, headers)
			.then((answer) => this.hold(answer, target))
			.then(({ status, headers: answered, body }) => {
				outgoing.writeHead(status, answered);
				outgoing.end(method === 'HEAD' ? undefined : body);
			})
			.catch(() => incoming.socket.destroy());
	});
	#upstream = 0;

	/** @param upstream port of nginx @returns the port to ask instead */
	async listen(upstream: number): Promise<number> {
		this.#upstream = upstream;
		this.#server.listen(0, '127.0.0.1');
		await once(this.#server, 'listening');
		return (this.#server.address() as AddressInfo).port;
	}

	async #ask(method: string, path: string, headers: IncomingHttpHeaders): Promise<Answered> {
		return new Promise((resolve, reject) => {
			const options = { host: '127.0.0.1', port: this.#upstream, method, path, headers, agent: false };
			const asked = request(options, (response) => {
				const chunks: Buffer[] = [];
				response.on('data', (chunk: Buffer) => chunks.push(chunk));
				response.on('error', reject);
				response.on('end', () => {
					const { connection, 'keep-alive': _, ...kept } = response.headers;
					resolve({ status: response.statusCode ?? 0, headers: kept, body: Buffer.concat(chunks) });
				});
			});
			asked.on('error', reject);
			asked.end();
		});
	}

	async stop(): Promise<void> {
		this.#server.closeAllConnections();
		await new Promise((resolve) => this.#server.close(resolve));
	}
}
