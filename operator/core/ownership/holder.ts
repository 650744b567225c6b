/**
 * One incarnation as the leader knows it: who it is, its lease on the leader's clock, its connection, and the proof that
 * it holds nothing any more.
 *
 * Invariant: what has ended stays ended. A lease is judged by a reading of the monotonic clock taken at the moment: it
 * never runs ahead of true time by more than its rate, so that a lease is never taken for ended too early. (The wall
 * clock, which counts at the holder, may be set forward; then a holder ends too early, which is safe, and a leader must
 * not.)
 */

import type { ClockReading } from "@leveros/protocol/clock/lease-clock.ts";
import { leaderLeaseMs } from "@leveros/protocol/control/lease.ts";
import type {
  HeldSlot,
  HolderIdentity,
  HolderMessage,
  LeaderMessage,
  ReleasedSlot,
} from "@leveros/protocol/control/ownership.ts";
import type { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { HolderRef } from "./slot-store.ts";

/** The lease of one incarnation. Until its first renewal it counts as if it had been renewed at `from`. */
export class HolderLease {
  #from: ClockReading;
  #ageMs = 0;
  #isRenewed = false;

  constructor(from: ClockReading) {
    this.#from = from;
  }

  /** The incarnation has renewed it at this leader. */
  get isRenewed(): boolean {
    return this.#isRenewed;
  }

  /** 0 or less: the incarnation cannot take itself for a holder any more. */
  leftMs(now: ClockReading, leaseMs: number): number {
    return leaderLeaseMs(leaseMs, this.#ageMs) - (now.monotonicMs - this.#from.monotonicMs);
  }

  /** A renewal has come in, whose newest answer of the app is `ageMs` old. `hadLease`: it never becomes shorter. */
  renew(now: ClockReading, leaseMs: number, ageMs: number, hadLease: boolean): void {
    this.#isRenewed = true;
    if (hadLease && leaderLeaseMs(leaseMs, ageMs) < this.leftMs(now, leaseMs)) return;
    this.#from = now;
    this.#ageMs = ageMs;
  }
}

/** The processes that an instance's holders need: what an app has said may lie in its agent when the app is gone. */
export type InstanceProcess = "app" | "agent";

/** How the incarnation's last epochs ended, if it did not release them. */
export type HolderEnd =
  /** Its app's process is gone, and its agent has nothing left of what that had said. */
  | { readonly proof: "process" }
  | { readonly proof: "lease" }
  /** A later incarnation of the same process has registered. */
  | { readonly proof: "successor"; readonly by: Holder };

/** A connection of the incarnation. */
export interface HolderConnection {
  readonly send: (message: LeaderMessage) => void;
  readonly onEnded: (error: LeverError) => void;
}

export class Holder implements HolderRef {
  readonly instance: string;
  readonly incarnation: string;
  readonly process: string;
  address: string;
  readonly appStartedAt: number;
  readonly agentStartedAt: number;
  readonly lease: HolderLease;
  /** A table from before this leader names it. */
  isRestored: boolean;
  isLeaving = false;
  /** It has renewed its lease on its present connection. */
  hasRenewedHere = false;
  /** It has given up a slot that nobody asked it for, and has not renewed its lease since. */
  hasGivenUp = false;
  connection: HolderConnection | undefined;
  /** What it said when it last connected; taken once the table is read. */
  report: { readonly holds: readonly HeldSlot[]; readonly released: readonly ReleasedSlot[] } | undefined;
  /** A renewal that is answered once the table is read. */
  unanswered: number | undefined;
  /** Those that have ended. An agent that lives counts as one that has for what it has nothing left of. */
  readonly endedProcesses = new Set<InstanceProcess>();
  ended: HolderEnd | undefined;

  constructor(ref: HolderRef, lease: HolderLease, isRestored: boolean) {
    this.instance = ref.instance;
    this.incarnation = ref.incarnation;
    this.process = ref.process;
    this.address = ref.address;
    this.appStartedAt = ref.appStartedAt;
    this.agentStartedAt = ref.agentStartedAt;
    this.lease = lease;
    this.isRestored = isRestored;
  }

  /** When the process of it began at the latest, wall-clock ms of its machine. */
  startedAt(process: InstanceProcess): number {
    return process === "app" ? this.appStartedAt : this.agentStartedAt;
  }

  /** Nothing of it goes out any more: its agent says so, or is gone itself. */
  get isSilent(): boolean {
    return this.endedProcesses.has("agent");
  }

  get ref(): HolderRef {
    const { instance, incarnation, process, address, appStartedAt, agentStartedAt } = this;
    return { instance, incarnation, process, address, appStartedAt, agentStartedAt };
  }

  /** Its lease can end: before the first renewal one that no table names has none. */
  get hasLease(): boolean {
    return this.lease.isRenewed || this.isRestored;
  }

  renew(now: ClockReading, leaseMs: number, ageMs: number): void {
    this.lease.renew(now, leaseMs, ageMs, this.hasLease);
  }

  /** It is the same process, at the same instance. */
  isSameProcess(other: HolderRef): boolean {
    return this.instance === other.instance && this.process === other.process;
  }

  /** Who goes on in its place in the same process, if anybody does. */
  get successor(): Holder | undefined {
    let holder: Holder = this;
    while (holder.ended?.proof === "successor") holder = holder.ended.by;
    return holder.ended === undefined && holder !== this ? holder : undefined;
  }

  connect(identity: HolderIdentity, connection: HolderConnection): void {
    this.address = identity.address;
    this.connection = connection;
    this.report = { holds: identity.holds, released: identity.released };
    this.unanswered = undefined;
    this.hasRenewedHere = false;
  }

  /** What it has said since it connected, while the table is not read yet. */
  amendReport(message: HolderMessage): void {
    if (this.report === undefined || (message.type !== "held" && message.type !== "released")) return;
    const { holds, released } = this.report;
    const said = new Set(message.slots.map(({ slot }) => slot));
    const others = holds.filter(({ slot }) => !said.has(slot));
    if (message.type === "held") {
      const held = message.slots.map((slot) => ({ ...slot, isDraining: false }));
      this.report = { holds: [...others, ...held], released };
    } else {
      const before = released.filter(({ slot }) => !said.has(slot));
      this.report = { holds: others, released: [...before, ...message.slots] };
    }
  }

  end(end: HolderEnd, error: LeverError): void {
    // The end of the process ends whatever its earlier incarnations may have left under way.
    if (this.ended !== undefined && (this.ended.proof !== "successor" || end.proof !== "process")) return;
    this.ended = end;
    this.disconnect(error);
  }

  disconnect(error: LeverError): void {
    const { connection } = this;
    this.connection = undefined;
    connection?.onEnded(error);
  }
}

/**
 * Whether incarnation `a` is known to be an earlier one than `b`: of the same start of the agent (`<boot>.<lapses>.<app
 * session>`), with lower numbers. Of different starts nobody can tell.
 */
export function isEarlierIncarnation(a: string, b: string): boolean {
  const [bootA, ...countsA] = a.split(".");
  const [bootB, ...countsB] = b.split(".");
  if (bootA !== bootB || countsA.length !== 2 || countsB.length !== 2) return false;
  const [lapsesA, sessionA] = countsA.map(Number) as [number, number];
  const [lapsesB, sessionB] = countsB.map(Number) as [number, number];
  return sessionA < sessionB || (sessionA === sessionB && lapsesA < lapsesB);
}

/** The key of an incarnation within its service. */
export function holderKey({ instance, incarnation }: Pick<HolderRef, "instance" | "incarnation">): string {
  return `${instance}/${incarnation}`;
}
