/**
 * The slots' leader of a replica that may lead or not: there is one from its election until the end of its lease, and in
 * between holders are sent to who leads. While that is not decided they wait here: a lease has no time for connections
 * that are refused and made again once there is a leader (`waiting-holders.ts`).
 *
 * Invariants: a leader judges only by readings of the clocks at which the election is this one's (`isLeaderAt`); one that
 * has lost it does nothing any more, and its holders' connections end. What the source knows is told to each new leader
 * before it begins.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import type { OwnershipPolicy, SlotRow } from "@leveros/protocol/control/discovery.ts";
import type { HolderIdentity, LeaderMessage } from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { type HolderLine, OwnershipLeader } from "../core/ownership/leader.ts";
import type { SlotStore } from "../core/ownership/slot-store.ts";
import type { LeaderElection } from "./leader-election.ts";
import type { EndpointSink } from "./reconcile/endpoint-source.ts";
import { WaitingHolders } from "./waiting-holders.ts";

export interface LeadershipOptions {
  readonly clock: Clock;
  readonly leaseClock: LeaseClock;
  readonly random: Random;
  readonly store: SlotStore;
  readonly election: Pick<LeaderElection, "isLeaderAt" | "isUndecided" | "holder" | "identity">;
  /** Tells all that the source knows: services first. */
  readonly tellAll: (leadership: SlotSink) => void;
  readonly onSlots: (environment: string, service: string, rows: readonly SlotRow[]) => void;
  /** For the log. Does not throw. */
  readonly onError: (environment: string, service: string, error: unknown) => void;
}

/** What a source says of services that hold resources. */
export interface SlotSink extends EndpointSink {
  declareService(environment: string, service: string, policy: OwnershipPolicy): void;
  removeService(environment: string, service: string): void;
  /** The service's table is gone, whoever has deleted it. */
  tableGone(environment: string, service: string): void;
}

export class Leadership implements SlotSink {
  readonly #options: LeadershipOptions;
  #leader: OwnershipLeader | undefined;
  readonly #connections = new Set<(error: LeverError) => void>();
  readonly #waiting: WaitingHolders;

  constructor(options: LeadershipOptions) {
    this.#options = options;
    this.#waiting = new WaitingHolders({
      clock: options.clock,
      isUndecided: () => options.election.isUndecided,
      notLeader: () => this.#notLeader(),
    });
  }

  /** Undefined: this one does not lead. */
  get leader(): OwnershipLeader | undefined {
    return this.#leader;
  }

  /** Holders that are connected. */
  get holderCount(): number {
    return this.#connections.size;
  }

  elected(): void {
    const { clock, leaseClock, random, store, election, tellAll, onSlots, onError } = this.#options;
    const leader: OwnershipLeader = new OwnershipLeader({
      clock,
      leaseClock,
      random,
      store,
      isLeaderAt: (reading) => election.isLeaderAt(reading),
      onSlots: (environment, service, rows) => {
        if (this.#leader === leader) onSlots(environment, service, rows);
      },
      onError,
    });
    this.#leader = leader;
    tellAll(this);
    leader.start();
    this.#waiting.enter((...holder) => this.#admit(leader, ...holder));
  }

  lost(): void {
    this.#leader?.close();
    this.#leader = undefined;
    const ended = [...this.#connections];
    this.#connections.clear();
    for (const end of ended) end(this.#notLeader());
  }

  declareService(environment: string, service: string, policy: OwnershipPolicy): void {
    this.#leader?.declareService(environment, service, policy);
  }

  removeService(environment: string, service: string): void {
    this.#leader?.removeService(environment, service);
  }

  tableGone(environment: string, service: string): void {
    this.#leader?.tableGone(environment, service);
  }

  upsertInstance(instance: Parameters<EndpointSink["upsertInstance"]>[0]): void {
    this.#leader?.upsertInstance(instance, instance.isDraining);
  }

  removeInstance(key: Parameters<EndpointSink["removeInstance"]>[0]): void {
    this.#leader?.removeInstance(key);
  }

  processEnded(...[key, process, endedBefore]: Parameters<EndpointSink["processEnded"]>): void {
    this.#leader?.processEnded(key, process, endedBefore);
  }

  /**
   * As `OwnershipLeader.connect`. While this one does not lead: NOT_LEADER, with the leader's address if it is known, at
   * once, or by `onEnded` once it is decided that another one does.
   */
  connect(...holder: Parameters<OwnershipLeader["connect"]>): HolderLine {
    const { leaseClock, election } = this.#options;
    const leader = this.#leader;
    if (leader !== undefined && election.isLeaderAt(leaseClock.read())) return this.#admit(leader, ...holder);
    if (leader === undefined && election.isUndecided) return this.#waiting.add(...holder);
    throw this.#notLeader();
  }

  #admit(
    leader: OwnershipLeader,
    identity: HolderIdentity,
    send: (message: LeaderMessage) => void,
    onEnded: (error: LeverError) => void,
  ): HolderLine {
    const end = (error: LeverError) => {
      this.#connections.delete(end);
      onEnded(error);
    };
    const link = leader.connect(identity, send, end);
    this.#connections.add(end);
    return {
      message: (message) => link.message(message),
      lost: () => {
        this.#connections.delete(end);
        link.lost();
      },
    };
  }

  #notLeader(): LeverError {
    const { holder, identity } = this.#options.election;
    // It may have been this one until a moment ago.
    const other = holder === undefined || holder.identity === identity ? undefined : holder;
    const who = other === undefined ? "nobody is known to lead" : `${other.candidate} leads`;
    return new LeverError("NOT_LEADER", `this replica of the operator does not lead; ${who}`, {
      effect: "none",
      ...(other?.address !== undefined && { details: { leader: other.address } }),
    });
  }
}
