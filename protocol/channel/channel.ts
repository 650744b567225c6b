/**
 * A channel at one of its ends: messages in two independent directions, in order, each once.
 *
 * The same class serves the caller and the method. It owns what was received and not yet read (bounded by the window),
 * what is to be sent, and the one end of each direction. How it was opened is for `open-channel.ts` and the server.
 */

import { decodeFault, encodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import type { MethodError } from "../error/method-error.ts";
import { Flag, FrameType, framePayloadBytesMax } from "../frame/frame.ts";
import { keptPayload } from "../frame/kept-payload.ts";
import { Assembly, type AssemblyBudget, emptyItem } from "../invocation/assembly.ts";
import { errorValueBytesMax, messageBytesHardMax } from "../invocation/item-limits.ts";
import { errorOf } from "../invocation/outgoing-call.ts";
import { decodeReceived } from "../invocation/received-item.ts";
import { cursorBytesMax } from "../session/routing-header.ts";
import { flowCost, type Stream, type StreamHandler } from "../session/stream.ts";
import { copyBytes } from "../value/copy-bytes.ts";
import { type Encoded, encodeMessage, encodeResult } from "../value/form.ts";

/** A message as it came in. */
export interface ReceivedMessage extends Encoded {
  /** From where the method could go on behind it, if it said so. */
  readonly cursor?: string | undefined;
}

/** How a channel goes, as its caller's user may show it. */
export type ChannelState = "open" | "resuming" | "discontinuity" | "closed";

/** What a `Channel` stands on: one channel of a session, or one that is opened again when it ends. */
export interface ChannelPort {
  readonly signal: AbortSignal;
  readonly isEnded: boolean;
  onState: ((state: ChannelState) => void) | undefined;
  send(item: Encoded, cursor?: string): Promise<void>;
  trySend(item: Encoded, cursor?: string): boolean;
  closeWrite(): void;
  close(): void;
  stopReading(): void;
  fail(item: Encoded): void;
  cancel(error?: LeverError): void;
  receive(): Promise<IteratorResult<ReceivedMessage, undefined>>;
}

interface Waiter {
  readonly resolve: (result: IteratorResult<ReceivedMessage, undefined>) => void;
  readonly reject: (error: unknown) => void;
}

interface UnreadItem {
  readonly item: ReceivedMessage;
  readonly cost: number;
}

/** Bytes of `send`s that wait for credit; one more is refused. */
export const sendQueueBytesMax = messageBytesHardMax;

/**
 * A channel below its values: items in their encoded form. The gateway and the command line pass them on as they are.
 * The bytes of an item that is sent must not be changed any more.
 */
export class RawChannel implements StreamHandler, ChannelPort {
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
  #onEnd: (() => void)[] = [];
  #onSent: (() => void) | undefined;
  #hasEnded = false;
  #isCancelledHere = false;
  /** The method's side wants it opened again elsewhere, and it was not ending by itself. */
  #isMoving = false;
  /** Within a message, or behind its first fragment at least: what that said of a cursor. */
  #isWithinItem = false;
  #hasCursor = false;
  #isContinued: boolean | undefined;

  /** Of the message that came in last, read or not: undefined before the first, empty if it had no cursor. */
  lastCursor: string | undefined = undefined;

  /** At its caller: called with `closed` once it has ended. */
  onState: ((state: ChannelState) => void) | undefined = undefined;
  /** At a method that was opened again: whether it has taken the cursor. Asked when its first message or end leaves. */
  continues: (() => boolean) | undefined = undefined;

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

  /** At its caller: it was told to move, sends nothing any more, and reads what is still to come. */
  get isMoving(): boolean {
    return this.#isMoving;
  }

  /** At its caller: whether the method has taken the cursor of the opening; undefined before its first message or end. */
  get isContinued(): boolean | undefined {
    return this.#isContinued;
  }

  /** Called once, when both directions have ended; at once if they have. */
  whenEnded(callback: () => void): void {
    if (this.#hasEnded) callback();
    else this.#onEnd.push(callback);
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

  /** Sends one message; resolves when the window allows the next. A cursor has 1 to 255 bytes of UTF-8. */
  send(item: Encoded, cursor?: string): Promise<void> {
    try {
      this.#checkSend(item);
      if (this.#transmitMessage(item, cursor)) return Promise.resolve();
    } catch (error) {
      return Promise.reject(error);
    }
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
  trySend(item: Encoded, cursor?: string): boolean {
    if (this.#isWriteEnded || this.#error !== undefined) return false;
    this.#checkSend(item);
    const cursorBytes = cursor === undefined ? 0 : 1 + cursorBytesMax;
    if (!this.#stream.canSend(Math.min(item.bytes.length + cursorBytes, trySendCreditBytes))) return false;
    this.#transmitMessage(item, cursor);
    return true;
  }

  #checkSend(item: Encoded): void {
    if (this.#error !== undefined) throw this.#error;
    if (this.#isMoving) throw moved();
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
    const { continues } = this;
    if (continues === undefined) return this.#stream.send(type, flags, bytes);
    this.continues = undefined;
    return this.#stream.send(type, continues() ? flags | Flag.Continues : flags, bytes);
  }

  #transmitMessage(item: Encoded, cursor: string | undefined): boolean {
    const flags = formFlag(item);
    if (cursor === undefined) return this.#transmit(FrameType.Message, flags, item.bytes);
    const prefix = encodeCursor(cursor);
    const first = new Uint8Array(prefix.length + Math.min(item.bytes.length, framePayloadBytesMax / 2));
    first.set(prefix);
    first.set(item.bytes.subarray(0, first.length - prefix.length), prefix.length);
    const rest = item.bytes.subarray(first.length - prefix.length);
    if (rest.length === 0) return this.#transmit(FrameType.Message, flags | Flag.Cursor, first);
    this.#transmit(FrameType.Message, flags | Flag.Cursor | Flag.More, first);
    return this.#transmit(FrameType.Message, flags, rest);
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
  receive(): Promise<IteratorResult<ReceivedMessage, undefined>> {
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

  /** What was received and not read: at the end of a channel, for whoever goes on with another one. */
  takeUnread(): ReceivedMessage[] {
    const unread = this.#items.slice(this.#itemsAt).map(({ item }) => item);
    this.#items = [];
    this.#itemsAt = 0;
    return unread;
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

  #deliver(item: ReceivedMessage): void {
    const cost = this.#owed;
    this.#owed = 0;
    this.lastCursor = item.cursor ?? "";
    const reader = this.#readers.shift();
    if (reader === undefined) {
      this.#items.push({ item: { ...item, bytes: keptPayload(item.bytes) }, cost });
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
    if (type === FrameType.Move) return this.#onMove();
    if (type !== FrameType.Message && type !== FrameType.End) return;
    this.#isContinued ??= (flags & Flag.Continues) !== 0;
    if (!this.#isWithinItem) this.#hasCursor = type === FrameType.Message && (flags & Flag.Cursor) !== 0;
    this.#isWithinItem = (flags & Flag.More) !== 0;
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
      if (!this.#hasCursor) return this.#deliver({ bytes, form });
      const message = withoutCursor(bytes, form);
      return LeverError.is(message) ? this.cancel(message) : this.#deliver(message);
    }
    this.#giveBack();
    if ((flags & (Flag.Error | Flag.Fault)) !== 0) this.#break(errorOf(flags, bytes, form));
    else this.#onPeerEnd();
  }

  /** Ends the own direction behind what was sent: the method reads to that, ends too, and the rest of it is read here. */
  #onMove(): void {
    // A caller that has said all it had to say waits for the method's own end.
    if (this.#isWriteEnded || this.#error !== undefined) return;
    this.closeWrite();
    this.#isMoving = true;
  }

  #onPeerEnd(): void {
    // It has ended because it had to, and not because it was done.
    if (this.#isMoving && !this.#dropsInput) return this.#break(moved());
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
    this.#onEnd = [];
    for (const callback of onEnd) callback();
    notify(this.onState, "closed");
  }
}

/** What a listener throws is its own, and must not end the session whose frame it hears of. */
export function notify(listener: ((state: ChannelState) => void) | undefined, state: ChannelState): void {
  try {
    listener?.(state);
  } catch (error) {
    void Promise.reject(error);
  }
}

export function moved(): LeverError {
  return new LeverError(
    "MOVED",
    "the resource moves to another instance, and its channels have ended; open the channel again, or have that done by " +
      ".with({ resume: true })",
    { effect: "ran" },
  );
}

const cursorEncoder = new TextEncoder();
const cursorDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Throws INVALID_OPTION. */
function encodeCursor(cursor: unknown): Uint8Array {
  const isText = typeof cursor === "string" && cursor.isWellFormed() && cursor.length <= cursorBytesMax;
  const bytes = isText ? cursorEncoder.encode(cursor) : undefined;
  if (bytes === undefined || bytes.length === 0 || bytes.length > cursorBytesMax) {
    const found = typeof cursor === "string" ? `text of ${bytes?.length ?? cursor.length} bytes` : `a ${typeof cursor}`;
    throw new LeverError("INVALID_OPTION", `cursor is ${found}, expected 1 to ${cursorBytesMax} bytes of UTF-8`, {
      details: { field: "cursor" },
    });
  }
  const prefix = new Uint8Array(1 + bytes.length);
  prefix[0] = bytes.length;
  prefix.set(bytes, 1);
  return prefix;
}

function withoutCursor(bytes: Uint8Array, form: Encoded["form"]): ReceivedMessage | LeverError {
  const length = bytes[0] ?? 0;
  if (length > 0 && bytes.length > length) {
    try {
      return { bytes: bytes.subarray(1 + length), form, cursor: cursorDecoder.decode(bytes.subarray(1, 1 + length)) };
    } catch {
      // Not UTF-8.
    }
  }
  return new LeverError("PROTOCOL_VIOLATION", "a message's cursor is not 1 to 255 bytes of UTF-8", { effect: "ran" });
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

/** Of one message. */
export interface SendOptions {
  /** From where the method could go on behind this message: 1 to 255 bytes of UTF-8. */
  readonly cursor?: string;
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
  readonly #raw: ChannelPort;
  readonly #isOfMethod: boolean;

  constructor(raw: ChannelPort, side: "caller" | "method" = "caller") {
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
   * At the caller of a channel with `resume`, called at each change: `resuming` when it has ended and is opened again,
   * `open` when it is, `discontinuity` before the first message behind which some may be missing, `closed` at its end.
   * Without `resume` there is `closed` only.
   */
  get onstate(): ((state: ChannelState) => void) | undefined {
    return this.#raw.onState;
  }

  set onstate(listener: ((state: ChannelState) => void) | undefined) {
    this.#raw.onState = listener;
  }

  /**
   * Sends one message and resolves when the window allows the next: awaiting each `send` is back-pressure.
   * Rejects with the error that ended the channel, VALUE_NOT_ENCODABLE, or MESSAGE_TOO_LARGE. Bytes are copied: a
   * buffer may be filled anew as soon as this returns.
   *
   * A method may give a `cursor` (1 to 255 bytes): whoever received this message and has to open the channel again
   * brings it along, in `context().cursor`.
   */
  async send(message: Sends, options: SendOptions = {}): Promise<void> {
    return this.#raw.send(encodeOwned(message), this.#cursor(options));
  }

  /** Sends the message if it can leave now; false if the reader is too slow, or the channel has ended. */
  trySend(message: Sends, options: SendOptions = {}): boolean {
    return this.#raw.trySend(encodeOwned(message), this.#cursor(options));
  }

  #cursor({ cursor }: SendOptions): string | undefined {
    if (cursor === undefined || this.#isOfMethod) return cursor;
    throw new LeverError("INVALID_OPTION", "a cursor was given by a caller; only methods send messages with cursors", {
      details: { field: "cursor" },
    });
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
