/**
 * A call or channel at its caller's agent: chooses the instance, sends the arguments there, tries elsewhere where that
 * is safe, and passes everything else through undecoded.
 *
 * Invariants: the caller gets exactly one end; `effect` is the worst over all attempts; nothing is sent twice unless
 * `decideRetry` allows it; credit that the caller spent comes back when its frame has left here.
 * Arguments are kept until the answer begins, as far as the limits allow, since a retry needs them.
 */

import type { TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { DeadlineEntry } from "@leveros/protocol/deadline/deadline-wheel.ts";
import type { Effect } from "@leveros/protocol/error/catalogue.ts";
import { decodeFault, encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError, worseEffect } from "@leveros/protocol/error/lever-error.ts";
import { Flag, FrameType } from "@leveros/protocol/frame/frame.ts";
import { keptPayload } from "@leveros/protocol/frame/kept-payload.ts";
import { type Session, writeTimeout } from "@leveros/protocol/session/session.ts";
import { flowCost, type Stream, type StreamHandler } from "@leveros/protocol/session/stream.ts";
import { copyBytes } from "@leveros/protocol/value/copy-bytes.ts";
import type { Agent } from "./agent.ts";
import { ItemCounter, itemTooLarge } from "./item-counter.ts";
import { decideRetry } from "./retry/retry-policy.ts";
import type { Instance, MethodRoute, ServiceView } from "./service-view.ts";

interface Fragment {
  readonly flags: number;
  readonly payload: Uint8Array;
}

export class OutboundRelay extends DeadlineEntry implements StreamHandler {
  readonly #agent: Agent;
  readonly #inbound: Stream;
  readonly #view: ServiceView;
  readonly #route: MethodRoute;
  readonly #startedAt: number;
  readonly #deadlineAt: number;
  /** What the caller's first frame cost, until that credit went with it. */
  #owedFirst: number;
  readonly #argsBytes: number;

  /** The first OPEN frame, and its further fragments in order. Undefined once the answer has begun. */
  #first: Fragment | undefined;
  /** The first frame as it came in, for the first attempt. */
  #unsent: Uint8Array | undefined;
  #rest: Fragment[] | undefined;
  /** How many of `#rest` came while there was no outbound stream: their credit is still owed. */
  #unsentFrom = 0;
  #retainedBytes = 0;
  /** False when the arguments are too large to be kept: then there is one attempt. */
  #isRetained = true;

  #attempt = 0;
  #attemptStartedAt = 0;
  #drainingRefusals = 0;
  #instance: Instance | undefined;
  #outbound: Stream | undefined;
  #tried: Instance[] | undefined;
  #effect: Effect = "none";
  #isHeld = false;
  #retryTimer: TimerHandle | undefined;

  readonly #argsCounter = new ItemCounter();
  #messagesOut: ItemCounter | undefined;
  /** The answer has begun: a REPLY, or ACCEPT. */
  #isAnswered = false;
  #isOver = false;

  constructor(
    agent: Agent,
    inbound: Stream,
    route: MethodRoute,
    timeoutMs: number,
    flags: number,
    frame: Uint8Array,
    argsBytes: number,
    owedFirst: number,
  ) {
    super();
    this.#agent = agent;
    this.#inbound = inbound;
    this.#route = route;
    this.#view = route.view;
    this.#startedAt = agent.clock.now();
    this.#deadlineAt = this.#startedAt + (timeoutMs === 0 ? route.timeoutMs : timeoutMs);
    this.#owedFirst = owedFirst;
    this.#first = { flags, payload: frame };
    this.#argsBytes = argsBytes;
  }

  /** `frame` is the first OPEN as it came in, `argsBytes` of it are arguments, and it cost the caller `owedFirst`. */
  begin(): void {
    const { flags, payload } = this.#first as Fragment;
    this.#inbound.handler = this;
    this.#view.calls++;
    this.#view.retryBudget.deposit(this.#startedAt);
    this.#agent.wheel.add(this, this.#deadlineAt);
    this.#retain(payload.length);
    // A view of a chunk of 64 KiB must not be kept for as long as a call may take.
    this.#first = { flags, payload: keptPayload(payload) };
    this.#unsent = payload;
    if (!this.#argsCounter.add(flags, this.#argsBytes, this.#view.limits.argsBytes)) {
      this.#inbound.consume(this.#owedFirst);
      this.#fail(itemTooLarge("arguments", this.#view.limits.argsBytes));
    } else if (this.#view.isReady) this.#start();
    else this.#hold();
  }

  /** Waits for the service's first table. */
  #hold(): void {
    if (!this.#agent.hold()) return this.#fail(this.#tooManyHeld());
    this.#isHeld = true;
    this.#unsent = undefined;
    this.#view.whenReady(this);
  }

  #tooManyHeld(): LeverError {
    const { heldCallsMax } = this.#agent.limits;
    return new LeverError(
      "OVERLOADED",
      `${heldCallsMax} calls wait at this agent for a table or a connection already`,
      {
        effect: "none",
        details: { limit: "heldCallsMax", heldCallsMax },
      },
    );
  }

  /** The table is there, or (with an error) will not be in time. */
  onViewReady(error: LeverError | undefined): void {
    this.#unhold();
    if (this.#isOver) return;
    if (error !== undefined) this.#fail(error);
    else this.#start();
  }

  #unhold(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    this.#agent.unhold();
  }

  // ---------------------------------------------------------------- attempts

  #start(): void {
    const now = this.#agent.clock.now();
    const instance = this.#view.pick(now, this.#tried, this.#inbound.isChannel);
    if (instance === undefined) return this.#fail(this.#view.whyNone(this.#tried !== undefined));
    this.#attempt++;
    this.#attemptStartedAt = now;
    this.#instance = instance;
    instance.balanced.begin(now);
    const session = instance.link.session;
    if (session !== undefined) return this.#send(session);
    if (!this.#isHeld) {
      if (!this.#agent.hold()) {
        // Nothing that the instance could be blamed for.
        this.#instance = undefined;
        instance.balanced.errored(now, now, "CANCELLED");
        return this.#fail(this.#tooManyHeld());
      }
      this.#isHeld = true;
    }
    this.#unsent = undefined;
    instance.link.dial(this);
  }

  /** The link that the relay waits for is open, or cannot be opened. */
  onLink(session: Session | undefined, error: LeverError | undefined): void {
    this.#unhold();
    if (this.#isOver) return;
    if (session === undefined) this.#attemptFailed(error ?? new LeverError("INSTANCE_UNREACHABLE", "no connection"));
    else this.#send(session);
  }

  #send(session: Session): void {
    const first = this.#first;
    if (first === undefined) return;
    const inbound = this.#inbound;
    // What is kept is never written to: a frame of an earlier attempt may still lie in a transport's queue.
    const frame = this.#unsent ?? copyBytes(first.payload);
    this.#unsent = undefined;
    const left = this.#deadlineAt - this.#agent.clock.now();
    writeTimeout(frame, Math.max(Math.ceil(left), 1));
    const owed = this.#owedFirst;
    this.#owedFirst = 0;
    try {
      const outbound = session.openFrame(
        this.#route.target,
        first.flags,
        frame,
        this,
        owed > 0 ? inbound : undefined,
        owed,
      );
      this.#outbound = outbound;
    } catch (error) {
      if (owed > 0) inbound.consume(owed);
      return this.#attemptFailed(LeverError.from(error).withEffect("none"));
    }
    const rest = this.#rest;
    if (rest === undefined) return;
    for (let i = 0; i < rest.length && this.#outbound !== undefined; i++) {
      const fragment = rest[i] as Fragment;
      const isOwed = i >= this.#unsentFrom;
      this.#outbound.send(
        FrameType.Open,
        fragment.flags,
        fragment.payload,
        isOwed ? inbound : undefined,
        isOwed ? flowCost(fragment.payload) : 0,
      );
    }
    this.#unsentFrom = rest.length;
  }

  #retain(bytes: number): void {
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
    this.#outbound = undefined;
    const now = this.#agent.clock.now();
    if (instance !== undefined) {
      this.#instance = undefined;
      instance.balanced.errored(now, this.#attemptStartedAt, error.reason);
    }
    this.#effect = worseEffect(this.#effect, error.effect);
    if (error.reason === "DRAINING") this.#drainingRefusals++;
    const decision =
      this.#isAnswered || !this.#isRetained || this.#first === undefined
        ? undefined
        : decideRetry({
            attempt: this.#attempt - this.#drainingRefusals,
            attemptsMax: this.#agent.limits.attemptsMax,
            drainingRefusals: this.#drainingRefusals,
            effect: this.#effect,
            kind: error.kind,
            reason: error.reason,
            isIdempotent: this.#route.isIdempotent,
            // Instances do not remember tokens.
            hasToken: false,
            timeLeftMs: this.#deadlineAt - now,
            budget: this.#view.retryBudget,
            now,
            random: this.#agent.random,
          });
    if (decision === undefined || !decision.retry) return this.#fail(error);
    if (decision.elsewhere && instance !== undefined) {
      this.#tried ??= [];
      this.#tried.push(instance);
    }
    // When every instance was tried, any may be tried again.
    if (this.#tried !== undefined && this.#tried.length >= this.#view.servingCount) this.#tried = undefined;
    this.#agent.observer.retried(error.reason);
    if (decision.delayMs === 0) return this.#start();
    this.#retryTimer = this.#agent.clock.setTimer(() => {
      this.#retryTimer = undefined;
      if (!this.#isOver) this.#start();
    }, decision.delayMs);
  }

  override onDeadline(): void {
    const outbound = this.#outbound;
    const error = new LeverError(
      "DEADLINE_EXCEEDED",
      `${this.#inbound.isChannel ? "the channel to " : ""}${this.#route.target.text} ${
        this.#inbound.isChannel ? "was not open" : "gave no answer"
      } within ${Math.round(this.#deadlineAt - this.#startedAt)} ms`,
      { effect: outbound?.hasLeft === true ? "unknown" : "none" },
    );
    const instance = this.#instance;
    if (outbound !== undefined) {
      this.#outbound = undefined;
      outbound.reset(encodeFault(error));
    }
    if (instance !== undefined) {
      this.#instance = undefined;
      instance.balanced.errored(this.#agent.clock.now(), this.#attemptStartedAt, error.reason);
    }
    this.#fail(error);
  }

  /** Answers the caller with an error: the worst effect of all attempts. */
  #fail(error: LeverError): void {
    if (this.#isOver) return;
    const effect = worseEffect(this.#effect, error.effect);
    const told = error.withEffect(effect);
    const inbound = this.#inbound;
    if (effect === "none" && !this.#isAnswered) inbound.refuse(encodeFault(told));
    else inbound.reset(encodeFault(told));
    this.#over(told.code);
  }

  #over(code: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#agent.wheel.remove(this);
    this.#dropRetained();
    this.#unhold();
    if (this.#retryTimer !== undefined) this.#agent.clock.clearTimer(this.#retryTimer);
    const inbound = this.#inbound;
    inbound.release();
    this.#view.calls--;
    const now = this.#agent.clock.now();
    const { environment, service } = this.#view;
    const observer = this.#agent.observer;
    if (!inbound.isChannel) observer.callEnded(environment, service, code, now - this.#startedAt);
    else if (!this.#isAnswered) observer.channelOpened(environment, service, code, now - this.#startedAt);
    else {
      observer.channelClosed(environment, service, code);
      this.#instance?.balanced.channelClosed();
    }
    this.#instance = undefined;
  }

  // ---------------------------------------------------------------- frames

  onFrame(stream: Stream, type: number, flags: number, payload: Uint8Array): void {
    if (stream === this.#inbound) this.#fromCaller(type, flags, payload);
    else if (stream === this.#outbound) this.#fromInstance(stream, type, flags, payload);
    else stream.consume(flowCost(payload));
  }

  #fromCaller(type: number, flags: number, payload: Uint8Array): void {
    const inbound = this.#inbound;
    if (type === FrameType.Reset) {
      const outbound = this.#outbound;
      this.#outbound = undefined;
      outbound?.reset(payload);
      const instance = this.#instance;
      if (instance !== undefined && !this.#isAnswered) {
        this.#instance = undefined;
        instance.balanced.errored(this.#agent.clock.now(), this.#attemptStartedAt, "CANCELLED");
      }
      return this.#over(decodeFault(payload).code);
    }
    if (this.#isOver) return inbound.consume(flowCost(payload));
    if (type === FrameType.Open) {
      if (!this.#argsCounter.add(flags, payload.length, this.#view.limits.argsBytes)) {
        const error = itemTooLarge("arguments", this.#view.limits.argsBytes);
        this.#outbound?.reset(encodeFault(error));
        this.#outbound = undefined;
        // The arguments were not complete anywhere, so the method has not run.
        this.#instance?.balanced.errored(this.#agent.clock.now(), this.#attemptStartedAt, error.reason);
        this.#instance = undefined;
        return this.#fail(error);
      }
      const outbound = this.#outbound;
      if (this.#first !== undefined) {
        this.#retain(payload.length);
        if (this.#isRetained || outbound === undefined) {
          this.#rest ??= [];
          this.#rest.push({ flags, payload });
        }
      }
      if (outbound === undefined) return;
      this.#unsentFrom = this.#rest?.length ?? 0;
      outbound.send(type, flags, payload, inbound, flowCost(payload));
      return;
    }
    const outbound = this.#outbound;
    if (outbound === undefined) return inbound.consume(flowCost(payload));
    if (type === FrameType.Message) {
      this.#messagesOut ??= new ItemCounter();
      if (!this.#messagesOut.add(flags, payload.length, this.#view.limits.messageBytes)) {
        return this.#breakBoth(itemTooLarge("message", this.#view.limits.messageBytes));
      }
    }
    outbound.send(type, flags, payload, inbound, flowCost(payload));
    this.#checkChannelOver();
  }

  #fromInstance(outbound: Stream, type: number, flags: number, payload: Uint8Array): void {
    const inbound = this.#inbound;
    switch (type) {
      case FrameType.Reply: {
        if (!this.#isAnswered) this.#answered(payload, flags);
        inbound.send(type, flags, payload, outbound, flowCost(payload));
        if ((flags & Flag.More) === 0) {
          this.#instance = undefined;
          this.#over((flags & Flag.Error) !== 0 ? "UNKNOWN" : (flags & Flag.Fault) !== 0 ? faultCode(payload) : "OK");
        }
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
        this.#outbound = undefined;
        return this.#attemptFailed(decodeFault(payload).withEffect("none"));
      case FrameType.Reset: {
        this.#outbound = undefined;
        const error = decodeFault(payload);
        if (!this.#isAnswered) return this.#attemptFailed(error);
        inbound.reset(payload);
        return this.#over(error.code);
      }
      default:
        inbound.send(type, flags, payload, outbound, flowCost(payload));
        if (type === FrameType.End && (flags & (Flag.Error | Flag.Fault)) !== 0 && (flags & Flag.More) === 0) {
          return this.#over((flags & Flag.Error) !== 0 ? "UNKNOWN" : "INTERNAL");
        }
        this.#checkChannelOver();
    }
  }

  /** The method has been entered: from here on there is no second attempt. `payload` begins with the peer's load. */
  #answered(payload: Uint8Array, flags: number): void {
    this.#isAnswered = true;
    this.#dropRetained();
    const instance = this.#instance;
    if (instance === undefined) return;
    const load = ((payload[0] ?? 0) << 8) | (payload[1] ?? 0);
    const now = this.#agent.clock.now();
    // A quick error is not a quick answer: it must not draw more calls to where it came from.
    if ((flags & Flag.Error) !== 0) instance.balanced.errored(now, this.#attemptStartedAt, "METHOD_ERROR", load);
    else if ((flags & Flag.Fault) !== 0) instance.balanced.errored(now, this.#attemptStartedAt, "METHOD_THREW", load);
    else instance.balanced.succeeded(now, this.#attemptStartedAt, load);
    if (this.#inbound.isChannel) instance.balanced.channelOpened();
  }

  /** Both directions have ended cleanly, or one of the streams has gone. */
  #checkChannelOver(): void {
    if (this.#inbound.isClosed && this.#outbound?.isClosed === true) this.#over("OK");
  }

  #breakBoth(error: LeverError): void {
    this.#outbound?.reset(encodeFault(error));
    this.#outbound = undefined;
    this.#inbound.reset(encodeFault(error));
    this.#over(error.code);
  }

  onWritable(): void {
    // Queued frames have left, perhaps the last ones of a channel.
    if (this.#isAnswered && this.#inbound.isChannel) this.#checkChannelOver();
  }

  onLost(stream: Stream, error: LeverError): void {
    if (stream === this.#inbound) {
      const outbound = this.#outbound;
      this.#outbound = undefined;
      outbound?.reset(encodeFault(new LeverError("CANCELLED", "the caller is gone", { cause: error })));
      const instance = this.#instance;
      if (instance !== undefined && !this.#isAnswered) {
        this.#instance = undefined;
        instance.balanced.errored(this.#agent.clock.now(), this.#attemptStartedAt, "CANCELLED");
      }
      return this.#over("CANCELLED");
    }
    if (stream !== this.#outbound || this.#isOver) return;
    this.#outbound = undefined;
    if (!this.#isAnswered) {
      // GOAWAY says `none` for streams that the peer has not taken; else what has left may have been seen.
      return this.#attemptFailed(
        stream.hasLeft && error.effect !== "none" ? error.withEffect("unknown") : error.withEffect("none"),
      );
    }
    const told = error.withEffect("ran");
    this.#inbound.reset(encodeFault(told));
    this.#over(told.code);
  }
}

/** The code in a REPLY with a fault in one fragment; `INTERNAL` where it spans several. */
function faultCode(payload: Uint8Array): string {
  return decodeFault(payload.subarray(2)).code;
}
