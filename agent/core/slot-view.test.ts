/** A model of a slot's lanes: whatever happens in whatever order, nobody overtakes, and nobody who is due waits. */

import type { SlotRow } from "@leveros/protocol/control/discovery.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hasMoved, type SlotCaller, SlotView, unknownRow } from "./slot-view.ts";

class Caller implements SlotCaller {
  readonly arrival: number;
  readonly isNested: boolean;
  readonly isUrgent = false;
  isHeld = false;
  /** Due from this epoch on. */
  readonly from: number;
  readonly sent: string[];
  readonly seen: SlotRow[] = [];
  gone = "";

  constructor(sent: string[], arrival: number, isNested = false, from = 1) {
    this.sent = sent;
    this.arrival = arrival;
    this.isNested = isNested;
    this.from = from;
  }

  isDue({ holder, epoch }: SlotRow): boolean {
    return holder !== "" && epoch >= this.from;
  }

  onTurn(row: SlotRow): void {
    this.isHeld = false;
    this.sent.push(`${this.arrival} under ${row.epoch}`);
  }

  holdFor(): boolean {
    this.isHeld = true;
    return true;
  }

  onRow(row: SlotRow): void {
    this.seen.push(row);
  }

  onSlotsGone(): void {
    this.isHeld = false;
    this.gone = "gone";
  }
}

const held = (slot: number, epoch: number, change: Partial<SlotRow> = {}): SlotRow => ({
  ...unknownRow(slot),
  holder: "x",
  epoch,
  issued: epoch,
  ...change,
});
const rows = (...given: SlotRow[]) =>
  [0, 1, 2].map((slot) => given.find((row) => row.slot === slot) ?? unknownRow(slot));

describe("the slots of a service", () => {
  it("send those that wait in the order in which they came, also one that comes back", () => {
    const view = new SlotView(rows());
    const sent: string[] = [];
    for (const arrival of [3, 1, 2]) view.enter(new Caller(sent, arrival), 0);
    view.enter(new Caller(sent, 4), 1);
    expect([...view.heldBySlot()]).toEqual([
      [0, 3],
      [1, 1],
    ]);
    view.update(rows(held(0, 5)));
    expect(sent).toEqual(["1 under 5", "2 under 5", "3 under 5"]);
    expect([view.waiting, [...view.heldBySlot()]]).toEqual([1, [[1, 1]]]);
  });

  it("have a lane for nested calls, which do not wait for the others", () => {
    const view = new SlotView(rows(held(0, 5)));
    const sent: string[] = [];
    view.enter(new Caller(sent, 1, false, 6), 0);
    view.enter(new Caller(sent, 2), 0);
    view.enter(new Caller(sent, 3, true), 0);
    expect(sent).toEqual(["3 under 5"]);
    view.update(rows(held(0, 6)));
    expect(sent).toEqual(["3 under 5", "1 under 6", "2 under 6"]);
  });

  it("let the next one go when the first leaves", () => {
    const view = new SlotView(rows(held(0, 5)));
    const sent: string[] = [];
    const first = new Caller(sent, 1, false, 100);
    view.enter(first, 0);
    view.enter(new Caller(sent, 2), 0);
    view.leave(first);
    view.leave(first);
    expect([sent, view.waiting]).toEqual([["2 under 5"], 0]);
  });

  it("tell those under way of each change of their row, and of nothing else", () => {
    const view = new SlotView(rows(held(0, 5)));
    const caller = new Caller([], 1);
    view.begin(caller, 0);
    const row = held(0, 6);
    view.update(rows(row, held(1, 9)));
    view.update(rows({ ...row }, held(1, 9)));
    expect(caller.seen).toEqual([row]);
    expect(view.rowOf(0)).toBe(row);
    view.end(caller, 0);
    view.update(rows(held(0, 7)));
    expect(caller.seen).toEqual([row]);
  });

  it("go back to no lower epoch and no lower fence", () => {
    const view = new SlotView(rows(held(0, 5, { fence: 4 })));
    view.update(rows(held(0, 4, { holder: "y", issued: 9 })));
    expect(view.rowOf(0)).toEqual(held(0, 5, { fence: 4 }));
    view.update(rows(held(0, 5, { holder: "", fence: 1, isMoving: true })));
    expect(view.rowOf(0)).toEqual(held(0, 5, { holder: "", fence: 4, isMoving: true }));
  });

  it("are nobody's under an epoch below the fence", () => {
    const view = new SlotView(rows(held(0, 5, { fence: 6 })));
    expect(view.rowOf(0)).toEqual(held(0, 5, { holder: "", fence: 6 }));
    view.update(rows(held(0, 5)));
    expect(view.rowOf(0)).toEqual(held(0, 5, { holder: "", fence: 6 }));
    view.update(rows(held(0, 6)));
    expect(view.rowOf(0)).toEqual(held(0, 6, { fence: 6 }));
  });

  it("tell all who wait when there are no such slots any more", () => {
    const view = new SlotView(rows());
    const callers = [new Caller([], 1), new Caller([], 2, true)];
    for (const caller of callers) view.enter(caller, 0);
    view.close(undefined);
    expect(callers.map((caller) => caller.gone)).toEqual(["gone", "gone"]);
    expect(view.waiting).toBe(0);
  });

  const act = fc.oneof(
    fc.record({ do: fc.constant("enter" as const), from: fc.nat(6), isNested: fc.boolean(), early: fc.nat(3) }),
    fc.record({ do: fc.constant("leave" as const), which: fc.nat(20) }),
    fc.record({ do: fc.constant("row" as const), epoch: fc.nat(6), isHeld: fc.boolean() }),
  );

  it("whatever happens, nobody overtakes one that waits, and nobody who is due and first waits", () => {
    fc.assert(
      fc.property(fc.array(act, { maxLength: 60 }), (acts) => {
        const view = new SlotView([unknownRow(0)]);
        const sent: string[] = [];
        const waiting = new Set<Caller>();
        let arrivals = 0;
        for (const step of acts) {
          const before = sent.length;
          if (step.do === "enter") {
            arrivals += 10;
            // Some come back, from before others that have come meanwhile.
            const arrival = arrivals - step.early * 15;
            const caller = new Caller(sent, arrival, step.isNested, step.from);
            view.enter(caller, 0);
            waiting.add(caller);
          } else if (step.do === "leave") {
            const caller = [...waiting][step.which % Math.max(waiting.size, 1)];
            if (caller !== undefined) {
              view.leave(caller);
              waiting.delete(caller);
            }
          } else view.update([held(0, step.epoch, step.isHeld ? {} : { holder: "" })]);
          const row = view.rowOf(0);
          const gone = sent.slice(before).map((text) => Number(text.split(" ")[0]));
          for (const isNested of [false, true]) {
            const lane = [...waiting].filter((caller) => caller.isNested === isNested);
            const order = gone.filter((arrival) => lane.some((caller) => caller.arrival === arrival));
            expect(order).toEqual([...order].sort((one, other) => one - other));
            const left = lane.filter((caller) => caller.isHeld).sort((one, other) => one.arrival - other.arrival);
            const first = left[0];
            if (first === undefined) continue;
            expect(first.isDue(row)).toBe(false);
            for (const arrival of order) expect(arrival).toBeLessThan(first.arrival);
          }
          for (const caller of [...waiting]) if (!caller.isHeld) waiting.delete(caller);
          expect(view.waiting).toBe(waiting.size);
        }
      }),
    );
  });
});

describe("what a refusal as MOVED waits for", () => {
  it.each([
    ["not yet given out", held(0, 5, { isMoving: false }), 8, false],
    ["given out, the move goes on", held(0, 5, { issued: 8, isMoving: true }), 8, false],
    ["held", held(0, 8), 8, true],
    ["held by then under a later one", held(0, 9), 8, true],
    ["called off", held(0, 5, { issued: 8 }), 8, true],
    ["it names none", held(0, 5), 0, true],
  ])("%s", (_, row, epoch, expected) => {
    expect(hasMoved(row, epoch)).toBe(expected);
  });
});
