/** Every path below the root. Nobody else joins one. */

import { createHash } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { type ArtifactPath, RESERVED_PREFIX, SIDECAR_SUFFIX } from './artifact-path.js';

/** What a lock beside the path's own keeps apart. */
export type LockKind = 'path' | 'fetch' | 'put';

/** Stages of which one run at a time works on a root. */
export type RunStage = 'encrypt' | 'upload' | 're-encrypt' | 'rotate-key' | 'add-token';

export interface LockNames {
	/** Holds the owner's record. */
	readonly file: string;
	/** proper-lockfile's lock: whoever made this directory holds it. */
	readonly directory: string;
	/** Whether the file outlives the lock. */
	readonly keepFile: boolean;
}

export class Layout {
	readonly root: string;
	readonly keys: string;
	readonly locks: string;
	readonly uploading: string;
	readonly uploads: string;
	readonly toEncrypt: string;
	readonly encrypting: string;
	readonly encrypted: string;
	readonly toDecrypt: string;

	/** @param root an absolute path without symlinks in it */
	constructor(root: string) {
		this.root = root;
		this.keys = join(root, 'keys');
		this.locks = join(root, 'locks');
		this.uploading = join(root, 'uploading');
		this.uploads = join(root, 'uploads');
		this.toEncrypt = join(root, 'to_encrypt');
		this.encrypting = join(root, 'encrypting');
		this.encrypted = join(root, 'encrypted');
		this.toDecrypt = join(root, 'to_decrypt');
	}

	/** Between which names move by `rename` and `link`: all but `keys/`, which is moved in by itself. */
	get stateDirectories(): readonly string[] {
		const { locks, uploading, uploads, toEncrypt, encrypting, encrypted, toDecrypt } = this;
		return [locks, uploading, uploads, toEncrypt, encrypting, encrypted, toDecrypt];
	}

	/** Where staging files lie, and below which a directory left empty is clutter. */
	get stagingAreas(): readonly string[] {
		return [this.uploading, this.encrypting, this.toDecrypt];
	}

	artifact(path: ArtifactPath): string {
		return join(this.uploads, path);
	}

	marker(path: ArtifactPath): string {
		return join(this.uploading, path);
	}

	workLink(path: ArtifactPath): string {
		return join(this.toEncrypt, path);
	}

	sealed(keyId: string, path: ArtifactPath): string {
		return join(this.encrypted, keyId, path);
	}

	sidecar(keyId: string, path: ArtifactPath): string {
		return this.sealed(keyId, path) + SIDECAR_SUFFIX;
	}

	ingestStaging(path: ArtifactPath): string {
		return dirname(join(this.uploading, path));
	}

	sealStaging(keyId: string, path: ArtifactPath): string {
		return dirname(join(this.encrypting, keyId, path));
	}

	fetchStaging(path: ArtifactPath): string {
		return dirname(join(this.toDecrypt, path));
	}

	/** Below the artifact's own name: what an evict that died has left there tells whose it is. */
	evictStaging(path: ArtifactPath): string {
		return join(this.toDecrypt, path);
	}

	lock(kind: LockKind, path: ArtifactPath): LockNames {
		const file = join(this.locks, path);
		const own = join(dirname(file), `${RESERVED_PREFIX}${kind}-${lockHash(basename(path))}`);
		const keepFile = kind === 'path';
		return { file: keepFile ? file : own, directory: `${own}.lock`, keepFile };
	}

	runLock(stage: RunStage): LockNames {
		const file = join(this.locks, `${RESERVED_PREFIX}run-${stage}`);
		return { file, directory: `${file}.lock`, keepFile: false };
	}
}

/**
 * What stands for an artifact's last component in the names of its locks. A hash, because a component may have 250 of the
 * 255 bytes that a name can have; and never `x.lock`, which is a name that an artifact may have.
 */
export function lockHash(component: string): string {
	return createHash('sha256').update(component).digest('hex').slice(0, 32);
}
