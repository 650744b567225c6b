/** Waiting, on a clock. */

import type { Clock } from "@leveros/protocol/clock/clock.ts";

/** Resolves after `delayMs`, or as soon as `signal` is aborted. */
export function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clock.clearTimer(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = clock.setTimer(end, delayMs);
    signal.addEventListener("abort", end);
  });
}
