import {
  defaultServicePolicy,
  type Instance,
  type OwnershipPolicy,
  type ServiceTable,
  type SlotRow,
} from "@leveros/protocol/control/discovery.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EndpointTables, type TableChanges } from "./endpoint-table.ts";

function make(removedMax = 1000): EndpointTables {
  return new EndpointTables({ startVersion: 1000, origin: "run-1", removedMax });
}

function serving(id: string, address = "127.0.0.1:1"): Instance {
  return { id, address, state: "Serving" };
}

describe("a table", () => {
  it("does not exist before it is declared, and after it is removed", () => {
    const tables = make();
    expect(tables.table("dev", "chat")).toEqual({
      environment: "dev",
      service: "chat",
      version: 1000,
      exists: false,
      instances: [],
      policy: defaultServicePolicy,
    });
    expect(tables.upsertInstance("dev", "chat", serving("a"))).toBe(false);
    expect(tables.setState("dev", "chat", "a", "Draining")).toBe(false);
    tables.declare("dev", "chat", defaultServicePolicy);
    expect(tables.upsertInstance("dev", "chat", serving("a"))).toBe(true);
    expect(tables.tables().map(({ service }) => service)).toEqual(["chat"]);
    tables.remove("dev", "chat");
    expect(tables.table("dev", "chat")).toMatchObject({ exists: false, instances: [] });
    expect(tables.tables()).toEqual([]);
    tables.declare("dev", "chat", defaultServicePolicy);
    expect(tables.table("dev", "chat").instances).toEqual([]);
  });

  it("is of its environment", () => {
    const tables = make();
    tables.declare("dev", "chat", defaultServicePolicy);
    expect(tables.table("prod", "chat").exists).toBe(false);
  });

  it("rises with each change, and with nothing else", () => {
    const tables = make();
    tables.declare("dev", "chat", defaultServicePolicy);
    tables.upsertInstance("dev", "chat", serving("a"));
    expect(tables.version).toBe(1002);
    const before = tables.table("dev", "chat");
    tables.declare("dev", "chat", structuredClone(defaultServicePolicy));
    tables.upsertInstance("dev", "chat", serving("a"));
    tables.setState("dev", "chat", "a", "Serving");
    tables.setState("dev", "chat", "b", "Serving");
    tables.removeInstance("dev", "chat", "b");
    tables.remove("dev", "other");
    expect(tables.table("dev", "chat")).toBe(before);
    tables.setState("dev", "chat", "a", "Draining");
    expect(tables.table("dev", "chat")).toMatchObject({ version: 1003, instances: [{ id: "a", state: "Draining" }] });
    // The old one is what it was.
    expect(before.instances[0]?.state).toBe("Serving");
  });

  it.each([
    { methods: [] },
    { methods: [{ name: "*", timeoutMs: 1, idempotent: false }] },
    { methods: [{ name: "*", timeoutMs: 30_000, idempotent: true }] },
    { methods: [{ name: "a", timeoutMs: 30_000, idempotent: false }] },
    ...Object.keys(defaultServicePolicy.limits).map((key) => ({
      limits: { ...defaultServicePolicy.limits, [key]: 1 },
    })),
  ])("changes with its policy: %j", (part) => {
    const tables = make();
    tables.declare("dev", "chat", defaultServicePolicy);
    const policy = { ...defaultServicePolicy, ...part };
    tables.declare("dev", "chat", policy);
    expect(tables.changesSince("dev", "chat", 1001)).toEqual({
      from: 1001,
      version: 1002,
      changed: [],
      removed: [],
      policy,
    });
  });

  it("takes 10,000 instances", () => {
    const tables = make();
    tables.declare("dev", "chat", defaultServicePolicy);
    for (let n = 0; n < 10_000; n++) tables.upsertInstance("dev", "chat", serving(`chat-${n}`));
    expect(() => tables.upsertInstance("dev", "chat", serving("one-more"))).toThrow(
      expect.objectContaining({ reason: "OVERLOADED" }),
    );
    expect(tables.upsertInstance("dev", "chat", serving("chat-3", "127.0.0.1:2"))).toBe(true);
  });
});

describe("slots", () => {
  const ownership: OwnershipPolicy = {
    slots: 3,
    onUncertain: "Wait",
    onLapse: "Abort",
    leaseMs: 15_000,
    idleMs: 180_000,
  };
  const policy = { ...defaultServicePolicy, ownership };
  const empty = (slot: number): SlotRow => ({ slot, holder: "", epoch: 0, issued: 0, isMoving: false, fence: 0 });
  const held = (slot: number, epoch: number): SlotRow => ({ ...empty(slot), holder: "a", epoch, issued: epoch });

  it("are one row each from the declaration on, for a service that holds resources", () => {
    const tables = make();
    tables.declare("dev", "chat", policy);
    expect(tables.table("dev", "chat").slots).toEqual([empty(0), empty(1), empty(2)]);
    tables.declare("dev", "plain", defaultServicePolicy);
    expect(tables.table("dev", "plain").slots).toBeUndefined();
    expect(tables.setSlots("dev", "plain", [held(0, 1)])).toBe(false);
    expect(tables.setSlots("dev", "none", [held(0, 1)])).toBe(false);
  });

  it("change one by one, and only those that have changed are told", () => {
    const tables = make();
    tables.declare("dev", "chat", policy);
    const before = tables.table("dev", "chat");
    expect(tables.setSlots("dev", "chat", [held(1, 5), empty(2), held(3, 5)])).toBe(true);
    expect(tables.changesSince("dev", "chat", before.version)).toEqual({
      from: before.version,
      version: before.version + 1,
      changed: [],
      removed: [],
      slots: [held(1, 5)],
    });
    expect(before.slots?.[1]).toEqual(empty(1));
    const { version } = tables;
    tables.setSlots("dev", "chat", [held(1, 5)]);
    expect(tables.version).toBe(version);
    tables.setSlots("dev", "chat", [held(0, 6)]);
    tables.upsertInstance("dev", "chat", serving("a"));
    expect(tables.changesSince("dev", "chat", version)?.slots).toEqual([held(0, 6)]);
    expect(tables.changesSince("dev", "chat", before.version)?.slots).toEqual([held(0, 6), held(1, 5)]);
    expect(tables.changesSince("dev", "chat", tables.version)?.slots).toBeUndefined();
    expect(tables.table("dev", "chat").slots).toEqual([held(0, 6), held(1, 5), empty(2)]);
  });

  it.each([{ slots: 4 }, undefined])("of another number are known from the full table only: %j", (part) => {
    const tables = make();
    tables.declare("dev", "chat", policy);
    tables.setSlots("dev", "chat", [held(1, 5)]);
    const { version } = tables;
    tables.declare(
      "dev",
      "chat",
      part === undefined ? defaultServicePolicy : { ...policy, ownership: { ...ownership, ...part } },
    );
    expect(tables.changesSince("dev", "chat", version)).toBeUndefined();
    expect(tables.table("dev", "chat").slots?.every(({ epoch }) => epoch === 0)).toBe(part && true);
  });

  it("stay while another part of the policy changes", () => {
    for (const [key, value] of Object.entries({
      onUncertain: "Fail",
      onLapse: "Kill",
      leaseMs: 20_000,
      idleMs: 1000,
    })) {
      const tables = make();
      tables.declare("dev", "chat", policy);
      tables.setSlots("dev", "chat", [held(1, 5)]);
      const { version } = tables;
      const changed = { ...policy, ownership: { ...ownership, [key]: value } };
      tables.declare("dev", "chat", changed);
      expect(tables.changesSince("dev", "chat", version), key).toMatchObject({ policy: changed });
      expect(tables.table("dev", "chat").slots?.[1]).toEqual(held(1, 5));
    }
  });

  it("are forgotten with their service", () => {
    const tables = make();
    tables.declare("dev", "chat", policy);
    tables.setSlots("dev", "chat", [held(1, 5)]);
    tables.remove("dev", "chat");
    expect(tables.table("dev", "chat").slots).toBeUndefined();
    tables.declare("dev", "chat", policy);
    expect(tables.table("dev", "chat").slots?.[1]).toEqual(empty(1));
  });
});

describe("changes", () => {
  it("are merged: of an instance only the last state, and no removal of one that is there again", () => {
    const tables = make();
    tables.declare("dev", "chat", defaultServicePolicy);
    tables.upsertInstance("dev", "chat", serving("a"));
    tables.upsertInstance("dev", "chat", serving("b"));
    const { version } = tables;
    for (let n = 2; n < 100; n++) tables.upsertInstance("dev", "chat", serving("a", `127.0.0.1:${n}`));
    tables.removeInstance("dev", "chat", "b");
    tables.upsertInstance("dev", "chat", serving("b", "127.0.0.1:9"));
    tables.upsertInstance("dev", "chat", serving("c"));
    tables.removeInstance("dev", "chat", "c");
    expect(tables.changesSince("dev", "chat", version)).toEqual({
      from: version,
      version: tables.version,
      changed: [serving("a", "127.0.0.1:99"), serving("b", "127.0.0.1:9")],
      removed: ["c"],
    });
    expect(tables.changesSince("dev", "chat", tables.version)).toMatchObject({ changed: [], removed: [] });
  });

  it("are not known from a version before the service was there, of the future, or behind what is remembered", () => {
    const tables = make(2);
    tables.declare("dev", "chat", defaultServicePolicy);
    for (const id of ["a", "b", "c"]) tables.upsertInstance("dev", "chat", serving(id));
    const { version } = tables;
    expect(tables.changesSince("dev", "chat", 1000)).toBeUndefined();
    expect(tables.changesSince("dev", "chat", version + 1)).toBeUndefined();
    expect(tables.changesSince("dev", "other", version)).toBeUndefined();
    tables.removeInstance("dev", "chat", "a");
    tables.removeInstance("dev", "chat", "b");
    expect(tables.changesSince("dev", "chat", version)?.removed).toEqual(["a", "b"]);
    tables.removeInstance("dev", "chat", "c");
    expect(tables.changesSince("dev", "chat", version)).toBeUndefined();
    expect(tables.changesSince("dev", "chat", version + 1)?.removed).toEqual(["b", "c"]);
    tables.remove("dev", "chat");
    tables.declare("dev", "chat", defaultServicePolicy);
    expect(tables.changesSince("dev", "chat", version + 1)).toBeUndefined();
  });

  it("from any version that they are known for lead to the table as it is", () => {
    const id = fc.constantFrom("a", "b", "c", "d");
    const operation = fc.oneof(
      {
        weight: 12,
        arbitrary: fc.record({ do: fc.constant("upsert" as const), id, port: fc.nat(3).map((n) => n + 1) }),
      },
      { weight: 6, arbitrary: fc.record({ do: fc.constant("removeInstance" as const), id }) },
      fc.record({ do: fc.constant("declare" as const), timeoutMs: fc.integer({ min: 1, max: 3 }) }),
      { weight: 1, arbitrary: fc.record({ do: fc.constant("remove" as const) }) },
    );
    let known = 0;
    fc.assert(
      fc.property(fc.array(operation, { minLength: 10, maxLength: 40, size: "max" }), (operations) => {
        const tables = make(3);
        tables.declare("dev", "chat", defaultServicePolicy);
        const had: ServiceTable[] = [];
        for (const step of operations) {
          if (step.do === "upsert") tables.upsertInstance("dev", "chat", serving(step.id, `127.0.0.1:${step.port}`));
          else if (step.do === "removeInstance") tables.removeInstance("dev", "chat", step.id);
          else if (step.do === "remove") tables.remove("dev", "chat");
          else {
            const methods = [{ name: "*", timeoutMs: step.timeoutMs, idempotent: false }];
            tables.declare("dev", "chat", { ...defaultServicePolicy, methods });
          }
          had.push(tables.table("dev", "chat"));
        }
        const now = tables.table("dev", "chat");
        for (const then of had) {
          const changes = tables.changesSince("dev", "chat", then.version);
          if (changes === undefined) continue;
          known++;
          expect(sorted(apply(then, changes))).toEqual(sorted(now));
        }
      }),
    );
    expect(known).toBeGreaterThan(500);
  });
});

function apply(table: ServiceTable, changes: TableChanges): ServiceTable {
  const instances = new Map(table.instances.map((instance) => [instance.id, instance]));
  for (const instance of changes.changed) instances.set(instance.id, instance);
  for (const id of changes.removed) instances.delete(id);
  return {
    ...table,
    version: changes.version,
    instances: [...instances.values()],
    policy: changes.policy ?? table.policy,
  };
}

function sorted(table: ServiceTable): ServiceTable {
  return { ...table, instances: [...table.instances].sort((a, b) => (a.id < b.id ? -1 : 1)) };
}

describe("a watcher", () => {
  it("hears of each change until it stops, also of a service that is not there yet", () => {
    const tables = make();
    let heard = 0;
    const stop = tables.watch("dev", "chat", () => heard++);
    tables.declare("dev", "other", defaultServicePolicy);
    expect(heard).toBe(0);
    tables.declare("dev", "chat", defaultServicePolicy);
    tables.upsertInstance("dev", "chat", serving("a"));
    tables.removeInstance("dev", "chat", "a");
    tables.remove("dev", "chat");
    expect(heard).toBe(4);
    tables.declare("dev", "chat", defaultServicePolicy);
    stop();
    tables.upsertInstance("dev", "chat", serving("a"));
    expect(heard).toBe(5);
  });
});
