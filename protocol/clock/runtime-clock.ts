/**
 * The real clock, made of what a runtime offers: `runtimeClock(globalThis)` in Node.
 *
 * Invariant: a timer never fires before its time. Runtimes alone do not keep that: they count in whole milliseconds, so
 * that a timer can be up to one early, and they fire timers of more than 2^31 - 1 ms (24.8 days) at once.
 */

import type { Clock, TimerHandle } from "./clock.ts";

/** What is asked of the runtime. Later versions of a function are not seen: they are taken once. */
export interface Runtime<Timer, Immediate> {
  readonly performance: { now(): number };
  setTimeout(callback: () => void, delayMs: number): Timer;
  clearTimeout(timer: Timer): void;
  setImmediate(callback: () => void): Immediate;
}

/** The longest delay that a runtime's timers can count. */
const runtimeDelayMsMax = 2 ** 31 - 1;

/** A timer that takes several of the runtime's. */
class LongTimer<Timer> {
  current: Timer | undefined;
}

/** `setTimer` throws a RangeError for NaN; a delay of infinity is never over. */
export function runtimeClock<Timer, Immediate>(runtime: Runtime<Timer, Immediate>): Clock {
  const { performance, setTimeout, clearTimeout, setImmediate } = runtime;

  function setLongTimer(callback: () => void, delayMs: number): LongTimer<Timer> {
    const timer = new LongTimer<Timer>();
    const dueAtMs = performance.now() + delayMs;
    const wait = () => {
      const leftMs = dueAtMs - performance.now();
      if (leftMs <= 0) callback();
      else timer.current = setTimeout(wait, Math.min(Math.ceil(leftMs) + 1, runtimeDelayMsMax));
    };
    wait();
    return timer;
  }

  return {
    now: () => performance.now(),
    setTimer(callback, delayMs): TimerHandle {
      if (Number.isNaN(delayMs)) throw new RangeError("setTimer: delayMs is NaN, expected a number of milliseconds");
      const wholeMs = Math.ceil(delayMs) + 1;
      return wholeMs <= runtimeDelayMsMax ? setTimeout(callback, wholeMs) : setLongTimer(callback, delayMs);
    },
    clearTimer(timer) {
      const current = timer instanceof LongTimer ? (timer as LongTimer<Timer>).current : (timer as Timer | undefined);
      if (current !== undefined) clearTimeout(current);
    },
    // In the check phase: all input of this turn has been handled by then, which makes one write of many answers.
    defer(callback) {
      setImmediate(callback);
    },
  };
}
