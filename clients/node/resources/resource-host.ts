/**
 * The resources of an app: which slots it has, an object for each resource that is called, and what becomes of them at
 * moves, when they are idle, when the lease lapses and at the end. The app's half of R5, R7, R20, R21 and R25.
 *
 * Invariants: a method starts only while the lease, read at that moment, admits, and in the epoch that its call names; a
 * resource has one object at a time, and a new one only when the methods of the last one have returned and it is
 * disposed of; a slot is closed only when nothing of it runs or is still to leave. Who holds what, the agent says.
 */

import type { TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { handOverBytesMax, hookTimeoutMs, resourceStateBytesMax } from "@leveros/protocol/control/lease.ts";
import {
  type AbsentMemory,
  type AgentToAppMessage,
  type AppHolder,
  type ConfigMessage,
  type OpenSlotMessage,
  orphansMax,
  type SlotEpoch,
} from "@leveros/protocol/control/ownership.ts";
import { DeadlineEntry } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Invocation } from "@leveros/protocol/invocation/invocation-server.ts";
import {
  type TokenBudget,
  TokenMemory,
  tokenSkewMs,
  tokenWindowMs,
} from "@leveros/protocol/invocation/token-memory.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import { copyBytes } from "@leveros/protocol/value/copy-bytes.ts";
import { decodePayload, encodeMessage } from "@leveros/protocol/value/form.ts";
import type { Connection } from "../connection.ts";
import { type Hook, HookContext, type ServerFacts } from "../context.ts";
import { HoldChannel, type HoldChannelHandler, type ItemMessage, type ReceivedItem } from "./hold-channel.ts";
import { handOver, hookOf, open, runHook } from "./hooks.ts";
import { AppLease, SlotGate } from "./lease.ts";
import type { ResourceClass, ResourceMemory } from "./resource-methods.ts";
import { type LeftState, ResourceObject, Slot } from "./slot.ts";
import { Watchdog, type WatchedLease } from "./watchdog.ts";

export interface ResourceHostOptions {
  readonly connection: Connection;
  readonly resource: ResourceClass;
  /** Objects at a time. */
  readonly resourcesMax: number;
  /** Names the process towards the operator: at most 64 characters, and never another one's. */
  readonly process: string;
  readonly server: ServerFacts;
  /** A hook has failed. Must not throw. */
  report(error: unknown, hook: Hook, resource: string): void;
}

/** Calls for slots that are not open yet. */
const waitingCallsMax = 1000;
/** How long a call waits for its slot at most, whatever its deadline. */
const waitMsMax = 30_000;
/** After the channel about slots has ended while its session lives. */
const reopenMs = 1000;
const sweepMsMin = 1000;
const sweepMsMax = 30_000;

/** A call to a resource, as its invocation's attachment. */
class ResourceCall {
  readonly slot: Slot;
  readonly name: string;
  object: ResourceObject | undefined = undefined;
  hasEntered = false;
  lease: WatchedLease = 0;

  constructor(slot: Slot, name: string) {
    this.slot = slot;
    this.name = name;
  }
}

class WaitingCall extends DeadlineEntry {
  readonly invocation: Invocation;
  readonly resource: string;
  readonly resolve: (slot: Slot) => void;
  readonly reject: (error: LeverError) => void;
  readonly #onDeadline: (call: WaitingCall) => void;

  constructor(
    invocation: Invocation,
    resource: string,
    resolve: (slot: Slot) => void,
    reject: (error: LeverError) => void,
    onDeadline: (call: WaitingCall) => void,
  ) {
    super();
    this.invocation = invocation;
    this.resource = resource;
    this.resolve = resolve;
    this.reject = reject;
    this.#onDeadline = onDeadline;
  }

  override onDeadline(): void {
    this.#onDeadline(this);
  }
}

export class ResourceHost implements HoldChannelHandler {
  readonly #options: ResourceHostOptions;
  readonly #connection: Connection;
  readonly #lease: AppLease;
  readonly #slots = new Map<number, Slot>();
  /** By slot, the last epoch that was closed here. */
  readonly #closed = new Map<number, number>();
  /** Former epochs of slots with methods or objects that are not gone yet. */
  readonly #former = new Set<Slot>();
  /** Resource methods that have been entered and have not returned. */
  readonly #entered = new Map<Invocation, ResourceCall>();
  readonly #waiting = new Set<WaitingCall>();
  /** Objects whose opening was given up while it goes on. */
  readonly #stuck = new Map<ResourceObject, Promise<void>>();
  readonly #tokenBudget: TokenBudget;
  #objects = 0;
  /** Of states that wait to be taken, or to be sent. */
  #stateBytes = 0;
  #config: ConfigMessage | undefined;
  #hold: HoldChannel | undefined;
  #session: Session | undefined;
  #watchdog: Watchdog | undefined;
  /** Of the service, as its calls name it: for the contexts of hooks. */
  #service = { environment: "", service: "" };
  #lastPing = -1;
  /** A question of this end is not answered yet. */
  #isAsking = false;
  #isLeaving = false;
  #isClosed = false;
  #whenEmpty: (() => void)[] = [];
  #leaseTimer: TimerHandle | undefined;
  #sweepTimer: TimerHandle | undefined;
  #reopenTimer: TimerHandle | undefined;

  constructor(options: ResourceHostOptions, tokenBudget: TokenBudget) {
    this.#options = options;
    this.#connection = options.connection;
    this.#lease = new AppLease(options.connection.leaseClock);
    this.#tokenBudget = tokenBudget;
  }

  /** Objects that are there. */
  get objectCount(): number {
    return this.#objects;
  }

  // ---------------------------------------------------------------- the agent

  /** The app has just registered on this session. */
  onSession(session: Session): void {
    if (this.#isClosed) return;
    this.#lose(new LeverError("LEASE_LAPSED", "the connection with the agent was made anew"));
    this.#session = session;
    this.#openHold(session);
  }

  #openHold(session: Session): void {
    const holds: AppHolder["holds"] = [...this.#slots.values()]
      .filter(({ epoch, phase }) => epoch > 0 && phase !== "closing")
      .map((slot) => ({ slot: slot.number, epoch: slot.epoch, running: slot.running + this.#runningBefore(slot) }));
    this.#hold = new HoldChannel(this.#connection.runtime, session, { process: this.#options.process, holds }, this);
  }

  /** Methods of former epochs of the slot, which nothing new of it may overlap either. */
  #runningBefore({ number }: Slot): number {
    let running = 0;
    for (const former of this.#former) if (former.number === number) running += former.running;
    return running;
  }

  onEnd(hold: HoldChannel, error: LeverError): void {
    if (this.#hold !== hold) return;
    this.#hold = undefined;
    this.#lose(new LeverError("LEASE_LAPSED", "the connection with the agent was lost", { cause: error }));
    const { session } = hold;
    if (session.isClosed || this.#isClosed || this.#session !== session) return;
    this.#reopenTimer = this.#connection.clock.setTimer(() => {
      if (!session.isClosed && !this.#isClosed && this.#session === session) this.#openHold(session);
    }, reopenMs);
  }

  onMessage(hold: HoldChannel, message: Exclude<AgentToAppMessage, ItemMessage>, items: readonly ReceivedItem[]): void {
    if (hold !== this.#hold) return;
    switch (message.type) {
      case "config":
        return this.#onConfig(message);
      case "ping": {
        // Before the answer says that this process is well, it must know how its lease stands.
        this.#checkLease();
        this.#lastPing = message.n;
        return this.#pong(hold);
      }
      case "lease":
        this.#checkLease();
        if (this.#lease.answer(message)) this.#renewed();
        return;
      case "open":
        return this.#onOpen(hold, message, items);
      case "drain":
        return this.#onDrain(hold, message);
      case "resume": {
        const slot = this.#find(message);
        if (slot?.phase !== "draining") return;
        slot.phase = "open";
        if (!this.#isLeaving) slot.drainingWith = undefined;
        return;
      }
      case "abort":
        return this.#onAbort(hold, message);
    }
  }

  #pong(hold: HoldChannel): void {
    const orphans = this.#orphans(hold.session);
    this.#isAsking = true;
    hold.send({
      type: "pong",
      n: this.#lastPing,
      asks: this.#lease.ask(),
      ...(orphans.length <= orphansMax && { orphans }),
    });
  }

  /** Calls wait for the lease, which may have begun since the last ping: a pong said twice is a question only. */
  #ask(): void {
    if (this.#hold === undefined || this.#isAsking || this.#lastPing < 0) return;
    this.#pong(this.#hold);
  }

  #orphans(session: Session): number[] {
    const orphans: number[] = [];
    for (const invocation of this.#entered.keys()) {
      if (invocation.session === session && invocation.isStreamClosed) orphans.push(invocation.streamId);
    }
    return orphans;
  }

  #onConfig(config: ConfigMessage): void {
    if (this.#config !== undefined && this.#config.slots !== config.slots) {
      throw new LeverError(
        "PROTOCOL_VIOLATION",
        `the service has ${config.slots} slots, and had ${this.#config.slots} before; their number never changes`,
      );
    }
    this.#config = config;
    if (config.onLapse === "Kill" && !config.servesUncertain) {
      this.#watchdog ??= new Watchdog(this.#options.server.instance);
    }
    this.#sweepLater();
    this.#reconsider();
  }

  #find({ slot: number, epoch }: SlotEpoch): Slot | undefined {
    const slot = this.#slots.get(number);
    return slot?.epoch === epoch ? slot : undefined;
  }

  // ---------------------------------------------------------------- the lease

  get #keepsLease(): boolean {
    return this.#config?.servesUncertain === false;
  }

  #renewed(): void {
    const { term } = this.#lease;
    this.#isAsking = false;
    this.#checkLeaseLater();
    if (term === undefined || this.#lease.admitLeftMs <= 0) return;
    this.#watchdog?.renew(term);
    this.#reconsider();
  }

  #checkLeaseLater(): void {
    const { clock } = this.#connection;
    if (this.#leaseTimer !== undefined) clock.clearTimer(this.#leaseTimer);
    this.#leaseTimer = undefined;
    // The process may have been stopped since whoever calls this has looked: then it is to look again.
    this.#leaseTimer = clock.setTimer(() => this.#checkLease(), Math.max(this.#lease.admitLeftMs, 0));
  }

  /** At the end of the time to admit what runs is aborted, and from then on has what is left of that lease. */
  #checkLease(): void {
    if (!this.#keepsLease || this.#lease.term === undefined) return;
    if (this.#lease.admitLeftMs > 0) return this.#checkLeaseLater();
    const error = new LeverError("LEASE_LAPSED", "the instance has not renewed its lease in time");
    for (const slot of this.#slots.values()) {
      if (slot.epoch === 0 || !slot.takesCalls || slot.calls.size === 0) continue;
      this.#abort(slot, error);
      slot.gate = new SlotGate(this.#lease);
    }
  }

  /** Its methods are aborted; until the end of the lease as it is now they may still be heard. */
  #abort(slot: Slot, error: LeverError): void {
    slot.gate?.freeze();
    const { term } = this.#lease;
    if (term !== undefined) this.#watchdog?.lapse(term);
    for (const invocation of [...slot.calls]) {
      const call = invocation.attachment as ResourceCall;
      // One that has not begun is refused when it would; one that has returned only has to leave.
      if (!call.hasEntered || invocation.isDone) continue;
      if (call.lease === 0) {
        call.lease = 1;
        this.#watchdog?.count(1, 1);
        this.#watchdog?.count(0, -1);
      }
      invocation.abort(error);
    }
  }

  /** The agent is gone: nothing of the slots is heard any more, and none is held. Their objects wait for the next agent. */
  #lose(error: LeverError): void {
    const hold = this.#hold;
    this.#hold = undefined;
    hold?.close();
    if (this.#reopenTimer !== undefined) this.#connection.clock.clearTimer(this.#reopenTimer);
    if (this.#leaseTimer !== undefined) this.#connection.clock.clearTimer(this.#leaseTimer);
    this.#leaseTimer = undefined;
    for (const slot of this.#slots.values()) {
      if (this.#config?.servesUncertain === true) {
        // Whoever asks is served; that it was to move is the last agent's to say.
        if (slot.phase === "draining") slot.phase = "open";
        continue;
      }
      this.#setLost(slot);
      this.#abort(slot, error);
      slot.gate?.shut();
    }
    this.#lease.end();
    this.#lastPing = -1;
    this.#isAsking = false;
    for (const call of [...this.#waiting]) this.#stopWaiting(call).reject(movedTo(undefined));
    this.#checkEmpty();
  }

  #setLost(slot: Slot): void {
    if (slot.phase === "closing" || slot.phase === "lost") return;
    slot.phase = "lost";
    slot.lostAtMs = this.#connection.clock.now();
  }

  // ---------------------------------------------------------------- slots

  #onOpen(hold: HoldChannel, message: OpenSlotMessage, items: readonly ReceivedItem[]): void {
    const { slot: number, epoch } = message;
    const known = this.#slots.get(number);
    if (known !== undefined && known.epoch >= epoch) {
      if (known.epoch === epoch && known.takesCalls) hold.send({ type: "opened", slot: number, epoch });
      return;
    }
    let slot: Slot;
    if (known !== undefined && this.#config?.servesUncertain === true && known.takesCalls) {
      // It has been served without anybody's knowledge, and is now with it.
      slot = known;
      slot.epoch = epoch;
      slot.phase = "open";
    } else {
      const keeps = known !== undefined && message.keeps === known.epoch && known.phase !== "closing";
      slot = new Slot(number, epoch, {
        gate: this.#keepsLease ? new SlotGate(this.#lease) : undefined,
        absent: message.absent,
        tokens: keeps ? known.tokens : this.#tokenMemory(message.tokensSince, tokenSkewMs),
      });
      if (keeps) slot.absent = known.absent;
      this.#slots.set(number, slot);
      if (known !== undefined) this.#replace(known, slot, keeps);
    }
    this.#takeItems(slot, items);
    if (this.#isLeaving) slot.drainingWith = leaving();
    hold.send({ type: "opened", slot: number, epoch });
    this.#reconsider();
  }

  #tokenMemory(sinceMs: number, skewMs: number): TokenMemory {
    return new TokenMemory({ budget: this.#tokenBudget, sinceMs, skewMs, wallNow: () => this.#wallNow() });
  }

  #wallNow(): number {
    return Math.max(Math.floor(this.#connection.leaseClock.read().wallMs), 0);
  }

  #takeItems(slot: Slot, items: readonly ReceivedItem[]): void {
    for (const { message, bytes } of items) {
      if (message.slot !== slot.number) continue;
      if (message.type === "state") {
        if (!slot.objects.has(message.resource)) this.#keepState(slot, message.resource, { form: message.form, bytes });
      } else {
        const { resource, method, token, from, flags, forgetAt } = message;
        // It is not said when the token was made: at the latest as it had run, by a clock that may have been ahead.
        const timeMs = Math.max(forgetAt - tokenWindowMs + tokenSkewMs, 0);
        slot.tokens.add({ resource, method, token, from, timeMs, flags, bytes, forgetAtMs: forgetAt });
      }
    }
  }

  /** False, and the resource counts as lost, if there is too much. */
  #keepState(slot: Slot, name: string, state: LeftState): boolean {
    if (this.#stateBytes + state.bytes.length > handOverBytesMax) {
      slot.absent = "lost";
      return false;
    }
    this.#stateBytes += state.bytes.length;
    slot.states.set(name, state);
    return true;
  }

  #takeState(slot: Slot, name: string): void {
    const state = slot.states.get(name);
    if (state === undefined) return;
    this.#stateBytes -= state.bytes.length;
    slot.states.delete(name);
  }

  /** `next` takes the place of a slot that is lost: its objects are closed, handed over if `keeps`, as soon as they can be. */
  #replace(lost: Slot, next: Slot, keeps: boolean): void {
    this.#setLost(lost);
    this.#former.add(lost);
    for (const [name, state] of lost.states) {
      if (keeps) next.states.set(name, state);
      else this.#stateBytes -= state.bytes.length;
    }
    lost.states.clear();
    if (!keeps) lost.tokens.clear();
    const goesOn = (name: string, closing: Promise<LeftState | "lost" | undefined>) => {
      const promise = closing.then((left) => {
        if (next.inherited.get(name) === promise) next.inherited.delete(name);
        if (!keeps) return;
        if (left === "lost") next.absent = "lost";
        else if (left !== undefined) this.#keepState(next, name, left);
      });
      next.inherited.set(name, promise);
    };
    for (const [name, before] of lost.inherited) {
      goesOn(
        name,
        before.then(() => {
          const state = lost.states.get(name);
          this.#takeState(lost, name);
          return state ?? (lost.absent === "lost" ? "lost" : undefined);
        }),
      );
    }
    for (const [name, object] of lost.objects) goesOn(name, this.#closeObject(lost, name, object, keeps));
    void Promise.all(next.inherited.values()).then(() => {
      if (lost.running === 0) this.#former.delete(lost);
    });
  }

  #onDrain(hold: HoldChannel, message: SlotEpoch): void {
    const slot = this.#find(message);
    // Closed when what still runs has returned.
    if (slot === undefined || slot.phase === "lost") return this.#onAbort(hold, message);
    if (slot.phase !== "open") return;
    slot.phase = "draining";
    slot.drainingWith = new LeverError("MOVED", "the resource is to move to another instance", { effect: "none" });
    this.#closeIfIdle(slot);
  }

  #sayClosed(hold: HoldChannel, { slot, epoch }: SlotEpoch): void {
    hold.send({ type: "closed", slot, epoch, hasState: false, absent: "lost", tokensSince: this.#wallNow() });
  }

  #closeIfIdle(slot: Slot): void {
    if (slot.phase !== "draining" || slot.calls.size > 0) return;
    if (slot.inherited.size > 0) {
      // Methods of an earlier epoch may run for as long as they like: until they have returned the move can be called off.
      void Promise.all(slot.inherited.values()).then(() => this.#closeIfIdle(slot));
      return;
    }
    slot.phase = "closing";
    void this.#close(slot);
  }

  /** Every method has returned, those of earlier epochs too, and all that they said has left. */
  async #close(slot: Slot): Promise<void> {
    let { absent }: { absent: AbsentMemory } = slot;
    const closing = [...slot.objects].map(async ([name, object]) => {
      const left = await this.#closeObject(slot, name, object, true);
      if (left === "lost" || (left !== undefined && !this.#keepState(slot, name, left))) absent = "lost";
    });
    await Promise.all(closing);
    if (slot.absent === "lost") absent = "lost";
    const { number, epoch, tokens } = slot;
    const hold = this.#hold;
    for (const [resource, { form, bytes }] of slot.states) {
      const onGone = () => {
        this.#stateBytes -= bytes.length;
      };
      if (hold === undefined) onGone();
      else hold.sendItem({ type: "state", slot: number, epoch, resource, form }, bytes, onGone);
    }
    slot.states.clear();
    for (const { resource, method, token, from, flags, bytes, forgetAtMs } of tokens.outcomes()) {
      const whose = { resource, method, token, ...(from !== undefined && { from }) };
      hold?.sendItem({ type: "token", slot: number, epoch, ...whose, flags, forgetAt: forgetAtMs }, bytes);
    }
    hold?.send({ type: "closed", slot: number, epoch, hasState: true, absent, tokensSince: tokens.sinceMs });
    tokens.clear();
    this.#closed.set(number, epoch);
    if (this.#slots.get(number) === slot) this.#slots.delete(number);
    this.#checkEmpty();
  }

  #onAbort(hold: HoldChannel, message: SlotEpoch): void {
    const slot = this.#find(message);
    if (slot === undefined) {
      // Of a former epoch: what is left of it ends without being asked.
      const former = [...this.#former].find(({ number, epoch }) => number === message.slot && epoch === message.epoch);
      if (former === undefined) return this.#sayClosed(hold, message);
      return void Promise.all([...former.objects.values()].map((object) => this.#unused(former, object))).then(() =>
        this.#sayClosed(hold, message),
      );
    }
    if (slot.phase === "closing") return;
    this.#setLost(slot);
    this.#abort(slot, new LeverError("LEASE_LAPSED", "the instance has lost the resource"));
    void this.#closeLost(hold, slot);
    this.#reconsider();
  }

  async #closeLost(hold: HoldChannel, slot: Slot): Promise<void> {
    const closing = [...slot.objects].map(([name, object]) => this.#closeObject(slot, name, object, false));
    await Promise.all([...closing, ...slot.inherited.values()]);
    for (const name of [...slot.states.keys()]) this.#takeState(slot, name);
    // A new epoch that took the slot's tokens goes on with them.
    if (this.#slots.get(slot.number) === slot) {
      slot.tokens.clear();
      this.#closed.set(slot.number, slot.epoch);
      this.#slots.delete(slot.number);
    }
    this.#sayClosed(hold, { slot: slot.number, epoch: slot.epoch });
    this.#checkEmpty();
  }

  // ---------------------------------------------------------------- calls

  /** The slot's memory of tokens, once the call is admitted to its slot. Throws and rejects with effect none. */
  admit(invocation: Invocation): TokenMemory | Promise<TokenMemory> {
    const { target, fields } = invocation;
    const resource = fields.resource as string;
    if (this.#service.service === "") this.#service = { environment: target.environment, service: target.service };
    const slot = this.#slotOf(resource, fields.epoch ?? 0);
    if (slot !== undefined) return this.#admitted(invocation, resource, slot);
    if (this.#waiting.size >= waitingCallsMax) {
      throw new LeverError(
        "OVERLOADED",
        `${waitingCallsMax} calls wait for the instance to get their resources, the most that may`,
        { effect: "none", details: { limit: "waitingCallsMax", waitingCallsMax } },
      );
    }
    return new Promise<Slot>((resolve, reject) => {
      const call = new WaitingCall(invocation, resource, resolve, reject, (late) => {
        this.#stopWaiting(late).reject(movedTo(late.invocation.fields.epoch));
      });
      this.#waiting.add(call);
      const { wheel, now } = this.#connection.runtime;
      wheel.add(call, Math.min(invocation.openDeadlineAt ?? Number.POSITIVE_INFINITY, now() + waitMsMax));
    }).then((opened) => this.#admitted(invocation, resource, opened));
  }

  /** Undefined if it is not there yet. Throws MOVED. */
  #slotOf(resource: string, epoch: number): Slot | undefined {
    const config = this.#config;
    if (config === undefined) return undefined;
    const number = slotOf(resource, config.slots);
    const slot = this.#slots.get(number);
    if (epoch === 0) {
      if (!config.servesUncertain) throw movedTo(undefined);
      if (slot === undefined) return this.#openUncertain(number);
    } else {
      if (epoch <= (this.#closed.get(number) ?? 0)) throw movedTo(epoch + 1);
      if (slot === undefined || slot.epoch < epoch) return undefined;
      if (slot.epoch > epoch) throw movedTo(slot.epoch);
    }
    if (!slot.takesCalls) throw movedTo(slot.epoch + 1);
    if (slot.gate !== undefined && this.#lease.admitLeftMs <= 0) {
      this.#ask();
      return undefined;
    }
    return slot;
  }

  #openUncertain(number: number): Slot {
    const slot = new Slot(number, 0, {
      gate: undefined,
      absent: "lost",
      tokens: this.#tokenMemory(this.#wallNow(), 0),
    });
    this.#slots.set(number, slot);
    return slot;
  }

  #reconsider(): void {
    for (const call of [...this.#waiting]) {
      try {
        const slot = this.#slotOf(call.resource, call.invocation.fields.epoch ?? 0);
        if (slot !== undefined) this.#stopWaiting(call).resolve(slot);
      } catch (error) {
        this.#stopWaiting(call).reject(LeverError.from(error));
      }
    }
  }

  #stopWaiting(call: WaitingCall): WaitingCall {
    this.#waiting.delete(call);
    this.#connection.runtime.wheel.remove(call);
    return call;
  }

  #admitted(invocation: Invocation, resource: string, slot: Slot): TokenMemory {
    // One that was refused while it waited would never be counted out.
    if (!slot.takesCalls || invocation.isDone) throw movedTo(slot.epoch + 1);
    const call = new ResourceCall(slot, resource);
    invocation.attachment = call;
    // One that has shut was for what had begun before the lease lapsed.
    if (slot.gate?.isOpen === false) slot.gate = new SlotGate(this.#lease);
    if (slot.gate !== undefined) invocation.gate = slot.gate;
    slot.calls.add(invocation);
    invocation.onReturned = () => this.#returned(invocation, call);
    invocation.onAnswered = () => this.#answered(invocation, call);
    return slot.tokens;
  }

  /** The slot of an invocation that `admit` let in. */
  slotOf(invocation: Invocation): Slot {
    return (invocation.attachment as ResourceCall).slot;
  }

  /** The resource's object, which stays until the invocation has returned. Throws and rejects with effect none. */
  objectFor(invocation: Invocation): ResourceObject | Promise<ResourceObject> {
    const call = invocation.attachment as ResourceCall;
    const { slot, name } = call;
    if (!slot.takesCalls) throw movedTo(slot.epoch + 1);
    const object = this.#objectOf(slot, name);
    if (object.change === undefined) return this.#use(call, object);
    return object.change.then(() => {
      // Closed meanwhile: the next one is made.
      return slot.objects.get(name) === object ? this.#use(call, object) : this.objectFor(invocation);
    });
  }

  #use(call: ResourceCall, object: ResourceObject): ResourceObject {
    call.object = object;
    object.users++;
    return object;
  }

  /** At the method's start. Throws MOVED. */
  enters(invocation: Invocation): void {
    const call = invocation.attachment as ResourceCall;
    const { slot } = call;
    if (!slot.takesCalls) throw movedTo(slot.epoch + 1);
    if (slot.gate !== undefined && this.#lease.admitLeftMs <= 0) {
      this.#checkLease();
      // Perhaps it is held nevertheless: then the call waits here for the lease.
      throw movedTo(slot.epoch);
    }
    call.hasEntered = true;
    slot.running++;
    this.#entered.set(invocation, call);
    this.#watchdog?.count(call.lease, 1);
  }

  #returned(invocation: Invocation, call: ResourceCall): void {
    const { slot, object } = call;
    if (object !== undefined) {
      object.users--;
      object.lastUsedMs = this.#connection.clock.now();
      if (object.users === 0 && slot.whenUnused.size > 0) slot.whenUnused.get(object)?.();
    }
    if (!call.hasEntered) return;
    slot.running--;
    this.#entered.delete(invocation);
    this.#watchdog?.count(call.lease, -1);
    if (slot.running === 0 && this.#slots.get(slot.number) !== slot) this.#former.delete(slot);
    if (invocation.hasLostCaller) this.#hold?.send({ type: "left", slot: slot.number, epoch: slot.epoch, count: 1 });
  }

  #answered(invocation: Invocation, { slot }: ResourceCall): void {
    slot.calls.delete(invocation);
    this.#closeIfIdle(slot);
  }

  // ---------------------------------------------------------------- objects

  #objectOf(slot: Slot, name: string): ResourceObject {
    const known = slot.objects.get(name);
    if (known !== undefined) return known;
    const { resourcesMax } = this.#options;
    if (this.#objects >= resourcesMax) {
      throw new LeverError(
        "OVERLOADED",
        `this instance has ${this.#objects} resources, resourcesMax is ${resourcesMax}; idle ones are closed after a ` +
          "while; add instances, or raise it in serve(methods, { resourcesMax })",
        { effect: "none", details: { limit: "resourcesMax", resourcesMax } },
      );
    }
    const object = new ResourceObject();
    this.#objects++;
    slot.objects.set(name, object);
    this.#sweepLater();
    const before = slot.inherited.get(name);
    const opening =
      before === undefined
        ? this.#openObject(slot, name, object)
        : before.then(() => this.#openObject(slot, name, object));
    if (opening === undefined) return object;
    object.change = opening.then(
      () => {
        object.change = undefined;
      },
      (error: unknown) => {
        if (!this.#stuck.has(object)) this.#forget(slot, name, object);
        throw error;
      },
    );
    // Whoever calls gets the error.
    object.change.catch(() => {});
    return object;
  }

  /** Undefined if it is open at once. Throws MOVED; throws and rejects with HOOK_FAILED. */
  #openObject(slot: Slot, name: string, object: ResourceObject): Promise<void> | undefined {
    // The process may have been stopped since the call came in, and the resource may be open elsewhere.
    if (!slot.takesCalls || (slot.gate !== undefined && this.#lease.admitLeftMs <= 0)) {
      this.#forget(slot, name, object);
      throw movedTo(slot.epoch);
    }
    const context = this.#hookContext("constructor", slot, name);
    const state = slot.states.get(name);
    const memory: ResourceMemory = state === undefined ? slot.absent : "state";
    let run: ReturnType<typeof runHook>;
    try {
      run = runHook(this.#connection.clock, context, () => {
        const value = state === undefined ? undefined : decodeState(state);
        const instance = new this.#options.resource(name, value, memory);
        object.instance = instance;
        const opens = hookOf(instance, open);
        // Of its own: the constructor may have kept the first, and changed it.
        return opens?.(state === undefined ? undefined : decodeState(state), memory);
      });
    } catch (error) {
      const failed = this.#hookFailed(error, "constructor", name);
      // A constructor that throws has made nothing to be disposed of.
      if (object.instance === undefined) {
        this.#forget(slot, name, object);
        throw failed;
      }
      return this.#dispose(slot, name, object).then(() => {
        throw failed;
      });
    }
    const opened = () => {
      object.lastUsedMs = this.#connection.clock.now();
      this.#takeState(slot, name);
    };
    if ("result" in run) {
      opened();
      return undefined;
    }
    const { inTime, settled, isLate } = run;
    return inTime.then(opened, async (error: unknown) => {
      const failed = this.#hookFailed(error, "constructor", name);
      const disposed = settled.then(() => this.#dispose(slot, name, object));
      if (isLate()) {
        // Whoever calls is told at once; another object is made only when the hook is over.
        this.#stuck.set(
          object,
          disposed.then(() => {
            this.#stuck.delete(object);
            this.#forget(slot, name, object);
          }),
        );
      } else await disposed;
      throw failed;
    });
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#connection.clock.setTimer(resolve, ms));
  }

  #forget(slot: Slot, name: string, object: ResourceObject): void {
    if (slot.objects.get(name) !== object) return;
    slot.objects.delete(name);
    this.#objects--;
  }

  #hookFailed(error: unknown, hook: Hook, name: string): LeverError {
    this.#options.report(error, hook, name);
    return new LeverError("HOOK_FAILED", "the resource could not be opened; the log of its instance says why", {
      effect: "none",
    });
  }

  #hookContext(hook: Hook, slot: Slot, name: string): HookContext {
    return new HookContext(hook, name, this.#service, this.#options.server, slot);
  }

  /** Resolves when no call has the object any more. */
  #unused(slot: Slot, object: ResourceObject): Promise<void> {
    if (object.users === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const before = slot.whenUnused.get(object);
      slot.whenUnused.set(object, () => {
        slot.whenUnused.delete(object);
        before?.();
        resolve();
      });
    });
  }

  /**
   * When no method of it runs: hands it over, if `keeps`, and disposes of it. Resolves with what it left; `lost` if that
   * could not be had. Never rejects.
   */
  async #closeObject(
    slot: Slot,
    name: string,
    object: ResourceObject,
    keeps: boolean,
  ): Promise<LeftState | "lost" | undefined> {
    const stuck = this.#stuck.get(object);
    if (stuck !== undefined) {
      // It could not be opened: what it was to be opened with has gone nowhere.
      await (slot.phase === "closing" ? Promise.race([stuck, this.#pause(hookTimeoutMs)]) : stuck);
      return undefined;
    }
    if (object.change !== undefined) {
      await object.change.catch(() => {});
      const next = slot.objects.get(name);
      return next === undefined ? undefined : this.#closeObject(slot, name, next, keeps);
    }
    await this.#unused(slot, object);
    // Others may have closed it while this waited.
    if (slot.objects.get(name) !== object) return undefined;
    if (object.change !== undefined) return this.#closeObject(slot, name, object, keeps);
    const closing = this.#closeNow(slot, name, object, keeps);
    object.change = closing.then(() => {});
    return closing;
  }

  async #closeNow(
    slot: Slot,
    name: string,
    object: ResourceObject,
    keeps: boolean,
  ): Promise<LeftState | "lost" | undefined> {
    const left = keeps ? await this.#leave(slot, name, object.instance as object) : undefined;
    await this.#dispose(slot, name, object);
    this.#forget(slot, name, object);
    return left;
  }

  async #leave(slot: Slot, name: string, instance: object): Promise<LeftState | "lost" | undefined> {
    const hook = hookOf(instance, handOver);
    if (hook === undefined) return undefined;
    try {
      const run = runHook(this.#connection.clock, this.#hookContext("handOver", slot, name), () => hook());
      const value = "result" in run ? run.result : await run.inTime;
      if (value === undefined) return undefined;
      const { bytes, form } = encodeMessage(value, "state");
      if (bytes.length <= resourceStateBytesMax) return { form, bytes: form === "bytes" ? copyBytes(bytes) : bytes };
      throw new LeverError(
        "RESULT_TOO_LARGE",
        `what [handOver] gave takes ${bytes.length} bytes, at most ${resourceStateBytesMax} are handed over`,
        { details: { limit: "resourceStateBytesMax", bytes: bytes.length, bytesMax: resourceStateBytesMax } },
      );
    } catch (error) {
      this.#options.report(error, "handOver", name);
      return "lost";
    }
  }

  async #dispose(slot: Slot, name: string, { instance }: ResourceObject): Promise<void> {
    if (instance === undefined) return;
    try {
      const hook = hookOf(instance, Symbol.asyncDispose, Symbol.dispose);
      if (hook === undefined) return;
      const run = runHook(this.#connection.clock, this.#hookContext("dispose", slot, name), () => hook());
      if ("inTime" in run) await run.inTime;
    } catch (error) {
      this.#options.report(error, "dispose", name);
    }
  }

  // ---------------------------------------------------------------- idle ones

  /** One timer for all of them. */
  #sweepLater(): void {
    const config = this.#config;
    if (this.#sweepTimer !== undefined || config === undefined || this.#objects === 0 || this.#isClosed) return;
    const pauseMs = Math.min(Math.max(config.idleMs / 8, sweepMsMin), sweepMsMax);
    this.#sweepTimer = this.#connection.clock.setTimer(() => {
      this.#sweepTimer = undefined;
      this.#sweep(config.idleMs);
      this.#sweepLater();
    }, pauseMs);
  }

  #sweep(idleMs: number): void {
    const until = this.#connection.clock.now() - idleMs;
    for (const slot of this.#slots.values()) {
      for (const [name, object] of slot.objects) {
        if (object.users > 0 || object.change !== undefined || object.lastUsedMs > until) continue;
        void this.#closeObject(slot, name, object, false);
      }
      const isUnused = slot.running === 0 && slot.objects.size === 0 && slot.inherited.size === 0;
      if (slot.phase === "lost" && isUnused && slot.lostAtMs < until) {
        // Nobody came back for it.
        slot.tokens.clear();
        for (const name of [...slot.states.keys()]) this.#takeState(slot, name);
        this.#slots.delete(slot.number);
      }
    }
  }

  // ---------------------------------------------------------------- the end

  /**
   * Has the slots moved away; resolves when none is left and what was in them has been handed over, and when nobody is
   * there who could take them.
   */
  async leave(): Promise<void> {
    this.#isLeaving = true;
    for (const slot of this.#slots.values()) slot.drainingWith = leaving();
    if (this.#holdsAny) {
      this.#hold?.send({ type: "leaving" });
      await new Promise<void>((resolve) => this.#whenEmpty.push(resolve));
    }
    await this.#hold?.flushed();
  }

  get #holdsAny(): boolean {
    if (this.#hold === undefined) return false;
    for (const { epoch, phase } of this.#slots.values()) if (epoch > 0 && phase !== "lost") return true;
    return false;
  }

  #checkEmpty(): void {
    if (this.#whenEmpty.length === 0 || this.#holdsAny) return;
    const waiting = this.#whenEmpty;
    this.#whenEmpty = [];
    for (const resolve of waiting) resolve();
  }

  /** Disposes of all that is left, 5 s each at most; methods that run are not waited for. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { clock } = this.#connection;
    if (this.#sweepTimer !== undefined) clock.clearTimer(this.#sweepTimer);
    const closing: Promise<unknown>[] = [];
    for (const slot of this.#slots.values()) {
      for (const [name, object] of slot.objects) {
        if (object.users === 0 && object.change === undefined)
          closing.push(this.#closeObject(slot, name, object, false));
      }
    }
    await Promise.all(closing);
    this.#lose(new LeverError("LEASE_LAPSED", "the instance stops"));
    await this.#watchdog?.close();
  }
}

/** The state is not the object's to change: each that gets it gets one of its own. */
function decodeState({ form, bytes }: LeftState): unknown {
  return form === "bytes" ? copyBytes(bytes) : decodePayload(bytes, form);
}

function leaving(): LeverError {
  return new LeverError("DRAINING", "the instance is about to stop", { effect: "none" });
}

/** Refuses a call whose slot is not here (any more); `epoch`: the one that its caller is to wait for. */
function movedTo(epoch: number | undefined): LeverError {
  return new LeverError("MOVED", "this instance does not hold the resource under the epoch of the call", {
    effect: "none",
    details: epoch === undefined ? undefined : { epoch },
  });
}
