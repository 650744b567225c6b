/**
 * An agent between a leader, an app and callers that speak the real messages, on a virtual clock whose machine can be
 * suspended. For tests.
 */

import { Channel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import {
  defaultServicePolicy,
  type OwnershipPolicy,
  operatorEnvironment,
  type ServiceTable,
  type SlotRow,
} from "@leveros/protocol/control/discovery.ts";
import {
  type AgentToAppMessage,
  type AppHolder,
  agentService,
  decodeAgentToAppMessage,
  decodeHolderIdentity,
  decodeHolderMessage,
  type HolderIdentity,
  type HolderMessage,
  type LeaderMessage,
  type OpenSlotMessage,
  ownershipMethod,
  type RenewMessage,
  type SlotOrigin,
} from "@leveros/protocol/control/ownership.ts";
import { encodeRegistration } from "@leveros/protocol/control/registration.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { decodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Flag, FrameType } from "@leveros/protocol/frame/frame.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { type Invocation, InvocationServer, type MethodHost } from "@leveros/protocol/invocation/invocation-server.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { PeerRole } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { encodeFields, type RoutingFields } from "@leveros/protocol/session/routing-header.ts";
import { Session, type SessionHandler } from "@leveros/protocol/session/session.ts";
import type { Stream, StreamHandler } from "@leveros/protocol/session/stream.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { type MemoryTransport, memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import { decodePayload, type Encoded, encodeArgs, encodeMessage } from "@leveros/protocol/value/form.ts";
import { Agent, type Discovery } from "../agent.ts";
import { encodeChain, nestedChain } from "../call-chain.ts";
import type { AgentLimits } from "../limits.ts";
import { seeded } from "../world.fixture.ts";

export const environment = "dev";
export const service = "rooms";
export const slots = 8;
/** As the field Chain: the call is made by a method of a resource. */
export const nested = encodeChain(nestedChain);

const defaultOwnership: OwnershipPolicy = {
  slots,
  onUncertain: "Wait",
  onLapse: "Abort",
  leaseMs: 15_000,
  idleMs: 180_000,
};

/** A resource in the slot. */
export function resourceIn(slot: number, count = slots): string {
  for (let i = 0; ; i++) if (slotOf(`room-${i}`, count) === slot) return `room-${i}`;
}

export class HolderWorld {
  readonly clock = new VirtualClock(1000);
  readonly random = seeded(1);
  ownership: OwnershipPolicy | undefined = defaultOwnership;
  readonly leader: FakeLeader;
  readonly agents = new Map<string, HolderAgent>();
  /** What other clocks than the monotonic one are ahead. */
  bootAheadMs = 500;
  wallAheadMs = 1_700_000_000_000;
  rows: SlotRow[] = Array.from({ length: slots }, (_, slot) => row(slot));
  readonly listeners = new Set<(table: ServiceTable) => void>();

  constructor() {
    this.leader = new FakeLeader(this);
  }

  addAgent(instance: string, limits: Partial<AgentLimits> = {}): HolderAgent {
    const agent = new HolderAgent(this, instance, limits);
    this.agents.set(agent.address, agent);
    return agent;
  }

  get wallMs(): number {
    return this.clock.now() + this.wallAheadMs;
  }

  /** The machine sleeps: timers and the monotonic clock stand still. */
  suspend(ms: number): void {
    this.bootAheadMs += ms;
    this.wallAheadMs += ms;
  }

  /** Moves time on; promises get their turns. */
  async advance(ms: number): Promise<void> {
    const untilMs = this.clock.now() + ms;
    do for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
    while (this.clock.step(untilMs));
    this.clock.advance(untilMs - this.clock.now());
  }

  settle(): Promise<void> {
    return this.advance(0);
  }

  /** What comes of the promise without time passing. */
  async finish<Value>(promise: Promise<Value>): Promise<Value> {
    let isSettled = false;
    const settled = () => {
      isSettled = true;
    };
    promise.then(settled, settled);
    await this.settle();
    if (!isSettled) throw new Error("it takes time");
    return promise;
  }

  table(): ServiceTable {
    return {
      environment,
      service,
      version: 1,
      exists: true,
      instances: [],
      policy: { ...defaultServicePolicy, ...(this.ownership !== undefined && { ownership: this.ownership }) },
      ...(this.ownership !== undefined && { slots: this.rows }),
    };
  }

  publish(): void {
    for (const listener of this.listeners) listener(this.table());
  }

  session(transport: Transport, side: "dialer" | "acceptor", role: PeerRole, handler: SessionHandler): Session {
    return new Session({
      transport,
      clock: this.clock,
      side,
      identity: { role, environment },
      limits: { ...defaultSessionLimits, pingIntervalMs: 0, silenceMs: 0 },
      handler,
    });
  }

  server(host: Partial<MethodHost>): InvocationServer {
    return new InvocationServer({
      host: {
        prepare: ({ target }) => {
          throw new LeverError("METHOD_NOT_FOUND", `no ${target.method}`);
        },
        prepareChannel: ({ target }) => {
          throw new LeverError("METHOD_NOT_FOUND", `no ${target.method}`);
        },
        describeThrown: (_invocation, thrown) => String(thrown),
        ...host,
      },
      ...this.runtime(),
    });
  }

  runtime() {
    return {
      wheel: new DeadlineWheel(this.clock),
      budget: new AssemblyBudget(64 * 1024 * 1024),
      now: () => this.clock.now(),
    };
  }

  /** Ends all, and checks that no timer is left. */
  async close(): Promise<void> {
    for (const { agent } of this.agents.values()) agent.close();
    await this.advance(6000);
    if (this.clock.timerCount > 0) throw new Error(`${this.clock.timerCount} timers are left`);
  }
}

export function row(slot: number, change: Partial<SlotRow> = {}): SlotRow {
  return { slot, holder: "", epoch: 0, issued: 0, isMoving: false, fence: 0, ...change };
}

export class HolderAgent {
  readonly world: HolderWorld;
  readonly instance: string;
  readonly address: string;
  readonly agent: Agent;
  app: FakeApp | undefined;
  readonly connections: MemoryTransport[] = [];

  constructor(world: HolderWorld, instance: string, limits: Partial<AgentLimits>) {
    this.world = world;
    this.instance = instance;
    this.address = `${instance}.test:3837`;
    const { clock } = world;
    const discovery: Discovery = {
      subscribe(_environment, name, onTable) {
        if (name !== service) return () => {};
        world.listeners.add(onTable);
        clock.defer(() => {
          if (world.listeners.has(onTable)) onTable(world.table());
        });
        return () => world.listeners.delete(onTable);
      },
      register() {},
      unregister() {},
      draining() {},
    };
    this.agent = new Agent({
      clock,
      random: world.random,
      identity: { role: "agent", environment, service, instance },
      discovery,
      dial: async (address) => {
        const other = world.agents.get(address);
        if (other === undefined) throw new Error(`nobody listens at ${address}`);
        return other.connect();
      },
      limits,
      ownership: {
        leaseClock: {
          read: () => ({
            monotonicMs: clock.now(),
            bootMs: clock.now() + world.bootAheadMs,
            wallMs: clock.now() + world.wallAheadMs,
          }),
        },
        address: this.address,
        dialLeader: async () => world.leader.connect(),
      },
    });
  }

  /** The far end of a connection that is accepted as a peer's. */
  connect(): Transport {
    const [here, there] = memoryTransportPair(this.world.clock);
    this.connections.push(there);
    this.agent.acceptPeer(there);
    return here;
  }

  startApp(options: FakeAppOptions = {}): FakeApp {
    this.app = new FakeApp(this, options);
    return this.app;
  }

  /** An agent that calls this one. */
  startPeer(): Peer {
    return new Peer(this.world, this.connect());
  }
}

/** An agent that sends calls. */
export class Peer {
  readonly session: Session;
  readonly world: HolderWorld;
  readonly #runtime;

  constructor(world: HolderWorld, transport: Transport) {
    this.world = world;
    this.#runtime = world.runtime();
    this.session = world.session(transport, "dialer", "agent", {});
  }

  call(method: string, fields: RoutingFields, args: readonly unknown[] = []): Promise<unknown> {
    const target = new Target(environment, service, method);
    const options = { timeoutMs: 0, fields: encodeFields(fields) };
    return startCall(this.#runtime, this.session, target, encodeArgs(args), options).then((result) =>
      decodePayload(result.bytes, result.form),
    );
  }

  openUnread(method: string, fields: RoutingFields): Promise<UnreadChannel> {
    const channel = new UnreadChannel(this.session, new Target(environment, service, method), encodeFields(fields));
    return new Promise((resolve) => {
      channel.onOpen = () => resolve(channel);
    });
  }

  async open(method: string, fields: RoutingFields, args: readonly unknown[] = []): Promise<Channel> {
    const target = new Target(environment, service, method);
    const options = { timeoutMs: 0, fields: encodeFields(fields) };
    return new Channel(await startChannel(this.#runtime, this.session, target, encodeArgs(args), options));
  }
}

/** A channel whose caller gives no credit. */
export class UnreadChannel implements StreamHandler {
  readonly #stream: Stream;
  readonly ends: string[] = [];
  onOpen: () => void = () => {};

  constructor(session: Session, target: Target, fields: Uint8Array) {
    const { bytes } = encodeArgs([]);
    this.#stream = session.open(target, Flag.Channel, 0, fields, bytes, this);
  }

  onFrame(_stream: Stream, type: number, _flags: number, payload: Uint8Array): void {
    if (type === FrameType.Accept) this.onOpen();
    if (type === FrameType.Reset) this.ends.push(`RESET ${decodeFault(payload).reason}`);
  }

  onWritable(): void {}

  onLost(_stream: Stream, error: LeverError): void {
    this.ends.push(`lost ${error.reason}`);
  }

  send(message: unknown): void {
    this.#stream.send(FrameType.Message, 0, encodeMessage(message, "message").bytes);
  }

  end(): void {
    this.#stream.send(FrameType.End, 0, new Uint8Array(0));
  }
}

export interface FakeAppOptions {
  readonly holder?: AppHolder;
  readonly resources?: boolean;
  /** Does not open the channel about slots. */
  readonly isSilent?: boolean;
}

/** An app with methods `echo` (returns its argument), `wait` (until let go), `waitChan` and `echoChan`. */
export class FakeApp {
  readonly session: Session;
  readonly world: HolderWorld;
  readonly received: AgentToAppMessage[] = [];
  /** Bytes of `state` and `token` messages. */
  readonly bytes: Uint8Array[] = [];
  channel: Channel | undefined;
  /** It answers pings, and opens slots. */
  answers = true;
  opens = true;
  /** Names the streams of methods that outlive them. */
  orphans: number[] | undefined;
  /** The newest answer to its questions. */
  lease: { admitMs: number; killMs: number; gateMs: number } | undefined;
  readonly running = new Map<Invocation, (value: unknown) => void>();
  readonly entered: Invocation[] = [];
  readonly closedWith: LeverError[] = [];
  readonly #transport: MemoryTransport;
  #asked = 0;

  /** Channels are entered only then. */
  hesitation: Promise<void> | undefined;

  constructor({ world, agent }: HolderAgent, options: FakeAppOptions) {
    this.world = world;
    const [here, there] = memoryTransportPair(world.clock);
    this.#transport = here;
    const server = world.server({
      prepare: (invocation, args) => () => this.#run(invocation, args),
      prepareChannel: (invocation, args) => {
        const run = (channel: Channel) => this.#runChannel(invocation, channel, args);
        return this.hesitation?.then(() => run) ?? run;
      },
    });
    agent.acceptApp(there);
    this.session = world.session(here, "dialer", "app", {
      onOpen: (stream, open) => server.onOpen(stream, open),
      onClose: (error) => this.closedWith.push(error),
    });
    this.session.register(
      encodeRegistration({
        methods: [{ name: "plain", kind: "call" }],
        resources: options.resources ?? true,
        library: "test",
        version: "0.0.0",
      }),
    );
    if (options.isSilent !== true) void this.open(options.holder ?? { process: "p1", holds: [] });
  }

  #run(invocation: Invocation, args: Encoded): unknown {
    this.entered.push(invocation);
    const [value] = decodeArgs(args.bytes);
    if (invocation.target.method !== "wait") return value ?? null;
    return new Promise((resolve) => {
      this.running.set(invocation, resolve);
    });
  }

  async #runChannel(invocation: Invocation, channel: Channel, _args: Encoded): Promise<void> {
    this.entered.push(invocation);
    if (invocation.target.method === "echoChan") {
      for await (const message of channel) await channel.send(message);
      return;
    }
    await new Promise((resolve) => {
      this.running.set(invocation, resolve);
    });
  }

  /** Its methods return. */
  letGo(value: unknown = "done"): void {
    for (const resolve of this.running.values()) resolve(value);
    this.running.clear();
  }

  async open(holder: AppHolder): Promise<void> {
    const target = new Target(operatorEnvironment, agentService, ownershipMethod);
    const options = { timeoutMs: 5000, fields: new Uint8Array(0) };
    const args = encodeArgs([holder]);
    try {
      const channel = new Channel(await startChannel(this.world.runtime(), this.session, target, args, options));
      this.channel = channel;
      for await (const value of channel) this.#onMessage(value);
    } catch {
      // Refused, or the agent has gone.
    }
  }

  #onMessage(value: unknown): void {
    if (value instanceof Uint8Array) {
      this.bytes.push(value);
      return;
    }
    const message = decodeAgentToAppMessage(value) as AgentToAppMessage;
    this.received.push(message);
    if (message.type === "ping" && this.answers) this.pong(message.n);
    else if (message.type === "open" && this.opens)
      this.say({ type: "opened", slot: message.slot, epoch: message.epoch });
    else if (message.type === "lease") this.lease = message;
  }

  pong(n: number): void {
    this.#asked++;
    const { orphans } = this;
    this.say({ type: "pong", n, asks: this.#asked, ...(orphans !== undefined && { orphans }) });
  }

  say(message: unknown): void {
    this.channel?.send(message).catch(() => {});
  }

  /** Answers what it did not answer. */
  wake(): void {
    this.answers = true;
    for (const message of this.received) if (message.type === "ping") this.pong(message.n);
  }

  closed(slot: number, epoch: number, change: Record<string, unknown> = {}): void {
    this.say({ type: "closed", slot, epoch, hasState: true, absent: "fresh", tokensSince: 0, ...change });
  }

  ofType<Type extends AgentToAppMessage["type"]>(type: Type): Extract<AgentToAppMessage, { type: Type }>[] {
    return this.received.filter((message) => message.type === type) as Extract<AgentToAppMessage, { type: Type }>[];
  }

  opened(slot: number): OpenSlotMessage | undefined {
    return this.ofType("open").findLast((message) => message.slot === slot);
  }

  /** What SIGKILL does. */
  kill(): void {
    this.#transport.destroy();
  }
}

/** One connection of an incarnation. */
export class LeaderConnection {
  readonly identity: HolderIdentity;
  readonly channel: Channel;
  readonly received: HolderMessage[] = [];
  isOver = false;

  constructor(identity: HolderIdentity, channel: Channel) {
    this.identity = identity;
    this.channel = channel;
  }

  send(message: LeaderMessage): void {
    this.channel.send(message).catch(() => {});
  }

  grant(slot: number, epoch: number, origin: SlotOrigin = { memory: "fresh" }): void {
    this.send({ type: "grant", slots: [{ slot, epoch, origin }] });
  }

  ofType<Type extends HolderMessage["type"]>(type: Type): Extract<HolderMessage, { type: Type }>[] {
    return this.received.filter((message) => message.type === type) as Extract<HolderMessage, { type: Type }>[];
  }

  get released(): string[] {
    return this.ofType("released").flatMap(({ slots }) =>
      slots.map(({ slot, epoch, hasState }) => `${slot}@${epoch}${hasState ? " with state" : ""}`),
    );
  }

  get isSilent(): boolean {
    return this.ofType("silent").length > 0;
  }

  get held(): string[] {
    return this.ofType("held").flatMap(({ slots }) => slots.map(({ slot, epoch }) => `${slot}@${epoch}`));
  }
}

export class FakeLeader {
  readonly world: HolderWorld;
  readonly connections: LeaderConnection[] = [];
  /** Answers renewals at once. */
  renews = true;
  isAway = false;
  /** Takes that long to accept an incarnation. */
  hesitation: Promise<void> | undefined;
  /** Refuses every incarnation with this. */
  refusal: LeverError | undefined;
  readonly #sessions = new Set<Session>();
  readonly #server: InvocationServer;

  constructor(world: HolderWorld) {
    this.world = world;
    this.#server = world.server({
      prepareChannel: async (invocation, args) => {
        if (this.refusal !== undefined) throw this.refusal;
        await this.hesitation;
        const identity = decodeHolderIdentity(decodeArgs(args.bytes));
        if (invocation.target.method !== ownershipMethod) throw new Error(invocation.target.text);
        return async (channel) => {
          const connection = new LeaderConnection(identity, channel);
          this.connections.push(connection);
          try {
            for await (const value of channel) {
              const message = decodeHolderMessage(value) as HolderMessage;
              connection.received.push(message);
              if (message.type === "renew" && this.renews) connection.send({ type: "renewed", n: message.n });
            }
          } finally {
            connection.isOver = true;
          }
        };
      },
    });
  }

  connect(): Session {
    if (this.isAway) throw new Error("connect ECONNREFUSED");
    const [here, there] = memoryTransportPair(this.world.clock);
    const session: Session = this.world.session(there, "acceptor", "operator", {
      onOpen: (stream, open) => this.#server.onOpen(stream, open),
      onClose: () => this.#sessions.delete(session),
    });
    this.#sessions.add(session);
    return this.world.session(here, "dialer", "agent", {});
  }

  /** Breaks all connections. */
  cut(): void {
    for (const session of [...this.#sessions]) session.destroy(new LeverError("CONNECTION_LOST", "cut"));
  }

  get last(): LeaderConnection {
    const last = this.connections.at(-1);
    if (last === undefined) throw new Error("no incarnation has connected");
    return last;
  }

  renewals(connection = this.last): RenewMessage[] {
    return connection.ofType("renew");
  }
}
