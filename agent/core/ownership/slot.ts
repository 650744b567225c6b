/**
 * One slot under one epoch at its holder: how far it is, what runs in it, and the gate that everything passes which its
 * methods let out.
 *
 * Invariant: a slot that was released never lets anything pass again.
 */

import type { TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Gate } from "@leveros/protocol/session/gate.ts";
import type { HandedSlot } from "./hand-over.ts";
import type { HolderLease } from "./lease.ts";

export type SlotState =
  /** Granted; the app has not opened it. */
  | "Opening"
  | "Held"
  /** Only nested calls are admitted; the app is to close it. */
  | "Draining"
  /** Lost, or to be given up: the app is to abort what runs. */
  | "Aborting"
  /** The app has closed it; what its methods said last is leaving. */
  | "Closed"
  /** Its app is gone, and nobody can say whether methods of it still run. */
  | "Lost";

/** A call or channel in a slot. */
export interface SlotRelay {
  readonly isChannel: boolean;
  /** Its method is known to have been entered. */
  readonly isAnswered: boolean;
  /** Its method may run. */
  readonly isRunning: boolean;
  /** Something of it waits for the caller's credit. */
  readonly hasUnsent: boolean;
  /** Tells the caller to open the channel again. */
  move(): void;
  /** Ends it towards both sides. */
  end(error: LeverError): void;
}

export class Slot implements Gate {
  readonly slot: number;
  readonly epoch: number;
  readonly lease: HolderLease;
  /** What its output has to pass; undefined where nobody keeps a lease. */
  readonly gate: Gate | undefined;
  state: SlotState;
  /** While it drains: the epoch that callers are to wait for. */
  next = 0;
  /** Calls and channels that have not ended, or of which something has not left. */
  readonly relays = new Set<SlotRelay>();
  /** Methods that may run although their streams have ended. */
  orphans = 0;
  /** Those of them of which the app has said that they have returned, without saying which. */
  returned = 0;
  /** It was served here under its epoch, or what is in it was in the app before: what the last holder left is used. */
  wasServed = false;
  /** The app was told to abort what runs in it. */
  isAborted = false;
  /** Of state Closed: what was in it, if all of it is there. */
  handed: HandedSlot | undefined;
  /** Ends the fetching of what the last holder left. */
  readonly fetching = new AbortController();
  /** Of state Draining: for its channels. Of state Closed: for what does not leave. */
  timer: TimerHandle | undefined;
  #isShut = false;

  constructor(slot: number, epoch: number, lease: HolderLease, state: SlotState, isGated: boolean) {
    this.slot = slot;
    this.epoch = epoch;
    this.lease = lease;
    this.state = state;
    this.gate = isGated ? this : undefined;
  }

  get isOpen(): boolean {
    return !this.#isShut && this.lease.isOpen;
  }

  /** Nothing leaves any more. */
  shut(): void {
    this.#isShut = true;
  }

  /** It counts as held here: for its leader, and for people. */
  get isServing(): boolean {
    return this.state === "Held" || this.state === "Draining";
  }

  get mayRun(): boolean {
    if (this.orphans > 0) return true;
    for (const relay of this.relays) if (relay.isRunning) return true;
    return false;
  }

  get hasUnsent(): boolean {
    for (const relay of this.relays) if (relay.hasUnsent) return true;
    return false;
  }
}
