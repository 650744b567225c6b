/**
 * An app with its real connection and server on virtual time, and an agent's end that says and hears what an agent does:
 * the session, the channel about slots, calls to the app and from it. For tests.
 */

import { Channel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import type { LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import {
  type AgentToAppMessage,
  type AppHolder,
  type AppMessage,
  type ClosedMessage,
  type ConfigMessage,
  decodeAppHolder,
  decodeAppMessage,
  type StateMessage,
  type TokenMessage,
} from "@leveros/protocol/control/ownership.ts";
import { decodeRegistration, type Registration } from "@leveros/protocol/control/registration.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { MethodError } from "@leveros/protocol/error/method-error.ts";
import { AssemblyBudget, assemblyBytesMax } from "@leveros/protocol/invocation/assembly.ts";
import { type Invocation, InvocationServer, type MethodHost } from "@leveros/protocol/invocation/invocation-server.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import { decodeReceived } from "@leveros/protocol/invocation/received-item.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { encodeFields, type RoutingFields } from "@leveros/protocol/session/routing-header.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Stream } from "@leveros/protocol/session/stream.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import { decodePayload, type Encoded, encodeArgs, encodeMessage } from "@leveros/protocol/value/form.ts";
import { Client, type OwnConnection, ownConnection } from "../client.ts";
import { Connection } from "../connection.ts";
import { type ErrorFacts, MethodServer, type MethodServerOptions } from "../method-server.ts";
import type { ResourceClass } from "./resource-methods.ts";

const limits = { ...defaultSessionLimits, pingIntervalMs: 0, silenceMs: 0, goAwayGraceMs: 3_700_000 };
export const wallStartMs = 1_800_000_000_000;

const config: ConfigMessage = { type: "config", slots: 4, idleMs: 180_000, onLapse: "Abort", servesUncertain: false };

export interface Items {
  readonly states: Readonly<Record<string, unknown>>;
  readonly tokens: readonly { readonly message: TokenMessage; readonly bytes: Uint8Array }[];
}

export interface CallFields extends RoutingFields {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** A call that the app has made. */
export interface AppCall {
  readonly method: string;
  readonly fields: RoutingFields;
  readonly args: unknown[];
  readonly invocation: Invocation;
}

/** One agent, from its start on. */
export class AgentEnd implements MethodHost {
  readonly session: Session;
  readonly #world: World;
  readonly #runtime;
  readonly #server: InvocationServer;
  registration: Registration | undefined;
  holder: AppHolder | undefined;
  #hold: Channel<unknown, unknown> | undefined;
  readonly messages: AppMessage[] = [];
  /** By slot, of the last `closed`. */
  readonly handed = new Map<number, Items>();
  readonly #items: { message: StateMessage | TokenMessage; bytes: Uint8Array }[] = [];
  readonly calls: AppCall[] = [];
  readonly #streams: Stream[] = [];
  #pings = 0;
  closedWith: LeverError | undefined;
  goAway: LeverError | undefined;

  constructor(world: World, transport: Transport) {
    this.#world = world;
    const { clock } = world;
    this.#runtime = {
      wheel: new DeadlineWheel(clock),
      budget: new AssemblyBudget(assemblyBytesMax),
      now: () => clock.now(),
    };
    this.#server = new InvocationServer({ host: this, ...this.#runtime });
    this.session = new Session({
      transport,
      clock,
      side: "acceptor",
      identity: { role: "agent" },
      limits,
      handler: {
        onRegister: (payload) => {
          this.registration = decodeRegistration(payload);
        },
        onOpen: (stream, open) => {
          this.#streams.push(stream);
          this.#server.onOpen(stream, open);
        },
        onGoAway: (error) => {
          this.goAway = error;
        },
        onClose: (error) => {
          this.closedWith = error;
        },
      },
    });
  }

  // ---------------------------------------------------------------- the channel about slots

  prepareChannel(invocation: Invocation, args: Encoded): (channel: Channel) => unknown {
    const values = decodeArgs(args.bytes);
    if (invocation.target.method !== "ownershipChan") return this.#run(invocation, values);
    this.holder = decodeAppHolder(values);
    return async (channel) => {
      this.#hold = channel as Channel<unknown, unknown>;
      this.send(this.#world.config);
      this.ping();
      let expected: StateMessage | TokenMessage | undefined;
      for await (const value of channel) {
        if (expected !== undefined) {
          this.#items.push({ message: expected, bytes: value as Uint8Array });
          expected = undefined;
          continue;
        }
        const message = decodeAppMessage(value) as AppMessage;
        this.messages.push(message);
        if (message.type === "state" || message.type === "token") expected = message;
        if (message.type === "closed") this.#closed(message);
        if (message.type === "pong" && this.#world.leaseMs !== undefined) {
          const left = this.#world.leaseMs;
          this.send({ type: "lease", n: message.asks, admitMs: left, killMs: left + 3000, gateMs: left + 4300 });
        }
      }
    };
  }

  #closed({ slot }: ClosedMessage): void {
    const states: Record<string, unknown> = {};
    const tokens: Items["tokens"][number][] = [];
    for (const { message, bytes } of this.#items.splice(0)) {
      if (message.type === "token") tokens.push({ message, bytes });
      else states[message.resource] = decodePayload(bytes, message.form === "bytes" ? "bytes" : "value");
    }
    this.handed.set(slot, { states, tokens });
  }

  send(message: AgentToAppMessage): void {
    void this.#hold?.send(message).catch(() => {});
  }

  ping(): void {
    this.send({ type: "ping", n: ++this.#pings });
  }

  open(
    slot: number,
    epoch: number,
    more: { keeps?: number; absent?: "fresh" | "lost"; tokensSince?: number } = {},
  ): void {
    const { absent = "fresh", tokensSince = 0, keeps } = more;
    this.send({ type: "open", slot, epoch, absent, tokensSince, ...(keeps !== undefined && { keeps }) });
  }

  /** As one of `open`'s items. */
  state(slot: number, epoch: number, resource: string, value: unknown): void {
    const { bytes, form } = encodeMessage(value, "state");
    this.send({ type: "state", slot, epoch, resource, form });
    void this.#hold?.send(bytes);
  }

  token(slot: number, epoch: number, { message, bytes }: Items["tokens"][number]): void {
    this.send({ ...message, slot, epoch });
    void this.#hold?.send(bytes);
  }

  of<Type extends AppMessage["type"]>(type: Type): Extract<AppMessage, { type: Type }>[] {
    return this.messages.filter((message): message is Extract<AppMessage, { type: Type }> => message.type === type);
  }

  /** Tells the app's open channels to move. */
  move(): void {
    for (const stream of this.#streams) if (stream.isChannel) stream.move();
  }

  /** Ends them, as when an instance is lost. */
  reset(error: LeverError): void {
    for (const stream of this.#streams) if (stream.isChannel) stream.reset(encodeFault(error));
  }

  endHold(): void {
    this.#hold?.cancel();
  }

  // ---------------------------------------------------------------- calls

  prepare(invocation: Invocation, args: Encoded): () => unknown {
    return this.#run(invocation, decodeArgs(args.bytes));
  }

  #run(invocation: Invocation, args: unknown[]): (...first: unknown[]) => unknown {
    const { method } = invocation.target;
    const call: AppCall = { method, fields: invocation.fields, args, invocation };
    this.calls.push(call);
    return (...first) => this.#world.answer(call, first[0] as Channel);
  }

  describeThrown(_invocation: Invocation, thrown: unknown): string {
    return String(thrown);
  }

  /** A call to a resource under the epoch, or to a plain method without one. */
  call(resource: string | undefined, method: string, args: unknown[] = [], more: CallFields = {}): Promise<unknown> {
    const { timeoutMs = 20_000, signal, ...fields } = more;
    return startCall(this.#runtime, this.session, new Target("test", "chat", method), encodeArgs(args), {
      timeoutMs,
      signal,
      fields: encodeFields(resource === undefined ? fields : { epoch: 1, ...fields, resource }),
    }).then((result) => decodeReceived(result));
  }

  async channel(resource: string, method: string, args: unknown[] = [], more: CallFields = {}): Promise<Channel> {
    const { timeoutMs = 20_000, signal, ...fields } = more;
    const raw = await startChannel(this.#runtime, this.session, new Target("test", "chat", method), encodeArgs(args), {
      timeoutMs,
      signal,
      fields: encodeFields({ epoch: 1, ...fields, resource }),
    });
    return new Channel(raw);
  }
}

export interface Report extends ErrorFacts {
  readonly error: unknown;
}

export class World {
  readonly clock = new VirtualClock();
  config = config;
  /** What the agent says is left of the lease; undefined: it does not answer. */
  leaseMs: number | undefined = 10_000;
  /** Of the lease's clock beyond that of timers: the process was stopped. */
  pausedMs = 0;
  readonly connection: Connection;
  readonly client: Client;
  readonly reports: Report[] = [];
  readonly agents: AgentEnd[] = [];
  /** What calls from the app get. */
  answer: (call: AppCall, channel: Channel) => unknown = () => null;
  readonly server: MethodServer;
  isReachable = true;

  constructor(resource: ResourceClass | undefined, methods: object = {}, options: Partial<MethodServerOptions> = {}) {
    const leaseClock: LeaseClock = {
      read: () => {
        const now = this.clock.now() + this.pausedMs;
        return { monotonicMs: now, bootMs: now, wallMs: wallStartMs + now };
      },
    };
    this.connection = new Connection({
      identity: { role: "app", instance: "chat-1" },
      name: "the agent",
      limits,
      clock: this.clock,
      leaseClock,
      random: () => 0.5,
      dial: async () => {
        if (!this.isReachable) throw new Error("nobody listens");
        const [near, far] = memoryTransportPair(this.clock);
        this.agents.push(new AgentEnd(this, far));
        return near;
      },
    });
    const own: OwnConnection = { [ownConnection]: this.connection };
    this.client = new Client(own);
    this.server = new MethodServer(this.connection.retain(), methods, {
      drainTimeoutMs: 25_000,
      onError: (error, facts) => this.reports.push({ error, ...facts }),
      instance: "chat-1",
      showsErrors: true,
      isHome: true,
      process: "process-1",
      resource,
      ...options,
    });
  }

  static async start(
    resource: ResourceClass | undefined,
    methods: object = {},
    options: Partial<MethodServerOptions> = {},
    more: Partial<ConfigMessage> = {},
  ): Promise<World> {
    const world = new World(resource, methods, options);
    world.config = { ...config, ...more };
    void world.server.start(10_000);
    await world.settle();
    return world;
  }

  get agent(): AgentEnd {
    return this.agents.at(-1) as AgentEnd;
  }

  slot(resource: string): number {
    return slotOf(resource, this.config.slots);
  }

  /** With all slots open under epoch 1. */
  async openAll(epoch = 1): Promise<void> {
    for (let slot = 0; slot < this.config.slots; slot++) this.agent.open(slot, epoch);
    await this.settle();
  }

  /** Everything that can happen without time passing. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; ) {
      await new Promise((resolve) => setImmediate(resolve));
      const before = this.clock.now();
      quiet = this.clock.step(before) ? 0 : quiet + 1;
    }
  }

  /** Time passes, and all that it brings about happens on the way. The agent pings once a second. */
  async pass(ms: number, pings = true): Promise<void> {
    const until = this.clock.now() + ms;
    for (;;) {
      await this.settle();
      const nextPing = pings ? Math.floor(this.clock.now() / 1000) * 1000 + 1000 : Number.POSITIVE_INFINITY;
      const next = Math.min(this.clock.nextDueAtMs ?? Number.POSITIVE_INFINITY, nextPing, until);
      this.clock.advance(Math.max(next - this.clock.now(), 0));
      if (pings && this.clock.now() === nextPing) this.agent.ping();
      if (this.clock.now() >= until) break;
    }
    await this.settle();
  }

  /** Of the calls to the agent, those that name this method. */
  callsTo(method: string): AppCall[] {
    return this.agents.flatMap(({ calls }) => calls).filter((call) => call.method === method);
  }

  close(): void {
    this.connection.destroy();
  }
}

/** What became of a promise, without waiting for it. */
export class Outcome {
  value: unknown = undefined;
  error: LeverError | MethodError | undefined;
  isSettled = false;

  constructor(promise: Promise<unknown>) {
    promise.then(
      (value) => {
        this.value = value;
        this.isSettled = true;
      },
      (error: unknown) => {
        this.error = error as LeverError;
        this.isSettled = true;
      },
    );
  }

  get reason(): string | undefined {
    return LeverError.is(this.error) ? `${this.error.reason} ${this.error.effect}` : undefined;
  }
}
