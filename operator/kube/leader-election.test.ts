import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { expect, test } from "vitest";
import { ApiServer } from "./api-server.fixture.ts";
import { KubeClient } from "./kube-client.ts";
import { leases } from "./kube-object.ts";
import type { KubeRequest } from "./kube-transport.ts";
import { LeaderElection, type Lease } from "./leader-election.ts";
import { Machine } from "./machine.fixture.ts";
import { runFor, runUntil } from "./run-clock.fixture.ts";

/** A server with a Lease that was released, and candidates on machines of their own. */
function world({ isLeaseThere = true } = {}) {
  const clock = new VirtualClock();
  const server = new ApiServer(clock);
  if (isLeaseThere) server.put(leases, { metadata: { namespace: "lever-system", name: "operator" } });
  const heard: string[] = [];
  let seed = 1;
  const candidate = (name: string, rate = 1) => {
    const machine = new Machine(clock, rate);
    const election = new LeaderElection({
      client: new KubeClient({ transport: machine.transport(server.transport()), clock: machine }),
      clock: machine,
      leaseClock: machine,
      random: () => {
        seed = (seed * 16_807) % 2_147_483_647;
        return seed / 2_147_483_647;
      },
      namespace: "lever-system",
      name: "operator",
      candidate: name,
      address: `10.0.0.1:3837/${name}`,
      onElected: (term) => heard.push(`${name} elected ${term}`),
      onLost: (term, why) => heard.push(`${name} lost ${term} ${why}`),
      onError: () => {},
    });
    return { machine, election };
  };
  const lease = () => server.object<Lease>(leases, "lever-system", "operator");
  /** `what` goes wrong with the requests of one candidate. */
  const isOf = (name: string, { body }: KubeRequest) => body?.includes(`"holderIdentity":"${name}_`) ?? false;
  return { clock, server, heard, candidate, lease, isOf };
}

/** `a` leads, and `b` has begun to look on. */
async function leadingPair() {
  const { candidate, ...rest } = world();
  const a = candidate("pod-a");
  const b = candidate("pod-b");
  a.election.start();
  await runFor(rest.clock, 100);
  b.election.start();
  return { ...rest, a, b };
}

test("a lease that nobody holds is taken at once, and says whose it is", async () => {
  const { clock, heard, candidate, lease } = world();
  const a = candidate("pod-a");
  a.election.start();
  await runFor(clock, 0);
  expect(heard).toEqual(["pod-a elected 1"]);
  expect(a.election.isLeader).toBe(true);
  expect(a.election.term).toBe(1);
  expect(lease()?.spec).toEqual({
    holderIdentity: a.election.identity,
    leaseDurationSeconds: 5,
    acquireTime: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/),
    renewTime: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/),
    leaseTransitions: 1,
  });
  const b = candidate("pod-b");
  b.election.start();
  await runFor(clock, 100);
  expect(b.election.holder).toEqual({
    candidate: "pod-a",
    identity: a.election.identity,
    address: "10.0.0.1:3837/pod-a",
  });
});

test("renewed every second, by a replace of the version that it saw; the others look on", async () => {
  const { clock, server, heard, candidate, lease } = world();
  const a = candidate("pod-a");
  const b = candidate("pod-b");
  a.election.start();
  await runFor(clock, 0);
  b.election.start();
  const { acquireTime } = lease()?.spec ?? {};
  server.requests.length = 0;
  await runFor(clock, 60_000);
  expect(heard).toEqual(["pod-a elected 1"]);
  const puts = server.requestsTo("PUT");
  expect(puts).toHaveLength(60);
  for (const { body } of puts) expect(JSON.parse(body ?? "").metadata.resourceVersion).toMatch(/^\d+$/);
  expect(lease()?.spec).toMatchObject({ acquireTime, leaseTransitions: 1 });
  expect(b.election.isLeader).toBe(false);
});

test("two of one name are two", async () => {
  const { clock, heard, candidate } = world();
  const first = candidate("pod-a");
  const second = candidate("pod-a");
  first.election.start();
  await runFor(clock, 0);
  second.election.start();
  await runFor(clock, 10_000);
  expect(first.election.isLeader).toBe(true);
  expect(second.election.isLeader).toBe(false);
  expect(heard).toHaveLength(1);
});

test("a leader that dies is followed after its lease, counted from when the last change was seen", async () => {
  const { clock, server, heard, candidate } = world();
  const a = candidate("pod-a");
  const b = candidate("pod-b");
  a.election.start();
  b.election.start();
  await runFor(clock, 10_400);
  void a.machine.stopFor(1e9, false);
  const lastRenewal = Number(server.version);
  expect(lastRenewal).toBeGreaterThan(0);
  const diedAt = clock.now();
  await runUntil(clock, () => b.election.isLeader);
  // At 10.0 s renewed, seen up to half a second later.
  expect(clock.now() - diedAt).toBeGreaterThanOrEqual(5050 - 400);
  expect(clock.now() - diedAt).toBeLessThanOrEqual(5050 + 500);
  expect(heard.filter((line) => line.includes("elected"))).toEqual(["pod-a elected 1", "pod-b elected 2"]);
});

test("the leader stops at its own end, on the minute of its clock and not of a timer", async () => {
  const { clock, server, heard, candidate } = world();
  const a = candidate("pod-a");
  a.election.start();
  await runFor(clock, 10_400);
  server.fault = () => ({ silent: "before" });
  await runFor(clock, 4_549);
  expect(a.election.isLeader).toBe(true);
  await runFor(clock, 1);
  expect(a.election.isLeader).toBe(false);
  expect(heard.at(-1)).toBe("pod-a lost 1 expired");
});

test("a leader that was stopped knows when it wakes, before any timer has told it", async () => {
  const { clock, heard, candidate } = world();
  const a = candidate("pod-a");
  a.election.start();
  await runFor(clock, 10_400);
  void a.machine.stopFor(60_000, false);
  await runFor(clock, 30_000);
  expect(a.election.isLeader).toBe(false);
  expect(a.election.term).toBeUndefined();
  expect(heard).toHaveLength(1);
  await runFor(clock, 31_000);
  expect(heard).toEqual(["pod-a elected 1", "pod-a lost 1 expired", "pod-a elected 2"]);
});

test("a suspended machine's monotonic clock stands still, and it is no leader all the same", async () => {
  const { clock, server, a, b } = await leadingPair();
  await runFor(clock, 10_000);
  void a.machine.stopFor(20_000, true);
  await runUntil(clock, () => b.election.isLeader);
  expect(a.election.isLeader).toBe(false);
  // Awake, with nobody to tell it what has happened.
  server.fault = () => ({ silent: "before" });
  await runFor(clock, 20_100 - (clock.now() - 10_100));
  expect(a.election.isLeader).toBe(false);
});

test("decides with the reading that it is given", async () => {
  const { clock, candidate } = world();
  const a = candidate("pod-a");
  a.election.start();
  await runFor(clock, 0);
  const reading = a.machine.read();
  const later = (ms: number) => ({
    monotonicMs: reading.monotonicMs + ms,
    bootMs: reading.bootMs + ms,
    wallMs: reading.wallMs + ms,
  });
  expect(a.election.isLeaderAt(later(4949))).toBe(true);
  expect(a.election.isLeaderAt(later(4950))).toBe(false);
});

test("a renewal whose answer is late counts from when it was sent", async () => {
  const { clock, server, candidate } = world();
  const a = candidate("pod-a");
  a.election.start();
  await runFor(clock, 500);
  let isFirst = true;
  server.fault = ({ method }) => {
    if (method !== "PUT" || !isFirst) return { reset: "before" };
    isFirst = false;
    return { delayMs: 100, answerDelayMs: 1_300 };
  };
  await runFor(clock, 2_000);
  // Sent at 1.0 s, answered at 2.4 s; nothing got through after.
  await runFor(clock, 3_449);
  expect(a.election.isLeader).toBe(true);
  await runFor(clock, 1);
  expect(a.election.isLeader).toBe(false);
});

test("a lease that the holder wrote a time of the year 2100 into ends like any other", async () => {
  const { clock, server, candidate, lease } = world();
  const times = { acquireTime: "2100-01-01T00:00:00.000000Z", renewTime: "2100-01-01T00:00:00.000000Z" };
  server.put(leases, {
    metadata: { namespace: "lever-system", name: "operator" },
    spec: { holderIdentity: "gone", leaseDurationSeconds: 3600, leaseTransitions: 41, ...times },
  } as Lease);
  const a = candidate("pod-a");
  a.election.start();
  await runFor(clock, 5_049);
  expect(a.election.isLeader).toBe(false);
  await runFor(clock, 2);
  expect(a.election.term).toBe(42);
  expect(lease()?.spec?.holderIdentity).toBe(a.election.identity);
});

test("a wall clock that is set forward makes nobody a leader early", async () => {
  const { clock, a, b } = await leadingPair();
  await runFor(clock, 1_000);
  void a.machine.stopFor(1e9, false);
  b.machine.setWall(1e9);
  await runFor(clock, 4_800);
  expect(b.election.isLeader).toBe(false);
});

test("a graceful stop: no leader any more when it begins, released when it ends, and followed at once", async () => {
  const { clock, heard, lease, a, b } = await leadingPair();
  await runFor(clock, 3_000);
  const stopped = a.election.stop();
  expect(a.election.isLeader).toBe(false);
  expect(heard.at(-1)).toBe("pod-a lost 1 stopped");
  await runFor(clock, 0);
  await stopped;
  expect(lease()?.spec?.holderIdentity).toBeUndefined();
  await runFor(clock, 500);
  expect(b.election.isLeader).toBe(true);
  expect(heard.at(-1)).toBe("pod-b elected 2");
  await runFor(clock, 60_000);
  a.election.start();
  await runFor(clock, 60_000);
  expect(heard).toHaveLength(3);
});

test("a graceful stop waits with the release for what is still under way", async () => {
  const { clock, heard, lease, a, b } = await leadingPair();
  await runFor(clock, 3_000);
  const { promise, resolve } = Promise.withResolvers<void>();
  const stopped = a.election.stop(() => promise);
  expect([a.election.isLeader, heard.at(-1)]).toEqual([false, "pod-a lost 1 stopped"]);
  await runFor(clock, 1_000);
  expect(lease()?.spec?.holderIdentity).toBe(a.election.identity);
  resolve();
  await runFor(clock, 0);
  await stopped;
  expect(lease()?.spec?.holderIdentity).toBeUndefined();
  await runFor(clock, 500);
  expect(b.election.isLeader).toBe(true);
});

test("stopped with a renewal under way, whatever becomes of it: released, and nothing is left", async () => {
  for (const fault of [{ delayMs: 700 }, { silent: "after" as const }, { reset: "after" as const }]) {
    const { clock, server, candidate, lease } = world();
    const a = candidate("pod-a");
    a.election.start();
    await runFor(clock, 999);
    let isFirst = true;
    server.fault = ({ method }) => {
      if (method !== "PUT" || !isFirst) return undefined;
      isFirst = false;
      return fault;
    };
    await runFor(clock, 2);
    const stopped = a.election.stop();
    await runFor(clock, 5_000);
    await stopped;
    expect(lease()?.spec?.holderIdentity).toBeUndefined();
    expect(clock.timerCount).toBe(0);
  }
});

test("stopped while the server is away: ends all the same", async () => {
  const { clock, server, candidate } = world();
  const a = candidate("pod-a");
  a.election.start();
  await runFor(clock, 500);
  server.fault = () => ({ silent: "before" });
  const stopped = a.election.stop();
  await runFor(clock, 10_000);
  await stopped;
  expect(clock.timerCount).toBe(0);
});

test("a follower that stops releases nothing", async () => {
  const { clock, lease, server, a, b } = await leadingPair();
  await runFor(clock, 1_500);
  const before = server.requestsTo("PUT").length;
  const stopped = b.election.stop();
  await runFor(clock, 0);
  await stopped;
  expect(server.requestsTo("PUT")).toHaveLength(before);
  expect(lease()?.spec?.holderIdentity).toBe(a.election.identity);
});

test("what others have put into the object stays, and their change of it is no loss", async () => {
  const { clock, server, heard, candidate, lease } = world();
  const a = candidate("pod-a");
  a.election.start();
  await runFor(clock, 500);
  const found = lease() as Lease;
  server.put(leases, { ...found, metadata: { ...found.metadata, labels: { team: "platform" } } });
  await runFor(clock, 5_000);
  expect(lease()?.metadata.labels).toEqual({ team: "platform" });
  expect(heard).toEqual(["pod-a elected 1"]);
});

test("named somebody else by hand: gives up with the next renewal", async () => {
  const { clock, server, heard, candidate, lease } = world();
  const a = candidate("pod-a");
  a.election.start();
  await runFor(clock, 500);
  const found = lease() as Lease;
  server.put(leases, { ...found, spec: { ...found.spec, holderIdentity: "somebody" } } as Lease);
  await runFor(clock, 501);
  expect(a.election.isLeader).toBe(false);
  expect(heard.at(-1)).toBe("pod-a lost 1 superseded");
  expect(a.election.holder?.candidate).toBe("somebody");
});

test("without an object, nobody knows whether there was one: one that nobody holds is made, and waited for", async () => {
  const { clock, candidate } = world({ isLeaseThere: false });
  const a = candidate("pod-a");
  a.election.start();
  // Two seconds for a leader to make it anew, and the time of a lease.
  await runFor(clock, 7_049);
  expect(a.election.isLeader).toBe(false);
  await runFor(clock, 2);
  expect(a.election.isLeader).toBe(true);
});

test("a first installation: of its replicas one makes the object, one leads it, and in as much time as one alone", async () => {
  const { clock, server, heard, candidate, lease } = world({ isLeaseThere: false });
  const both = [candidate("pod-a"), candidate("pod-b")];
  for (const { election } of both) election.start();
  await runFor(clock, 9_000);
  expect(both.filter(({ election }) => election.isLeader)).toHaveLength(1);
  await runFor(clock, 20_000);
  expect(heard).toEqual([expect.stringMatching(/elected 1$/)]);
  expect(server.requestsTo("POST").length).toBeLessThanOrEqual(2);
  expect(lease()?.metadata.annotations).toEqual({ "leveros.dev/address": expect.any(String) });
});

test("an object that is deleted is made anew by its leader, who stays", async () => {
  const { clock, server, heard, a } = await leadingPair();
  await runFor(clock, 2_500);
  server.remove(leases, "lever-system", "operator");
  await runFor(clock, 20_000);
  expect(heard).toEqual(["pod-a elected 1"]);
  expect(a.election.isLeader).toBe(true);
});

test("errors in between cost nothing: the leader tries again within its lease", async () => {
  const { clock, server, heard } = await leadingPair();
  let count = 0;
  const kinds = [
    { status: 500 },
    { reset: "before" as const },
    { reset: "after" as const },
    { silent: "after" as const },
  ];
  server.fault = () => (count++ % 3 === 0 ? kinds[((count / 3) % kinds.length) | 0] : undefined);
  await runFor(clock, 120_000);
  expect(heard).toEqual(["pod-a elected 1"]);
});

test("it is undecided who leads from when the leader is late until there is another one", async () => {
  const { clock, a, b } = await leadingPair();
  await runFor(clock, 10_400);
  expect([a.election.isUndecided, b.election.isUndecided]).toEqual([false, false]);
  void a.machine.stopFor(1e9, false);
  await runFor(clock, 1500);
  expect(b.election.isUndecided).toBe(false);
  await runFor(clock, 1500);
  expect(b.election.isUndecided).toBe(true);
  await runUntil(clock, () => b.election.isLeader, 10_000);
  expect(b.election.isUndecided).toBe(false);
});

test("a candidate that the server does not answer cannot tell, and says that it is decided", async () => {
  const { clock, server, a, b } = await leadingPair();
  await runFor(clock, 10_400);
  void a.machine.stopFor(1e9, false);
  await runFor(clock, 3000);
  expect(b.election.isUndecided).toBe(true);
  server.fault = () => ({ silent: "before" });
  await runFor(clock, 1600);
  expect(b.election.isUndecided).toBe(false);
});

test("a lease that was given back is undecided at once", async () => {
  const { clock, a, b } = await leadingPair();
  await runFor(clock, 10_400);
  const stopping = a.election.stop();
  await runUntil(clock, () => b.election.isUndecided || b.election.isLeader, 1000);
  await stopping;
  expect(a.election.isUndecided).toBe(false);
});
