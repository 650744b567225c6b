import { expect, test } from "vitest";
import { elapsedMs, runtimeLeaseClock } from "./lease-clock.ts";

const from = { monotonicMs: 1000, bootMs: 1500, wallMs: 1_764_000_000_000 };

test.each([
  ["all agree", { monotonicMs: 3000, bootMs: 3500, wallMs: 1_764_000_002_000 }, 2000],
  ["suspended", { monotonicMs: 1100, bootMs: 31_500, wallMs: 1_764_000_030_000 }, 30_000],
  ["suspended, without a clock that goes on", { monotonicMs: 1100, bootMs: 1600, wallMs: 1_764_000_030_000 }, 30_000],
  ["suspended, and the wall clock set back", { monotonicMs: 1100, bootMs: 31_500, wallMs: 1_763_999_999_000 }, 30_000],
  ["the wall clock set back", { monotonicMs: 3000, bootMs: 3500, wallMs: 0 }, 2000],
  ["the wall clock set forward counts as time", { monotonicMs: 3000, bootMs: 3500, wallMs: 1_764_000_009_000 }, 9000],
  ["never negative", { monotonicMs: 900, bootMs: 1400, wallMs: 0 }, 0],
])("%s", (_name, to, expected) => {
  expect(elapsedMs(from, to)).toBe(expected);
});

test("the real one reads all three anew", () => {
  let boot = 5;
  const clock = runtimeLeaseClock(globalThis, () => boot++);
  const first = clock.read();
  const second = clock.read();
  expect(second.bootMs - first.bootMs).toBe(1);
  expect(second.monotonicMs).toBeGreaterThanOrEqual(first.monotonicMs);
  expect(Math.abs(first.wallMs - Date.now())).toBeLessThan(60_000);
});
