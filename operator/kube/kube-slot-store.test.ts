import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type HolderRef, SlotStoreConflict } from "../core/ownership/slot-store.ts";
import { ApiServer, type Fault } from "./api-server.fixture.ts";
import { KubeClient } from "./kube-client.ts";
import { leverEndpointTables, type OwnerReference } from "./kube-object.ts";
import { KubeSlotStore, type TableInstances } from "./kube-slot-store.ts";
import { runFor } from "./run-clock.fixture.ts";
import { usualTable } from "./slot-table.fixture.ts";
import type { StoredEndpointTable } from "./slot-table-object.ts";

const owner = { apiVersion: "leveros.dev/v1alpha1", kind: "LeverService", name: "chat", uid: "uid-of-chat" };

function world() {
  const clock = new VirtualClock();
  const server = new ApiServer(clock);
  const store = (ownerOf: () => OwnerReference | undefined = () => owner) =>
    new KubeSlotStore({ client: new KubeClient({ transport: server.transport(), clock }), ownerOf });
  const object = () => server.object<StoredEndpointTable>(leverEndpointTables, "shop", "chat");
  /** Moves time on until it is settled. */
  const done = async <Result>(promise: Promise<Result>): Promise<Result> => {
    promise.catch(() => {});
    await runFor(clock, 60_000);
    return await promise;
  };
  const failNext = (method: string, ...faults: Fault[]) => {
    const left = [...faults];
    server.fault = (request) => (request.method === method ? left.shift() : undefined);
  };
  return { clock, server, store, object, done, failNext };
}

function table(writer: string) {
  return usualTable(16, 3, writer);
}

function beside(version: number): TableInstances {
  return {
    version,
    servingInstances: 1,
    instances: [{ id: "chat-1", address: "10.244.1.7:3837", state: "Serving" }],
  };
}

test("a table that was written is read, by whoever", async () => {
  const { store, object, done } = world();
  const first = store();
  expect(await done(first.read("shop", "chat"))).toBeUndefined();
  const version = await done(first.write(table("w.1"), undefined));
  expect(await done(store().read("shop", "chat"))).toEqual({ ...table("w.1"), version });
  expect(object()).toMatchObject({
    apiVersion: "leveros.dev/v1alpha1",
    kind: "LeverEndpointTable",
    metadata: { namespace: "shop", name: "chat", ownerReferences: [owner] },
    heldSlots: 16,
    ownership: { writer: "w.1", leaseMs: 15_000 },
  });
  expect(object()?.slots?.length).toBeGreaterThan(0);
});

test("a write takes one request, a PUT that names the version that was seen", async () => {
  const { server, store, done, object } = world();
  const first = store();
  let version: string | undefined = await done(first.write(table("w.1"), undefined));
  for (const writer of ["w.2", "w.3"]) {
    server.requests.length = 0;
    const seen = object()?.metadata.resourceVersion;
    version = await done(first.write(table(writer), version));
    expect(server.requests.map(({ method }) => method)).toEqual(["PUT"]);
    expect(JSON.parse(server.requests[0]?.body ?? "").metadata.resourceVersion).toBe(seen);
  }
});

test("another's table is not replaced, nor is one that is not there", async () => {
  const { store, object, done } = world();
  const [first, second] = [store(), store()];
  await done(first.read("shop", "chat"));
  const version = await done(second.write(table("w.1"), undefined));
  await expect(done(first.write(table("x.1"), undefined))).rejects.toMatchObject({
    name: "SlotStoreConflict",
    found: version,
  });
  await done(second.write(table("w.2"), version));
  await expect(done(first.write(table("x.2"), version))).rejects.toBeInstanceOf(SlotStoreConflict);
  await expect(done(first.write(table("x.3"), undefined))).rejects.toBeInstanceOf(SlotStoreConflict);
  expect(object()?.ownership?.writer).toBe("w.2");
  await expect(done(second.delete("shop", "chat", version))).rejects.toMatchObject({ found: "w.2" });
  await done(second.delete("shop", "chat", "w.2"));
  await expect(done(second.write(table("w.3"), "w.2"))).rejects.toMatchObject({ found: undefined });
  expect(object()).toBeUndefined();
});

test("what is written beside the table costs the leader no conflict, and stays", async () => {
  const { store, object, done, server } = world();
  const first = store();
  const other = store();
  let version: string | undefined = await done(first.write(table("w.1"), undefined));
  await done(first.writeInstances("shop", "chat", beside(1)));
  version = await done(first.write(table("w.2"), version));
  expect(object()).toMatchObject({ version: 1, servingInstances: 1, instances: beside(1).instances });
  // By another process, unknown to this one.
  await done(other.writeInstances("shop", "chat", beside(2)));
  server.requests.length = 0;
  version = await done(first.write(table("w.3"), version));
  expect(server.requests.map(({ method }) => method)).toEqual(["PUT", "GET", "PUT"]);
  expect(object()).toMatchObject({ version: 2, ownership: { writer: "w.3" } });
});

test("a service without resources has instances and no table; later it may get one", async () => {
  const { store, object, done } = world();
  const first = store();
  await done(first.writeInstances("shop", "chat", beside(1)));
  expect(object()).not.toHaveProperty("ownership");
  expect(object()?.metadata.ownerReferences).toEqual([owner]);
  expect(await done(first.read("shop", "chat"))).toBeUndefined();
  await done(first.write(table("w.1"), undefined));
  expect(object()).toMatchObject({ version: 1, ownership: { writer: "w.1" } });
});

test.each<[string, Fault, boolean]>([
  ["a PUT without an answer that was done", { silent: "after" }, true],
  ["a PUT without an answer that was not done", { silent: "before" }, false],
  ["a connection that broke after the PUT", { reset: "after" }, true],
  ["500", { status: 500 }, false],
  ["a time-out of the server's own", { status: 504, reason: "Timeout" }, false],
])("%s: an error that is no conflict, and no second try", async (_name, fault, isDone) => {
  const { server, store, object, done, failNext } = world();
  const first = store();
  const version = await done(first.write(table("w.1"), undefined));
  server.requests.length = 0;
  failNext("PUT", fault);
  const error: unknown = await done(first.write(table("w.2"), version)).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ name: "KubeError" });
  expect(server.requests).toHaveLength(1);
  expect((await done(first.read("shop", "chat")))?.version).toBe(isDone ? "w.2" : "w.1");
  expect(object()?.ownership?.writer).toBe(isDone ? "w.2" : "w.1");
});

test("a PUT that comes late finds another version, although the table was read in between", async () => {
  const { clock, store, object, done, failNext } = world();
  const first = store();
  const version = await done(first.write(table("w.1"), undefined));
  failNext("PUT", { delayMs: 20_000 });
  const late = first.write(table("w.2"), version);
  late.catch(() => {});
  await runFor(clock, 6_000);
  await expect(late).rejects.toMatchObject({ reason: "TimedOut" });
  const readAgain = first.read("shop", "chat");
  await runFor(clock, 0);
  expect((await readAgain)?.version).toBe("w.1");
  const next = first.write(table("w.3"), "w.1");
  await runFor(clock, 0);
  expect(await next).toBe("w.3");
  await done(Promise.resolve());
  expect(object()?.ownership?.writer).toBe("w.3");
});

test("a late PUT that is there first makes the next write a conflict", async () => {
  const { clock, store, done, failNext } = world();
  const first = store();
  const version = await done(first.write(table("w.1"), undefined));
  failNext("PUT", { delayMs: 6_000 }, { delayMs: 4_000 });
  const late = first.write(table("w.2"), version);
  late.catch(() => {});
  await runFor(clock, 5_100);
  const readAgain = first.read("shop", "chat");
  await runFor(clock, 0);
  expect((await readAgain)?.version).toBe("w.1");
  await expect(done(first.write(table("w.3"), "w.1"))).rejects.toMatchObject({ found: "w.2" });
});

test("a table that cannot be read is an error, not an absent one", async () => {
  const { server, store, object, done } = world();
  await done(store().write(table("w.1"), undefined));
  const found = object() as StoredEndpointTable;
  server.put(leverEndpointTables, { ...found, ownership: { ...found.ownership, rows: ["broken"] } } as never);
  await expect(done(store().read("shop", "chat"))).rejects.toMatchObject({ reason: "INTERNAL" });
});

test("the largest table, of numbers that do not repeat, fits into etcd", async () => {
  const { store, object, done } = world();
  const usual = usualTable(4096, 1000, "w.1");
  let state = 5;
  const below = (max: number) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % max;
  };
  const holders = usual.rows.map(({ holder }) => holder as HolderRef);
  const any = () => holders[below(holders.length)] as HolderRef;
  const rows = usual.rows.map((row) => ({
    ...row,
    epoch: 1_764_000_000_000 - below(2 ** 31),
    fence: 1_763_000_000_000 + below(2 ** 31),
    after: [{ holder: any(), epoch: 1_763_000_000_000 + below(2 ** 31) }],
    origin: { memory: "state" as const, epoch: below(2 ** 31), address: any().address, process: any().process },
    moves: row.moves.map((move) => ({ ...move, at: move.at - below(2 ** 30), epoch: move.epoch - below(2 ** 30) })),
  }));
  await done(store().write({ ...usual, rows }, undefined));
  expect(await done(store().read("shop", "chat"))).toEqual({ ...usual, rows, version: "w.1" });
  expect(JSON.stringify(object()).length).toBeLessThan(768 * 1024);
  expect(object()).toMatchObject({ heldSlots: 4096, slots: [] });
});

test("deletes what is there, and only what it has seen", async () => {
  const { store, object, done, server, failNext } = world();
  const first = store();
  await done(first.delete("shop", "chat", undefined));
  await done(first.write(table("w.1"), undefined));
  failNext("DELETE", { status: 409, reason: "Conflict" });
  await done(first.delete("shop", "chat", "w.1"));
  expect(object()).toBeUndefined();
  const [, options] = server.requestsTo("DELETE");
  expect(JSON.parse(options?.body ?? "").preconditions).toEqual({
    uid: expect.any(String),
    resourceVersion: expect.any(String),
  });
  expect(await done(first.read("shop", "chat"))).toBeUndefined();
  await done(first.write(table("w.2"), undefined));
});

test("nothing is made for a service that is gone: nobody would ever delete it", async () => {
  const { store, object, done } = world();
  const first = store(() => undefined);
  await done(first.writeInstances("shop", "chat", beside(1)));
  await expect(done(first.write(table("w.1"), undefined))).rejects.toMatchObject({ reason: "NO_RESOURCES" });
  expect(object()).toBeUndefined();
});

test("a table of the service's last life goes on as the present one's: it must not be deleted with that", async () => {
  const { store, object, done } = world();
  const former = { ...owner, uid: "uid-before" };
  const version = await done(store(() => former).write(table("w.1"), undefined));
  await done(store().write(table("w.2"), version));
  expect(object()?.metadata.ownerReferences).toEqual([owner]);
});

test("two leaders, a network that fails: no write that was acknowledged is lost to another", async () => {
  const fault = fc.oneof(
    { weight: 4, arbitrary: fc.constant(undefined) },
    {
      weight: 5,
      arbitrary: fc.constantFrom<Fault>(
        { delayMs: 40 },
        { delayMs: 7_000 },
        { delayMs: 30, answerDelayMs: 9_000 },
        { reset: "before" },
        { reset: "after" },
        { silent: "after" },
        { status: 500 },
      ),
    },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(fault, { maxLength: 60 }),
      fc.array(fc.nat(60), { minLength: 4 }),
      async (faults, gaps) => {
        const { clock, server, store, done } = world();
        const left = [...faults];
        server.fault = () => left.shift();
        const acknowledged: number[] = [];
        const lead = async (name: string, rest: readonly number[]) => {
          const own = store();
          let writes = 0;
          for (const gap of rest) {
            await new Promise<void>((resolve) => void clock.setTimer(resolve, gap));
            try {
              const stored = await own.read("shop", "chat");
              const lastEpoch = (stored?.lastEpoch ?? 0) + 1;
              await own.write({ ...usualTable(2, 2, `${name}.${++writes}`), lastEpoch }, stored?.version);
              acknowledged.push(lastEpoch);
            } catch {
              // Nothing is known; the next round reads.
            }
          }
        };
        const besides = async () => {
          const own = store();
          for (const gap of gaps) {
            await new Promise<void>((resolve) => void clock.setTimer(resolve, gap));
            await own.writeInstances("shop", "chat", beside(gap)).catch(() => {});
          }
        };
        const all = Promise.all([lead("a", gaps), lead("b", [...gaps].reverse()), besides()]);
        await runFor(clock, 2_000_000);
        await all;
        expect(new Set(acknowledged).size).toBe(acknowledged.length);
        const last = await done(store().read("shop", "chat"));
        expect(last?.lastEpoch ?? 0).toBeGreaterThanOrEqual(Math.max(0, ...acknowledged));
      },
    ),
    { numRuns: 60 },
  );
});
