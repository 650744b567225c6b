import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Clock, TimerHandle } from "../clock/clock.ts";
import { VirtualClock } from "../clock/virtual-clock.ts";
import { DeadlineEntry, DeadlineWheel } from "./deadline-wheel.ts";

const tickMs = 10;

class Recorder extends DeadlineEntry {
  readonly name: string;
  readonly #clock: Clock;
  readonly #then: () => void;
  readonly ranAtMs: number[] = [];

  constructor(name: string, clock: Clock, then: () => void = () => {}) {
    super();
    this.name = name;
    this.#clock = clock;
    this.#then = then;
  }

  override onDeadline(): void {
    this.ranAtMs.push(this.#clock.now());
    this.#then();
  }
}

/** Counts the timers that the wheel sets, and fires them late by a given time. */
class CountingClock implements Clock {
  readonly inner: VirtualClock;
  timersSet = 0;
  latenessMs = 0;

  constructor(startMs = 12_345.678) {
    this.inner = new VirtualClock(startMs);
  }

  now(): number {
    return this.inner.now();
  }

  setTimer(callback: () => void, delayMs: number): TimerHandle {
    this.timersSet++;
    return this.inner.setTimer(callback, delayMs + this.latenessMs);
  }

  clearTimer(timer: TimerHandle): void {
    this.inner.clearTimer(timer);
  }

  defer(callback: () => void): void {
    this.inner.defer(callback);
  }
}

describe("DeadlineWheel", () => {
  it("runs each entry once, never early and at most one tick late, whatever is removed or moved meanwhile", () => {
    const delay = fc.oneof(
      fc.double({ min: 0, max: 200, noNaN: true }),
      fc.integer({ min: 0, max: 30 }).map((ticks) => ticks * tickMs),
      fc.integer({ min: 0, max: 60_000 }),
    );
    const operation = fc.oneof(
      { weight: 4, arbitrary: fc.record({ kind: fc.constant("add" as const), entry: fc.nat(15), delay }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant("remove" as const), entry: fc.nat(15), delay }) },
      { weight: 3, arbitrary: fc.record({ kind: fc.constant("advance" as const), entry: fc.nat(15), delay }) },
    );
    fc.assert(
      fc.property(
        fc.array(operation, { maxLength: 60 }),
        fc.double({ min: 0, max: 1e9, noNaN: true }),
        (operations, start) => {
          const clock = new VirtualClock(start);
          const wheel = new DeadlineWheel(clock, tickMs);
          const due = new Map<Recorder, number>();
          const entries = Array.from({ length: 16 }, (_, index) => {
            const entry: Recorder = new Recorder(String(index), clock, () => {
              const dueAtMs = due.get(entry);
              expect(dueAtMs, "ran though it did not wait").toBeDefined();
              expect(clock.now()).toBeGreaterThanOrEqual(dueAtMs as number);
              // The clock's own rounding comes on top of the tick.
              expect(clock.now()).toBeLessThanOrEqual((dueAtMs as number) + tickMs + 1e-5);
              due.delete(entry);
            });
            return entry;
          });
          for (const { kind, entry: index, delay } of operations) {
            const entry = entries[index] as Recorder;
            if (kind === "add") {
              const dueAtMs = clock.now() + delay;
              wheel.add(entry, dueAtMs);
              due.set(entry, dueAtMs);
            } else if (kind === "remove") {
              wheel.remove(entry);
              due.delete(entry);
            } else {
              clock.advance(delay);
              for (const dueAtMs of due.values()) expect(dueAtMs).toBeGreaterThan(clock.now() - tickMs - 1e-5);
            }
            expect(wheel.size).toBe(due.size);
          }
          clock.advance(61_000);
          expect(due.size).toBe(0);
          expect(wheel.size).toBe(0);
          expect(clock.timerCount).toBe(0);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("is not early by a rounding, with any tick and any zero of the clock", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(1, 3, 7, 10, 16),
        fc.double({ min: 0, max: 1e6, noNaN: true }),
        fc.array(fc.nat(2_000), { minLength: 1, maxLength: 30 }),
        fc.constantFrom(-1, 0, 1),
        (tick, start, ticks, ulps) => {
          const clock = new VirtualClock(start);
          const wheel = new DeadlineWheel(clock, tick);
          const entries = ticks.map((count) => {
            const exact = start + count * tick;
            const dueAtMs = exact + ulps * exact * Number.EPSILON;
            const entry = new Recorder("", clock, () => expect(clock.now()).toBeGreaterThanOrEqual(dueAtMs));
            wheel.add(entry, dueAtMs);
            return entry;
          });
          clock.advance(2_001 * tick + 200);
          for (const entry of entries) expect(entry.ranAtMs).toHaveLength(1);
        },
      ),
      { numRuns: 500 },
    );
  });

  it("wakes in the tick that it slept for, wherever the clock's fractions fall", () => {
    // The sums cross a power of two, where a fraction loses a bit: a wheel that took itself for early would set timers
    // of 0 ms without end, which the clock refuses.
    for (let start = 5; start < 10; start += 0.0137) {
      const clock = new CountingClock(start);
      const wheel = new DeadlineWheel(clock, 10);
      const entry = new Recorder("", clock);
      wheel.add(entry, start + 10);
      clock.inner.advance(20);
      expect(entry.ranAtMs).toHaveLength(1);
      expect(clock.timersSet).toBeLessThanOrEqual(2);
    }
  });

  it("does not run an entry within add, even if its time has passed", () => {
    const clock = new VirtualClock(1_000);
    const wheel = new DeadlineWheel(clock);
    const entry = new Recorder("past", clock);
    wheel.add(entry, 3);
    expect(entry.ranAtMs).toEqual([]);
    clock.advance(tickMs);
    expect(entry.ranAtMs).toHaveLength(1);
  });

  it("keeps a deadline of an hour, and looks at it while shorter ones come and go", () => {
    const clock = new VirtualClock();
    const wheel = new DeadlineWheel(clock);
    const far = new Recorder("far", clock);
    const hourMs = 3_600_000;
    wheel.add(far, hourMs + 5);
    let ran = 0;
    const repeat: Recorder = new Recorder("repeat", clock, () => {
      ran++;
      wheel.add(repeat, clock.now() + 700);
    });
    wheel.add(repeat, 700);
    clock.advance(hourMs);
    expect(far.ranAtMs).toEqual([]);
    expect(ran).toBe(Math.floor(hourMs / 700));
    clock.advance(15);
    expect(far.ranAtMs).toEqual([hourMs + 10]);
  });

  it("is late by the timer's lateness and one tick, and misses nothing over a stall of several revolutions", () => {
    const clock = new CountingClock();
    const wheel = new DeadlineWheel(clock, tickMs);
    const start = clock.now();
    const entries = Array.from({ length: 400 }, (_, index) => new Recorder(String(index), clock));
    entries.forEach((entry, index) => {
      wheel.add(entry, start + index * 97);
    });
    clock.latenessMs = 25_000;
    clock.inner.advance(100_000);
    entries.forEach((entry, index) => {
      expect(entry.ranAtMs).toHaveLength(1);
      const lateMs = (entry.ranAtMs[0] as number) - (start + index * 97);
      expect(lateMs).toBeGreaterThanOrEqual(0);
      expect(lateMs).toBeLessThanOrEqual(25_000 + tickMs);
    });
  });

  it("allows adding and removing from within onDeadline: itself, its neighbours, others of the same tick", () => {
    const clock = new VirtualClock();
    const wheel = new DeadlineWheel(clock);
    const third = new Recorder("third", clock);
    const fourth = new Recorder("fourth", clock);
    const added = new Recorder("added", clock);
    const first: Recorder = new Recorder("first", clock, () => {
      if (first.ranAtMs.length > 1) return;
      wheel.add(first, clock.now());
      wheel.remove(third);
      wheel.add(fourth, 500);
      wheel.add(added, clock.now() - 1);
    });
    const second = new Recorder("second", clock);
    for (const entry of [first, second, third, fourth]) wheel.add(entry, 20);
    clock.advance(20);
    expect(first.ranAtMs).toEqual([20]);
    expect(second.ranAtMs).toEqual([20]);
    clock.advance(10);
    expect(first.ranAtMs).toEqual([20, 30]);
    expect(added.ranAtMs).toEqual([30]);
    clock.advance(1_000);
    expect(third.ranAtMs).toEqual([]);
    expect(fourth.ranAtMs).toEqual([500]);
    expect(wheel.size).toBe(0);
  });

  it("is in time for what waits although a callback added something for much later", () => {
    const clock = new VirtualClock();
    const wheel = new DeadlineWheel(clock);
    const far = new Recorder("far", clock);
    const first = new Recorder("first", clock, () => wheel.add(far, 10_000));
    const second = new Recorder("second", clock);
    wheel.add(first, 20);
    wheel.add(second, 40);
    clock.advance(60);
    expect(second.ranAtMs).toEqual([40]);
  });

  it("runs the others although one throws", () => {
    const clock = new VirtualClock();
    const wheel = new DeadlineWheel(clock);
    const broken = new Recorder("broken", clock, () => {
      throw new Error("broken");
    });
    const others = Array.from({ length: 3 }, (_, index) => new Recorder(String(index), clock));
    wheel.add(others[0] as Recorder, 20);
    wheel.add(broken, 20);
    wheel.add(others[1] as Recorder, 20);
    wheel.add(others[2] as Recorder, 30);
    expect(() => clock.advance(40)).toThrow("broken");
    clock.advance(40);
    for (const entry of others) expect(entry.ranAtMs).toHaveLength(1);
    expect(wheel.size).toBe(0);
  });

  it("moves an entry that waits, forward and back", () => {
    const clock = new VirtualClock();
    const wheel = new DeadlineWheel(clock);
    const entry = new Recorder("moved", clock);
    wheel.add(entry, 50);
    wheel.add(entry, 900);
    wheel.add(entry, 300);
    expect(wheel.size).toBe(1);
    clock.advance(2_000);
    expect(entry.ranAtMs).toEqual([300]);
  });

  it("sets no timer per call: not for calls one after another, not for many at once", () => {
    const clock = new CountingClock();
    const wheel = new DeadlineWheel(clock);
    const one = new Recorder("one", clock);
    // 10,000 calls of 0.1 ms each, with a deadline of 30 s: one second.
    for (let call = 0; call < 10_000; call++) {
      wheel.add(one, clock.now() + 30_000);
      clock.inner.advance(0.1);
      wheel.remove(one);
    }
    expect(clock.timersSet).toBeLessThanOrEqual(11);
    const many = Array.from({ length: 10_000 }, (_, index) => new Recorder(String(index), clock));
    const before = clock.timersSet;
    for (const entry of many) wheel.add(entry, clock.now() + 30_000);
    expect(clock.timersSet - before).toBeLessThanOrEqual(1);
  });

  it("has no timer while it is empty, at the latest 100 ms after the last entry went", () => {
    const clock = new VirtualClock();
    const wheel = new DeadlineWheel(clock);
    const entry = new Recorder("gone", clock);
    expect(clock.timerCount).toBe(0);
    wheel.add(entry, 3_600_000);
    expect(clock.timerCount).toBe(1);
    clock.advance(1_000);
    expect(clock.timerCount).toBe(1);
    wheel.remove(entry);
    clock.advance(100);
    expect(clock.timerCount).toBe(0);
    // After a long sleep the next deadline is kept all the same.
    clock.advance(1e7);
    wheel.add(entry, clock.now() + 33);
    clock.advance(40);
    expect(entry.ranAtMs).toHaveLength(1);
  });

  it("refuses a time that is none, and an empty tick", () => {
    const clock = new VirtualClock();
    const wheel = new DeadlineWheel(clock);
    const entry = new Recorder("none", clock);
    expect(() => wheel.add(entry, Number.NaN)).toThrow(RangeError);
    expect(() => wheel.add(entry, Number.POSITIVE_INFINITY)).toThrow(RangeError);
    expect(wheel.size).toBe(0);
    for (const tick of [0, 0.5, -1, Number.NaN]) expect(() => new DeadlineWheel(clock, tick)).toThrow(RangeError);
  });
});
