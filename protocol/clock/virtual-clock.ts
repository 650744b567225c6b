/**
 * A clock that moves only when it is told to, for tests and for hosts that own time.
 *
 * Deterministic: timers run in the order of their due time, equal ones in the order in which they were set; what was
 * deferred runs after the callback that deferred it and before the next timer. Nothing runs by itself, and promises are
 * not its business: who mixes the two awaits them between steps.
 */

import type { Clock, TimerHandle } from "./clock.ts";

/** More callbacks than this without time moving is a loop that would never end; `step` throws a RangeError. */
const callbacksAtOneInstantMax = 1_000_000;

interface VirtualTimer {
  callback: (() => void) | undefined;
  readonly dueAtMs: number;
  readonly sequence: number;
}

export class VirtualClock implements Clock {
  #nowMs: number;
  /** A binary heap by due time, then sequence. Cleared timers stay in it until they come to the top. */
  readonly #timers: VirtualTimer[] = [];
  #timerCount = 0;
  #sequence = 0;
  #deferred: (() => void)[] = [];
  #callbacksAtThisInstant = 0;

  constructor(startMs = 0) {
    this.#nowMs = startMs;
  }

  now(): number {
    return this.#nowMs;
  }

  /** How many timers are set. */
  get timerCount(): number {
    return this.#timerCount;
  }

  /** When the earliest timer is due; undefined if none is set. */
  get nextDueAtMs(): number | undefined {
    this.#dropCleared();
    return this.#timers[0]?.dueAtMs;
  }

  setTimer(callback: () => void, delayMs: number): TimerHandle {
    if (Number.isNaN(delayMs)) throw new RangeError("setTimer: delayMs is NaN, expected a number of milliseconds");
    const timer: VirtualTimer = {
      callback,
      dueAtMs: this.#nowMs + Math.max(0, delayMs),
      sequence: this.#sequence++,
    };
    this.#timerCount++;
    this.#push(timer);
    return timer;
  }

  clearTimer(handle: TimerHandle): void {
    const timer = handle as VirtualTimer;
    if (timer.callback === undefined) return;
    timer.callback = undefined;
    this.#timerCount--;
  }

  defer(callback: () => void): void {
    this.#deferred.push(callback);
  }

  /**
   * Moves time on by `ms`: runs what is deferred, then every timer that falls due on the way, each at its own time
   * and followed by what it deferred. `advance(0)` ends the current turn. What a callback throws comes out here, with
   * time left where it was thrown.
   */
  advance(ms: number): void {
    if (!(ms >= 0)) throw new RangeError(`advance: ${ms} ms, expected 0 or more`);
    const untilMs = this.#nowMs + ms;
    while (this.step(untilMs)) {
      // Each step is one turn.
    }
    if (untilMs > this.#nowMs) this.#moveTo(untilMs);
  }

  /**
   * Runs one turn: what is deferred, or else the next timer due by `untilMs` (time moves to it) and what it deferred.
   * False, and time stays, if there is nothing to run. For loops that await promises between the turns.
   */
  step(untilMs = Number.POSITIVE_INFINITY): boolean {
    if (this.#runDeferred()) return true;
    this.#dropCleared();
    const timer = this.#timers[0];
    if (timer === undefined || timer.dueAtMs > untilMs || timer.dueAtMs === Number.POSITIVE_INFINITY) return false;
    this.#pop();
    if (timer.dueAtMs > this.#nowMs) this.#moveTo(timer.dueAtMs);
    const callback = timer.callback as () => void;
    timer.callback = undefined;
    this.#timerCount--;
    this.#count();
    callback();
    this.#runDeferred();
    return true;
  }

  #moveTo(ms: number): void {
    this.#nowMs = ms;
    this.#callbacksAtThisInstant = 0;
  }

  /** Runs what is deferred, and what that defers, until nothing is left. False if there was nothing. */
  #runDeferred(): boolean {
    if (this.#deferred.length === 0) return false;
    while (this.#deferred.length > 0) {
      const callbacks = this.#deferred;
      this.#deferred = [];
      let done = 0;
      try {
        for (const callback of callbacks) {
          done++;
          this.#count();
          callback();
        }
      } finally {
        // After a throw the rest is still owed.
        if (done < callbacks.length) this.#deferred.unshift(...callbacks.slice(done));
      }
    }
    return true;
  }

  #count(): void {
    if (++this.#callbacksAtThisInstant > callbacksAtOneInstantMax) {
      throw new RangeError(
        `over ${callbacksAtOneInstantMax} callbacks ran at ${this.#nowMs} ms without time moving; ` +
          "look for a timer of 0 ms or a defer that sets itself again",
      );
    }
  }

  #dropCleared(): void {
    while (this.#timers.length > 0 && this.#timers[0]?.callback === undefined) this.#pop();
  }

  #push(timer: VirtualTimer): void {
    const heap = this.#timers;
    let index = heap.length;
    heap.push(timer);
    while (index > 0) {
      const parentIndex = (index - 1) >> 1;
      const parent = heap[parentIndex] as VirtualTimer;
      if (isBefore(parent, timer)) break;
      heap[index] = parent;
      index = parentIndex;
    }
    heap[index] = timer;
  }

  #pop(): void {
    const heap = this.#timers;
    const last = heap.pop() as VirtualTimer;
    if (heap.length === 0) return;
    let index = 0;
    for (;;) {
      let childIndex = 2 * index + 1;
      if (childIndex >= heap.length) break;
      const right = heap[childIndex + 1];
      if (right !== undefined && isBefore(right, heap[childIndex] as VirtualTimer)) childIndex++;
      const child = heap[childIndex] as VirtualTimer;
      if (isBefore(last, child)) break;
      heap[index] = child;
      index = childIndex;
    }
    heap[index] = last;
  }
}

function isBefore(a: VirtualTimer, b: VirtualTimer): boolean {
  return a.dueAtMs < b.dueAtMs || (a.dueAtMs === b.dueAtMs && a.sequence < b.sequence);
}
