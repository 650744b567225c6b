import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { expect, it } from "vitest";
import { seeded } from "../world.fixture.ts";
import { ChannelMoves } from "./channel-moves.ts";
import type { SlotRelay } from "./slot.ts";

function rig() {
  const clock = new VirtualClock();
  const moves = new ChannelMoves(clock, seeded(3));
  const told: number[] = [];
  const add = (count: number) =>
    Array.from({ length: count }, () => {
      const relay: SlotRelay = {
        isChannel: true,
        isAnswered: true,
        isRunning: true,
        hasUnsent: false,
        move: () => told.push(clock.now()),
        end() {},
      };
      moves.add(relay);
      return relay;
    });
  return { clock, moves, told, add };
}

it("tells a few at once", () => {
  const { clock, told, add } = rig();
  add(32);
  clock.advance(0);
  expect(told).toEqual(Array(32).fill(0));
  expect(clock.timerCount).toBe(0);
});

it("spreads many over about a second, not in step", () => {
  const { clock, told, add } = rig();
  add(10_000);
  clock.advance(3000);
  expect(told.length).toBe(10_000);
  expect(told.at(-1)).toBeGreaterThan(600);
  expect(told.at(-1)).toBeLessThan(2000);
  const moments = new Map<number, number>();
  for (const at of told) moments.set(at, (moments.get(at) ?? 0) + 1);
  expect(Math.max(...moments.values())).toBeLessThanOrEqual(500);
  const gaps = [...moments.keys()].map((at, i, all) => at - (all[i - 1] ?? 0));
  expect(new Set(gaps.map(Math.round)).size).toBeGreaterThan(8);
});

it("begins anew after that", () => {
  const { clock, told, add } = rig();
  add(1000);
  clock.advance(3000);
  told.length = 0;
  add(5);
  clock.advance(0);
  expect(told.length).toBe(5);
});

it("leaves alone what was called off", () => {
  const { clock, moves, told, add } = rig();
  const [first, second] = add(2);
  moves.delete(first as SlotRelay);
  clock.advance(100);
  expect(told.length).toBe(1);
  moves.delete(second as SlotRelay);
  add(1);
  moves.close();
  clock.advance(1000);
  expect(told.length).toBe(1);
  expect(clock.timerCount).toBe(0);
});
