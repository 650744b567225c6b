import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { VirtualClock } from "./virtual-clock.ts";

describe("VirtualClock", () => {
  it("stands still until it is moved", () => {
    const clock = new VirtualClock(500);
    clock.setTimer(() => {}, 10);
    expect(clock.now()).toBe(500);
    expect(clock.nextDueAtMs).toBe(510);
    clock.advance(7.5);
    expect(clock.now()).toBe(507.5);
    expect(clock.timerCount).toBe(1);
  });

  it("runs every timer at its own time, equal ones in the order in which they were set", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 50 }), { maxLength: 60 }), (delays) => {
        const clock = new VirtualClock();
        const ran: { index: number; at: number }[] = [];
        delays.forEach((delay, index) => {
          clock.setTimer(() => ran.push({ index, at: clock.now() }), delay);
        });
        clock.advance(50);
        const expected = delays.map((at, index) => ({ index, at })).sort((a, b) => a.at - b.at || a.index - b.index);
        expect(ran).toEqual(expected);
        expect(clock.timerCount).toBe(0);
      }),
    );
  });

  it("runs only what is due, whatever was cleared before or from within a callback", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            delay: fc.integer({ min: 0, max: 30 }),
            clears: fc.nat(40),
          }),
          { maxLength: 40 },
        ),
        fc.integer({ min: 0, max: 30 }),
        (entries, untilMs) => {
          const clock = new VirtualClock();
          const alive = entries.map(() => true);
          const handles = entries.map((entry, index) =>
            clock.setTimer(() => {
              expect(alive[index]).toBe(true);
              alive[index] = false;
              const other = entry.clears;
              if (other < handles.length) {
                clock.clearTimer(handles[other]);
                alive[other] = false;
              }
            }, entry.delay),
          );
          clock.advance(untilMs);
          entries.forEach((entry, index) => {
            if (entry.delay <= untilMs) expect(alive[index]).toBe(false);
          });
          expect(clock.timerCount).toBe(alive.filter(Boolean).length);
        },
      ),
    );
  });

  it("runs a timer set by a timer within the same advance", () => {
    const clock = new VirtualClock();
    const at: number[] = [];
    const tick = () => {
      at.push(clock.now());
      clock.setTimer(tick, 10);
    };
    clock.setTimer(tick, 10);
    clock.advance(35);
    expect(at).toEqual([10, 20, 30]);
    expect(clock.now()).toBe(35);
  });

  it("runs deferred callbacks after the callback that deferred them and before the next timer", () => {
    const clock = new VirtualClock();
    const ran: string[] = [];
    clock.setTimer(() => {
      ran.push("first");
      clock.defer(() => {
        ran.push("deferred");
        clock.defer(() => ran.push("nested"));
      });
      ran.push("rest of first");
    }, 5);
    clock.setTimer(() => ran.push("second"), 5);
    clock.defer(() => ran.push("before"));
    expect(ran).toEqual([]);
    clock.advance(5);
    expect(ran).toEqual(["before", "first", "rest of first", "deferred", "nested", "second"]);
  });

  it("ends the current turn by advance(0) and runs one turn by step", () => {
    const clock = new VirtualClock();
    const ran: string[] = [];
    clock.defer(() => ran.push("deferred"));
    clock.setTimer(() => ran.push("later"), 3);
    clock.advance(0);
    expect(ran).toEqual(["deferred"]);
    expect(clock.step(2)).toBe(false);
    expect(clock.now()).toBe(0);
    expect(clock.step()).toBe(true);
    expect(clock.now()).toBe(3);
    expect(clock.step()).toBe(false);
  });

  it("never reaches a timer of infinity", () => {
    const clock = new VirtualClock();
    clock.setTimer(() => expect.unreachable(), Number.POSITIVE_INFINITY);
    expect(clock.step()).toBe(false);
    clock.advance(1e9);
    expect(clock.timerCount).toBe(1);
  });

  it("lets errors out and still owes the rest", () => {
    const clock = new VirtualClock();
    const ran: string[] = [];
    clock.defer(() => {
      throw new Error("broken");
    });
    clock.defer(() => ran.push("second"));
    clock.setTimer(() => ran.push("timer"), 1);
    expect(() => clock.advance(1)).toThrow("broken");
    clock.advance(1);
    expect(ran).toEqual(["second", "timer"]);
  });

  it("refuses a loop without end, NaN and time running backwards", () => {
    const clock = new VirtualClock();
    const again = () => {
      clock.setTimer(again, 0);
    };
    again();
    expect(() => clock.advance(1)).toThrow(RangeError);
    expect(() => clock.setTimer(() => {}, Number.NaN)).toThrow(RangeError);
    expect(() => clock.advance(-1)).toThrow(RangeError);
    expect(() => clock.advance(Number.NaN)).toThrow(RangeError);
  });
});
