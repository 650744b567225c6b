import { elapsedMs } from "@leveros/protocol/clock/lease-clock.ts";
import { expect, it } from "vitest";
import { hostLeaseClock } from "./host-lease-clock.ts";

function machine() {
  const now = { monotonic: 50, wall: 1_700_000_000_000, boot: 7000, bootReads: 0 };
  const clock = hostLeaseClock({
    monotonicMs: () => now.monotonic,
    wallMs: () => now.wall,
    bootMs: () => {
      now.bootReads++;
      return now.boot;
    },
  });
  const pass = (ms: number) => {
    now.monotonic += ms;
    now.wall += ms;
    now.boot += ms;
  };
  return { now, clock, pass };
}

it("reads the boot-time clock once while the others agree", () => {
  const { now, clock, pass } = machine();
  const from = clock.read();
  for (let i = 0; i < 1000; i++) {
    pass(10);
    clock.read();
  }
  expect(elapsedMs(from, clock.read())).toBe(10_000);
  expect(now.bootReads).toBe(1);
});

it("knows of a suspend, though the monotonic clock stood still", () => {
  const { now, clock, pass } = machine();
  const from = clock.read();
  pass(1000);
  now.wall += 20_000;
  now.boot += 20_000;
  expect(elapsedMs(from, clock.read())).toBe(21_000);
});

it("knows of a suspend after which the wall clock was set back", () => {
  const { now, clock, pass } = machine();
  const from = clock.read();
  pass(1000);
  now.boot += 20_000;
  now.wall -= 3_600_000;
  expect(elapsedMs(from, clock.read())).toBe(21_000);
});

it("follows a wall clock that is slewed", () => {
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

it("reads this machine", () => {
  const clock = hostLeaseClock();
  const from = clock.read();
  const elapsed = elapsedMs(from, clock.read());
  expect(elapsed).toBeGreaterThanOrEqual(0);
  expect(elapsed).toBeLessThan(60_000);
  expect(Math.abs(from.wallMs - Date.now())).toBeLessThan(60_000);
});
