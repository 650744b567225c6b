/**
 * A session: one transport, many streams, the same rules at both ends.
 *
 * It owns the framing, HELLO, the numbers of targets, credit in both directions, the turns that streams take, liveness
 * (PING), the end (GOAWAY) and every limit on what a peer may make this end hold. A peer that breaks a rule loses the
 * session with a typed error. It leaves to its streams' handlers what calls and channels mean.
 *
 * Invariant: bytes held for a peer are bounded by the windows that this end offered, and bytes held towards a peer by
 * the credit that others got for them, `writeHighWaterBytes` and `controlBacklogBytesMax`.
 */

import type { Clock, TimerHandle } from "../clock/clock.ts";
import { decodeFault, encodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import { FrameDecoder } from "../frame/decode.ts";
import { FrameEncoder } from "../frame/encode.ts";
import {
  Flag,
  FrameType,
  framePayloadBytesMax,
  frameTypeName,
  isFlowControlled,
  optionalFrameBit,
} from "../frame/frame.ts";
import { Target } from "../target/target.ts";
import type { Transport } from "../transport/transport.ts";
import type { Gate } from "./gate.ts";
import { checkProven, decodeHello, encodeHello, type Hello, type Identity } from "./hello.ts";
import {
  controlBacklogBytesMax,
  headerFieldsBytesMax,
  pingsPerSecondMax,
  queuedAnswerBytesMax,
  type SessionLimits,
  sessionWindowBytesMin,
  streamsMaxMin,
  streamWindowBytesMin,
  targetBytesMax,
  windowBytesMax,
  writeHighWaterBytes,
} from "./limits.ts";
import { encodeFields, FieldKey, routingFixedBytes, withField } from "./routing-header.ts";
import { flowCost, Phase, Stream, type StreamHandler } from "./stream.ts";

/** The first OPEN of a stream, as it came in. One object per session, reused: read it before the callback returns. */
export interface OpenFrame {
  target: Target;
  flags: number;
  /** Time left, in ms; 0: none was set. */
  timeoutMs: number;
  /** The whole payload of the frame: fixed part, fields, first fragment. */
  frame: Uint8Array;
  /** Where the fields end and the fragment of the arguments begins in `frame`. */
  payloadAt: number;
}

/** Who uses the session. Callbacks never throw. */
export interface SessionHandler {
  /** The peer's HELLO is there. */
  onHello?(hello: Hello): void;
  /** The peer opens a stream: the handler sets `stream.handler`, or refuses. Without it every stream is refused. */
  onOpen?(stream: Stream, open: OpenFrame): void;
  /** REGISTER, on an app's link only. */
  onRegister?(payload: Uint8Array): void;
  /** The peer takes no more streams; `error` says why. Those it has taken go on. */
  onGoAway?(error: LeverError): void;
  /** The session is over; called once, after every stream's `onLost`. */
  onClose?(error: LeverError): void;
}

export interface SessionOptions {
  readonly transport: Transport;
  readonly clock: Clock;
  /** The dialer's streams have odd numbers, the acceptor's even ones. */
  readonly side: "dialer" | "acceptor";
  readonly identity: Identity;
  readonly limits: SessionLimits;
  readonly handler: SessionHandler;
  /** The last number that a stream may get; for tests of what happens then. */
  readonly streamIdMax?: number;
}

/** Counts for metrics. */
export interface SessionCounters {
  bytesIn: number;
  bytesOut: number;
  writes: number;
}

const lostHandler: StreamHandler = { onFrame() {}, onWritable() {}, onLost() {} };
const none = new Uint8Array(0);
/** The first byte of a PING that somebody waits for; 0 in those that only keep the session alive. */
const roundTripMark = 1;
/** An END with one of these ends both directions. */
const failed = Flag.Error | Flag.Fault;
/** A WINDOW for less is not worth its bytes. */
const sessionGrantBytesMin = 4096;

export class Session {
  readonly limits: SessionLimits;
  readonly counters: SessionCounters = { bytesIn: 0, bytesOut: 0, writes: 0 };
  /** The peer's HELLO, once it is there. */
  hello: Hello | undefined;
  peerStreamWindowBytes = streamWindowBytesMin;
  /** For whoever owns the session. */
  owner: unknown = undefined;

  readonly #clock: Clock;
  readonly #transport: Transport;
  readonly #handler: SessionHandler;
  readonly #decoder: FrameDecoder;
  readonly #encoder = new FrameEncoder();
  readonly #isDialer: boolean;
  readonly #streamIdMax: number;

  readonly #streams = new Map<number, Stream>();
  #nextId: number;
  #lastPeerId = 0;
  /** What the first GOAWAY from here said. */
  #lastTakenId: number | undefined;
  #localOpen = 0;
  /** The peer's streams that are open, or whose method still runs. */
  #peerStreams = 0;
  /** Bytes of replies and ends that wait for the peer's credit; `Stream` counts them. */
  queuedAnswerBytes = 0;
  #hasRegistered = false;

  #sendWindow = sessionWindowBytesMin;
  #peerSessionWindow = sessionWindowBytesMin;
  #peerStreamsMax = streamsMaxMin;
  #peerTargetsMax = 0;
  #receiveWindow: number;
  #ungranted = 0;

  readonly #peerTargets: (Target | undefined)[] = [];
  readonly #localTargets = new Map<string, number>();

  /** Streams with frames to send, in turns; calls apart from channels, whose credit is not the same. */
  readonly #readyCalls = new ReadyList();
  readonly #readyChannels = new ReadyList();
  /** The gates that let pass what lies in the next write. */
  readonly #passed = new Set<Gate>();
  #isSaturated = false;
  #isFlushScheduled = false;
  #isPumping = false;
  #isPumpScheduled = false;

  #timer: TimerHandle | undefined;
  /** Ends the session when its grace after GOAWAY is over, and the transport when the peer does not. */
  #endTimer: TimerHandle | undefined;
  /** Silence so far, in the ticks of the own timer, and the tick that is under way. */
  #silentMs = 0;
  #tickMs = 0;
  #hasReceived = false;
  #pingsThisSecond = 0;
  #pingSecondStartedAt: number;
  readonly #startedAt: number;

  /** Who waits for the answer to a PING, in order. */
  #roundTrips: { resolve: () => void; reject: (error: unknown) => void }[] = [];
  #closedWith: LeverError | undefined;

  #isGoingAway = false;
  /** Why the peer goes away; undefined while it does not. */
  #peerGoAway: LeverError | undefined;
  #isClosed = false;
  #isTransportClosed = false;

  readonly #open: OpenFrame = {
    target: new Target("", "none", "none"),
    flags: 0,
    timeoutMs: 0,
    frame: none,
    payloadAt: 0,
  };
  readonly #flush = () => this.#flushNow();

  constructor(options: SessionOptions) {
    this.limits = options.limits;
    this.#clock = options.clock;
    this.#transport = options.transport;
    this.#handler = options.handler;
    this.#isDialer = options.side === "dialer";
    this.#nextId = this.#isDialer ? 1 : 2;
    this.#streamIdMax = options.streamIdMax ?? 0xffffffff;
    this.#receiveWindow = options.limits.sessionWindowBytes;
    this.#startedAt = this.#clock.now();
    this.#pingSecondStartedAt = this.#startedAt;
    this.#decoder = new FrameDecoder((type, flags, streamId, payload) => this.#onFrame(type, flags, streamId, payload));
    this.#control(FrameType.Hello, 0, 0, encodeHello(options.identity, options.limits));
    this.#transport.start({
      onData: (chunk) => this.#onData(chunk),
      onDrain: () => this.#onDrain(),
      onClose: (error) => this.#onTransportClose(error),
    });
    if (!this.#isClosed) this.#armTimer();
  }

  get peerName(): string {
    return this.#transport.peerName;
  }

  /** Who the peer is, where the transport has a proof of it: HELLO says the same then. */
  get provenIdentity(): Identity | undefined {
    return this.#transport.provenPeer?.identity;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /**
   * A stream can be opened. When not, whoever owns the session dials a new one. An end that goes away takes no streams
   * any more, but its running methods may still open some.
   */
  get isAvailable(): boolean {
    return !this.#isClosed && this.#peerGoAway === undefined && this.#nextId <= this.#streamIdMax;
  }

  get isPeerGoingAway(): boolean {
    return this.#peerGoAway !== undefined;
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  /**
   * Credit of the session, in bytes of cost: what this end may send, what the peer may send, and what is read but not
   * granted anew. With nothing under way the last two add up to the window.
   */
  get credit(): { readonly send: number; readonly receive: number; readonly ungranted: number } {
    return { send: this.#sendWindow, receive: this.#receiveWindow, ungranted: this.#ungranted };
  }

  // ---------------------------------------------------------------- opening

  /**
   * Opens a stream with arguments from this end. `payload` is the whole encoded args; it goes out in fragments.
   * Throws OVERLOADED above the peer's number of streams, HEADER_TOO_LARGE, CONNECTION_LOST if the session is over:
   * all with effect none.
   */
  open(
    target: Target,
    flags: number,
    timeoutMs: number,
    fields: Uint8Array,
    payload: Uint8Array,
    handler: StreamHandler,
    gate?: Gate,
  ): Stream {
    const fieldsEnd = routingFixedBytes + fields.length;
    const room = framePayloadBytesMax / 2;
    const firstBytes = Math.min(payload.length, Math.max(room - fields.length, 0));
    const frame = new Uint8Array(fieldsEnd + firstBytes);
    writeTimeout(frame, timeoutMs);
    frame[6] = fields.length >>> 8;
    frame[7] = fields.length;
    if (fields.length > 0) frame.set(fields, routingFixedBytes);
    if (firstBytes === payload.length) {
      frame.set(payload, fieldsEnd);
      return this.openFrame(target, flags, frame, handler, undefined, 0, gate);
    }
    frame.set(payload.subarray(0, firstBytes), fieldsEnd);
    const stream = this.openFrame(target, flags | Flag.More, frame, handler, undefined, 0, gate);
    stream.send(FrameType.Open, flags, payload.subarray(firstBytes));
    return stream;
  }

  /**
   * Opens a stream with a first OPEN frame as it came in elsewhere: fixed part, fields, first fragment. The target's
   * number is written into it; the caller has written the time left (`writeTimeout`). `source` as in `Stream.send`,
   * `gate` as of `Stream`.
   */
  openFrame(
    target: Target,
    flags: number,
    frame: Uint8Array,
    handler: StreamHandler,
    source?: Stream,
    sourceCost = 0,
    gate?: Gate,
  ): Stream {
    if (!this.isAvailable) {
      throw new LeverError("CONNECTION_LOST", `the session with ${this.peerName} takes no more streams`, {
        effect: "none",
      });
    }
    if (this.#localOpen >= this.#peerStreamsMax) {
      throw new LeverError(
        "OVERLOADED",
        `${this.#peerStreamsMax} calls and channels to ${this.peerName} are open, the most that it takes; ` +
          "wait for some to end",
        { effect: "none", details: { limit: "streamsMax", streamsMax: this.#peerStreamsMax } },
      );
    }
    const number = this.#numberOf(target);
    let first = frame;
    if (number === 0) first = withField(frame, FieldKey.Target, encodeFields({ target: target.text }));
    first[0] = number >>> 8;
    first[1] = number;
    const stream = new Stream(this, this.#nextId, flags & ~Flag.More, true, handler);
    stream.gate = gate;
    this.#nextId += 2;
    this.#localOpen++;
    this.#streams.set(stream.id, stream);
    if (first.length <= framePayloadBytesMax) stream.send(FrameType.Open, flags, first, source, sourceCost);
    else {
      // Only when a relay's or an inline field made the frame too long: the fixed part and the fields stay in front.
      stream.send(FrameType.Open, flags | Flag.More, first.subarray(0, framePayloadBytesMax));
      stream.send(FrameType.Open, flags, first.subarray(framePayloadBytesMax), source, sourceCost);
    }
    return stream;
  }

  /** REGISTER: what the app serves. At most one frame. */
  register(payload: Uint8Array): void {
    if (payload.length > framePayloadBytesMax) {
      throw new LeverError(
        "INVALID_OPTION",
        `the registration takes ${payload.length} bytes, at most ${framePayloadBytesMax} are allowed; serve fewer methods`,
      );
    }
    this.#control(FrameType.Register, 0, 0, payload);
  }

  /** Resolves when the peer has handled all frames sent before: it has answered a PING behind them. */
  roundTrip(): Promise<void> {
    if (this.#isClosed) return Promise.reject(this.#closedWith);
    return new Promise((resolve, reject) => {
      this.#roundTrips.push({ resolve, reject });
      const payload = new Uint8Array(8);
      payload[0] = roundTripMark;
      this.#control(FrameType.Ping, 0, 0, payload);
    });
  }

  // ---------------------------------------------------------------- the end

  /**
   * Takes no more streams from the peer; those that are there go on, and when the last has ended, the session ends.
   * The peer learns `error` and which of its streams were taken. Methods that still run may open streams meanwhile.
   */
  goAway(error: LeverError): void {
    if (this.#isClosed || this.#isGoingAway) return;
    this.#isGoingAway = true;
    this.#sendGoAway(error);
    if (this.#streams.size === 0) this.#finish(error);
    else {
      this.#endTimer = this.#clock.setTimer(() => this.#finish(error), this.limits.goAwayGraceMs);
    }
  }

  /** Ends the session now. The peer learns `error`; open streams are lost. */
  close(error: LeverError): void {
    if (this.#isClosed) return;
    this.#sendGoAway(error);
    this.#finish(error);
  }

  /** Ends the session at once, without a word to the peer. */
  destroy(error: LeverError): void {
    this.#over(error);
    this.#transport.destroy();
  }

  #sendGoAway(error: LeverError): void {
    const fault = encodeFault(error);
    const payload = new Uint8Array(4 + fault.length);
    // What a first GOAWAY excluded stays excluded: those streams were dropped.
    this.#lastTakenId ??= this.#lastPeerId;
    writeU32(payload, 0, this.#lastTakenId);
    payload.set(fault, 4);
    this.#control(FrameType.GoAway, 0, 0, payload);
  }

  #finish(error: LeverError): void {
    if (this.#isClosed) return;
    this.#flushNow();
    this.#over(error);
    this.#transport.end();
    // A peer that does not close its side does not hold this one.
    if (!this.#isTransportClosed) this.#endTimer = this.#clock.setTimer(() => this.#transport.destroy(), 1000);
  }

  #over(error: LeverError): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#closedWith = error;
    this.#decoder.stop();
    for (const waiter of this.#roundTrips) waiter.reject(error);
    this.#roundTrips = [];
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    if (this.#endTimer !== undefined) this.#clock.clearTimer(this.#endTimer);
    this.#endTimer = undefined;
    // Whatever ended the session says nothing about a stream's method: only an OPEN that never left is known not to run.
    const seen = error.withEffect("unknown");
    const unseen = error.withEffect("none");
    for (const stream of [...this.#streams.values()]) {
      if (stream.isClosed) continue;
      this.#remove(stream);
      stream.handler.onLost(stream, stream.isLocal && !stream.hasLeft ? unseen : seen);
    }
    this.#handler.onClose?.(error);
  }

  #onTransportClose(cause: Error | undefined): void {
    this.#isTransportClosed = true;
    if (this.#endTimer !== undefined) this.#clock.clearTimer(this.#endTimer);
    this.#endTimer = undefined;
    const why = this.#peerGoAway ?? cause;
    this.#over(
      new LeverError(
        "CONNECTION_LOST",
        `the connection with ${this.peerName} was closed${why === undefined ? "" : `: ${why.message}`}`,
        { cause: why },
      ),
    );
  }

  #violation(what: string): never {
    throw new LeverError("PROTOCOL_VIOLATION", `${this.peerName} ${what}`);
  }

  // ---------------------------------------------------------------- what streams ask for

  /** There is credit for a frame of this cost, and nobody of its class waits before it. */
  maySendAtOnce(stream: Stream, cost: number): boolean {
    return stream.sendWindow >= cost && this.#readyListOf(stream).isEmpty && this.#hasCredit(stream, cost);
  }

  /**
   * Credit of the session, and room in the transport. Messages of channels leave the last half of the window to calls:
   * readers that stall cannot use up what calls need.
   */
  #hasCredit(stream: Stream, cost: number): boolean {
    if (this.#isSaturated) return false;
    const reserved = stream.isChannel && stream.outPhase === Phase.Flowing ? this.#peerSessionWindow >>> 1 : 0;
    return this.#sendWindow - cost >= reserved;
  }

  /** Lays a flow-controlled frame into the next write; there is credit for it. */
  transmit(stream: Stream, type: number, flags: number, payload: Uint8Array): void {
    if (stream.gate !== undefined && !this.#mayPass(stream, stream.gate)) return;
    const cost = flowCost(payload);
    stream.sendWindow -= cost;
    this.#sendWindow -= cost;
    stream.hasLeft = true;
    this.#encoder.frame(type, flags, stream.id, payload);
    this.#scheduleFlush();
    if (this.#encoder.pendingBytes >= writeHighWaterBytes) this.#flushNow();
    if ((flags & Flag.More) !== 0) return;
    if (type === FrameType.Reply) this.#remove(stream);
    else if (type === FrameType.Open) stream.outPhase = Phase.Waiting;
    else if (type === FrameType.End) {
      if ((flags & failed) !== 0 || stream.inPhase === Phase.Done) this.#remove(stream);
      else stream.outPhase = Phase.Done;
    }
  }

  /** ACCEPT, REFUSE and RESET: not flow-controlled, and at once. */
  sendStreamControl(stream: Stream, type: number, payload: Uint8Array): void {
    if (stream.isClosed) return;
    if (type === FrameType.Accept) {
      if (stream.gate !== undefined && !this.#mayPass(stream, stream.gate)) return;
      stream.outPhase = Phase.Flowing;
      if (stream.inPhase === Phase.Waiting) stream.inPhase = Phase.Flowing;
      this.#control(type, 0, stream.id, payload);
      return;
    }
    const wasSeen = stream.hasLeft || !stream.isLocal;
    this.#remove(stream);
    // The peer does not know of a stream whose OPEN never left.
    if (wasSeen) this.#control(type, 0, stream.id, payload);
  }

  /** MOVE: the channel that the peer opened is to be opened again elsewhere. Neither flow-controlled nor an end. */
  sendMove(stream: Stream): void {
    if (stream.isClosed || stream.isLocal || stream.outPhase !== Phase.Flowing) return;
    this.#control(FrameType.Move, 0, stream.id, none);
  }

  /**
   * Asks the gate of a stream that is about to send. If it is shut the stream ends here and at the peer, which learns
   * nothing but that.
   */
  #mayPass(stream: Stream, gate: Gate): boolean {
    // What let a frame of this write pass is asked again before it leaves.
    if (this.#passed.has(gate)) return true;
    if (gate.isOpen) {
      this.#passed.add(gate);
      return true;
    }
    const error = new LeverError("LEASE_LAPSED", "the instance has lost the resource; what it says is not passed on", {
      effect: stream.isLocal && !stream.hasLeft ? "none" : "unknown",
    });
    stream.reset(encodeFault(error));
    // Whoever sends is in the middle of it.
    this.#clock.defer(() => stream.handler.onLost(stream, error));
    return false;
  }

  markReady(stream: Stream): void {
    if (stream.isReady) return;
    // Without credit of its own it would only stand in the others' way; its WINDOW brings it back.
    if (stream.sendWindow < stream.queuedCost) return;
    stream.isReady = true;
    this.#readyListOf(stream).push(stream);
  }

  #readyListOf(stream: Stream): ReadyList {
    return stream.isChannel && stream.outPhase === Phase.Flowing ? this.#readyChannels : this.#readyCalls;
  }

  returnStreamCredit(stream: Stream, cost: number): void {
    stream.ungranted += cost;
    if (stream.ungranted < this.limits.streamWindowBytes >>> 1 || stream.inPhase === Phase.Done) return;
    this.#grant(stream.id, stream.ungranted);
    stream.receiveWindow += stream.ungranted;
    stream.ungranted = 0;
  }

  released(stream: Stream): void {
    if (!stream.isHeld) return;
    stream.isHeld = false;
    if (stream.isClosed) this.#peerStreams--;
  }

  /**
   * Grants when what is held back is as much as channels have left, which is a quarter of the window if all is read.
   * At half, channels (which may use half) would wait for ever; a fixed quarter would do so once some of them stall.
   */
  returnCredit(cost: number): void {
    this.#ungranted += cost;
    const left = this.#receiveWindow - (this.limits.sessionWindowBytes >>> 1);
    if (this.#ungranted >= left && this.#ungranted >= sessionGrantBytesMin) {
      this.#grant(0, this.#ungranted);
      this.#receiveWindow += this.#ungranted;
      this.#ungranted = 0;
    }
  }

  #grant(streamId: number, credit: number): void {
    const payload = new Uint8Array(4);
    writeU32(payload, 0, credit);
    this.#control(FrameType.Window, 0, streamId, payload);
  }

  #remove(stream: Stream): void {
    if (stream.isClosed) return;
    stream.isClosed = true;
    this.#streams.delete(stream.id);
    if (stream.isReady) {
      this.#readyListOf(stream).forget();
      this.#schedulePump();
    }
    stream.dropQueue();
    if (stream.isLocal) this.#localOpen--;
    else if (!stream.isHeld) this.#peerStreams--;
    if (stream.unconsumed > 0) this.returnCredit(stream.unconsumed);
    stream.unconsumed = 0;
    if (this.#isGoingAway && this.#streams.size === 0 && !this.#isClosed) {
      this.#clock.defer(() => {
        if (this.#streams.size === 0 && !this.#isClosed) {
          this.#finish(new LeverError("CONNECTION_LOST", `the session with ${this.peerName} ended as announced`));
        }
      });
    }
  }

  // ---------------------------------------------------------------- writing

  #control(type: number, flags: number, streamId: number, payload: Uint8Array): void {
    if (this.#isClosed) return;
    this.#encoder.frame(type, flags, streamId, payload);
    this.#scheduleFlush();
    if (this.#encoder.pendingBytes >= writeHighWaterBytes) this.#flushNow();
  }

  #scheduleFlush(): void {
    if (this.#isFlushScheduled) return;
    this.#isFlushScheduled = true;
    this.#clock.defer(this.#flush);
  }

  #flushNow(): void {
    this.#isFlushScheduled = false;
    const batch = this.#encoder.take();
    if (batch === undefined || this.#isTransportClosed) return;
    if (this.#passed.size > 0) {
      // The process may have been stopped between then and now: what lies in this batch must not leave, and what lies
      // before and behind it in the stream of bytes cannot leave without it.
      for (const gate of this.#passed) {
        if (gate.isOpen) continue;
        this.#passed.clear();
        const error = new LeverError(
          "CONNECTION_LOST",
          `a lease ended while frames for ${this.peerName} were to be sent: none of them may be`,
        );
        this.#clock.defer(() => this.destroy(error));
        return;
      }
      this.#passed.clear();
    }
    this.counters.bytesOut += batch.bytes;
    this.counters.writes++;
    this.#transport.write(batch.chunks, batch.recycle);
    const { bufferedBytes } = this.#transport;
    this.#setSaturated(bufferedBytes >= writeHighWaterBytes);
    if (bufferedBytes <= controlBacklogBytesMax || this.#isClosed) return;
    const error = new LeverError(
      "PROTOCOL_VIOLATION",
      `${this.peerName} makes this end answer and does not read the answers: ${bufferedBytes} bytes wait`,
    );
    this.#clock.defer(() => this.destroy(error));
  }

  #onDrain(): void {
    if (!this.#isClosed) this.#setSaturated(this.#transport.bufferedBytes >= writeHighWaterBytes);
  }

  /**
   * A write may find the transport drained before the transport says so, and then it never does: whoever clears the
   * mark wakes those who wait.
   */
  #setSaturated(isSaturated: boolean): void {
    const wakes = this.#isSaturated && !isSaturated;
    this.#isSaturated = isSaturated;
    if (wakes) this.#schedulePump();
  }

  #schedulePump(): void {
    if (this.#isPumpScheduled || this.#isClosed) return;
    this.#isPumpScheduled = true;
    this.#clock.defer(() => {
      this.#isPumpScheduled = false;
      if (!this.#isClosed) this.#pump();
    });
  }

  /** Streams take turns, frame by frame; calls and channels too. */
  #pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    try {
      while (this.#pumpOne(this.#readyCalls) || this.#pumpOne(this.#readyChannels)) {
        this.#pumpOne(this.#readyChannels);
      }
    } finally {
      this.#isPumping = false;
    }
  }

  #pumpOne(list: ReadyList): boolean {
    for (;;) {
      const stream = list.first;
      if (stream === undefined) return false;
      const cost = stream.queuedCost;
      if (!stream.isClosed && cost > 0 && stream.sendWindow >= cost) {
        if (!this.#hasCredit(stream, cost)) return false;
        list.shift();
        stream.isReady = false;
        stream.sendQueued();
        if (stream.hasQueue) this.markReady(stream);
        // Also when that frame was the stream's last: somebody may wait for it to leave.
        else stream.handler.onWritable(stream);
        return true;
      }
      // Ended, or without credit of its own: it comes back when its WINDOW arrives.
      list.shift();
      stream.isReady = false;
    }
  }

  // ---------------------------------------------------------------- reading

  #onData(chunk: Uint8Array): void {
    this.#hasReceived = true;
    this.counters.bytesIn += chunk.length;
    if (this.#isClosed) return;
    try {
      this.#decoder.push(chunk);
    } catch (error) {
      this.close(LeverError.from(error));
    }
  }

  #onFrame(type: number, flags: number, streamId: number, payload: Uint8Array): void {
    if (this.hello === undefined && type !== FrameType.Hello) {
      this.#violation(`sent ${frameTypeName(type)} before HELLO; is it a Lever peer?`);
    }
    switch (type) {
      case FrameType.Open:
        return this.#onOpenFrame(flags, streamId, payload);
      case FrameType.Reply:
      case FrameType.Message:
      case FrameType.End:
      case FrameType.Accept:
      case FrameType.Refuse:
      case FrameType.Reset:
      case FrameType.Move:
        return this.#onStreamFrame(type, flags, streamId, payload);
      case FrameType.Window:
        return this.#onWindow(streamId, payload);
      case FrameType.Target:
        this.#checkNoStream(type, streamId);
        return this.#onTarget(payload);
      case FrameType.Ping:
        this.#checkNoStream(type, streamId);
        return this.#onPing(flags, payload);
      case FrameType.Hello:
        this.#checkNoStream(type, streamId);
        return this.#onHello(payload);
      case FrameType.GoAway:
        this.#checkNoStream(type, streamId);
        return this.#onGoAway(payload);
      case FrameType.Register:
        this.#checkNoStream(type, streamId);
        return this.#onRegister(payload);
      default:
        if ((type & optionalFrameBit) === 0) {
          throw new LeverError(
            "VERSION_UNSUPPORTED",
            `${this.peerName} sent a frame of ${frameTypeName(type)} that this end does not know and may not skip; upgrade this end`,
          );
        }
    }
  }

  #checkNoStream(type: number, streamId: number): void {
    if (streamId !== 0) this.#violation(`sent ${frameTypeName(type)} on stream ${streamId}, expected 0`);
  }

  #onRegister(payload: Uint8Array): void {
    if (this.#handler.onRegister === undefined || this.hello?.role !== "app") {
      this.#violation("sent REGISTER, which only an app may send, to its agent");
    }
    if (this.#hasRegistered) this.#violation("sent a second REGISTER");
    this.#hasRegistered = true;
    this.#handler.onRegister?.(payload);
  }

  #onHello(payload: Uint8Array): void {
    if (this.hello !== undefined) this.#violation("sent a second HELLO");
    const hello = decodeHello(payload);
    const { provenPeer } = this.#transport;
    if (provenPeer !== undefined) checkProven(provenPeer, hello, this.peerName);
    this.hello = hello;
    this.#sendWindow += hello.sessionWindowBytes - this.#peerSessionWindow;
    this.#peerSessionWindow = hello.sessionWindowBytes;
    for (const stream of this.#streams.values()) {
      stream.sendWindow += hello.streamWindowBytes - this.peerStreamWindowBytes;
      if (stream.hasQueue) this.markReady(stream);
    }
    this.peerStreamWindowBytes = hello.streamWindowBytes;
    this.#peerStreamsMax = hello.streamsMax;
    this.#peerTargetsMax = hello.targetsMax;
    this.#handler.onHello?.(hello);
    this.#pump();
  }

  #onTarget(payload: Uint8Array): void {
    const number = ((payload[0] ?? 0) << 8) | (payload[1] ?? 0);
    if (number === 0 || number > this.limits.targetsMax) {
      this.#violation(`gave the number ${number} to a target, expected 1 to ${this.limits.targetsMax}`);
    }
    if (payload.length > 2 + targetBytesMax) {
      this.#violation(`named a target of ${payload.length - 2} bytes, at most ${targetBytesMax} are allowed`);
    }
    if (this.#peerTargets[number] !== undefined) this.#violation(`gave the number ${number} to a second target`);
    this.#peerTargets[number] = this.#parseTarget(payload, 2, payload.length);
  }

  #parseTarget(bytes: Uint8Array, from: number, to: number): Target {
    try {
      return Target.parse(latin1(bytes, from, to));
    } catch (error) {
      this.#violation(`named a target that is none: ${LeverError.from(error).rawMessage}`);
    }
  }

  #onOpenFrame(flags: number, streamId: number, payload: Uint8Array): void {
    const known = this.#streams.get(streamId);
    if (known !== undefined) {
      if (known.isLocal || known.inPhase !== Phase.Opening) {
        this.#violation(`sent OPEN on stream ${streamId}, which is open already`);
      }
      this.#received(known, payload);
      if ((flags & Flag.More) === 0) known.inPhase = known.isChannel ? Phase.Waiting : Phase.Done;
      known.handler.onFrame(known, FrameType.Open, flags, payload);
      return;
    }
    this.#receivedBySession(payload);
    if ((streamId & 1) === (this.#isDialer ? 1 : 0) || streamId === 0) {
      this.#violation(`opened stream ${streamId}, whose number is not its to give`);
    }
    if (streamId <= this.#lastPeerId) {
      // A further fragment of a stream that has ended here meanwhile.
      this.returnCredit(flowCost(payload));
      return;
    }
    this.#lastPeerId = streamId;
    if (payload.length < routingFixedBytes)
      this.#violation(`sent an OPEN of ${payload.length} bytes, at least 8 are needed`);
    const fieldsLength = ((payload[6] as number) << 8) | (payload[7] as number);
    const payloadAt = routingFixedBytes + fieldsLength;
    if (payloadAt > payload.length) {
      this.#violation(
        `sent an OPEN whose fields claim ${fieldsLength} bytes, ${payload.length - routingFixedBytes} are there`,
      );
    }
    if (this.#isGoingAway) {
      // GOAWAY has told the peer that this stream was not taken.
      this.returnCredit(flowCost(payload));
      return;
    }
    const stream = new Stream(this, streamId, flags & ~Flag.More, false, lostHandler);
    stream.inPhase = (flags & Flag.More) !== 0 ? Phase.Opening : stream.isChannel ? Phase.Waiting : Phase.Done;
    stream.outPhase = Phase.Waiting;
    const cost = flowCost(payload);
    stream.receiveWindow -= cost;
    stream.unconsumed = cost;
    this.#streams.set(streamId, stream);
    this.#peerStreams++;
    const refusal = this.#whyRefused(stream, payload, fieldsLength);
    if (refusal !== undefined) return stream.refuse(encodeFault(refusal));
    stream.isHeld = true;
    const open = this.#open;
    open.flags = flags;
    open.timeoutMs = readU32(payload, 2);
    open.frame = payload;
    open.payloadAt = payloadAt;
    this.#handler.onOpen?.(stream, open);
  }

  /** Sets `#open.target`, or says why the stream is refused. */
  #whyRefused(stream: Stream, payload: Uint8Array, fieldsLength: number): LeverError | undefined {
    if (fieldsLength > headerFieldsBytesMax) {
      return new LeverError(
        "HEADER_TOO_LARGE",
        `the routing header takes ${fieldsLength} bytes, at most ${headerFieldsBytesMax} are allowed; send less metadata`,
        { effect: "none" },
      );
    }
    if (this.#peerStreams > this.limits.streamsMax) {
      return new LeverError(
        "OVERLOADED",
        `${this.limits.streamsMax} calls and channels of this session are open or still running, the most allowed`,
        { effect: "none", details: { limit: "streamsMax", streamsMax: this.limits.streamsMax } },
      );
    }
    if (this.queuedAnswerBytes > queuedAnswerBytesMax) {
      return new LeverError(
        "OVERLOADED",
        `${this.queuedAnswerBytes} bytes of answers wait to be read on this session, new calls are taken below ` +
          `${queuedAnswerBytesMax}`,
        { effect: "none", details: { limit: "queuedAnswerBytes", bytesMax: queuedAnswerBytesMax } },
      );
    }
    const number = ((payload[0] as number) << 8) | (payload[1] as number);
    const target = number === 0 ? this.#inlineTarget(payload, fieldsLength) : this.#peerTargets[number];
    if (target === undefined) this.#violation(`used the number ${number} for a target that it has not named`);
    if (target.isStreaming !== stream.isChannel) {
      return new LeverError(
        "METHOD_KIND_MISMATCH",
        target.isStreaming
          ? `${target.method} is a streaming method and was invoked; open a channel to it`
          : `${target.method} is no streaming method and a channel was opened to it; invoke it`,
        { effect: "none" },
      );
    }
    if (this.#handler.onOpen === undefined) {
      return new LeverError("PROTOCOL_VIOLATION", "this end takes no calls on this session", { effect: "none" });
    }
    this.#open.target = target;
    return undefined;
  }

  /** The target that stands as text in the first field. */
  #inlineTarget(payload: Uint8Array, fieldsLength: number): Target {
    const from = routingFixedBytes + 3;
    const to = from + (((payload[from - 2] ?? 0) << 8) | (payload[from - 1] ?? 0));
    if (fieldsLength < 3 || payload[from - 3] !== FieldKey.Target || to > routingFixedBytes + fieldsLength) {
      this.#violation("opened a stream without a target");
    }
    return this.#parseTarget(payload, from, to);
  }

  #onStreamFrame(type: number, flags: number, streamId: number, payload: Uint8Array): void {
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      const isOurs = (streamId & 1) === (this.#isDialer ? 1 : 0);
      if (streamId === 0 || (isOurs ? streamId >= this.#nextId : streamId > this.#lastPeerId)) {
        this.#violation(`sent ${frameTypeName(type)} on stream ${streamId}, which was never opened`);
      }
      // It ended here while the frame was under way.
      if (isFlowControlled(type)) {
        this.#receivedBySession(payload);
        this.returnCredit(flowCost(payload));
      }
      return;
    }
    const isLast = (flags & Flag.More) === 0;
    let ends = false;
    switch (type) {
      case FrameType.Reply:
        if (!stream.isLocal || stream.isChannel || stream.outPhase !== Phase.Waiting) this.#outOfPlace(stream, type);
        if ((flags & failed) === failed) this.#violation(`sent REPLY with both Error and Fault on stream ${streamId}`);
        if (stream.inPhase === Phase.Opening && payload.length < 2) {
          this.#violation(`sent a REPLY of ${payload.length} bytes on stream ${streamId}, at least 2 are needed`);
        }
        stream.inPhase = Phase.Closing;
        this.#received(stream, payload);
        ends = isLast;
        break;
      case FrameType.Message:
        if (stream.inPhase !== Phase.Flowing) this.#outOfPlace(stream, type);
        stream.inMessage = !isLast;
        this.#received(stream, payload);
        break;
      case FrameType.End:
        if (stream.inPhase === Phase.Flowing && !stream.inMessage) {
          if ((flags & failed) === 0 && (payload.length > 0 || !isLast)) {
            this.#violation(`sent a clean END with a payload on stream ${streamId}`);
          }
        } else if (!stream.isChannel || stream.inPhase !== Phase.Closing || (flags & failed) === 0) {
          this.#outOfPlace(stream, type);
        }
        if ((flags & failed) === failed) this.#violation(`sent END with both Error and Fault on stream ${streamId}`);
        stream.inPhase = Phase.Closing;
        this.#received(stream, payload);
        if (isLast) {
          stream.inPhase = Phase.Done;
          ends = (flags & failed) !== 0 || stream.outPhase === Phase.Done;
        }
        break;
      case FrameType.Accept:
        if (!stream.isLocal || !stream.isChannel || stream.outPhase !== Phase.Waiting) this.#outOfPlace(stream, type);
        if (payload.length < 2) {
          this.#violation(`sent an ACCEPT of ${payload.length} bytes on stream ${streamId}, at least 2 are needed`);
        }
        stream.outPhase = Phase.Flowing;
        stream.inPhase = Phase.Flowing;
        break;
      case FrameType.Refuse:
        if (!stream.isLocal || stream.inPhase !== Phase.Opening) this.#outOfPlace(stream, type);
        ends = true;
        break;
      case FrameType.Move:
        if (!stream.isLocal || !stream.isChannel) this.#outOfPlace(stream, type);
        // The method has ended its direction meanwhile, or never entered: there is nothing to move.
        if (stream.inPhase !== Phase.Flowing) return;
        break;
      default:
        ends = true;
    }
    if (ends) this.#remove(stream);
    stream.handler.onFrame(stream, type, flags, payload);
  }

  #outOfPlace(stream: Stream, type: number): never {
    return this.#violation(
      `sent ${frameTypeName(type)} on stream ${stream.id} (a ${stream.isChannel ? "channel" : "call"} that ` +
        `${stream.isLocal ? "this end" : "it"} opened) where it may not stand`,
    );
  }

  #receivedBySession(payload: Uint8Array): void {
    this.#receiveWindow -= flowCost(payload);
    if (this.#receiveWindow < 0) this.#violation("sent more than the session's window allows");
  }

  #received(stream: Stream, payload: Uint8Array): void {
    this.#receivedBySession(payload);
    const cost = flowCost(payload);
    stream.receiveWindow -= cost;
    stream.unconsumed += cost;
    if (stream.receiveWindow < 0) this.#violation(`sent more than the window of stream ${stream.id} allows`);
  }

  #onWindow(streamId: number, payload: Uint8Array): void {
    if (payload.length !== 4) this.#violation(`sent a WINDOW of ${payload.length} bytes, expected 4`);
    const credit = readU32(payload, 0);
    if (credit === 0) this.#violation("sent a WINDOW without credit");
    if (streamId === 0) {
      this.#sendWindow += credit;
      if (this.#sendWindow > windowBytesMax) this.#violation("gave more credit than a window may hold");
      this.#pump();
      return;
    }
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      const isOurs = (streamId & 1) === (this.#isDialer ? 1 : 0);
      if (isOurs ? streamId >= this.#nextId : streamId > this.#lastPeerId) {
        this.#violation(`sent WINDOW on stream ${streamId}, which was never opened`);
      }
      return;
    }
    stream.sendWindow += credit;
    if (stream.sendWindow > windowBytesMax) this.#violation("gave more credit than a window may hold");
    if (stream.hasQueue) {
      this.markReady(stream);
      this.#pump();
    } else stream.handler.onWritable(stream);
  }

  #onPing(flags: number, payload: Uint8Array): void {
    if (payload.length !== 8) this.#violation(`sent a PING of ${payload.length} bytes, expected 8`);
    if ((flags & Flag.Ack) !== 0) {
      if (payload[0] === roundTripMark) this.#roundTrips.shift()?.resolve();
      return;
    }
    const now = this.#clock.now();
    if (now - this.#pingSecondStartedAt >= 1000) {
      this.#pingSecondStartedAt = now;
      this.#pingsThisSecond = 0;
    }
    this.#pingsThisSecond++;
    if (this.#pingsThisSecond > pingsPerSecondMax) {
      this.#violation(`sent more than ${pingsPerSecondMax} PINGs within a second`);
    }
    this.#control(FrameType.Ping, Flag.Ack, 0, payload);
  }

  #onGoAway(payload: Uint8Array): void {
    if (payload.length < 4) this.#violation(`sent a GOAWAY of ${payload.length} bytes, at least 4 are needed`);
    const lastId = readU32(payload, 0);
    const error = decodeFault(payload.subarray(4));
    this.#peerGoAway = error;
    const refused: Stream[] = [];
    for (const stream of this.#streams.values()) {
      if (!stream.isLocal || stream.id <= lastId) continue;
      // `none` would be a lie.
      if (stream.inPhase !== Phase.Opening) {
        this.#violation(`sent GOAWAY that excludes stream ${stream.id}, which it had answered`);
      }
      refused.push(stream);
    }
    for (const stream of refused) {
      if (stream.isClosed) continue;
      this.#remove(stream);
      stream.handler.onLost(stream, error.withEffect("none"));
    }
    this.#handler.onGoAway?.(error);
  }

  // ---------------------------------------------------------------- liveness

  #armTimer(): void {
    const { pingIntervalMs, silenceMs, helloTimeoutMs } = this.limits;
    if (this.hello !== undefined && pingIntervalMs === 0) return;
    this.#tickMs = pingIntervalMs === 0 ? helloTimeoutMs : pingIntervalMs;
    // The last tick ends with the silence: a whole one would make a cut link known a second later for nothing.
    const leftMs = silenceMs - this.#silentMs;
    if (pingIntervalMs > 0 && leftMs > 0 && leftMs < pingIntervalMs) this.#tickMs = leftMs;
    this.#timer = this.#clock.setTimer(() => this.#tick(), this.#tickMs);
  }

  /**
   * Silence is counted in ticks of the own timer, not in elapsed time: after a pause of this process (or a long turn of
   * its loop) the timer fires before the bytes that wait in the socket are read.
   */
  #tick(): void {
    this.#timer = undefined;
    if (this.#isClosed) return;
    const { pingIntervalMs, silenceMs, helloTimeoutMs } = this.limits;
    if (this.hello === undefined && this.#clock.now() - this.#startedAt >= helloTimeoutMs) {
      return this.destroy(
        new LeverError("CONNECTION_LOST", `${this.peerName} sent no HELLO within ${helloTimeoutMs} ms`, {
          effect: "none",
        }),
      );
    }
    if (pingIntervalMs > 0) {
      if (this.#hasReceived) {
        this.#hasReceived = false;
        this.#silentMs = 0;
      } else {
        this.#silentMs += this.#tickMs;
        if (silenceMs > 0 && this.#silentMs >= silenceMs) {
          return this.destroy(
            new LeverError("CONNECTION_LOST", `${this.peerName} was silent for about ${this.#silentMs} ms`),
          );
        }
        this.#control(FrameType.Ping, 0, 0, new Uint8Array(8));
      }
    }
    this.#armTimer();
  }

  // ---------------------------------------------------------------- targets

  /** The number of a target at the peer; 0 when the peer takes no more of them. */
  #numberOf(target: Target): number {
    const known = this.#localTargets.get(target.text);
    if (known !== undefined) return known;
    const number = this.#localTargets.size + 1;
    if (number > this.#peerTargetsMax) return 0;
    this.#localTargets.set(target.text, number);
    const payload = new Uint8Array(2 + target.text.length);
    payload[0] = number >>> 8;
    payload[1] = number;
    for (let i = 0; i < target.text.length; i++) payload[2 + i] = target.text.charCodeAt(i);
    this.#control(FrameType.Target, 0, 0, payload);
    return number;
  }
}

/** Writes the time left, in ms, into an OPEN frame. Only 0 means that there is no limit: less than 1 ms becomes 1. */
export function writeTimeout(frame: Uint8Array, timeoutMs: number): void {
  writeU32(frame, 2, timeoutMs > 0 ? Math.min(Math.max(Math.floor(timeoutMs), 1), 0xffffffff) : 0);
}

/** Streams that wait for their turn. Those that have ended since are skipped by who reads it. */
class ReadyList {
  #streams: Stream[] = [];
  #at = 0;
  #ended = 0;

  get isEmpty(): boolean {
    return this.#at === this.#streams.length;
  }

  get first(): Stream | undefined {
    return this.#streams[this.#at];
  }

  push(stream: Stream): void {
    this.#streams.push(stream);
  }

  shift(): void {
    this.#at++;
    if (this.#at === this.#streams.length) {
      this.#streams = [];
      this.#at = 0;
    } else if (this.#at > 1024) {
      this.#streams.splice(0, this.#at);
      this.#at = 0;
    }
  }

  /** A stream of the list has ended: calls that time out while nothing can leave must not pile up here. */
  forget(): void {
    this.#ended++;
    if (this.#ended <= 64 || this.#ended * 2 < this.#streams.length - this.#at) return;
    this.#streams = this.#streams.slice(this.#at).filter((stream) => !stream.isClosed);
    this.#at = 0;
    this.#ended = 0;
  }
}

function readU32(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] as number) * 0x1000000 +
    (((bytes[at + 1] as number) << 16) | ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number))
  );
}

function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

function latin1(bytes: Uint8Array, from: number, to: number): string {
  let text = "";
  for (let i = from; i < to; i++) text += String.fromCharCode(bytes[i] as number);
  return text;
}
