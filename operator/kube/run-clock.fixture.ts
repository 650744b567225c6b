/** Virtual time for code that awaits: between two timers all promises get to run. */

import type { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";

/** Lets every promise that can go on do so. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Moves time on by `ms`. */
export async function runFor(clock: VirtualClock, ms: number): Promise<void> {
  const endMs = clock.now() + ms;
  await settled();
  while (clock.step(endMs)) await settled();
  clock.advance(endMs - clock.now());
  await settled();
}

/** Moves time on until `isDone`; throws after `limitMs`. */
export async function runUntil(clock: VirtualClock, isDone: () => boolean, limitMs = 600_000): Promise<void> {
  const endMs = clock.now() + limitMs;
  await settled();
  while (!isDone()) {
    if (!clock.step(endMs)) throw new Error(`not within ${limitMs} ms of virtual time`);
    await settled();
  }
}
