import { describe, expect, test } from "vitest";
import type { SlotExplanation } from "../core/ownership/service-slots.ts";
import type { SlotMove } from "../core/ownership/slot-store.ts";
import { slotFacts } from "./slot-facts.ts";

const first: SlotMove = { at: 1000, from: "", to: "a-1", epoch: 5, reason: "first" };
const moved: SlotMove = { at: 2000, from: "a-1", to: "a-2", epoch: 7, reason: "rebalance" };

function slot(facts: Partial<SlotExplanation>): SlotExplanation {
  return {
    slot: 3,
    holder: "a-1",
    epoch: 5,
    issued: 5,
    isMoving: false,
    fence: 0,
    incarnation: "b.0.1",
    leaseLeftMs: 12_000,
    next: undefined,
    waitsFor: [],
    isWithdrawn: false,
    moves: [first],
    ...facts,
  };
}

describe("why it is there", () => {
  test.each<[string, Partial<SlotExplanation>, string]>([
    ["the first holder", {}, "nobody had held it"],
    ["after a move", { holder: "a-2", epoch: 7, moves: [first, moved] }, "about the same number of slots"],
    ["while it moves, the holder's reason", { moves: [first, moved] }, "nobody had held it"],
    [
      "a crash",
      { holder: "a-2", epoch: 7, moves: [{ ...moved, reason: "processEnded" }] },
      "the process of a-1 had ended",
    ],
    ["its move is forgotten", { moves: [] }, ""],
    ["nobody yet", { holder: "", epoch: 0, moves: [] }, "no instance has been there"],
    ["nobody any more", { holder: "" }, "no instance is there"],
    ["perhaps somebody", { holder: "", waitsFor: [{ instance: "a-1", epoch: 5 }] }, "a-1 may still hold it"],
    ["on its way", { holder: "", next: { instance: "a-2", epoch: 7 } }, "being given to another"],
  ])("%s", (_, facts, text) => {
    if (text === "") expect(slotFacts(slot(facts)).why).toBe("");
    else expect(slotFacts(slot(facts)).why).toContain(text);
  });
});

describe("what a move waits for", () => {
  const next = { instance: "a-2", epoch: 7 };
  test.each<[string, Partial<SlotExplanation>, string]>([
    ["the old holder", { next, waitsFor: [{ instance: "a-1", epoch: 5 }] }, "a-1 (epoch 5) is to finish what runs"],
    ["the new one", { next }, "a-2 is to confirm"],
    ["its withdrawal", { next, isWithdrawn: true, waitsFor: [{ instance: "a-1", epoch: 5 }] }, "being called off"],
  ])("%s", (_, facts, text) => {
    expect(slotFacts(slot(facts)).move).toEqual({ to: "a-2", epoch: 7, waitsFor: expect.stringContaining(text) });
  });

  test("nothing, where there is none", () => {
    expect(slotFacts(slot({})).move).toBe(null);
  });
});

test("the last eight moves come latest first", () => {
  const moves = Array.from({ length: 10 }, (_, at) => ({ ...moved, at }));
  expect(slotFacts(slot({ moves })).moves.map(({ at }) => at)).toEqual([9, 8, 7, 6, 5, 4, 3, 2]);
  expect(slotFacts(slot({})).moves).toEqual([{ at: 1000, from: "", to: "a-1", epoch: 5, why: "nobody had held it" }]);
  expect(slotFacts(slot({ leaseLeftMs: undefined })).leaseLeftMs).toBe(null);
});
