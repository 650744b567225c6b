/**
 * A call or channel at the agent of the instance that it was sent to: checks that the app can take it, hands it to the
 * app, and passes everything else through undecoded. It never tries anything twice.
 *
 * Invariant: a refusal here says `none`, since no byte has reached the app.
 */

import type { ServiceLimits } from "@leveros/protocol/control/discovery.ts";
import { decodeFault, encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Flag, FrameType, replyLoadBytes } from "@leveros/protocol/frame/frame.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { flowCost, Phase, type Stream, type StreamHandler } from "@leveros/protocol/session/stream.ts";
import type { Target } from "@leveros/protocol/target/target.ts";
import type { Agent } from "./agent.ts";
import { ItemCounter, itemTooLarge } from "./item-counter.ts";
import { endCode } from "./observer.ts";

export class InboundRelay implements StreamHandler {
  readonly #agent: Agent;
  readonly #peer: Stream;
  readonly #limits: ServiceLimits;
  readonly #startedAt: number;
  #app: Stream | undefined;
  /** The app has gone after it had ended its direction of the channel. */
  #hasAppLeft = false;
  #isOver = false;
  /** The method has been entered, as far as is known here: a REPLY has begun, or there was an ACCEPT. */
  #isAnswered = false;
  #fromApp: ItemCounter | undefined;
  /** How the caller has ended its direction of a channel. */
  #callerCode = "OK";

  constructor(agent: Agent, peer: Stream, limits: ServiceLimits) {
    this.#agent = agent;
    this.#peer = peer;
    this.#limits = limits;
    this.#startedAt = agent.clock.now();
  }

  /** Hands the first OPEN frame to the app. `cost` is what the peer's frame cost. */
  start(app: Session, target: Target, flags: number, frame: Uint8Array, cost: number): void {
    const peer = this.#peer;
    peer.handler = this;
    this.#agent.entered(peer.isChannel);
    try {
      this.#app = app.openFrame(target, flags, frame, this, peer, cost);
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
      app?.reset(payload);
      return this.#over(decodeFault(payload).code);
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
        if ((flags & Flag.More) === 0) this.#over(endCode(flags, payload, faultAt));
        return;
      }
      case FrameType.Accept: {
        this.#isAnswered = true;
        const load = this.#agent.load;
        return peer.accept(Uint8Array.of(load >>> 8, load));
      }
      case FrameType.Refuse:
        peer.refuse(payload);
        return this.#over(decodeFault(payload).code);
      case FrameType.Reset:
        peer.reset(payload);
        return this.#over(decodeFault(payload).code);
      case FrameType.Message:
        if (!this.#fits(flags, payload.length, this.#limits.messageBytes)) {
          return this.#tooLarge(itemTooLarge("message", this.#limits.messageBytes));
        }
        break;
      default:
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
    if (this.#fromApp === undefined && (flags & Flag.More) === 0) return fragmentBytes <= bytesMax;
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
  }

  onLost(stream: Stream, error: LeverError): void {
    if (this.#isOver) return;
    if (stream === this.#peer) {
      const cut = new LeverError("CONNECTION_LOST", "the connection to the caller's agent was lost");
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
  }
}
