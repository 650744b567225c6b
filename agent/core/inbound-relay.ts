/**
 * A call or channel at the agent of the instance that it was sent to: checks that the app can take it, hands it to the
 * app, and passes everything else through undecoded. It never tries anything twice. One with a resource runs in its
 * slot, and what comes of it passes the slot's gate.
 *
 * Invariants: a refusal here says `none`, since no byte has reached the app; the app's link knows of an invocation for as
 * long as its method may run.
 */

import type { ServiceLimits } from "@leveros/protocol/control/discovery.ts";
import { decodeFault, encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Flag, FrameType, replyLoadBytes } from "@leveros/protocol/frame/frame.ts";
import type { Gate } from "@leveros/protocol/session/gate.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { flowCost, Phase, type Stream, type StreamHandler } from "@leveros/protocol/session/stream.ts";
import type { Target } from "@leveros/protocol/target/target.ts";
import type { Agent } from "./agent.ts";
import { ItemCounter, itemTooLarge } from "./item-counter.ts";
import { endCode } from "./observer.ts";
import type { ParentInvocation } from "./outgoing-fields.ts";
import type { Slot, SlotRelay } from "./ownership/slot.ts";
import type { HolderAppLink, SlotHolder } from "./ownership/slot-holder.ts";

/** Where the app is connected that the call is for. */
export interface AppConnection extends HolderAppLink {
  readonly invocations: Map<number, ParentInvocation>;
}

/** Of a call that names a resource. */
export interface ResourceCall {
  readonly holder: SlotHolder;
  /** Undefined where it is served although the slot is not held here. */
  readonly slot: Slot | undefined;
}

export class InboundRelay implements StreamHandler, ParentInvocation, SlotRelay {
  readonly #agent: Agent;
  readonly #peer: Stream;
  readonly #limits: ServiceLimits;
  readonly #startedAt: number;
  readonly #link: AppConnection;
  readonly #resource: ResourceCall | undefined;
  /** The field Chain with which the call came. */
  readonly chain: Uint8Array | undefined;
  #app: Stream | undefined;
  /** Of the app's stream, once it is open. */
  #appStream = 0;
  /** The method has returned, or was never entered. */
  #hasReturned = false;
  /** The app has ended its direction, or the channel. */
  #hasAppEnded = false;
  /** All of it has left, and its slot knows. */
  #isSettled = false;
  /** The app has gone after it had ended its direction of the channel. */
  #hasAppLeft = false;
  #isOver = false;
  /** The method has been entered, as far as is known here: a REPLY has begun, or there was an ACCEPT. */
  #isAnswered = false;
  #fromApp: ItemCounter | undefined;
  /** How the caller has ended its direction of a channel. */
  #callerCode = "OK";

  constructor(
    agent: Agent,
    peer: Stream,
    limits: ServiceLimits,
    link: AppConnection,
    resource: ResourceCall | undefined,
    chain: Uint8Array | undefined,
  ) {
    this.#agent = agent;
    this.#peer = peer;
    this.#limits = limits;
    this.#link = link;
    this.#resource = resource;
    this.chain = chain;
    this.#startedAt = agent.clock.now();
  }

  // ---------------------------------------------------------------- for the calls that the method makes, and the slot

  /** What the method lets out has to pass it. */
  get gate(): Gate | undefined {
    return this.#resource?.slot?.gate;
  }

  /** Undefined for a call without a resource; 0 for one that is served although the slot is not held here. */
  get slotEpoch(): number | undefined {
    return this.#resource === undefined ? undefined : (this.#resource.slot?.epoch ?? 0);
  }

  get isChannel(): boolean {
    return this.#peer.isChannel;
  }

  get isAnswered(): boolean {
    return this.#isAnswered;
  }

  get isRunning(): boolean {
    return !this.#isOver && !this.#hasAppEnded;
  }

  get hasUnsent(): boolean {
    return this.#peer.hasQueue;
  }

  move(): void {
    if (!this.#isOver) this.#peer.move();
  }

  end(error: LeverError): void {
    const fault = encodeFault(error);
    const app = this.#app;
    const wasSeen = app?.hasLeft === true || this.#hasAppLeft;
    if (wasSeen || this.#isOver) this.#peer.reset(fault);
    else this.#peer.refuse(encodeFault(error.withEffect("none")));
    if (!this.#isOver) app?.reset(fault);
    this.#over(error.code);
  }

  // ---------------------------------------------------------------- the streams

  /** Hands the first OPEN frame to the app. `cost` is what the peer's frame cost. */
  start(app: Session, target: Target, flags: number, frame: Uint8Array, cost: number): void {
    const peer = this.#peer;
    peer.handler = this;
    this.#agent.entered(peer.isChannel);
    const slot = this.#resource?.slot;
    if (slot !== undefined) {
      slot.relays.add(this);
      peer.gate = slot.gate;
    }
    try {
      const stream = app.openFrame(target, flags, frame, this, peer, cost);
      this.#app = stream;
      this.#appStream = stream.id;
      this.#link.invocations.set(stream.id, this);
    } catch (error) {
      peer.consume(cost);
      const refusal = LeverError.from(error).withEffect("none");
      peer.refuse(encodeFault(refusal));
      this.#over(refusal.code);
    }
  }

  onFrame(stream: Stream, type: number, flags: number, payload: Uint8Array): void {
    if (stream === this.#peer) this.#fromPeer(type, flags, payload);
    else this.#fromAppFrame(stream, type, flags, payload);
  }

  #fromPeer(type: number, flags: number, payload: Uint8Array): void {
    const app = this.#app;
    if (type === FrameType.Reset) {
      if (!this.#isOver) app?.reset(payload);
      this.#over(decodeFault(payload).code);
      // Over before, and what was left of the answer is dropped now.
      return this.#settle();
    }
    if (app === undefined || this.#isOver) {
      this.#peer.consume(flowCost(payload));
      return this.#checkChannelOver();
    }
    if (type === FrameType.End && (flags & Flag.More) === 0) this.#callerCode = endCode(flags, payload, 0);
    app.send(type, flags, payload, this.#peer, flowCost(payload));
    this.#checkChannelOver();
  }

  #fromAppFrame(app: Stream, type: number, flags: number, payload: Uint8Array): void {
    const peer = this.#peer;
    switch (type) {
      case FrameType.Reply: {
        const load = this.#agent.loadWithout(peer.isChannel);
        const faultAt = this.#isAnswered ? 0 : replyLoadBytes;
        if (!this.#isAnswered) {
          this.#isAnswered = true;
          payload[0] = load >>> 8;
          payload[1] = load;
        }
        const isError = (flags & (Flag.Error | Flag.Fault)) !== 0;
        if (!isError && !this.#fits(flags, payload.length - faultAt, this.#limits.resultBytes)) {
          return this.#tooLarge(itemTooLarge("result", this.#limits.resultBytes));
        }
        peer.send(type, flags, payload, app, flowCost(payload));
        if ((flags & Flag.More) !== 0) return;
        this.#hasReturned = true;
        return this.#over(endCode(flags, payload, faultAt));
      }
      case FrameType.Accept: {
        this.#isAnswered = true;
        const load = this.#agent.load;
        peer.accept(Uint8Array.of(load >>> 8, load));
        if (this.#resource?.slot !== undefined) this.#resource.holder.accepted(this.#resource.slot, this);
        return;
      }
      case FrameType.Refuse:
        this.#hasReturned = true;
        peer.refuse(payload);
        return this.#over(decodeFault(payload).code);
      case FrameType.Move:
        return peer.move();
      case FrameType.Reset:
        this.#hasAppEnded = true;
        peer.reset(payload);
        return this.#over(decodeFault(payload).code);
      case FrameType.Message:
        if (!this.#fits(flags, payload.length, this.#limits.messageBytes)) {
          return this.#tooLarge(itemTooLarge("message", this.#limits.messageBytes));
        }
        break;
      default:
        this.#hasAppEnded = true;
        if ((flags & (Flag.Error | Flag.Fault)) !== 0 && (flags & Flag.More) === 0) {
          peer.send(type, flags, payload, app, flowCost(payload));
          return this.#over(endCode(flags, payload, 0));
        }
    }
    peer.send(type, flags, payload, app, flowCost(payload));
    this.#checkChannelOver();
  }

  /** Counts a fragment; false if its item is larger than `bytesMax`. */
  #fits(flags: number, fragmentBytes: number, bytesMax: number): boolean {
    // Nearly every item is one frame.
    if (this.#fromApp === undefined && (flags & (Flag.More | Flag.Cursor)) === 0) return fragmentBytes <= bytesMax;
    this.#fromApp ??= new ItemCounter();
    return this.#fromApp.add(flags, fragmentBytes, bytesMax);
  }

  #tooLarge(error: LeverError): void {
    const fault = encodeFault(error);
    this.#app?.reset(fault);
    this.#peer.reset(fault);
    this.#over(error.code);
  }

  #checkChannelOver(): void {
    const { isClosed, hasQueue } = this.#peer;
    if (this.#hasAppLeft ? isClosed || !hasQueue : isClosed && this.#app?.isClosed === true) {
      this.#over(this.#callerCode);
    }
  }

  onWritable(): void {
    if (this.#peer.isChannel) this.#checkChannelOver();
    this.#settle();
  }

  onLost(stream: Stream, error: LeverError): void {
    if (this.#isOver) return this.#settle();
    if (stream === this.#peer) {
      const isShut = error.reason === "LEASE_LAPSED";
      const cut = isShut ? error : new LeverError("CONNECTION_LOST", "the connection to the caller's agent was lost");
      this.#app?.reset(encodeFault(cut));
      return this.#over(cut.code);
    }
    if (stream.inPhase === Phase.Done) {
      // Its method has returned, and its last messages may still be on their way: the caller gets its clean end.
      // What that one still sends has no reader, and is not waited for.
      this.#app = undefined;
      this.#hasAppLeft = true;
      return this.#checkChannelOver();
    }
    // OPEN has not left, or a GOAWAY says that it was not taken.
    if (error.effect === "none") {
      this.#peer.refuse(encodeFault(error));
      return this.#over(error.code);
    }
    const gone = new LeverError(
      "APP_GONE",
      `the app of ${this.#agent.identity.instance ?? "this instance"} ended while it had the call`,
      { effect: this.#isAnswered ? "ran" : "unknown", cause: error },
    );
    this.#peer.reset(encodeFault(gone));
    this.#over(gone.code);
  }

  #over(code: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#peer.release();
    this.#agent.left(this.#peer.isChannel);
    this.#agent.observer.served(code, this.#agent.clock.now() - this.#startedAt);
    this.#leaveApp();
    this.#settle();
  }

  /** Its method makes no more calls, or nobody knows. */
  #leaveApp(): void {
    const { app, invocations } = this.#link;
    if (this.#appStream === 0) return;
    const mayRun = !this.#hasReturned && (this.#hasAppLeft || this.#app?.hasLeft === true);
    if (mayRun && app !== undefined) app.orphaned(this.#appStream, this.#resource?.slot, !this.#hasAppEnded);
    else invocations.delete(this.#appStream);
  }

  #settle(): void {
    if (!this.#isOver || this.#isSettled || this.#peer.hasQueue) return;
    this.#isSettled = true;
    if (this.#resource?.slot !== undefined) this.#resource.holder.left(this.#resource.slot, this);
  }
}
