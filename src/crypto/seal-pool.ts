/** Seals whole files off the main thread, on as many processors as it is allowed. */

import { Buffer } from 'node:buffer';
import { Worker } from 'node:worker_threads';
import { type ErrorDetails, S3proxyError } from '../errors.js';
import { FormatError } from './format.js';
import type { WorkerAnswer, WorkerFailure, WorkerJob } from './seal-worker.js';

const WORKER_URL = new URL('./seal-worker.js', import.meta.url);

/** One file to seal. The caller opens both descriptors, and closes them when the job's promise has settled, not before. */
export interface SealJob {
	/** Read from its first byte on; the descriptor's own position does not matter and does not change. */
	readonly sourceFd: number;
	/** An empty file; written from its first byte on. After an error it holds rubbish. */
	readonly targetFd: number;
	/** The bytes that the source has. */
	readonly size: number;
	/** The key file, byte for byte. */
	readonly material: Buffer;
	/** The artifact path that the object is bound to. */
	readonly path: string;
	/** Whether to fsync the target at the end. */
	readonly fsync: boolean;
}

export interface SealResult {
	/** The IV in the header of the object, 12 bytes: what belongs in the sidecar. */
	readonly iv: Buffer;
	/** Bytes that were written. */
	readonly sealedSize: number;
}

/** A job in the queue or at work. */
interface Task {
	readonly job: SealJob;
	readonly resolve: (result: SealResult) => void;
	readonly reject: (error: unknown) => void;
}

/** A worker, the task it is at, and what killed it. */
interface Lane {
	readonly worker: Worker;
	task: Task | undefined;
	death: unknown;
}

/**
 * Seals files on up to `workers` threads. Threads start when there is work that no idle one can take, stay for the next
 * job, and do not keep the process alive while they are idle. Memory is that of a few segments per thread.
 */
export class SealPool {
	readonly #limit: number;
	readonly #lanes = new Set<Lane>();
	readonly #idle: Lane[] = [];
	readonly #queue: Task[] = [];
	#isClosed = false;

	/** @throws {RangeError} when `workers` is not a whole number from 1 on. */
	constructor(workers: number) {
		if (!Number.isInteger(workers) || workers < 1) throw new RangeError(`not a number of workers: ${workers}`);
		this.#limit = workers;
	}

	/**
	 * Seals one file into another. Once the promise has settled, no thread touches the descriptors any more.
	 *
	 * Rejects with FormatError ERR_PATH, ERR_KEY, or ERR_SOURCE when the source has more or fewer than `size` bytes; with
	 * S3proxyError `stopping` after `close()`, `io` when the thread died; and with Node.js system errors as they are.
	 */
	sealFile(job: SealJob): Promise<SealResult> {
		if (this.#isClosed) return Promise.reject(stopped(job));
		return new Promise((resolve, reject) => {
			this.#queue.push({ job, resolve, reject });
			this.#dispatch();
		});
	}

	/** Stops at once: jobs that wait or are at work fail with `stopping`. Resolves when all threads have ended. */
	async close(): Promise<void> {
		this.#isClosed = true;
		for (const { job, reject } of this.#queue.splice(0)) reject(stopped(job));
		await Promise.all([...this.#lanes].map(({ worker }) => worker.terminate()));
	}

	/** Hands out what waits, as far as there are lanes. */
	#dispatch(): void {
		while (this.#queue.length > 0) {
			const lane = this.#idle.pop() ?? this.#startLane();
			if (lane === undefined) return;
			const task = this.#queue.shift();
			if (task !== undefined) assign(lane, task);
		}
	}

	/** Starts one more lane; undefined when there are as many as allowed, or as the system allows. */
	#startLane(): Lane | undefined {
		if (this.#lanes.size >= this.#limit) return undefined;
		const worker = this.#startWorker();
		if (worker === undefined) return undefined;
		const lane: Lane = { worker, task: undefined, death: undefined };
		this.#lanes.add(lane);
		worker.on('message', (answer: WorkerAnswer) => this.#finish(lane, answer));
		worker.on('error', (error: unknown) => {
			lane.death = error;
		});
		// Only now is it certain that the thread does not use its job's descriptors any more.
		worker.on('exit', (exitCode) => this.#bury(lane, exitCode));
		return lane;
	}

	#startWorker(): Worker | undefined {
		try {
			return new Worker(WORKER_URL);
		} catch (error) {
			// The system has no thread for us. Those that run take what waits; if there is none, nobody ever would.
			if (this.#lanes.size > 0) return undefined;
			for (const { job, reject } of this.#queue.splice(0)) reject(died(job, error));
			return undefined;
		}
	}

	#finish(lane: Lane, answer: WorkerAnswer): void {
		const task = lane.task;
		lane.task = undefined;
		this.#idle.push(lane);
		this.#dispatch();
		if (lane.task === undefined) lane.worker.unref();
		if (task === undefined) return;
		if ('failure' in answer) task.reject(revive(answer.failure));
		else task.resolve({ iv: Buffer.from(answer.iv), sealedSize: answer.sealedSize });
	}

	/** Forgets a thread that has ended. The next job that finds no idle one starts another in its place. */
	#bury(lane: Lane, exitCode: number): void {
		this.#lanes.delete(lane);
		const index = this.#idle.indexOf(lane);
		if (index >= 0) this.#idle.splice(index, 1);
		const { task, death } = lane;
		if (task !== undefined)
			task.reject(this.#isClosed ? stopped(task.job) : died(task.job, death ?? `exit code ${exitCode}`));
		if (!this.#isClosed) this.#dispatch();
	}
}

function assign(lane: Lane, task: Task): void {
	const { sourceFd, targetFd, size, material, path, fsync } = task.job;
	lane.task = task;
	lane.worker.ref();
	// A copy: cloning a Buffer from Node's pool would clone the pool's memory with it, other secrets included.
	const job: WorkerJob = { sourceFd, targetFd, size, material: Uint8Array.from(material), path, fsync };
	lane.worker.postMessage(job);
}

function stopped({ path }: SealJob): S3proxyError {
	return new S3proxyError('stopping', `${path}: sealing was stopped`);
}

function died({ path }: SealJob, death: unknown): S3proxyError {
	const why = death instanceof Error ? death.message : String(death);
	return new S3proxyError('io', `${path}: the thread that should seal it failed: ${why}`, {
		cause: death,
		hint: 'Try again; if it happens again, is there enough memory?',
	});
}

/** The error that a worker met, as an instance of the class that it had there. */
function revive({ message, stack, reason, code, hint, system }: WorkerFailure): Error {
	const details: ErrorDetails = hint === undefined ? {} : { hint };
	let error = new Error(message);
	if (reason !== undefined) error = new FormatError(reason, message, details);
	else if (code !== undefined) error = new S3proxyError(code, message, details);
	// The message of a FormatError got its reason in the worker; a second one would be too many.
	Object.assign(error, { message, ...system });
	if (stack !== undefined) error.stack = stack;
	return error;
}
