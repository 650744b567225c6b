/**
 * How long to wait after the n-th failure in a row: exponential, bounded, with jitter over the upper half, so that many
 * who fail together do not come back together.
 */

import type { Random } from "@leveros/protocol/clock/clock.ts";

export interface BackoffLimits {
  /** After the first failure, at the most. */
  readonly minMs: number;
  readonly maxMs: number;
}

export function backoffMs({ minMs, maxMs }: BackoffLimits, failures: number, random: Random): number {
  const ceilingMs = Math.min(maxMs, minMs * 2 ** Math.min(Math.max(0, failures - 1), 60));
  return (ceilingMs * (1 + random())) / 2;
}
