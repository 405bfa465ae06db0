/** The rules of contract 4.1. An `ArtifactPath` has passed them; only the functions here make one. */

import { isUtf8 } from 'node:buffer';
import { S3proxyError } from '../errors.js';

declare const checked: unique symbol;

/** A relative, `/`-separated, checked name of an artifact. */
export type ArtifactPath = string & { readonly [checked]: true };

export const MAX_PATH_BYTES = 980;
export const MAX_COMPONENT_BYTES = 250;
/** What ends the name of a sidecar; no artifact's may. */
export const SIDECAR_SUFFIX = '-iv';
/** What begins the names of staging files and locks; no component of an artifact path may. */
export const RESERVED_PREFIX = '.s3proxy-';

function refuse(text: string, why: string): never {
	throw new S3proxyError('bad-path', `bad path ${JSON.stringify(text)}: ${why}`);
}

/** The first control character, DEL or backslash of `text` by name; undefined when there is none. */
function forbiddenCharacter(text: string): string | undefined {
	for (const character of text) {
		const code = character.charCodeAt(0);
		if (code < 0x20 || code === 0x7f) return `the control character 0x${code.toString(16).padStart(2, '0')}`;
		if (character === '\\') return 'a backslash';
	}
	return undefined;
}

function checkComponent(component: string, text: string): void {
	if (component === '.' || component === '..') refuse(text, `a component may not be "${component}"`);
	if (Buffer.byteLength(component) > MAX_COMPONENT_BYTES) {
		refuse(text, `a component is longer than ${MAX_COMPONENT_BYTES} bytes`);
	}
	if (component.startsWith(RESERVED_PREFIX)) refuse(text, `a component may not begin with "${RESERVED_PREFIX}"`);
}

/**
 * Checks a path as a shell or a directory gives it, nothing decoded. Runs of `/` collapse; leading and trailing ones go.
 * @throws S3proxyError `bad-path`, saying which rule it breaks
 */
export function artifactPath(text: string): ArtifactPath {
	if (!text.isWellFormed()) refuse(text, 'not valid UTF-8');
	const forbidden = forbiddenCharacter(text);
	if (forbidden !== undefined) refuse(text, `it contains ${forbidden}`);
	const components = text.split('/').filter((component) => component !== '');
	const last = components.at(-1);
	if (last === undefined) refuse(text, 'it is empty');
	for (const component of components) checkComponent(component, text);
	if (last.endsWith(SIDECAR_SUFFIX)) refuse(text, `names ending in "${SIDECAR_SUFFIX}" are reserved for sidecars`);
	const path = components.join('/');
	if (Buffer.byteLength(path) > MAX_PATH_BYTES) refuse(text, `longer than ${MAX_PATH_BYTES} bytes`);
	return path as ArtifactPath;
}

/**
 * The artifact path of a request target (`/a/b%20c?query`), percent-decoded once. The query is not part of it.
 * @param target as Node.js gives it: one character per byte
 * @throws S3proxyError `bad-path`
 */
export function artifactPathOfTarget(target: string): ArtifactPath {
	const encoded = target.split('?', 1)[0] ?? '';
	if (!encoded.startsWith('/')) refuse(target, 'a request target begins with "/"');
	const bad = /%(?![0-9A-Fa-f]{2})/.exec(encoded);
	if (bad) refuse(target, `"%" at ${bad.index} is not followed by two hex digits`);
	if (/%2f/i.test(encoded)) refuse(target, 'an encoded slash (%2F) is not allowed');
	const bytes = encoded.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
		String.fromCharCode(Number.parseInt(hex, 16)),
	);
	const decoded = Buffer.from(bytes, 'latin1');
	if (!isUtf8(decoded)) refuse(target, 'not valid UTF-8');
	return artifactPath(decoded.toString('utf8'));
}

/** The artifact path of a name found on disk or in the bucket; undefined when it is not one. */
export function artifactPathIfValid(text: string): ArtifactPath | undefined {
	try {
		const path = artifactPath(text);
		return path === text ? path : undefined;
	} catch {
		return undefined;
	}
}

/** What a URL's path may have as it is, and `encodeURIComponent` encodes. */
const NEEDLESSLY_ENCODED = /%(?:24|26|2B|2C|3A|3B|3D|40)/g;

/** `path` as a URL's path, with the leading slash, in the one spelling that the edge takes: what `Location` says. */
export function targetOf(path: ArtifactPath): string {
	return `/${path.split('/').map(encodeURIComponent).join('/')}`.replace(NEEDLESSLY_ENCODED, decodeURIComponent);
}
