/**
 * Opens a channel: OPEN, then ACCEPT when the method has been entered, or a refusal. The deadline ends the opening only;
 * an open channel lives as long as its two ends and the network do.
 */

import { Flag, FrameType } from "../frame/frame.ts";
import { type CallerRuntime, cancelled, type OutgoingOptions, OutgoingStream } from "../invocation/outgoing-stream.ts";
import type { Session } from "../session/session.ts";
import type { Stream } from "../session/stream.ts";
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
    new Opening(runtime, target, options, resolve, reject).start(session, args, Flag.Channel);
  });
}

class Opening extends OutgoingStream<RawChannel> {
  protected override deadlineText(): string {
    return `the channel to ${this.target.text} was not open within ${this.options.timeoutMs} ms`;
  }

  protected override onAnswer(stream: Stream, type: number): void {
    if (type !== FrameType.Accept) return;
    const channel = new RawChannel(stream, this.runtime.budget);
    stream.handler = channel;
    const { signal } = this.options;
    if (signal !== undefined) {
      const onAbort = () => channel.cancel(cancelled(this.target, signal, "unknown").withEffect("ran"));
      signal.addEventListener("abort", onAbort, { once: true });
      channel.whenEnded(() => signal.removeEventListener("abort", onAbort));
    }
    this.succeed(channel);
  }
}
