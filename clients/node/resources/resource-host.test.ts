/** Resources at their instance, rule by rule: what the agent says, what methods and hooks see, what goes out. */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { context, handOver, LeverError, MethodError, open, type ResourceMemory, validated } from "../index.ts";
import type { StandardSchema } from "../validated.ts";
import { type AgentEnd, Outcome, World } from "./agent-end.fixture.ts";

interface Made {
  readonly name: string;
  readonly state: unknown;
  readonly memory: ResourceMemory;
  readonly epoch: number;
}

/** What the class under test has done. */
let made: Made[];
let disposed: string[];
let running: Set<string>;
let gates: Map<string, () => void>;
/** Called by the hooks, by name. */
let hooks: { [Hook in "construct" | "open" | "handOver" | "dispose"]?: ((name: string) => unknown) | undefined };
let world: World;

function gate(key: string): Promise<void> {
  return new Promise((resolve) => gates.set(key, resolve));
}

beforeEach(() => {
  made = [];
  disposed = [];
  running = new Set();
  gates = new Map();
  hooks = {};
});
afterEach(() => world.close());

const word: StandardSchema<string> = {
  "~standard": {
    version: 1,
    vendor: "test",
    validate: (value) => (typeof value === "string" ? { value } : { issues: [{ message: "no text" }] }),
  },
};

class Room {
  readonly #name: string;
  #count: number;
  checked = validated([word], (text) => text.toUpperCase());

  constructor(name: string, state: { readonly count: number } | undefined, memory: ResourceMemory) {
    made.push({ name, state, memory, epoch: context().epoch });
    this.#name = name;
    this.#count = state?.count ?? 0;
    hooks.construct?.(name);
  }

  [open]() {
    return hooks.open?.(this.#name);
  }

  add(count = 1) {
    this.#count += count;
    return this.#count;
  }

  facts() {
    const { resource, epoch, instance, method } = context();
    return { resource, epoch, instance, method };
  }

  /** Ends when the test says so, or with its signal. */
  async wait(key: string) {
    const { signal } = context();
    running.add(key);
    try {
      const aborted = new Promise<never>((_, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      });
      await Promise.race([gate(key), aborted]);
      return this.add();
    } finally {
      running.delete(key);
    }
  }

  /** Does not listen to its signal. */
  async insist(key: string) {
    running.add(key);
    await gate(key);
    running.delete(key);
    return this.add();
  }

  fails(value: unknown) {
    this.#count++;
    throw new MethodError(value);
  }

  async calls(method: string, key?: string) {
    if (key !== undefined) await gate(key);
    return world.client.invoke(`/other/room-9/${method}`, []);
  }

  async draining(key: string) {
    const { draining } = context();
    running.add(key);
    await new Promise<void>((resolve) => draining.addEventListener("abort", () => resolve(), { once: true }));
    running.delete(key);
    return LeverError.from(draining.reason).reason;
  }

  async echoChan(channel: Channel<string, string>) {
    for await (const text of channel) await channel.send(text.toUpperCase());
    return this.add();
  }

  [handOver](): unknown {
    return hooks.handOver === undefined ? { count: this.#count } : hooks.handOver(this.#name);
  }

  async [Symbol.asyncDispose]() {
    await hooks.dispose?.(this.#name);
    disposed.push(this.#name);
  }

  _private() {}
}

async function settled(promise: Promise<unknown>): Promise<Outcome> {
  const outcome = new Outcome(promise);
  await world.settle();
  return outcome;
}

/** What a call comes to at once. */
async function call(resource: string | undefined, method: string, ...args: unknown[]): Promise<unknown> {
  const outcome = await settled(world.agent.call(resource, method, args));
  expect(outcome.isSettled).toBe(true);
  if (outcome.error !== undefined) throw outcome.error;
  return outcome.value;
}

async function refused(resource: string | undefined, method: string, ...args: unknown[]): Promise<string | undefined> {
  const outcome = await settled(world.agent.call(resource, method, args));
  expect(outcome.isSettled).toBe(true);
  return outcome.reason;
}

/** The slot of a, and another resource that lies in it too. */
function neighbourOf(resource: string): string {
  for (let n = 0; ; n++) if (world.slot(`n-${n}`) === world.slot(resource)) return `n-${n}`;
}

describe("a resource's object", () => {
  it("is made at the first call, with its name, and is the same for all that follow", async () => {
    world = await World.start(Room);
    await world.openAll();
    expect(made).toEqual([]);
    expect(await call("a", "add")).toBe(1);
    expect(await call("a", "add")).toBe(2);
    expect(await call("b", "add")).toBe(1);
    expect(made).toEqual([
      { name: "a", state: undefined, memory: "fresh", epoch: 1 },
      { name: "b", state: undefined, memory: "fresh", epoch: 1 },
    ]);
    expect(await call("a", "facts")).toEqual({ resource: "a", epoch: 1, instance: "chat-1", method: "facts" });
  });

  it("has the class's methods and its own, validated ones too, and none that are private", async () => {
    world = await World.start(Room, { plain: () => "plain" });
    await world.openAll();
    expect(await call("a", "checked", "x")).toBe("X");
    expect(await refused("a", "checked", 1)).toBe("INVALID_ARGUMENTS none");
    expect(await refused("a", "_private")).toBe("METHOD_NOT_FOUND none");
    expect(await refused("a", "toString")).toBe("METHOD_NOT_FOUND none");
    expect(await refused("a", "plain")).toBe("METHOD_NOT_FOUND none");
    expect(await call(undefined, "plain")).toBe("plain");
    expect(await refused(undefined, "add")).toBe("METHOD_NOT_FOUND none");
  });

  it("is registered with its methods; a service without a class has no resources", async () => {
    world = await World.start(Room, { plain: () => 0, add: () => 0 });
    expect(world.agent.registration).toMatchObject({ resources: true });
    const names = world.agent.registration?.methods.map(({ name }) => name);
    expect(names).toEqual(["plain", "add", "facts", "wait", "insist", "fails", "calls", "draining", "echoChan"]);
    world.close();
    world = await World.start(undefined, { plain: () => 0 });
    expect(world.agent.registration).toMatchObject({ resources: false });
    expect(await refused("a", "add")).toBe("NO_RESOURCES none");
  });

  it("runs its methods concurrently", async () => {
    world = await World.start(Room);
    await world.openAll();
    const first = await settled(world.agent.call("a", "wait", ["1"]));
    const second = await settled(world.agent.call("a", "wait", ["2"]));
    expect(running).toEqual(new Set(["1", "2"]));
    gates.get("2")?.();
    await world.settle();
    expect([first.isSettled, second.value]).toEqual([false, 1]);
    gates.get("1")?.();
    await world.settle();
    expect(first.value).toBe(2);
  });

  it("waits for its open hook; a second call meanwhile gets the same object", async () => {
    world = await World.start(Room);
    hooks.open = () => gate("open");
    await world.openAll();
    const first = await settled(world.agent.call("a", "add"));
    const second = await settled(world.agent.call("a", "add"));
    expect([first.isSettled, second.isSettled, made.length]).toEqual([false, false, 1]);
    gates.get("open")?.();
    await world.settle();
    expect([first.value, second.value, made.length]).toEqual([1, 2, 1]);
  });

  it("that cannot be opened fails its calls with none, is reported, and is tried again at the next", async () => {
    world = await World.start(Room);
    await world.openAll();
    for (const hook of ["construct", "open"] as const) {
      hooks = {
        [hook]: () => {
          throw new TypeError("a bug");
        },
      };
      expect(await refused("a", "add")).toBe("HOOK_FAILED none");
      expect(world.reports.splice(0)).toMatchObject([
        { method: "constructor", resource: "a", error: { message: "a bug" } },
      ]);
    }
    hooks = { open: () => Promise.reject(new TypeError("later")) };
    expect(await refused("a", "add")).toBe("HOOK_FAILED none");
    // What was made is disposed of; a constructor that threw has made nothing.
    expect(disposed).toEqual(["a", "a"]);
    hooks = {};
    expect(await call("a", "add")).toBe(1);
  });

  it("whose open hook takes longer than 5 s fails its calls, and is made anew only when that is over", async () => {
    world = await World.start(Room);
    hooks.open = () => gate("open");
    await world.openAll();
    const first = await settled(world.agent.call("a", "add"));
    await world.pass(4999);
    expect(first.isSettled).toBe(false);
    await world.pass(1);
    expect(first.reason).toBe("HOOK_FAILED none");
    hooks = {};
    expect(await refused("a", "add")).toBe("HOOK_FAILED none");
    expect(made).toHaveLength(1);
    gates.get("open")?.();
    await world.settle();
    expect(disposed).toEqual(["a"]);
    expect(await call("a", "add")).toBe(1);
    expect(made).toHaveLength(2);
  });

  it("is disposed of when it was idle, and is made anew afterwards", async () => {
    world = await World.start(Room, {}, {}, { idleMs: 60_000 });
    await world.openAll();
    await call("a", "add");
    const long = await settled(world.agent.call("b", "wait", ["b"], { timeoutMs: 600_000 }));
    await world.pass(55_000);
    expect(disposed).toEqual([]);
    await world.pass(13_000);
    expect(disposed).toEqual(["a"]);
    expect(await call("a", "add")).toBe(1);
    expect(made.map(({ name, memory }) => `${name} ${memory}`)).toEqual(["a fresh", "b fresh", "a fresh"]);
    expect(long.isSettled).toBe(false);
  });

  it("that is being disposed of is waited for", async () => {
    world = await World.start(Room, {}, {}, { idleMs: 8000 });
    hooks.dispose = () => gate("dispose");
    await world.openAll();
    await call("a", "add");
    await world.pass(10_000);
    const next = await settled(world.agent.call("a", "add"));
    expect([next.isSettled, made.length, disposed]).toEqual([false, 1, []]);
    gates.get("dispose")?.();
    await world.settle();
    expect([next.value, made.length, disposed]).toEqual([1, 2, ["a"]]);
  });

  it("is one of so many at most", async () => {
    world = await World.start(Room, {}, { resourcesMax: 2 }, { idleMs: 8000 });
    await world.openAll();
    await call("a", "add");
    await call("b", "add");
    const outcome = await settled(world.agent.call("c", "add"));
    expect(outcome.error).toMatchObject({ reason: "OVERLOADED", effect: "none", details: { limit: "resourcesMax" } });
    await world.pass(10_000);
    expect(await call("c", "add")).toBe(1);
  });
});

describe("a call", () => {
  it("waits for its slot to be opened, until its deadline", async () => {
    world = await World.start(Room);
    const first = await settled(world.agent.call("a", "add", [], { timeoutMs: 5000 }));
    const late = await settled(world.agent.call("a", "add", [], { epoch: 2, timeoutMs: 5000 }));
    expect(first.isSettled).toBe(false);
    world.agent.open(world.slot("a"), 1);
    await world.settle();
    expect(first.value).toBe(1);
    await world.pass(5100);
    expect(late.reason).toBe("MOVED none");
    expect(late.error).toMatchObject({ details: { epoch: 2 } });
  });

  it("waits with 999 others at most", async () => {
    world = await World.start(Room);
    const outcomes = Array.from({ length: 1001 }, () => new Outcome(world.agent.call("a", "add")));
    await world.settle();
    expect(outcomes.map(({ reason }) => reason).filter((reason) => reason !== undefined)).toEqual(["OVERLOADED none"]);
    world.agent.open(world.slot("a"), 1);
    await world.settle();
    expect(outcomes.filter(({ value }) => value !== undefined)).toHaveLength(1000);
  });

  it("is refused where its arguments cannot be kept, and holds up no drain afterwards", async () => {
    world = await World.start(Room);
    const { budget } = world.connection.runtime;
    const slot = world.slot("a");
    budget.bytes = budget.bytesMax;
    const refused = await settled(world.agent.call("a", "add"));
    budget.bytes = 0;
    expect(refused.reason).toBe("OVERLOADED none");
    world.agent.open(slot, 1);
    await world.settle();
    expect(made).toEqual([]);
    world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    expect(world.agent.of("closed")).toMatchObject([{ slot, epoch: 1, hasState: true }]);
  });

  it("whose arguments cannot be kept may be late for its slot, too", async () => {
    world = await World.start(Room);
    const { budget } = world.connection.runtime;
    budget.bytes = budget.bytesMax;
    const refused = await settled(world.agent.call("a", "add"));
    budget.bytes = 0;
    expect(refused.reason).toBe("OVERLOADED none");
    // An error that nobody hears of would end the process.
    await world.pass(31_000);
  });

  it("of another epoch is refused with the one to wait for", async () => {
    world = await World.start(Room);
    await world.openAll(7);
    const older = await settled(world.agent.call("a", "add", [], { epoch: 6 }));
    expect(older.error).toMatchObject({ reason: "MOVED", effect: "none", details: { epoch: 7 } });
    const unsure = await settled(world.agent.call("a", "add", [], { epoch: 0 }));
    expect(unsure.reason).toBe("MOVED none");
    expect(made).toEqual([]);
  });

  it("is served without a lease and under epoch 0 where the service is to serve whoever holds it", async () => {
    world = await World.start(Room, {}, {}, { servesUncertain: true });
    world.leaseMs = undefined;
    const unsure = await settled(world.agent.call("a", "facts", [], { epoch: 0 }));
    expect(unsure.value).toMatchObject({ epoch: 0 });
    expect(made).toEqual([{ name: "a", state: undefined, memory: "lost", epoch: 0 }]);
    // The same object goes on under the epoch that comes to be known, and without its agent.
    await call("a", "add").catch(() => {});
    await world.openAll(5);
    const sure = await settled(world.agent.call("a", "facts", [], { epoch: 5 }));
    expect(sure.value).toMatchObject({ epoch: 5 });
    world.agent.session.destroy(new LeverError("CONNECTION_LOST", "the agent was killed"));
    await world.pass(1000);
    const after = await settled(world.agent.call("a", "facts", [], { epoch: 0 }));
    expect(after.value).toMatchObject({ epoch: 5 });
    expect(made).toHaveLength(1);
  });
});

describe("the lease", () => {
  it("is counted from the question: a method starts until then only, on any of the machine's clocks", async () => {
    world = await World.start(Room);
    await world.openAll();
    expect(await call("a", "add")).toBe(1);
    world.leaseMs = undefined;
    world.pausedMs += 9000;
    expect(await call("a", "add")).toBe(2);
    world.pausedMs += 1001;
    const late = await settled(world.agent.call("a", "add"));
    expect(late.isSettled).toBe(false);
    // It was held all the time; the next answer says so.
    world.leaseMs = 10_000;
    await world.pass(1000);
    expect(late.value).toBe(3);
  });

  it("asks at once when a call comes before the first ping that finds it", async () => {
    world = new World(Room);
    world.leaseMs = -1;
    void world.server.start(10_000);
    await world.settle();
    world.leaseMs = 10_000;
    await world.openAll();
    expect(await call("a", "add")).toBe(1);
    expect(world.clock.now()).toBe(0);
  });

  it("at its end aborts what runs, which may still answer until the last moment", async () => {
    world = await World.start(Room);
    await world.openAll();
    const polite = await settled(world.agent.call("a", "wait", ["a"]));
    const stubborn = await settled(world.agent.call("b", "insist", ["b"]));
    const later = await settled(world.agent.call("c", "insist", ["c"]));
    const channel = await settled(world.agent.channel("d", "echoChan"));
    const end = new Outcome((channel.value as Channel).receive());
    world.leaseMs = undefined;
    await world.pass(9_900, false);
    expect(polite.isSettled).toBe(false);
    await world.pass(200, false);
    expect(polite.reason).toBe("LEASE_LAPSED ran");
    expect(end.reason).toBe("LEASE_LAPSED ran");
    expect(running).toEqual(new Set(["b", "c"]));
    await world.pass(4000, false);
    gates.get("b")?.();
    await world.settle();
    expect(stubborn.value).toBe(1);
    await world.pass(300, false);
    gates.get("c")?.();
    await world.settle();
    expect(later.reason).toBe("LEASE_LAPSED unknown");
  });

  it("lets nothing out that was laid into a write before the process was stopped", async () => {
    world = await World.start(Room);
    await world.openAll();
    const outcome = await settled(world.agent.call("a", "insist", ["a"]));
    gates.get("a")?.();
    // The method returns in this turn; the write would be at its end.
    await Promise.resolve();
    await Promise.resolve();
    world.pausedMs += 30_000;
    world.leaseMs = undefined;
    await world.settle();
    expect(running.size).toBe(0);
    expect(outcome.value).toBeUndefined();
    expect(outcome.isSettled).toBe(true);
  });

  it("that is renewed after all lets out what is called from then on", async () => {
    world = await World.start(Room);
    await world.openAll();
    const outcome = await settled(world.agent.call("a", "insist", ["a"]));
    world.pausedMs += 30_000;
    gates.get("a")?.();
    await world.settle();
    expect(outcome.reason).toBe("LEASE_LAPSED unknown");
    await world.pass(1000);
    expect(await call("a", "add")).toBe(2);
    expect(await call("a", "add")).toBe(3);
  });

  it("holds for calls that a method makes", async () => {
    world = await World.start(Room);
    await world.openAll();
    const outcome = await settled(world.agent.call("a", "calls", ["add", "go"]));
    world.pausedMs += 30_000;
    gates.get("go")?.();
    await world.settle();
    expect(outcome.isSettled).toBe(true);
    expect(world.callsTo("add")).toEqual([]);
  });
});

describe("calls that methods and hooks make", () => {
  it("name the invocation, also after it has waited; none is named once it has returned", async () => {
    world = await World.start(Room, {
      plain: () => world.client.invoke("/other/plainly", []),
      later: () => {
        world.clock.setTimer(() => void world.client.invoke("/other/afterwards", []), 10);
      },
    });
    await world.openAll();
    const outcome = await settled(world.agent.call("a", "calls", ["add", "go"]));
    gates.get("go")?.();
    await world.settle();
    expect(outcome.value).toBeNull();
    // The agent's streams to the app are even ones: the first opened here is the call's.
    expect(world.callsTo("add")).toMatchObject([{ fields: { resource: "room-9", parent: 2 } }]);
    await call(undefined, "plain");
    expect(world.callsTo("plainly")).toMatchObject([{ fields: { parent: 4 } }]);
    await call(undefined, "later");
    await world.pass(10);
    expect(world.callsTo("afterwards")).toHaveLength(1);
    expect(world.callsTo("afterwards")[0]?.fields).not.toHaveProperty("parent");
  });

  it("are marked within hooks, and have the resource's context", async () => {
    world = await World.start(Room);
    const seen: unknown[] = [];
    const hook = async (name: string) => {
      const { resource, epoch, method, service, environment } = context();
      seen.push({ resource, epoch, method, service, environment });
      await world.client.invoke(`/other/${method === "dispose" ? "disposed" : "opened"}`, [name]);
    };
    hooks = { open: hook, dispose: hook };
    await world.openAll();
    expect(await call("a", "add")).toBe(1);
    world.agent.send({ type: "drain", slot: world.slot("a"), epoch: 1 });
    await world.settle();
    expect(disposed).toEqual(["a"]);
    const facts = { resource: "a", epoch: 1, service: "chat", environment: "test" };
    expect(seen).toEqual([
      { ...facts, method: "constructor" },
      { ...facts, method: "dispose" },
    ]);
    expect(world.callsTo("opened")).toMatchObject([{ fields: { hook: "a" }, args: ["a"] }]);
    expect(world.callsTo("disposed")).toMatchObject([{ fields: { hook: "a" }, args: ["a"] }]);
  });

  it("fail with CANCELLED when the agent is another one by then", async () => {
    world = await World.start(Room);
    await world.openAll();
    let nested: Outcome | undefined;
    hooks.handOver = undefined;
    class Caller {
      async calls() {
        await gate("go");
        nested = new Outcome(world.client.invoke("/other/add", []));
      }
    }
    world.close();
    world = await World.start(Caller);
    await world.openAll();
    const outcome = await settled(world.agent.call("a", "calls"));
    world.agent.session.destroy(new LeverError("CONNECTION_LOST", "the agent was killed"));
    await world.pass(1000);
    expect(outcome.reason).toBe("CONNECTION_LOST unknown");
    gates.get("go")?.();
    await world.settle();
    expect(nested?.reason).toBe("CANCELLED none");
    expect(world.callsTo("add")).toEqual([]);
  });
});

describe("a planned move", () => {
  it("waits for the methods, hands over, disposes, and says all of it in order", async () => {
    world = await World.start(Room);
    await world.openAll();
    const slot = world.slot("a");
    const neighbour = neighbourOf("a");
    const outcome = await settled(world.agent.call("a", "wait", ["a"]));
    await call(neighbour, "add", 41);
    world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    expect(world.agent.of("closed")).toEqual([]);
    // A nested call that the agent lets in is served.
    expect(await call("a", "add")).toBe(1);
    gates.get("a")?.();
    await world.settle();
    expect(outcome.value).toBe(2);
    expect(world.agent.of("closed")).toEqual([
      { type: "closed", slot, epoch: 1, hasState: true, absent: "fresh", tokensSince: 0 },
    ]);
    expect(world.agent.handed.get(slot)?.states).toEqual({ a: { count: 2 }, [neighbour]: { count: 41 } });
    expect(disposed.sort()).toEqual(["a", neighbour]);
    expect(await refused("a", "add")).toBe("MOVED none");
  });

  it("gives the next object what was left, and says what it says of the others", async () => {
    world = await World.start(Room);
    const slot = world.slot("a");
    world.agent.state(slot, 9, "a", { count: 7 });
    world.agent.open(slot, 9, { absent: "lost" });
    await world.settle();
    expect(world.agent.of("opened")).toEqual([{ type: "opened", slot, epoch: 9 }]);
    const added = await settled(world.agent.call("a", "add", [], { epoch: 9 }));
    expect(added.value).toBe(8);
    const neighbour = neighbourOf("a");
    await settled(world.agent.call(neighbour, "add", [], { epoch: 9 }));
    expect(made).toEqual([
      { name: "a", state: { count: 7 }, memory: "state", epoch: 9 },
      { name: neighbour, state: undefined, memory: "lost", epoch: 9 },
    ]);
    // What was handed over and never asked for goes on to the next.
    world.agent.state(slot, 10, "untouched", Uint8Array.of(1, 2));
    world.agent.open(slot, 10);
    await world.settle();
    world.agent.send({ type: "drain", slot, epoch: 10 });
    await world.settle();
    expect(world.agent.handed.get(slot)?.states).toEqual({ untouched: Uint8Array.of(1, 2) });
  });

  it("tells running methods, and is called off", async () => {
    world = await World.start(Room);
    await world.openAll();
    const slot = world.slot("a");
    const draining = await settled(world.agent.call("a", "draining", ["d"]));
    const waiting = await settled(world.agent.call("a", "wait", ["a"]));
    world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    expect(draining.value).toBe("MOVED");
    world.agent.send({ type: "resume", slot, epoch: 1 });
    await world.settle();
    gates.get("a")?.();
    await world.settle();
    expect(waiting.value).toBe(1);
    expect(world.agent.of("closed")).toEqual([]);
    const again = await settled(world.agent.call("a", "draining", ["d"]));
    expect(again.isSettled).toBe(false);
    expect(made).toHaveLength(1);
  });

  it("a call that comes when the hooks run is refused", async () => {
    world = await World.start(Room);
    hooks.handOver = async () => {
      await gate("handOver");
      return 1;
    };
    await world.openAll();
    await call("a", "add");
    world.agent.send({ type: "drain", slot: world.slot("a"), epoch: 1 });
    await world.settle();
    const outcome = await settled(world.agent.call("a", "add"));
    expect(outcome.error).toMatchObject({ reason: "MOVED", effect: "none", details: { epoch: 2 } });
    // Too late to call it off.
    world.agent.send({ type: "resume", slot: world.slot("a"), epoch: 1 });
    gates.get("handOver")?.();
    await world.settle();
    expect(world.agent.handed.get(world.slot("a"))?.states).toEqual({ a: 1 });
  });

  it.each([
    ["throws", () => Promise.reject(new TypeError("a bug"))],
    ["is too large", () => new Uint8Array(1024 * 1024 + 1)],
    ["has no JSON form", () => new Date()],
  ])("state that %s is lost, and reported; the rest is not", async (_, hook) => {
    world = await World.start(Room);
    await world.openAll();
    const slot = world.slot("a");
    const neighbour = neighbourOf("a");
    hooks.handOver = (name) => (name === "a" ? hook() : "kept");
    await call("a", "add");
    await call(neighbour, "add");
    world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    expect(world.agent.of("closed")).toMatchObject([{ hasState: true, absent: "lost" }]);
    expect(world.agent.handed.get(slot)?.states).toEqual({ [neighbour]: "kept" });
    expect(world.reports).toMatchObject([{ method: "handOver", resource: "a" }]);
    expect(disposed).toHaveLength(2);
  });

  it("1 MiB of bytes is handed over", async () => {
    world = await World.start(Room);
    await world.openAll();
    hooks.handOver = () => new Uint8Array(1024 * 1024).fill(7);
    await call("a", "add");
    world.agent.send({ type: "drain", slot: world.slot("a"), epoch: 1 });
    await world.settle();
    expect(world.agent.handed.get(world.slot("a"))?.states["a"]).toHaveLength(1024 * 1024);
  });

  it("does not wait for hooks longer than 5 s", async () => {
    world = await World.start(Room);
    await world.openAll();
    hooks = { handOver: () => gate("never"), dispose: () => gate("never") };
    await call("a", "add");
    world.agent.send({ type: "drain", slot: world.slot("a"), epoch: 1 });
    await world.pass(9999);
    expect(world.agent.of("closed")).toEqual([]);
    await world.pass(10);
    expect(world.agent.of("closed")).toMatchObject([{ hasState: true, absent: "lost" }]);
    expect(world.reports.map(({ method }) => method)).toEqual(["handOver", "dispose"]);
  });

  it("waits until what its methods said has left", async () => {
    world = await World.start(
      class {
        async floodChan(channel: Channel<never, Uint8Array>) {
          for (let n = 0; n < 40; n++) void channel.send(new Uint8Array(10_000));
          await Promise.resolve();
        }
      },
    );
    await world.openAll();
    const opened = await settled(world.agent.channel("a", "floodChan"));
    const channel = opened.value as Channel<Uint8Array, never>;
    world.agent.send({ type: "drain", slot: world.slot("a"), epoch: 1 });
    await world.settle();
    expect(world.agent.of("closed")).toEqual([]);
    let count = 0;
    const reading = (async () => {
      for await (const _ of channel) count++;
    })();
    await world.settle();
    await reading;
    channel.closeWrite();
    await world.settle();
    expect(count).toBe(40);
    expect(world.agent.of("closed")).toHaveLength(1);
  });
});

describe("a slot that is lost", () => {
  it("aborts its methods, and is closed without state when they have returned", async () => {
    world = await World.start(Room);
    await world.openAll();
    const slot = world.slot("a");
    const polite = await settled(world.agent.call("a", "wait", ["a"]));
    const stubborn = await settled(world.agent.call("a", "insist", ["b"]));
    world.agent.send({ type: "abort", slot, epoch: 1 });
    await world.settle();
    expect(polite.reason).toBe("LEASE_LAPSED ran");
    expect(await refused("a", "add")).toBe("MOVED none");
    expect([world.agent.of("closed"), disposed]).toEqual([[], []]);
    gates.get("b")?.();
    await world.settle();
    expect(stubborn.isSettled).toBe(true);
    expect(world.agent.of("closed")).toMatchObject([{ slot, epoch: 1, hasState: false, absent: "lost" }]);
    expect(world.agent.handed.get(slot)?.states).toEqual({});
    expect(disposed).toEqual(["a"]);
  });

  it("has its next object wait for the methods and the disposal of the last one", async () => {
    world = await World.start(Room);
    await world.openAll();
    const slot = world.slot("a");
    await settled(world.agent.call("a", "insist", ["old"]));
    world.agent.send({ type: "abort", slot, epoch: 1 });
    world.agent.open(slot, 2, { absent: "lost" });
    await world.settle();
    const next = await settled(world.agent.call("a", "add", [], { epoch: 2 }));
    const other = await settled(world.agent.call(neighbourOf("a"), "add", [], { epoch: 2 }));
    expect([next.isSettled, other.value]).toEqual([false, 1]);
    gates.get("old")?.();
    await world.settle();
    expect(next.value).toBe(1);
    expect(disposed).toEqual(["a"]);
    expect(made.map(({ name, memory, epoch }) => [name, memory, epoch])).toEqual([
      ["a", "fresh", 1],
      [neighbourOf("a"), "lost", 2],
      ["a", "lost", 2],
    ]);
  });

  it("that the app never had is closed at once", async () => {
    world = await World.start(Room);
    world.agent.send({ type: "abort", slot: 2, epoch: 5 });
    world.agent.send({ type: "drain", slot: 3, epoch: 5 });
    await world.settle();
    expect(world.agent.of("closed")).toMatchObject([
      { slot: 2, epoch: 5, hasState: false },
      { slot: 3, epoch: 5, hasState: false },
    ]);
  });
});

describe("when the agent is gone", () => {
  async function anotherAgent(): Promise<AgentEnd> {
    const former = world.agent;
    former.session.destroy(new LeverError("CONNECTION_LOST", "the agent was killed"));
    await world.settle();
    await world.pass(1000);
    expect(world.agent).not.toBe(former);
    return world.agent;
  }

  it("methods are aborted at once, nothing starts, and what is left is reported to the next", async () => {
    world = await World.start(Room);
    await world.openAll(3);
    const polite = new Outcome(world.agent.call("a", "wait", ["a"], { epoch: 3 }));
    void world.agent.call("b", "insist", ["b"], { epoch: 3 }).catch(() => {});
    await world.settle();
    world.isReachable = false;
    world.agent.session.destroy(new LeverError("CONNECTION_LOST", "the agent was killed"));
    await world.settle();
    expect(polite.isSettled).toBe(true);
    expect(running).toEqual(new Set(["b"]));
    world.isReachable = true;
    await world.pass(2000);
    expect(world.agents).toHaveLength(2);
    const { holder } = world.agent;
    expect(holder?.process).toBe("process-1");
    expect(holder?.holds).toHaveLength(4);
    for (const { slot, epoch, running: left } of holder?.holds ?? []) {
      expect([epoch, left]).toEqual([3, slot === world.slot("b") ? 1 : 0]);
    }
    gates.get("b")?.();
    await world.settle();
    expect(world.agent.of("left")).toEqual([{ type: "left", slot: world.slot("b"), epoch: 3, count: 1 }]);
    expect(await refused("a", "add")).toBe("MOVED none");
  });

  it("objects go over to the next epoch if nobody had it in between", async () => {
    world = await World.start(Room);
    await world.openAll(3);
    const slot = world.slot("a");
    await settled(world.agent.call("a", "add", [5], { epoch: 3 }));
    await settled(world.agent.call("a", "insist", ["old"], { epoch: 3 }));
    const agent = await anotherAgent();
    agent.open(slot, 4, { keeps: 3, absent: "lost" });
    await world.settle();
    expect(agent.of("opened")).toEqual([{ type: "opened", slot, epoch: 4 }]);
    const next = await settled(agent.call("a", "add", [], { epoch: 4 }));
    expect([next.isSettled, made.length]).toEqual([false, 1]);
    gates.get("old")?.();
    await world.settle();
    expect(next.value).toBe(7);
    expect(made[1]).toEqual({ name: "a", state: { count: 6 }, memory: "state", epoch: 4 });
    expect(disposed).toEqual(["a"]);
  });

  it("an old method that does not return holds up a move only until that is called off", async () => {
    world = await World.start(Room, {}, {}, { slots: 1 });
    await world.openAll(3);
    await settled(world.agent.call("a", "insist", ["old"], { epoch: 3 }));
    const agent = await anotherAgent();
    agent.open(0, 4, { keeps: 3, absent: "lost" });
    await world.settle();
    expect((await settled(agent.call("b", "add", [], { epoch: 4 }))).value).toBe(1);
    agent.send({ type: "drain", slot: 0, epoch: 4 });
    await world.settle();
    expect(agent.of("closed")).toEqual([]);
    agent.send({ type: "resume", slot: 0, epoch: 4 });
    await world.settle();
    expect((await settled(agent.call("b", "add", [], { epoch: 4 }))).value).toBe(2);
    agent.send({ type: "drain", slot: 0, epoch: 4 });
    await world.settle();
    gates.get("old")?.();
    await world.settle();
    expect(agent.of("closed")).toMatchObject([{ slot: 0, epoch: 4, hasState: true }]);
    expect(agent.handed.get(0)?.states).toEqual({ a: { count: 1 }, b: { count: 2 } });
  });

  it("objects are closed without a word if somebody may have had it", async () => {
    world = await World.start(Room);
    await world.openAll(3);
    const slot = world.slot("a");
    await settled(world.agent.call("a", "add", [5], { epoch: 3 }));
    const agent = await anotherAgent();
    agent.open(slot, 5, { absent: "lost" });
    await world.settle();
    const next = await settled(agent.call("a", "add", [], { epoch: 5 }));
    expect(next.value).toBe(1);
    expect(made[1]).toEqual({ name: "a", state: undefined, memory: "lost", epoch: 5 });
    expect(disposed).toEqual(["a"]);
  });

  it("what goes over twice, with a method that returns late, arrives", async () => {
    world = await World.start(Room);
    await world.openAll(3);
    const slot = world.slot("a");
    await settled(world.agent.call("a", "add", [5], { epoch: 3 }));
    await settled(world.agent.call("a", "insist", ["old"], { epoch: 3 }));
    (await anotherAgent()).open(slot, 4, { keeps: 3 });
    await world.settle();
    const agent = await anotherAgent();
    expect(agent.holder?.holds.find((held) => held.slot === slot)).toEqual({ slot, epoch: 4, running: 1 });
    agent.open(slot, 5, { keeps: 4 });
    await world.settle();
    gates.get("old")?.();
    await world.settle();
    const next = await settled(agent.call("a", "add", [], { epoch: 5 }));
    expect(next.value).toBe(7);
    agent.send({ type: "drain", slot, epoch: 5 });
    await world.settle();
    expect(agent.handed.get(slot)?.states).toEqual({ a: { count: 7 } });
  });

  it("the end of the channel about slots alone is taken for it, and it is opened again", async () => {
    world = await World.start(Room);
    await world.openAll();
    const outcome = await settled(world.agent.call("a", "wait", ["a"]));
    world.agent.endHold();
    await world.settle();
    expect(running.size).toBe(0);
    expect(outcome.reason).toBe("LEASE_LAPSED unknown");
    expect(await refused("a", "add")).toBe("MOVED none");
    await world.pass(1000);
    expect(world.agents).toHaveLength(1);
    expect(world.agent.holder?.holds).toHaveLength(4);
  });

  it("idle objects that nobody takes over are disposed of in time", async () => {
    world = await World.start(Room, {}, {}, { idleMs: 60_000 });
    await world.openAll();
    await call("a", "add");
    await anotherAgent();
    await world.pass(80_000);
    expect(disposed).toEqual(["a"]);
  });
});

describe("orphans", () => {
  it("are named in each answer: methods whose stream has ended before them", async () => {
    world = await World.start(Room);
    await world.openAll();
    const controller = new AbortController();
    const outcome = await settled(world.agent.call("a", "insist", ["a"], { signal: controller.signal }));
    await settled(world.agent.call("b", "insist", ["b"]));
    await world.pass(1000);
    expect(world.agent.of("pong").at(-1)?.orphans).toEqual([]);
    controller.abort();
    await world.settle();
    expect(outcome.reason).toBe("CANCELLED unknown");
    await world.pass(1000);
    expect(world.agent.of("pong").at(-1)?.orphans).toEqual([2]);
    gates.get("a")?.();
    await world.settle();
    expect(world.agent.of("left")).toEqual([{ type: "left", slot: world.slot("a"), epoch: 1, count: 1 }]);
    await world.pass(1000);
    expect(world.agent.of("pong").at(-1)?.orphans).toEqual([]);
  });
});

describe("the end of an instance", () => {
  it("serves its resources until all have moved, and then goes away", async () => {
    world = await World.start(Room);
    await world.openAll();
    await call("a", "add");
    const draining = await settled(world.agent.call("a", "draining", ["d"]));
    const end = await settled(world.server.end());
    expect(draining.value).toBe("DRAINING");
    expect(world.agent.of("leaving")).toHaveLength(1);
    expect(world.agent.goAway).toBeUndefined();
    expect(await call("a", "add")).toBe(2);
    for (let slot = 0; slot < 4; slot++) world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    expect(world.agent.of("closed")).toHaveLength(4);
    expect(world.agent.goAway).toMatchObject({ reason: "DRAINING" });
    expect(end.value).toEqual({ cutOff: 0 });
    expect(disposed).toEqual(["a"]);
  });

  it("does not wait longer than it may, and disposes of what is left", async () => {
    world = await World.start(Room, {}, { drainTimeoutMs: 5000 });
    await world.openAll();
    await call("a", "add");
    const end = await settled(world.server.end());
    await world.pass(4900);
    expect(world.agent.goAway).toBeUndefined();
    await world.pass(1300);
    expect(end.value).toEqual({ cutOff: 0 });
    expect(disposed).toEqual(["a"]);
  });

  it("is as that of any other without slots", async () => {
    world = await World.start(Room);
    const end = await settled(world.server.end());
    expect(end.value).toEqual({ cutOff: 0 });
    expect(world.agent.of("leaving")).toEqual([]);
  });

  it("does not wait for an agent that is gone", async () => {
    world = await World.start(Room);
    await world.openAll();
    await call("a", "add");
    const end = await settled(world.server.end());
    world.agent.session.destroy(new LeverError("CONNECTION_LOST", "the agent was killed"));
    await world.settle();
    expect(end.isSettled).toBe(true);
    expect(disposed).toEqual(["a"]);
  });
});
