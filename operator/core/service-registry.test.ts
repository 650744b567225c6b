import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { defaultServicePolicy, type Instance } from "@leveros/protocol/control/discovery.ts";
import type { Registration } from "@leveros/protocol/control/registration.ts";
import { describe, expect, it, vi } from "vitest";
import { EndpointTables } from "./endpoint-table.ts";
import { OwnershipLeader } from "./ownership/leader.ts";
import { MemorySlotStore } from "./ownership/slot-store.ts";
import { type InstanceKey, ServiceRegistry } from "./service-registry.ts";

const key = { environment: "dev", service: "chat", instance: "chat-1" };
const report = { ...key, address: "127.0.0.1:4001", zone: "z1" };
const registration: Registration = {
  methods: [{ name: "say", kind: "call" }],
  resources: false,
  library: "leveros",
  version: "0.1.0",
};

function make() {
  const clock = new VirtualClock();
  const tables = new EndpointTables({ startVersion: 1, origin: "run-1" });
  const events: string[] = [];
  const registry = new ServiceRegistry({
    tables,
    clock,
    observer: {
      onRegistered: ({ instance }, { methods }) => events.push(`${instance} serves ${methods.map((m) => m.name)}`),
      onUnregistered: ({ instance }) => events.push(`${instance} without app`),
      onState: ({ instance }, state) => events.push(`${instance} ${state}`),
    },
  });
  registry.declareService("dev", "chat", defaultServicePolicy);
  const instances = (): readonly Instance[] => tables.table("dev", "chat").instances;
  const state = () => instances()[0]?.state;
  return { clock, tables, registry, events, instances, state };
}

describe("an instance", () => {
  it("is in the table while its source knows it, with what is known of it", () => {
    const { registry, instances } = make();
    expect(registry.upsertInstance({ ...key, service: "other" })).toBe(false);
    registry.upsertInstance(key);
    expect(instances()).toEqual([{ id: "chat-1", address: "", state: "Starting" }]);
    const link = registry.connect(report, () => {});
    link.registered(registration);
    expect(instances()).toEqual([{ id: "chat-1", address: "127.0.0.1:4001", zone: "z1", state: "Serving" }]);
    // The source knows better.
    registry.upsertInstance({ ...key, address: "10.0.0.1:3837", zone: "z2" });
    expect(instances()).toEqual([{ id: "chat-1", address: "10.0.0.1:3837", zone: "z2", state: "Serving" }]);
    registry.removeInstance(key);
    expect(instances()).toEqual([]);
    // Its agent says on: nobody hears it.
    link.draining();
    expect(instances()).toEqual([]);
    link.lost();
    expect(registry.unknownCount).toBe(0);
  });

  it("goes through its states", () => {
    const { clock, registry, state } = make();
    registry.upsertInstance(key);
    const link = registry.connect(report, () => {});
    expect(state()).toBe("Starting");
    link.registered(registration);
    expect(state()).toBe("Serving");
    link.unregistered();
    expect(state()).toBe("Starting");
    link.registered(registration);
    link.lost();
    clock.advance(1999);
    expect(state()).toBe("Serving");
    clock.advance(1);
    expect(state()).toBe("Unreachable");
    const next = registry.connect(report, () => {});
    expect(state()).toBe("Unreachable");
    next.draining();
    expect(state()).toBe("Draining");
    // An app that was stopped for a restart in its pod registers again.
    next.registered(registration);
    expect(state()).toBe("Serving");
  });

  it("drains when its source says so", () => {
    const { registry, state } = make();
    registry.upsertInstance(key);
    registry.connect(report, () => {}).registered(registration);
    registry.upsertInstance({ ...key, isDraining: true });
    expect(state()).toBe("Draining");
  });

  it("is Unreachable while its source finds it not ready, whatever its agent says", () => {
    const { registry, state } = make();
    registry.upsertInstance({ ...key, isNotReady: true });
    expect(state()).toBe("Starting");
    const link = registry.connect(report, () => {});
    link.registered(registration);
    expect(state()).toBe("Unreachable");
    registry.upsertInstance(key);
    expect(state()).toBe("Serving");
    registry.upsertInstance({ ...key, isNotReady: true });
    expect(state()).toBe("Unreachable");
    registry.upsertInstance({ ...key, isNotReady: true, isDraining: true });
    expect(state()).toBe("Draining");
  });

  it("whose agent comes back and says nothing is not believed for longer than the grace", () => {
    const { clock, registry, state } = make();
    registry.upsertInstance(key);
    registry.connect(report, () => {}).registered(registration);
    registry.connect(report, () => {});
    expect(state()).toBe("Serving");
    clock.advance(2000);
    expect(state()).toBe("Unreachable");
  });

  it("has one agent: the newer replaces the older, of which nothing counts any more", () => {
    const { clock, registry, state } = make();
    registry.upsertInstance(key);
    let replaced = 0;
    const older = registry.connect(report, () => replaced++);
    const newer = registry.connect(report, () => {});
    expect(replaced).toBe(1);
    newer.registered(registration);
    older.unregistered();
    older.lost();
    clock.advance(60_000);
    expect(state()).toBe("Serving");
  });

  it("that served before the operator restarted is believed for 30 s, or until its agent reports", () => {
    const { clock, registry, state } = make();
    const before = { ...key, address: "127.0.0.1:4001", wasServing: true };
    registry.upsertInstance(before);
    clock.advance(29_999);
    expect(state()).toBe("Serving");
    clock.advance(1);
    expect(state()).toBe("Unreachable");
    registry.removeInstance(key);
    registry.upsertInstance(before);
    registry.connect(report, () => {}).registered(registration);
    clock.advance(60_000);
    expect(state()).toBe("Serving");
    registry.removeInstance(key);
    // Nobody could reach it.
    registry.upsertInstance({ ...key, instance: "chat-2", wasServing: true });
    expect(state()).toBe("Starting");
  });

  it("goes with its service, and comes back with it if its agent is still there", () => {
    const { tables, registry, events } = make();
    registry.upsertInstance(key);
    registry.connect(report, () => {}).registered(registration);
    registry.removeService("dev", "chat");
    expect(tables.table("dev", "chat").exists).toBe(false);
    registry.declareService("dev", "chat", defaultServicePolicy);
    expect(tables.table("dev", "chat").instances).toEqual([]);
    events.length = 0;
    registry.upsertInstance(key);
    expect(events).toEqual(["chat-1 Serving", "chat-1 serves say"]);
  });
});

describe("the source", () => {
  it("hears of a registration once, however often the agent repeats it, and of a new one again", () => {
    const { registry, events } = make();
    registry.upsertInstance(key);
    const link = registry.connect(report, () => {});
    link.registered(registration);
    link.registered(structuredClone(registration));
    link.registered({ ...registration, methods: [...registration.methods, { name: "chan", kind: "channel" }] });
    link.unregistered();
    link.unregistered();
    expect(events).toEqual([
      "chat-1 Starting",
      "chat-1 Serving",
      "chat-1 serves say",
      "chat-1 serves say,chan",
      "chat-1 Starting",
      "chat-1 without app",
    ]);
    expect(registry.registrationOf(key)).toBeUndefined();
  });
});

describe("limits", () => {
  it("on instances without a source hold, and what has left does not count", () => {
    const clock = new VirtualClock();
    const tables = new EndpointTables({ startVersion: 1, origin: "run-1" });
    const registry = new ServiceRegistry({ tables, clock, limits: { unknownInstancesMax: 2 } });
    const connect = (instance: string) => registry.connect({ ...report, instance }, () => {});
    const first = connect("a");
    connect("b");
    expect(() => connect("c")).toThrow(expect.objectContaining({ reason: "OVERLOADED", effect: "none" }));
    // The same instance again is no more.
    connect("b");
    first.lost();
    connect("c");
    registry.declareService("dev", "chat", defaultServicePolicy);
    registry.upsertInstance({ ...key, instance: "c" });
    connect("d");
    expect(registry.unknownCount).toBe(2);
  });

  it("on instances of a service leave the registry as it was", () => {
    const { registry, instances } = make();
    for (let n = 0; n < 10_000; n++) registry.upsertInstance({ ...key, instance: `chat-${n}` });
    expect(() => registry.upsertInstance({ ...key, instance: "more" })).toThrow(
      expect.objectContaining({ reason: "OVERLOADED" }),
    );
    expect(registry.unknownCount).toBe(0);
    registry.removeInstance({ ...key, instance: "chat-3" });
    expect(registry.upsertInstance({ ...key, instance: "more" })).toBe(true);
    expect(instances()).toHaveLength(10_000);
  });

  it("are left with no timer after close", () => {
    const { clock, registry } = make();
    registry.upsertInstance(key);
    const link = registry.connect(report, () => {});
    link.registered(registration);
    link.lost();
    expect(clock.timerCount).toBe(1);
    registry.close();
    expect(clock.timerCount).toBe(0);
  });
});

describe("a leader", () => {
  function lead() {
    const clock = new VirtualClock();
    const tables = new EndpointTables({ startVersion: 1, origin: "run-1" });
    const heard: unknown[][] = [];
    const leader = new OwnershipLeader({
      clock,
      leaseClock: { read: () => ({ monotonicMs: 0, bootMs: 0, wallMs: 0 }) },
      random: () => 0,
      store: new MemorySlotStore(),
      onSlots: () => {},
    });
    for (const name of ["declareService", "removeService", "upsertInstance", "removeInstance"] as const) {
      const real = leader[name].bind(leader) as (...args: unknown[]) => void;
      vi.spyOn(leader, name).mockImplementation((...args: unknown[]) => {
        heard.push([name, ...args.map((arg) => (typeof arg === "object" ? (arg as InstanceKey).instance : arg))]);
        real(...args);
      });
    }
    return { registry: new ServiceRegistry({ tables, clock, leader }), tables, heard };
  }
  const ownership = { slots: 4, onUncertain: "Wait", onLapse: "Abort", leaseMs: 15_000, idleMs: 180_000 } as const;
  const policy = { ...defaultServicePolicy, ownership };

  it("hears of services that hold resources and of their instances as the source knows them", () => {
    const { registry, heard } = lead();
    registry.declareService("dev", "chat", policy);
    registry.connect(report, () => {}).registered(registration);
    expect(heard).toEqual([["declareService", "dev", "chat", undefined]]);
    heard.length = 0;
    registry.upsertInstance(key);
    registry.upsertInstance({ ...key, isDraining: true });
    registry.removeInstance(key);
    registry.removeService("dev", "chat");
    expect(heard).toEqual([
      ["upsertInstance", "chat-1", undefined],
      ["upsertInstance", "chat-1", true],
      ["removeInstance", "chat-1"],
      ["removeService", "dev", "chat"],
    ]);
  });

  it("hears of instances that were there before their service held resources, and of its end", () => {
    const { registry, heard } = lead();
    registry.declareService("dev", "chat", defaultServicePolicy);
    registry.upsertInstance(key);
    heard.length = 0;
    registry.declareService("dev", "chat", policy);
    registry.declareService("dev", "chat", defaultServicePolicy);
    expect(heard).toEqual([
      ["declareService", "dev", "chat", undefined],
      ["upsertInstance", "chat-1", undefined],
      ["removeService", "dev", "chat"],
    ]);
  });

  it("refuses another number of slots, and the table stays as it was", () => {
    const { registry, tables } = lead();
    registry.declareService("dev", "chat", policy);
    expect(() => registry.declareService("dev", "chat", { ...policy, ownership: { ...ownership, slots: 5 } })).toThrow(
      expect.objectContaining({ reason: "INVALID_OPTION" }),
    );
    expect(tables.table("dev", "chat").slots).toHaveLength(4);
  });
});
