/**
 * The holder's side of a lease, on the holder's clock: when it began, what is left of it, and what proves that the app
 * still serves (R2 to R4).
 *
 * Invariant: a lease begins when the agent sent a ping that the app has answered since, and that a renewal reported
 * which the leader has answered; never later. So an app that hangs loses its lease, whatever its agent does.
 */

import { type ClockReading, elapsedMs, type LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import { type LeaseTimes, renewalAgeMsMax } from "@leveros/protocol/control/lease.ts";
import type { RenewMessage } from "@leveros/protocol/control/ownership.ts";
import type { Gate } from "@leveros/protocol/session/gate.ts";

/** Pings that the app has not answered; while there are so many none is sent. */
const unansweredPingsMax = 32;
/** Renewals that the leader has not answered; of more the oldest are forgotten. */
const unansweredRenewalsMax = 16;

/** The numbered questions to one connection of an app, and when those were sent that it has answered. */
export class AppPings {
  readonly #clock: LeaseClock;
  readonly #unanswered = new Map<number, ClockReading>();
  #lastSent = 0;
  #lastAnswered = 0;
  #sentAt: ClockReading | undefined;

  constructor(clock: LeaseClock) {
    this.#clock = clock;
  }

  /** The number of a ping that is sent from here on; undefined while too many are not answered. */
  send(): number | undefined {
    if (this.#unanswered.size >= unansweredPingsMax) return undefined;
    this.#lastSent++;
    this.#unanswered.set(this.#lastSent, this.#clock.read());
    return this.#lastSent;
  }

  /** The app has answered ping `n`. False if that was never sent, or a later one has been answered. */
  answered(n: number): boolean {
    const sentAt = this.#unanswered.get(n);
    if (sentAt === undefined) return false;
    for (const sent of this.#unanswered.keys()) {
      if (sent > n) break;
      this.#unanswered.delete(sent);
    }
    this.#lastAnswered = n;
    this.#sentAt = sentAt;
    return true;
  }

  get lastSent(): number {
    return this.#lastSent;
  }

  /** Of the newest that was answered; 0 before the first. */
  get lastAnswered(): number {
    return this.#lastAnswered;
  }

  /** When the newest ping was sent that the app has answered, if that was not too long ago to be reported. */
  get fresh(): ClockReading | undefined {
    const sentAt = this.#sentAt;
    if (sentAt === undefined || elapsedMs(sentAt, this.#clock.read()) > renewalAgeMsMax) return undefined;
    return sentAt;
  }
}

/** What is left until each of a lease's times, whole ms rounded down; below 0 once it is over, or before it began. */
export interface LeaseLeft {
  readonly admitMs: number;
  readonly killMs: number;
  readonly gateMs: number;
}

/** One incarnation's. Its gate is open while its output may leave. */
export class HolderLease implements Gate {
  readonly times: LeaseTimes;
  readonly #clock: LeaseClock;
  /** When the ping was sent that each renewal reported. */
  readonly #unanswered = new Map<number, ClockReading>();
  #lastRenewal = 0;
  #begunAt: ClockReading | undefined;
  #hasLapsed = false;
  #isOver = false;

  constructor(clock: LeaseClock, times: LeaseTimes) {
    this.#clock = clock;
    this.times = times;
  }

  /** The next renewal, which reports that the app has answered a ping that was sent at `pingedAt`. It is sent at once. */
  renew(pingedAt: ClockReading): RenewMessage {
    this.#lastRenewal++;
    this.#unanswered.set(this.#lastRenewal, pingedAt);
    if (this.#unanswered.size > unansweredRenewalsMax) {
      this.#unanswered.delete(this.#lastRenewal - unansweredRenewalsMax);
    }
    // Rounded down: the leader takes it off the time that it waits.
    return { type: "renew", n: this.#lastRenewal, ageMs: Math.floor(elapsedMs(pingedAt, this.#clock.read())) };
  }

  /** The leader has answered renewal `n`: the lease runs anew from what that one reported. Not once it has lapsed. */
  renewed(n: number): void {
    const pingedAt = this.#unanswered.get(n);
    if (pingedAt === undefined) return;
    for (const sent of this.#unanswered.keys()) {
      if (sent > n) break;
      this.#unanswered.delete(sent);
    }
    if (!this.hasLapsed) this.#begunAt = pingedAt;
  }

  get hasBegun(): boolean {
    return this.#begunAt !== undefined;
  }

  /** New work may begin. */
  get isAdmitting(): boolean {
    return this.hasBegun && !this.hasLapsed;
  }

  /** It has run, and its time for new work is over; that is final. */
  get hasLapsed(): boolean {
    if (!this.#hasLapsed && this.#begunAt !== undefined) {
      this.#hasLapsed = elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.admitMs;
    }
    return this.#hasLapsed;
  }

  /** What was begun under it may be heard. */
  get isOpen(): boolean {
    if (this.#isOver || this.#begunAt === undefined) return false;
    if (elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.gateMs) this.end();
    return !this.#isOver;
  }

  get isOver(): boolean {
    return this.#isOver || (this.hasBegun && !this.isOpen);
  }

  /** Nothing is heard any more. */
  end(): void {
    this.#hasLapsed = true;
    this.#isOver = true;
  }

  left(): LeaseLeft {
    const { admitMs, killMs, gateMs } = this.times;
    if (this.#begunAt === undefined || this.isOver) return noLease;
    const elapsed = elapsedMs(this.#begunAt, this.#clock.read());
    return {
      admitMs: this.hasLapsed ? Math.min(Math.floor(admitMs - elapsed), -1) : Math.floor(admitMs - elapsed),
      killMs: Math.floor(killMs - elapsed),
      gateMs: Math.floor(gateMs - elapsed),
    };
  }
}

export const noLease: LeaseLeft = { admitMs: -1, killMs: -1, gateMs: -1 };
