/**
 * A call or channel at its caller's agent: chooses the instance, sends the arguments there, tries again where that is
 * safe, and passes everything else through undecoded. One with a resource goes to whoever holds the resource's slot,
 * under the slot's epoch, and waits for its turn while nobody does (slot-view.ts).
 *
 * Invariants: the caller gets exactly one end; `effect` is the worst over all attempts; nothing is sent twice unless
 * `decideRetry` or `decideHolderRetry` allows it; credit that the caller spent comes back when its frame has left here,
 * or is kept within `retainedBytesMax`. Each attempt is told to its instance as begun and, once, as ended. Nothing is
 * sent, and nothing that comes is passed on, under an epoch below the fence of the slot's row; epoch 0 alone, of
 * services that serve although nobody knows who holds a resource, has no fence.
 */

import type { TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { SlotRow } from "@leveros/protocol/control/discovery.ts";
import { DeadlineEntry } from "@leveros/protocol/deadline/deadline-wheel.ts";
import type { Effect, Reason } from "@leveros/protocol/error/catalogue.ts";
import { decodeFault, encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError, worseEffect } from "@leveros/protocol/error/lever-error.ts";
import { Flag, FrameType, replyLoadBytes } from "@leveros/protocol/frame/frame.ts";
import { keptPayload } from "@leveros/protocol/frame/kept-payload.ts";
import { tokenSkewMs } from "@leveros/protocol/invocation/token-memory.ts";
import { FieldKey, integerField, makeTokenOlder, routingFixedBytes } from "@leveros/protocol/session/routing-header.ts";
import { type Session, writeTimeout } from "@leveros/protocol/session/session.ts";
import { flowCost, type Stream, type StreamHandler } from "@leveros/protocol/session/stream.ts";
import { copyBytes } from "@leveros/protocol/value/copy-bytes.ts";
import type { Agent } from "./agent.ts";
import { ItemCounter, itemTooLarge } from "./item-counter.ts";
import { endCode } from "./observer.ts";
import type { OutgoingCall } from "./outgoing-fields.ts";
import type { LinkWaiter } from "./peer-link.ts";
import { decideHolderRetry, decideRetry, type FailedAttempt, movedRefusalsMax } from "./retry/retry-policy.ts";
import type { Instance, MethodRoute, ServiceView, ViewWaiter } from "./service-view.ts";
import { hasMoved, type SlotCaller, type SlotView } from "./slot-view.ts";

/** What a kept frame takes beside its payload. */
const retainedOverheadBytes = 256;
/** Of the words with which a caller cancels, this much goes on to the instance. */
const cancelCharsMax = 200;

interface Fragment {
  readonly flags: number;
  readonly payload: Uint8Array;
}

/** Where a call may wait. */
interface WaitingRoom {
  leave(relay: OutboundRelay): void;
}

export class OutboundRelay extends DeadlineEntry implements StreamHandler, LinkWaiter, ViewWaiter, SlotCaller {
  readonly #agent: Agent;
  readonly #inbound: Stream;
  readonly #view: ServiceView;
  readonly #call: OutgoingCall;
  #route: MethodRoute;
  readonly #startedAt: number;
  readonly #timeoutMs: number;
  #deadlineAt: number;

  /** The first OPEN frame; undefined once the answer has begun, or no retry can be. It is not written to once it left. */
  #first: Uint8Array | undefined;
  #firstFlags = 0;
  /** The first frame as it came in, for an attempt at once. */
  #unsent: Uint8Array | undefined;
  /** What the caller's first frame cost, until that credit went with it. */
  #owedFirst = 0;
  /** The further fragments in order. */
  #rest: Fragment[] | undefined;
  /** From here on, fragments of `#rest` came while there was no outbound stream: their credit is still owed. */
  #unsentFrom = 0;
  #retainedBytes = 0;
  /** False when there is no room to keep the arguments: then there is no retry once they have left. */
  #isRetained = true;
  /** Of the arguments, so far. */
  #argsBytes = 0;

  #attempt = 0;
  #attemptStartedAt = 0;
  #drainingRefusals = 0;
  /** Until it was told how the attempt has ended; of a channel as long as it is open. */
  #instance: Instance | undefined;
  #outbound: Stream | undefined;
  #tried: Instance[] | undefined;
  /** Nowhere but there, where it may have run: else this error stands. */
  #only: { readonly instance: Instance; readonly error: LeverError } | undefined;
  #effect: Effect = "none";
  /** Where the call waits, counted as held; undefined while it does not. */
  #waitsAt: WaitingRoom | undefined;
  #retryTimer: TimerHandle | undefined;

  // Of one with a resource.
  /** Orders the calls of a slot. */
  readonly arrival: number;
  /** Where it was told its slot, for as long as it is under way. */
  #slots: SlotView | undefined;
  #slot = 0;
  /** The row of the attempt that is under way, or of the last one. */
  #row: SlotRow | undefined;
  /** Of that attempt, as it was sent: 0 if not to the slot's holder. */
  #epoch = 0;
  #movedRefusals = 0;
  /** Ids of holders that cannot be reached, where the service serves nevertheless. */
  #avoided: string[] | undefined;
  /** Why it waited for its turn again. */
  #lastError: LeverError | undefined;
  /** What is to come about before it is sent again: the epoch that a refusal named, and another row than this one. */
  #waitsFor: { readonly epoch: number; readonly row: SlotRow; isOver: boolean } | undefined;

  #messagesOut: ItemCounter | undefined;
  /** How the caller has ended its direction of a channel. */
  #callerCode = "OK";
  /** The answer has begun: a REPLY, or ACCEPT. */
  #isAnswered = false;
  #isOver = false;

  /** `timeoutMs` as in the caller's frame. */
  constructor(agent: Agent, inbound: Stream, route: MethodRoute, timeoutMs: number, call: OutgoingCall) {
    super();
    this.#agent = agent;
    this.#inbound = inbound;
    this.#call = call;
    this.#route = route;
    this.#view = route.view;
    this.arrival = this.#view.arrivals++;
    this.#startedAt = agent.clock.now();
    this.#timeoutMs = timeoutMs;
    this.#deadlineAt = this.#startedAt + (timeoutMs === 0 ? route.timeoutMs : timeoutMs);
  }

  /**
   * `frame` is the first OPEN, `argsBytes` of it are arguments, and it cost the caller `cost`. One with a resource begins
   * with the field Epoch.
   */
  begin(flags: number, frame: Uint8Array, argsBytes: number, cost: number): void {
    const view = this.#view;
    this.#inbound.handler = this;
    view.calls++;
    view.lastUsedAt = this.#startedAt;
    view.retryBudget.deposit(this.#startedAt);
    this.#agent.wheel.add(this, this.#deadlineAt);
    this.#owedFirst = cost;
    this.#argsBytes = argsBytes;
    this.#retain(frame.length);
    // A view of a chunk of 64 KiB must not be kept for as long as a call may take.
    this.#first = keptPayload(frame);
    this.#firstFlags = flags;
    if (view.isReady) {
      this.#unsent = frame;
      this.#startWithin(this.#startedAt);
    } else if (this.#hold(view)) view.whenReady(this);
  }

  /** The policy is known: starts unless it keeps the caller out, or the arguments are larger already than it allows. */
  #startWithin(now: number): void {
    if (this.#isKeptOut()) return;
    if (this.#argsBytes > this.#view.limits.argsBytes) this.#argsTooLarge();
    else this.#start(now);
  }

  #argsTooLarge(): void {
    const error = itemTooLarge("arguments", this.#view.limits.argsBytes);
    // They were complete nowhere, so the method has not run. The instance is not to blame.
    this.#endAttempt(error, "CANCELLED");
    this.#fail(error);
  }

  /** Counts the call as held; fails it where too many are. */
  #hold(at: WaitingRoom): boolean {
    if (this.#agent.hold()) {
      this.#waitsAt = at;
      this.#unsent = undefined;
      return true;
    }
    const { heldCallsMax } = this.#agent.limits;
    this.#endAttempt(undefined, "CANCELLED");
    this.#fail(
      new LeverError(
        "OVERLOADED",
        `${heldCallsMax} calls wait at this agent for a table, a connection or a resource already, the most that may`,
        { effect: "none", details: { limit: "heldCallsMax", heldCallsMax } },
      ),
    );
    return false;
  }

  #unhold(): void {
    const at = this.#waitsAt;
    if (at === undefined) return;
    this.#waitsAt = undefined;
    at.leave(this);
    this.#agent.unhold();
  }

  /** The table is there, or (with an error) will not be in time. */
  onViewReady(error: LeverError | undefined): void {
    this.#unhold();
    if (error !== undefined) return this.#fail(error);
    this.#route = this.#view.route(this.#route.target.method);
    if (this.#timeoutMs === 0) {
      this.#deadlineAt = this.#startedAt + this.#route.timeoutMs;
      this.#agent.wheel.add(this, this.#deadlineAt);
    }
    this.#startWithin(this.#agent.clock.now());
  }

  // ---------------------------------------------------------------- attempts

  /** Asked before anything else of the policy, which must not show, and before each attempt. */
  #isKeptOut(): boolean {
    const refusal = this.#view.whyNotAllowed(this.#route.target.method);
    if (refusal !== undefined) this.#fail(refusal);
    return refusal !== undefined;
  }

  #start(now: number): void {
    if (this.#isKeptOut()) return;
    if (this.#call.resourceHash !== undefined) return this.#enterSlot(this.#call.resourceHash);
    const { isChannel } = this.#inbound;
    const only = this.#only;
    if (only !== undefined) {
      const same = this.#view.again(only.instance);
      if (same === undefined) return this.#fail(only.error);
      this.#attempt++;
      return this.#attemptAt(same, now);
    }
    let instance = this.#view.pick(now, this.#tried, isChannel);
    if (instance === undefined && this.#tried !== undefined) {
      // All that there are were tried: any may be tried again.
      this.#tried = undefined;
      instance = this.#view.pick(now, undefined, isChannel);
    }
    if (instance === undefined) return this.#fail(this.#view.whyNone());
    this.#attempt++;
    this.#attemptAt(instance, now);
  }

  #attemptAt(instance: Instance, now: number): void {
    this.#attemptStartedAt = now;
    this.#instance = instance;
    instance.balanced?.begin(now);
    const { link } = instance;
    const { session } = link;
    if (session !== undefined) this.#send(session, now);
    else if (this.#hold(link)) link.dial(this);
  }

  /** The link that the relay waits for is open, or cannot be opened. */
  onLink(session: Session | undefined, error: LeverError | undefined): void {
    this.#unhold();
    if (session !== undefined) this.#send(session, this.#agent.clock.now());
    else this.#attemptFailed(error ?? new LeverError("INSTANCE_UNREACHABLE", "no connection", { effect: "none" }));
  }

  #send(session: Session, now: number): void {
    const leftMs = this.#deadlineAt - now;
    if (leftMs <= 0) return this.onDeadline();
    const { gate } = this.#call;
    if (gate?.isOpen === false) return this.#attemptFailed(callerLapsed());
    // What is kept is never written to: a frame of an earlier attempt may still lie in a transport's queue.
    const frame = this.#unsent ?? copyBytes(this.#first as Uint8Array);
    this.#unsent = undefined;
    // Rounded up: when the time is over the caller is to hear it from here, not what the method makes of it.
    writeTimeout(frame, Math.ceil(leftMs));
    if (this.#row !== undefined) frame.set(integerField(FieldKey.Epoch, this.#epoch, 6), routingFixedBytes);
    // The instance's process may be another one by now, and its clock another than that of the token's maker.
    else if (this.#call.hasToken && this.#effect !== "none") makeTokenOlder(frame, tokenSkewMs);
    const owed = this.#owedFirst;
    const source = owed > 0 ? this.#inbound : undefined;
    let outbound: Stream;
    try {
      outbound = session.openFrame(this.#route.target, this.#firstFlags, frame, this, source, owed, gate);
    } catch (error) {
      return this.#attemptFailed(LeverError.from(error).withEffect("none"));
    }
    this.#outbound = outbound;
    this.#owedFirst = 0;
    if (this.#rest !== undefined) this.#sendRest(outbound, this.#rest);
    if (!this.#isRetained) this.#dropRetained();
  }

  #sendRest(outbound: Stream, rest: readonly Fragment[]): void {
    const inbound = this.#inbound;
    for (let i = 0; i < rest.length; i++) {
      const { flags, payload } = rest[i] as Fragment;
      if (i < this.#unsentFrom) outbound.send(FrameType.Open, flags, payload);
      else outbound.send(FrameType.Open, flags, payload, inbound, flowCost(payload));
    }
    this.#unsentFrom = rest.length;
  }

  #retain(payloadBytes: number): void {
    const bytes = payloadBytes + retainedOverheadBytes;
    if (this.#isRetained && this.#agent.retain(bytes)) this.#retainedBytes += bytes;
    else this.#isRetained = false;
  }

  #dropRetained(): void {
    this.#first = undefined;
    this.#rest = undefined;
    if (this.#retainedBytes > 0) this.#agent.release(this.#retainedBytes);
    this.#retainedBytes = 0;
  }

  #attemptFailed(error: LeverError): void {
    const instance = this.#instance;
    const now = this.#agent.clock.now();
    this.#leaveAttempt();
    this.#tellErrored(instance, now, error.reason);
    this.#effect = worseEffect(this.#effect, error.effect);
    if (error.reason === "DRAINING") this.#drainingRefusals++;
    if (this.#first === undefined || this.#agent.isClosed || this.#call.gate?.isOpen === false) {
      return this.#fail(error);
    }
    const failed: FailedAttempt = {
      attempt: this.#attempt - this.#drainingRefusals,
      attemptsMax: this.#agent.limits.attemptsMax,
      drainingRefusals: this.#drainingRefusals,
      effect: this.#effect,
      kind: error.kind,
      reason: error.reason,
      isIdempotent: this.#route.isIdempotent,
      hasToken: this.#call.hasToken,
      timeLeftMs: this.#deadlineAt - now,
      budget: this.#view.retryBudget,
      now,
      random: this.#agent.random,
    };
    if (this.#row !== undefined) return this.#holderFailed(failed, error, this.#row);
    const decision = decideRetry(failed);
    if (!decision.retry) return this.#fail(error);
    this.#only = undefined;
    if (instance !== undefined) {
      if (decision.elsewhere) {
        this.#tried ??= [];
        this.#tried.push(instance);
      } else this.#only = { instance, error };
    }
    this.#agent.observer.retried(error.reason);
    this.#startIn(decision.delayMs);
  }

  #startIn(delayMs: number): void {
    if (delayMs === 0) return this.#start(this.#agent.clock.now());
    this.#retryTimer = this.#agent.clock.setTimer(() => {
      this.#retryTimer = undefined;
      this.#start(this.#agent.clock.now());
    }, delayMs);
  }

  /** The attempt that is under way, if one is, is so no more. */
  #leaveAttempt(): void {
    this.#outbound = undefined;
    this.#instance = undefined;
    this.#slots?.end(this, this.#slot);
    this.#slots = undefined;
  }

  /** Calls for resources go where they must, and how they end does not say how others would fare there. */
  #tellErrored(instance: Instance | undefined, now: number, reason: Reason): void {
    instance?.balanced?.errored(now, this.#attemptStartedAt, this.#row === undefined ? reason : "CANCELLED");
  }

  // ---------------------------------------------------------------- the holder of a resource

  get isNested(): boolean {
    return this.#call.isNested;
  }

  /** What a hook waits for must not wait for others, who may wait for that hook. */
  get isUrgent(): boolean {
    return this.#call.startsInHook;
  }

  get isHeld(): boolean {
    return this.#waitsAt !== undefined;
  }

  #enterSlot(resourceHash: number): void {
    const { slots } = this.#view;
    if (slots === undefined) return this.#fail(this.#view.whyNoSlots());
    this.#slot = resourceHash % slots.count;
    const row = slots.rowOf(this.#slot);
    if (this.#call.startsInHook && (row.holder === "" || row.isMoving)) {
      return this.#fail(inTransition(`slot ${row.slot}: ${describe(row)}`));
    }
    slots.enter(this, this.#slot);
  }

  isDue(row: SlotRow): boolean {
    const awaited = this.#waitsFor;
    if (awaited !== undefined) {
      if (!hasMoved(row, awaited.epoch)) return false;
      if (row === awaited.row && !awaited.isOver) return false;
    }
    return row.holder !== "" || this.#view.onUncertain !== "Wait";
  }

  holdFor(slots: SlotView): boolean {
    return this.#hold(slots);
  }

  onTurn(row: SlotRow): void {
    const view = this.#view;
    const { slots } = view;
    const { resourceHash } = this.#call;
    this.#unhold();
    this.#stopTimer();
    this.#waitsFor = undefined;
    if (slots === undefined || resourceHash === undefined) return this.#fail(view.whyNoSlots());
    let instance: Instance | undefined;
    let epoch = 0;
    if (row.holder !== "" && this.#avoided?.includes(row.holder) !== true) {
      instance = view.instanceOf(row.holder);
      epoch = row.epoch;
    } else if (view.onUncertain === "Serve") {
      instance = view.substituteFor(resourceHash, this.#avoided);
      if (instance === undefined && this.#avoided !== undefined) {
        this.#avoided = undefined;
        instance = view.substituteFor(resourceHash, undefined);
      }
      if (instance === undefined) return this.#fail(view.whyNone());
    } else {
      return this.#fail(
        new LeverError("RESOURCE_UNAVAILABLE", `slot ${row.slot} of ${this.#service}: ${describe(row)}`, {
          effect: "none",
          details: { slot: row.slot, epoch: row.epoch },
        }),
      );
    }
    this.#row = row;
    this.#epoch = epoch;
    this.#attempt++;
    if (instance === undefined) {
      return this.#attemptFailed(
        new LeverError("INSTANCE_UNREACHABLE", `${row.holder} holds slot ${row.slot} and is not in the table`, {
          effect: "none",
        }),
      );
    }
    this.#slots = slots;
    slots.begin(this, this.#slot);
    this.#attemptAt(instance, this.#agent.clock.now());
  }

  #holderFailed(attempt: FailedAttempt, error: LeverError, row: SlotRow): void {
    const isMoved = error.reason === "MOVED";
    // It would have waited on: what ends it is its time.
    if (attempt.timeLeftMs <= 0 && error.kind === "network" && error.effect === "none") {
      this.#lastError = error;
      return this.onDeadline();
    }
    if (isMoved) {
      this.#movedRefusals++;
      if (this.#call.startsInHook) return this.#fail(inTransition(error.rawMessage));
    }
    const decision = decideHolderRetry({
      ...attempt,
      attemptEffect: error.effect,
      onUncertain: this.#view.onUncertain,
      movedRefusals: this.#movedRefusals,
    });
    if (decision.retry === "inTurn") {
      // Neither an attempt nor one that counts apart.
      this.#attempt--;
      if (error.reason === "DRAINING") this.#drainingRefusals--;
      this.#lastError = error;
      if (isMoved) this.#agent.observer.moved();
      else this.#agent.observer.retried(error.reason);
      return this.#waitForTurn(row, isMoved ? epochOf(error) : 0);
    }
    if (!decision.retry) {
      return this.#fail(
        isMoved && this.#movedRefusals > movedRefusalsMax
          ? new LeverError(
              "RESOURCE_UNAVAILABLE",
              `${this.#movedRefusals} times the call was refused by who was to hold slot ${row.slot} of ${this.#service}`,
              { effect: "none", cause: error },
            )
          : error,
      );
    }
    if (decision.elsewhere && row.holder !== "") {
      this.#avoided ??= [];
      this.#avoided.push(row.holder);
    }
    this.#agent.observer.retried(error.reason);
    this.#startIn(decision.delayMs);
  }

  /** After an attempt under `row`: until the row is another, and what `epoch` stands for has come about. */
  #waitForTurn(row: SlotRow, epoch: number): void {
    const awaited = { epoch, row, isOver: false };
    this.#waitsFor = awaited;
    if (this.#view.slots?.rowOf(this.#slot) === row && hasMoved(row, epoch)) {
      // Nothing says that the row will ever change: its holder is asked again after a while.
      this.#retryTimer = this.#agent.clock.setTimer(() => {
        this.#retryTimer = undefined;
        awaited.isOver = true;
        this.#view.slots?.wake(this);
      }, this.#agent.limits.dialBackoffMs);
    }
    this.#start(this.#agent.clock.now());
  }

  onRow(row: SlotRow): void {
    const sent = this.#row;
    if (sent === undefined) return;
    if (this.#waitsAt !== undefined) {
      // It waits for a link to who was to hold the slot.
      if (row.holder === sent.holder && row.epoch === sent.epoch) return;
      this.#endAttempt(undefined, "CANCELLED");
      this.#unhold();
      this.#attempt--;
      return this.#start(this.#agent.clock.now());
    }
    if (this.#epoch > 0 && this.#epoch < row.fence) this.#fenced(row);
  }

  /** Who has the call may have lost the resource, and somebody else have it: what it says is not heard any more. */
  #fenced(row: SlotRow): void {
    const outbound = this.#outbound;
    const error = new LeverError(
      "LEASE_LAPSED",
      `${this.#row?.holder ?? ""}, which had the call, held slot ${row.slot} of ${this.#service} until epoch ${row.fence}`,
      { effect: this.#isAnswered ? "ran" : outbound?.hasLeft === true ? "unknown" : "none" },
    );
    this.#agent.observer.fenced();
    outbound?.reset(encodeFault(error));
    if (this.#isAnswered) this.#fail(error);
    else this.#attemptFailed(error);
  }

  onSlotsGone(error: LeverError | undefined): void {
    this.#unhold();
    this.#stopTimer();
    this.#waitsFor = undefined;
    if (error !== undefined) this.#fail(error);
    else this.#start(this.#agent.clock.now());
  }

  get #service(): string {
    return `${this.#view.environment}/${this.#view.service}`;
  }

  /** For the error of a call whose time is over: what became of it meanwhile, if it is for a resource. */
  get #soFar(): string {
    const { slots } = this.#view;
    const isWaiting = slots !== undefined && this.#waitsAt === slots;
    const waits = isWaiting
      ? `; it waits for slot ${this.#slot} of ${this.#service}: ${describe(slots.rowOf(this.#slot))}`
      : "";
    return this.#lastError === undefined ? waits : `${waits}; its last attempt ended with ${this.#lastError.message}`;
  }

  #stopTimer(): void {
    if (this.#retryTimer !== undefined) this.#agent.clock.clearTimer(this.#retryTimer);
    this.#retryTimer = undefined;
  }

  // ---------------------------------------------------------------- ends

  /** Ends the attempt that is under way, if one is, for a cause that `reason` says. */
  #endAttempt(error: LeverError | undefined, reason: Reason): void {
    const outbound = this.#outbound;
    this.#outbound = undefined;
    if (outbound !== undefined && error !== undefined && !outbound.isClosed) outbound.reset(encodeFault(error));
    // Of an answered one the instance was told already.
    if (this.#isAnswered) return;
    const instance = this.#instance;
    this.#leaveAttempt();
    this.#tellErrored(instance, this.#agent.clock.now(), reason);
  }

  override onDeadline(): void {
    const { isChannel } = this.#inbound;
    const hasLeft = this.#outbound?.hasLeft === true;
    const error = new LeverError(
      "DEADLINE_EXCEEDED",
      `${isChannel ? "the channel to " : ""}${this.#route.target.text} ${
        isChannel ? "was not open" : "gave no answer"
      } within ${Math.round(this.#deadlineAt - this.#startedAt)} ms${this.#soFar}`,
      { effect: this.#isAnswered ? "ran" : hasLeft ? "unknown" : "none" },
    );
    this.#endAttempt(error, error.reason);
    this.#fail(error);
  }

  /** Answers the caller with an error: the worst effect of all attempts. */
  #fail(error: LeverError): void {
    const told = error.withEffect(worseEffect(this.#effect, error.effect));
    const inbound = this.#inbound;
    if (told.effect === "none") inbound.refuse(encodeFault(told));
    else inbound.reset(encodeFault(told));
    this.#over(told.code);
  }

  #over(code: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#agent.wheel.remove(this);
    this.#dropRetained();
    this.#unsent = undefined;
    this.#unhold();
    this.#stopTimer();
    const inbound = this.#inbound;
    inbound.release();
    const view = this.#view;
    view.calls--;
    const { environment, service } = view;
    const durationMs = this.#agent.clock.now() - this.#startedAt;
    const { observer } = this.#agent;
    if (!inbound.isChannel) observer.callEnded(environment, service, code, durationMs);
    else if (!this.#isAnswered) observer.channelOpened(environment, service, code, durationMs);
    else {
      observer.channelClosed(environment, service, code);
      this.#instance?.balanced?.channelClosed();
    }
    this.#leaveAttempt();
  }

  // ---------------------------------------------------------------- frames

  onFrame(stream: Stream, type: number, flags: number, payload: Uint8Array): void {
    if (stream === this.#inbound) this.#fromCaller(type, flags, payload);
    else if (stream === this.#outbound) this.#fromInstance(stream, type, flags, payload);
    else stream.consume(flowCost(payload));
  }

  #fromCaller(type: number, flags: number, payload: Uint8Array): void {
    const inbound = this.#inbound;
    if (this.#isOver) {
      if (type !== FrameType.Reset) inbound.consume(flowCost(payload));
      return;
    }
    if (type === FrameType.Reset) {
      const error = decodeFault(payload);
      // RESET takes no credit: what callers write into it must not fill the link to the instance.
      this.#endAttempt(new LeverError(error.reason, error.rawMessage.slice(0, cancelCharsMax)), "CANCELLED");
      return this.#over(error.code);
    }
    if (type === FrameType.Open) return this.#moreArgs(flags, payload);
    const outbound = this.#outbound;
    if (outbound === undefined) return inbound.consume(flowCost(payload));
    if (type === FrameType.Message) {
      this.#messagesOut ??= new ItemCounter();
      const { messageBytes } = this.#view.limits;
      if (!this.#messagesOut.add(flags, payload.length, messageBytes)) {
        const error = itemTooLarge("message", messageBytes);
        this.#endAttempt(error, "CANCELLED");
        inbound.reset(encodeFault(error));
        return this.#over(error.code);
      }
    } else if ((flags & Flag.More) === 0) this.#callerCode = endCode(flags, payload, 0);
    outbound.send(type, flags, payload, inbound, flowCost(payload));
    this.#checkChannelOver();
  }

  #moreArgs(flags: number, payload: Uint8Array): void {
    const view = this.#view;
    this.#argsBytes += payload.length;
    if (view.isReady && this.#argsBytes > view.limits.argsBytes) return this.#argsTooLarge();
    const outbound = this.#outbound;
    if (this.#first !== undefined) {
      this.#retain(payload.length);
      if (this.#isRetained || outbound === undefined) {
        this.#rest ??= [];
        this.#rest.push({ flags, payload: keptPayload(payload) });
      } else this.#dropRetained();
    }
    if (outbound === undefined) return;
    this.#unsentFrom = this.#rest?.length ?? 0;
    outbound.send(FrameType.Open, flags, payload, this.#inbound, flowCost(payload));
  }

  #fromInstance(outbound: Stream, type: number, flags: number, payload: Uint8Array): void {
    const inbound = this.#inbound;
    switch (type) {
      case FrameType.Reply: {
        const isFirst = !this.#isAnswered;
        if (isFirst) this.#answered(payload, flags);
        const isLast = (flags & Flag.More) === 0;
        inbound.send(type, flags, payload, outbound, flowCost(payload));
        if (isLast) this.#over(endCode(flags, payload, isFirst ? replyLoadBytes : 0));
        return;
      }
      case FrameType.Accept:
        this.#answered(payload, 0);
        this.#agent.wheel.remove(this);
        this.#agent.observer.channelOpened(
          this.#view.environment,
          this.#view.service,
          "OK",
          this.#agent.clock.now() - this.#startedAt,
        );
        return inbound.accept(payload);
      case FrameType.Refuse:
        return this.#attemptFailed(this.#view.asSeen(decodeFault(payload)).withEffect("none"));
      case FrameType.Reset: {
        const error = decodeFault(payload);
        if (!this.#isAnswered) {
          // `none` is for REFUSE to say: whoever resets a stream cannot know that.
          return this.#attemptFailed(error.effect === "none" ? error.withEffect("unknown") : error);
        }
        this.#outbound = undefined;
        return this.#fail(error.withEffect("ran"));
      }
      case FrameType.Move:
        return inbound.move();
      default: {
        inbound.send(type, flags, payload, outbound, flowCost(payload));
        const isLast = (flags & Flag.More) === 0;
        if (type === FrameType.End && isLast && (flags & (Flag.Error | Flag.Fault)) !== 0) {
          // What is queued towards the caller still leaves, this END behind it.
          return this.#over(endCode(flags, payload, 0));
        }
        this.#checkChannelOver();
      }
    }
  }

  /** The method has been entered: from here on there is no second attempt. `payload` begins with the peer's load. */
  #answered(payload: Uint8Array, flags: number): void {
    this.#isAnswered = true;
    this.#dropRetained();
    const balanced = this.#instance?.balanced;
    if (balanced === undefined) return;
    const load = ((payload[0] ?? 0) << 8) | (payload[1] ?? 0);
    const now = this.#agent.clock.now();
    // A quick error is not a quick answer: it must not draw more calls to where it came from.
    if ((flags & Flag.Error) !== 0) balanced.errored(now, this.#attemptStartedAt, "METHOD_ERROR", load);
    else if ((flags & Flag.Fault) !== 0) balanced.errored(now, this.#attemptStartedAt, "METHOD_THREW", load);
    else balanced.succeeded(now, this.#attemptStartedAt, load);
    if (this.#inbound.isChannel) balanced.channelOpened();
  }

  /** Both directions have ended, each by its END. */
  #checkChannelOver(): void {
    if (this.#inbound.isClosed && this.#outbound?.isClosed === true) this.#over(this.#callerCode);
  }

  onWritable(): void {
    // Queued frames have left, perhaps the last ones of a channel.
    if (this.#isAnswered && this.#inbound.isChannel) this.#checkChannelOver();
  }

  onLost(stream: Stream, error: LeverError): void {
    if (this.#isOver) return;
    if (stream === this.#inbound) {
      this.#endAttempt(new LeverError("CONNECTION_LOST", "the connection to the caller was lost"), "CANCELLED");
      return this.#over("CANCELLED");
    }
    if (stream !== this.#outbound) return;
    // `none` only if OPEN has not left, or a GOAWAY says that it was not taken.
    if (!this.#isAnswered) return this.#attemptFailed(error);
    this.#outbound = undefined;
    this.#fail(error.withEffect("ran"));
  }
}

/** The slot whose method made the call is this instance's no more: nothing of it goes out. */
function callerLapsed(): LeverError {
  return new LeverError("LEASE_LAPSED", "this instance has lost the resource whose method made the call", {
    effect: "none",
  });
}

function inTransition(what: string): LeverError {
  return new LeverError(
    "HOOK_REENTRY",
    `the call began in a hook of a resource, and goes to one that is moving, which may wait for that hook: ${what}`,
    { effect: "none" },
  );
}

function describe(row: SlotRow): string {
  if (row.holder === "") return `nobody is known to hold it since epoch ${row.epoch}`;
  return `${row.holder} holds it under epoch ${row.epoch}${row.isMoving ? ", and it is moving" : ""}`;
}

/** The epoch that a refusal as MOVED tells to wait for; 0 if it names none. */
function epochOf({ details }: LeverError): number {
  const epoch = details?.epoch;
  return typeof epoch === "number" && Number.isSafeInteger(epoch) && epoch > 0 ? epoch : 0;
}
