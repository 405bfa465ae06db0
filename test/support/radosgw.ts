/** A real S3 server for tests: Ceph's radosgw with one mon and one OSD in memory, from Debian's packages. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { access, mkdir, mkdtemp, readdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { installPrograms } from './debian.ts';

const run = promisify(execFile);

export interface S3Server {
	readonly endpoint: string;
	readonly region: string;
	readonly accessKeyId: string;
	readonly secretAccessKey: string;
	createBucket(name: string): Promise<void>;
	/** Kills the gateway, whatever it is doing; what it has acknowledged is in the cluster. */
	kill(): Promise<void>;
	/** Starts it again, and waits until it answers. */
	restart(): Promise<void>;
	/** Ends the daemons and removes their files; happens by itself when the process ends, however it ends. */
	stop(): Promise<void>;
}

const PACKAGES = ['ceph-mon', 'ceph-osd', 'radosgw'];
const PROGRAMS = ['ceph', 'ceph-mon', 'ceph-osd', 'monmaptool', 'radosgw', 'radosgw-admin'];

let started: Promise<S3Server | undefined> | undefined;

/**
 * The server, started when first asked for, one for each process. Undefined when it cannot be had here, which is said once on
 * stderr; in CI that is an error, so that nobody believes tests that did not run.
 */
export function s3Server(): Promise<S3Server | undefined> {
	started ??= startIfPossible();
	return started;
}

async function startIfPossible(): Promise<S3Server | undefined> {
	const obstacle = await installPrograms(PROGRAMS, PACKAGES);
	if (obstacle === undefined) return await start();
	const message = `no S3 server for tests: ${obstacle}`;
	if (process.env.CI === 'true') throw new Error(message);
	process.stderr.write(`${message}; what needs one is skipped\n`);
	return undefined;
}

/** A cluster in a temporary directory, and the daemons that belong to it. */
class Cluster {
	readonly directory: string;
	readonly #daemons = new Map<string, ChildProcess>();
	readonly #watchdog: ChildProcess;

	constructor(directory: string) {
		this.directory = directory;
		// Its standard input ends when this process does, even by SIGKILL; then nothing may stay behind.
		const script = 'cat >/dev/null; for f in "$0"/pids/*; do [ -s "$f" ] && kill -9 "$(cat "$f")"; done; rm -rf "$0"';
		this.#watchdog = spawn('sh', ['-c', script, directory], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
		unref(this.#watchdog);
	}

	async run(program: string, ...args: string[]): Promise<string> {
		const { stdout } = await run(program, ['--conf', this.config, ...args], { timeout: 60_000 });
		return stdout;
	}

	start(program: string, ...args: string[]): void {
		// The process id is written by the process itself, before it can be lost.
		const script = 'echo $$ >"$0/pids/$1"; exec "$@"';
		const daemon = spawn('sh', ['-c', script, this.directory, program, '-f', '--conf', this.config, ...args], {
			detached: true,
			stdio: 'ignore',
		});
		unref(daemon);
		this.#daemons.set(program, daemon);
	}

	async kill(program: string): Promise<void> {
		const daemon = this.#daemons.get(program);
		if (daemon === undefined) throw new Error(`${program} does not run`);
		this.#daemons.delete(program);
		const gone = once(daemon, 'exit');
		daemon.kill('SIGKILL');
		await gone;
	}

	/** Asks until `isSo`, or until a daemon has died. */
	async until(what: string, isSo: () => Promise<boolean>): Promise<void> {
		const deadline = Date.now() + 60_000;
		while (!(await isSo().catch(() => false))) {
			const daemons = [...this.#daemons.values()];
			const died = daemons.some(({ exitCode, signalCode }) => exitCode !== null || signalCode !== null);
			if (died) throw new Error(`waiting for ${what}: a daemon died; see ${this.directory}/log`);
			if (Date.now() > deadline) throw new Error(`${what}: not within 60 s; see ${this.directory}/log`);
			await sleep(50);
		}
	}

	async stop(): Promise<void> {
		const gone = new Promise((resolve) => this.#watchdog.once('exit', resolve));
		this.#watchdog.ref();
		this.#watchdog.stdin?.end();
		await gone;
	}

	get config(): string {
		return join(this.directory, 'ceph.conf');
	}
}

function unref(child: ChildProcess): void {
	child.unref();
	const stdin: unknown = child.stdin;
	if (typeof stdin === 'object' && stdin !== null && 'unref' in stdin && typeof stdin.unref === 'function')
		stdin.unref();
}

async function start(): Promise<S3Server> {
	const directory = await mkdtemp(join(tmpdir(), 's3proxy-radosgw-'));
	for (const name of ['run', 'log', 'mon', 'osd', 'rgw', 'crash', 'pids']) await mkdir(join(directory, name));
	const cluster = new Cluster(directory);
	try {
		return await startCluster(cluster);
	} catch (error) {
		await cluster.stop();
		throw error;
	}
}

async function startCluster(cluster: Cluster): Promise<S3Server> {
	const { directory } = cluster;
	const [monPort, gatewayPort] = [await freePort(), await freePort()];
	const [fsid, osdId] = [randomUUID(), randomUUID()];
	const endpoint = `http://127.0.0.1:${gatewayPort}`;
	const accessKeyId = `test${randomBytes(8).toString('hex')}`;
	const secretAccessKey = randomBytes(20).toString('hex');
	await writeFile(cluster.config, await configuration(directory, fsid, monPort, gatewayPort));

	const map = join(directory, 'monmap');
	await cluster.run('monmaptool', '--create', '--fsid', fsid, '--addv', 'a', `[v2:127.0.0.1:${monPort}]`, map);
	await cluster.run('ceph-mon', '--mkfs', '-i', 'a', '--monmap', map, '--fsid', fsid);
	cluster.start('ceph-mon', '-i', 'a');
	await cluster.until(
		'the monitor',
		async () => (await cluster.run('ceph', '--connect-timeout', '2', 'mon', 'stat')) !== '',
	);
	await cluster.run('ceph', 'osd', 'new', osdId, '0');
	await cluster.run('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', osdId);
	cluster.start('ceph-osd', '-i', '0');
	await cluster.until('the OSD', async () =>
		/"num_up_osds": *1/.test(await cluster.run('ceph', 'osd', 'stat', '-f', 'json')),
	);
	const user = ['--uid=test', '--display-name=test', '--max-buckets=0'];
	const keys = [`--access-key=${accessKeyId}`, `--secret-key=${secretAccessKey}`];
	await cluster.run('radosgw-admin', '-n', 'client.rgw', 'user', 'create', ...user, ...keys);
	const startGateway = async () => {
		cluster.start('radosgw', '-n', 'client.rgw');
		await cluster.until('radosgw', async () => (await fetch(endpoint)).ok);
	};
	await startGateway();

	const client = new S3Client({
		endpoint,
		region: 'default',
		forcePathStyle: true,
		credentials: { accessKeyId, secretAccessKey },
	});
	return {
		endpoint,
		region: 'default',
		accessKeyId,
		secretAccessKey,
		createBucket: async (name) => {
			await client.send(new CreateBucketCommand({ Bucket: name }));
		},
		kill: () => cluster.kill('radosgw'),
		restart: startGateway,
		stop: () => {
			client.destroy();
			return cluster.stop();
		},
	};
}

async function configuration(directory: string, fsid: string, monPort: number, gatewayPort: number): Promise<string> {
	return `[global]
fsid = ${fsid}
mon_initial_members = a
mon_host = [v2:127.0.0.1:${monPort}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
run_dir = ${directory}/run
admin_socket = ${directory}/run/$name.asok
log_file = ${directory}/log/$name.log
mon_cluster_log_file = ${directory}/log/cluster.log
crash_dir = ${directory}/crash
log_to_stderr = false
err_to_stderr = false
# making a pool takes several rounds of votes; the defaults are for clusters of more than one
paxos_propose_interval = 0.02
paxos_min_wait = 0.005
[mon]
mon_data = ${directory}/mon
mon_data_avail_warn = 1
mon_data_avail_crit = 1
auth_allow_insecure_global_id_reclaim = false
[osd]
osd_data = ${directory}/osd
osd_objectstore = memstore
memstore_device_bytes = ${16 * 2 ** 30}
osd_class_dir = ${await classDirectory()}
osd_class_load_list = *
osd_class_default_list = *
[client.rgw]
rgw_data = ${directory}/rgw
# the default, "secure", hangs without cephx
ms_mon_client_mode = crc
# without it every answer in two pieces waits 40 ms for an acknowledgement
rgw_frontends = beast endpoint=127.0.0.1:${gatewayPort} tcp_nodelay=1
rgw_enable_usage_log = false
rgw_dynamic_resharding = false
`;
}

/** Where the OSD's classes lie: /usr/lib/<architecture>/rados-classes. */
async function classDirectory(): Promise<string> {
	for (const name of await readdir('/usr/lib')) {
		const directory = join('/usr/lib', name, 'rados-classes');
		try {
			await access(directory);
			return directory;
		} catch {
			// Not this one.
		}
	}
	throw new Error('no rados-classes below /usr/lib');
}

const PORTS = { first: 10_000, each: 100, parts: 220 };
let portsGiven = 0;

/**
 * A TCP port of 127.0.0.1 that nobody listens at. None of those that connections and port 0 get: whoever listens at it starts some
 * moments later. Each process has a part of its own, because two halves of the tests run side by side.
 */
export async function freePort(): Promise<number> {
	for (let tried = 0; tried < PORTS.each; tried++) {
		const port = PORTS.first + (process.pid % PORTS.parts) * PORTS.each + (portsGiven++ % PORTS.each);
		if (await isFree(port)) return port;
	}
	throw new Error('no port is free');
}

async function isFree(port: number): Promise<boolean> {
	const server = createServer();
	const listens = await new Promise<boolean>((resolve) => {
		server.once('error', () => resolve(false));
		server.listen(port, '127.0.0.1', () => resolve(true));
	});
	if (listens) await new Promise((resolve) => server.close(resolve));
	return listens;
}
