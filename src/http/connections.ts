/**
 * Requests of one connection take turns, in the order in which they came: a client that sends a `GET` behind its `POST`
 * without waiting (pipelining) is answered what it stored, and one connection keeps one request at work.
 */

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Requests of one connection that are not answered yet. Each costs memory; clients that pipeline send some ten. */
const MOST_WAITING = 64;

interface Request {
	readonly request: IncomingMessage;
	readonly response: ServerResponse;
}

interface Queue {
	/** The first is worked on, the others wait. */
	readonly requests: Request[];
	/** Settles with the last of them. */
	last: Promise<void>;
	/** Nothing that comes behind the last one is taken. */
	ending: boolean;
}

export class Connections {
	readonly #queues = new WeakMap<Socket, Queue>();

	/**
	 * Does `work` when the earlier requests of its connection are done with; not at all when the connection has gone by then.
	 * @param work never rejects
	 * @returns undefined when it is not taken, because too many wait: the connection ends behind the last of them
	 */
	inTurn(request: IncomingMessage, response: ServerResponse, work: () => Promise<void>): Promise<void> | undefined {
		const { socket } = request;
		const queue = this.#queues.get(socket) ?? { requests: [], last: Promise.resolve(), ending: false };
		this.#queues.set(socket, queue);
		if (queue.requests.length >= MOST_WAITING) this.#endBehindLast(queue, socket);
		if (queue.ending) {
			// Or it would go on to fill the memory with requests that nobody answers.
			socket.pause();
			return undefined;
		}
		queue.requests.push({ request, response });
		queue.last = queue.last.then(async () => {
			if (!socket.destroyed) await work();
			queue.requests.shift();
			if (queue.requests.length === 0) this.#queues.delete(socket);
		});
		return queue.last;
	}

	/**
	 * What is to become of a connection on which something came that is no HTTP.
	 * @returns `answer`: nothing else is to be said on it; `leave`: it ends behind an answer that is due, which the nonsense
	 *   says nothing of; `cut`: nothing can be said any more
	 */
	afterNonsense(socket: Socket): 'answer' | 'leave' | 'cut' {
		const queue = this.#queues.get(socket);
		const last = queue?.requests.at(-1);
		if (queue === undefined || last === undefined) return 'answer';
		if (queue.ending) return 'leave';
		if (last.request.complete) {
			this.#endBehindLast(queue, socket);
			return 'leave';
		}
		// It is in the body of the last request.
		return queue.requests.length > 1 || last.response.headersSent ? 'cut' : 'answer';
	}

	#endBehindLast(queue: Queue, socket: Socket): void {
		if (queue.ending) return;
		queue.ending = true;
		const response = queue.requests.at(-1)?.response;
		if (response?.headersSent === false) response.setHeader('Connection', 'close');
		void queue.last.then(() => socket.destroySoon());
	}
}
