/**
 * The holder's side of ownership at an agent (R2 to R4, R7, R9, R12, R18 to R21): the incarnation and its lease, the
 * slots that it was granted, which calls are admitted to them, and their way in and out.
 *
 * An incarnation begins when the app answers a ping and nothing of an earlier one can be heard any more, and ends with
 * the app's connection or with its lease. It begins with nothing; what the app's process has from an earlier one, it
 * carries over itself once the slot is granted anew. Invariants: a call is admitted only to a slot that the leader granted to this
 * incarnation, under the very epoch, while its lease admits; nothing that a method of a slot sends passes the slot's
 * gate after the slot's release or the lease's last moment; a slot is reported released only when nothing of it runs or
 * is still to leave. Every decision reads the lease's clock; timers only wake.
 *
 * Who holds what is the leader's to say, what lies in a slot the app's.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Clock, Random, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import type { OwnershipPolicy, ServiceTable } from "@leveros/protocol/control/discovery.ts";
import { leaseTimes, rebalanceDrainMs, renewalIntervalMs } from "@leveros/protocol/control/lease.ts";
import type {
  AppHolder,
  ClosedMessage,
  DrainingSlot,
  GrantedSlot,
  HolderIdentity,
  LeaderMessage,
  LeftMessage,
  SlotEpoch,
  SlotOrigin,
} from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { CallerRuntime } from "@leveros/protocol/invocation/outgoing-stream.ts";
import type { Gate } from "@leveros/protocol/session/gate.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { xxHash32 } from "@leveros/protocol/target/slot.ts";
import type { LinkHost } from "../peer-link.ts";
import { AppLink, type AppLinkOwner } from "./app-link.ts";
import { ChannelMoves } from "./channel-moves.ts";
import { type HandedSlot, HandOverFetcher, HandOverMemory, HandOverStore } from "./hand-over.ts";
import { LeaderLink } from "./leader-link.ts";
import { HolderLease, type LeaseLeft, noLease } from "./lease.ts";
import { Slot, type SlotRelay, type SlotState } from "./slot.ts";

export interface SlotHolderOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly leaseClock: LeaseClock;
  readonly environment: string;
  readonly service: string;
  readonly instance: string;
  /** `host:port` where other agents reach this one. */
  readonly address: string;
  /** A started session with the operator's leader, if this is it (undefined: with any replica), on the dialer's side. */
  dialLeader(leader: string | undefined): Promise<Session>;
  /** For connections with the agents that held slots before. */
  readonly host: LinkHost;
  readonly runtime: CallerRuntime;
  readonly handOverBytesMax: number;
  /** The app is about to stop. */
  onLeaving(): void;
  /** `isBusy` may have become false. */
  onEmpty(): void;
}

/** A slot as `heldSlots` shows it. */
export interface ServedSlot extends SlotEpoch {
  readonly isDraining: boolean;
  /** Calls and channels in it. */
  readonly running: number;
}

/** The connection of an app. */
export interface HolderAppLink {
  /** What runs in the app, by the stream's id. */
  readonly invocations: Map<number, unknown>;
  /** Once the app has said that it serves resources. */
  app: AppLink | undefined;
}

interface Incarnation {
  readonly name: string;
  readonly process: string;
  readonly lease: HolderLease;
  readonly leader: LeaderLink;
}

/** What a released slot's last answers may wait for their callers' credit. */
const unsentMs = 2000;

export class SlotHolder implements AppLinkOwner {
  /** For metrics: since the start. */
  readonly counters = { misrouted: 0, lapses: 0, moved: 0 };
  readonly #options: SlotHolderOptions;
  /** Random: an agent that starts again is another holder. */
  readonly #boot: string;
  readonly #startedAt: number;
  readonly #memory: HandOverMemory;
  readonly #store: HandOverStore;
  readonly #fetcher: HandOverFetcher;
  readonly #moves: ChannelMoves;

  #policy: OwnershipPolicy | undefined;
  #isPolicyKnown = false;
  #app: AppLink | undefined;
  #apps = 0;
  #appStartedAt = 0;
  #lapses = 0;
  /** The last lease has lapsed, and there is none since. */
  #hasLapsed = false;
  #incarnation: Incarnation | undefined;
  /** Those that the incarnation holds, or held and has not released. */
  readonly #slots = new Map<number, Slot>();
  /** The epochs that were released here, each until a higher one is seen: a leader may not have heard. */
  readonly #released = new Map<number, number>();
  #isLeaving = false;
  #isStopping = false;
  #isClosed = false;
  /** Of this incarnation nothing goes out any more: its app's connection is over. */
  #isSilent = false;
  #silenceTimer: TimerHandle | undefined;
  #isRenewalDue = false;
  #renewalTimer: TimerHandle | undefined;
  #leaseTimer: TimerHandle | undefined;

  constructor(options: SlotHolderOptions) {
    this.#options = options;
    const { clock, random, host, runtime, environment, service } = options;
    this.#boot = Array.from({ length: 4 }, () => Math.floor(random() * 0x10000).toString(36)).join("-");
    this.#startedAt = this.#wallMs();
    this.#memory = new HandOverMemory(options.handOverBytesMax);
    this.#store = new HandOverStore(clock, this.#memory, () => options.onEmpty());
    this.#fetcher = new HandOverFetcher({ host, runtime, memory: this.#memory, environment, service });
    this.#moves = new ChannelMoves(clock, random);
  }

  /** Whoever holds what, calls are served, and there is no lease to keep. */
  get #serves(): boolean {
    return this.#policy?.onUncertain === "Serve";
  }

  /** Slots that are served here now. */
  get heldSlots(): ServedSlot[] {
    const held: ServedSlot[] = [];
    for (const slot of this.#slots.values()) {
      if (!slot.isServing) continue;
      const { epoch, relays, state } = slot;
      held.push({ slot: slot.slot, epoch, isDraining: state === "Draining", running: relays.size });
    }
    return held;
  }

  get heldCount(): number {
    let count = 0;
    for (const slot of this.#slots.values()) if (slot.isServing) count++;
    return count;
  }

  /** Something is still to be closed by the app, or to be fetched by who holds it next. */
  get isBusy(): boolean {
    return (this.#app !== undefined && this.#slots.size > 0) || this.#store.isAwaited;
  }

  /** For other agents: `handOverChan`. */
  serveHandOver(args: readonly unknown[]): (channel: Channel) => Promise<void> {
    return this.#store.serve(this.#options.environment, this.#options.service, args);
  }

  // ---------------------------------------------------------------- admission

  /**
   * The slot of a call that names a resource, sent by who believes in `epoch`; undefined if the call is to be served
   * although the slot is not held here (`onUncertain: Serve`). Throws MOVED, with the epoch that the caller is to wait
   * for, NO_RESOURCES, INSTANCE_UNREACHABLE for a slot that is about to be there, or RESOURCE_UNAVAILABLE where nobody
   * is to wait after a lapse (`onUncertain: Fail`); all with effect none.
   */
  admit(resource: Uint8Array, epoch: number, isNested: boolean): Slot | undefined {
    const policy = this.#policy;
    if (policy === undefined) {
      if (this.#isPolicyKnown) throw noResources("the service has no `ownership` in its manifest");
      throw this.#misrouted(epoch + 1);
    }
    const slot = this.#slots.get(xxHash32(resource) % policy.slots);
    const serves = this.#serves;
    if (slot === undefined) {
      if (serves && epoch === 0 && this.#app !== undefined) return undefined;
      throw this.#misrouted(epoch + 1);
    }
    const isRight = epoch === slot.epoch || (serves && epoch === 0);
    if (!serves && slot.lease.hasLapsed) this.#check();
    if (slot.state === "Held" && isRight) return slot;
    if (slot.state === "Draining" && isRight) {
      if (isNested) return slot;
      throw moved(slot.next, "it is moving to another instance");
    }
    if (slot.state === "Opening" && isRight) {
      throw new LeverError("INSTANCE_UNREACHABLE", `slot ${slot.slot} is being opened here`, { effect: "none" });
    }
    if (serves && epoch === 0 && this.#app !== undefined) return undefined;
    throw this.#misrouted(slot.epoch > epoch ? slot.epoch : epoch + 1);
  }

  /** What the hooks of a resource of the app have to pass; undefined where nobody keeps a lease. */
  gateOf(resource: Uint8Array): Gate | undefined {
    const policy = this.#policy;
    if (policy === undefined || policy.onUncertain === "Serve") return undefined;
    return this.#slots.get(xxHash32(resource) % policy.slots)?.gate ?? shutGate;
  }

  #misrouted(next: number): LeverError {
    this.counters.misrouted++;
    if (this.#policy?.onUncertain === "Fail" && (this.#hasLapsed || this.#incarnation?.lease.hasLapsed === true)) {
      // Nobody can say when there will be a next holder: perhaps there is no operator.
      return new LeverError("RESOURCE_UNAVAILABLE", "this instance has held it, and its lease has lapsed", {
        effect: "none",
      });
    }
    return moved(next, "this instance does not hold it under that epoch");
  }

  // ---------------------------------------------------------------- what runs

  /** A channel was accepted: one that came while the slot drains goes as the others do. */
  accepted(slot: Slot, relay: SlotRelay): void {
    if (slot.state === "Draining") this.#moves.add(relay);
  }

  /** The call or channel has ended, and all of it has left; perhaps without its method (`AppLink.orphaned`). */
  left(slot: Slot, relay: SlotRelay): void {
    slot.relays.delete(relay);
    this.#moves.delete(relay);
    if (slot.state === "Closed") this.#releaseSoon(slot);
    else if (slot.state === "Lost") this.#silenceSoon();
  }

  // ---------------------------------------------------------------- the own service

  onTable(table: ServiceTable): void {
    this.#isPolicyKnown = true;
    const served = this.#serves;
    if (table.policy.ownership !== undefined) this.#policy = table.policy.ownership;
    const hasAny = this.#incarnation !== undefined || this.#slots.size > 0;
    if (hasAny && this.#serves !== served) this.#startAnew();
    for (const [slot, epoch] of this.#released) {
      if ((table.slots?.[slot]?.epoch ?? 0) > epoch) this.#released.delete(slot);
    }
    this.#startApp();
  }

  // ---------------------------------------------------------------- the app

  /** An app that serves resources has opened its channel. Ends with it. */
  async serveApp(holder: AppHolder, channel: Channel, link: HolderAppLink): Promise<void> {
    if (this.#isClosed) return;
    const { clock, leaseClock } = this.#options;
    const { invocations } = link;
    const app = new AppLink({ clock, leaseClock, memory: this.#memory, owner: this, invocations }, holder, channel);
    link.app = app;
    if (this.#app !== undefined) this.#detach(this.#app);
    this.#attach(app);
    try {
      await app.run();
    } finally {
      this.#detach(app);
    }
  }

  /** Another app takes the place of the one that was there. */
  replaceApp(): void {
    if (this.#app !== undefined) this.#detach(this.#app);
  }

  #attach(app: AppLink): void {
    // What an earlier connection has left is the leader's to judge: the same process reports what it still has.
    this.#endIncarnation();
    this.#app = app;
    this.#apps++;
    this.#appStartedAt = this.#wallMs();
    this.#isLeaving = this.#isStopping;
    this.#startApp();
  }

  /** The connection with the app, or its channel, is over (R12). */
  #detach(app: AppLink): void {
    app.close();
    if (this.#app !== app) return;
    this.#app = undefined;
    this.#stopRenewing();
    for (const slot of [...this.#slots.values()]) {
      // All of it is there: the app's end changes nothing any more.
      if (slot.state === "Closed") continue;
      if (slot.mayRun) this.#setState(slot, "Lost");
      else {
        this.#setState(slot, "Closed");
        this.#releaseSoon(slot);
      }
    }
    if (this.#incarnation?.lease.hasBegun === false) this.#endIncarnation();
    else this.#silenceSoon();
    this.#options.onEmpty();
  }

  /**
   * When what the app had said before its end has left, or waits for its callers' credit for too long, nothing more
   * goes out: from then on the end of the app's process proves that the incarnation holds nothing (R10b).
   */
  #silenceSoon(): void {
    const { clock } = this.#options;
    const incarnation = this.#incarnation;
    if (incarnation === undefined || this.#isSilent) return;
    this.#silenceTimer ??= clock.setTimer(() => {
      this.#silenceTimer = undefined;
      for (const slot of this.#slots.values()) dropUnsent(slot, lapsed());
      this.#silenceSoon();
    }, unsentMs);
    // Behind the writes of this turn.
    clock.defer(() => {
      if (this.#app !== undefined || this.#isSilent || this.#incarnation !== incarnation) return;
      for (const slot of this.#slots.values()) if (slot.hasUnsent) return;
      if (this.#silenceTimer !== undefined) clock.clearTimer(this.#silenceTimer);
      this.#silenceTimer = undefined;
      this.#isSilent = true;
      for (const slot of this.#slots.values()) if (slot.state === "Lost") slot.shut();
      this.#tell({ type: "silent" });
    });
  }

  #startApp(): void {
    const policy = this.#policy;
    if (policy === undefined) return;
    this.#app?.start({
      type: "config",
      slots: policy.slots,
      idleMs: policy.idleMs,
      onLapse: policy.onLapse,
      servesUncertain: this.#serves,
    });
  }

  leaseLeft(): LeaseLeft {
    return this.#incarnation?.lease.left() ?? noLease;
  }

  onAnswer(app: AppLink): void {
    if (app !== this.#app) return;
    this.#check();
    if (this.#incarnation === undefined) this.#beginIncarnation(app);
    else this.#renew();
  }

  onOpened(app: AppLink, index: number, epoch: number): void {
    const slot = this.#find(index, epoch);
    if (app !== this.#app || slot?.state !== "Opening") return;
    slot.state = "Held";
    slot.wasServed = true;
    this.#tell({ type: "held", slots: [{ slot: index, epoch }] });
    if (slot.next > 0) this.#startDrain(slot);
  }

  onClosed(app: AppLink, closed: ClosedMessage, handed: HandedSlot | undefined): void {
    const slot = this.#find(closed.slot, closed.epoch);
    app.allReturned(closed);
    if (app !== this.#app || slot === undefined || slot.state === "Closed") {
      if (handed !== undefined) this.#memory.give(handed.bytes);
      return;
    }
    if (slot.isServing) slot.handed = handed;
    else if (handed !== undefined) this.#memory.give(handed.bytes);
    if (slot.state === "Draining") this.counters.moved++;
    this.#setState(slot, "Closed");
    slot.timer = this.#options.clock.setTimer(() => {
      dropUnsent(slot, slot.isAborted ? lapsed() : movedAway(slot.next));
    }, unsentMs);
    this.#releaseSoon(slot);
  }

  onLeft(app: AppLink, { slot: index, epoch, count }: LeftMessage): void {
    const slot = this.#find(index, epoch);
    if (slot !== undefined) app.returned(slot, count);
  }

  onLeaving(app: AppLink): void {
    if (app !== this.#app) return;
    this.leave();
    this.#options.onLeaving();
  }

  /** The instance is about to stop: its slots are to be moved away. Until an app registers again. */
  leave(): void {
    if (this.#isLeaving) return;
    this.#isLeaving = true;
    this.#tell({ type: "leaving" });
  }

  // ---------------------------------------------------------------- the incarnation

  #beginIncarnation(app: AppLink): void {
    const policy = this.#policy;
    if (policy === undefined || app.pings.fresh === undefined || this.#isClosed) return;
    const { clock, random, leaseClock, dialLeader } = this.#options;
    const name = `${this.#boot}.${this.#lapses}.${this.#apps}`;
    const lease = new HolderLease(leaseClock, leaseTimes(policy.leaseMs));
    const appStartedAt = this.#appStartedAt;
    const leader = new LeaderLink({
      clock,
      random,
      dial: (to) => dialLeader(to),
      identity: () => this.#identity(name, app.process, appStartedAt, lease),
      onOpen: () => this.#onLeaderOpen(name),
      onMessage: (message) => {
        if (this.#incarnation?.name === name) this.#onLeader(message);
      },
      onOver: () => {
        if (this.#incarnation?.name === name) this.#lapsed();
      },
    });
    this.#incarnation = { name, process: app.process, lease, leader };
  }

  #identity(incarnation: string, process: string, appStartedAt: number, lease: HolderLease): HolderIdentity {
    const { environment, service, instance, address } = this.#options;
    return {
      environment,
      service,
      instance,
      address,
      incarnation,
      process,
      appStartedAt,
      agentStartedAt: this.#startedAt,
      isSilent: this.#isSilent,
      // Of a lease that is over nothing is held, though nobody may have woken to that: the slots may be others'.
      holds: [...(lease.isOver ? [] : this.#slots.values())]
        .filter((slot) => slot.lease === lease)
        .map(({ slot, epoch, state }) => ({ slot, epoch, isDraining: state !== "Held" && state !== "Opening" })),
      released: [...this.#released].map(([slot, epoch]) => ({ slot, epoch, hasState: this.#hasState(slot, epoch) })),
    };
  }

  #onLeaderOpen(name: string): void {
    if (this.#incarnation?.name !== name) return;
    this.#stopRenewing();
    this.#isRenewalDue = true;
    this.#renew();
    if (this.#isLeaving) this.#tell({ type: "leaving" });
  }

  /** Sends a renewal if one is due, and the app has answered a ping that is new enough. */
  #renew(): void {
    const incarnation = this.#incarnation;
    if (!this.#isRenewalDue || incarnation === undefined || !incarnation.leader.isOpen) return;
    const pingedAt = this.#app?.pings.fresh;
    if (pingedAt === undefined || incarnation.lease.hasLapsed) return;
    this.#isRenewalDue = false;
    incarnation.leader.send(incarnation.lease.renew(pingedAt));
    this.#renewalTimer = this.#options.clock.setTimer(() => {
      this.#isRenewalDue = true;
      this.#renew();
    }, renewalIntervalMs);
  }

  #stopRenewing(): void {
    this.#isRenewalDue = false;
    if (this.#renewalTimer !== undefined) this.#options.clock.clearTimer(this.#renewalTimer);
    this.#renewalTimer = undefined;
  }

  /** Ends what the lease has ended, and wakes at its next time. */
  #check(): void {
    if (this.#leaseTimer !== undefined) this.#options.clock.clearTimer(this.#leaseTimer);
    this.#leaseTimer = undefined;
    const incarnation = this.#incarnation;
    if (incarnation === undefined || !incarnation.lease.hasBegun) return;
    const { lease } = incarnation;
    if (lease.isOver) return this.#lapsed();
    if (lease.hasLapsed && !this.#serves) {
      for (const slot of this.#slots.values()) this.#abort(slot);
      // The rest of its time is for what was begun before.
      if (this.#slots.size === 0) return this.#lapsed();
    }
    const { admitMs, gateMs } = lease.left();
    this.#leaseTimer = this.#options.clock.setTimer(
      () => this.#check(),
      Math.max(lease.hasLapsed ? gateMs : admitMs, 0) + 1,
    );
  }

  /** The lease's last moment has passed, nothing is left of what it was for, or the leader says that it is over. */
  #lapsed(): void {
    const app = this.#app;
    const incarnation = this.#incarnation;
    if (app !== undefined && this.#serves) {
      // Its slots are served on, until the next incarnation is granted them.
      this.#incarnation = undefined;
      incarnation?.leader.close();
      this.#stopRenewing();
    } else {
      for (const slot of this.#slots.values()) this.#abort(slot);
      this.#endIncarnation();
    }
    if (app === undefined) return;
    // The next one begins with the app's next answer.
    this.#lapses++;
    this.counters.lapses++;
    this.#hasLapsed = true;
  }

  /** With or without a lease is another way to hold: nothing of the former one goes on. */
  #startAnew(): void {
    for (const slot of this.#slots.values()) this.#abort(slot);
    this.#endIncarnation();
    this.#lapses++;
  }

  #endIncarnation(): void {
    const incarnation = this.#incarnation;
    this.#incarnation = undefined;
    this.#stopRenewing();
    if (this.#silenceTimer !== undefined) this.#options.clock.clearTimer(this.#silenceTimer);
    this.#silenceTimer = undefined;
    this.#isSilent = false;
    if (this.#leaseTimer !== undefined) this.#options.clock.clearTimer(this.#leaseTimer);
    this.#leaseTimer = undefined;
    for (const slot of [...this.#slots.values()]) this.#forget(slot);
    incarnation?.lease.end();
    incarnation?.leader.close();
    this.#options.onEmpty();
  }

  // ---------------------------------------------------------------- the leader

  #tell(message: Parameters<LeaderLink["send"]>[0]): void {
    this.#incarnation?.leader.send(message);
  }

  #onLeader(message: LeaderMessage): void {
    switch (message.type) {
      case "renewed":
        this.#incarnation?.lease.renewed(message.n);
        if (this.#incarnation?.lease.isAdmitting === true) this.#hasLapsed = false;
        return this.#check();
      case "grant":
        for (const slot of message.slots) this.#grant(slot);
        return;
      case "drain":
        for (const slot of message.slots) this.#drain(slot);
        return;
      case "resume":
        for (const slot of message.slots) this.#resume(slot);
        return;
      case "withdraw":
        for (const slot of message.slots) this.#withdraw(slot);
        return;
      case "drop":
        for (const slot of message.slots) this.#drop(slot);
    }
  }

  #grant(granted: GrantedSlot): void {
    const { slot: index, epoch } = granted;
    const lease = this.#incarnation?.lease;
    const app = this.#app;
    const policy = this.#policy;
    const known = this.#slots.get(index);
    if (known !== undefined && known.epoch === epoch) {
      // Said twice: the first answer was lost with its connection.
      if (known.state === "Held") this.#tell({ type: "held", slots: [{ slot: index, epoch }] });
      return;
    }
    if (this.#released.get(index) === epoch) return this.#repeatRelease(index, epoch);
    if (app === undefined || policy === undefined || lease === undefined) return this.#refuseGrant(granted);
    const isSafe = lease.isAdmitting || this.#serves;
    if (!isSafe || index >= policy.slots || epoch < (known?.epoch ?? 0)) return this.#refuseGrant(granted);
    const isGated = !this.#serves;
    if (known !== undefined && isGated) {
      this.#abort(known);
      this.#forget(known);
    } else if (known !== undefined) this.#setState(known, "Lost");
    const slot = new Slot(index, epoch, lease, "Opening", isGated);
    this.#slots.set(index, slot);
    if ((this.#released.get(index) ?? epoch) < epoch) this.#released.delete(index);
    this.#open(app, slot, granted.origin);
  }

  /** Opens it with what the last holder left, if that can be had. */
  #open(app: AppLink, slot: Slot, origin: SlotOrigin): void {
    const message = { type: "open", slot: slot.slot, epoch: slot.epoch } as const;
    const nowMs = this.#wallMs();
    const lost = { ...message, absent: "lost", tokensSince: nowMs } as const;
    if (origin.memory !== "state") {
      const isFresh = origin.memory === "fresh";
      return app.open(isFresh ? { ...message, absent: "fresh", tokensSince: 0 } : lost, undefined);
    }
    const open = (handed: HandedSlot | undefined, onSent?: () => void) => {
      if (handed === undefined) return app.open(lost, undefined, onSent);
      const { absent, tokensSince } = handed;
      app.open({ ...message, absent, tokensSince }, handed, onSent);
    };
    if (origin.address === this.#options.address) {
      if (app.holds.get(slot.slot)?.epoch === origin.epoch) {
        slot.wasServed = true;
        return app.open({ ...lost, keeps: origin.epoch }, undefined);
      }
      return open(this.#store.find(slot.slot, origin.epoch));
    }
    void this.#fetcher.fetch(origin.address, slot.slot, origin.epoch, slot.fetching.signal).then((handed) => {
      const giveBack = () => this.#memory.give(handed?.bytes ?? 0);
      if (slot.state === "Opening" && this.#app === app) open(handed, giveBack);
      else giveBack();
    });
  }

  #wallMs(): number {
    return Math.max(Math.floor(this.#options.leaseClock.read().wallMs), 0);
  }

  #refuseGrant({ slot, epoch }: SlotEpoch): void {
    this.#tell({ type: "neverHeld", slots: [{ slot, epoch }] });
  }

  #drain({ slot: index, epoch, next }: DrainingSlot): void {
    const slot = this.#find(index, epoch);
    if (slot === undefined) return this.#repeatRelease(index, epoch);
    if (slot.state !== "Opening" && slot.state !== "Held") return;
    slot.next = next;
    if (slot.state === "Held") this.#startDrain(slot);
  }

  #startDrain(slot: Slot): void {
    this.#setState(slot, "Draining");
    const { slot: index, epoch } = slot;
    for (const relay of slot.relays) if (relay.isChannel) this.#moves.add(relay);
    this.#app?.send({ type: "drain", slot: index, epoch });
    this.#endChannelsLater(slot);
  }

  /** Those that do not end though they are to move; again, for those that are entered meanwhile. */
  #endChannelsLater(slot: Slot): void {
    slot.timer = this.#options.clock.setTimer(() => {
      for (const relay of [...slot.relays]) if (relay.isChannel && relay.isAnswered) relay.end(movedAway(slot.next));
      // Who is told of the last end may close the slot.
      if (slot.state === "Draining") this.#endChannelsLater(slot);
    }, rebalanceDrainMs / 2);
  }

  #resume({ slot: index, epoch }: SlotEpoch): void {
    const slot = this.#find(index, epoch);
    if (slot === undefined) return;
    slot.next = 0;
    if (slot.state !== "Draining") return;
    for (const relay of slot.relays) this.#moves.delete(relay);
    this.#setState(slot, "Held");
    this.#app?.send({ type: "resume", slot: index, epoch });
  }

  #withdraw(withdrawn: SlotEpoch): void {
    const slot = this.#find(withdrawn.slot, withdrawn.epoch);
    if (slot !== undefined) return this.#giveUp(slot);
    const { epoch, slot: index } = withdrawn;
    this.#tell({ type: "neverHeld", slots: [{ slot: index, epoch }] });
  }

  #drop({ slot: index, epoch }: SlotEpoch): void {
    const slot = this.#find(index, epoch);
    if (slot === undefined) return this.#repeatRelease(index, epoch);
    this.#giveUp(slot);
  }

  /** It is another's, or may be: nothing of it is heard from here on, and it is released when nothing of it runs. */
  #giveUp(slot: Slot): void {
    // Of what an app has left behind nobody here can say that it has ended.
    if (slot.state === "Closed" || slot.state === "Lost") return;
    this.#abort(slot);
    // What lies in this turn's writes may still go: a gate that shuts before would cost the others on the connection.
    this.#options.clock.defer(() => {
      slot.shut();
      this.#endRelays(slot);
    });
  }

  #repeatRelease(slot: number, epoch: number): void {
    this.#tell({ type: "released", slots: [{ slot, epoch, hasState: this.#hasState(slot, epoch) }] });
  }

  // ---------------------------------------------------------------- slots

  #find(slot: number, epoch: number): Slot | undefined {
    const found = this.#slots.get(slot);
    return found?.epoch === epoch ? found : undefined;
  }

  #setState(slot: Slot, state: SlotState): void {
    slot.state = state;
    if (slot.timer !== undefined) this.#options.clock.clearTimer(slot.timer);
    slot.timer = undefined;
  }

  /** The app is to abort what runs in it. */
  #abort(slot: Slot): void {
    if (slot.state === "Aborting" || slot.state === "Closed" || slot.state === "Lost") return;
    this.#setState(slot, "Aborting");
    slot.isAborted = true;
    slot.fetching.abort();
    this.#app?.send({ type: "abort", slot: slot.slot, epoch: slot.epoch });
  }

  #endRelays(slot: Slot): void {
    for (const relay of [...slot.relays]) relay.end(lapsed());
  }

  /** Releases it when what its methods said has left, and the writes of this turn with it. */
  #releaseSoon(slot: Slot): void {
    this.#options.clock.defer(() => {
      if (slot.state !== "Closed" || this.#slots.get(slot.slot) !== slot || slot.hasUnsent) return;
      this.#release(slot);
    });
  }

  #release(slot: Slot): void {
    const { slot: index, epoch, handed } = slot;
    slot.shut();
    this.#setState(slot, "Closed");
    slot.fetching.abort();
    this.#slots.delete(index);
    if (handed !== undefined) this.#store.keep(index, epoch, handed);
    slot.handed = undefined;
    if ((this.#released.get(index) ?? -1) < epoch) this.#released.set(index, epoch);
    // Nothing was admitted to one that was not opened: what its last holder left is for the next one still.
    if (!slot.wasServed) this.#tell({ type: "neverHeld", slots: [{ slot: index, epoch }] });
    else this.#tell({ type: "released", slots: [{ slot: index, epoch, hasState: this.#hasState(index, epoch) }] });
    if (slot.isAborted) this.#endRelays(slot);
    if (this.#slots.size === 0) this.#options.onEmpty();
  }

  /** Of an incarnation that is over: nothing of it is heard, and nobody is told. */
  #forget(slot: Slot): void {
    slot.shut();
    this.#setState(slot, "Lost");
    slot.fetching.abort();
    this.#slots.delete(slot.slot);
    if (slot.handed !== undefined) this.#memory.give(slot.handed.bytes);
    slot.handed = undefined;
    this.#endRelays(slot);
  }

  /** What the slot had under the epoch can be given to the next holder. */
  #hasState(slot: number, epoch: number): boolean {
    return this.#store.find(slot, epoch) !== undefined;
  }

  // ---------------------------------------------------------------- the end

  /** The agent is about to stop. */
  stop(): void {
    this.#isStopping = true;
    this.leave();
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#endIncarnation();
    this.#app?.close();
    this.#app = undefined;
    this.#moves.close();
    this.#store.close();
  }
}

/** Ends what waits for its caller's credit. */
function dropUnsent(slot: Slot, error: LeverError): void {
  for (const relay of [...slot.relays]) if (relay.hasUnsent) relay.end(error);
}

const shutGate: Gate = { isOpen: false };

function moved(epoch: number, why: string): LeverError {
  return new LeverError("MOVED", `the resource is not served here: ${why}`, { effect: "none", details: { epoch } });
}

function movedAway(epoch: number): LeverError {
  return new LeverError("MOVED", "the resource is moving to another instance; open the channel again", {
    effect: "ran",
    details: { epoch },
  });
}

function lapsed(): LeverError {
  return new LeverError("LEASE_LAPSED", "the instance lost the resource while it had the call", { effect: "unknown" });
}

function noResources(why: string): LeverError {
  return new LeverError("NO_RESOURCES", `the call names a resource, and ${why}; leave it out of the URL`, {
    effect: "none",
  });
}
