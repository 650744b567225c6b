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

function machine() {
  const now = { monotonic: 50, wall: 1_700_000_000_000, boot: 7000, bootReads: 0 };
  const runtime = { performance: { now: () => now.monotonic }, Date: { now: () => now.wall } };
  const clock = runtimeLeaseClock(runtime, () => {
    now.bootReads++;
    return now.boot;
  });
  const pass = (ms: number) => {
    now.monotonic += ms;
    now.wall += ms;
    now.boot += ms;
  };
  return { now, clock, pass };
}

test("reads the boot-time clock once while the others agree", () => {
  const { now, clock, pass } = machine();
  const from = clock.read();
  for (let i = 0; i < 1000; i++) {
    pass(10);
    clock.read();
  }
  expect(elapsedMs(from, clock.read())).toBe(10_000);
  expect(now.bootReads).toBe(1);
});

test("knows of a suspend, though the monotonic clock stood still", () => {
  const { now, clock, pass } = machine();
  const from = clock.read();
  pass(1000);
  now.wall += 20_000;
  now.boot += 20_000;
  expect(elapsedMs(from, clock.read())).toBe(21_000);
});

test("knows of a suspend after which the wall clock was set back", () => {
  const { now, clock, pass } = machine();
  const from = clock.read();
  pass(1000);
  now.boot += 20_000;
  now.wall -= 3_600_000;
  expect(elapsedMs(from, clock.read())).toBe(21_000);
});

test("follows a wall clock that is slewed", () => {
  const { now, clock, pass } = machine();
  const from = clock.read();
  for (let i = 0; i < 100; i++) {
    pass(100);
    now.wall -= 1;
    clock.read();
  }
  expect(elapsedMs(from, clock.read())).toBe(10_000);
  expect(now.bootReads).toBeLessThan(20);
});

test("the real one reads the runtime's clocks", () => {
  const clock = runtimeLeaseClock(globalThis, () => 5);
  const first = clock.read();
  const second = clock.read();
  expect(first.bootMs).toBe(5);
  expect(second.monotonicMs).toBeGreaterThanOrEqual(first.monotonicMs);
  expect(Math.abs(first.wallMs - Date.now())).toBeLessThan(60_000);
});
