/**
 * The slots of one service as a calling agent sees them: who holds each under which epoch, the calls that wait for one,
 * in the order in which they came, and those that are under way under an epoch.
 *
 * Invariants: a row never goes back to a lower epoch, and no fence falls, whoever says so; in each lane of a slot nobody
 * is sent before one that came earlier and waits. Nested calls have a lane of their own: a holder that drains takes
 * them, and refuses those that wait in the other one. What a call waits for, and where it goes, is the relay's
 * (relay.ts).
 */

import type { SlotRow } from "@leveros/protocol/control/discovery.ts";
import type { LeverError } from "@leveros/protocol/error/lever-error.ts";

/** A call or channel with a resource. */
export interface SlotCaller {
  /** Ascending in the order in which calls came. */
  readonly arrival: number;
  /** Made by a method or hook of a resource. */
  readonly isNested: boolean;
  /** Does not wait behind others. */
  readonly isUrgent: boolean;
  /** Counted as held by the agent. */
  readonly isHeld: boolean;
  /** There is no reason to wait under this row: it can be sent, or be told that it will not be. */
  isDue(row: SlotRow): boolean;
  /** It is due, and first: sends itself, or ends. */
  onTurn(row: SlotRow): void;
  /** It is to wait: counts itself as held; false if too many are, and then it has ended itself. */
  holdFor(slots: SlotView): boolean;
  /** It is under way, and the row has changed. */
  onRow(row: SlotRow): void;
  /** It waits for slots that there are no more; `error` says why it can go nowhere else. */
  onSlotsGone(error: LeverError | undefined): void;
}

interface Slot {
  /** Those that wait, by arrival. */
  readonly root: SlotCaller[];
  readonly nested: SlotCaller[];
  /** Those that dial, were sent or are open. */
  readonly active: Set<SlotCaller>;
}

export class SlotView {
  readonly #rows: SlotRow[];
  /** Of slots that were called from here. */
  readonly #slots = new Map<number, Slot>();
  /** Where each caller is. */
  readonly #slotOf = new Map<SlotCaller, number>();
  #waiting = 0;

  constructor(rows: readonly SlotRow[]) {
    this.#rows = rows.map(checked);
  }

  /** How many slots there are. */
  get count(): number {
    return this.#rows.length;
  }

  /** Calls that wait for a slot. */
  get waiting(): number {
    return this.#waiting;
  }

  /** The newest row of a slot; the same object until something in it changes. */
  rowOf(slot: number): SlotRow {
    return this.#rows[slot] as SlotRow;
  }

  /** Calls that are held for each slot, in a lane or while a link to the holder is made; only slots that have some. */
  heldBySlot(): Map<number, number> {
    const held = new Map<number, number>();
    for (const [index, { root, nested, active }] of this.#slots) {
      let count = root.length + nested.length;
      for (const caller of active) if (caller.isHeld) count++;
      if (count > 0) held.set(index, count);
    }
    return held;
  }

  /** Rows of a new table, all of them. */
  update(rows: readonly SlotRow[]): void {
    const changed: number[] = [];
    for (let index = 0; index < this.#rows.length; index++) {
      const known = this.#rows[index] as SlotRow;
      const next = rows[index] as SlotRow;
      // Another replica of the operator may be behind the last one.
      if (next === known || next.epoch < known.epoch) continue;
      const row = checked(next.fence < known.fence ? { ...next, fence: known.fence } : next);
      if (isSame(row, known)) continue;
      this.#rows[index] = row;
      changed.push(index);
    }
    for (const index of changed) {
      const active = this.#slots.get(index)?.active;
      for (const caller of [...(active ?? [])]) if (active?.has(caller) === true) caller.onRow(this.rowOf(index));
    }
    if (this.#waiting === 0) return;
    // All of them: what is due may also depend on the policy, which has come with the rows.
    for (const [index, { root, nested }] of this.#slots) {
      this.#pump(index, root);
      this.#pump(index, nested);
    }
  }

  // ---------------------------------------------------------------- waiting

  /** The caller's turn comes at once, or when it is due and those before it have gone. */
  enter(caller: SlotCaller, index: number): void {
    const lane = this.#laneOf(caller, index);
    const first = lane[0];
    const isFirst = caller.isUrgent || first === undefined || caller.arrival < first.arrival;
    const row = this.rowOf(index);
    if (isFirst && caller.isDue(row)) return caller.onTurn(row);
    if (!caller.holdFor(this)) return;
    // Nearly always the end: it is elsewhere for one that was refused and comes back.
    let at = lane.length;
    while (at > 0 && (lane[at - 1] as SlotCaller).arrival > caller.arrival) at--;
    lane.splice(at, 0, caller);
    this.#slotOf.set(caller, index);
    this.#waiting++;
  }

  /** Something that the caller waits for has come about. */
  wake(caller: SlotCaller): void {
    const index = this.#slotOf.get(caller);
    if (index !== undefined) this.#pump(index, this.#laneOf(caller, index));
  }

  /** Waits no longer. */
  leave(caller: SlotCaller): void {
    const index = this.#slotOf.get(caller);
    if (index === undefined) return;
    const lane = this.#laneOf(caller, index);
    const at = lane.indexOf(caller);
    if (at < 0) return;
    lane.splice(at, 1);
    this.#slotOf.delete(caller);
    this.#waiting--;
    // The others may have waited for this one only.
    if (at === 0) this.#pump(index, lane);
  }

  #pump(index: number, lane: SlotCaller[]): void {
    for (;;) {
      const first = lane[0];
      const row = this.rowOf(index);
      if (first === undefined || !first.isDue(row)) return;
      lane.shift();
      this.#slotOf.delete(first);
      this.#waiting--;
      first.onTurn(row);
    }
  }

  #laneOf(caller: SlotCaller, index: number): SlotCaller[] {
    const slot = this.#slot(index);
    return caller.isNested ? slot.nested : slot.root;
  }

  #slot(index: number): Slot {
    let slot = this.#slots.get(index);
    if (slot === undefined) {
      slot = { root: [], nested: [], active: new Set() };
      this.#slots.set(index, slot);
    }
    return slot;
  }

  // ---------------------------------------------------------------- under way

  /** The caller is under way; it hears of changes of the row until `end`. */
  begin(caller: SlotCaller, index: number): void {
    this.#slot(index).active.add(caller);
  }

  end(caller: SlotCaller, index: number): void {
    this.#slots.get(index)?.active.delete(caller);
  }

  /** The service has no such slots any more: whoever waits is told. Those under way go on to their ends. */
  close(error: LeverError | undefined): void {
    const waiting = [...this.#slots.values()].flatMap(({ root, nested }) => [...root.splice(0), ...nested.splice(0)]);
    this.#waiting -= waiting.length;
    for (const caller of waiting) this.#slotOf.delete(caller);
    for (const caller of waiting) caller.onSlotsGone(error);
  }
}

/** The row of a slot of which nothing is known. */
export function unknownRow(slot: number): SlotRow {
  return { slot, holder: "", epoch: 0, issued: 0, isMoving: false, fence: 0 };
}

/** The row says that what a refusal named with `epoch` (`MOVED`) has come about, or been called off. */
export function hasMoved(row: SlotRow, epoch: number): boolean {
  return row.issued >= epoch && (row.epoch >= epoch || !row.isMoving);
}

/** Whoever holds it under an epoch below the fence is not heard: nobody is known to hold it. */
function checked(row: SlotRow): SlotRow {
  return row.epoch < row.fence && row.holder !== "" ? { ...row, holder: "" } : row;
}

function isSame(a: SlotRow, b: SlotRow): boolean {
  return (
    a.holder === b.holder &&
    a.epoch === b.epoch &&
    a.issued === b.issued &&
    a.isMoving === b.isMoving &&
    a.fence === b.fence
  );
}
