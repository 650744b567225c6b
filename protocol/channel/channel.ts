/**
 * A channel at one of its ends: messages in two independent directions, in order, each once.
 *
 * The same class serves the caller and the method. It owns what was received and not yet read (bounded by the window),
 * what is to be sent, and the one end of each direction. How it was opened is for `open-channel.ts` and the server.
 */

import { decodeFault, encodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import type { MethodError } from "../error/method-error.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import { keptPayload } from "../frame/kept-payload.ts";
import { Assembly, type AssemblyBudget, emptyItem } from "../invocation/assembly.ts";
import { errorValueBytesMax, messageBytesHardMax } from "../invocation/item-limits.ts";
import { errorOf } from "../invocation/outgoing-call.ts";
import { decodeReceived } from "../invocation/received-item.ts";
import { flowCost, type Stream, type StreamHandler } from "../session/stream.ts";
import { copyBytes } from "../value/copy-bytes.ts";
import { type Encoded, encodeMessage, encodeResult } from "../value/form.ts";

interface Waiter {
  readonly resolve: (result: IteratorResult<Encoded, undefined>) => void;
  readonly reject: (error: unknown) => void;
}

interface UnreadItem {
  readonly item: Encoded;
  readonly cost: number;
}

/** Bytes of `send`s that wait for credit; one more is refused. */
const sendQueueBytesMax = messageBytesHardMax;

/**
 * A channel below its values: items in their encoded form. The gateway and the command line pass them on as they are.
 * The bytes of an item that is sent must not be changed any more.
 */
export class RawChannel implements StreamHandler {
  readonly #stream: Stream;
  readonly #assembly: Assembly;
  readonly #controller = new AbortController();

  /** Complete items that nobody has read yet, each with the stream's credit that its reading gives back. */
  #items: UnreadItem[] = [];
  #itemsAt = 0;
  /** The same of the frames of the item that is not complete. */
  #owed = 0;
  #readers: Waiter[] = [];

  #writers: { resolve: () => void; reject: (error: unknown) => void }[] = [];
  #queuedBytes = 0;

  #isWriteEnded = false;
  #isReadEnded = false;
  /** The peer's direction had ended, before the other one broke. */
  #isReadClean = false;
  #dropsInput = false;
  /** How the channel ended before both directions had ended cleanly. */
  #error: LeverError | MethodError | undefined;
  #onEnd: (() => void) | undefined;
  #onSent: (() => void) | undefined;
  #hasEnded = false;
  #isCancelledHere = false;

  constructor(stream: Stream, budget: AssemblyBudget) {
    this.#stream = stream;
    this.#assembly = new Assembly(budget);
  }

  /** Aborted when the channel has ended before its time: by the peer's error, a cancel, or the network. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Why the channel ended, if not cleanly. */
  get error(): LeverError | MethodError | undefined {
    return this.#error;
  }

  /** Both directions have ended, cleanly or not. */
  get isEnded(): boolean {
    return this.#hasEnded;
  }

  /** This end has ended it by `cancel`. */
  get isCancelledHere(): boolean {
    return this.#isCancelledHere;
  }

  get isWriteEnded(): boolean {
    return this.#isWriteEnded;
  }

  /** Called once, when both directions have ended; at once if they have. */
  whenEnded(callback: () => void): void {
    if (this.#hasEnded) callback();
    else this.#onEnd = callback;
  }

  /** Called once, when all that was sent has been handed to the transport, or never will be; at once if it has. */
  whenSent(callback: () => void): void {
    this.#onSent = callback;
    this.#checkSent();
  }

  #checkSent(): void {
    if (this.#onSent === undefined || this.#stream.hasQueue) return;
    const onSent = this.#onSent;
    this.#onSent = undefined;
    onSent();
  }

  // ---------------------------------------------------------------- sending

  /** Sends one message; resolves when the window allows the next. */
  send(item: Encoded): Promise<void> {
    try {
      this.#checkSend(item);
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.#transmit(FrameType.Message, formFlag(item), item.bytes)) return Promise.resolve();
    if (this.#queuedBytes + item.bytes.length > sendQueueBytesMax && this.#writers.length > 0) {
      // What was queued cannot be taken back, so this is refused by ending the channel's use, not silently dropped.
      const error = new LeverError(
        "OVERLOADED",
        `more than ${sendQueueBytesMax} bytes of messages wait to be sent; await each send before the next`,
        { effect: "ran" },
      );
      this.cancel(error);
      return Promise.reject(error);
    }
    this.#queuedBytes += item.bytes.length;
    return new Promise((resolve, reject) => {
      this.#writers.push({ resolve, reject });
    });
  }

  /** Sends the message if the window allows it now; false, and nothing is sent, if not, or if the channel has ended. */
  trySend(item: Encoded): boolean {
    if (this.#isWriteEnded || this.#error !== undefined) return false;
    this.#checkSend(item);
    if (!this.#stream.canSend(Math.min(item.bytes.length, trySendCreditBytes))) return false;
    this.#transmit(FrameType.Message, formFlag(item), item.bytes);
    return true;
  }

  #checkSend(item: Encoded): void {
    if (this.#error !== undefined) throw this.#error;
    if (this.#isWriteEnded) {
      throw new LeverError("CANCELLED", "the channel's own direction was ended before; nothing can be sent on it", {
        effect: "ran",
      });
    }
    if (item.bytes.length > messageBytesHardMax) {
      throw new LeverError(
        "MESSAGE_TOO_LARGE",
        `the message takes ${item.bytes.length} bytes, at most ${messageBytesHardMax} can be sent; split it`,
        { details: { limit: "messageBytes", bytes: item.bytes.length, bytesMax: messageBytesHardMax } },
      );
    }
  }

  #transmit(type: number, flags: number, bytes: Uint8Array): boolean {
    return this.#stream.send(type, flags, bytes);
  }

  /** Half-closes: the peer's reading ends cleanly after what was sent; this end goes on reading. */
  closeWrite(): void {
    if (this.#isWriteEnded || this.#error !== undefined) return;
    this.#isWriteEnded = true;
    this.#transmit(FrameType.End, 0, emptyItem);
    this.#checkEnded();
  }

  /** Half-closes and drops what still comes in. */
  close(): void {
    this.closeWrite();
    this.#dropInput();
  }

  /** Drops what still comes in; the own direction stays open. */
  stopReading(): void {
    this.#dropInput();
  }

  /** Gives the peer an error, after what was sent, and ends both directions. */
  fail(item: Encoded): void {
    if (this.#error !== undefined) return;
    if (item.bytes.length > errorValueBytesMax) {
      throw new LeverError(
        "RESULT_TOO_LARGE",
        `the error's value takes ${item.bytes.length} bytes, at most ${errorValueBytesMax} can be sent`,
      );
    }
    // This end's own reading stops short: that must not look like the peer's clean end.
    const error = new LeverError("CANCELLED", "this end has ended the channel with an error", { effect: "ran" });
    this.#endWith(Flag.Error | formFlag(item), item.bytes, error);
  }

  /** As `fail`, with an error that Lever raises. */
  failWith(error: LeverError): void {
    if (this.#error !== undefined) return;
    this.#endWith(Flag.Fault, encodeFault(error), error);
  }

  #endWith(flags: number, bytes: Uint8Array, error: LeverError): void {
    if (this.#hasEnded) return;
    // This direction has ended cleanly; only a reset can still tell the peer.
    if (this.#isWriteEnded) return this.cancel(error);
    this.#error = error;
    this.#isWriteEnded = true;
    this.#transmit(FrameType.End, flags, bytes);
    this.#isReadEnded = true;
    this.#dropInput();
    this.#checkEnded();
  }

  /** Ends both directions at once; what is under way in either is dropped. The peer sees a `CANCELLED` network error. */
  cancel(error: LeverError = new LeverError("CANCELLED", "the channel was cancelled", { effect: "ran" })): void {
    // After `fail` or two clean ends the last messages may still wait for a peer that does not read.
    if (this.#stream.isClosed) return;
    this.#isCancelledHere = true;
    if (!this.#hasEnded) this.#error = error;
    this.#stream.reset(encodeFault(error));
    this.#dropInput();
    this.#break(error);
  }

  // ---------------------------------------------------------------- receiving

  /**
   * The next item; done at the peer's clean end, also if the own direction breaks after it. Rejects with the error that
   * the channel ended with.
   */
  receive(): Promise<IteratorResult<Encoded, undefined>> {
    const item = this.#items[this.#itemsAt];
    if (item !== undefined) {
      this.#itemsAt++;
      if (this.#itemsAt === this.#items.length) {
        this.#items = [];
        this.#itemsAt = 0;
      } else if (this.#itemsAt > 256 && this.#itemsAt * 2 > this.#items.length) {
        this.#items.splice(0, this.#itemsAt);
        this.#itemsAt = 0;
      }
      this.#stream.consumeOfStream(item.cost);
      if (this.#items.length === 0) this.#giveBack();
      return Promise.resolve({ done: false, value: item.item });
    }
    if (this.#error !== undefined && !this.#isReadClean) return Promise.reject(this.#error);
    if (this.#isReadEnded || this.#dropsInput) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => {
      this.#readers.push({ resolve, reject });
    });
  }

  #dropInput(): void {
    this.#dropsInput = true;
    for (let i = this.#itemsAt; i < this.#items.length; i++) this.#owed += (this.#items[i] as UnreadItem).cost;
    this.#items = [];
    this.#itemsAt = 0;
    this.#assembly.drop();
    this.#giveBack();
    this.#settleReaders();
  }

  /** There is nothing more to read: the end is clean unless there is an error. */
  #settleReaders(): void {
    const readers = this.#readers;
    this.#readers = [];
    for (const reader of readers) {
      if (this.#error !== undefined) reader.reject(this.#error);
      else reader.resolve({ done: true, value: undefined });
    }
  }

  #deliver(item: Encoded): void {
    const cost = this.#owed;
    this.#owed = 0;
    const reader = this.#readers.shift();
    if (reader === undefined) {
      this.#items.push({ item: { bytes: keptPayload(item.bytes), form: item.form }, cost });
    } else {
      this.#stream.consumeOfStream(cost);
      reader.resolve({ done: false, value: item });
    }
  }

  #giveBack(): void {
    const cost = this.#owed;
    this.#owed = 0;
    this.#stream.consumeOfStream(cost);
  }

  // ---------------------------------------------------------------- the stream

  onFrame(_stream: Stream, type: number, flags: number, payload: Uint8Array): void {
    if (type === FrameType.Reset) return this.#break(fromReset(payload));
    if (type !== FrameType.Message && type !== FrameType.End) return;
    const cost = flowCost(payload);
    this.#owed += cost;
    // Not of the stream: a reader that stalls stops its own writer only.
    this.#stream.consumeOfSession(cost);
    if (this.#dropsInput && type === FrameType.Message) return this.#giveBack();
    if ((flags & Flag.More) !== 0) {
      const bytesMax = type === FrameType.Message ? messageBytesHardMax : errorValueBytesMax;
      if (this.#assembly.bytes + payload.length > bytesMax) {
        return this.cancel(
          new LeverError("MESSAGE_TOO_LARGE", `a message is larger than ${bytesMax} bytes, the most that is taken`),
        );
      }
      if (!this.#assembly.add(payload)) {
        return this.cancel(
          new LeverError("OVERLOADED", "too many large messages are being received at once", { effect: "ran" }),
        );
      }
      // An item may be larger than the window. While others lie unread before it, it has to wait.
      if (this.#items.length === 0) this.#giveBack();
      return;
    }
    const bytes = this.#assembly.finish(payload);
    const form = (flags & Flag.Bytes) !== 0 ? "bytes" : "value";
    if (type === FrameType.Message) {
      return this.#deliver({ bytes, form });
    }
    this.#giveBack();
    if ((flags & (Flag.Error | Flag.Fault)) !== 0) this.#break(errorOf(flags, bytes, form));
    else this.#onPeerEnd();
  }

  #onPeerEnd(): void {
    this.#isReadEnded = true;
    this.#settleReaders();
    this.#checkEnded();
  }

  onWritable(): void {
    this.#checkSent();
    this.#queuedBytes = 0;
    const writers = this.#writers;
    if (writers.length === 0) return;
    this.#writers = [];
    for (const writer of writers) writer.resolve();
  }

  onLost(_stream: Stream, error: LeverError): void {
    this.#break(error.effect === "ran" ? error : error.withEffect("ran"));
  }

  /** Nothing moves in either direction any more. */
  #break(error: LeverError | MethodError): void {
    // After `fail` the channel has ended for this end, while its last messages may still wait for credit.
    const hadEnded = this.#hasEnded;
    if (this.#isReadEnded && this.#error === undefined) this.#isReadClean = true;
    if (!hadEnded) this.#error ??= error;
    this.#isReadEnded = true;
    this.#isWriteEnded = true;
    this.#assembly.drop();
    this.#settleReaders();
    const writers = this.#writers;
    this.#writers = [];
    for (const writer of writers) writer.reject(this.#error ?? error);
    this.#checkSent();
    if (hadEnded) return;
    this.#checkEnded();
    this.#controller.abort(this.#error);
  }

  #checkEnded(): void {
    if (this.#hasEnded || !this.#isReadEnded || !this.#isWriteEnded) return;
    this.#hasEnded = true;
    const onEnd = this.#onEnd;
    this.#onEnd = undefined;
    onEnd?.();
  }
}

/** A large message goes out in fragments as credit comes in; `trySend` asks for the first of them only. */
const trySendCreditBytes = 16 * 1024;

function formFlag(item: Encoded): number {
  return item.form === "bytes" ? Flag.Bytes : 0;
}

function fromReset(payload: Uint8Array): LeverError {
  const error = decodeFault(payload);
  return error.effect === "ran" ? error : error.withEffect("ran");
}

/**
 * A channel as methods and callers use it. `Receives` and `Sends` are the messages in the two directions: JSON values,
 * or `Uint8Array`s.
 *
 * Reading: `for await (const message of channel)`; it ends at the peer's clean end, throws at an error (what the peer
 * passed to `fail`, or the network's). A caller that leaves it early cancels the channel. A method that does only stops
 * reading: how the method itself ends, by returning or by throwing, is what its caller gets.
 */
export class Channel<Receives = unknown, Sends = unknown> implements AsyncIterable<Receives>, AsyncDisposable {
  readonly #raw: RawChannel;
  readonly #isOfMethod: boolean;

  constructor(raw: RawChannel, side: "caller" | "method" = "caller") {
    this.#raw = raw;
    this.#isOfMethod = side === "method";
  }

  /** Aborted when the channel ends before its time; `signal.reason` is the error. */
  get signal(): AbortSignal {
    return this.#raw.signal;
  }

  /** Both directions have ended. */
  get isEnded(): boolean {
    return this.#raw.isEnded;
  }

  /**
   * Sends one message and resolves when the window allows the next: awaiting each `send` is back-pressure.
   * Rejects with the error that ended the channel, VALUE_NOT_ENCODABLE, or MESSAGE_TOO_LARGE. Bytes are copied: a
   * buffer may be filled anew as soon as this returns.
   */
  async send(message: Sends): Promise<void> {
    return this.#raw.send(encodeOwned(message));
  }

  /** Sends the message if it can leave now; false if the reader is too slow, or the channel has ended. */
  trySend(message: Sends): boolean {
    return this.#raw.trySend(encodeOwned(message));
  }

  /** Ends the own direction: the peer's loop ends after the last message; this end may go on reading. */
  closeWrite(): void {
    this.#raw.closeWrite();
  }

  /** Ends the own direction and drops what still comes in. */
  close(): void {
    this.#raw.close();
  }

  /** Ends both directions with an error: the peer's loop throws a MethodError with this value. */
  fail(value: unknown): void {
    this.#raw.fail(encodeResult(value, "error"));
  }

  /** Ends both directions at once, dropping what is under way. */
  cancel(): void {
    this.#raw.cancel();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Receives, void, undefined> {
    let isFinished = false;
    try {
      for (;;) {
        const next = await this.#raw.receive();
        if (next.done === true) break;
        yield decodeReceived(next.value) as Receives;
      }
      isFinished = true;
    } catch (error) {
      isFinished = true;
      throw error;
    } finally {
      if (!isFinished) this.#leaveEarly();
    }
  }

  #leaveEarly(): void {
    if (this.#isOfMethod) this.#raw.stopReading();
    else this.cancel();
  }

  /** The next message, or undefined at the peer's clean end. Rejects as the loop throws. */
  async receive(): Promise<Receives | undefined> {
    const next = await this.#raw.receive();
    return next.done === true ? undefined : (decodeReceived(next.value) as Receives);
  }

  /** `await using channel`: closes what is still open. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

/** What is sent lies in queues long after `send` has resolved, so that it cannot be the sender's own memory. */
function encodeOwned(message: unknown): Encoded {
  const item = encodeMessage(message, "message");
  return item.form === "bytes" ? { bytes: copyBytes(item.bytes), form: "bytes" } : item;
}
