/**
 * A channel at its caller that is opened again when it ended through no wish of its two ends: its resource moved, or its
 * instance or the way to it was lost.
 *
 * Messages that came in before are read first; those that are sent meanwhile wait. What was on its way to an instance
 * that was lost is gone: nothing is sent twice. Invariant: whoever reads is told (`discontinuity`) before the first
 * message in front of which some may be missing: nothing is missing if nothing had come before, or if the last message
 * had a cursor and the method that was entered took it.
 */

import type { Clock, Random, TimerHandle } from "../clock/clock.ts";
import type { Reason } from "../error/catalogue.ts";
import { LeverError } from "../error/lever-error.ts";
import type { MethodError } from "../error/method-error.ts";
import type { Encoded } from "../value/form.ts";
import {
  type ChannelPort,
  type ChannelState,
  moved,
  notify,
  type RawChannel,
  type ReceivedMessage,
  sendQueueBytesMax,
} from "./channel.ts";

export interface ResumeOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** How long it is tried, from the end of the channel on. */
  readonly resumeTimeoutMs: number;
  /** Opens the channel again, within `leftMs`, unless `signal` is aborted before. Rejects as any opening. */
  reopen(cursor: string | undefined, leftMs: number, signal: AbortSignal): Promise<RawChannel>;
}

/** The pause before the n-th try but the first is half to all of `pauseMsMin` × 2^(n-2), at most `pauseMsMax`. */
const pauseMsMin = 50;
const pauseMsMax = 5000;
/** With more than this unread, the channel is opened again only when it has been read. */
const backlogBytesMax = 256 * 1024;

/** Ends of a channel that neither its caller nor the method wanted. */
const resumableReasons: ReadonlySet<Reason> = new Set(["MOVED", "CONNECTION_LOST", "LEASE_LAPSED", "APP_GONE"]);

interface QueuedMessage {
  readonly item: Encoded;
  readonly cursor: string | undefined;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class ResumingChannel implements ChannelPort {
  onState: ((state: ChannelState) => void) | undefined = undefined;
  readonly #options: ResumeOptions;
  readonly #controller = new AbortController();
  /** Aborted at the end: nobody wants what is being opened. */
  readonly #opening = new AbortController();
  /** The open channel; undefined while there is none. */
  #raw: RawChannel | undefined;
  /** Came in on channels that have ended. */
  #backlog: ReceivedMessage[] = [];
  #backlogBytes = 0;
  /** Sent while there was no channel. */
  #queue: QueuedMessage[] = [];
  #queuedBytes = 0;
  /** Of the last message that came in on the channels that have ended. */
  #cursor: string | undefined;
  #hasReceived = false;
  /** What comes first on the open channel says whether something is missing before it. */
  #isContinuityOpen = false;
  #isWriteEnded = false;
  #dropsInput = false;
  #error: LeverError | MethodError | undefined;
  #hasEnded = false;
  /** Why there is no channel, while nobody has begun to open it again. */
  #waitsForReader: LeverError | undefined;
  /** Resolves when there is a channel again, or will never be one. */
  #resumed: { readonly promise: Promise<void>; readonly resolve: () => void } | undefined;
  #timer: TimerHandle | undefined;
  #wake: (() => void) | undefined;
  #onEnd: (() => void)[] = [];

  constructor(raw: RawChannel, options: ResumeOptions) {
    this.#options = options;
    this.#use(raw);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get isEnded(): boolean {
    return this.#hasEnded;
  }

  /** Called once, when the channel has ended for good. */
  whenEnded(callback: () => void): void {
    if (this.#hasEnded) callback();
    else this.#onEnd.push(callback);
  }

  // ---------------------------------------------------------------- one channel after the other

  #use(raw: RawChannel): void {
    this.#raw = raw;
    raw.whenEnded(() => {
      if (this.#raw === raw) this.#onRawEnd(raw);
    });
  }

  #onRawEnd(raw: RawChannel): void {
    if (this.#hasEnded) return;
    // One that moved and is not read any more has ended cleanly; what waits to be sent still has to arrive.
    const error = raw.error ?? (raw.isMoving && this.#queue.length > 0 ? moved() : undefined);
    if (error === undefined) return this.#end(undefined);
    if (!LeverError.is(error) || !resumableReasons.has(error.reason) || raw.isCancelledHere) return this.#end(error);
    // Both directions are closed: there is nothing to go on with.
    if (this.#isWriteEnded && this.#dropsInput && this.#queue.length === 0) return this.#end(undefined);
    const unread = raw.takeUnread();
    // What is missing before the first of them is known by now.
    if (unread.length > 0) this.#checkContinuity(raw);
    for (const message of unread) {
      this.#backlog.push(message);
      this.#backlogBytes += message.bytes.length;
    }
    // The last message may have gone to a reader who has not run since.
    if (raw.lastCursor !== undefined) {
      this.#hasReceived = true;
      this.#cursor = raw.lastCursor === "" ? undefined : raw.lastCursor;
    }
    this.#raw = undefined;
    this.#tell("resuming");
    if (this.#backlogBytes > backlogBytesMax) this.#waitsForReader = error;
    else void this.#resume(error);
  }

  async #resume(error: LeverError): Promise<void> {
    const { clock, random, resumeTimeoutMs } = this.#options;
    this.#waitsForReader = undefined;
    const startedAt = clock.now();
    const leftMs = () => startedAt + resumeTimeoutMs - clock.now();
    let last = error;
    for (let failures = 0; ; failures++) {
      let raw: RawChannel;
      try {
        raw = await this.#options.reopen(this.#cursor, Math.max(Math.ceil(leftMs()), 1), this.#opening.signal);
      } catch (thrown) {
        if (this.#hasEnded) return;
        last = LeverError.from(thrown);
        if (last.kind !== "network" || last.reason === "CANCELLED") return this.#end(last.withEffect("ran"));
        const pauseMs = Math.min(pauseMsMin * 2 ** Math.min(failures, 10), pauseMsMax) * (0.5 + random() / 2);
        if (pauseMs >= leftMs()) return this.#end(last.withEffect("ran"));
        await this.#sleep(pauseMs);
        if (this.#hasEnded) return;
        continue;
      }
      if (this.#hasEnded) return raw.cancel();
      return this.#continue(raw);
    }
  }

  #continue(raw: RawChannel): void {
    this.#isContinuityOpen = this.#hasReceived;
    this.#use(raw);
    this.#tell("open");
    const queue = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    for (const { item, cursor, resolve, reject } of queue) this.#sendOn(raw, item, cursor).then(resolve, reject);
    if (this.#dropsInput) raw.stopReading();
    if (this.#isWriteEnded) raw.closeWrite();
    const resumed = this.#resumed;
    this.#resumed = undefined;
    resumed?.resolve();
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
      this.#timer = this.#options.clock.setTimer(resolve, ms);
    });
  }

  /** Nothing follows any more. */
  #end(error: LeverError | MethodError | undefined): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#error = error;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    this.#wake?.();
    this.#opening.abort(error);
    const queue = this.#queue;
    this.#queue = [];
    for (const { reject } of queue) reject(error ?? closed());
    const resumed = this.#resumed;
    this.#resumed = undefined;
    resumed?.resolve();
    if (error !== undefined) this.#controller.abort(error);
    const onEnd = this.#onEnd;
    this.#onEnd = [];
    for (const callback of onEnd) callback();
    this.#tell("closed");
  }

  #tell(state: ChannelState): void {
    notify(this.onState, state);
  }

  // ---------------------------------------------------------------- sending

  send(item: Encoded, cursor?: string): Promise<void> {
    const raw = this.#raw;
    if (this.#hasEnded || this.#isWriteEnded) return Promise.reject(this.#error ?? closed());
    if (raw !== undefined && !raw.isMoving) return this.#sendOn(raw, item, cursor);
    if (this.#queuedBytes + item.bytes.length > sendQueueBytesMax && this.#queue.length > 0) {
      return Promise.reject(
        new LeverError(
          "OVERLOADED",
          `more than ${sendQueueBytesMax} bytes of messages wait for the channel to be opened again; await each send`,
          { effect: "ran" },
        ),
      );
    }
    this.#queuedBytes += item.bytes.length;
    return new Promise((resolve, reject) => {
      this.#queue.push({ item, cursor, resolve, reject });
    });
  }

  async #sendOn(raw: RawChannel, item: Encoded, cursor: string | undefined): Promise<void> {
    try {
      await raw.send(item, cursor);
    } catch (error) {
      // It was on its way when the channel ended: as lost, or not, as what had left before it.
      if (raw.error !== error || this.#error !== undefined || !isResumable(error)) throw error;
    }
  }

  trySend(item: Encoded, cursor?: string): boolean {
    const raw = this.#raw;
    return raw !== undefined && !this.#isWriteEnded && raw.trySend(item, cursor);
  }

  closeWrite(): void {
    this.#isWriteEnded = true;
    // One that moves has said its END, and opens again for what still waits.
    this.#raw?.closeWrite();
  }

  close(): void {
    this.closeWrite();
    this.stopReading();
    if (this.#raw === undefined && this.#queue.length === 0) this.#end(undefined);
  }

  stopReading(): void {
    this.#dropsInput = true;
    this.#backlog = [];
    this.#backlogBytes = 0;
    this.#raw?.stopReading();
    this.#onBacklogRead();
  }

  fail(item: Encoded): void {
    const raw = this.#raw;
    if (raw !== undefined && !raw.isMoving) return raw.fail(item);
    this.#cancelWith(new LeverError("CANCELLED", "this end has ended the channel with an error", { effect: "ran" }));
  }

  cancel(error: LeverError = new LeverError("CANCELLED", "the channel was cancelled", { effect: "ran" })): void {
    this.#backlog = [];
    this.#cancelWith(error);
  }

  #cancelWith(error: LeverError): void {
    this.#raw?.cancel(error);
    this.#end(error);
  }

  // ---------------------------------------------------------------- receiving

  async receive(): Promise<IteratorResult<ReceivedMessage, undefined>> {
    for (;;) {
      const message = this.#backlog.shift();
      if (message !== undefined) {
        this.#backlogBytes -= message.bytes.length;
        this.#onBacklogRead();
        return { done: false, value: message };
      }
      if (this.#dropsInput) return { done: true, value: undefined };
      const raw = this.#raw;
      if (raw === undefined) {
        if (this.#error !== undefined) throw this.#error;
        if (this.#hasEnded) return { done: true, value: undefined };
        this.#resumed ??= Promise.withResolvers<void>();
        await this.#resumed.promise;
        continue;
      }
      let next: IteratorResult<ReceivedMessage, undefined>;
      try {
        next = await raw.receive();
      } catch (error) {
        // The channel goes on with another one, or with what came in before.
        if (this.#raw !== raw) continue;
        throw error;
      }
      this.#checkContinuity(raw);
      return next;
    }
  }

  #onBacklogRead(): void {
    if (this.#waitsForReader !== undefined && this.#backlogBytes <= backlogBytesMax) {
      void this.#resume(this.#waitsForReader);
    }
  }

  #checkContinuity(raw: RawChannel): void {
    if (!this.#isContinuityOpen) return;
    this.#isContinuityOpen = false;
    if (raw.isContinued !== true) this.#tell("discontinuity");
  }
}

function isResumable(error: unknown): boolean {
  return LeverError.is(error) && resumableReasons.has(error.reason);
}

function closed(): LeverError {
  return new LeverError("CANCELLED", "the channel's own direction was ended before; nothing can be sent on it", {
    effect: "ran",
  });
}
