/**
 * What an app knows of its instance's lease: its own end, which is never later than its agent's.
 *
 * The app asks, the agent answers what is left; the app counts that from when it asked, not from when it heard. Invariant:
 * each decision reads the clock, so that a process that was stopped knows before it does anything.
 */

import { type ClockReading, elapsedMs, type LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import type { LeaseMessage } from "@leveros/protocol/control/ownership.ts";
import type { Gate } from "@leveros/protocol/session/gate.ts";

/** What was left of the lease at a moment, ms. */
export interface LeaseTerm {
  readonly asked: ClockReading;
  readonly admitMs: number;
  readonly killMs: number;
  readonly gateMs: number;
}

/** Questions that were not answered: an agent that answers none of so many is not there. */
const questionsMax = 64;

export class AppLease {
  readonly #clock: LeaseClock;
  readonly #questions = new Map<number, ClockReading>();
  #asked = 0;
  #answered = 0;
  #term: LeaseTerm | undefined;

  constructor(clock: LeaseClock) {
    this.#clock = clock;
  }

  /** By the last answer; undefined while there is no lease. */
  get term(): LeaseTerm | undefined {
    return this.#term;
  }

  /** The number of a question that is sent now. */
  ask(): number {
    const n = ++this.#asked;
    this.#questions.set(n, this.#clock.read());
    if (this.#questions.size > questionsMax) this.#questions.delete(this.#questions.keys().next().value as number);
    return n;
  }

  /** False for an answer that says nothing new. */
  answer({ n, admitMs, killMs, gateMs }: LeaseMessage): boolean {
    const asked = this.#questions.get(n);
    if (asked === undefined || n <= this.#answered) return false;
    this.#answered = n;
    for (const question of this.#questions.keys()) if (question <= n) this.#questions.delete(question);
    this.#term = { asked, admitMs, killMs, gateMs };
    return true;
  }

  /** The agent is gone, and the lease with it. */
  end(): void {
    this.#questions.clear();
    this.#term = undefined;
  }

  passedMs(term: LeaseTerm): number {
    return elapsedMs(term.asked, this.#clock.read());
  }

  /** Until no method may start any more; 0 or less: none may. */
  get admitLeftMs(): number {
    const term = this.#term;
    return term === undefined ? 0 : term.admitMs - this.passedMs(term);
  }
}

/** For all that the methods of a slot say. It ends with the lease, which is renewed, or at once. */
export class SlotGate implements Gate {
  readonly #lease: AppLease;
  #frozen: LeaseTerm | undefined;
  #isShut = false;

  constructor(lease: AppLease) {
    this.#lease = lease;
  }

  get isOpen(): boolean {
    if (this.#isShut) return false;
    const term = this.#frozen ?? this.#lease.term;
    if (term !== undefined && this.#lease.passedMs(term) < term.gateMs) return true;
    this.#isShut = true;
    return false;
  }

  /** Renewals do not count any more. */
  freeze(): void {
    this.#frozen ??= this.#lease.term;
    if (this.#frozen === undefined) this.#isShut = true;
  }

  shut(): void {
    this.#isShut = true;
  }
}
