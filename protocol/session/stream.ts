/**
 * One stream of a session: a call or a channel. It keeps the order of frames and the credit of both directions; what
 * the frames mean to an application is for `invocation/` and `channel/`, and for a relay.
 *
 * A call: OPEN … then one REPLY …, REFUSE or RESET. A channel: OPEN …, then ACCEPT or REFUSE, then MESSAGE … in both
 * directions until END in both, or END with an error, or RESET.
 */

import type { LeverError } from "../error/lever-error.ts";
import { Flag, FrameType, frameOverheadBytes, framePayloadBytesMax } from "../frame/frame.ts";
import { keptPayload } from "../frame/kept-payload.ts";
import type { Gate } from "./gate.ts";
import type { Session } from "./session.ts";

/** Who deals with a stream's frames. Callbacks never throw. */
export interface StreamHandler {
  /**
   * A frame after the first OPEN: a further fragment of OPEN, or ACCEPT, REFUSE, REPLY, MESSAGE, END, RESET, MOVE.
   * The rules of the stream have been checked. Flow-controlled frames must be given back by `stream.consume`.
   */
  onFrame(stream: Stream, type: number, flags: number, payload: Uint8Array): void;
  /** What was queued has left, the stream's last frame perhaps, or there is credit again. */
  onWritable(stream: Stream): void;
  /**
   * The session ended, the peer's GOAWAY excluded the stream, or its gate shut, before its own end. The last callback.
   * The error's effect is `none` only if the far side cannot have seen the stream, or says that it has not taken it.
   */
  onLost(stream: Stream, error: LeverError): void;
}

interface QueuedFrame {
  readonly type: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  /** The stream that gets `sourceCost` back when the frame has left. */
  readonly source: Stream | undefined;
  readonly sourceCost: number;
}

/** A direction: what has been sent or received of it. */
export const Phase = {
  /** Fragments of OPEN are still to come. */
  Opening: 0,
  /** A channel waits for ACCEPT; a call for its REPLY. */
  Waiting: 1,
  /** A channel's messages flow. */
  Flowing: 2,
  /** Within an item of several fragments, REPLY or END: only more of it may follow. */
  Closing: 3,
  Done: 4,
} as const;

export class Stream {
  readonly session: Session;
  readonly id: number;
  readonly isChannel: boolean;
  /** Opened by this end. */
  readonly isLocal: boolean;
  handler: StreamHandler;
  /** For whoever handles the stream. */
  readonly openFlags: number;

  /** Credit left for sending. */
  sendWindow: number;
  /** Credit that the peer has left. */
  receiveWindow: number;
  /** Cost received and not given back to the session. */
  unconsumed = 0;
  /** Cost consumed and not granted anew. */
  ungranted = 0;

  outPhase: number = Phase.Opening;
  inPhase: number = Phase.Opening;
  /** Within a MESSAGE of several fragments. */
  inMessage = false;
  /** Its first frame was handed over: what happens from here on, the far side may have seen the call. */
  hasLeft = false;
  /** The stream has left the session's table: nothing is sent or received any more. */
  isClosed = false;
  /** Opened by the peer, and the local side has not finished with it (`release`). */
  isHeld = false;
  /** Stands in the session's list of streams with frames to send. */
  isReady = false;

  /** Asked before each flow-controlled frame and ACCEPT leaves. */
  gate: Gate | undefined;

  #queue: QueuedFrame[] = [];
  #queueAt = 0;

  constructor(session: Session, id: number, openFlags: number, isLocal: boolean, handler: StreamHandler) {
    this.session = session;
    this.id = id;
    this.openFlags = openFlags;
    this.isChannel = (openFlags & Flag.Channel) !== 0;
    this.isLocal = isLocal;
    this.handler = handler;
    this.sendWindow = session.peerStreamWindowBytes;
    this.receiveWindow = session.limits.streamWindowBytes;
  }

  /** Frames wait for credit or for the transport. */
  get hasQueue(): boolean {
    return this.#queueAt < this.#queue.length;
  }

  /**
   * Sends a flow-controlled frame, or queues it behind what waits for credit; true if it left at once.
   * A payload above the frame's maximum goes out in fragments. When it has left, `source` gets `sourceCost` back:
   * that is how a relay passes back-pressure on.
   * The payload must stay unchanged until the frame has left.
   */
  send(type: number, flags: number, payload: Uint8Array, source?: Stream, sourceCost = 0): boolean {
    if (this.isClosed) {
      source?.consume(sourceCost);
      return true;
    }
    if (payload.length > framePayloadBytesMax) return this.#sendFragments(type, flags, payload, source, sourceCost);
    if (!this.hasQueue && this.session.maySendAtOnce(this, flowCost(payload))) {
      this.session.transmit(this, type, flags, payload);
      source?.consume(sourceCost);
      return true;
    }
    // What came in from elsewhere is a view of a chunk, which must not be kept for a few of its bytes.
    this.#queue.push({
      type,
      flags,
      payload: source === undefined ? payload : keptPayload(payload),
      source,
      sourceCost,
    });
    if (isAnswer(type)) this.session.queuedAnswerBytes += payload.length;
    this.session.markReady(this);
    return false;
  }

  /** A frame with this much payload would leave at once. */
  canSend(payloadBytes: number): boolean {
    return !this.isClosed && !this.hasQueue && this.session.maySendAtOnce(this, payloadBytes + frameOverheadBytes);
  }

  #sendFragments(
    type: number,
    flags: number,
    payload: Uint8Array,
    source: Stream | undefined,
    sourceCost: number,
  ): boolean {
    // Half of the maximum: streams take turns by frame, and a small frame waits for one large one.
    const step = framePayloadBytesMax / 2;
    let sent = true;
    for (let at = 0; at < payload.length; at += step) {
      const end = Math.min(at + step, payload.length);
      const isLast = end === payload.length;
      const fragmentFlags = isLast ? flags : flags | Flag.More;
      const fragment = payload.subarray(at, end);
      sent = isLast
        ? this.send(type, fragmentFlags, fragment, source, sourceCost)
        : this.send(type, fragmentFlags, fragment);
    }
    return sent;
  }

  /** ACCEPT: the method of a channel has been entered. `payload` as `docs/protocol.md` says. */
  accept(payload: Uint8Array): void {
    this.session.sendStreamControl(this, FrameType.Accept, payload);
  }

  /** REFUSE: the method has not run. Ends the stream. */
  refuse(fault: Uint8Array): void {
    this.session.sendStreamControl(this, FrameType.Refuse, fault);
  }

  /** MOVE: tells the channel's caller to end its direction, to read to this end's, and to open the channel again. */
  move(): void {
    this.session.sendMove(this);
  }

  /** RESET: ends both directions at once; what is queued is dropped. */
  reset(fault: Uint8Array): void {
    this.session.sendStreamControl(this, FrameType.Reset, fault);
  }

  /** Gives the peer credit back for received frames: `flowCost` of each. */
  consume(cost: number): void {
    this.consumeOfSession(cost);
    this.consumeOfStream(cost);
  }

  /**
   * The session's half of `consume`, for who keeps frames for a reader and gives the stream's half back as they are
   * read: then the stream's window alone bounds what is kept, and a reader that stalls holds up no other stream.
   */
  consumeOfSession(cost: number): void {
    // When a stream closes the session gets back what is left.
    if (cost === 0 || this.isClosed) return;
    this.unconsumed -= cost;
    this.session.returnCredit(cost);
  }

  /** The stream's half of `consume`. */
  consumeOfStream(cost: number): void {
    if (cost > 0 && !this.isClosed) this.session.returnStreamCredit(this, cost);
  }

  /**
   * The local side is done with a stream that the peer opened: its method has returned. The stream counts against
   * `streamsMax` until then, whatever the peer does (a flood of OPEN and RESET starts no more methods than that), and
   * until it has closed (answers that the peer does not take are as many).
   */
  release(): void {
    this.session.released(this);
  }

  /** Sends the next queued frame; called by the session in turns, when there is credit for it. */
  sendQueued(): void {
    const queue = this.#queue;
    const next = queue[this.#queueAt] as QueuedFrame;
    this.#queueAt++;
    if (this.#queueAt === queue.length) {
      this.#queue = [];
      this.#queueAt = 0;
    } else if (this.#queueAt > 64 && this.#queueAt * 2 > queue.length) {
      queue.splice(0, this.#queueAt);
      this.#queueAt = 0;
    }
    if (isAnswer(next.type)) this.session.queuedAnswerBytes -= next.payload.length;
    this.session.transmit(this, next.type, next.flags, next.payload);
    next.source?.consume(next.sourceCost);
  }

  /** The cost of the next queued frame; 0 without one. */
  get queuedCost(): number {
    const next = this.#queue[this.#queueAt];
    return next === undefined ? 0 : flowCost(next.payload);
  }

  /** Drops what is queued, giving its credit back to its sources. */
  dropQueue(): void {
    const queue = this.#queue;
    const from = this.#queueAt;
    this.#queue = [];
    this.#queueAt = 0;
    for (let i = from; i < queue.length; i++) {
      const frame = queue[i] as QueuedFrame;
      if (isAnswer(frame.type)) this.session.queuedAnswerBytes -= frame.payload.length;
      frame.source?.consume(frame.sourceCost);
    }
  }
}

/** What is queued though nobody waits for it to leave: a method has returned. */
function isAnswer(type: number): boolean {
  return type === FrameType.Reply || type === FrameType.End;
}

/** What a flow-controlled frame costs of a window. */
export function flowCost(payload: Uint8Array): number {
  return payload.length + frameOverheadBytes;
}
