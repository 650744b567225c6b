import { PassThrough } from "node:stream";
import { afterEach, describe, expect, test, vi } from "vitest";
import { runtimeClock } from "./runtime-clock.ts";

const clock = runtimeClock(globalThis);

describe("runtimeClock", () => {
  afterEach(() => vi.useRealTimers());

  test("a timer fires once, and never before its time", async () => {
    const delaysMs = Array.from({ length: 300 }, (_, index) => index / 10);
    const early: number[] = [];
    let fired = 0;
    await new Promise<void>((resolve) => {
      for (const delayMs of delaysMs) {
        const setAtMs = clock.now();
        clock.setTimer(() => {
          const waitedMs = clock.now() - setAtMs;
          if (waitedMs < delayMs) early.push(delayMs - waitedMs);
          if (++fired === delaysMs.length) resolve();
        }, delayMs);
      }
    });
    expect(early).toEqual([]);
    expect(fired).toBe(delaysMs.length);
  });

  test("a cleared timer does not fire", async () => {
    let fired = false;
    const timer = clock.setTimer(() => {
      fired = true;
    }, 1);
    clock.clearTimer(timer);
    await new Promise<void>((resolve) => {
      clock.setTimer(resolve, 20);
    });
    expect(fired).toBe(false);
  });

  test("a delay longer than the runtime can count is waited for, and can be cleared", () => {
    vi.useFakeTimers();
    const clock = runtimeClock(globalThis);
    const monthMs = 30 * 24 * 3_600_000;
    let fired = 0;
    clock.setTimer(() => fired++, monthMs);
    const cleared = clock.setTimer(() => fired++, monthMs);
    const clearedLate = clock.setTimer(() => fired++, monthMs);
    clock.clearTimer(cleared);
    vi.advanceTimersByTime(monthMs - 1000);
    expect(fired).toBe(0);
    clock.clearTimer(clearedLate);
    vi.advanceTimersByTime(2000);
    expect(fired).toBe(1);
  });

  test("a delay of infinity waits, and NaN is refused", () => {
    vi.useFakeTimers();
    const clock = runtimeClock(globalThis);
    let fired = false;
    const timer = clock.setTimer(() => {
      fired = true;
    }, Number.POSITIVE_INFINITY);
    vi.advanceTimersByTime(2 ** 32);
    expect(fired).toBe(false);
    clock.clearTimer(timer);
    expect(() => clock.setTimer(() => {}, Number.NaN)).toThrow(RangeError);
  });

  test("what is deferred runs after microtasks and ticks, before the next turn's timers", async () => {
    const order: string[] = [];
    await new Promise<void>((resolve) => {
      const stream = new PassThrough();
      stream.on("data", () => order.push("input"));
      clock.defer(() => {
        order.push("deferred");
        resolve();
      });
      stream.write("x");
      process.nextTick(() => order.push("tick"));
      void Promise.resolve().then(() => order.push("microtask"));
    });
    expect(order).toHaveLength(4);
    expect(order.at(-1)).toBe("deferred");
  });
});
