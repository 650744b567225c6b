/** The real clock, made of what a runtime offers: `runtimeClock(globalThis)` in Node. */

import type { Clock } from "./clock.ts";

export interface Runtime<Timer, Immediate> {
  readonly performance: { now(): number };
  setTimeout(callback: () => void, delayMs: number): Timer;
  clearTimeout(timer: Timer): void;
  setImmediate(callback: () => void): Immediate;
}

export function runtimeClock<Timer, Immediate>(runtime: Runtime<Timer, Immediate>): Clock {
  const { performance, setTimeout, clearTimeout, setImmediate } = runtime;
  return {
    now: () => performance.now(),
    setTimer: (callback, delayMs) => setTimeout(callback, delayMs),
    clearTimer: (timer) => clearTimeout(timer as Timer),
    // After the poll phase: all input of this turn has been handled by then, which makes one write of many answers.
    defer: (callback) => {
      setImmediate(callback);
    },
  };
}
