/** Listings, page by page. */

import { ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { S3proxyError } from '../errors.js';
import type { ObjectInfo, UnfinishedPut } from './object-store.js';
import type { S3Connection } from './s3-connection.js';

/** All objects whose key begins with `prefix`; one page is in memory at a time. */
export async function* listObjects(
	connection: S3Connection,
	prefix: string,
	signal: AbortSignal | undefined,
): AsyncGenerator<ObjectInfo> {
	let token: string | undefined;
	do {
		const page = await connection.call({ operation: 'LIST', key: prefix, signal }, (client, send) =>
			client.send(
				new ListObjectsV2Command({
					Bucket: connection.bucket,
					Prefix: prefix,
					EncodingType: 'url',
					...(token === undefined ? {} : { ContinuationToken: token }),
				}),
				send,
			),
		);
		for (const { Key, Size, ETag, LastModified } of page.Contents ?? []) {
			if (Key === undefined) continue;
			yield {
				key: decode(Key, page.EncodingType),
				size: Size ?? 0,
				etag: ETag ?? '',
				lastModified: LastModified?.getTime() ?? 0,
			};
		}
		token = nextMarker(page.IsTruncated, page.NextContinuationToken, token, connection);
	} while (token !== undefined);
}

/** All multipart uploads that were neither completed nor aborted and whose key begins with `prefix`. */
export async function* listUploads(
	connection: S3Connection,
	prefix: string,
	signal: AbortSignal | undefined,
): AsyncGenerator<UnfinishedPut> {
	let after: { readonly KeyMarker: string; readonly UploadIdMarker: string } | undefined;
	let marker: string | undefined;
	do {
		const page = await connection.call({ operation: 'LIST UPLOADS', key: prefix, signal }, (client, send) =>
			client.send(
				new ListMultipartUploadsCommand({
					Bucket: connection.bucket,
					Prefix: prefix,
					EncodingType: 'url',
					...after,
				}),
				send,
			),
		);
		for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
			if (Key === undefined || UploadId === undefined) continue;
			yield { key: decode(Key, page.EncodingType), id: UploadId, started: Initiated?.getTime() ?? 0 };
		}
		const KeyMarker = decode(page.NextKeyMarker ?? '', page.EncodingType);
		const UploadIdMarker = page.NextUploadIdMarker ?? '';
		const next = KeyMarker === '' ? undefined : `${KeyMarker}\n${UploadIdMarker}`;
		marker = nextMarker(page.IsTruncated, next, marker, connection);
		after = { KeyMarker, UploadIdMarker };
	} while (marker !== undefined);
}

/** Where the next page begins; undefined after the last one. A server that would send us round in circles is refused. */
function nextMarker(
	isTruncated: boolean | undefined,
	next: string | undefined,
	last: string | undefined,
	connection: S3Connection,
): string | undefined {
	if (isTruncated !== true) return undefined;
	if (next !== undefined && next !== last) return next;
	throw new S3proxyError(
		'store-refused',
		`LIST s3://${connection.bucket} (${connection.endpoint}): the store says that there is more, but not where`,
	);
}

/** Names come percent-encoded, because XML cannot hold every one of them; a space may be a `+`, as in a form. */
function decode(text: string, encoding: string | undefined): string {
	if (encoding !== 'url') return text;
	try {
		return decodeURIComponent(text.replaceAll('+', ' '));
	} catch {
		// Not UTF-8, so none of our names.
		return text;
	}
}
