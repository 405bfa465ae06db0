/** What a load balancer's probe asks. */

import { answerLine } from './answer.js';
import type { Exchange } from './exchange.js';

/** No artifact can have this name: components that begin with `.s3proxy-` are refused (contract, 4.1). */
export const HEALTH_TARGET = '/.s3proxy-health';

/** Says that requests are taken: while the service stops, it is told that like everybody else. */
export async function answerHealth(exchange: Exchange): Promise<void> {
	await answerLine(exchange, { status: 200, line: 'ok', headers: { 'Cache-Control': 'no-store' } });
}
