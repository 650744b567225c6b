/**
 * Opens a channel: OPEN, then ACCEPT when the method has been entered, or a refusal. The deadline ends the opening only;
 * an open channel lives as long as its two ends and the network do.
 */

import { DeadlineEntry } from "../deadline/deadline-wheel.ts";
import { decodeFault, encodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import {
  type CallerRuntime,
  cancelled,
  checkArgsSize,
  deadlineGraceMs,
  type OutgoingOptions,
} from "../invocation/outgoing-call.ts";
import type { Session } from "../session/session.ts";
import type { Stream, StreamHandler } from "../session/stream.ts";
import type { Target } from "../target/target.ts";
import type { Encoded } from "../value/form.ts";
import { RawChannel } from "./channel.ts";

/** Resolves when the method has been entered. `options.signal` cancels the opening, and the open channel too. */
export function startChannel(
  runtime: CallerRuntime,
  session: Session,
  target: Target,
  args: Encoded,
  options: OutgoingOptions,
): Promise<RawChannel> {
  return new Promise((resolve, reject) => {
    new Opening(runtime, target, options, resolve, reject).start(session, args);
  });
}

class Opening extends DeadlineEntry implements StreamHandler {
  readonly #runtime: CallerRuntime;
  readonly #target: Target;
  readonly #options: OutgoingOptions;
  readonly #resolve: (channel: RawChannel) => void;
  readonly #reject: (error: unknown) => void;
  #stream: Stream | undefined;
  #onAbort: (() => void) | undefined;

  constructor(
    runtime: CallerRuntime,
    target: Target,
    options: OutgoingOptions,
    resolve: (channel: RawChannel) => void,
    reject: (error: unknown) => void,
  ) {
    super();
    this.#runtime = runtime;
    this.#target = target;
    this.#options = options;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  start(session: Session, args: Encoded): void {
    const { timeoutMs, fields, signal } = this.#options;
    try {
      checkArgsSize(args);
      if (signal?.aborted === true) throw cancelled(this.#target, signal, "none");
      const flags = Flag.Channel | (args.form === "bytes" ? Flag.Bytes : 0);
      this.#stream = session.open(this.#target, flags, timeoutMs, fields, args.bytes, this);
    } catch (error) {
      return this.#fail(error);
    }
    if (signal !== undefined) {
      this.#onAbort = () => this.#abandon(cancelled(this.#target, signal, this.#effectNow()));
      signal.addEventListener("abort", this.#onAbort, { once: true });
    }
    if (timeoutMs > 0) this.#runtime.wheel.add(this, this.#runtime.now() + timeoutMs + deadlineGraceMs);
  }

  override onDeadline(): void {
    this.#abandon(
      new LeverError(
        "DEADLINE_EXCEEDED",
        `the channel to ${this.#target.text} was not open within ${this.#options.timeoutMs} ms`,
        { effect: this.#effectNow() },
      ),
    );
  }

  onFrame(stream: Stream, type: number, _flags: number, payload: Uint8Array): void {
    if (type === FrameType.Accept) {
      this.#settle();
      const channel = new RawChannel(stream, this.#runtime.budget);
      stream.handler = channel;
      const { signal } = this.#options;
      if (signal !== undefined) {
        const onAbort = () => channel.cancel(cancelled(this.#target, signal, "unknown").withEffect("ran"));
        signal.addEventListener("abort", onAbort, { once: true });
        channel.whenEnded(() => signal.removeEventListener("abort", onAbort));
      }
      this.#resolve(channel);
    } else if (type === FrameType.Refuse) {
      this.#fail(decodeFault(payload).withEffect("none"));
    } else if (type === FrameType.Reset) {
      this.#fail(decodeFault(payload));
    }
  }

  onWritable(): void {}

  onLost(stream: Stream, error: LeverError): void {
    this.#fail(stream.hasLeft ? error : error.withEffect("none"));
  }

  #effectNow(): "none" | "unknown" {
    return this.#stream?.hasLeft === true ? "unknown" : "none";
  }

  #abandon(error: LeverError): void {
    this.#stream?.reset(encodeFault(error));
    this.#fail(error);
  }

  #fail(error: unknown): void {
    this.#settle();
    this.#reject(error);
  }

  #settle(): void {
    this.#runtime.wheel.remove(this);
    if (this.#onAbort !== undefined) this.#options.signal?.removeEventListener("abort", this.#onAbort);
  }
}
