/**
 * One slot as the leader decides it: who has it or is to have it, who has to release it first, and what the next holder
 * finds.
 *
 * The changes here are single steps, each of which keeps the row true; which step is due is decided by `service-slots.ts`.
 * Invariants: `epoch` is given out once; while `after` is not empty its incarnations may run the slot, and `holder` has
 * not been granted it by this leader; `fence` never falls.
 */

import type { SlotRow as PublishedRow } from "@leveros/protocol/control/discovery.ts";
import type { SlotOrigin } from "@leveros/protocol/control/ownership.ts";
import type { Holder, HolderConnection } from "./holder.ts";
import type { MoveReason, SlotMove, StoredOrigin, StoredSlotRow } from "./slot-store.ts";

/** Moves that are remembered for people. */
const movesMax = 5;

export interface Former {
  readonly holder: Holder;
  readonly epoch: number;
}

export class SlotRow {
  readonly slot: number;
  holder: Holder | undefined;
  /** Of the holder, or of the last one. */
  epoch = 0;
  after: Former[] = [];
  fence = 0;
  issued = 0;
  shown = { holder: "", epoch: 0 };
  isMovingShown = false;
  /** What callers have last been told. */
  published: PublishedRow;
  /** What the holder's epoch begins with. */
  origin: StoredOrigin = { memory: "fresh" };
  /** The highest epoch that has ended and under which something may have run. */
  endedEpoch = 0;
  moves: readonly SlotMove[] = [];

  /** The holder may have been granted its epoch, by whichever leader. */
  mayHaveRun = false;
  /** The holder has said that it has the slot under its epoch. */
  isHeld = false;
  /** The move to the holder is called off, and it is asked to say that it never had the slot. */
  isWithdrawn = false;
  /** The change of the table that made the holder; the table is written at least up to it before anybody is told. */
  assignedAt = 0;
  /** Why the slot is under way. */
  moving: MoveReason | undefined;
  /** Why nobody holds it. */
  freed: MoveReason = "first";
  /** On the clock: when a drain for balance is called off, and until when none is begun. */
  drainDueAt: number | undefined;
  restsUntil = Number.NEGATIVE_INFINITY;

  /** The connections that were told; another one is told again. */
  grantedTo: HolderConnection | undefined;
  withdrawnFrom: HolderConnection | undefined;
  drained: { readonly connection: HolderConnection; readonly next: number } | undefined;

  constructor(slot: number) {
    this.slot = slot;
    this.published = { slot, holder: "", epoch: 0, issued: 0, isMoving: false, fence: 0 };
  }

  static restore(stored: StoredSlotRow, holderOf: (ref: NonNullable<StoredSlotRow["holder"]>) => Holder): SlotRow {
    const row = new SlotRow(stored.slot);
    row.holder = stored.holder === undefined ? undefined : holderOf(stored.holder);
    row.epoch = stored.epoch;
    row.after = stored.after.map(({ holder, epoch }) => ({ holder: holderOf(holder), epoch }));
    row.fence = stored.fence;
    row.issued = stored.issued;
    row.shown = { ...stored.shown };
    row.origin = stored.origin;
    row.endedEpoch = stored.endedEpoch;
    row.moves = stored.moves;
    // Nobody knows what the leader before this one has still done.
    row.mayHaveRun = row.holder !== undefined;
    row.isHeld = row.holder !== undefined && row.shown.holder === row.holder.instance && row.shown.epoch === row.epoch;
    if (row.epoch > 0) row.freed = "released";
    return row;
  }

  get stored(): StoredSlotRow {
    const { slot, holder, epoch, after, fence, issued, shown, origin, endedEpoch, moves } = this;
    return {
      slot,
      ...(holder !== undefined && { holder: holder.ref }),
      epoch,
      after: after.map((former) => ({ holder: former.holder.ref, epoch: former.epoch })),
      fence,
      issued,
      shown: { ...shown },
      origin,
      endedEpoch,
      moves,
    };
  }

  /** Who is to release the slot can go on with it: nothing later can have run. (The holder's epoch is looked at apart.) */
  get canRevert(): boolean {
    const [former] = this.after;
    return former !== undefined && this.endedEpoch <= former.epoch;
  }

  /** What the grant says of the past. */
  get grantOrigin(): SlotOrigin {
    const { origin } = this;
    if (origin.memory !== "state") return { memory: origin.memory };
    return { memory: "state", address: origin.address, epoch: origin.epoch };
  }

  /** The slot is to go to `holder`; who has it now is to release it first. */
  assign(holder: Holder, epoch: number, reason: MoveReason, at: number): void {
    const from = this.holder?.instance ?? this.moves.at(-1)?.to ?? "";
    if (this.isHeld && this.holder !== undefined) this.after = [{ holder: this.holder, epoch: this.epoch }];
    this.#take(holder, epoch);
    this.mayHaveRun = false;
    this.isHeld = false;
    this.moving = reason;
    this.#remember({ at, from, to: holder.instance, epoch, reason });
  }

  /** The same process goes on as `successor`: its own earlier incarnation needs to release nothing. */
  passOn(successor: Holder, epoch: number, at: number): void {
    const { holder } = this;
    if (holder === undefined) return;
    if (this.mayHaveRun) {
      const { process } = successor;
      this.endEpoch(this.epoch, { memory: "state", epoch: this.epoch, address: successor.address, process });
    }
    this.#take(successor, epoch);
    this.mayHaveRun = false;
    this.isHeld = false;
    this.moving = "sameProcess";
    this.#remember({ at, from: holder.instance, to: successor.instance, epoch, reason: "sameProcess" });
  }

  /** The holder has the slot, and so everybody before it has released it. */
  confirm(): void {
    const { holder } = this;
    if (holder === undefined) return;
    this.after = [];
    this.mayHaveRun = true;
    this.isHeld = true;
    this.isWithdrawn = false;
    this.moving = undefined;
    this.drainDueAt = undefined;
    this.shown = { holder: holder.instance, epoch: this.epoch };
  }

  /** `former` has the slot still: whatever was to come after it has never begun. */
  neverGrantedAfter(former: Former): void {
    this.mayHaveRun = false;
    this.shown = { holder: former.holder.instance, epoch: former.epoch };
    if (this.endedEpoch <= former.epoch) return;
    this.endedEpoch = former.epoch - 1;
    this.origin = { memory: "lost" };
  }

  /** The move is off: who was to release the slot keeps it. */
  revert(at: number): void {
    const [former] = this.after;
    if (former === undefined) return;
    const from = this.holder?.instance ?? "";
    this.after = [];
    this.#take(former.holder, former.epoch);
    this.mayHaveRun = true;
    this.isHeld = true;
    this.moving = undefined;
    this.shown = { holder: former.holder.instance, epoch: former.epoch };
    this.#remember({ at, from, to: former.holder.instance, epoch: former.epoch, reason: "calledOff" });
  }

  /** Nobody is to have the slot, until it is assigned anew. */
  free(reason: MoveReason): void {
    this.holder = undefined;
    this.mayHaveRun = false;
    this.isHeld = false;
    this.isWithdrawn = false;
    this.moving = undefined;
    this.drainDueAt = undefined;
    this.freed = this.endedEpoch === 0 ? "first" : reason;
    if (this.after.length === 0 || this.endedEpoch > this.shown.epoch) this.shown.holder = "";
  }

  /** An epoch under which something may have run is over, and left this for the next one. */
  endEpoch(epoch: number, origin: StoredOrigin): void {
    // What an earlier one left is stale once a later one may have run.
    if (epoch < this.endedEpoch) return;
    this.endedEpoch = epoch;
    this.origin = origin;
  }

  /** An epoch has ended without a release: nothing that it may still say is to be believed. */
  endUnreleased(epoch: number): void {
    this.endEpoch(epoch, { memory: "lost" });
    this.fence = Math.max(this.fence, epoch + 1);
    if (this.shown.epoch <= epoch) this.shown.holder = "";
  }

  /** What callers have been told by this leader stays true: nothing goes back, whatever the table says now. */
  goOn(before: SlotRow): void {
    this.published = before.published;
    this.fence = Math.max(this.fence, before.fence);
    this.issued = Math.max(this.issued, before.issued);
    if (this.shown.epoch < this.fence) this.shown.holder = "";
  }

  /** The row as callers are to see it now, if that has changed. `isWritten`: the store has the present holder. */
  publish(isWritten: boolean): PublishedRow | undefined {
    if (isWritten) {
      this.issued = Math.max(this.issued, this.epoch);
      this.isMovingShown = this.holder !== undefined && !this.isHeld;
    }
    const { slot, shown, issued, isMovingShown: isMoving, fence, published } = this;
    if (
      published.holder === shown.holder &&
      published.epoch === shown.epoch &&
      published.issued === issued &&
      published.isMoving === isMoving &&
      published.fence === fence
    ) {
      return undefined;
    }
    this.published = { slot, holder: shown.holder, epoch: shown.epoch, issued, isMoving, fence };
    return this.published;
  }

  #take(holder: Holder, epoch: number): void {
    // State that never left its process is nobody else's.
    if (this.origin.memory === "state" && this.origin.process !== undefined && this.origin.process !== holder.process) {
      this.origin = { memory: "lost" };
    }
    this.holder = holder;
    this.epoch = epoch;
    this.isWithdrawn = false;
    this.grantedTo = undefined;
    this.withdrawnFrom = undefined;
    this.drainDueAt = undefined;
  }

  #remember(move: SlotMove): void {
    // Clocks may tell fractions; a store takes whole ones.
    this.moves = [...this.moves.slice(1 - movesMax), { ...move, at: Math.floor(move.at) }];
  }
}
