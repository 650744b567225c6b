/**
 * Agents with apps on a virtual clock, joined by a network in memory that can be cut, slowed, and made to refuse or
 * hang; the tables that an operator would give; and what each agent told its observer. For tests.
 */

import { Channel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import type { AccessPolicy } from "@leveros/protocol/control/access.ts";
import {
  defaultServicePolicy,
  type InstanceState,
  type OwnershipPolicy,
  type ServiceLimits,
  type ServicePolicy,
  type ServiceTable,
  type SlotRow,
} from "@leveros/protocol/control/discovery.ts";
import { encodeRegistration } from "@leveros/protocol/control/registration.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { MethodError } from "@leveros/protocol/error/method-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { type Invocation, InvocationServer, type MethodHost } from "@leveros/protocol/invocation/invocation-server.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { PeerRole } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits, type SessionLimits } from "@leveros/protocol/session/limits.ts";
import {
  decodeFields,
  encodeFields,
  type RoutingFields,
  routingFixedBytes,
} from "@leveros/protocol/session/routing-header.ts";
import { type OpenFrame, Session } from "@leveros/protocol/session/session.ts";
import type { Stream } from "@leveros/protocol/session/stream.ts";
import { isStreamingName } from "@leveros/protocol/target/lever-url.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { type MemoryTransport, memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { copyBytes } from "@leveros/protocol/value/copy-bytes.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import { decodePayload, type Encoded, encodeArgs } from "@leveros/protocol/value/form.ts";
import { Agent, type Discovery } from "./agent.ts";
import type { AgentLimits } from "./limits.ts";
import type { AgentObserver } from "./observer.ts";
import { unknownRow } from "./slot-view.ts";

export const environment = "dev";
export const service = "test";

const defaultOwnership: OwnershipPolicy = {
  slots: 8,
  onUncertain: "Wait",
  onLapse: "Abort",
  leaseMs: 15_000,
  idleMs: 180_000,
};

/** A small generator with a seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** What the observer of an agent was told, as text. */
export class Notes implements AgentObserver {
  readonly ends: string[] = [];
  readonly retries: string[] = [];
  readonly servedCodes: string[] = [];
  moves = 0;
  fences = 0;
  opened = 0;
  closed = 0;

  callEnded(environment: string, service: string, code: string): void {
    this.ends.push(`call ${environment}/${service} ${code}`);
  }

  channelOpened(environment: string, service: string, code: string): void {
    if (code === "OK") this.opened++;
    this.ends.push(`open ${environment}/${service} ${code}`);
  }

  channelClosed(environment: string, service: string, code: string): void {
    this.closed++;
    this.ends.push(`close ${environment}/${service} ${code}`);
  }

  retried(reason: string): void {
    this.retries.push(reason);
  }

  moved(): void {
    this.moves++;
  }

  fenced(): void {
    this.fences++;
  }

  served(code: string): void {
    this.servedCodes.push(code);
  }
}

/** What a method gets first. One of a streaming name gets its channel next. */
export interface Context {
  readonly invocation: Invocation;
  readonly app: App;
}
export type Methods = Readonly<Record<string, (context: Context, ...args: never[]) => unknown>>;

export interface CallOptions {
  readonly timeoutMs?: number;
  readonly fields?: RoutingFields;
  readonly signal?: AbortSignal;
  readonly service?: string;
  readonly environment?: string;
}

/** A process with a session to an agent: an app that serves, one that only calls, or a client outside. */
export class App implements MethodHost {
  readonly session: Session;
  readonly server: InvocationServer;
  readonly world: World;
  readonly name: string;
  closedWith: LeverError | undefined;
  readonly #methods: Methods;
  readonly #transport: Transport;
  readonly #runtime;

  constructor(
    world: World,
    name: string,
    transport: Transport,
    options: {
      readonly methods?: Methods;
      readonly role?: PeerRole;
      readonly limits?: Partial<SessionLimits>;
      readonly environment?: string;
      /** Takes streams by hand instead of with methods. */
      readonly onOpen?: (stream: Stream, open: OpenFrame) => void;
      /** Was dialed, and registers nowhere. */
      readonly isDialed?: boolean;
    } = {},
  ) {
    this.world = world;
    this.name = name;
    this.#methods = options.methods ?? {};
    this.#transport = transport;
    const wheel = new DeadlineWheel(world.clock);
    const budget = new AssemblyBudget(64 * 1024 * 1024);
    const now = () => world.clock.now();
    this.#runtime = { wheel, budget, now };
    this.server = new InvocationServer({ host: this, wheel, budget, now });
    this.session = new Session({
      transport,
      clock: world.clock,
      side: options.isDialed === true ? "acceptor" : "dialer",
      identity: {
        role: options.role ?? "app",
        ...(options.environment === undefined ? {} : { environment: options.environment }),
      },
      limits: { ...defaultSessionLimits, pingIntervalMs: 0, silenceMs: 0, ...options.limits },
      handler: {
        onOpen: options.onOpen ?? ((stream, open) => this.server.onOpen(stream, open)),
        onClose: (error) => {
          this.closedWith = error;
        },
      },
    });
    const names = Object.keys(this.#methods);
    if (names.length > 0 && options.isDialed !== true) {
      const methods = names.map((method) => ({
        name: method,
        kind: isStreamingName(method) ? ("channel" as const) : ("call" as const),
      }));
      this.session.register(encodeRegistration({ methods, resources: false, library: "test", version: "0.0.0" }));
    }
  }

  prepare(invocation: Invocation, args: Encoded): () => unknown {
    const run = this.#methods[invocation.target.method] as ((...args: unknown[]) => unknown) | undefined;
    if (run === undefined) throw new LeverError("METHOD_NOT_FOUND", `there is no ${invocation.target.method}`);
    const values = args.form === "bytes" ? [args.bytes] : decodeArgs(args.bytes);
    return () => run({ invocation, app: this }, ...values);
  }

  prepareChannel(invocation: Invocation, args: Encoded): (channel: Channel) => unknown {
    const run = this.#methods[invocation.target.method] as ((...args: unknown[]) => unknown) | undefined;
    if (run === undefined) throw new LeverError("METHOD_NOT_FOUND", `there is no ${invocation.target.method}`);
    const values = args.form === "bytes" ? [args.bytes] : decodeArgs(args.bytes);
    return (channel) => run({ invocation, app: this }, channel, ...values);
  }

  describeThrown(_invocation: Invocation, thrown: unknown): string {
    return String(thrown);
  }

  #options(options: CallOptions) {
    return {
      timeoutMs: options.timeoutMs ?? 0,
      fields: encodeFields(options.fields ?? {}),
      signal: options.signal,
    };
  }

  #target(method: string, options: CallOptions): Target {
    return new Target(options.environment ?? environment, options.service ?? service, method);
  }

  async call(method: string, args: readonly unknown[] = [], options: CallOptions = {}): Promise<unknown> {
    const target = this.#target(method, options);
    const result = await startCall(this.#runtime, this.session, target, encodeArgs(args), this.#options(options));
    return result.form === "bytes" ? copyBytes(result.bytes) : decodePayload(result.bytes, result.form);
  }

  async open(method: string, args: readonly unknown[] = [], options: CallOptions = {}): Promise<Channel> {
    const target = this.#target(method, options);
    return new Channel(
      await startChannel(this.#runtime, this.session, target, encodeArgs(args), this.#options(options)),
    );
  }

  /** What SIGTERM does: takes no more calls, ends when its methods have returned. */
  stop(): void {
    this.session.goAway(new LeverError("DRAINING", `${this.name} is about to stop`));
  }

  /** What SIGKILL does. */
  kill(): void {
    this.#transport.destroy();
  }
}

/** How the network treats those who dial an address. */
export type Reachability = "open" | "refuses" | "hangs" | "silent";

/** Somebody who can be dialed. */
interface Peer {
  readonly reachability: Reachability;
  readonly dialMs: number;
  dials: number;
  readonly connections: MemoryTransport[];
  accept(transport: Transport): void;
}

/** An agent, and how it is reached. */
export class Node implements Peer {
  readonly world: World;
  readonly id: string;
  readonly address: string;
  readonly agent: Agent;
  readonly notes = new Notes();
  reachability: Reachability = "open";
  /** How long a dial takes. */
  dialMs = 0;
  dials = 0;
  /** The connections that others have dialed. */
  readonly connections: MemoryTransport[] = [];
  app: App | undefined;

  constructor(world: World, id: string, options: NodeOptions) {
    this.world = world;
    this.id = id;
    this.address = options.address ?? `${id}.test:3837`;
    this.agent = new Agent({
      clock: world.clock,
      random: world.random,
      identity: {
        role: options.role ?? "agent",
        ...(options.role === "gateway"
          ? {}
          : { environment: options.environment ?? environment, service: options.service ?? service }),
        instance: id,
      },
      discovery: world.discoveryOf(this),
      dial: (address) => world.dial(address),
      limits: options.limits ?? {},
      sessionLimits: options.sessionLimits ?? world.sessionLimits,
      observer: this.notes,
      ...(options.defaultEnvironment === undefined ? {} : { defaultEnvironment: options.defaultEnvironment }),
    });
  }

  /** An app at this agent's socket. */
  startApp(
    methods: Methods = {},
    options: {
      readonly onOpen?: (stream: Stream, open: OpenFrame) => void;
      readonly limits?: Partial<SessionLimits>;
    } = {},
  ): App {
    const [here, there] = this.world.pair(this.world.slowed(() => this.world.appLatencyMs()));
    this.agent.acceptApp(there);
    const app = new App(this.world, this.id, here, { methods, limits: this.world.sessionLimits, ...options });
    this.app = app;
    return app;
  }

  accept(transport: Transport): void {
    this.agent.acceptPeer(transport);
  }

  /** A client outside, for an agent that is a gateway's. */
  startClient(options: { readonly environment?: string } = {}): App {
    const [here, there] = this.world.pair();
    this.agent.acceptClient(there);
    return new App(this.world, `client of ${this.id}`, here, { role: "client", ...options });
  }

  /** Somebody who works on the services, at an agent that is beside an app. */
  startCaller(
    options: { readonly methods?: Methods; readonly role?: PeerRole; readonly environment?: string } = {},
  ): App {
    const [here, there] = this.world.pair();
    this.agent.acceptCaller(there);
    return new App(this.world, `caller of ${this.id}`, here, { role: "client", environment, ...options });
  }

  /** Breaks all connections that others have to this agent. */
  cut(): void {
    for (const connection of this.connections.splice(0)) connection.destroy();
  }
}

/** What a holder has of a slot. */
export interface Holding {
  readonly epoch: number;
  /** Takes nested calls only; the others are to wait for this epoch. */
  readonly next?: number;
}

/** What a holder was sent. */
export interface Received {
  readonly fields: RoutingFields;
  readonly slot: number | undefined;
  readonly method: string;
  readonly isTaken: boolean;
}

/** An instance that holds slots as the test says: its agent and its app in one. Each connection is a session with it. */
export class Holder implements Peer {
  readonly world: World;
  readonly id: string;
  readonly address: string;
  readonly holds = new Map<number, Holding>();
  readonly received: Received[] = [];
  readonly apps: App[] = [];
  readonly methods: Methods;
  reachability: Reachability = "open";
  dialMs = 0;
  dials = 0;
  readonly connections: MemoryTransport[] = [];
  /** What it says instead of looking at what it holds; undefined: takes the call. */
  refuses: ((fields: RoutingFields, slot: number | undefined) => LeverError | undefined) | undefined;

  /** Takes streams by hand. */
  takes: ((stream: Stream, open: OpenFrame) => void) | undefined;

  constructor(world: World, id: string, methods: Methods) {
    this.world = world;
    this.id = id;
    this.address = `${id}.test:3837`;
    this.methods = methods;
  }

  accept(transport: Transport): void {
    const app: App = new App(this.world, this.id, transport, {
      methods: this.methods,
      role: "agent",
      limits: this.world.sessionLimits,
      isDialed: true,
      onOpen: (stream, open) => this.#onOpen(app, stream, open),
    });
    this.apps.push(app);
  }

  #onOpen(app: App, stream: Stream, open: OpenFrame): void {
    const fields = decodeFields(copyBytes(open.frame.subarray(routingFixedBytes, open.payloadAt)));
    const { slots } = this.world.tableOf(open.target.service).policy.ownership ?? { slots: 0 };
    const slot = fields.resource === undefined ? undefined : slotOf(fields.resource, slots);
    const refusal = this.refuses === undefined ? this.#whyNot(fields, slot) : this.refuses(fields, slot);
    this.received.push({ fields, slot, method: open.target.method, isTaken: refusal === undefined });
    if (refusal === undefined) return (this.takes ?? app.server.onOpen.bind(app.server))(stream, open);
    stream.refuse(encodeFault(refusal));
    stream.release();
  }

  #whyNot({ epoch, chain }: RoutingFields, slot: number | undefined): LeverError | undefined {
    if (slot === undefined) return undefined;
    const held = this.holds.get(slot);
    // Of a service that serves although nobody is known to hold the slot.
    if (held === undefined && epoch === 0) return undefined;
    if (held === undefined || (epoch !== 0 && held.epoch !== epoch)) {
      return moved(Math.max(held?.epoch ?? 0, (epoch ?? 0) + 1));
    }
    return held.next === undefined || chain !== undefined ? undefined : moved(held.next);
  }

  /** Breaks all connections to it. */
  cut(): void {
    for (const connection of this.connections.splice(0)) connection.destroy();
  }
}

export function moved(epoch: number): LeverError {
  return new LeverError("MOVED", "not here", { effect: "none", details: { epoch } });
}

export interface NodeOptions {
  readonly service?: string;
  readonly environment?: string;
  readonly role?: PeerRole;
  readonly address?: string;
  readonly limits?: Partial<AgentLimits>;
  readonly sessionLimits?: Partial<SessionLimits>;
  readonly defaultEnvironment?: string;
}

interface Subscriber {
  readonly service: string;
  readonly onTable: (table: ServiceTable) => void;
}

export class World {
  readonly clock = new VirtualClock(1000);
  readonly random: () => number;
  readonly nodes = new Map<string, Node>();
  /** Of every agent and app that is made from here on. */
  sessionLimits: Partial<SessionLimits> = {};
  /** How long bytes take between agents, and between an agent and its app; each delivery has its own. */
  latencyMs: () => number = () => 0;
  appLatencyMs: () => number = () => 0;
  /** Between agents, bytes come in pieces of at most this size. */
  chunkBytes: number | undefined;
  /** No table is given out. */
  isOperatorAway = false;
  subscriptionsMax = 1000;
  readonly #tables = new Map<string, ServiceTable>();
  readonly #subscribers = new Set<Subscriber>();
  readonly holders: Holder[] = [];
  readonly #byAddress = new Map<string, Peer>();

  constructor(seed = 1) {
    this.random = seeded(seed);
  }

  // ---------------------------------------------------------------- time

  /** Moves time on; promises get their turns. */
  async advance(ms: number): Promise<void> {
    const untilMs = this.clock.now() + ms;
    do await new Promise((resolve) => setImmediate(resolve));
    while (this.clock.step(untilMs));
    this.clock.advance(untilMs - this.clock.now());
  }

  /** Until nothing happens any more that takes no time. */
  settle(): Promise<void> {
    return this.advance(0);
  }

  /** Moves time on until it is so. */
  async until(check: () => boolean, what: string, withinMs = 60_000): Promise<void> {
    const untilMs = this.clock.now() + withinMs;
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (check()) return;
      if (!this.clock.step(untilMs)) throw new Error(`did not happen within ${withinMs} ms: ${what}`);
    }
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.clock.setTimer(resolve, ms);
    });
  }

  // ---------------------------------------------------------------- network

  pair(clock: Clock = this.clock, chunkBytes?: number): [MemoryTransport, MemoryTransport] {
    return memoryTransportPair(clock, chunkBytes === undefined ? {} : { chunkBytes });
  }

  /** The clock, with turns that take as long as bytes do. */
  slowed(latency: () => number): Clock {
    const { clock } = this;
    return {
      now: () => clock.now(),
      setTimer: (callback, delayMs) => clock.setTimer(callback, delayMs),
      clearTimer: (timer) => clock.clearTimer(timer),
      defer: (callback) => {
        const latencyMs = latency();
        if (latencyMs === 0) clock.defer(callback);
        else clock.setTimer(callback, latencyMs);
      },
    };
  }

  dial(address: string): Promise<Transport> {
    const node = this.#byAddress.get(address);
    if (node !== undefined) node.dials++;
    const how = node?.reachability ?? "refuses";
    if (how === "refuses") return Promise.reject(new Error(`connect ECONNREFUSED ${address}`));
    if (how === "hangs" || node === undefined) return new Promise(() => {});
    if (node.dialMs === 0) return Promise.resolve(this.#connect(node, how));
    return this.sleep(node.dialMs).then(() => this.#connect(node, how));
  }

  #connect(node: Peer, how: Reachability): Transport {
    const network = this.slowed(() => this.latencyMs());
    const [here, there] = this.pair(network, this.chunkBytes);
    node.connections.push(there);
    if (how === "open") node.accept(there);
    return here;
  }

  // ---------------------------------------------------------------- the operator

  addNode(id: string, options: NodeOptions = {}): Node {
    const node = new Node(this, id, options);
    this.nodes.set(id, node);
    this.#byAddress.set(node.address, node);
    return node;
  }

  /** An instance in the table that is Serving and holds nothing yet. */
  addHolder(id: string, methods: Methods): Holder {
    const holder = new Holder(this, id, methods);
    this.holders.push(holder);
    this.#byAddress.set(holder.address, holder);
    this.setState(holder, "Serving");
    return holder;
  }

  /** Puts the service into the tables. */
  declare(
    change: {
      readonly idempotent?: boolean;
      /** These are, besides. */
      readonly idempotentMethods?: readonly string[];
      readonly timeoutMs?: number;
      readonly limits?: Partial<ServiceLimits>;
      readonly service?: string;
      /** It holds resources; nobody is known to hold any yet. */
      readonly ownership?: Partial<OwnershipPolicy>;
      /** Public at gateways unless given. */
      readonly access?: Partial<AccessPolicy>;
    } = {},
  ): void {
    const name = change.service ?? service;
    const timeoutMs = change.timeoutMs ?? 30_000;
    const policy: ServicePolicy = {
      methods: [
        { name: "*", timeoutMs, idempotent: change.idempotent ?? false },
        ...(change.idempotentMethods ?? []).map((method) => ({ name: method, timeoutMs, idempotent: true })),
      ],
      limits: { ...defaultServicePolicy.limits, ...change.limits },
      access: { callers: [], gateway: { expose: "Public" }, ...change.access },
      ...(change.ownership && { ownership: { ...defaultOwnership, ...change.ownership } }),
    };
    const count = policy.ownership?.slots ?? 0;
    this.#change(name, ({ slots = [], ...table }) => ({
      ...table,
      exists: true,
      policy,
      ...(count > 0 && {
        slots: slots.length === count ? slots : Array.from({ length: count }, (_, slot) => unknownRow(slot)),
      }),
    }));
  }

  /** Changes one row. Without more than a holder and an epoch, these are all that was ever given out. */
  setRow(slot: number, change: Partial<SlotRow>, name = service): void {
    this.#change(name, (table) => ({
      ...table,
      slots: (table.slots ?? []).map((row) => {
        if (row.slot !== slot) return row;
        const epoch = change.epoch ?? row.epoch;
        return { ...row, ...change, issued: change.issued ?? Math.max(row.issued, epoch) };
      }),
    }));
  }

  rowOf(slot: number, name = service): SlotRow {
    return this.tableOf(name).slots?.[slot] ?? unknownRow(slot);
  }

  /** `holder` has the slot under `epoch` from now on, and the table says so. */
  grant(slot: number, holder: Holder, epoch: number, change: Partial<SlotRow> = {}): void {
    holder.holds.set(slot, { epoch });
    this.setRow(slot, { holder: holder.id, epoch, isMoving: false, ...change });
  }

  setState(node: { readonly id: string; readonly address: string }, state: InstanceState | undefined, name = service) {
    this.#change(name, (table) => {
      const others = table.instances.filter((instance) => instance.id !== node.id);
      const own = state === undefined ? [] : [{ id: node.id, address: node.address, state }];
      return { ...table, instances: [...others, ...own] };
    });
  }

  tableOf(name: string): ServiceTable {
    return (
      this.#tables.get(name) ?? {
        environment,
        service: name,
        version: 0,
        exists: false,
        instances: [],
        policy: defaultServicePolicy,
      }
    );
  }

  /** Gives out the tables again: the operator is back. */
  publish(): void {
    for (const subscriber of this.#subscribers) this.#tell(subscriber);
  }

  #change(name: string, change: (table: ServiceTable) => ServiceTable): void {
    const table = this.tableOf(name);
    this.#tables.set(name, { ...change(table), version: table.version + 1 });
    for (const subscriber of this.#subscribers) if (subscriber.service === name) this.#tell(subscriber);
  }

  #tell(subscriber: Subscriber): void {
    this.clock.defer(() => {
      if (this.isOperatorAway || !this.#subscribers.has(subscriber)) return;
      subscriber.onTable(this.tableOf(subscriber.service));
    });
  }

  get subscriptions(): number {
    return this.#subscribers.size;
  }

  discoveryOf(node: Node): Discovery {
    return {
      subscribe: (_environment, name, onTable, onUnavailable) => {
        if (this.#subscribers.size >= this.subscriptionsMax) throw new LeverError("OVERLOADED", "too many services");
        let isKnown = false;
        const subscriber: Subscriber = {
          service: name,
          onTable: (table) => {
            isKnown = true;
            onTable(table);
          },
        };
        this.#subscribers.add(subscriber);
        this.#tell(subscriber);
        const wait = () => {
          timer = undefined;
          if (isKnown) return;
          timer = this.clock.setTimer(wait, 5000);
          onUnavailable(new LeverError("DISCOVERY_UNAVAILABLE", "no table within 5000 ms"));
        };
        let timer: unknown = this.clock.setTimer(wait, 5000);
        return () => {
          this.#subscribers.delete(subscriber);
          if (timer !== undefined) this.clock.clearTimer(timer);
        };
      },
      register: () => this.setState(node, "Serving"),
      unregister: () => this.setState(node, "Starting"),
      draining: () => this.setState(node, "Draining"),
    };
  }

  // ---------------------------------------------------------------- the end

  /** Nothing is under way at any agent, and nothing was lost on the way: throws what is not so. */
  checkIdle(): void {
    for (const { id, agent, notes } of this.nodes.values()) {
      const { calls, channels, outgoing, held, retainedBytes } = agent.counts;
      const left = { calls, channels, outgoing, held, retainedBytes, deadlines: agent.wheel.size };
      if (Object.values(left).some((count) => count !== 0)) throw new Error(`${id} has left ${JSON.stringify(left)}`);
      if (notes.opened !== notes.closed) {
        throw new Error(`${id} has told of ${notes.opened} channels opened and ${notes.closed} closed`);
      }
      for (const session of agent.sessions) checkCredit(id, session);
      if (agent.counts.heldForResources !== 0) throw new Error(`${id} holds calls for resources`);
      if (this.nodes.get(id)?.app?.session.isClosed === false)
        checkCredit(`${id}'s app`, this.nodes.get(id)?.app?.session as Session);
    }
    for (const { id, apps } of this.holders) {
      for (const { session } of apps) if (!session.isClosed) checkCredit(id, session);
    }
  }

  /** Ends all agents, and checks that no timer is left. */
  async close(): Promise<void> {
    for (const { agent } of this.nodes.values()) agent.close();
    // A wheel's timer is left to run out; a session that was closed gives its peer a second.
    await this.advance(1000);
    for (const { id, agent } of this.nodes.values()) {
      const { sessions, views } = agent.counts;
      if (sessions + views > 0) throw new Error(`${id} has ${sessions} sessions and ${views} views after its end`);
    }
    const left = this.clock.timerCount;
    if (left > 0) throw new Error(`${left} timers are left`);
  }
}

function checkCredit(whose: string, session: Session): void {
  const { receive, ungranted } = session.credit;
  const window = session.limits.sessionWindowBytes;
  if (session.streamCount > 0)
    throw new Error(`${whose}: ${session.streamCount} streams are open with ${session.peerName}`);
  if (receive + ungranted !== window) {
    throw new Error(`${whose}: ${window - receive - ungranted} bytes of credit are lost with ${session.peerName}`);
  }
  if (session.queuedAnswerBytes !== 0)
    throw new Error(`${whose}: ${session.queuedAnswerBytes} bytes of answers are counted`);
}

/** What came of a promise, once it has settled. */
export class Outcome<Value = unknown> {
  isSettled = false;
  settledTimes = 0;
  value: Value | undefined;
  error: LeverError | undefined;
  methodError: MethodError | undefined;

  constructor(promise: Promise<Value>) {
    promise.then(
      (value) => {
        this.settledTimes++;
        this.isSettled = true;
        this.value = value;
      },
      (error: unknown) => {
        this.settledTimes++;
        this.isSettled = true;
        if (LeverError.is(error)) this.error = error;
        else this.methodError = error as MethodError;
      },
    );
  }

  /** `none INSTANCE_UNREACHABLE`, or `ok`. */
  get text(): string {
    if (!this.isSettled) return "open";
    if (this.methodError !== undefined) return "method's error";
    return this.error === undefined ? "ok" : `${this.error.effect} ${this.error.reason}`;
  }
}
