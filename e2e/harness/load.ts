/** Calls at a steady rate, whatever becomes of those before (an open loop), each with an id of its own. */

import { setTimeout as sleep } from "node:timers/promises";
import { LeverError, type MethodError } from "leveros";

export interface LoadOptions {
  readonly prefix: string;
  readonly perSecond: number;
  readonly durationMs: number;
  call(id: string, n: number): Promise<unknown>;
}

export interface LoadResult {
  readonly planned: number;
  readonly sent: number;
  readonly sentPerSecond: number;
  readonly results: ReadonlyMap<string, unknown>;
  readonly errors: ReadonlyMap<string, LeverError | MethodError>;
}

const tickMs = 4;

/** Resolves when all calls have ended. */
export async function load({ prefix, perSecond, durationMs, call }: LoadOptions): Promise<LoadResult> {
  const planned = Math.round((perSecond * durationMs) / 1000);
  const results = new Map<string, unknown>();
  const errors = new Map<string, LeverError | MethodError>();
  const running: Promise<void>[] = [];
  const startedAt = performance.now();
  let elapsedMs = 0;
  while (elapsedMs < durationMs) {
    elapsedMs = performance.now() - startedAt;
    const due = Math.min(Math.floor((elapsedMs * perSecond) / 1000), planned);
    for (let n = running.length; n < due; n++) {
      const id = `${prefix}-${n}`;
      running.push(
        call(id, n).then(
          (result) => void results.set(id, result),
          (error: unknown) => void errors.set(id, LeverError.from(error)),
        ),
      );
    }
    await sleep(tickMs);
  }
  const sendingMs = performance.now() - startedAt;
  await Promise.all(running);
  return { planned, sent: running.length, sentPerSecond: (running.length * 1000) / sendingMs, results, errors };
}

/** How often each value comes. */
export function tally(values: Iterable<string>): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}
