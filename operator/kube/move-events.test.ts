import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { expect, test } from "vitest";
import { MoveEvents } from "./move-events.ts";

const row = (slot: number, holder: string, epoch: number) => ({
  slot,
  holder,
  epoch,
  issued: epoch,
  isMoving: false,
  fence: 0,
});

function make() {
  const clock = new VirtualClock();
  const notes: string[] = [];
  const events = new MoveEvents({
    clock,
    record: (environment, service, note) => notes.push(`${environment}/${service} ${note}`),
  });
  return { clock, notes, events };
}

test("what moves within a while is one event of its service", () => {
  const { clock, notes, events } = make();
  const before = Array.from({ length: 8 }, (_, slot) => row(slot, "a", 5));
  expect(events.moved("shop", "chat", [row(0, "b", 6), row(1, "c", 6)], before)).toBe(2);
  clock.advance(4000);
  expect(events.moved("shop", "chat", [row(2, "b", 7)], before)).toBe(1);
  expect(events.moved("shop", "game", [row(2, "b", 7)], before)).toBe(1);
  expect(notes).toEqual([]);
  clock.advance(10_000);
  expect(notes).toEqual([
    "shop/chat 3 slots of resources moved: 2 to b, 1 to c.",
    "shop/game 1 slot of resources moved: 1 to b.",
  ]);
});

test("a first holder, one that has it still, and a slot that nobody has are no moves", () => {
  const { clock, notes, events } = make();
  expect(events.moved("shop", "chat", [row(0, "a", 6)], [])).toBe(1);
  const before = [row(0, "a", 6), row(1, "a", 6)];
  expect(events.moved("shop", "chat", [row(0, "a", 6), row(1, "", 6)], before)).toBe(0);
  clock.advance(10_000);
  expect(notes).toEqual([]);
});

test("of many holders a few are named; nothing is told after the end", () => {
  const { clock, notes, events } = make();
  const before = Array.from({ length: 8 }, (_, slot) => row(slot, "a", 5));
  events.moved(
    "shop",
    "chat",
    before.map(({ slot }) => row(slot, `b-${slot}`, 6)),
    before,
  );
  clock.advance(10_000);
  expect(notes[0]).toMatch(/^shop\/chat 8 slots .* 1 to b-4, and others to 3 more instances\.$/);
  events.moved("shop", "chat", [row(0, "b", 6)], before);
  events.close();
  clock.advance(10_000);
  expect(notes).toHaveLength(1);
});
