/**
 * The slots of one service: who is there to hold them, what is written, and what is due for each slot.
 *
 * What comes in (messages, proofs, answers of the store) only changes facts; then, once in a turn of the loop, `#advance`
 * looks at all of them and takes the steps that are due, level by level, so that the order in which facts came in does
 * not matter. Invariants: nobody is told of a holder before the table with it is written (R8); a slot is granted only
 * when all before its holder have proven that they do not have it (R10), and to an incarnation with a lease.
 */

import type { Clock, Random, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { ClockReading, LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import {
  instancesPerServiceMax,
  type OwnershipPolicy,
  type SlotRow as PublishedRow,
} from "@leveros/protocol/control/discovery.ts";
import { leaseMsMin, newLeaderWaitMs, rebalanceDrainMs } from "@leveros/protocol/control/lease.ts";
import type {
  DrainingSlot,
  GrantedSlot,
  HolderIdentity,
  HolderMessage,
  ReleasedSlot,
  SlotEpoch,
} from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { assign, type Member, type Place } from "./assignment.ts";
import {
  Holder,
  type HolderConnection,
  HolderLease,
  holderKey,
  type InstanceProcess,
  isEarlierIncarnation,
} from "./holder.ts";
import { SlotRow } from "./slot-row.ts";
import type { HolderRef, MoveReason, SlotStore, SlotTableContent, StoredSlotTable } from "./slot-store.ts";
import { TableFile } from "./table-file.ts";

/** Slots under way at a time, for balance: each is closed to calls for a moment. */
export const rebalancingMax = 32;
/** The same of slots whose holder is about to stop. */
export const leavingMax = 256;
/** A slot whose move was called off is left alone for this long. */
const restAfterCallOffMs = 60_000;
/** Incarnations of an instance that are remembered as ended. */
const endedMax = 8;
/** Owner of a slot that stays where it is. */
const nobody = "";

/** What is shared by all services of a leader. */
export interface SlotsContext {
  readonly clock: Clock;
  readonly leaseClock: LeaseClock;
  readonly random: Random;
  readonly store: SlotStore;
  readonly holdersMax: number;
  /** This one leads, by a reading of its clocks. */
  isLeaderAt(reading: ClockReading): boolean;
  /** A name for a write, different from all others. */
  nextWriter(): string;
  isOwn(writer: string): boolean;
  onSlots(environment: string, service: string, rows: readonly PublishedRow[]): void;
  onError(environment: string, service: string, error: unknown): void;
}

/** A table that was removed: who may still believe in it, and until when. */
export interface RemovedSlots {
  readonly at: ClockReading;
  readonly leaseMs: number;
  readonly lastEpoch: number;
  /** Instances that have not released what they had. */
  readonly instances: Map<string, RemovedInstance>;
}

export interface RemovedInstance {
  /** Which of its processes are known to have ended. */
  readonly ended: ReadonlySet<InstanceProcess>;
  /** When the newest of them began. */
  readonly startedAt: Readonly<Record<InstanceProcess, number>>;
}

/** Processes of the instance that began before this time have ended: with both nothing is left of what it had. */
export function endedOfRemoved(
  { instances }: RemovedSlots,
  instance: string,
  process: InstanceProcess,
  endedBefore: number,
): void {
  const known = instances.get(instance);
  if (known === undefined || known.startedAt[process] >= endedBefore) return;
  const ended = new Set(known.ended).add(process);
  if (ended.size === 2) instances.delete(instance);
  else instances.set(instance, { ...known, ended });
}

/** `holder` has had slots too. */
function addRemoved(instances: RemovedSlots["instances"], holder: HolderRef, ended: Set<InstanceProcess>): void {
  const known = instances.get(holder.instance);
  instances.set(holder.instance, {
    ended: known === undefined ? ended : ended.intersection(known.ended),
    startedAt: {
      app: Math.max(holder.appStartedAt, known?.startedAt.app ?? 0),
      agent: Math.max(holder.agentStartedAt, known?.startedAt.agent ?? 0),
    },
  });
}

export interface SlotExplanation extends PublishedRow {
  /** The incarnation whose the slot is, or is to be. */
  readonly incarnation: string | undefined;
  /** How long its lease runs at the leader, ms. */
  readonly leaseLeftMs: number | undefined;
  /** Where the slot is to go. */
  readonly next: { readonly instance: string; readonly epoch: number } | undefined;
  /** Who has to release it first. */
  readonly waitsFor: readonly { readonly instance: string; readonly epoch: number }[];
  readonly isWithdrawn: boolean;
  /** The last moves, newest last. */
  readonly moves: SlotRow["moves"];
}

interface InstanceRecord {
  readonly instance: string;
  /** The source knows it. */
  isKnown: boolean;
  isDraining: boolean;
  /** The incarnation that connected last. */
  current: Holder | undefined;
  readonly holders: Set<Holder>;
  /** Incarnations that are over. */
  readonly ended: string[];
  /** By the source: all of its processes that began before have ended, those that have not registered yet too. */
  endedBefore: Record<InstanceProcess, number>;
  /** By the source, before the table was read: those of whoever it names have ended. */
  readonly endedEarly: Set<InstanceProcess>;
}

/** What one connection is to be told in this turn. */
interface Outbox {
  readonly grants: GrantedSlot[];
  readonly drains: DrainingSlot[];
  readonly resumes: SlotEpoch[];
  readonly withdrawals: SlotEpoch[];
}

export class ServiceSlots {
  readonly environment: string;
  readonly service: string;
  readonly #context: SlotsContext;
  readonly #slots: number;
  /** The longest that holders may go by. */
  #leaseMs: number;
  #rows: SlotRow[];
  readonly #holders = new Map<string, Holder>();
  readonly #instances = new Map<string, InstanceRecord>();
  readonly #connections = new Map<HolderConnection, Outbox>();

  #lastEpoch = 0;
  /** The epoch of all that is assigned in this turn. */
  #turnEpoch: number | undefined;
  /** Free slots are given to nobody before its leases are over. */
  #removed: RemovedSlots | undefined;
  #waitFrom: ClockReading | undefined;

  readonly #file: TableFile;
  #isLoaded = false;
  #isClosed = false;
  #isAdvancing = false;
  #timer: TimerHandle | undefined;

  constructor(
    context: SlotsContext,
    environment: string,
    service: string,
    policy: OwnershipPolicy,
    removed: RemovedSlots | undefined,
  ) {
    this.#context = context;
    this.environment = environment;
    this.service = service;
    this.#slots = policy.slots;
    this.#leaseMs = Math.max(policy.leaseMs, removed?.leaseMs ?? 0);
    this.#lastEpoch = removed?.lastEpoch ?? 0;
    this.#removed = removed;
    this.#rows = freshRows(policy.slots);
    const { clock, random, store, nextWriter, isOwn, onError } = context;
    this.#file = new TableFile({
      environment,
      service,
      clock,
      random,
      store,
      nextWriter,
      isOwn,
      content: (writer) => this.#content(writer),
      onRead: (stored) => this.#onRead(stored),
      onSettled: () => this.#touch(),
      onError: (error) => onError(environment, service, error),
    });
  }

  // ---------------------------------------------------------------- from the leader

  /** Reads the table; incarnations in it that say nothing hold their slots for a lease from `waitFrom`. */
  load(waitFrom: ClockReading): void {
    this.#waitFrom = waitFrom;
    this.#advance();
  }

  /** Throws INVALID_OPTION for another number of slots. */
  setPolicy(policy: OwnershipPolicy): void {
    if (policy.slots !== this.#slots) {
      throw new LeverError(
        "INVALID_OPTION",
        `${this.environment}/${this.service} has ${this.#slots} slots, and ${policy.slots} are wanted now: their number ` +
          "never changes; remove the service and declare it anew",
        { effect: "none", details: { field: "slots", slots: this.#slots } },
      );
    }
    // Holders go by the shorter one when they know of it; until then, and for ever after, the longer one is waited for.
    if (policy.leaseMs > this.#leaseMs) {
      this.#leaseMs = policy.leaseMs;
      this.#changed();
    }
    this.#touch();
  }

  /** The source knows the instance. */
  setInstance(instance: string, isDraining: boolean): void {
    const record = this.#record(instance);
    // Another one of that name: what was said of the one before does not hold for it.
    if (!record.isKnown && this.#isLoaded) record.endedBefore = neverEnded();
    record.isKnown = true;
    record.isDraining = isDraining;
    this.#touch();
  }

  removeInstance(instance: string): void {
    const record = this.#instances.get(instance);
    if (record === undefined) return;
    record.isKnown = false;
    this.#dropUnused(record);
    this.#touch();
  }

  /** Those that began before `endedBefore`; infinity: all that have registered so far. */
  processEnded(instance: string, process: InstanceProcess, endedBefore: number): void {
    if (Number.isFinite(endedBefore)) {
      // What was said last: a clock that was set back may have made more of it before.
      this.#record(instance).endedBefore[process] = endedBefore;
    } else if (!this.#isLoaded) {
      this.#record(instance).endedEarly.add(process);
    }
    const record = this.#instances.get(instance);
    for (const holder of record?.holders ?? []) {
      if (holder.startedAt(process) < endedBefore) this.#processEnded(holder, process);
    }
    if (record !== undefined) this.#dropUnused(record);
    if (this.#removed !== undefined) endedOfRemoved(this.#removed, instance, process, endedBefore);
    this.#touch();
  }

  /** Somebody has deleted the table, as the source has heard. */
  tableGone(): void {
    this.#file.suspect();
    this.#touch();
  }

  /** Nothing is done any more. */
  close(): void {
    this.#isClosed = true;
    this.#file.close();
    if (this.#timer !== undefined) this.#context.clock.clearTimer(this.#timer);
    this.#timer = undefined;
  }

  /** The service is no more: its holders are told so. Resolves when the store has forgotten it, or has failed to. */
  async remove(): Promise<void> {
    this.close();
    const error = new LeverError("NO_RESOURCES", `${this.environment}/${this.service} holds no resources any more`, {
      effect: "none",
    });
    for (const holder of this.#holders.values()) holder.disconnect(error);
    try {
      await this.#file.delete(() => this.#context.isLeaderAt(this.#context.leaseClock.read()));
    } catch (thrown) {
      this.#context.onError(this.environment, this.service, thrown);
    }
  }

  /** What has to be remembered of a removed table; undefined if nobody can believe in it. */
  get remains(): RemovedSlots | undefined {
    const instances = new Map(this.#removed?.instances);
    const add = (holder: Holder) => addRemoved(instances, holder, new Set(holder.endedProcesses));
    for (const row of this.#rows) {
      if (row.holder !== undefined && row.mayHaveRun) add(row.holder);
      for (const former of row.after) add(former.holder);
    }
    // Nobody has read who had them.
    if (!this.#isLoaded) instances.set(nobody, { ended: new Set(), startedAt: { app: 0, agent: 0 } });
    if (instances.size === 0) return undefined;
    return {
      at: this.#context.leaseClock.read(),
      leaseMs: this.#leaseMs,
      lastEpoch: this.#lastEpoch,
      instances,
    };
  }

  get publishedRows(): PublishedRow[] {
    return this.#rows.map((row) => row.published);
  }

  explain(slot: number): SlotExplanation | undefined {
    const row = this.#rows[slot];
    if (row === undefined) return undefined;
    const { holder, isHeld } = row;
    const now = this.#context.leaseClock.read();
    return {
      ...row.published,
      incarnation: holder?.incarnation,
      leaseLeftMs:
        holder?.hasLease === true && holder.ended === undefined
          ? Math.max(0, Math.round(holder.lease.leftMs(now, this.#leaseMs)))
          : undefined,
      next: holder === undefined || isHeld ? undefined : { instance: holder.instance, epoch: row.epoch },
      waitsFor: row.after.map((former) => ({ instance: former.holder.instance, epoch: former.epoch })),
      isWithdrawn: row.isWithdrawn,
      moves: row.moves,
    };
  }

  // ---------------------------------------------------------------- holders

  /** Throws LEASE_LAPSED, CANCELLED or OVERLOADED. */
  connect(identity: HolderIdentity, connection: HolderConnection): Holder {
    const record = this.#instances.get(identity.instance);
    const { incarnation, instance } = identity;
    let holder = this.#holders.get(holderKey(identity));
    if (holder?.ended !== undefined || record?.ended.includes(incarnation) === true) throw over(identity);
    const current = record?.current;
    if (current !== undefined && isEarlierIncarnation(incarnation, current.incarnation)) throw newer(instance);
    if (holder === undefined) {
      const { holdersMax, leaseClock } = this.#context;
      if (this.#holders.size >= holdersMax) {
        throw new LeverError(
          "OVERLOADED",
          `${this.environment}/${this.service} has ${holdersMax} incarnations of instances, the most that may hold slots`,
          { effect: "none", details: { limit: "holdersPerService", holdersMax } },
        );
      }
      holder = this.#addHolder(identity, new HolderLease(leaseClock.read()), false);
      if (holder.ended !== undefined) {
        this.#dropHolder(holder);
        throw over(identity);
      }
    }
    const owner = this.#record(instance);
    for (const other of owner.holders) {
      // The same agent has shut the gates of the earlier one.
      if (isEarlierIncarnation(other.incarnation, incarnation)) this.#processEnded(other, "agent");
      other.disconnect(newer(instance));
    }
    owner.current = holder;
    holder.connect(identity, connection);
    if (identity.isSilent) this.#processEnded(holder, "agent");
    if (this.#isLoaded) this.#takeReport(holder);
    this.#touch();
    return holder;
  }

  onMessage(holder: Holder, message: HolderMessage): void {
    if (this.#isClosed) return;
    if (!this.#isLoaded) holder.amendReport(message);
    switch (message.type) {
      case "renew":
        return this.#onRenew(holder, message.n, message.ageMs);
      case "leaving":
        holder.isLeaving = true;
        break;
      case "silent":
        this.#processEnded(holder, "agent");
        break;
      case "held":
        for (const { slot, epoch } of message.slots) {
          const row = this.#rows[slot];
          if (row?.holder !== holder || row.epoch !== epoch || row.isHeld || !row.mayHaveRun) continue;
          row.confirm();
          this.#changed();
        }
        break;
      case "released":
        for (const released of message.slots) this.#onReleased(holder, released);
        break;
      case "neverHeld":
        for (const { slot, epoch } of message.slots) {
          const row = this.#rows[slot];
          if (row?.holder !== holder || row.epoch !== epoch || row.isHeld) continue;
          if (!row.isWithdrawn) holder.hasGivenUp = true;
          this.#giveBack(row);
        }
        break;
    }
    this.#touch();
  }

  onLost(holder: Holder): void {
    holder.connection = undefined;
    this.#touch();
  }

  #onRenew(holder: Holder, n: number, ageMs: number): void {
    const now = this.#context.leaseClock.read();
    // The next leader waits for what was renewed before this one's time was over, and for nothing else.
    if (!this.#context.isLeaderAt(now)) return;
    // What is over by this leader's clock is over by the holder's too, and has perhaps been given away already.
    if (holder.hasLease && holder.lease.leftMs(now, this.#leaseMs) <= 0) return this.#touch();
    const isFirst = !holder.hasRenewedHere || holder.hasGivenUp;
    holder.hasRenewedHere = true;
    holder.hasGivenUp = false;
    holder.renew(now, this.#leaseMs, ageMs);
    if (this.#isLoaded) holder.connection?.send({ type: "renewed", n });
    else holder.unanswered = n;
    if (isFirst) this.#touch();
  }

  #onReleased(holder: Holder, { slot, epoch, hasState }: ReleasedSlot): void {
    const row = this.#rows[slot];
    if (row === undefined) return;
    const origin = hasState
      ? ({ memory: "state", epoch, address: holder.address } as const)
      : ({ memory: "lost" } as const);
    const former = row.after.findIndex((entry) => entry.epoch === epoch && holder.isSameProcess(entry.holder));
    if (former >= 0) {
      row.after.splice(former, 1);
      row.endEpoch(epoch, origin);
    } else if (row.holder !== undefined && row.epoch === epoch && holder.isSameProcess(row.holder)) {
      // By itself: its app has gone, and would take no other slot. The next renewal says otherwise.
      if (!row.isWithdrawn) holder.hasGivenUp = true;
      row.after = [];
      row.endEpoch(epoch, origin);
      row.free(this.#isLeaving(holder) ? "leaving" : "released");
    } else return;
    this.#changed();
  }

  /** What an incarnation says that it has, when it has connected. */
  #takeReport(holder: Holder): void {
    const { report, instance } = holder;
    holder.report = undefined;
    // One that was replaced before the table was read has nothing to say any more.
    if (report === undefined || holder.ended !== undefined || this.#record(instance).current !== holder) return;
    for (const released of report.released) this.#onReleased(holder, released);
    for (const other of this.#record(instance).holders) {
      if (other === holder || other.ended !== undefined || !other.isSameProcess(holder)) continue;
      if (isEarlierIncarnation(holder.incarnation, other.incarnation)) {
        return holder.end({ proof: "successor", by: other }, newer(instance));
      }
      other.end({ proof: "successor", by: holder }, newer(instance));
    }
    const held = new Map(report.holds.map((slot) => [slot.slot, slot]));
    for (const row of this.#rows) {
      const reported = held.get(row.slot);
      const { connection } = holder;
      if (row.holder === holder) {
        if (reported?.epoch === row.epoch) {
          held.delete(row.slot);
          row.confirm();
        } else if (row.isHeld) {
          // The same incarnation had it, and does not any more.
          this.#onReleased(holder, { slot: row.slot, epoch: row.epoch, hasState: false });
          continue;
        }
        // Else the grant may be on its way: it is repeated.
      } else {
        const former = row.after.find((entry) => entry.holder === holder);
        if (former === undefined) continue;
        if (reported?.epoch !== former.epoch) {
          this.#onReleased(holder, { slot: row.slot, epoch: former.epoch, hasState: false });
          continue;
        }
        held.delete(row.slot);
        // With nothing of it under way the proof that its process has ended may have given the slot away since.
        if (!holder.isSilent) row.neverGrantedAfter(former);
      }
      row.drained =
        reported?.isDraining === true && connection !== undefined ? { connection, next: reported.epoch } : undefined;
      this.#changed();
    }
    if (held.size > 0) {
      holder.connection?.send({ type: "drop", slots: [...held.values()].map(({ slot, epoch }) => ({ slot, epoch })) });
    }
  }

  /** A move that was called off: its next holder does not have the slot and will not take it. */
  #giveBack(row: SlotRow): void {
    if (row.canRevert) {
      row.restsUntil = this.#context.clock.now() + restAfterCallOffMs;
      row.revert(this.#wallMs());
      this.#assigned(row);
    } else {
      row.free("calledOff");
      this.#changed();
    }
  }

  #processEnded(holder: Holder, process: InstanceProcess): void {
    holder.endedProcesses.add(process);
    // Of what its app had said something may lie in its agent for as long as that lives, and its lease runs.
    if (holder.endedProcesses.size < 2) return;
    holder.end(
      { proof: "process" },
      new LeverError("APP_GONE", `the app of ${holder.instance} has ended`, { effect: "none" }),
    );
  }

  #record(instance: string): InstanceRecord {
    let record = this.#instances.get(instance);
    if (record === undefined) {
      record = {
        instance,
        isKnown: false,
        isDraining: false,
        current: undefined,
        holders: new Set(),
        ended: [],
        endedBefore: neverEnded(),
        endedEarly: new Set(),
      };
      this.#instances.set(instance, record);
    }
    return record;
  }

  #addHolder(ref: HolderRef, lease: HolderLease, isRestored: boolean): Holder {
    const holder = new Holder(ref, lease, isRestored);
    this.#holders.set(holderKey(ref), holder);
    const { holders, endedBefore } = this.#record(ref.instance);
    holders.add(holder);
    for (const process of ["app", "agent"] as const) {
      if (holder.startedAt(process) < endedBefore[process]) this.#processEnded(holder, process);
    }
    return holder;
  }

  #dropHolder(holder: Holder): void {
    this.#holders.delete(holderKey(holder));
    const record = this.#record(holder.instance);
    record.holders.delete(holder);
    if (record.current === holder) record.current = undefined;
    if (holder.ended !== undefined) {
      record.ended.push(holder.incarnation);
      if (record.ended.length > endedMax) record.ended.shift();
    }
    this.#dropUnused(record);
  }

  #dropUnused(record: InstanceRecord): void {
    // What was said of it may be of somebody whom the table names.
    if (this.#isLoaded && !record.isKnown && record.holders.size === 0) this.#instances.delete(record.instance);
  }

  // ---------------------------------------------------------------- what is due

  /** Something has changed: looked at once, when this turn's input has been handled. */
  #touch(): void {
    if (this.#isAdvancing || this.#isClosed) return;
    this.#isAdvancing = true;
    this.#context.clock.defer(() => {
      this.#isAdvancing = false;
      this.#advance();
    });
  }

  #advance(): void {
    if (this.#isClosed || this.#waitFrom === undefined) return;
    const { clock, leaseClock } = this.#context;
    const clockNow = clock.now();
    const now = leaseClock.read();
    // With the reading that all is judged by. Once its time is over it will be closed, and another one leads.
    if (!this.#context.isLeaderAt(now)) return;
    if (this.#isLoaded) this.#decide(now);
    this.#file.proceed();
    this.#setTimer(clockNow, now);
  }

  #decide(now: ClockReading): void {
    this.#turnEpoch = undefined;
    for (const holder of this.#holders.values()) this.#judgeLease(holder, now);
    if (!this.#file.isCertain) return;
    for (const row of this.#rows) this.#settle(row, now);
    this.#forgetUnused();
    this.#plan(now);
    const isAnyoneExpected = this.#isAnyoneExpected();
    for (const row of this.#rows) this.#act(row, now, isAnyoneExpected);
    this.#flush();
    this.#publish();
  }

  #judgeLease(holder: Holder, now: ClockReading): void {
    if (holder.ended !== undefined || !holder.hasLease || holder.lease.leftMs(now, this.#leaseMs) > 0) return;
    holder.end(
      { proof: "lease" },
      new LeverError("LEASE_LAPSED", `the incarnation ${holder.incarnation} has not renewed its lease in time`, {
        effect: "none",
      }),
    );
  }

  /** Draws the consequences of what has ended, and takes back what its holder cannot be given. */
  #settle(row: SlotRow, now: ClockReading): void {
    const [former] = row.after;
    if (former?.holder.ended !== undefined) {
      // A later incarnation proves something within its process only: what the earlier one still has under way may come
      // out for as long as its lease runs.
      const isOver = former.holder.ended.proof !== "successor" || former.holder.lease.leftMs(now, this.#leaseMs) <= 0;
      if (former.holder.successor !== undefined && !row.mayHaveRun && row.canRevert) {
        // Its process has the resources still, and no other one can get them from it: they stay there.
        row.revert(now.wallMs);
        this.#changed();
      } else if (isOver) {
        row.after = [];
        row.endUnreleased(former.epoch);
        this.#changed();
      }
    }
    const { holder } = row;
    if (holder === undefined) return;
    if (holder.ended !== undefined) {
      const { successor } = holder;
      if (successor !== undefined) {
        row.passOn(successor, this.#epoch(now), now.wallMs);
        this.#assigned(row);
      } else if (!row.mayHaveRun) {
        this.#takeBack(row, now, reasonOf(holder));
      } else if (row.after.length === 0) {
        row.endUnreleased(row.epoch);
        row.free(reasonOf(holder));
        this.#changed();
      }
      // Else who had it before may still say that it has it: then this one never did.
      return;
    }
    if (row.mayHaveRun) return;
    const isPassedOn = row.moving === "sameProcess";
    const isAway = holder.connection === undefined && row.after.length === 0 && !isPassedOn;
    const isSilent = !holder.hasLease && holder.lease.leftMs(now, this.#leaseMs) <= 0;
    if (isAway || isSilent) return this.#takeBack(row, now, row.freed);
    const isOverdue = row.drainDueAt !== undefined && this.#context.clock.now() >= row.drainDueAt;
    const isDrainLimited = row.moving === "rebalance" && row.after.some((entry) => !this.#isLeaving(entry.holder));
    if ((isOverdue && isDrainLimited) || (this.#isLeaving(holder) && !isPassedOn)) row.isWithdrawn = true;
  }

  /** The next holder cannot have been granted the slot, and will not be. */
  #takeBack(row: SlotRow, now: ClockReading, reason: MoveReason): void {
    if (row.canRevert) {
      row.revert(now.wallMs);
      this.#assigned(row);
    } else {
      row.free(reason);
      this.#changed();
    }
  }

  /** Incarnations that no slot names, and that are over or never were. */
  #forgetUnused(): void {
    const used = new Set<Holder>();
    for (const row of this.#rows) {
      if (row.holder !== undefined) used.add(row.holder);
      for (const former of row.after) used.add(former.holder);
    }
    for (const holder of this.#holders.values()) {
      if (used.has(holder)) continue;
      if (holder.ended !== undefined || (holder.connection === undefined && !holder.hasLease)) this.#dropHolder(holder);
    }
  }

  #isLeaving(holder: Holder): boolean {
    const record = this.#record(holder.instance);
    return holder.isLeaving || record.isDraining || !record.isKnown;
  }

  /** Not all instances of the service are being stopped. */
  #isAnyoneExpected(): boolean {
    for (const { isKnown, isDraining } of this.#instances.values()) if (isKnown && !isDraining) return true;
    return false;
  }

  #plan(now: ClockReading): void {
    const members: Member[] = [];
    for (const { instance, current } of this.#instances.values()) {
      if (current === undefined || current.ended !== undefined || !current.hasLease) continue;
      const canReceive = current.connection !== undefined && current.hasRenewedHere && !current.hasGivenUp;
      members.push({ id: instance, isLeaving: this.#isLeaving(current), canReceive });
    }
    const limits = { leavingMax, rebalanceMax: rebalancingMax };
    const isWaiting = this.#isWaitingForRemoved(now);
    const clockNow = this.#context.clock.now();
    const places = this.#rows.map((row): Place => {
      if (row.moving === "leaving") limits.leavingMax--;
      else if (row.moving === "rebalance") limits.rebalanceMax--;
      const { slot, holder } = row;
      const owner = holder === undefined ? undefined : this.#ownerOf(holder);
      return {
        slot,
        owner: holder === undefined && isWaiting ? nobody : owner,
        isMovable: row.isHeld && holder?.connection !== undefined && this.#isWritten(row),
        isResting: row.restsUntil > clockNow,
      };
    });
    for (const { slot, to, why } of assign(members, places, limits)) {
      const row = this.#rows[slot] as SlotRow;
      const holder = this.#record(to).current as Holder;
      row.assign(holder, this.#epoch(now), why === "free" ? row.freed : why, now.wallMs);
      this.#assigned(row);
    }
  }

  /** The member that a slot counts for. */
  #ownerOf(holder: Holder): string {
    return this.#record(holder.instance).current === holder ? holder.instance : nobody;
  }

  #isWaitingForRemoved(now: ClockReading): boolean {
    const removed = this.#removed;
    if (removed === undefined) return false;
    const leftMs = newLeaderWaitMs(removed.leaseMs) - (now.monotonicMs - removed.at.monotonicMs);
    if (leftMs > 0 && removed.instances.size > 0) return true;
    this.#removed = undefined;
    return false;
  }

  /** Tells holders what they do not know yet. */
  #act(row: SlotRow, now: ClockReading, isAnyoneExpected: boolean): void {
    const { slot, epoch, holder, isWithdrawn } = row;
    const connection = holder?.connection;
    if (holder === undefined || holder.ended !== undefined) return;
    if (row.isHeld) {
      if (connection === undefined) return;
      const isTold = row.drained?.connection === connection;
      if (this.#isLeaving(holder)) {
        const isStopping = holder.isLeaving || this.#record(holder.instance).isDraining;
        if (isTold || isAnyoneExpected || !isStopping) return;
        // Nobody will be there to take it: it would be kept until its instance is killed.
        const next = this.#epoch(now);
        row.drained = { connection, next };
        this.#outbox(connection).drains.push({ slot, epoch, next });
        return;
      }
      if (!isTold) return;
      // A drain that was called off: what callers were told to wait for will not come.
      row.drained = undefined;
      row.issued = Math.max(row.issued, this.#epoch(now));
      this.#changed();
      this.#outbox(connection).resumes.push({ slot, epoch });
      return;
    }
    const [former] = row.after;
    const formerConnection = former?.holder.connection;
    if (isWithdrawn) {
      if (former !== undefined && formerConnection !== undefined && row.drained?.connection === formerConnection) {
        if (!this.#isLeaving(former.holder)) {
          row.drained = undefined;
          this.#outbox(formerConnection).resumes.push({ slot, epoch: former.epoch });
        }
      }
      if (connection !== undefined && row.withdrawnFrom !== connection) {
        row.withdrawnFrom = connection;
        this.#outbox(connection).withdrawals.push({ slot, epoch });
      }
      return;
    }
    if (!this.#isWritten(row)) return;
    if (former !== undefined) {
      if (formerConnection === undefined) return;
      if (row.drained?.connection === formerConnection && row.drained.next === epoch) return;
      row.drained = { connection: formerConnection, next: epoch };
      if (row.moving === "rebalance") row.drainDueAt ??= this.#context.clock.now() + rebalanceDrainMs;
      this.#outbox(formerConnection).drains.push({ slot, epoch: former.epoch, next: epoch });
      return;
    }
    // Without the answer to a renewal on this connection the incarnation may not know yet that it has a lease.
    if (connection === undefined || row.grantedTo === connection || !holder.hasRenewedHere) return;
    if (holder.lease.leftMs(now, this.#leaseMs) <= 0) return;
    row.grantedTo = connection;
    row.mayHaveRun = true;
    row.drained = undefined;
    this.#outbox(connection).grants.push({ slot, epoch, origin: row.grantOrigin });
  }

  #outbox(connection: HolderConnection): Outbox {
    let outbox = this.#connections.get(connection);
    if (outbox === undefined) {
      outbox = { grants: [], drains: [], resumes: [], withdrawals: [] };
      this.#connections.set(connection, outbox);
    }
    return outbox;
  }

  #flush(): void {
    for (const [{ send }, { grants, drains, resumes, withdrawals }] of this.#connections) {
      if (resumes.length > 0) send({ type: "resume", slots: resumes });
      if (withdrawals.length > 0) send({ type: "withdraw", slots: withdrawals });
      if (drains.length > 0) send({ type: "drain", slots: drains });
      if (grants.length > 0) send({ type: "grant", slots: grants });
    }
    this.#connections.clear();
  }

  #publish(): void {
    const changed: PublishedRow[] = [];
    for (const row of this.#rows) {
      const published = row.publish(this.#isWritten(row));
      if (published !== undefined) changed.push(published);
    }
    if (changed.length > 0) this.#context.onSlots(this.environment, this.service, changed);
  }

  // ---------------------------------------------------------------- epochs and changes

  #wallMs(): number {
    return this.#context.leaseClock.read().wallMs;
  }

  /** Rises with each turn that gives one out, and from one life of the table to the next (R13). */
  #epoch(now: ClockReading): number {
    this.#turnEpoch ??= Math.max(this.#lastEpoch + 1, Math.floor(now.wallMs));
    this.#lastEpoch = this.#turnEpoch;
    return this.#turnEpoch;
  }

  #isWritten(row: SlotRow): boolean {
    return this.#file.has(row.assignedAt);
  }

  #changed(): void {
    this.#file.changed();
  }

  #assigned(row: SlotRow): void {
    row.assignedAt = this.#file.needs();
  }

  // ---------------------------------------------------------------- the table in the store

  #content(writer: string): SlotTableContent {
    return {
      environment: this.environment,
      service: this.service,
      writer,
      leaseMs: this.#leaseMs,
      lastEpoch: this.#lastEpoch,
      rows: this.#rows.map((row) => row.stored),
    };
  }

  #onRead(stored: StoredSlotTable | undefined): void {
    if (!this.#isLoaded) return this.#adopt(stored, this.#waitFrom as ClockReading);
    // Somebody else has written it. Everybody says anew what it has; leases run on meanwhile.
    const error = new LeverError("CANCELLED", "the table of slots has changed; say again what is held", {
      effect: "none",
    });
    for (const holder of this.#holders.values()) holder.disconnect(error);
    this.#adopt(stored, this.#context.leaseClock.read());
  }

  #adopt(stored: StoredSlotTable | undefined, waitFrom: ClockReading): void {
    const before = this.#rows;
    this.#isLoaded = true;
    // Where tables are given out by others too, a lease that is longer is announced once the record says it.
    if (this.#leaseMs > (stored?.leaseMs ?? leaseMsMin)) this.#changed();
    if (stored !== undefined) {
      this.#lastEpoch = Math.max(this.#lastEpoch, stored.lastEpoch);
      this.#leaseMs = Math.max(this.#leaseMs, stored.leaseMs);
      const holderOf = (ref: HolderRef) => this.#restoreHolder(ref, waitFrom);
      const rows = stored.rows.map((row) => SlotRow.restore(row, holderOf));
      if (rows.length === this.#slots) this.#rows = rows;
      else this.#outlive(rows, waitFrom);
      for (const [slot, row] of this.#rows.entries()) row.goOn(before[slot] ?? row);
      // A write of the leader before, still under way, could make another table of this one. Nothing that stands in it
      // is acted on before it is written anew: a late write then finds another version.
      const takenOver = this.#file.needs();
      for (const row of this.#rows) row.assignedAt = takenOver;
    }
    for (const record of [...this.#instances.values()]) {
      for (const holder of record.holders) {
        // Those that no table names were told when it was said, or have registered since.
        if (holder.isRestored) for (const process of record.endedEarly) this.#processEnded(holder, process);
      }
      record.endedEarly.clear();
      this.#dropUnused(record);
    }
    for (const holder of this.#holders.values()) {
      this.#takeReport(holder);
      const { unanswered, connection } = holder;
      holder.unanswered = undefined;
      if (unanswered !== undefined) connection?.send({ type: "renewed", n: unanswered });
    }
  }

  #restoreHolder(ref: HolderRef, waitFrom: ClockReading): Holder {
    let holder = this.#holders.get(holderKey(ref));
    if (holder === undefined) {
      holder = this.#addHolder(ref, new HolderLease(waitFrom), true);
      const record = this.#record(ref.instance);
      record.current ??= holder;
    }
    holder.isRestored = true;
    return holder;
  }

  /** The table of another life of the service, with another number of slots: its holders' leases run out first. */
  #outlive(rows: readonly SlotRow[], waitFrom: ClockReading): void {
    this.#rows = freshRows(this.#slots);
    const instances: RemovedSlots["instances"] = new Map();
    for (const row of rows) {
      for (const holder of [row.holder, ...row.after.map((former) => former.holder)]) {
        if (holder !== undefined) addRemoved(instances, holder, new Set());
      }
    }
    this.#removed = { at: waitFrom, leaseMs: this.#leaseMs, lastEpoch: this.#lastEpoch, instances };
  }

  // ---------------------------------------------------------------- time

  /**
   * Wakes at the next moment when something is due by itself, seen from the times at which `#advance` has looked: it may
   * be much later by now.
   */
  #setTimer(clockNow: number, now: ClockReading): void {
    const { clock } = this.#context;
    if (this.#timer !== undefined) clock.clearTimer(this.#timer);
    let dueMs = Number.POSITIVE_INFINITY;
    // What was past then has been looked at.
    const dueIn = (ms: number) => {
      if (ms > 0 && ms < dueMs) dueMs = ms;
    };
    // The file goes by a later reading, or is busy.
    dueMs = Math.max(this.#file.dueInMs, 0);
    if (this.#isLoaded) {
      for (const holder of this.#holders.values()) {
        dueIn(holder.lease.leftMs(now, this.#leaseMs));
      }
      for (const { drainDueAt, restsUntil, isWithdrawn } of this.#rows) {
        if (drainDueAt !== undefined && !isWithdrawn) dueIn(drainDueAt - clockNow);
        dueIn(restsUntil - clockNow);
      }
      if (this.#removed !== undefined) {
        dueIn(newLeaderWaitMs(this.#removed.leaseMs) - (now.monotonicMs - this.#removed.at.monotonicMs));
      }
    }
    if (dueMs === Number.POSITIVE_INFINITY) {
      this.#timer = undefined;
      return;
    }
    this.#timer = clock.setTimer(
      () => {
        this.#timer = undefined;
        this.#advance();
      },
      // Two clocks may not agree to the last fraction.
      dueMs + 1,
    );
  }
}

function neverEnded(): Record<InstanceProcess, number> {
  return { app: Number.NEGATIVE_INFINITY, agent: Number.NEGATIVE_INFINITY };
}

function freshRows(slots: number): SlotRow[] {
  return Array.from({ length: slots }, (_, slot) => new SlotRow(slot));
}

function reasonOf({ ended }: Holder): MoveReason {
  return ended?.proof === "process" ? "processEnded" : "leaseEnded";
}

function over({ incarnation, instance }: HolderIdentity): LeverError {
  return new LeverError("LEASE_LAPSED", `the incarnation ${incarnation} of ${instance} is over; begin a new one`, {
    effect: "none",
  });
}

function newer(instance: string): LeverError {
  return new LeverError("CANCELLED", `a newer connection of the instance ${instance} took the place of this one`, {
    effect: "none",
  });
}

export const holdersPerServiceMax = instancesPerServiceMax;
