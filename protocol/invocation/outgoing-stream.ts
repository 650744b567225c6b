/**
 * What a call and the opening of a channel have in common at their caller: the stream, the deadline, the caller's
 * cancel, and that they settle exactly once.
 *
 * `effect` is never guessed: `none` only if the OPEN has not left this end or the far side said so.
 */

import { DeadlineEntry, type DeadlineWheel } from "../deadline/deadline-wheel.ts";
import { decodeFault, encodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import type { Gate } from "../session/gate.ts";
import type { Session } from "../session/session.ts";
import type { Stream, StreamHandler } from "../session/stream.ts";
import type { Target } from "../target/target.ts";
import type { Encoded } from "../value/form.ts";
import type { AssemblyBudget } from "./assembly.ts";
import { argsBytesHardMax } from "./item-limits.ts";

export interface OutgoingOptions {
  /** Time for the whole call (for a channel: for its opening), ms; 0: the service's own default alone. */
  readonly timeoutMs: number;
  /** `encodeFields` of resource, token, trace context and metadata. */
  readonly fields: Uint8Array;
  readonly signal?: CancelSignal | undefined;
  /** Asked before each frame of the call leaves, as `Stream.gate`. */
  readonly gate?: Gate | undefined;
}

/** What cancels a call: an AbortSignal, or what a client makes of several. The listener is taken off at the call's end. */
export interface CancelSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  addEventListener(type: "abort", listener: () => void, options: { readonly once: true }): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/** What every outgoing call of a client shares. */
export interface CallerRuntime {
  readonly wheel: DeadlineWheel;
  readonly budget: AssemblyBudget;
  now(): number;
}

/**
 * The agent, which knows more (whether a call that it held has left), answers at the deadline. The client's own timer
 * is for an agent that does not.
 */
const deadlineGraceMs = 250;

/** Settles `resolve` or `reject`, whichever comes first, once. */
export abstract class OutgoingStream<Result> extends DeadlineEntry implements StreamHandler {
  protected readonly runtime: CallerRuntime;
  protected readonly target: Target;
  protected readonly options: OutgoingOptions;
  readonly #resolve: (result: Result) => void;
  readonly #reject: (error: unknown) => void;
  #stream: Stream | undefined;
  #isSettled = false;
  #onAbort: (() => void) | undefined;

  constructor(
    runtime: CallerRuntime,
    target: Target,
    options: OutgoingOptions,
    resolve: (result: Result) => void,
    reject: (error: unknown) => void,
  ) {
    super();
    this.runtime = runtime;
    this.target = target;
    this.options = options;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  /** A REPLY or ACCEPT. REFUSE and RESET are dealt with here. */
  protected abstract onAnswer(stream: Stream, type: number, flags: number, payload: Uint8Array): void;
  /** What it says when its time is over. */
  protected abstract deadlineText(): string;
  /** It has settled: lets go of what it holds. */
  protected onSettled(): void {}

  protected get isSettled(): boolean {
    return this.#isSettled;
  }

  start(session: Session, args: Encoded, flags: number): void {
    const { timeoutMs, fields, signal, gate } = this.options;
    try {
      checkArgsSize(args);
      if (signal?.aborted === true) throw cancelled(this.target, signal, "none");
      const openFlags = args.form === "bytes" ? flags | Flag.Bytes : flags;
      this.#stream = session.open(this.target, openFlags, timeoutMs, fields, args.bytes, this, gate);
    } catch (error) {
      return this.fail(error);
    }
    if (signal !== undefined) {
      this.#onAbort = () => this.abandon(cancelled(this.target, signal, this.#effectNow()));
      signal.addEventListener("abort", this.#onAbort, { once: true });
    }
    if (timeoutMs > 0) this.runtime.wheel.add(this, this.runtime.now() + timeoutMs + deadlineGraceMs);
  }

  override onDeadline(): void {
    this.abandon(new LeverError("DEADLINE_EXCEEDED", this.deadlineText(), { effect: this.#effectNow() }));
  }

  onFrame(stream: Stream, type: number, flags: number, payload: Uint8Array): void {
    if (type === FrameType.Refuse) this.fail(decodeFault(payload).withEffect("none"));
    else if (type === FrameType.Reset) {
      // Only a REFUSE says that the method has not run.
      const error = decodeFault(payload);
      this.fail(error.effect === "none" ? error.withEffect("unknown") : error);
    } else this.onAnswer(stream, type, flags, payload);
  }

  onWritable(): void {}

  onLost(stream: Stream, error: LeverError): void {
    this.fail(stream.hasLeft ? error : error.withEffect("none"));
  }

  #effectNow(): "none" | "unknown" {
    return this.#stream?.hasLeft === true ? "unknown" : "none";
  }

  /** Gives up, and tells the peer. */
  protected abandon(error: LeverError): void {
    this.#stream?.reset(encodeFault(error));
    this.fail(error);
  }

  protected succeed(result: Result): void {
    if (this.#settle()) this.#resolve(result);
  }

  protected fail(error: unknown): void {
    if (this.#settle()) this.#reject(error);
  }

  #settle(): boolean {
    if (this.#isSettled) return false;
    this.#isSettled = true;
    this.onSettled();
    this.runtime.wheel.remove(this);
    if (this.#onAbort !== undefined) this.options.signal?.removeEventListener("abort", this.#onAbort);
    return true;
  }
}

function checkArgsSize(args: Encoded): void {
  if (args.bytes.length <= argsBytesHardMax) return;
  throw new LeverError(
    "ARGS_TOO_LARGE",
    `the arguments take ${args.bytes.length} bytes, at most ${argsBytesHardMax} can be sent; ` +
      "send large data over a channel (a method whose name ends in Chan)",
    { effect: "none", details: { limit: "argsBytes", bytes: args.bytes.length, bytesMax: argsBytesHardMax } },
  );
}

export function cancelled(target: Target, signal: CancelSignal, effect: "none" | "unknown"): LeverError {
  return new LeverError("CANCELLED", `${target.text} was cancelled by its caller`, { effect, cause: signal.reason });
}
