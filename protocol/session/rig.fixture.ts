/**
 * Two sessions joined by a transport, with methods behind each end and a record of every frame on the wire; and a peer
 * that sends whatever bytes it likes. For tests.
 */

import { Channel, type RawChannel } from "../channel/channel.ts";
import { startChannel } from "../channel/open-channel.ts";
import type { Clock } from "../clock/clock.ts";
import { decodeRegistration, type Registration } from "../control/registration.ts";
import { DeadlineWheel } from "../deadline/deadline-wheel.ts";
import { LeverError } from "../error/lever-error.ts";
import { MethodError } from "../error/method-error.ts";
import { FrameDecoder } from "../frame/decode.ts";
import { FrameType, frameHeaderBytes, frameOverheadBytes, isFlowControlled } from "../frame/frame.ts";
import { AssemblyBudget, assemblyBytesMax } from "../invocation/assembly.ts";
import { type Invocation, InvocationServer, type MethodHost } from "../invocation/invocation-server.ts";
import { startCall } from "../invocation/outgoing-call.ts";
import { decodeReceived } from "../invocation/received-item.ts";
import { Target } from "../target/target.ts";
import type { Transport } from "../transport/transport.ts";
import { copyBytes } from "../value/copy-bytes.ts";
import { decodeArgs } from "../value/decode.ts";
import { encodeValue } from "../value/encode.ts";
import { type Encoded, encodeArgs } from "../value/form.ts";
import type { Hello, PeerRole } from "./hello.ts";
import { defaultSessionLimits, type SessionLimits, sessionWindowBytesMin, streamsMaxMin } from "./limits.ts";
import { encodeFields, type RoutingFields, routingFixedBytes } from "./routing-header.ts";
import { type OpenFrame, Session } from "./session.ts";
import type { Stream } from "./stream.ts";

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Uint8Array;
}

/** What one end wrote, frame by frame; payloads above 64 bytes by their first 64 only. */
export interface WrittenFrame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly bytes: number;
  readonly head: Uint8Array;
}

/** The transport, with a record of what is written to it. */
export function recorded(transport: Transport, record: WrittenFrame[]): Transport {
  const decoder = new FrameDecoder((type, flags, stream, payload) => {
    record.push({ type, flags, stream, bytes: payload.length, head: copyBytes(payload.subarray(0, 64)) });
  });
  return {
    peerName: transport.peerName,
    get bufferedBytes() {
      return transport.bufferedBytes;
    },
    start: (events) => transport.start(events),
    write(chunks, onWritten) {
      for (const chunk of chunks) decoder.push(chunk);
      transport.write(chunks, onWritten);
    },
    end: () => transport.end(),
    destroy: () => transport.destroy(),
  };
}

/** Waits for something that the loop brings about by itself. The bound is for tests that fail. */
export async function eventually(check: () => boolean, what: string): Promise<void> {
  const startedAt = performance.now();
  while (!check()) {
    if (performance.now() - startedAt > 20_000) throw new Error(`never happened: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The error that the promise rejects with. */
export async function rejection(promise: Promise<unknown>): Promise<LeverError | MethodError> {
  try {
    await promise;
  } catch (error) {
    if (LeverError.is(error) || MethodError.is(error)) return error;
    throw error;
  }
  throw new Error("expected a rejection");
}

export type Methods = Record<string, (...args: never[]) => unknown>;

/** Methods by name, whatever the service; counts how often each was entered. */
export class TestHost implements MethodHost {
  readonly entered: Record<string, number> = {};
  readonly methods: Methods;
  readonly thrown: unknown[] = [];
  logFails = false;
  invocation: Invocation | undefined;

  constructor(methods: Methods) {
    this.methods = methods;
  }

  prepare(invocation: Invocation, args: Encoded): () => unknown {
    const { method } = invocation.target;
    const run = this.methods[method] as ((...args: unknown[]) => unknown) | undefined;
    if (run === undefined) throw new LeverError("METHOD_NOT_FOUND", `there is no ${method}`);
    const values = args.form === "bytes" ? [args.bytes] : decodeArgs(args.bytes);
    return () => {
      this.entered[method] = (this.entered[method] ?? 0) + 1;
      this.invocation = invocation;
      return run(...values);
    };
  }

  prepareChannel(invocation: Invocation, args: Encoded): (channel: Channel) => unknown {
    const { method } = invocation.target;
    const run = this.methods[method] as ((channel: Channel, ...args: unknown[]) => unknown) | undefined;
    if (run === undefined) throw new LeverError("METHOD_NOT_FOUND", `there is no ${method}`);
    const values = args.form === "bytes" ? [args.bytes] : decodeArgs(args.bytes);
    return (channel) => {
      this.entered[method] = (this.entered[method] ?? 0) + 1;
      this.invocation = invocation;
      return run(channel, ...values);
    };
  }

  describeThrown(_invocation: Invocation, thrown: unknown): string {
    if (this.logFails) throw new Error("the log is full");
    this.thrown.push(thrown);
    return String(thrown);
  }

  count(method: string): number {
    return this.entered[method] ?? 0;
  }
}

export interface CallOptions {
  readonly timeoutMs?: number;
  readonly fields?: RoutingFields;
  readonly signal?: AbortSignal;
}

/** One end: a session, the methods that it serves, and calls from it. */
export class End {
  readonly session: Session;
  readonly host: TestHost;
  readonly server: InvocationServer;
  readonly budget: AssemblyBudget;
  readonly wheel: DeadlineWheel;
  readonly written: WrittenFrame[] = [];
  readonly registrations: Registration[] = [];
  closedWith: LeverError | undefined;
  goAway: LeverError | undefined;
  runningMax = 0;
  /** What is done with streams that the peer opens: they go to the methods. */
  onOpen: (stream: Stream, open: OpenFrame) => void = (stream, open) => this.server.onOpen(stream, open);
  readonly #clock: Clock;

  constructor(
    transport: Transport,
    clock: Clock,
    side: "dialer" | "acceptor",
    methods: Methods,
    limits: Partial<SessionLimits> = {},
    more: {
      readonly streamIdMax?: number;
      readonly role?: PeerRole;
      readonly isAgent?: boolean;
      readonly budgetBytes?: number;
    } = {},
  ) {
    this.#clock = clock;
    this.budget = new AssemblyBudget(more.budgetBytes ?? assemblyBytesMax);
    this.host = new TestHost(methods);
    this.wheel = new DeadlineWheel(clock);
    this.server = new InvocationServer({
      host: this.host,
      wheel: this.wheel,
      budget: this.budget,
      now: () => clock.now(),
    });
    this.session = new Session({
      transport: recorded(transport, this.written),
      clock,
      side,
      identity: { role: more.role ?? (side === "dialer" ? "client" : "app") },
      limits: { ...defaultSessionLimits, ...limits },
      handler: {
        onOpen: (stream, open) => {
          this.onOpen(stream, open);
          this.runningMax = Math.max(this.runningMax, this.server.running);
        },
        ...(more.isAgent === true
          ? { onRegister: (payload: Uint8Array) => this.registrations.push(decodeRegistration(payload)) }
          : {}),
        onGoAway: (error) => {
          this.goAway = error;
        },
        onClose: (error) => {
          if (this.closedWith !== undefined) throw new Error("onClose was called twice");
          this.closedWith = error;
        },
      },
      ...(more.streamIdMax === undefined ? {} : { streamIdMax: more.streamIdMax }),
    });
  }

  get #runtime() {
    return { wheel: this.wheel, budget: this.budget, now: () => this.#clock.now() };
  }

  async call(method: string, args: readonly unknown[] = [], options: CallOptions = {}): Promise<unknown> {
    const result = await startCall(this.#runtime, this.session, new Target("dev", "test", method), encodeArgs(args), {
      timeoutMs: options.timeoutMs ?? 0,
      fields: encodeFields(options.fields ?? {}),
      signal: options.signal,
    });
    return decodeReceived(result);
  }

  open(method: string, args: readonly unknown[] = [], options: CallOptions = {}): Promise<RawChannel> {
    return startChannel(this.#runtime, this.session, new Target("dev", "test", method), encodeArgs(args), {
      timeoutMs: options.timeoutMs ?? 0,
      fields: encodeFields(options.fields ?? {}),
      signal: options.signal,
    });
  }

  async channel(method: string, args: readonly unknown[] = [], options: CallOptions = {}): Promise<Channel> {
    return new Channel(await this.open(method, args, options));
  }

  /** Cost of the flow-controlled frames that this end has written, on all streams together. */
  get costWritten(): number {
    let cost = 0;
    for (const frame of this.written) if (isFlowControlled(frame.type)) cost += frame.bytes + frameOverheadBytes;
    return cost;
  }
}

export interface RigOptions {
  readonly client?: Partial<SessionLimits>;
  readonly server?: Partial<SessionLimits>;
  readonly streamIdMax?: number;
}

/** A promise that the test opens. */
export class Gate {
  open!: () => void;
  readonly opened = new Promise<void>((resolve) => {
    this.open = resolve;
  });
}

/** What a rig's methods do, beside answering. */
export class Facts {
  gate = new Gate();
  /** What a method saw, in order. */
  readonly seen: unknown[] = [];
}

export function testMethods(facts: Facts, host: () => TestHost): Methods {
  return {
    echo: (value: unknown) => value,
    nothing: () => undefined,
    sum: (...values: number[]) => values.reduce((sum, value) => sum + value, 0),
    lengthOf: (bytes: Uint8Array) => bytes.length,
    bytesOf: (count: number) => new Uint8Array(count).map((_, index) => index * 7),
    textOf: (count: number) => "x".repeat(count),
    threw: (value: unknown) => {
      throw new MethodError(value);
    },
    threwBytes: () => {
      throw new MethodError(Uint8Array.of(1, 2, 3));
    },
    broke: () => {
      throw new TypeError("a bug");
    },
    unencodable: () => ({ at: new Date() }),
    gated: async (value: unknown) => {
      await facts.gate.opened;
      return value;
    },
    /** Ends when its signal is aborted; notes the reason. */
    hang: () => {
      const { signal } = host().invocation as Invocation;
      return new Promise((resolve) => {
        signal.addEventListener("abort", () => {
          facts.seen.push(signal.reason);
          resolve(null);
        });
      });
    },
    fieldsOf: () => (host().invocation as Invocation).fields,
    deadlineOf: () => (host().invocation as Invocation).deadlineAt ?? null,

    echoChan: async (channel: Channel) => {
      for await (const message of channel) await channel.send(message);
    },
    /** Reads all, then sends what there was. */
    sinkChan: async (channel: Channel) => {
      let messages = 0;
      let bytes = 0;
      for await (const message of channel) {
        messages++;
        bytes += message instanceof Uint8Array ? message.length : 0;
      }
      await channel.send({ messages, bytes });
    },
    /** As sinkChan, but only reads once the gate is open. */
    stalledChan: async (channel: Channel) => {
      await facts.gate.opened;
      let messages = 0;
      for await (const _message of channel) messages++;
      await channel.send(messages);
    },
    sourceChan: async (channel: Channel, messages: number, bytes: number) => {
      for (let index = 0; index < messages; index++) await channel.send(new Uint8Array(bytes).fill(index));
    },
    /** Ends its own direction first, then reads to the end. */
    firstChan: async (channel: Channel) => {
      await channel.send("only");
      channel.closeWrite();
      for await (const message of channel) facts.seen.push(message);
      facts.seen.push("end");
    },
    /** Sends some, then ends as its argument says. */
    endingChan: async (channel: Channel, how: string) => {
      for (let index = 0; index < 50; index++) await channel.send(index);
      if (how === "value") throw new MethodError({ error: "TOO_SLOW" });
      if (how === "bytes") throw new MethodError(Uint8Array.of(9, 9));
      if (how === "large") throw new MethodError("x".repeat(500_000));
      if (how === "bug") throw new TypeError("a bug");
      if (how === "fail") channel.fail([1]);
      if (how === "cancel") channel.cancel();
    },
    /** Waits until its channel has ended before its time, and notes why. */
    watchChan: async (channel: Channel) => {
      await new Promise<void>((resolve) => {
        channel.signal.addEventListener("abort", () => resolve());
      });
      facts.seen.push(channel.signal.reason);
    },
    /** Reads until an error, and notes it. */
    readChan: async (channel: Channel) => {
      try {
        for await (const message of channel) facts.seen.push(message);
        facts.seen.push("end");
      } catch (error) {
        facts.seen.push(error);
      }
    },
  };
}

/** Two ends that serve the same methods. */
export class Rig {
  readonly facts = new Facts();
  readonly client: End;
  readonly server: End;
  readonly transports: readonly [Transport, Transport];

  constructor(transports: readonly [Transport, Transport], clock: Clock, options: RigOptions = {}) {
    this.transports = transports;
    const more = options.streamIdMax === undefined ? {} : { streamIdMax: options.streamIdMax };
    this.server = new End(
      transports[1],
      clock,
      "acceptor",
      testMethods(this.facts, () => this.server.host),
      options.server,
    );
    this.client = new End(
      transports[0],
      clock,
      "dialer",
      testMethods(this.facts, () => this.client.host),
      options.client,
      more,
    );
  }

  /** All that the client has sent before has been handled, and all that this caused has come back. */
  async settled(): Promise<void> {
    await this.client.call("echo", [0]);
  }

  /** Nothing is under way and nothing was leaked: all credit is back, all budgets and lists are empty. */
  async idle(): Promise<void> {
    const { client, server } = this;
    for (const end of [client, server]) {
      await eventually(() => end.session.streamCount === 0 && end.server.running === 0, "all streams end");
      await eventually(() => end.budget.bytes === 0 && end.wheel.size === 0, "budget and deadlines are empty");
    }
    await eventually(
      () => client.session.hello !== undefined && server.session.hello !== undefined,
      "both ends have said HELLO",
    );
    for (const [end, peer] of [
      [client, server],
      [server, client],
    ] as const) {
      const window = end.session.limits.sessionWindowBytes;
      await eventually(
        () => {
          const { receive, ungranted } = end.session.credit;
          return receive + ungranted === window && peer.session.credit.send === receive;
        },
        `the session's credit comes back: ${JSON.stringify([end.session.credit, peer.session.credit, window])}`,
      );
      if (end.session.queuedAnswerBytes !== 0)
        throw new Error(`${end.session.queuedAnswerBytes} bytes of answers are counted`);
    }
  }

  /** Checks `idle`, then ends both sessions. */
  async close(): Promise<void> {
    await this.idle();
    this.client.session.close(new LeverError("CANCELLED", "the test is over"));
    await eventually(() => this.server.closedWith !== undefined, "the server's session ends");
  }
}

// ------------------------------------------------------------------ a peer by hand

export function frameBytes(
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const bytes = new Uint8Array(frameHeaderBytes + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, payload.length << 8);
  bytes[3] = type;
  bytes[4] = flags;
  view.setUint32(5, stream);
  bytes.set(payload, frameHeaderBytes);
  return bytes;
}

export function openPayload(
  method: string,
  args: Uint8Array = Uint8Array.of(0x90),
  options: { readonly timeoutMs?: number; readonly fields?: Uint8Array; readonly fieldsLength?: number } = {},
): Uint8Array {
  const target = encodeFields({ target: `dev/test/${method}` });
  const more = options.fields ?? new Uint8Array(0);
  const payload = new Uint8Array(routingFixedBytes + target.length + more.length + args.length);
  const view = new DataView(payload.buffer);
  view.setUint32(2, options.timeoutMs ?? 0);
  view.setUint16(6, options.fieldsLength ?? target.length + more.length);
  payload.set(target, routingFixedBytes);
  payload.set(more, routingFixedBytes + target.length);
  payload.set(args, routingFixedBytes + target.length + more.length);
  return payload;
}

export const rawHello = {
  versionMin: 1,
  versionMax: 1,
  streamWindowBytes: 0x7fffffff,
  sessionWindowBytes: 0x7fffffff,
  streamsMax: streamsMaxMin,
  targetsMax: 0,
  role: "client",
};

/** Sends what it likes and keeps what comes in. */
export class RawPeer {
  readonly frames: Frame[] = [];
  hello: Hello | undefined;
  isClosed = false;
  readonly transport: Transport;

  /** With `reads` false it never takes a byte from the transport. */
  constructor(transport: Transport, reads = true) {
    this.transport = transport;
    if (!reads) return;
    const decoder = new FrameDecoder((type, flags, stream, payload) => {
      this.frames.push({ type, flags, stream, payload: copyBytes(payload) });
    });
    transport.start({
      onData: (chunk) => decoder.push(chunk),
      onDrain() {},
      onClose: () => {
        this.isClosed = true;
      },
    });
  }

  write(...chunks: Uint8Array[]): void {
    this.transport.write(chunks, () => {});
  }

  send(type: number, flags: number, stream: number, payload?: Uint8Array): void {
    this.write(frameBytes(type, flags, stream, payload));
  }

  sayHello(changes: Record<string, unknown> = {}): void {
    this.send(FrameType.Hello, 0, 0, encodeValue({ ...rawHello, ...changes }, "hello"));
  }

  of(type: number, stream?: number): Frame[] {
    return this.frames.filter((frame) => frame.type === type && (stream === undefined || frame.stream === stream));
  }

  /** The nth frame of this type that came in. */
  async receive(type: number, nth = 0): Promise<Frame> {
    await eventually(() => this.of(type).length > nth, `frame ${nth} of type ${type} arrives`);
    return this.of(type)[nth] as Frame;
  }
}

/** A peer by hand at one end, a session with methods at the other. */
export class RawRig {
  readonly facts = new Facts();
  readonly peer: RawPeer;
  readonly end: End;

  constructor(
    transports: readonly [Transport, Transport],
    clock: Clock,
    options: {
      readonly side?: "dialer" | "acceptor";
      readonly limits?: Partial<SessionLimits>;
      readonly reads?: boolean;
      readonly isAgent?: boolean;
      readonly budgetBytes?: number;
    } = {},
  ) {
    this.peer = new RawPeer(transports[0], options.reads ?? true);
    this.end = new End(
      transports[1],
      clock,
      options.side ?? "acceptor",
      testMethods(this.facts, () => this.end.host),
      { sessionWindowBytes: sessionWindowBytesMin, streamsMax: streamsMaxMin, ...options.limits },
      {
        isAgent: options.isAgent ?? false,
        ...(options.budgetBytes === undefined ? {} : { budgetBytes: options.budgetBytes }),
      },
    );
  }

  /** A PING has come back: all that was sent before has been handled. */
  async settled(): Promise<void> {
    const seen = this.peer.of(FrameType.Ping).filter((frame) => frame.flags === 1).length;
    this.peer.send(FrameType.Ping, 0, 0, new Uint8Array(8));
    await eventually(
      () => this.peer.of(FrameType.Ping).filter((frame) => frame.flags === 1).length > seen,
      "the PING comes back",
    );
  }

  /** The error that the session ended with. */
  async ended(): Promise<LeverError> {
    await eventually(() => this.end.closedWith !== undefined, "the session ends");
    return this.end.closedWith as LeverError;
  }

  destroy(): void {
    this.end.session.destroy(new LeverError("CANCELLED", "the test is over"));
  }
}
