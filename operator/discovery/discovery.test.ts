/** The operator's discovery and the agent's client together, over memory transports in virtual time. */

import { setImmediate as nextTurn } from "node:timers/promises";
import { DiscoveryClient, type DiscoveryClientOptions } from "@leveros/agent/core/discovery-client.ts";
import { Channel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import type { AccessPolicy } from "@leveros/protocol/control/access.ts";
import {
  type DiscoveryIdentity,
  defaultServicePolicy,
  type ServicePolicy,
  type ServiceTable,
} from "@leveros/protocol/control/discovery.ts";
import type { Registration } from "@leveros/protocol/control/registration.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { InvocationServer } from "@leveros/protocol/invocation/invocation-server.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EndpointTables } from "../core/endpoint-table.ts";
import { type RegistryObserver, ServiceRegistry } from "../core/service-registry.ts";
import { DiscoveryServer, type DiscoveryServerOptions } from "./discovery-server.ts";
import { GatedTransport } from "./gated-transport.fixture.ts";

const gateway: DiscoveryIdentity = { role: "gateway" };
const registration: Registration = {
  methods: [
    { name: "sayHello", kind: "call" },
    { name: "uploadChan", kind: "channel" },
  ],
  resources: false,
  library: "leveros",
  version: "0.1.0",
};

interface Agent {
  readonly client: DiscoveryClient;
  /** All its connections, the last one last. */
  readonly transports: GatedTransport[];
  readonly sessions: Session[];
  readonly dialledAt: number[];
  readonly errors: LeverError[];
}

/** One operator (at a time) and its agents. */
class World {
  readonly clock = new VirtualClock();
  tables!: EndpointTables;
  registry!: ServiceRegistry;
  server!: DiscoveryServer;
  operatorSessions: Session[] = [];
  isUp = true;
  readonly events: string[] = [];
  readonly serverErrors: LeverError[] = [];
  readonly agents: Agent[] = [];
  readonly #serverOptions: Partial<DiscoveryServerOptions>;
  readonly #removedMax: number;
  #runs = 0;

  constructor(serverOptions: Partial<DiscoveryServerOptions> = {}, removedMax = 1000) {
    this.#serverOptions = serverOptions;
    this.#removedMax = removedMax;
    this.startOperator();
  }

  startOperator(startVersion = 1_700_000_000_000 + this.clock.now()): void {
    this.isUp = true;
    const observer: RegistryObserver = {
      onRegistered: ({ instance }, { methods }) => this.events.push(`${instance} serves ${methods.length}`),
      onUnregistered: ({ instance }) => this.events.push(`${instance} is without app`),
      onState: ({ instance }, state) => this.events.push(`${instance} ${state}`),
    };
    this.tables = new EndpointTables({
      startVersion,
      origin: `run-${++this.#runs}`,
      removedMax: this.#removedMax,
    });
    this.registry = new ServiceRegistry({ tables: this.tables, clock: this.clock, observer });
    this.server = new DiscoveryServer({
      registry: this.registry,
      clock: this.clock,
      onDisconnected: (_identity, _peer, error) => {
        if (error !== undefined) this.serverErrors.push(error);
      },
      ...this.#serverOptions,
    });
  }

  /** Without a word to anyone, as a killed process. */
  killOperator(): void {
    this.isUp = false;
    this.registry.close();
    for (const session of this.operatorSessions) session.destroy(new LeverError("INTERNAL", "killed"));
    this.operatorSessions = [];
  }

  /** Of an agent of the environment, unless it is told otherwise. */
  dial(identity: Identity = { role: "agent", environment: "dev" }): { session: Session; transport: GatedTransport } {
    if (!this.isUp) throw new LeverError("CONNECTION_LOST", "connection refused", { effect: "none" });
    const [a, b] = memoryTransportPair(this.clock);
    const transport = new GatedTransport(a);
    this.operatorSessions.push(this.server.accept(b));
    const session = new Session({
      transport,
      clock: this.clock,
      side: "dialer",
      identity,
      limits: defaultSessionLimits,
      handler: {
        onOpen(stream) {
          stream.refuse(new Uint8Array(0));
        },
      },
    });
    return { session, transport };
  }

  agent(identity: DiscoveryIdentity = gateway, options: Partial<DiscoveryClientOptions> = {}): Agent {
    const transports: GatedTransport[] = [];
    const sessions: Session[] = [];
    const dialledAt: number[] = [];
    const errors: LeverError[] = [];
    const client = new DiscoveryClient({
      dial: async () => {
        dialledAt.push(this.clock.now());
        const { session, transport } = this.dial(identity.instance === undefined ? undefined : identity);
        transports.push(transport);
        sessions.push(session);
        return session;
      },
      clock: this.clock,
      random: () => 0.5,
      identity,
      onDisconnected: (error) => errors.push(error),
      ...options,
    });
    const agent = { client, transports, sessions, dialledAt, errors };
    this.agents.push(agent);
    return agent;
  }

  cut(agent: Agent): void {
    agent.transports.at(-1)?.destroy();
  }

  /** Until nothing happens any more without time moving. */
  async settle(): Promise<void> {
    for (let quietTurns = 0; quietTurns < 3; ) {
      if (this.clock.step(this.clock.now())) quietTurns = 0;
      else quietTurns++;
      await nextTurn();
    }
  }

  async run(ms: number): Promise<void> {
    const until = this.clock.now() + ms;
    for (;;) {
      await this.settle();
      const next = this.clock.nextDueAtMs;
      if (next === undefined || next > until) break;
      this.clock.step(until);
    }
    this.clock.advance(until - this.clock.now());
    await this.settle();
  }

  end(): void {
    for (const agent of this.agents) agent.client.close();
    this.server.close();
    this.registry.close();
  }
}

function instance(n: number, service = "chat") {
  return { environment: "dev", service, instance: `${service}-${n}-ab12` };
}

function agentOf(n: number, service = "chat"): DiscoveryIdentity {
  return { role: "agent", ...instance(n, service), address: `127.0.0.1:${4000 + n}`, zone: "z1" };
}

function plain(table: ServiceTable | undefined): unknown {
  if (table === undefined) return undefined;
  const instances = [...table.instances].sort((a, b) => (a.id < b.id ? -1 : 1));
  return JSON.parse(JSON.stringify({ ...table, instances }));
}

function statesOf(table: ServiceTable | undefined): Record<string, string> {
  return Object.fromEntries((table?.instances ?? []).map(({ id, state }) => [id, state]));
}

describe("a subscriber", () => {
  it("gets the table, then what changes", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    world.registry.upsertInstance({ ...instance(1), address: "127.0.0.1:4001" });
    const { client } = world.agent();
    const seen: ServiceTable[] = [];
    client.subscribe("dev", "chat", (table) => seen.push(table));
    await world.settle();
    expect(client.isConnected).toBe(true);
    expect(seen.map(statesOf)).toEqual([{ "chat-1-ab12": "Starting" }]);
    world.registry.upsertInstance({ ...instance(2), address: "127.0.0.1:4002", zone: "z9" });
    world.registry.removeInstance(instance(1));
    const policy: ServicePolicy = { ...defaultServicePolicy, methods: [{ name: "*", timeoutMs: 5, idempotent: true }] };
    world.registry.declareService("dev", "chat", policy);
    await world.settle();
    expect(seen).toHaveLength(2);
    expect(plain(seen[1])).toEqual(plain(world.tables.table("dev", "chat")));
    expect(seen[1]?.instances).toEqual([
      { id: "chat-2-ab12", address: "127.0.0.1:4002", zone: "z9", state: "Starting" },
    ]);
    expect(seen[1]?.policy).toEqual(policy);
    expect(world.server.counters).toEqual({ tablesSent: 1, deltasSent: 1 });
    world.registry.removeInstance(instance(2));
    await world.settle();
    expect(seen[2]?.instances).toEqual([]);
    expect(world.server.counters).toEqual({ tablesSent: 1, deltasSent: 2 });
    world.end();
  });

  it("learns that a service does not exist, and when it does", async () => {
    const world = new World();
    const { client } = world.agent();
    const seen: boolean[] = [];
    client.subscribe("dev", "chat", (table) => seen.push(table.exists));
    await world.settle();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    await world.settle();
    world.registry.removeService("dev", "chat");
    await world.settle();
    expect(seen).toEqual([false, true, false]);
    world.end();
  });

  it("gets the known table at once, and nothing any more after it has unsubscribed", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    const { client } = world.agent();
    let first = 0;
    let second = 0;
    const endFirst = client.subscribe("dev", "chat", () => first++);
    await world.settle();
    const endSecond = client.subscribe("dev", "chat", () => second++);
    expect([first, second]).toEqual([1, 1]);
    endFirst();
    world.registry.upsertInstance(instance(1));
    await world.settle();
    expect([first, second]).toEqual([1, 2]);
    endSecond();
    endSecond();
    await world.settle();
    world.registry.upsertInstance(instance(2));
    await world.settle();
    expect([first, second]).toEqual([1, 2]);
    expect(client.tableOf("dev", "chat")).toBeUndefined();
    expect(world.server.counters).toEqual({ tablesSent: 1, deltasSent: 1 });
    world.end();
  });

  it("unsubscribes and subscribes again in one turn", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    const { client } = world.agent();
    const end = client.subscribe("dev", "chat", () => {});
    await world.settle();
    end();
    let seen = 0;
    client.subscribe("dev", "chat", () => seen++);
    expect(seen).toBe(0);
    await world.settle();
    expect(seen).toBe(1);
    world.end();
  });

  it("of a name that no service can have is told so without asking", async () => {
    const world = new World();
    const { client, errors } = world.agent();
    const seen: boolean[] = [];
    client.subscribe("-x", "chat", (table) => seen.push(table.exists))();
    await world.settle();
    expect(seen).toEqual([false]);
    expect(errors).toEqual([]);
    world.end();
  });

  it("gets a table of 2,500 instances in three messages, whole", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    for (let n = 0; n < 2500; n++) world.registry.upsertInstance({ ...instance(n), address: "127.0.0.1:4000" });
    const { client } = world.agent();
    const sizes: number[] = [];
    client.subscribe("dev", "chat", (table) => sizes.push(table.instances.length));
    await world.settle();
    expect(sizes).toEqual([2500]);
    expect(plain(client.tableOf("dev", "chat"))).toEqual(plain(world.tables.table("dev", "chat")));
    // More changes than one delta may hold: the full table again.
    for (let n = 0; n < 1001; n++) world.registry.upsertInstance({ ...instance(n), address: "127.0.0.1:4001" });
    await world.settle();
    expect(sizes).toEqual([2500, 2500]);
    expect(world.server.counters).toEqual({ tablesSent: 2, deltasSent: 0 });
    expect(plain(client.tableOf("dev", "chat"))).toEqual(plain(world.tables.table("dev", "chat")));
    world.end();
  });

  it("is told of more than one change in a turn in one delta", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    const { client } = world.agent();
    client.subscribe("dev", "chat", () => {});
    await world.settle();
    for (let n = 0; n < 500; n++) world.registry.upsertInstance({ ...instance(n % 50), address: `127.0.0.1:${n + 1}` });
    await world.settle();
    expect(world.server.counters).toEqual({ tablesSent: 1, deltasSent: 1 });
    expect(plain(client.tableOf("dev", "chat"))).toEqual(plain(world.tables.table("dev", "chat")));
    world.end();
  });

  it("hears onUnavailable while it has no table, and goes on when one comes", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    world.isUp = false;
    const { client } = world.agent(gateway, { limits: { tableWaitMs: 5000 } });
    const errors: LeverError[] = [];
    let tables = 0;
    client.subscribe(
      "dev",
      "chat",
      () => tables++,
      (error) => errors.push(error),
    );
    await world.run(4999);
    expect(errors).toEqual([]);
    await world.run(1);
    expect(errors.map((error) => [error.reason, error.effect])).toEqual([["DISCOVERY_UNAVAILABLE", "none"]]);
    expect(errors[0]?.message).toContain("connection refused");
    await world.run(5000);
    expect(errors).toHaveLength(2);
    world.isUp = true;
    await world.run(60_000);
    expect(tables).toBe(1);
    expect(errors.length).toBeLessThanOrEqual(4);
    world.end();
  });

  it("is refused above its limit of services", async () => {
    const world = new World();
    const { client } = world.agent(gateway, { limits: { subscriptionsMax: 2 } });
    client.subscribe("dev", "a", () => {});
    const end = client.subscribe("dev", "b", () => {});
    client.subscribe("dev", "b", () => {});
    expect(() => client.subscribe("dev", "c", () => {})).toThrow(expect.objectContaining({ reason: "OVERLOADED" }));
    end();
    expect(client.subscriptionCount).toBe(2);
    world.end();
  });
});

describe("a connection that is lost", () => {
  it("is taken up where it was: only what has changed is sent", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    world.registry.declareService("dev", "other", defaultServicePolicy);
    for (let n = 0; n < 50; n++) world.registry.upsertInstance({ ...instance(n), address: "127.0.0.1:4000" });
    const agent = world.agent();
    const { client } = agent;
    client.subscribe("dev", "chat", () => {});
    client.subscribe("dev", "other", () => {});
    await world.settle();
    const before = client.tableOf("dev", "chat");
    world.cut(agent);
    await world.settle();
    expect(client.isConnected).toBe(false);
    expect(client.tableOf("dev", "chat")).toBe(before);
    world.registry.removeInstance(instance(3));
    await world.run(1000);
    expect(client.isConnected).toBe(true);
    expect(client.tableOf("dev", "chat")?.instances).toHaveLength(49);
    expect(world.server.counters).toEqual({ tablesSent: 2, deltasSent: 1 });
    world.end();
  });

  it("gets full tables from an operator that has restarted, whatever its versions are", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    for (let n = 0; n < 20; n++) world.registry.upsertInstance(instance(n));
    const { client } = world.agent();
    client.subscribe("dev", "chat", () => {});
    await world.settle();
    const last = client.tableOf("dev", "chat") as ServiceTable;
    world.killOperator();
    await world.run(3000);
    expect(client.tableOf("dev", "chat")).toBe(last);
    // A clock that went back: the new run comes to the very version that the client has, with other instances.
    world.startOperator(last.version - 15);
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    for (let n = 100; world.tables.version < last.version; n++) world.registry.upsertInstance(instance(n));
    expect(world.tables.table("dev", "chat")).toMatchObject({ version: last.version });
    await world.run(15_000);
    expect(plain(client.tableOf("dev", "chat"))).toEqual(plain(world.tables.table("dev", "chat")));
    expect(world.server.counters.tablesSent).toBe(1);
    world.end();
  });

  it("is dialled again with exponential back-off and full jitter, up to 10 s", async () => {
    const world = new World();
    world.isUp = false;
    const { client, dialledAt } = world.agent(gateway, { random: () => 1 - Number.EPSILON });
    await world.run(40_000);
    const waits = dialledAt.slice(1).map((at, index) => Math.round(at - (dialledAt[index] as number)));
    expect(waits.slice(0, 8)).toEqual([100, 200, 400, 800, 1600, 3200, 6400, 10_000]);
    world.isUp = true;
    await world.run(10_000);
    expect(client.isConnected).toBe(true);
    world.end();
  });

  it("is not dialled in a tight loop by an operator that takes connections and drops them", async () => {
    const world = new World();
    let connects = 0;
    const agent = world.agent(gateway, {
      random: () => 0.999,
      onConnected: () => {
        connects++;
        world.cut(agent);
      },
    });
    await world.run(30_000);
    expect(connects).toBeGreaterThan(5);
    expect(connects).toBeLessThan(12);
    world.end();
  });

  it("waits no longer than its bound for a dial that hangs, and closes what comes late", async () => {
    const world = new World();
    const late: ((session: Session) => void)[] = [];
    const errors: LeverError[] = [];
    const { client } = world.agent(gateway, {
      dial: () => new Promise((resolve) => late.push(resolve)),
      onDisconnected: (error) => errors.push(error),
    });
    await world.run(5000);
    expect(errors.map((error) => error.reason)).toEqual(["CONNECTION_LOST"]);
    const { session } = world.dial();
    late[0]?.(session);
    await world.settle();
    expect(session.isClosed).toBe(true);
    client.close();
    await world.run(20_000);
    expect(late.length).toBeLessThanOrEqual(2);
    world.end();
  });

  it("ends for good with close, at any moment", async () => {
    for (const waitMs of [undefined, 0, 500]) {
      const world = new World();
      const { client, dialledAt, sessions } = world.agent();
      let heard = 0;
      client.subscribe("dev", "chat", () => heard++);
      if (waitMs !== undefined) await world.run(waitMs);
      const before = heard;
      client.close();
      client.close();
      await world.run(60_000);
      expect(client.isConnected).toBe(false);
      expect(heard).toBe(before);
      expect(dialledAt.length).toBeLessThanOrEqual(1);
      expect(sessions.every((session) => session.isClosed)).toBe(true);
      expect(world.server.sessionCount).toBe(0);
      world.end();
    }
  });
});

describe("an instance", () => {
  it("serves from its registration on, and the source is told", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    world.registry.upsertInstance(instance(1));
    const { client } = world.agent(agentOf(1));
    const watcher = world.agent().client;
    watcher.subscribe("dev", "chat", () => {});
    await world.settle();
    expect(world.events).toEqual(["chat-1-ab12 Starting"]);
    client.register(registration);
    await world.settle();
    expect(world.events.slice(1)).toEqual(["chat-1-ab12 Serving", "chat-1-ab12 serves 2"]);
    expect(watcher.tableOf("dev", "chat")?.instances).toEqual([
      { id: "chat-1-ab12", address: "127.0.0.1:4001", zone: "z1", state: "Serving" },
    ]);
    expect(world.registry.registrationOf(instance(1))).toEqual(registration);
    client.unregister();
    await world.settle();
    expect(world.events.slice(3)).toEqual(["chat-1-ab12 Starting", "chat-1-ab12 is without app"]);
    client.register(registration);
    client.draining();
    await world.settle();
    expect(statesOf(watcher.tableOf("dev", "chat"))).toEqual({ "chat-1-ab12": "Draining" });
    world.registry.removeInstance(instance(1));
    await world.settle();
    expect(watcher.tableOf("dev", "chat")?.instances).toEqual([]);
    world.end();
  });

  it("that the source does not know yet is held until it does, and no more of them than the limit", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    const { client } = world.agent(agentOf(1));
    client.register(registration);
    await world.settle();
    expect(world.tables.table("dev", "chat").instances).toEqual([]);
    expect(world.registry.unknownCount).toBe(1);
    world.registry.upsertInstance(instance(1));
    expect(world.events).toEqual(["chat-1-ab12 Serving", "chat-1-ab12 serves 2"]);
    expect(world.registry.unknownCount).toBe(0);
    world.end();
  });

  it("whose connection is lost stays Serving if it comes back within the grace, else is Unreachable", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    world.registry.upsertInstance(instance(1));
    const agent = world.agent(agentOf(1));
    agent.client.register(registration);
    await world.settle();
    const registered = world.events.length;
    world.cut(agent);
    await world.run(10_000);
    expect(agent.client.isConnected).toBe(true);
    expect(world.events.slice(registered)).toEqual([]);
    agent.client.close();
    await world.run(1999);
    expect(world.events.slice(registered)).toEqual([]);
    await world.run(2);
    expect(world.events.slice(registered)).toEqual(["chat-1-ab12 Unreachable"]);
    const next = world.agent(agentOf(1));
    next.client.register(registration);
    await world.settle();
    expect(world.events.slice(registered)).toEqual(["chat-1-ab12 Unreachable", "chat-1-ab12 Serving"]);
    world.end();
  });

  it("whose agent restarts without the app is Starting, not Serving", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    world.registry.upsertInstance(instance(1));
    const first = world.agent(agentOf(1));
    first.client.register(registration);
    await world.settle();
    first.client.close();
    await world.settle();
    world.agent(agentOf(1));
    await world.settle();
    expect(statesOf(world.tables.table("dev", "chat"))).toEqual({ "chat-1-ab12": "Starting" });
    world.end();
  });

  it("has one connection: a newer one replaces it, and the loss of the older changes nothing", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    world.registry.upsertInstance(instance(1));
    // The older one cannot come back.
    let dials = 0;
    const older = world.agent(agentOf(1), {
      dial: async () => {
        if (dials++ > 0) throw new Error("no more");
        return world.dial(agentOf(1)).session;
      },
    });
    older.client.register(registration);
    await world.settle();
    const newer = world.agent(agentOf(1));
    newer.client.register(registration);
    await world.run(10_000);
    expect(older.client.isConnected).toBe(false);
    expect(older.errors[0]?.message).toContain("a newer connection of the instance chat-1-ab12");
    expect(statesOf(world.tables.table("dev", "chat"))).toEqual({ "chat-1-ab12": "Serving" });
    expect(world.events.filter((event) => event.endsWith("Unreachable"))).toEqual([]);
    world.end();
  });

  it("is reported again after the operator has restarted, its draining too", async () => {
    const world = new World();
    const declare = () => {
      world.registry.declareService("dev", "chat", defaultServicePolicy);
      world.registry.upsertInstance(instance(1));
      world.registry.upsertInstance(instance(2));
      // Served before the restart; its agent never comes back.
      world.registry.upsertInstance({ ...instance(3), address: "127.0.0.1:4003", wasServing: true });
    };
    declare();
    const first = world.agent(agentOf(1)).client;
    const second = world.agent(agentOf(2)).client;
    first.register(registration);
    second.register(registration);
    second.draining();
    await world.settle();
    world.killOperator();
    await world.run(5000);
    world.startOperator();
    declare();
    world.events.length = 0;
    await world.run(10_000);
    expect(statesOf(world.tables.table("dev", "chat"))).toEqual({
      "chat-1-ab12": "Serving",
      "chat-2-ab12": "Draining",
      "chat-3-ab12": "Serving",
    });
    // At no moment was the draining one taken for one that serves.
    expect(world.events).not.toContain("chat-2-ab12 Serving");
    await world.run(21_000);
    expect(statesOf(world.tables.table("dev", "chat"))["chat-3-ab12"]).toBe("Unreachable");
    world.end();
  });

  it("is needed for reports", () => {
    const world = new World();
    const { client } = world.agent();
    expect(() => client.register(registration)).toThrow(expect.objectContaining({ reason: "INVALID_OPTION" }));
    world.end();
  });
});

describe("a slow subscriber", () => {
  it("makes nothing queue up, and gets what it missed in few messages", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    for (let n = 0; n < 100; n++) world.registry.upsertInstance({ ...instance(n), address: "127.0.0.1:1" });
    const agent = world.agent();
    agent.client.subscribe("dev", "chat", () => {});
    await world.settle();
    const transport = agent.transports.at(-1) as GatedTransport;
    transport.isOpen = false;
    const operatorSession = world.operatorSessions.at(-1) as Session;
    const bytesBefore = operatorSession.counters.bytesOut;
    for (let round = 0; round < 300; round++) {
      for (let n = 0; n < 100; n++)
        world.registry.upsertInstance({ ...instance(n), address: `127.0.0.1:${round + 2}` });
      await world.settle();
    }
    // 300 rounds are 300 deltas of about 5 kB for a reader; for one that stalls, what its window holds.
    expect(operatorSession.counters.bytesOut - bytesBefore).toBeLessThan(200_000);
    const sentWhileStalled = world.server.counters.deltasSent;
    expect(sentWhileStalled).toBeLessThan(40);
    transport.resume();
    await world.settle();
    expect(plain(agent.client.tableOf("dev", "chat"))).toEqual(plain(world.tables.table("dev", "chat")));
    expect(world.server.counters.deltasSent - sentWhileStalled).toBeLessThanOrEqual(2);
    world.end();
  });

  it("does not hold up the others", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    const slow = world.agent();
    const quick = world.agent();
    slow.client.subscribe("dev", "chat", () => {});
    quick.client.subscribe("dev", "chat", () => {});
    await world.settle();
    (slow.transports.at(-1) as GatedTransport).isOpen = false;
    world.registry.upsertInstance(instance(1));
    await world.settle();
    expect(quick.client.tableOf("dev", "chat")?.instances).toHaveLength(1);
    world.end();
  });
});

const none = new Uint8Array(0);

/** An agent of which nothing is known to be right. */
describe("a service of another environment", () => {
  const chat = (access: Partial<AccessPolicy> = {}) => ({
    ...defaultServicePolicy,
    methods: [{ name: "say", timeoutMs: 7, idempotent: true }],
    access: { ...defaultServicePolicy.access, ...access },
  });
  const blank = { instances: [], policy: defaultServicePolicy };
  const billing: Identity = { role: "agent", environment: "billing", service: "invoices", instance: "invoices-1" };

  /** A subscriber of the role, and every byte that it was sent. */
  function subscriber(world: World, identity: Identity) {
    const tables: ServiceTable[] = [];
    const sent: string[] = [];
    const agent = world.agent(gateway, {
      dial: async () => {
        const { session, transport } = world.dial(identity);
        transport.onBytes = (bytes) => sent.push(new TextDecoder("latin1").decode(bytes));
        return session;
      },
    });
    agent.client.subscribe("dev", "chat", (table) => tables.push(table));
    return { ...agent, tables, sent };
  }

  it.each<[string, Identity, boolean]>([
    ["is known to exist by agents that may not call it", billing, true],
    ["is not known to gateways that do not expose it", { role: "gateway" }, false],
    ["is not known to clients", { role: "client", environment: "dev" }, false],
  ])("%s; nothing is said of its instances, nor of their coming and going", async (_, identity, exists) => {
    const world = new World();
    world.registry.declareService("dev", "chat", chat());
    world.registry.upsertInstance({ ...instance(1), address: "10.9.8.7:3837" });
    const { tables, sent } = subscriber(world, identity);
    await world.settle();
    expect(tables).toMatchObject([{ ...blank, exists }]);
    const messages = sent.length;
    world.registry.upsertInstance({ ...instance(2), address: "10.9.8.6:3837" });
    world.registry.declareService("dev", "chat", chat({ callers: [{ environment: "crm" }] }));
    await world.settle();
    expect(sent.length).toBe(messages);
    expect(sent.join("")).not.toMatch(/chat-|10[.]9|say|crm/);
    if (!exists) {
      const nobody = subscriber(world, identity);
      nobody.client.subscribe("dev", "nosuch", (table) => nobody.tables.push(table));
      await world.settle();
      const [one, other] = nobody.tables.map(({ service: _service, version: _version, ...rest }) => rest);
      expect(one).toEqual(other);
    }
    world.end();
  });

  it("counts for the lag of what is sent only when something is", async () => {
    let sent = 0;
    const world = new World({ onSent: () => sent++ });
    world.registry.declareService("dev", "chat", chat());
    subscriber(world, billing);
    await world.settle();
    for (let n = 0; n < 5; n++) {
      world.registry.upsertInstance(instance(n));
      await world.settle();
    }
    expect(sent).toBe(1);
    world.registry.declareService("dev", "chat", chat({ callers: [{ environment: "billing" }] }));
    await world.settle();
    expect(sent).toBe(2);
    world.end();
  });

  it("is shown, hidden and shown again as its policy changes, across reconnects too", async () => {
    const world = new World();
    const allowed = chat({ callers: [{ environment: "billing", service: "invoices" }], gateway: { expose: "Public" } });
    world.registry.declareService("dev", "chat", chat());
    world.registry.upsertInstance(instance(1));
    const agent = subscriber(world, billing);
    const gate = subscriber(world, { role: "gateway" });
    const seen = () => [agent, gate].map(({ tables }) => [tables.at(-1)?.exists, tables.at(-1)?.instances.length]);
    await world.settle();
    for (let round = 0; round < 3; round++) {
      expect(seen()).toEqual([
        [true, 0],
        [false, 0],
      ]);
      world.registry.declareService("dev", "chat", allowed);
      await world.settle();
      expect(seen()).toEqual([
        [true, 1],
        [true, 1],
      ]);
      for (const { client } of [agent, gate]) {
        expect(plain(client.tableOf("dev", "chat"))).toEqual(plain(world.tables.table("dev", "chat")));
      }
      if (round === 1) {
        // What was had before the connection broke is of no use any more.
        for (const session of world.operatorSessions.splice(0)) session.destroy(new LeverError("CANCELLED", "cut"));
      }
      world.registry.declareService("dev", "chat", chat());
      await world.run(2000);
    }
    expect(seen()).toEqual([
      [true, 0],
      [false, 0],
    ]);
    for (const session of world.operatorSessions.splice(0)) session.destroy(new LeverError("CANCELLED", "cut"));
    world.registry.declareService("dev", "chat", allowed);
    await world.run(2000);
    expect(plain(agent.client.tableOf("dev", "chat"))).toEqual(plain(world.tables.table("dev", "chat")));
    world.end();
  });

  it("is shown to those of its own environment, to those it names, and to the operator's replicas, as it is", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", chat({ callers: [{ environment: "crm", service: "people" }] }));
    world.registry.upsertInstance(instance(1));
    const identities: Identity[] = [
      { role: "agent", environment: "dev" },
      { role: "agent", environment: "crm", service: "people" },
      { role: "operator" },
    ];
    const subscribers = identities.map((identity) => subscriber(world, identity));
    await world.settle();
    for (const { tables } of subscribers) {
      expect(plain(tables[0])).toEqual(plain(world.tables.table("dev", "chat")));
    }
    world.end();
  });

  it("has no instance that an agent of another one speaks for", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", chat());
    world.registry.upsertInstance(instance(1));
    for (const identity of [billing, { role: "client", ...instance(1) }, { role: "agent", ...instance(2) }] as const) {
      const { client, errors } = world.agent(agentOf(1), { dial: async () => world.dial(identity).session });
      client.register(registration);
      await world.settle();
      expect(errors[0]?.reason).toBe("IDENTITY_DENIED");
      client.close();
    }
    expect(statesOf(world.tables.table("dev", "chat"))).toEqual({ "chat-1-ab12": "Starting" });
    world.end();
  });

  it("has no channel for the operator's replicas", async () => {
    const world = new World({ replicaChannels: { replicaChan: () => async () => {} } });
    const target = new Target("lever-system", "operator", "replicaChan");
    expect((await open(world, [], target)).result).toMatchObject({ reason: "IDENTITY_DENIED", effect: "none" });
    expect((await open(world, [], target, { role: "operator" })).result).toBeInstanceOf(Channel);
    world.end();
  });
});

async function open(
  world: World,
  args: unknown[],
  target = new Target("lever-system", "operator", "discoveryChan"),
  identity?: Identity,
) {
  const [first] = args as [Identity | undefined];
  const { session } = world.dial(first?.instance === undefined ? identity : first);
  const runtime = {
    wheel: new DeadlineWheel(world.clock),
    budget: new AssemblyBudget(1 << 24),
    now: () => world.clock.now(),
  };
  const opening = startChannel(runtime, session, target, encodeArgs(args), { timeoutMs: 1000, fields: none }).then(
    (raw) => new Channel(raw),
    (error) => LeverError.from(error),
  );
  await world.settle();
  return { session, runtime, result: await opening };
}

describe("the operator", () => {
  it("refuses what is no discovery, before anything ran", async () => {
    const world = new World();
    const refusals: [unknown[], Target | undefined, string][] = [
      [[{ role: "agent" }], new Target("lever-system", "operator", "ownershipChan"), "METHOD_NOT_FOUND"],
      [[{ role: "agent" }], new Target("dev", "operator", "discoveryChan"), "METHOD_NOT_FOUND"],
      [[{ role: "agent" }], new Target("lever-system", "hello", "discoveryChan"), "METHOD_NOT_FOUND"],
      [[], undefined, "INVALID_ARGUMENTS"],
      [[{ role: "king" }], undefined, "INVALID_ARGUMENTS"],
      [[{ ...agentOf(1), address: "nowhere" }], undefined, "INVALID_ARGUMENTS"],
      [[new Uint8Array(3)], undefined, "ARGS_FORM"],
    ];
    for (const [args, target, reason] of refusals) {
      const { result } = await open(world, args, target);
      expect(result).toMatchObject({ reason, effect: "none" });
    }
    const { session, runtime } = await open(world, [{ role: "agent" }]);
    const target = new Target("lever-system", "operator", "discovery");
    const call = startCall(runtime, session, target, encodeArgs([]), { timeoutMs: 1000, fields: none });
    const refused = expect(call).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND", effect: "none" });
    await world.settle();
    await refused;
    expect(world.server.connectionCount).toBe(1);
    world.end();
  });

  it("ends the channel of a peer that breaks the rules, and says which", async () => {
    const world = new World({ subscriptionsMax: 2 });
    const subscribe = (service: string) => ({ type: "subscribe", environment: "dev", service });
    const breaches: [unknown[], string, string][] = [
      [[7], "PROTOCOL_VIOLATION", "message is 7, expected a map"],
      [[{ type: "subscribe", environment: "dev" }], "PROTOCOL_VIOLATION", "message.service is missing"],
      [[{ type: "draining" }], "PROTOCOL_VIOLATION", "without an instance"],
      [[subscribe("a"), subscribe("b"), subscribe("b"), subscribe("c")], "OVERLOADED", "2 services"],
    ];
    for (const [messages, reason, text] of breaches) {
      const { result } = await open(world, [{ role: "agent" }]);
      const channel = result as Channel;
      for (const message of messages) void channel.send(message);
      await world.settle();
      let thrown: unknown;
      try {
        for await (const _ of channel) {
          // Tables.
        }
      } catch (error) {
        thrown = error;
      }
      expect(thrown).toMatchObject({ reason: "METHOD_ERROR", value: { reason } });
      expect((thrown as { value: { message: string } }).value.message).toContain(text);
    }
    expect(world.server.connectionCount).toBe(0);
    expect(world.tables.tables()).toEqual([]);
    world.end();
  });

  it("skips message types that it does not know", async () => {
    const world = new World();
    const { result } = await open(world, [{ role: "agent", colour: "blue" }]);
    const channel = result as Channel;
    void channel.send({ type: "greeting", text: "hi" });
    void channel.send({ type: "subscribe", environment: "dev", service: "chat", since: "yesterday" });
    await world.settle();
    expect(await channel.receive()).toMatchObject({ type: "table", service: "chat", exists: false });
    world.end();
  });

  it("starts anew for whoever subscribes twice, and sends each change once", async () => {
    const world = new World();
    world.registry.declareService("dev", "chat", defaultServicePolicy);
    const { result } = await open(world, [{ role: "agent" }]);
    const channel = result as Channel;
    const subscribe = { type: "subscribe", environment: "dev", service: "chat" };
    void channel.send(subscribe);
    void channel.send(subscribe);
    await world.settle();
    const before = { ...world.server.counters };
    world.registry.upsertInstance(instance(1));
    await world.settle();
    expect(world.server.counters).toEqual({ ...before, deltasSent: before.deltasSent + 1 });
    world.end();
  });

  it("takes one channel for each session, and no more sessions than its limit", async () => {
    const world = new World({ sessionsMax: 2 });
    const { session, runtime } = await open(world, [{ role: "agent" }]);
    const target = new Target("lever-system", "operator", "discoveryChan");
    const second = startChannel(runtime, session, target, encodeArgs([{ role: "agent" }]), {
      timeoutMs: 1000,
      fields: none,
    });
    const refused = expect(second).rejects.toMatchObject({ reason: "OVERLOADED", effect: "none" });
    await world.settle();
    await refused;
    await open(world, [{ role: "agent" }]);
    const third = await open(world, [{ role: "agent" }]);
    expect(third.result).toMatchObject({ effect: "none" });
    expect(world.server.sessionCount).toBe(2);
    world.end();
  });

  it("ends the oldest of more sessions of one peer than an agent has use for", async () => {
    const world = new World();
    const sessions = Array.from({ length: 9 }, () =>
      world.server.accept(memoryTransportPair(world.clock)[1], "chat-1"),
    );
    expect(sessions.map(({ isClosed }) => isClosed)).toEqual([true, ...Array(8).fill(false)]);
    world.end();
  });

  it("refuses agents of unknown instances above the limit, and forgets those that leave", async () => {
    const world = new World();
    world.registry = new ServiceRegistry({
      tables: world.tables,
      clock: world.clock,
      limits: { unknownInstancesMax: 1 },
    });
    world.server = new DiscoveryServer({ registry: world.registry, clock: world.clock });
    const first = await open(world, [agentOf(1)]);
    expect((await open(world, [agentOf(2)])).result).toMatchObject({ reason: "OVERLOADED", effect: "none" });
    first.session.close(new LeverError("CANCELLED", "bye"));
    await world.settle();
    expect(world.registry.unknownCount).toBe(0);
    expect((await open(world, [agentOf(2)])).result).toBeInstanceOf(Channel);
    world.end();
  });
});

describe("an operator that a client cannot trust", () => {
  /** A client whose operator says what the test wants. */
  async function client(answers: (asked: Record<string, unknown>) => unknown[]) {
    const asked: Record<string, unknown>[] = [];
    const errors: LeverError[] = [];
    const world = new World();
    const server = new InvocationServer({
      host: {
        prepare: () => () => null,
        prepareChannel: () => async (channel) => {
          for await (const message of channel) {
            asked.push(message as Record<string, unknown>);
            for (const answer of answers(message as Record<string, unknown>)) await channel.send(answer);
          }
        },
        describeThrown: (_invocation, thrown) => String(thrown),
      },
      wheel: new DeadlineWheel(world.clock),
      budget: new AssemblyBudget(1 << 24),
      now: () => world.clock.now(),
    });
    const tables: ServiceTable[] = [];
    const { client } = world.agent(gateway, {
      dial: async () => {
        const [a, b] = memoryTransportPair(world.clock);
        const common = { clock: world.clock, limits: defaultSessionLimits };
        new Session({
          ...common,
          transport: b,
          side: "acceptor",
          identity: { role: "operator" },
          handler: { onOpen: (stream, opening) => server.onOpen(stream, opening) },
        });
        return new Session({
          ...common,
          transport: a,
          side: "dialer",
          identity: { role: "gateway" },
          handler: { onOpen: (stream) => stream.refuse(none) },
        });
      },
      onDisconnected: (error) => errors.push(error),
    });
    client.subscribe("dev", "chat", (table) => tables.push(table));
    await world.settle();
    return { world, client, asked, tables, errors };
  }

  const table = {
    type: "table",
    origin: "o",
    environment: "dev",
    service: "chat",
    version: 5,
    exists: true,
    part: 0,
    more: false,
    instances: [{ id: "chat-1", address: "h:1", state: "Serving" }],
    policy: defaultServicePolicy,
  };
  const delta = { type: "delta", environment: "dev", service: "chat", from: 5, version: 6, changed: [], removed: [] };

  it("asks for the full table when a delta does not fit, and takes none until it is there", async () => {
    let asks = 0;
    const { world, asked, tables } = await client(() =>
      ++asks === 1
        ? [table, { ...delta, from: 6, version: 7 }, { ...delta, removed: ["chat-1"] }]
        : [
            { ...table, version: 9 },
            { ...delta, from: 9, version: 10, removed: ["chat-1", "never-heard-of"] },
          ],
    );
    expect(asked).toEqual([
      { type: "subscribe", environment: "dev", service: "chat" },
      { type: "subscribe", environment: "dev", service: "chat" },
    ]);
    expect(tables.map(({ version, instances }) => [version, instances.length])).toEqual([
      [5, 1],
      [9, 1],
      [10, 0],
    ]);
    world.end();
  });

  it("skips unknown messages, tables that nobody wants and parts without a beginning", async () => {
    const { world, tables, errors } = await client(() => [
      { type: "news", text: "hi" },
      { ...table, service: "other" },
      { ...table, part: 1 },
      { ...delta },
      { ...table, more: true },
      { ...table, part: 1, version: 4 },
      { ...table, part: 1, instances: [{ id: "chat-2", address: "h:2", state: "Resting", mood: "fine" }] },
    ]);
    expect(errors).toEqual([]);
    expect(tables.map(statesOf)).toEqual([{ "chat-1": "Serving", "chat-2": "Unreachable" }]);
    world.end();
  });

  it("drops the connection at an invalid message, keeps its tables and tries again", async () => {
    let asks = 0;
    const { world, client: own, errors } = await client(() => (++asks === 1 ? [table, { ...delta, changed: 7 }] : []));
    await world.run(1000);
    expect(errors[0]).toMatchObject({ reason: "PROTOCOL_VIOLATION", details: { field: "message.changed" } });
    expect(own.tableOf("dev", "chat")?.version).toBe(5);
    expect(asks).toBe(2);
    world.end();
  });

  it("takes no table beyond the most instances of a service", async () => {
    const part = (n: number) => ({
      ...table,
      part: n,
      more: true,
      instances: Array.from({ length: 1000 }, (_, i) => ({ id: `c-${n}-${i}`, address: "h:1", state: "Serving" })),
    });
    const { world, errors, tables } = await client(() => Array.from({ length: 12 }, (_, n) => part(n)));
    expect(errors[0]?.reason).toBe("PROTOCOL_VIOLATION");
    expect(tables).toEqual([]);
    world.end();
  });
});

describe("1,000 services of 10 instances", () => {
  it("reach a gateway that wants them all, with traffic in proportion to what changes", async () => {
    const world = new World();
    const name = (s: number) => `svc-${s}`;
    for (let s = 0; s < 1000; s++) {
      world.registry.declareService("dev", name(s), defaultServicePolicy);
      for (let n = 0; n < 10; n++) {
        world.registry.upsertInstance({ ...instance(n, name(s)), address: `10.0.0.${n}:3837`, zone: "zone-1" });
      }
    }
    const agent = world.agent();
    const { client } = agent;
    for (let s = 0; s < 1000; s++) client.subscribe("dev", name(s), () => {});
    await world.settle();
    const session = agent.sessions.at(-1) as Session;
    expect(world.server.counters).toEqual({ tablesSent: 1000, deltasSent: 0 });
    const fullBytes = session.counters.bytesIn;
    // 10,000 instances of about 80 bytes, 1,000 policies of about 250.
    expect(fullBytes).toBeLessThan(2_000_000);
    for (let s = 0; s < 1000; s += 100) world.registry.removeInstance(instance(4, name(s)));
    await world.settle();
    expect(world.server.counters).toEqual({ tablesSent: 1000, deltasSent: 10 });
    expect(session.counters.bytesIn - fullBytes).toBeLessThan(10 * 200);
    world.cut(agent);
    await world.run(1000);
    // Nothing has changed meanwhile: only the questions travel.
    expect(world.server.counters).toEqual({ tablesSent: 1000, deltasSent: 10 });
    expect(agent.sessions.at(-1)?.counters.bytesIn).toBeLessThan(1000);
    for (let s = 0; s < 1000; s++) {
      expect(client.tableOf("dev", name(s))?.instances.length).toBe(s % 100 === 0 ? 9 : 10);
    }
    world.end();
  });
});

describe("whatever happens", () => {
  const services = ["chat", "hello", "upload"];
  const service = fc.constantFrom(...services);
  const n = fc.integer({ min: 1, max: 6 });
  const command = fc.oneof(
    fc.record({ do: fc.constant("declare" as const), service, timeoutMs: fc.integer({ min: 1, max: 3 }) }),
    fc.record({ do: fc.constant("remove" as const), service }),
    { weight: 4, arbitrary: fc.record({ do: fc.constant("upsert" as const), service, n, port: n }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("removeInstance" as const), service, n }) },
    fc.record({ do: fc.constant("many" as const), service, count: fc.integer({ min: 1, max: 20 }) }),
    fc.record({ do: fc.constant("subscribe" as const), service }),
    fc.record({ do: fc.constant("unsubscribe" as const), service }),
    fc.record({ do: fc.constantFrom("cut" as const, "restart" as const) }),
    fc.record({ do: fc.constantFrom("stall" as const, "resume" as const, "resume" as const) }),
    fc.record({ do: fc.constant("register" as const), isServing: fc.boolean() }),
    { weight: 8, arbitrary: fc.record({ do: fc.constant("settle" as const) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("run" as const), ms: fc.integer({ min: 1, max: 3000 }) }) },
  );

  it("each table that a client shows is one that the operator had, and in the end they are equal", async () => {
    let tablesSeen = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(command, { minLength: 20, maxLength: 60, size: "max" }),
        fc.nat(),
        async (commands, seed) => {
          const world = new World();
          let random = seed;
          const agent = world.agent(agentOf(1), {
            random: () => {
              random = (random * 1103515245 + 12345) % 2147483648;
              return random / 2147483648;
            },
          });
          const { client } = agent;
          // What the operator has had: version and content.
          const history = new Set<string>();
          let isBulk = false;
          const record = (name: string) => {
            if (!isBulk) history.add(JSON.stringify(plain(world.tables.table("dev", name))));
          };
          const watchAll = () => {
            for (const name of services) {
              record(name);
              world.tables.watch("dev", name, () => record(name));
            }
          };
          watchAll();
          // The source's own truth, which outlives the operator.
          const declared = new Map<string, ServicePolicy>();
          const instances = new Map<string, Parameters<ServiceRegistry["upsertInstance"]>[0]>();
          const upsert = (source: Parameters<ServiceRegistry["upsertInstance"]>[0]) => {
            if (world.registry.upsertInstance(source)) instances.set(`${source.service}/${source.instance}`, source);
          };
          const subscribed = new Map<string, () => void>();
          const inventions: string[] = [];
          const subscribe = (name: string) => {
            if (subscribed.has(name)) return;
            const end = client.subscribe("dev", name, (table) => {
              tablesSeen++;
              const text = JSON.stringify(plain(table));
              if (!history.has(text)) inventions.push(text.slice(0, 1000));
            });
            subscribed.set(name, end);
          };
          const declare = (name: string, timeoutMs: number) => {
            const policy = { ...defaultServicePolicy, methods: [{ name: "*", timeoutMs, idempotent: false }] };
            declared.set(name, policy);
            world.registry.declareService("dev", name, policy);
          };
          for (const name of services) {
            declare(name, 1);
            subscribe(name);
          }
          for (const step of commands) {
            switch (step.do) {
              case "declare":
                declare(step.service, step.timeoutMs);
                break;
              case "remove":
                declared.delete(step.service);
                for (const key of [...instances.keys()]) if (key.startsWith(`${step.service}/`)) instances.delete(key);
                world.registry.removeService("dev", step.service);
                break;
              case "upsert":
                upsert({ ...instance(step.n, step.service), address: `127.0.0.1:${step.port}` });
                break;
              case "removeInstance":
                instances.delete(`${step.service}/${instance(step.n, step.service).instance}`);
                world.registry.removeInstance(instance(step.n, step.service));
                break;
              case "many":
                // All in one turn: a client may show only what comes out in the end.
                isBulk = true;
                for (let i = 0; i < step.count; i++) {
                  const key = instance(100 + i, step.service);
                  if (i % 3 === 0 && instances.delete(`${step.service}/${key.instance}`)) {
                    world.registry.removeInstance(key);
                  } else upsert({ ...key, address: `127.0.0.1:${step.count}` });
                }
                isBulk = false;
                record(step.service);
                break;
              case "subscribe":
                subscribe(step.service);
                break;
              case "unsubscribe":
                subscribed.get(step.service)?.();
                subscribed.delete(step.service);
                break;
              case "cut":
                world.cut(agent);
                break;
              case "stall":
                for (const transport of agent.transports) transport.isOpen = false;
                break;
              case "resume":
                for (const transport of agent.transports) transport.resume();
                break;
              case "restart":
                world.killOperator();
                world.startOperator();
                for (const [name, policy] of declared) world.registry.declareService("dev", name, policy);
                for (const source of instances.values()) world.registry.upsertInstance(source);
                watchAll();
                break;
              case "register":
                if (step.isServing) client.register(registration);
                else client.unregister();
                break;
              case "settle":
                await world.settle();
                break;
              case "run":
                await world.run(step.ms);
                break;
            }
          }
          for (const transport of agent.transports) transport.resume();
          await world.run(40_000);
          expect(client.isConnected).toBe(true);
          expect(inventions).toEqual([]);
          for (const name of subscribed.keys()) {
            expect(plain(client.tableOf("dev", name))).toEqual(plain(world.tables.table("dev", name)));
          }
          expect(agent.errors.filter((error) => error.reason !== "CONNECTION_LOST")).toEqual([]);
          world.end();
        },
      ),
      { numRuns: 150 },
    );
    expect(tablesSeen).toBeGreaterThan(1000);
  });
});
