/** Waiting for what other processes do. */

import { setTimeout as sleep } from "node:timers/promises";

/** Asks until the answer is neither undefined, null nor false; rejects, saying for what, when `timeoutMs` are over. */
export async function until<Value>(
  what: string,
  ask: () => Value | undefined | null | false | Promise<Value | undefined | null | false>,
  timeoutMs = 20_000,
): Promise<Value> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await ask();
    if (value !== undefined && value !== null && value !== false) return value;
    if (performance.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(20);
  }
}
