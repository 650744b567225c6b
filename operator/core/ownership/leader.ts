/**
 * The leader: the one who decides which incarnation holds which slot, for all services that hold resources.
 *
 * It brings together what the source knows (services, instances, ends of processes), what holders say on their
 * connections, and the store. The slots of a service are `service-slots.ts`; nothing that one service's holders or tables
 * do delays another's. Invariant: there is one leader at a time; another begins with `start` only when this one is closed.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { ClockReading, LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import type { OwnershipPolicy, SlotRow } from "@leveros/protocol/control/discovery.ts";
import { newLeaderWaitMs } from "@leveros/protocol/control/lease.ts";
import type { HolderIdentity, HolderMessage, LeaderMessage } from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Holder, HolderConnection, InstanceProcess } from "./holder.ts";
import {
  endedOfRemoved,
  holdersPerServiceMax,
  type RemovedSlots,
  ServiceSlots,
  type SlotExplanation,
} from "./service-slots.ts";
import type { SlotStore } from "./slot-store.ts";

export interface OwnershipLeaderOptions {
  readonly clock: Clock;
  readonly leaseClock: LeaseClock;
  readonly random: Random;
  readonly store: SlotStore;
  /** Rows that have changed, as callers are to see them: for `EndpointTables.setSlots`. Does not throw. */
  readonly onSlots: (environment: string, service: string, rows: readonly SlotRow[]) => void;
  /**
   * This one leads, by a reading of `leaseClock`: asked for each judgement with the very reading that it is made with
   * (R10c, R14). Once it is false nothing is judged, granted or renewed any more. Without it: always.
   */
  readonly isLeaderAt?: (reading: ClockReading) => boolean;
  /** For the log: the store has failed; it is tried again. Does not throw. */
  readonly onError?: (environment: string, service: string, error: unknown) => void;
  /** Incarnations of one service, 10,000 unless set. One more is refused: OVERLOADED. */
  readonly holdersMax?: number;
}

/** The instance that an incarnation is of. */
export interface InstanceKey {
  readonly environment: string;
  readonly service: string;
  readonly instance: string;
}

/** What a connection of an incarnation says to the leader. */
export interface HolderLine {
  message(message: HolderMessage): void;
  lost(): void;
}

/** One connection of an incarnation. After another one has replaced it, or its lease has ended, it says nothing more. */
export class HolderLink implements HolderLine {
  readonly #slots: ServiceSlots;
  readonly #holder: Holder;
  readonly #connection: HolderConnection;

  constructor(slots: ServiceSlots, holder: Holder, connection: HolderConnection) {
    this.#slots = slots;
    this.#holder = holder;
    this.#connection = connection;
  }

  message(message: HolderMessage): void {
    if (this.#holder.connection === this.#connection) this.#slots.onMessage(this.#holder, message);
  }

  /** The connection is over. Nothing follows from it: the incarnation holds what it has for as long as its lease runs. */
  lost(): void {
    if (this.#holder.connection === this.#connection) this.#slots.onLost(this.#holder);
  }
}

export class OwnershipLeader {
  readonly #options: OwnershipLeaderOptions;
  readonly #services = new Map<string, ServiceSlots>();
  /** Services that are no more, while somebody may still hold their slots. */
  readonly #removed = new Map<string, RemovedSlots>();
  /** Tables that the store is still forgetting. */
  readonly #removing = new Map<string, Promise<void>>();
  #startedAt: ClockReading | undefined;
  #isClosed = false;
  #writes = 0;
  readonly #name: string;

  constructor(options: OwnershipLeaderOptions) {
    this.#options = options;
    this.#name = Math.floor(options.random() * 2 ** 48).toString(36);
  }

  /** This one leads from now on: the tables are read, and holders are taken on. */
  start(): void {
    if (this.#startedAt !== undefined || this.#isClosed) return;
    this.#startedAt = this.#options.leaseClock.read();
    for (const [key, slots] of this.#services) this.#load(key, slots);
  }

  /** Sends nothing: holders go on for as long as their leases run, and say to the next leader what they have. */
  close(): void {
    this.#isClosed = true;
    for (const slots of this.#services.values()) slots.close();
  }

  // ---------------------------------------------------------------- the source

  /**
   * The service holds resources by this policy. Throws INVALID_OPTION if it had another number of slots: they never
   * change.
   */
  declareService(environment: string, service: string, policy: OwnershipPolicy): void {
    if (this.#isClosed) return;
    const key = `${environment}/${service}`;
    const known = this.#services.get(key);
    if (known !== undefined) return known.setPolicy(policy);
    const { clock, leaseClock, random, store, onSlots, onError, holdersMax = holdersPerServiceMax } = this.#options;
    const { isLeaderAt = () => true } = this.#options;
    const slots = new ServiceSlots(
      {
        clock,
        leaseClock,
        random,
        store,
        holdersMax,
        isLeaderAt: (reading) => !this.#isClosed && isLeaderAt(reading),
        nextWriter: () => `${this.#name}.${++this.#writes}`,
        isOwn: (writer) => writer.startsWith(`${this.#name}.`),
        onSlots,
        onError: onError ?? (() => {}),
      },
      environment,
      service,
      policy,
      this.#removed.get(key),
    );
    this.#removed.delete(key);
    this.#services.set(key, slots);
    if (this.#startedAt !== undefined) this.#load(key, slots);
  }

  /**
   * The service is gone, or holds no resources any more. Its table is deleted and its holders' connections end. If it is
   * declared anew, its slots are given to nobody while somebody may still hold one from before.
   */
  removeService(environment: string, service: string): void {
    const key = `${environment}/${service}`;
    const slots = this.#services.get(key);
    if (slots === undefined || this.#isClosed) return;
    this.#services.delete(key);
    this.#forgetRemoved();
    const { remains } = slots;
    if (remains !== undefined) this.#removed.set(key, remains);
    const removing = slots.remove().then(() => {
      if (this.#removing.get(key) === removing) this.#removing.delete(key);
    });
    this.#removing.set(key, removing);
  }

  /**
   * Somebody has deleted the service's table: it is written anew at once, since the next leader would believe that nobody
   * holds anything. May be said of one that is there.
   */
  tableGone(environment: string, service: string): void {
    this.#of({ environment, service })?.tableGone();
  }

  /** The source knows the instance: only such ones are given slots. Draining: all its slots are moved away. */
  upsertInstance(key: InstanceKey, isDraining = false): void {
    this.#of(key)?.setInstance(key.instance, isDraining);
  }

  /** The source does not know it any more. That proves nothing: what it holds it may still hold. */
  removeInstance(key: InstanceKey): void {
    this.#of(key)?.removeInstance(key.instance);
  }

  /**
   * The proof that processes of the instance's app, or of its agent, have ended (R10b): those that began before
   * `endedBefore`, by the wall clock of their machine, whenever they register; infinity: all that have registered so far,
   * in the order of events. What an app held is free when its agent has ended too, or says that nothing of it is still to
   * go out.
   */
  processEnded(
    { environment, service, instance }: InstanceKey,
    process: InstanceProcess,
    endedBefore = Number.POSITIVE_INFINITY,
  ): void {
    const key = `${environment}/${service}`;
    this.#services.get(key)?.processEnded(instance, process, endedBefore);
    const removed = this.#removed.get(key);
    if (removed !== undefined) endedOfRemoved(removed, instance, process, endedBefore);
  }

  // ---------------------------------------------------------------- holders

  /**
   * An incarnation has connected. `send` must not throw, and may be called before this returns; `onEnded` is called once
   * if the leader ends the connection: the incarnation has connected anew, or is over, or its service is gone. Throws
   * NO_RESOURCES if the service holds none here, LEASE_LAPSED if the incarnation is known to be over, CANCELLED if a
   * later one has connected, OVERLOADED; all with effect none.
   */
  connect(
    identity: HolderIdentity,
    send: (message: LeaderMessage) => void,
    onEnded: (error: LeverError) => void,
  ): HolderLine {
    const slots = this.#of(identity);
    if (slots === undefined || this.#startedAt === undefined || this.#isClosed) {
      throw new LeverError(
        "NO_RESOURCES",
        `${identity.environment}/${identity.service} holds no resources, as far as the operator knows`,
        { effect: "none" },
      );
    }
    const connection: HolderConnection = { send, onEnded };
    return new HolderLink(slots, slots.connect(identity, connection), connection);
  }

  // ---------------------------------------------------------------- for people

  /** The rows as callers see them; undefined for a service that holds no resources. */
  slotsOf(environment: string, service: string): readonly SlotRow[] | undefined {
    return this.#of({ environment, service })?.publishedRows;
  }

  /** All about one slot; undefined if there is no such. */
  explain(environment: string, service: string, slot: number): SlotExplanation | undefined {
    return this.#of({ environment, service })?.explain(slot);
  }

  // ---------------------------------------------------------------- inside

  #of({ environment, service }: { environment: string; service: string }): ServiceSlots | undefined {
    return this.#services.get(`${environment}/${service}`);
  }

  #load(key: string, slots: ServiceSlots): void {
    const startedAt = this.#startedAt as ClockReading;
    const removing = this.#removing.get(key);
    if (removing === undefined) slots.load(startedAt);
    else void removing.then(() => slots.load(startedAt));
  }

  #forgetRemoved(): void {
    const now = this.#options.leaseClock.read();
    for (const [key, { at, leaseMs, instances }] of this.#removed) {
      const isOver = now.monotonicMs - at.monotonicMs > newLeaderWaitMs(leaseMs);
      if (isOver || instances.size === 0) this.#removed.delete(key);
    }
  }
}
