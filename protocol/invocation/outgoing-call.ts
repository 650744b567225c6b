/**
 * A call at its caller: sends the arguments, gathers the reply, and settles exactly once: with the result, the method's
 * error, the fault that came back, the deadline, the caller's cancel, or the session's end.
 *
 * `effect` is never guessed: `none` only if the OPEN has not left this end or the far side said so.
 */

import { DeadlineEntry, type DeadlineWheel } from "../deadline/deadline-wheel.ts";
import { decodeFault, encodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import { MethodError } from "../error/method-error.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import type { Session } from "../session/session.ts";
import { flowCost, type Stream, type StreamHandler } from "../session/stream.ts";
import type { Target } from "../target/target.ts";
import { copyBytes } from "../value/copy-bytes.ts";
import { decodePayload, type Encoded, type Form } from "../value/form.ts";
import { Assembly, type AssemblyBudget } from "./assembly.ts";
import { argsBytesHardMax, resultBytesHardMax } from "./item-limits.ts";

export interface OutgoingOptions {
  /** Time for the whole call (for a channel: for its opening), ms; 0: the service's own default alone. */
  readonly timeoutMs: number;
  /** `encodeFields` of resource, token, trace context and metadata. */
  readonly fields: Uint8Array;
  readonly signal?: CancelSignal | undefined;
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
export const deadlineGraceMs = 250;

/** Calls; resolves with the encoded result. Rejects with LeverError or MethodError, and throws neither. */
export function startCall(
  runtime: CallerRuntime,
  session: Session,
  target: Target,
  args: Encoded,
  options: OutgoingOptions,
): Promise<Encoded> {
  return new Promise((resolve, reject) => {
    const call = new OutgoingCall(runtime, target, options, resolve, reject);
    call.start(session, args);
  });
}

class OutgoingCall extends DeadlineEntry implements StreamHandler {
  readonly #runtime: CallerRuntime;
  readonly #target: Target;
  readonly #options: OutgoingOptions;
  readonly #resolve: (result: Encoded) => void;
  readonly #reject: (error: unknown) => void;
  #stream: Stream | undefined;
  #assembly: Assembly | undefined;
  /** The first REPLY, which has the load in front, was seen. */
  #hasReply = false;
  #isSettled = false;
  #onAbort: (() => void) | undefined;

  constructor(
    runtime: CallerRuntime,
    target: Target,
    options: OutgoingOptions,
    resolve: (result: Encoded) => void,
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
      const flags = args.form === "bytes" ? Flag.Bytes : 0;
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
      new LeverError("DEADLINE_EXCEEDED", `${this.#target.text} gave no answer within ${this.#options.timeoutMs} ms`, {
        effect: this.#effectNow(),
      }),
    );
  }

  onFrame(stream: Stream, type: number, flags: number, payload: Uint8Array): void {
    if (type === FrameType.Reply) {
      stream.consume(flowCost(payload));
      if (this.#isSettled) return;
      const fragment = this.#hasReply ? payload : payload.subarray(2);
      this.#hasReply = true;
      if ((flags & Flag.More) !== 0) {
        this.#assembly ??= new Assembly(this.#runtime.budget);
        if (this.#assembly.bytes + fragment.length > resultBytesHardMax) {
          return this.#abandon(
            new LeverError(
              "RESULT_TOO_LARGE",
              `the result of ${this.#target.text} is larger than ${resultBytesHardMax} bytes`,
            ),
          );
        }
        if (!this.#assembly.add(fragment)) {
          this.#abandon(
            new LeverError("OVERLOADED", "too many large results are being received at once; wait for some to end", {
              effect: "ran",
            }),
          );
        }
        return;
      }
      const bytes = this.#assembly === undefined ? fragment : this.#assembly.finish(fragment);
      const form: Form = (flags & Flag.Bytes) !== 0 ? "bytes" : "value";
      if ((flags & (Flag.Error | Flag.Fault)) === 0) this.#succeed({ bytes, form });
      else this.#fail(errorOf(flags, bytes, form));
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

  #succeed(result: Encoded): void {
    if (this.#settle()) this.#resolve(result);
  }

  #fail(error: unknown): void {
    if (this.#settle()) this.#reject(error);
  }

  #settle(): boolean {
    if (this.#isSettled) return false;
    this.#isSettled = true;
    this.#assembly?.drop();
    this.#runtime.wheel.remove(this);
    if (this.#onAbort !== undefined) this.#options.signal?.removeEventListener("abort", this.#onAbort);
    return true;
  }
}

/** The error that a REPLY or END with `Error` or `Fault` carries. */
export function errorOf(flags: number, bytes: Uint8Array, form: Form): LeverError | MethodError {
  if ((flags & Flag.Fault) !== 0) return decodeFault(bytes);
  try {
    return new MethodError(form === "bytes" ? copyBytes(bytes) : decodePayload(bytes, form));
  } catch (error) {
    return LeverError.from(error);
  }
}

export function checkArgsSize(args: Encoded): void {
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
