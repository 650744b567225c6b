/** A call at its caller: sends the arguments, gathers the reply, and settles exactly once. */

import { decodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import { MethodError } from "../error/method-error.ts";
import { Flag, replyLoadBytes } from "../frame/frame.ts";
import type { Session } from "../session/session.ts";
import { flowCost, type Stream } from "../session/stream.ts";
import type { Target } from "../target/target.ts";
import type { Encoded, Form } from "../value/form.ts";
import { Assembly } from "./assembly.ts";
import { resultBytesHardMax } from "./item-limits.ts";
import { type CallerRuntime, type OutgoingOptions, OutgoingStream } from "./outgoing-stream.ts";
import { decodeReceived } from "./received-item.ts";

/** Calls; resolves with the encoded result. Rejects with LeverError or MethodError, and throws neither. */
export function startCall(
  runtime: CallerRuntime,
  session: Session,
  target: Target,
  args: Encoded,
  options: OutgoingOptions,
): Promise<Encoded> {
  return new Promise((resolve, reject) => {
    new OutgoingCall(runtime, target, options, resolve, reject).start(session, args, 0);
  });
}

class OutgoingCall extends OutgoingStream<Encoded> {
  #assembly: Assembly | undefined;
  /** The first REPLY, which has the load in front, was seen. */
  #hasReply = false;

  protected override deadlineText(): string {
    return `${this.target.text} gave no answer within ${this.options.timeoutMs} ms`;
  }

  protected override onAnswer(stream: Stream, _type: number, flags: number, payload: Uint8Array): void {
    stream.consume(flowCost(payload));
    if (this.isSettled) return;
    const fragment = this.#hasReply ? payload : payload.subarray(replyLoadBytes);
    this.#hasReply = true;
    if ((flags & Flag.More) !== 0) return this.#gather(fragment);
    const bytes = this.#assembly === undefined ? fragment : this.#assembly.finish(fragment);
    const form: Form = (flags & Flag.Bytes) !== 0 ? "bytes" : "value";
    if ((flags & (Flag.Error | Flag.Fault)) === 0) this.succeed({ bytes, form });
    else this.fail(errorOf(flags, bytes, form));
  }

  #gather(fragment: Uint8Array): void {
    this.#assembly ??= new Assembly(this.runtime.budget);
    if (this.#assembly.bytes + fragment.length > resultBytesHardMax) {
      this.abandon(
        new LeverError(
          "RESULT_TOO_LARGE",
          `the result of ${this.target.text} is larger than ${resultBytesHardMax} bytes`,
        ),
      );
    } else if (!this.#assembly.add(fragment)) {
      this.abandon(
        new LeverError("OVERLOADED", "too many large results are being received at once; wait for some to end", {
          effect: "ran",
        }),
      );
    }
  }

  protected override onSettled(): void {
    this.#assembly?.drop();
  }
}

/** The error that a REPLY or END with `Error` or `Fault` carries. */
export function errorOf(flags: number, bytes: Uint8Array, form: Form): LeverError | MethodError {
  if ((flags & Flag.Fault) !== 0) return decodeFault(bytes);
  try {
    return new MethodError(decodeReceived({ bytes, form }));
  } catch (error) {
    return LeverError.from(error);
  }
}
