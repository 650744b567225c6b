import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { expect, test } from "vitest";
import { ApiServer, type Fault } from "./api-server.fixture.ts";
import { KubeClient } from "./kube-client.ts";
import type { KubeError } from "./kube-error.ts";
import { type KubeObject, pods } from "./kube-object.ts";
import { Reflector, type ReflectorOptions } from "./reflector.ts";
import { runFor, runUntil } from "./run-clock.fixture.ts";

interface Pod extends KubeObject {
  readonly spec?: { readonly nodeName: string };
}

function pod(name: string, nodeName = "node-1", more: Partial<Pod["metadata"]> = {}): Pod {
  return { metadata: { namespace: "shop", name, ...more }, spec: { nodeName } };
}

/** A reflector of pods, and what it says. */
function world(options: Partial<ReflectorOptions<Pod>> = {}) {
  const clock = new VirtualClock();
  const server = new ApiServer(clock);
  const client = new KubeClient({ transport: server.transport(), clock });
  const errors: unknown[] = [];
  const reflector = new Reflector<Pod>({
    client,
    kind: pods,
    clock,
    random: () => 0.5,
    onError: (error) => errors.push(error),
    ...options,
  });
  const heard: string[] = [];
  reflector.subscribe({
    onUpsert: ({ metadata, spec }, old) => heard.push(`${old ? "changed" : "new"} ${metadata.name} ${spec?.nodeName}`),
    onDelete: ({ metadata }) => heard.push(`gone ${metadata.name}`),
  });
  /** Once, for the next request that is a watch, or is none. */
  const failNext = (what: "watch" | "list", ...faults: Fault[]) => {
    const left = [...faults];
    server.fault = ({ path }) => (path.includes("watch=true") === (what === "watch") ? left.shift() : undefined);
  };
  const names = () => [...reflector.values()].map(({ metadata }) => metadata.name).sort();
  return { clock, server, reflector, heard, errors, failNext, names };
}

test("lists, then hears of each change", async () => {
  const { clock, server, reflector, heard, names } = world();
  server.put(pods, pod("a"));
  reflector.start();
  await runFor(clock, 0);
  expect(reflector.isSynced).toBe(true);
  server.put(pods, pod("b"));
  server.put(pods, pod("a", "node-2"));
  server.remove(pods, "shop", "b");
  await runFor(clock, 0);
  expect(heard).toEqual(["new a node-1", "new b node-1", "changed a node-2", "gone b"]);
  expect(names()).toEqual(["a"]);
  expect(reflector.get("shop", "a")?.spec?.nodeName).toBe("node-2");
  expect(server.requestsTo("GET /api/v1/pods")).toHaveLength(2);
  await reflector.close();
});

test("who subscribes later hears of what is there first", async () => {
  const { clock, server, reflector } = world();
  server.put(pods, pod("a"));
  reflector.start();
  await runFor(clock, 0);
  const heard: string[] = [];
  const end = reflector.subscribe({ onUpsert: ({ metadata }) => heard.push(metadata.name) });
  server.put(pods, pod("b"));
  await runFor(clock, 0);
  end();
  server.put(pods, pod("c"));
  await runFor(clock, 0);
  expect(heard).toEqual(["a", "b"]);
  await reflector.close();
});

test("asks for one namespace and label only", async () => {
  const { clock, server, reflector, names } = world({ namespace: "shop", labelSelector: "app=chat" });
  server.put(pods, pod("a", "n", { labels: { app: "chat" } }));
  server.put(pods, pod("b", "n", { labels: { app: "other" } }));
  server.put(pods, { metadata: { namespace: "bank", name: "c", labels: { app: "chat" } } });
  reflector.start();
  await runFor(clock, 0);
  server.put(pods, pod("d", "n", { labels: { app: "chat" } }));
  server.put(pods, pod("e", "n"));
  await runFor(clock, 0);
  expect(names()).toEqual(["a", "d"]);
  await reflector.close();
});

test("lists in pages; is synced, and says so, when all are there", async () => {
  const { clock, server, reflector, heard } = world({ pageItems: 2 });
  for (const name of ["a", "b", "c", "d", "e"]) server.put(pods, pod(name));
  reflector.subscribe({ onUpsert: () => expect(reflector.size).toBeGreaterThan(0) });
  server.fault = ({ path }) => (path.includes("continue") ? { delayMs: 100 } : undefined);
  const synced = reflector.whenSynced();
  reflector.start();
  await runFor(clock, 150);
  expect(heard).toEqual([]);
  expect(reflector.isSynced).toBe(false);
  await runFor(clock, 200);
  expect(await synced).toBe(true);
  expect(heard).toHaveLength(5);
  expect(server.requests.filter(({ path }) => path.includes("limit=2"))).toHaveLength(3);
  await reflector.close();
});

test("a continue token that has expired starts the list over, with larger pages each time", async () => {
  const { clock, server, reflector, names } = world({ pageItems: 1 });
  for (const name of ["a", "b", "c", "d", "e"]) server.put(pods, pod(name));
  server.fault = ({ path }) => {
    if (path.includes("continue")) server.compact();
    return undefined;
  };
  reflector.start();
  await runUntil(clock, () => reflector.isSynced);
  expect(names()).toEqual(["a", "b", "c", "d", "e"]);
  expect(reflector.counts.listsExpired).toBe(2);
  expect(reflector.counts.lists.initial).toBe(1);
  await reflector.close();
});

test("what changes while a watch is away is heard of when it is back, from the version before", async () => {
  const { clock, server, reflector, heard, failNext } = world();
  server.put(pods, pod("a"));
  reflector.start();
  await runFor(clock, 0);
  failNext("watch", { reset: "before" }, { status: 500, reason: "InternalError" }, { status: 502 });
  server.endWatches("reset");
  server.put(pods, pod("b"));
  server.remove(pods, "shop", "a");
  await runFor(clock, 20_000);
  expect(heard).toEqual(["new a node-1", "new b node-1", "gone a"]);
  expect(reflector.counts.lists).toEqual({ initial: 1, expired: 0, malformed: 0 });
  expect(reflector.counts.watchEnds.failed).toBe(4);
  await reflector.close();
});

test("a watch that the server ends when its time is over goes on at once, and is no failure", async () => {
  const { clock, server, reflector, errors } = world();
  server.put(pods, pod("a"));
  reflector.start();
  await runFor(clock, 300_000);
  expect(reflector.counts.watchEnds).toMatchObject({ closed: 3, short: 0 });
  expect(reflector.counts.lists).toEqual({ initial: 1, expired: 0, malformed: 0 });
  expect(errors).toEqual([]);
  await reflector.close();
});

test("a bookmark is a version to go on from: no list after a quiet time and a compaction", async () => {
  const { clock, server, reflector } = world();
  server.put(pods, pod("a"));
  reflector.start();
  await runFor(clock, 0);
  server.pass(500);
  server.sendBookmarks();
  server.compact();
  server.endWatches("close");
  await runFor(clock, 10_000);
  expect(reflector.counts.lists).toEqual({ initial: 1, expired: 0, malformed: 0 });
  expect(server.requests.at(-1)?.path).toContain(`resourceVersion=${server.version}`);
  await reflector.close();
});

test.each<[string, (server: ApiServer) => void]>([
  ["as an answer", (server) => server.endWatches("close")],
  ["as an event", (server) => server.expireWatches()],
])("410 %s: lists anew, and tells only what is different", async (_name, expire) => {
  const { clock, server, reflector, heard } = world();
  for (const name of ["a", "b", "c"]) server.put(pods, pod(name));
  reflector.start();
  await runFor(clock, 0);
  heard.length = 0;
  server.fault = () => ({ status: 503 });
  server.endWatches("reset");
  await runFor(clock, 0);
  server.remove(pods, "shop", "a");
  server.put(pods, pod("b", "node-2"));
  server.put(pods, pod("d"));
  server.compact();
  server.fault = () => undefined;
  expire(server);
  await runFor(clock, 20_000);
  expect(heard).toEqual(["gone a", "changed b node-2", "new d node-1"]);
  expect(reflector.counts.lists.expired).toBe(1);
  await reflector.close();
});

test("an ERROR event of 410 makes a list", async () => {
  const { clock, server, reflector, heard } = world();
  server.put(pods, pod("a"));
  reflector.start();
  await runFor(clock, 0);
  server.expireWatches();
  await runFor(clock, 20_000);
  expect(reflector.counts.watchEnds.expired).toBe(1);
  expect(reflector.counts.lists.expired).toBe(1);
  expect(heard).toEqual(["new a node-1"]);
  await reflector.close();
});

test("an object that was replaced by one of the same name is gone before the other is new", async () => {
  const { clock, server, reflector, heard } = world();
  server.put(pods, pod("a"));
  reflector.start();
  await runFor(clock, 0);
  server.fault = () => ({ status: 503 });
  server.endWatches("reset");
  await runFor(clock, 0);
  server.remove(pods, "shop", "a");
  server.put(pods, pod("a", "node-9"));
  server.compact();
  server.fault = () => undefined;
  await runFor(clock, 20_000);
  expect(heard).toEqual(["new a node-1", "gone a", "new a node-9"]);
  await reflector.close();
});

test.each<[string, Fault]>([
  ["is not JSON", { afterLines: 1, watchFault: { line: '{"type":"ADDED","object":{"meta' } }],
  ["has an unknown type", { afterLines: 1, watchFault: { line: '{"type":"RENAMED","object":{"metadata":{}}}' } }],
  [
    "has an object without a version",
    { afterLines: 1, watchFault: { line: '{"type":"ADDED","object":{"metadata":{}}}' } },
  ],
  [
    "has an object without a name",
    { afterLines: 1, watchFault: { line: '{"type":"ADDED","object":{"metadata":{"resourceVersion":"1"}}}' } },
  ],
  ["is cut off", { afterLines: 1, watchFault: { partOfLine: '{"type":"DELETED"' } }],
])("a line that %s is said, counted, and makes a list", async (_name, fault) => {
  const { clock, server, reflector, errors, names, failNext } = world();
  failNext("watch", fault);
  reflector.start();
  await runFor(clock, 0);
  server.put(pods, pod("a"));
  await runFor(clock, 0);
  // Never heard of: it comes while nobody watches.
  server.put(pods, pod("b"));
  await runFor(clock, 5_000);
  expect(names()).toEqual(["a", "b"]);
  expect(errors).toHaveLength(1);
  expect(errors[0]).toMatchObject({ reason: "Malformed" });
  expect(reflector.counts.watchEnds.malformed).toBe(1);
  expect(reflector.counts.lists.malformed).toBe(1);
  await reflector.close();
});

test("a line that can never be read does not make a list in each second", async () => {
  const { clock, server, reflector } = world();
  server.fault = ({ path }) =>
    path.includes("watch=true") ? { afterLines: 0, watchFault: { line: "no JSON" } } : undefined;
  reflector.start();
  await runFor(clock, 600_000);
  expect(reflector.counts.lists.malformed).toBeGreaterThan(10);
  expect(reflector.counts.lists.malformed).toBeLessThan(120);
  await reflector.close();
});

test("a connection that has fallen silent is ended when the watch's time is over", async () => {
  const { clock, server, reflector, heard, failNext } = world();
  failNext("watch", { afterLines: 1, watchFault: "silence" });
  reflector.start();
  await runFor(clock, 0);
  server.put(pods, pod("a"));
  server.put(pods, pod("b"));
  await runFor(clock, 90_000);
  expect(heard).toEqual(["new a node-1"]);
  await runFor(clock, 12_000);
  expect(heard).toEqual(["new a node-1", "new b node-1"]);
  expect(reflector.counts.watchEnds.silent).toBe(1);
  expect(reflector.counts.lists).toEqual({ initial: 1, expired: 0, malformed: 0 });
  await reflector.close();
});

test("a server that does not answer: each list ends, and is tried again", async () => {
  const { clock, server, reflector, failNext } = world();
  server.put(pods, pod("a"));
  failNext("list", { silent: "before" }, { silent: "before" });
  reflector.start();
  await runFor(clock, 100_000);
  expect(reflector.isSynced).toBe(false);
  await runFor(clock, 25_000);
  expect(reflector.isSynced).toBe(true);
  expect(reflector.counts.listFailures).toBe(2);
  await reflector.close();
});

test("a server that is away for minutes is asked ever more seldom, and many do not come back together", async () => {
  const clock = new VirtualClock();
  const server = new ApiServer(clock);
  const client = new KubeClient({ transport: server.transport(), clock });
  let seed = 7;
  const random = () => {
    seed = (seed * 16_807) % 2_147_483_647;
    return seed / 2_147_483_647;
  };
  const reflectors = Array.from({ length: 20 }, () => new Reflector({ client, kind: pods, clock, random }));
  for (const reflector of reflectors) reflector.start();
  await runFor(clock, 0);
  server.requests.length = 0;
  server.fault = () => ({ reset: "before" });
  server.endWatches("reset");
  await runFor(clock, 120_000);
  // 120 s at 5 to 10 s each, and the first few sooner.
  expect(server.requests.length / 20).toBeLessThan(25);
  const times: number[] = [];
  server.fault = () => void times.push(clock.now());
  await runFor(clock, 15_000);
  expect(times).toHaveLength(20);
  const perTenth = new Map<number, number>();
  for (const at of times) perTenth.set(Math.floor(at / 100), (perTenth.get(Math.floor(at / 100)) ?? 0) + 1);
  expect(Math.max(...perTenth.values())).toBeLessThan(6);
  await Promise.all(reflectors.map((reflector) => reflector.close()));
});

test("429 waits for as long as the server says", async () => {
  const { clock, server, reflector, failNext } = world();
  failNext("list", { status: 429, reason: "TooManyRequests", retryAfter: 8 });
  reflector.start();
  await runFor(clock, 7_999);
  expect(server.requests).toHaveLength(1);
  await runFor(clock, 4_000);
  expect(reflector.isSynced).toBe(true);
  failNext("watch", { status: 429, reason: "TooManyRequests", retryAfter: 8 });
  server.endWatches("close");
  await runFor(clock, 7_999);
  expect(reflector.counts.watchEnds.throttled).toBe(1);
  expect(server.watcherCount).toBe(0);
  await runFor(clock, 4_000);
  expect(server.watcherCount).toBe(1);
  await reflector.close();
});

test("watches that the server ends at once do not make a busy loop", async () => {
  const { clock, server, reflector } = world();
  server.fault = ({ path }) => (path.includes("watch=true") ? { afterLines: 0, watchFault: "close" } : undefined);
  reflector.start();
  await runFor(clock, 60_000);
  expect(reflector.counts.watchEnds.short).toBeGreaterThan(5);
  expect(reflector.counts.watchEnds.short).toBeLessThan(20);
  await reflector.close();
});

test("a kind that there is not, or that may not be read, is tried again until it is there", async () => {
  const { clock, reflector, errors, failNext } = world();
  failNext("list", { status: 404, reason: "NotFound" }, { status: 403, reason: "Forbidden" });
  reflector.start();
  await runUntil(clock, () => reflector.isSynced);
  expect(errors.map((error) => (error as KubeError).reason)).toEqual(["NotFound", "Forbidden"]);
  failNext("watch", { status: 403, reason: "Forbidden" });
  await reflector.close();
});

test("keeps what it is told to keep, managedFields never", async () => {
  const slim = world();
  slim.server.put(pods, pod("a", "node-1", { managedFields: [{ manager: "kubelet" }] }));
  slim.reflector.start();
  await runFor(slim.clock, 0);
  expect(slim.reflector.get("shop", "a")?.metadata.managedFields).toBeUndefined();
  expect(slim.reflector.get("shop", "a")?.spec).toEqual({ nodeName: "node-1" });
  await slim.reflector.close();

  const own = world({ transform: ({ metadata }) => ({ metadata }) });
  own.server.put(pods, pod("a"));
  own.reflector.start();
  await runFor(own.clock, 0);
  own.server.put(pods, pod("b"));
  await runFor(own.clock, 0);
  for (const one of own.reflector.values()) expect(one.spec).toBeUndefined();
  await own.reflector.close();
});

test("a handler that throws harms nobody else", async () => {
  const { clock, server, reflector, errors, heard } = world();
  reflector.subscribe({
    onUpsert: () => {
      throw new Error("bug");
    },
  });
  reflector.start();
  await runFor(clock, 0);
  server.put(pods, pod("a"));
  server.put(pods, pod("b"));
  await runFor(clock, 0);
  expect(heard).toEqual(["new a node-1", "new b node-1"]);
  expect(errors).toHaveLength(2);
  expect(reflector.counts.handlerErrors).toBe(2);
  expect(reflector.counts.watchEnds.malformed).toBe(0);
  await reflector.close();
});

test.each<[string, Fault | undefined, number]>([
  ["in a list", { delayMs: 50 }, 10],
  ["in a watch", undefined, 10],
  ["while it waits", { reset: "before" }, 100],
])("closed %s, nothing is left, and nothing is heard", async (_name, fault, afterMs) => {
  const { clock, server, reflector, heard } = world();
  server.put(pods, pod("a"));
  server.fault = () => fault;
  reflector.start();
  await runFor(clock, afterMs);
  const before = [...heard];
  const synced = reflector.whenSynced();
  const closed = reflector.close();
  await runFor(clock, 0);
  await closed;
  expect(await synced).toBe(fault === undefined);
  expect(server.watcherCount).toBe(0);
  server.fault = () => undefined;
  server.put(pods, pod("b"));
  const asked = server.requests.length;
  await runFor(clock, 60_000);
  expect(clock.timerCount).toBe(0);
  expect(server.requests).toHaveLength(asked);
  expect(heard).toEqual(before);
  reflector.start();
  await runFor(clock, 60_000);
  expect(server.requests).toHaveLength(asked);
});
