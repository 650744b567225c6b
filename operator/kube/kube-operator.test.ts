/** The operator against an API server of tests, on virtual time: what users do, what goes wrong, and who leads. */

import { beforeEach, describe, expect, test } from "vitest";
import type { Fault } from "./api-server.fixture.ts";
import { deployments, type KubeObject, leverEndpointTables, leverServices, pods } from "./kube-object.ts";
import { type FakeAgent, OperatorWorld } from "./operator-world.fixture.ts";
import type { Pod } from "./reconcile/kubernetes-object.ts";
import { hello, pod } from "./reconcile/objects.fixture.ts";

let world: OperatorWorld;

beforeEach(() => {
  world = new OperatorWorld();
});

const names = ["hello-1-aaaaa", "hello-1-bbbbb"];
const two = `replicas: 2\n${hello}`;

/** Made, rolled out and registered. */
async function running(spec = two, podNames: readonly string[] = names, resources = false) {
  world.apply("hello", spec);
  await world.until(() => world.deployment("hello") !== undefined);
  world.rollOut("hello", podNames);
  const agents = podNames.map((name) => world.agent("hello", name, { resources }));
  await world.until(() => world.conditions("hello")["Ready"] === "True/Ready");
  return agents;
}

describe("a LeverService", () => {
  test("that is created gets a Deployment that it owns, and conditions from the first look on", async () => {
    await world.start();
    world.apply("hello", two);
    await world.until(() => world.status("hello").conditions !== undefined);
    expect(world.conditions("hello")).toEqual({
      Accepted: "True/Accepted",
      WorkloadAvailable: "Unknown/Reconciling",
      EndpointsReady: "Unknown/Starting",
      Ready: "Unknown/Reconciling",
    });
    const service = world.api.object(leverServices, "shop", "hello") as KubeObject;
    expect(world.deployment("hello")).toMatchObject({
      metadata: {
        ownerReferences: [{ kind: "LeverService", name: "hello", uid: service.metadata.uid, controller: true }],
      },
      spec: { replicas: 2 },
    });
  });

  test("is Ready when its pods are and their apps have registered; the table says so, and agents know", async () => {
    await world.start();
    const [agent] = await running();
    expect(world.status("hello")).toMatchObject({ replicas: 2, readyReplicas: 2, observedGeneration: 1 });
    await world.run(2000);
    expect(agent?.table?.instances.map(({ id, state }) => `${id} ${state}`)).toEqual(
      names.map((name) => `${name} Serving`),
    );
    expect(world.api.object(leverEndpointTables, "shop", "hello")).toMatchObject({
      metadata: { ownerReferences: [{ kind: "LeverService", name: "hello" }] },
      servingInstances: 2,
      instances: names.map((id) => ({ id, podUid: expect.any(String), state: "Serving" })),
    });
    expect(world.api.object(leverEndpointTables, "shop", "hello")).not.toHaveProperty("slots");
    expect(world.events).toContain("Normal EndpointsUpdated");
    expect(world.events).toContain("Normal Ready");
  });

  test("that is scaled has its Deployment scaled, and nothing is applied that is there already", async () => {
    await world.start();
    await running();
    await world.run(5000);
    const applies = () => world.api.requestsTo("PATCH /apis/apps/v1/").length;
    const before = applies();
    world.rollOut("hello", names);
    await world.run(60_000);
    expect(applies()).toBe(before);
    world.apply("hello", `replicas: 5\n${hello}`);
    await world.run(100);
    expect(world.deployment("hello")?.spec?.replicas).toBe(5);
    expect(applies()).toBe(before + 1);
    expect(world.conditions("hello")).toMatchObject({ EndpointsReady: "True/Serving", Ready: "Unknown/Reconciling" });
    await world.run(60_000);
    expect(applies()).toBe(before + 1);
  });

  test("whose Deployment somebody has scaled or deleted gets it back", async () => {
    await world.start();
    await running();
    await world.run(1000);
    const found = world.deployment("hello") as KubeObject & { spec: object };
    world.api.put(deployments, { ...found, spec: { ...found.spec, replicas: 9 } } as KubeObject);
    await world.run(100);
    expect(world.deployment("hello")?.spec?.replicas).toBe(2);
    world.api.remove(deployments, "shop", "hello");
    await world.run(100);
    expect(world.deployment("hello")?.spec?.replicas).toBe(2);
  });

  test("that is deleted is gone for agents, and its table with it", async () => {
    await world.start();
    const [agent] = await running(`ownership: { slots: 4 }\n${two}`, names, true);
    await world.until(() => world.api.object(leverEndpointTables, "shop", "hello") !== undefined);
    world.api.remove(leverServices, "shop", "hello");
    await world.run(3000);
    expect(agent?.table?.exists).toBe(false);
    expect(world.api.object(leverEndpointTables, "shop", "hello")).toBeUndefined();
  });

  test("whose name a Deployment of others has leaves that alone, and makes its own when it is gone", async () => {
    await world.start();
    const foreign = { metadata: { namespace: "shop", name: "hello" }, spec: { replicas: 1 } } as KubeObject;
    world.api.put(deployments, foreign);
    world.apply("hello", two);
    await world.until(() => world.conditions("hello")["Accepted"] === "False/NameClash");
    await world.run(60_000);
    expect(world.api.requestsTo("PATCH /apis/apps/v1/")).toEqual([]);
    expect(world.events).toContain("Warning NameClash");
    world.api.remove(deployments, "shop", "hello");
    await world.until(() => world.conditions("hello")["Accepted"] === "True/Accepted", 20_000);
    expect(world.deployment("hello")?.spec?.replicas).toBe(2);
  });

  test("whose image cannot be pulled says so", async () => {
    await world.start();
    world.apply("hello", two);
    await world.until(() => world.deployment("hello") !== undefined);
    const [name] = names as [string];
    world.rollOut("hello", [name]);
    const found = world.deployment("hello") as KubeObject & { status: object };
    const status = { ...found.status, availableReplicas: 0, conditions: [] };
    world.api.put(deployments, { ...found, status } as KubeObject);
    const waiting = { reason: "ImagePullBackOff", message: 'Back-off pulling image "example.org/hello:1.0.0"' };
    const app = { name: "app", ready: false, restartCount: 0, state: { waiting } };
    const { metadata } = world.api.object<KubeObject>(pods, "shop", name) as KubeObject;
    world.put(pod({ name, meta: metadata, app, ready: false, status: { phase: "Pending" } }));
    await world.until(() => world.conditions("hello")["Ready"]?.startsWith("False") === true);
    expect(world.conditions("hello")["WorkloadAvailable"]).toMatch(/^False\/ImagePull/);
    expect(world.events.some((event) => event.startsWith("Warning ImagePull"))).toBe(true);
  });

  test("that the API server refuses says why, and is tried again, later and later", async () => {
    await world.start();
    world.api.fault = ({ method, path }) =>
      method === "PATCH" && path.includes("/deployments/") ? { status: 422, reason: "Invalid" } : undefined;
    world.apply("hello", two);
    await world.until(() => world.conditions("hello")["Accepted"] === "False/InvalidSpec");
    await world.run(600_000);
    const tries = world.api.requestsTo("PATCH /apis/apps/v1/").length;
    expect(tries).toBeGreaterThan(10);
    expect(tries).toBeLessThan(40);
    world.api.fault = () => undefined;
    await world.until(() => world.conditions("hello")["Accepted"] === "True/Accepted", 120_000);
  });

  test.each<[string, Fault]>([
    ["a conflict", { status: 409, reason: "Conflict" }],
    ["too many requests", { status: 429, retryAfter: 1 }],
    ["an error of the server", { status: 500 }],
    ["a connection that breaks", { reset: "after" }],
    ["no answer", { silent: "before" }],
  ])("gets to its state though the API server gives %s for a while", async (_, fault) => {
    await world.start();
    let faults = 0;
    world.api.fault = ({ path, method }) =>
      (method === "PATCH" || method === "POST") && !path.includes("/leases") && faults++ < 6 ? fault : undefined;
    await running();
    expect(faults).toBeGreaterThan(6);
    await world.run(60_000);
    expect(world.conditions("hello")["Ready"]).toBe("True/Ready");
    expect(world.api.object(leverEndpointTables, "shop", "hello")).toMatchObject({ servingInstances: 2 });
  });
});

test("a pod that is labelled as another service's is that one's, and not the first one's any more", async () => {
  const replica = await world.start();
  world.apply("other", two);
  await running();
  const found = world.api.object(pods, "shop", "hello-1-aaaaa") as KubeObject;
  const metadata = { ...found.metadata, labels: { "leveros.dev/service": "other" } };
  world.api.put(pods, { ...found, metadata } as KubeObject);
  await world.run(100);
  const idsOf = (service: string) => replica.operator.tables.table("shop", service).instances.map(({ id }) => id);
  expect([idsOf("hello"), idsOf("other")]).toEqual([["hello-1-bbbbb"], ["hello-1-aaaaa"]]);
});

describe("a table", () => {
  const slots = `ownership: { slots: 8 }\n${two}`;

  test("that somebody deletes is there again at once with its slots: the next leader would give them all away", async () => {
    await world.start();
    const agents = await running(slots, names, true);
    await world.until(() => agents.every(({ held }) => held.size === 4));
    await world.run(3000);
    const ownership = () =>
      (world.api.object(leverEndpointTables, "shop", "hello") as { ownership?: { rows: unknown } } | undefined)
        ?.ownership;
    const before = ownership()?.rows;
    world.api.remove(leverEndpointTables, "shop", "hello");
    await world.run(100);
    expect(ownership()?.rows).toEqual(before);
    await world.run(3000);
    expect(world.api.object(leverEndpointTables, "shop", "hello")).toMatchObject({ servingInstances: 2, heldSlots: 8 });
  });

  test("is not made by a write for a service that was deleted meanwhile", async () => {
    await world.start();
    await running();
    await world.run(3000);
    world.api.fault = ({ method, path }) =>
      method === "PATCH" && path.includes("/leverendpointtables/") ? { delayMs: 1000 } : undefined;
    world.api.remove(pods, "shop", "hello-1-bbbbb");
    await world.until(() => world.api.requests.at(-1)?.path.includes("/leverendpointtables/") === true);
    world.api.remove(leverServices, "shop", "hello");
    // As the garbage collector does.
    world.api.remove(leverEndpointTables, "shop", "hello");
    await world.run(5000);
    expect(world.api.object(leverEndpointTables, "shop", "hello")).toBeUndefined();
  });

  test("is not written by a new leader that has nothing else to say of the instances", async () => {
    const first = await world.start();
    await world.until(() => world.leader === first);
    await world.start();
    await running();
    await world.run(5000);
    const writes = () =>
      world.api.requests.filter(({ method, path }) => method !== "GET" && path.includes("/leverendpointtables")).length;
    const before = writes();
    await world.stop(first);
    await world.run(10_000);
    expect(world.leader).toBeDefined();
    expect(writes()).toBe(before);
  });

  test("that says something else of the instances, by a late write of the last leader, is put right", async () => {
    await world.start();
    await running();
    await world.run(3000);
    const found = world.api.object(leverEndpointTables, "shop", "hello") as KubeObject;
    world.api.put(leverEndpointTables, { ...found, instances: [], servingInstances: 0 } as KubeObject);
    await world.run(3000);
    expect(world.api.object(leverEndpointTables, "shop", "hello")).toMatchObject({
      servingInstances: 2,
      instances: names.map((id) => ({ id, state: "Serving" })),
    });
  });
});

describe("an operator", () => {
  test("that lists everything anew, since its watches are too old, has the same tables and writes nothing", async () => {
    await world.start();
    const [agent] = await running();
    await world.run(5000);
    const before = agent?.table?.instances;
    const writes = () =>
      world.api.requests.filter(({ method, path }) => method !== "GET" && !path.includes("/leases")).length;
    const written = writes();
    world.api.compact();
    world.api.expireWatches();
    await world.run(30_000);
    expect(agent?.table?.instances).toEqual(before);
    expect(writes()).toBe(written);
    world.api.remove(pods, "shop", "hello-1-bbbbb");
    await world.run(100);
    expect(agent?.table?.instances.map(({ id }) => id)).toEqual(["hello-1-aaaaa"]);
  });

  test("that is started again goes by its table until agents come, rolls nobody out, and does not say less meanwhile", async () => {
    const first = await world.start();
    const [agent, other] = await running();
    await world.run(5000);
    const before = JSON.stringify(world.deployment("hello")?.spec);
    await world.stop(first);
    other?.discovery.close();
    const changes: string[] = [];
    agent?.discovery.subscribe("shop", "hello", ({ instances }) => {
      changes.push(instances.map(({ state }) => state).join(" "));
    });
    await world.start();
    await world.run(20_000);
    expect(new Set(changes)).toEqual(new Set(["Serving Serving"]));
    expect(world.conditions("hello")["Ready"]).toBe("True/Ready");
    expect(JSON.stringify(world.deployment("hello")?.spec)).toBe(before);
    // Whoever did not come back is not heard of.
    await world.run(20_000);
    expect(agent?.table?.instances.map(({ state }) => state)).toEqual(["Serving", "Unreachable"]);
  });

  test("that is stopped gives its lease up, and another one leads at once", async () => {
    const first = await world.start();
    await world.until(() => world.leader === first);
    const second = await world.start();
    await world.run(3000);
    const stopped = world.stop(first);
    const at = world.clock.now();
    await world.until(() => world.leader === second);
    expect(world.clock.now() - at).toBeLessThan(1500);
    await stopped;
  });

  test("that is stopped while it writes gives its lease up when that has arrived, not before", async () => {
    const first = await world.start();
    await world.until(() => world.leader === first);
    const second = await world.start();
    await world.run(3000);
    const isWrite = ({ method, path }: { method: string; path: string }) =>
      method === "PATCH" && path.includes("/deployments/");
    let writes = 0;
    world.api.fault = (request) => (isWrite(request) && writes++ === 0 ? { delayMs: 2000 } : undefined);
    world.apply("hello", two);
    await world.until(() => writes > 0);
    const stopped = world.stop(first);
    await world.run(1900);
    expect([world.leader, world.deployment("hello")]).toEqual([undefined, undefined]);
    await world.until(() => world.leader === second, 1000);
    expect(world.deployment("hello")).toBeDefined();
    await stopped;
  });
});

describe("two replicas", () => {
  const slots = `ownership: { slots: 8 }\n${two}`;

  const holders = (agent: FakeAgent | undefined) =>
    (agent?.table?.slots ?? []).map(({ holder, epoch }) => `${holder} ${epoch}`);

  async function pair() {
    const first = await world.start();
    await world.until(() => world.leader === first);
    const second = await world.start();
    return { first, second };
  }

  /** Each replica has the same of the service, but for its versions. */
  const tablesAgree = () => {
    const [one, ...others] = world.living.map(({ operator }) => {
      const { version: _, ...table } = operator.tables.table("shop", "hello");
      return JSON.stringify({ ...table, instances: table.instances.toSorted((a, b) => (a.id < b.id ? -1 : 1)) });
    });
    return others.every((other) => other === one);
  };

  test("tell their agents the same, whichever an agent is connected to", async () => {
    await pair();
    const podNames = Array.from({ length: 8 }, (_, index) => `hello-1-aaaa${index}`);
    const agents = await running(slots.replace("2", "8"), podNames, true);
    await world.run(5000);
    expect(world.living.map(({ operator }) => operator.server.connectionCount).every((count) => count > 0)).toBe(true);
    expect(tablesAgree()).toBe(true);
    for (const agent of agents) {
      expect(agent.table?.instances.filter(({ state }) => state === "Serving")).toHaveLength(8);
      expect(holders(agent)).toEqual(holders(agents[0]));
      expect(agent.held.size).toBe(1);
    }
    agents[3]?.discovery.draining();
    await world.run(500);
    for (const agent of agents)
      expect(agent.table?.instances.filter(({ state }) => state === "Draining")).toHaveLength(1);
    expect(tablesAgree()).toBe(true);
  });

  const endings = [
    ["is killed", "kill"],
    ["loses its power", "powerOff"],
  ] as const;
  const seeds = [1, 2, 3, 4];
  test.each(endings.flatMap(([what, end]) => seeds.map((seed) => [what, seed, end] as const)))(
    "whose leader %s (seed %i): another one leads, nothing moves, no lease lapses",
    async (_, seed, end) => {
      world = new OperatorWorld(seed);
      const { first } = await pair();
      const agents = await running(slots, names, true);
      await world.until(() => agents.every(({ held }) => held.size === 4));
      await world.run(3000);
      const before = holders(agents[0]);
      first[end]();
      await world.until(() => world.leader !== undefined);
      await world.run(60_000);
      expect(agents.map(({ lapses }) => lapses)).toEqual([0, 0]);
      // A leader's lease and a bit, and a renewal's interval before it: they waited where the next leader was elected.
      expect(Math.max(...agents.map(({ oldestLeaseMs }) => oldestLeaseMs))).toBeLessThan(7100);
      for (const agent of agents) expect(holders(agent)).toEqual(before);
      for (const agent of agents)
        expect(agent.table?.instances.map(({ state }) => state)).toEqual(["Serving", "Serving"]);
      expect(world.conditions("hello")["Ready"]).toBe("True/Ready");
    },
  );

  test("send holders to who leads", async () => {
    const { first, second } = await pair();
    await running(slots, names, true);
    await world.until(() => first.operator.leadership.holderCount === 2);
    expect(second.operator.leadership.holderCount).toBe(0);
    const stopped = world.stop(first);
    await world.until(() => second.operator.leadership.holderCount === 2, 5000);
    await stopped;
  });

  test("keep the slots of an instance whose processes have ended for nobody: they move at the proof", async () => {
    await pair();
    const agents = await running(slots, names, true);
    await world.until(() => agents.every(({ held }) => held.size === 4));
    const [gone, stays] = agents as [FakeAgent, FakeAgent];
    gone.kill();
    const end = { terminated: { exitCode: 137, finishedAt: new Date(Date.now()).toISOString() } };
    const found = world.api.object(pods, "shop", gone.instance) as unknown as Pod;
    const over = (name: string) => ({ name, ready: false, restartCount: 0, state: end });
    await world.run(2000);
    expect(stays.held.size).toBe(4);
    world.put({
      ...found,
      status: { ...found.status, initContainerStatuses: [over("lever-agent")], containerStatuses: [over("app")] },
    });
    await world.until(() => stays.held.size === 8, 1000);
    await world.run(6000);
    expect(world.events).toContain("Normal ResourceMoved");
  });

  test("never have one replica announce a longer lease than the leader reckons with", async () => {
    await pair();
    const agents = await running(slots, names, true);
    await world.until(() => agents.every(({ held }) => held.size === 4));
    // Its writes do not get there.
    world.api.fault = ({ method, path }) =>
      method === "PUT" && path.includes("/leverendpointtables/") ? { status: 500 } : undefined;
    world.apply("hello", slots.replace("{ slots: 8 }", "{ slots: 8, leaseSeconds: 60 }"));
    await world.run(20_000);
    for (const { operator } of world.living) {
      expect(operator.tables.table("shop", "hello").policy.ownership?.leaseMs).toBe(15_000);
    }
    world.api.fault = () => undefined;
    await world.run(20_000);
    for (const { operator } of world.living) {
      expect(operator.tables.table("shop", "hello").policy.ownership?.leaseMs).toBe(60_000);
    }
  });

  test("forget what was deleted: a replica that does not lead listens at the leader to services that are there", async () => {
    const { first, second } = await pair();
    expect(world.leader).toBe(first);
    for (let round = 0; round < 5; round++) {
      const name = `hello-${round % 2}`;
      world.apply(name, slots);
      await world.until(() => second.operator.tables.table("shop", name).exists);
      world.api.remove(leverServices, "shop", name);
      await world.until(() => !second.operator.tables.table("shop", name).exists);
    }
    await world.run(1000);
    expect(second.operator.rows.count).toBe(0);
  });

  test("do not listen to themselves, by whatever name", async () => {
    const replica = await world.start("operator-0", "node-7");
    const agents = await running();
    await world.run(5000);
    expect(replica.operator.replicaCount).toBe(0);
    expect(agents.map(({ discovery }) => discovery.isConnected)).toEqual([true, true]);
  });

  test("have one that begins say nothing before it has heard what the other knows", async () => {
    await world.start();
    const [agent] = await running();
    await world.run(5000);
    // The persisted table does not help.
    world.api.remove(leverEndpointTables, "shop", "hello");
    const second = await world.start();
    const { instances } = second.operator.tables.table("shop", "hello");
    expect(instances.map(({ state }) => state)).toEqual(["Serving", "Serving"]);
    expect(agent?.table?.instances).toHaveLength(2);
  });
});

describe("people", () => {
  test("are told the same by every replica; of the moves of slots the leader alone knows, and it is named", async () => {
    const first = await world.start();
    const second = await world.start();
    await world.until(() => first.operator.election.isLeader);
    await running(`ownership: { slots: 4 }\n${two}`, names, true);
    await world.run(3000);
    const [ofFirst, ofSecond] = await Promise.all(
      [first, second].map(async (replica) => ({
        services: await world.ask(replica, "listServices"),
        endpoints: await world.ask(replica, "listEndpoints", "shop", "hello"),
        resources: await world.ask(replica, "listResources"),
      })),
    );
    expect(ofFirst?.services).toMatchObject({
      operator: { replica: "operator-0", leader: "operator-0", otherReplicas: 1 },
      services: [{ environment: "shop", service: "hello", isReady: true, slots: { slots: 4, held: 4 } }],
    });
    expect(ofSecond?.services).toMatchObject({ operator: { replica: "operator-1", leader: "operator-0" } });
    expect(ofFirst?.endpoints).toMatchObject([
      {
        endpoints: names.map((instance) => ({ instance, state: "Serving", podUid: expect.any(String), problem: null })),
      },
    ]);
    expect(ofSecond?.resources).toEqual(ofFirst?.resources);

    expect(await world.ask(first, "explain", "shop", "hello", "room-7")).toMatchObject({
      holder: expect.stringMatching(/^hello-1/),
      why: "nobody had held it",
      leaseLeftMs: expect.any(Number),
      agentsNotAsked: 2,
    });
    await expect(world.ask(second, "explain", "shop", "hello", "room-7")).rejects.toMatchObject({
      reason: "NOT_LEADER",
      effect: "none",
      details: { leader: "operator-0" },
    });
    for (const change of ["evict", "scale"]) {
      await expect(world.ask(first, change, "shop", "hello", 1)).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND" });
    }
  });

  test("learn why an instance does not serve", async () => {
    const replica = await world.start();
    world.apply("hello", two);
    await world.until(() => world.deployment("hello") !== undefined);
    world.rollOut("hello", names);
    const [name] = names as [string];
    const { metadata } = world.api.object<KubeObject>(pods, "shop", name) as KubeObject;
    const terminated = { exitCode: 3, reason: "Error" };
    const app = {
      name: "app",
      ready: false,
      restartCount: 4,
      state: { waiting: { reason: "CrashLoopBackOff" } },
      lastState: { terminated },
    };
    world.put(pod({ name, meta: metadata, app, ready: false }));
    await world.run(1000);
    expect(await world.ask(replica, "listEndpoints")).toMatchObject([
      {
        endpoints: [
          { instance: name, state: "Starting", restarts: 4, problem: expect.stringContaining("with exit code 3") },
          { instance: names[1], state: "Starting" },
        ],
      },
    ]);
  });

  test("cannot be agents there", async () => {
    const replica = await world.start();
    await expect(world.askChannel(replica, "discoveryChan")).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND" });
    await expect(world.askChannel(replica, "ownershipChan")).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND" });
  });
});
