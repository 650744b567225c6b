/**
 * The real clock and the real chance of Node hosts.
 *
 * Invariant: a timer never fires before its time. Node alone does not keep that: it counts in whole milliseconds, so
 * that a timer can be up to one early, and it fires timers of more than 2^31 - 1 ms (24.8 days) at once.
 */

import type { Clock, Random, TimerHandle } from "@leveros/protocol/clock/clock.ts";

/** The longest delay that Node's timers can count. */
const nodeDelayMsMax = 2 ** 31 - 1;

/** A timer that takes several of Node's. */
class LongTimer {
  timeout: NodeJS.Timeout | undefined;
}

export class SystemClock implements Clock {
  now(): number {
    return performance.now();
  }

  setTimer(callback: () => void, delayMs: number): TimerHandle {
    if (Number.isNaN(delayMs)) throw new RangeError("setTimer: delayMs is NaN, expected a number of milliseconds");
    const wholeMs = Math.ceil(delayMs) + 1;
    if (wholeMs <= nodeDelayMsMax) return setTimeout(callback, wholeMs);
    const timer = new LongTimer();
    const dueAtMs = performance.now() + delayMs;
    const wait = () => {
      const leftMs = dueAtMs - performance.now();
      if (leftMs <= 0) callback();
      else timer.timeout = setTimeout(wait, Math.min(Math.ceil(leftMs) + 1, nodeDelayMsMax));
    };
    wait();
    return timer;
  }

  clearTimer(timer: TimerHandle): void {
    clearTimeout(timer instanceof LongTimer ? timer.timeout : (timer as NodeJS.Timeout));
  }

  /** Runs in the check phase, after all input that the loop found readable in this turn. */
  defer(callback: () => void): void {
    setImmediate(callback);
  }
}

export const systemClock: Clock = new SystemClock();

export const systemRandom: Random = Math.random;
