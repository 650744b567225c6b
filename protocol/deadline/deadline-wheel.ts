/**
 * Deadlines of many calls on one clock timer: adding and removing is O(1), without a timer, closure or promise per call.
 *
 * A hashed timing wheel (Varghese and Lauck, 1987, scheme 6): time is cut into ticks, a tick's entries hang in the slot
 * `tick mod slots`, and an entry of a later revolution stays where it is when its slot is visited. Entries are their own
 * list nodes.
 *
 * Invariant: `onDeadline` never runs before the entry's time, never inside `add` or `remove`, and at most one tick plus
 * the timer's own lateness after it. What a deadline means is the entry's business.
 */

import type { Clock, TimerHandle } from "../clock/clock.ts";

/** A power of two. 1,024 slots of 10 ms: a deadline of 30 s is looked at three times in all, one of an hour 352 times. */
const slotCount = 1024;

/**
 * The timer never sleeps longer. When the last entry has gone the timer is left to run out instead of being cleared,
 * else a stream of calls one after another would set and clear a timer for each; this bounds how long it outlives them.
 */
const sleepMsMax = 100;

/** Something with a deadline: extend it, or embed one. It is in at most one wheel at a time. */
export abstract class DeadlineEntry {
  /** The wheel's: the tick at which the entry is due, and its neighbours in the slot; null while it is in no wheel. */
  deadlineTick = 0;
  deadlinePrevious: DeadlineEntry | null = null;
  deadlineNext: DeadlineEntry | null = null;

  /**
   * Runs once when the time has come; the entry is out of the wheel by then. May add and remove entries, this one too.
   * Must not throw: an error leaves through the clock's timer, and the other entries run one tick later.
   */
  abstract onDeadline(): void;
}

/** The fixed end of a circular list. */
class ListHead extends DeadlineEntry {
  constructor() {
    super();
    this.deadlinePrevious = this;
    this.deadlineNext = this;
  }

  override onDeadline(): void {
    // A head is never due.
  }
}

export class DeadlineWheel {
  readonly #clock: Clock;
  readonly #tickMs: number;
  readonly #sleepTicksMax: number;
  /**
   * Time of tick 0, so that ticks stay small integers whatever the clock's zero is. A whole number, as `tickMs` is: then
   * the times of ticks are exact, and what is rounded to a tick is rounded in the right direction.
   */
  readonly #originMs: number;
  readonly #slots: ListHead[] = [];
  /** Entries of the slot being visited; a list of its own, so that callbacks may change the slot. */
  readonly #firing = new ListHead();
  #size = 0;
  /** Every entry that was due at or before this tick has run. */
  #lastTick = 0;
  #timer: TimerHandle | undefined;
  /** The tick at which the timer wakes the wheel. */
  #timerTick = 0;
  readonly #onTimer = () => {
    this.#timer = undefined;
    this.#run();
  };

  /** `tickMs`: the resolution, and so the lateness of a deadline; a whole number of milliseconds, 1 or more. */
  constructor(clock: Clock, tickMs = 10) {
    if (!Number.isInteger(tickMs) || tickMs < 1) {
      throw new RangeError(`tickMs is ${tickMs}, expected a whole number, 1 or more`);
    }
    this.#clock = clock;
    this.#tickMs = tickMs;
    this.#sleepTicksMax = Math.max(1, Math.floor(sleepMsMax / tickMs));
    this.#originMs = Math.floor(clock.now());
    for (let index = 0; index < slotCount; index++) this.#slots.push(new ListHead());
  }

  /** How many entries wait. */
  get size(): number {
    return this.#size;
  }

  /**
   * Runs `entry.onDeadline()` at `dueAtMs` on the clock, or at the next tick if that has passed. An entry that waits
   * already is moved. `dueAtMs` must be finite (RangeError): what has no deadline is not added.
   */
  add(entry: DeadlineEntry, dueAtMs: number): void {
    if (!Number.isFinite(dueAtMs)) throw new RangeError(`dueAtMs is ${dueAtMs}, expected a finite time`);
    if (entry.deadlineNext !== null) this.remove(entry);
    const tick = Math.max(Math.ceil((dueAtMs - this.#originMs) / this.#tickMs), this.#lastTick + 1);
    entry.deadlineTick = tick;
    this.#size++;
    append(this.#slotOf(tick), entry);
    if (this.#timer === undefined || tick < this.#timerTick) this.#setTimer(tick);
  }

  /** Takes the entry out; nothing happens if it does not wait. */
  remove(entry: DeadlineEntry): void {
    if (entry.deadlineNext === null) return;
    unlink(entry);
    this.#size--;
  }

  #slotOf(tick: number): ListHead {
    return this.#slots[tick & (slotCount - 1)] as ListHead;
  }

  #tickNow(): number {
    return Math.floor((this.#clock.now() - this.#originMs) / this.#tickMs);
  }

  #setTimer(tick: number): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#timerTick = Math.min(tick, this.#tickNow() + this.#sleepTicksMax);
    const sleepMs = this.#originMs + this.#timerTick * this.#tickMs - this.#clock.now();
    this.#timer = this.#clock.setTimer(this.#onTimer, Math.max(0, sleepMs));
  }

  #run(): void {
    const tickNow = this.#tickNow();
    // After a long stall, or with no entry for a while, one visit to each slot finds everything that is due.
    let tick = Math.max(this.#lastTick, tickNow - slotCount) + 1;
    try {
      for (; tick <= tickNow; tick++) {
        this.#lastTick = tick;
        this.#visit(this.#slotOf(tick), tickNow);
      }
    } finally {
      // Also if a callback has set one by adding: something else may be due before that.
      if (this.#size > 0) this.#setTimer(this.#nextTick());
    }
  }

  #visit(slot: ListHead, tickNow: number): void {
    if (slot.deadlineNext === slot) return;
    const firing = this.#firing;
    moveAll(slot, firing);
    try {
      for (;;) {
        const entry = firing.deadlineNext as DeadlineEntry;
        if (entry === firing) return;
        unlink(entry);
        if (entry.deadlineTick > tickNow) {
          append(slot, entry);
        } else {
          this.#size--;
          entry.onDeadline();
        }
      }
    } finally {
      // Only after a throw is something left: it is due at once.
      for (let entry = firing.deadlineNext as DeadlineEntry; entry !== firing; ) {
        const next = entry.deadlineNext as DeadlineEntry;
        unlink(entry);
        entry.deadlineTick = Math.max(entry.deadlineTick, this.#lastTick + 1);
        append(this.#slotOf(entry.deadlineTick), entry);
        entry = next;
      }
    }
  }

  /** The next tick with something in its slot, or the furthest that the timer sleeps to. */
  #nextTick(): number {
    const furthest = this.#lastTick + this.#sleepTicksMax;
    let tick = this.#lastTick + 1;
    while (tick < furthest) {
      const slot = this.#slotOf(tick);
      if (slot.deadlineNext !== slot) break;
      tick++;
    }
    return tick;
  }
}

function append(head: ListHead, entry: DeadlineEntry): void {
  const last = head.deadlinePrevious as DeadlineEntry;
  entry.deadlinePrevious = last;
  entry.deadlineNext = head;
  last.deadlineNext = entry;
  head.deadlinePrevious = entry;
}

function unlink(entry: DeadlineEntry): void {
  const previous = entry.deadlinePrevious as DeadlineEntry;
  const next = entry.deadlineNext as DeadlineEntry;
  previous.deadlineNext = next;
  next.deadlinePrevious = previous;
  entry.deadlinePrevious = null;
  entry.deadlineNext = null;
}

/** Moves the entries of a list that has some to one that has none. */
function moveAll(from: ListHead, to: ListHead): void {
  const first = from.deadlineNext as DeadlineEntry;
  const last = from.deadlinePrevious as DeadlineEntry;
  to.deadlineNext = first;
  to.deadlinePrevious = last;
  first.deadlinePrevious = to;
  last.deadlineNext = to;
  from.deadlineNext = from;
  from.deadlinePrevious = from;
}
