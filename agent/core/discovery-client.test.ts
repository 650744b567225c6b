/** Rows of slots in tables and deltas, from an operator that sends what the test says. */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import {
  type DeltaMessage,
  defaultServicePolicy,
  type OwnershipPolicy,
  type ServicePolicy,
  type ServiceTable,
  type SlotRow,
  type TableMessage,
} from "@leveros/protocol/control/discovery.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { InvocationServer } from "@leveros/protocol/invocation/invocation-server.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import { describe, expect, it } from "vitest";
import { DiscoveryClient } from "./discovery-client.ts";

const ownership: OwnershipPolicy = {
  slots: 4,
  onUncertain: "Wait",
  onLapse: "Abort",
  leaseMs: 15_000,
  idleMs: 180_000,
};
const policy: ServicePolicy = { ...defaultServicePolicy, ownership };

function row(slot: number, epoch: number): SlotRow {
  return { slot, holder: "chat-0", epoch, issued: epoch, isMoving: false, fence: 0 };
}

class Rig {
  readonly clock = new VirtualClock();
  readonly asked: unknown[] = [];
  readonly tables: ServiceTable[] = [];
  readonly unavailable: string[] = [];
  readonly errors: string[] = [];
  readonly client: DiscoveryClient;
  #channel: Channel<unknown, unknown> | undefined;

  constructor() {
    this.client = new DiscoveryClient({
      clock: this.clock,
      random: () => 0.5,
      identity: { role: "gateway" },
      dial: () => Promise.resolve(this.#dial()),
      onDisconnected: (error) => this.errors.push(error.message),
    });
    this.client.subscribe(
      "dev",
      "chat",
      (table) => this.tables.push(table),
      (error) => this.unavailable.push(error.message),
    );
  }

  #dial(): Session {
    const { clock } = this;
    const [here, there] = memoryTransportPair(clock);
    const limits = { ...defaultSessionLimits, silenceMs: 0, pingIntervalMs: 0 };
    const server = new InvocationServer({
      host: {
        prepare: () => () => undefined,
        prepareChannel: () => async (channel) => {
          this.#channel = channel;
          for await (const message of channel) this.asked.push(message);
        },
        describeThrown: (_invocation, thrown) => String(thrown),
      },
      wheel: new DeadlineWheel(clock),
      budget: new AssemblyBudget(1024 * 1024),
      now: () => clock.now(),
    });
    new Session({
      transport: there,
      clock,
      side: "acceptor",
      identity: { role: "operator" },
      limits,
      handler: { onOpen: (stream, open) => server.onOpen(stream, open) },
    });
    return new Session({ transport: here, clock, side: "dialer", identity: { role: "gateway" }, limits, handler: {} });
  }

  async advance(ms: number): Promise<void> {
    const untilMs = this.clock.now() + ms;
    do await new Promise((resolve) => setImmediate(resolve));
    while (this.clock.step(untilMs));
    this.clock.advance(untilMs - this.clock.now());
  }

  async table(change: Partial<TableMessage>): Promise<void> {
    await this.advance(0);
    await this.#channel?.send({
      type: "table",
      origin: "one",
      environment: "dev",
      service: "chat",
      version: 1,
      part: 0,
      more: false,
      exists: true,
      instances: [],
      policy,
      ...change,
    } satisfies TableMessage);
    await this.advance(0);
  }

  async delta(change: Partial<DeltaMessage>): Promise<void> {
    await this.#channel?.send({
      type: "delta",
      environment: "dev",
      service: "chat",
      from: 1,
      version: 2,
      changed: [],
      removed: [],
      ...change,
    } satisfies DeltaMessage);
    await this.advance(0);
  }

  get slots(): readonly SlotRow[] | undefined {
    return this.tables.at(-1)?.slots;
  }
}

const four = [row(0, 1), row(1, 1), row(2, 1), row(3, 1)];
const subscribe = { type: "subscribe", environment: "dev", service: "chat" };

describe("rows of slots", () => {
  it("come with the table, spread over its parts", async () => {
    const rig = new Rig();
    await rig.table({ more: true, slots: four.slice(0, 3) });
    expect(rig.tables).toHaveLength(0);
    await rig.table({ part: 1, slots: four.slice(3) });
    expect(rig.slots).toEqual(four);
  });

  it("are replaced by those of a delta; the others stay the same objects", async () => {
    const rig = new Rig();
    await rig.table({ slots: four });
    const before = rig.slots;
    await rig.delta({ slots: [row(2, 9)] });
    expect(rig.slots).toEqual([row(0, 1), row(1, 1), row(2, 9), row(3, 1)]);
    expect(rig.slots?.[0]).toBe(before?.[0]);
    expect(before?.[2]).toEqual(row(2, 1));
    await rig.delta({ from: 2, version: 3 });
    expect(rig.slots?.[2]).toEqual(row(2, 9));
  });

  it("come and go with the policy", async () => {
    const rig = new Rig();
    await rig.table({ policy: defaultServicePolicy });
    expect(rig.slots).toBeUndefined();
    await rig.delta({ policy, slots: four });
    expect(rig.slots).toEqual(four);
    await rig.delta({ from: 2, version: 3, policy: defaultServicePolicy });
    expect(rig.tables.at(-1)).not.toHaveProperty("slots");
  });

  it("of a service that holds none are not looked at", async () => {
    const rig = new Rig();
    await rig.table({ policy: defaultServicePolicy, slots: four });
    expect(rig.slots).toBeUndefined();
  });

  it.each([
    ["none", {}],
    ["one too few", { slots: four.slice(1) }],
    ["one twice", { slots: [...four.slice(0, 3), row(0, 1)] }],
    ["one too many", { slots: [...four, row(4, 1)] }],
    ["one twice beside all", { slots: [...four, row(0, 1)] }],
  ])("that are not the policy's have the table asked for anew, not at once: %s", async (_, change) => {
    const rig = new Rig();
    await rig.table(change);
    expect(rig.tables).toHaveLength(0);
    expect(rig.asked).toEqual([subscribe]);
    await rig.advance(5000);
    expect(rig.asked).toEqual([subscribe, subscribe]);
    expect(rig.unavailable).toEqual([expect.stringContaining("without a row for each slot")]);
    await rig.table({ version: 2, slots: four });
    expect(rig.slots).toEqual(four);
    await rig.advance(30_000);
    expect(rig.asked).toHaveLength(2);
  });

  it("that are not the policy's leave the table that is there, which takes no more deltas", async () => {
    const rig = new Rig();
    await rig.table({ slots: four });
    await rig.table({ version: 5 });
    await rig.delta({ from: 1, slots: [row(0, 7)] });
    expect(rig.slots).toEqual(four);
    await rig.advance(5000);
    expect(rig.asked).toEqual([subscribe, subscribe]);
    await rig.table({ version: 6, slots: four });
    expect(rig.tables).toHaveLength(2);
  });

  it.each([
    ["beyond the last", { slots: [row(4, 1)] }],
    ["of new slots without all rows", { policy: { ...policy, ownership: { ...ownership, slots: 5 } }, slots: four }],
  ])("in a delta that does not fit have the table asked for: %s", async (_, change) => {
    const rig = new Rig();
    await rig.table({ slots: four });
    await rig.delta(change);
    expect(rig.slots).toEqual(four);
    expect(rig.asked).toEqual([subscribe, subscribe]);
  });

  it("are no more than a service may have", async () => {
    const rig = new Rig();
    const rows = Array.from({ length: 1000 }, (_, slot) => row(slot, 1));
    for (let part = 0; part < 5; part++) await rig.table({ part, more: true, slots: rows });
    expect(rig.errors).toEqual([expect.stringContaining("more than 4096 slots")]);
  });
});
