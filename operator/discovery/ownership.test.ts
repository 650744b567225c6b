/** Slots over the operator's sessions: rows in discovery, holders and their leader, and the host's own methods. */

import { setImmediate as nextTurn } from "node:timers/promises";
import { Channel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import {
  type DeltaMessage,
  defaultServicePolicy,
  type OperatorMessage,
  type OwnershipPolicy,
  type SlotRow,
  type TableMessage,
} from "@leveros/protocol/control/discovery.ts";
import {
  decodeLeaderMessage,
  type HolderIdentity,
  type HolderMessage,
  type LeaderMessage,
} from "@leveros/protocol/control/ownership.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import { decodeReceived } from "@leveros/protocol/invocation/received-item.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { EndpointTables } from "../core/endpoint-table.ts";
import type { HolderLine } from "../core/ownership/leader.ts";
import { OwnershipLeader } from "../core/ownership/leader.ts";
import { MemorySlotStore } from "../core/ownership/slot-store.ts";
import { ServiceRegistry } from "../core/service-registry.ts";
import { DiscoveryServer, type DiscoveryServerOptions } from "./discovery-server.ts";
import { GatedTransport } from "./gated-transport.fixture.ts";

const ownership: OwnershipPolicy = {
  slots: 4096,
  onUncertain: "Wait",
  onLapse: "Abort",
  leaseMs: 15_000,
  idleMs: 180_000,
};
const service = { environment: "dev", service: "chat" };
const none = new Uint8Array(0);

let clock: VirtualClock;
let tables: EndpointTables;
let leader: OwnershipLeader;
let registry: ServiceRegistry;
let server: DiscoveryServer;

function serve(options: Partial<DiscoveryServerOptions> = {}): void {
  server = new DiscoveryServer({ registry, clock, leader, ...options });
}

beforeEach(() => {
  clock = new VirtualClock();
  tables = new EndpointTables({ startVersion: 1, origin: "run-1" });
  leader = new OwnershipLeader({
    clock,
    leaseClock: { read: () => ({ monotonicMs: clock.now(), bootMs: clock.now(), wallMs: clock.now() + 1000 }) },
    random: () => 0.5,
    store: new MemorySlotStore(),
    onSlots: (environment, name, rows) => tables.setSlots(environment, name, rows),
  });
  leader.start();
  registry = new ServiceRegistry({ tables, clock, leader });
  registry.declareService("dev", "chat", { ...defaultServicePolicy, ownership });
  serve();
});

afterEach(() => {
  server.close();
  leader.close();
  registry.close();
});

async function settle(): Promise<void> {
  for (let quietTurns = 0; quietTurns < 3; ) {
    if (clock.step(clock.now())) quietTurns = 0;
    else quietTurns++;
    await nextTurn();
  }
}

class Peer {
  readonly transport: GatedTransport;
  readonly session: Session;
  readonly runtime = {
    wheel: new DeadlineWheel(clock),
    budget: new AssemblyBudget(1 << 24),
    now: () => clock.now(),
  };

  constructor(part: Partial<Identity> = {}) {
    const [a, b] = memoryTransportPair(clock);
    this.transport = new GatedTransport(a);
    server.accept(b);
    const handler = { onOpen: (stream: { refuse(fault: Uint8Array): void }) => stream.refuse(none) };
    this.session = new Session({
      transport: this.transport,
      clock,
      side: "dialer",
      identity: { role: "agent", ...service, instance: "chat-1", ...part },
      limits: defaultSessionLimits,
      handler,
    });
  }

  async open(method: string, args: unknown[]): Promise<PeerChannel> {
    const target = new Target("lever-system", "operator", method);
    const options = { timeoutMs: 1000, fields: none };
    const opening = startChannel(this.runtime, this.session, target, encodeArgs(args), options);
    const opened = opening.then(
      (raw) => new PeerChannel(new Channel(raw)),
      (error) => LeverError.from(error),
    );
    await settle();
    const result = await opened;
    if (LeverError.is(result)) throw result;
    return result;
  }

  async call(method: string, args: unknown[]): Promise<unknown> {
    const target = new Target("lever-system", "operator", method);
    const options = { timeoutMs: 1000, fields: none };
    const result = startCall(this.runtime, this.session, target, encodeArgs(args), options).then(
      decodeReceived,
      (error: unknown) => ({ error }),
    );
    await settle();
    const settled = await result;
    if (typeof settled === "object" && settled !== null && "error" in settled) throw settled.error;
    return settled;
  }
}

class PeerChannel {
  readonly channel: Channel;
  readonly messages: unknown[] = [];
  error: unknown;

  constructor(channel: Channel) {
    this.channel = channel;
    void this.#read();
  }

  async #read(): Promise<void> {
    try {
      for await (const message of this.channel) this.messages.push(message);
    } catch (error) {
      this.error = error;
    }
  }

  async say(message: object): Promise<void> {
    void this.channel.send(message);
    await settle();
  }
}

function row(slot: number, epoch: number): SlotRow {
  return { slot, holder: "chat-1", epoch, issued: epoch, isMoving: false, fence: 0 };
}

function identity(part: Partial<HolderIdentity> = {}): HolderIdentity {
  return {
    ...service,
    instance: "chat-1",
    address: "127.0.0.1:4001",
    incarnation: "b.0.0",
    process: "p1",
    appStartedAt: 2,
    agentStartedAt: 1,
    isSilent: false,
    holds: [],
    released: [],
    ...part,
  };
}

describe("rows of slots", () => {
  it("are spread over a table's parts, beside its instances", async () => {
    for (let n = 0; n < 1500; n++) registry.upsertInstance({ ...service, instance: `chat-${n}` });
    tables.setSlots("dev", "chat", [row(7, 3), row(4095, 4)]);
    const channel = await new Peer().open("discoveryChan", [{ role: "gateway" }]);
    await channel.say({ type: "subscribe", ...service });
    const parts = channel.messages as TableMessage[];
    expect(parts.map(({ part, more }) => [part, more])).toEqual([
      [0, true],
      [1, true],
      [2, true],
      [3, true],
      [4, false],
    ]);
    expect(parts.map(({ slots }) => slots?.length)).toEqual([1000, 1000, 1000, 1000, 96]);
    expect(parts.map(({ instances }) => instances.length)).toEqual([1000, 500, 0, 0, 0]);
    expect(parts.flatMap(({ slots }) => slots)).toEqual(tables.table("dev", "chat").slots);
  });

  it("that have changed come in a delta, and in a full table if they are too many for one", async () => {
    const channel = await new Peer().open("discoveryChan", [{ role: "gateway" }]);
    await channel.say({ type: "subscribe", ...service });
    channel.messages.length = 0;
    tables.setSlots(
      "dev",
      "chat",
      Array.from({ length: 1000 }, (_, slot) => row(slot, 3)),
    );
    await settle();
    const [delta] = channel.messages as DeltaMessage[];
    expect(delta).toMatchObject({ type: "delta", changed: [], removed: [] });
    expect(delta?.slots).toHaveLength(1000);
    channel.messages.length = 0;
    tables.setSlots(
      "dev",
      "chat",
      Array.from({ length: 1001 }, (_, slot) => row(slot, 4)),
    );
    await settle();
    expect((channel.messages as OperatorMessage[]).map(({ type }) => type)).toEqual(Array(5).fill("table"));
  });

  it("are not there for a service that holds no resources", async () => {
    registry.declareService("dev", "plain", defaultServicePolicy);
    const channel = await new Peer().open("discoveryChan", [{ role: "gateway" }]);
    await channel.say({ type: "subscribe", environment: "dev", service: "plain" });
    expect(channel.messages[0]).not.toHaveProperty("slots");
  });
});

describe("a holder", () => {
  it("opens its channel, renews, is granted slots and confirms them; everybody learns who holds them", async () => {
    registry.upsertInstance({ ...service, instance: "chat-1" });
    const peer = new Peer();
    const caller = await new Peer().open("discoveryChan", [{ role: "gateway" }]);
    await caller.say({ type: "subscribe", ...service });
    const channel = await peer.open("ownershipChan", [identity()]);
    await channel.say({ type: "renew", n: 1, ageMs: 0 });
    const [renewed, grant] = channel.messages.map(decodeLeaderMessage);
    expect(renewed).toEqual({ type: "renewed", n: 1 });
    if (grant?.type !== "grant") throw new Error("no grant");
    expect(grant.slots).toHaveLength(4096);
    await channel.say({ type: "held", slots: [{ slot: 9, epoch: grant.slots[9]?.epoch }] });
    expect(tables.table("dev", "chat").slots?.[9]).toMatchObject({ holder: "chat-1", isMoving: false });
    expect((caller.messages.at(-1) as DeltaMessage).slots).toMatchObject([{ slot: 9, holder: "chat-1" }]);
  });

  it("may have a discovery channel on the same session", async () => {
    const peer = new Peer();
    await peer.open("discoveryChan", [{ role: "gateway" }]);
    const channel = await peer.open("ownershipChan", [identity()]);
    expect(channel.error).toBeUndefined();
  });

  it.each([
    [[], "INVALID_ARGUMENTS"],
    [[{ ...identity(), holds: [{ slot: -1 }] }], "INVALID_ARGUMENTS"],
    [[new Uint8Array(2)], "ARGS_FORM"],
    [[identity({ service: "other" })], "IDENTITY_DENIED"],
    [[identity({ instance: "chat-2" })], "IDENTITY_DENIED"],
  ])("is refused with effect none: %j", async (args, reason) => {
    await expect(new Peer().open("ownershipChan", args)).rejects.toMatchObject({ reason, effect: "none" });
  });

  it("is refused if its service holds no resources, and if it is no agent", async () => {
    const args = [identity({ service: "other" })];
    const open = (part: Partial<Identity>) => new Peer(part).open("ownershipChan", args);
    await expect(open({ service: "other" })).rejects.toMatchObject({ reason: "NO_RESOURCES", effect: "none" });
    const client = open({ service: "other", role: "client" });
    await expect(client).rejects.toMatchObject({ reason: "IDENTITY_DENIED", effect: "none" });
  });

  it("is refused by an operator that does not lead", async () => {
    server = new DiscoveryServer({ registry, clock });
    await expect(new Peer().open("ownershipChan", [identity()])).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND" });
  });

  it("that breaks the rules loses its channel, and reads which", async () => {
    const channel = await new Peer().open("ownershipChan", [identity()]);
    await channel.say({ type: "renew", n: "one" });
    expect(channel.error).toMatchObject({ value: { reason: "PROTOCOL_VIOLATION" } });
  });

  it("is replaced by its newer connection, and reads so", async () => {
    const first = await new Peer().open("ownershipChan", [identity()]);
    const second = await new Peer().open("ownershipChan", [identity({ incarnation: "b.1.0" })]);
    expect(first.error).toMatchObject({ value: { reason: "CANCELLED" } });
    expect(second.error).toBeUndefined();
    await second.say({ type: "renew", n: 1, ageMs: 0 });
    expect(second.messages).toEqual([{ type: "renewed", n: 1 }]);
  });

  it("that is slow to read delays no other", async () => {
    for (const instance of ["chat-1", "chat-2"]) registry.upsertInstance({ ...service, instance });
    const slow = new Peer();
    const channel = await slow.open("ownershipChan", [identity()]);
    slow.transport.isOpen = false;
    await channel.say({ type: "renew", n: 1, ageMs: 0 });
    const other = { instance: "chat-2", incarnation: "c.0.0", process: "p2" };
    const quick = await new Peer({ instance: "chat-2" }).open("ownershipChan", [identity(other)]);
    await quick.say({ type: "renew", n: 1, ageMs: 0 });
    expect(quick.messages).toContainEqual({ type: "renewed", n: 1 });
    expect(channel.messages).toEqual([]);
    slow.transport.resume();
    await settle();
    expect(channel.messages.length).toBeGreaterThan(1);
  });
});

describe("what waits for a slow holder", () => {
  /** A leader that says what it is told to. */
  function scripted() {
    const said: HolderMessage[] = [];
    let send: (message: LeaderMessage) => void = () => {};
    let lost = 0;
    const link = { message: (message: HolderMessage) => said.push(message), lost: () => lost++ };
    const script = {
      connect(_: HolderIdentity, to: (message: LeaderMessage) => void) {
        send = to;
        return link as unknown as HolderLine;
      },
    };
    serve({ leader: script as unknown as OwnershipLeader });
    return { say: (message: LeaderMessage) => send(message), lostCount: () => lost };
  }

  const large = (epoch: number): LeaderMessage => ({
    type: "drain",
    slots: Array.from({ length: 4096 }, (_, slot) => ({ slot, epoch, next: epoch + 1 })),
  });

  async function stalled() {
    const script = scripted();
    const peer = new Peer();
    const channel = await peer.open("ownershipChan", [identity()]);
    peer.transport.isOpen = false;
    // More than the window takes, so that what follows waits.
    for (let n = 0; n < 12; n++) script.say(large(n));
    await settle();
    return { script, peer, channel };
  }

  it("is what can be said together in one message, nothing dropped, in order", async () => {
    const { script, peer, channel } = await stalled();
    for (let n = 1; n <= 5000; n++) {
      script.say({ type: "renewed", n });
      script.say({ type: "grant", slots: [{ slot: n % 4096, epoch: n, origin: { memory: "fresh" } }] });
    }
    script.say({ type: "withdraw", slots: [{ slot: 1, epoch: 1 }] });
    script.say({ type: "grant", slots: [{ slot: 1, epoch: 9999, origin: { memory: "lost" } }] });
    peer.transport.resume();
    await settle();
    const after = (channel.messages as LeaderMessage[]).filter(({ type }) => type !== "drain");
    expect(channel.messages.length - after.length).toBe(12);
    expect(after.map(({ type }) => type)).toEqual(["renewed", "grant", "grant", "withdraw", "grant"]);
    expect(after[0]).toEqual({ type: "renewed", n: 5000 });
    const granted = after.flatMap((message) => (message.type === "grant" ? message.slots : []));
    expect(granted.map(({ epoch }) => epoch)).toEqual([...Array.from({ length: 5000 }, (_, n) => n + 1), 9999]);
    expect(channel.error).toBeUndefined();
  });

  it("ends the channel when it is more than 1,000 messages", async () => {
    const { script, peer, channel } = await stalled();
    for (let n = 0; n < 600; n++) {
      script.say({ type: "resume", slots: [{ slot: 1, epoch: n }] });
      script.say({ type: "withdraw", slots: [{ slot: 2, epoch: n }] });
    }
    await settle();
    expect(script.lostCount()).toBe(1);
    peer.transport.resume();
    await settle();
    expect(channel.error).toMatchObject({ value: { reason: "OVERLOADED" } });
  });
});

describe("the host's own methods", () => {
  it("are called with the values that came, and what they give or refuse reaches the caller", async () => {
    serve({
      calls: {
        echo: (args) => args,
        later: async (args) => args[0],
        refuse: () => {
          throw new LeverError("SERVICE_NOT_FOUND", "there is none", { effect: "none", details: { service: "x" } });
        },
        refuseLater: async () => {
          throw new LeverError("SERVICE_NOT_FOUND", "there is none", { effect: "none" });
        },
        breakLater: async () => {
          throw new LeverError("INTERNAL", "half done", { effect: "ran" });
        },
      },
    });
    const peer = new Peer();
    expect(await peer.call("echo", [1, { a: "b" }])).toEqual([1, { a: "b" }]);
    expect(await peer.call("later", ["x"])).toBe("x");
    await expect(peer.call("refuse", [])).rejects.toMatchObject({
      reason: "SERVICE_NOT_FOUND",
      effect: "none",
      details: { service: "x" },
    });
    await expect(peer.call("refuseLater", [])).rejects.toMatchObject({ reason: "SERVICE_NOT_FOUND", effect: "none" });
    await expect(peer.call("breakLater", [])).rejects.toMatchObject({ value: { reason: "INTERNAL" } });
    await expect(peer.call("echo", [new Uint8Array(1)])).rejects.toMatchObject({ reason: "ARGS_FORM" });
    await expect(peer.call("toString", [])).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND" });
  });

  it("may be streaming ones", async () => {
    serve({
      channels: {
        countChan: ([to]) => {
          if (typeof to !== "number") throw new LeverError("INVALID_ARGUMENTS", "a number is wanted");
          return async (channel) => {
            for (let n = 0; n < to; n++) await channel.send(n);
          };
        },
      },
    });
    const channel = await new Peer().open("countChan", [3]);
    await settle();
    expect(channel.messages).toEqual([0, 1, 2]);
    await expect(new Peer().open("countChan", ["x"])).rejects.toMatchObject({ reason: "INVALID_ARGUMENTS" });
  });
});
