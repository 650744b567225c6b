import { describe, expect, test } from "vitest";
import { seeded } from "../../core/seeded-random.fixture.ts";
import type { InstanceKey, SourceInstance } from "../../core/service-registry.ts";
import { EndpointSource, isFoundNotReady } from "./endpoint-source.ts";
import type { Pod } from "./kubernetes-object.ts";
import { at, type PodShape, pod, running, startedAt } from "./objects.fixture.ts";

function make(served: readonly string[] = []) {
  const calls: unknown[] = [];
  const instances = new Map<string, SourceInstance>();
  const source = new EndpointSource({
    environment: "shop",
    service: "hello",
    sink: {
      upsertInstance: (instance) => {
        instances.set(instance.instance, instance);
        calls.push(["upsert", instance.instance]);
      },
      removeInstance: ({ instance }: InstanceKey) => {
        instances.delete(instance);
        calls.push(["remove", instance]);
      },
      processEnded: ({ instance }, process, endedBefore) =>
        calls.push(["ended", instance, process, endedBefore - startedAt]),
    },
    zoneOf: (node) => (node === "node-1" ? "z1" : undefined),
    wasServing: (instance, uid) => served.includes(`${instance}/${uid}`),
  });
  return { source, calls, instances };
}

const name = "hello-1-aaaaa";
const appEnded = { name: "app", ready: false, state: { terminated: { exitCode: 1, finishedAt: at(60_000) } } };
const agentEnded = { ...appEnded, name: "lever-agent" };
const overShape: PodShape = { app: appEnded, agent: agentEnded, status: { phase: "Failed" } };

describe("an instance", () => {
  const only = (shape: PodShape, served: readonly string[] = []) => {
    const { source, instances } = make(served);
    source.upsert(pod(shape));
    const [instance] = instances.values();
    return instance;
  };

  test("is a pod with an agent", () => {
    expect(only({})).toEqual({
      environment: "shop",
      service: "hello",
      instance: name,
      address: "10.244.1.7:3837",
      zone: "z1",
      isDraining: false,
      isNotReady: false,
      wasServing: false,
    });
    expect(only({ spec: { initContainers: [{ name: "setup" }] } })).toBe(undefined);
    expect(only({ spec: { initContainers: [] } })).toBe(undefined);
  });

  test("has no address before its pod has one, and brackets around one of IPv6", () => {
    expect(only({ status: { podIP: "" } })).not.toHaveProperty("address");
    expect(only({ status: { podIP: "fd00::7" } })?.address).toBe("[fd00::7]:3837");
  });

  test("has no zone where its node has none, or the pod no node yet", () => {
    expect(only({ spec: { nodeName: "node-2" } })).not.toHaveProperty("zone");
  });

  test("drains from the moment at which its pod is to be deleted", () => {
    expect(only({ meta: { deletionTimestamp: at(0) } })).toMatchObject({ isDraining: true });
  });

  test("is none any more when its pod has finished", () => {
    for (const phase of ["Failed", "Succeeded"]) expect(only({ status: { phase } })).toBe(undefined);
  });

  test.each<[string, PodShape, boolean]>([
    ["Ready", {}, false],
    [
      "not Ready since before its containers were started: the kubelet has not looked yet",
      { ready: false, readyMs: 0 },
      false,
    ],
    ["not Ready since the second in which the app was started", { ready: false, readyMs: 1000 }, false],
    ["not Ready since later", { ready: false, readyMs: 5000 }, true],
    [
      "not Ready since later, as its node is silent: that says nothing of its containers",
      { status: { conditions: [{ type: "Ready", status: "False", lastTransitionTime: at(5000) }] } },
      false,
    ],
    [
      "not Ready since its app ended, which was started again",
      { ready: false, readyMs: 5000, app: running("app", 6000) },
      false,
    ],
    [
      "not Ready since its agent ended, which was started again",
      { ready: false, readyMs: 5000, agent: running("lever-agent", 5000) },
      false,
    ],
    [
      "not Ready since its agent ended",
      {
        ready: false,
        readyMs: 5000,
        agent: { name: "lever-agent", state: { terminated: { startedAt: at(0), finishedAt: at(5000) } } },
      },
      true,
    ],
    [
      "not Ready since its agent ended, which waits to be started again",
      {
        ready: false,
        readyMs: 5000,
        agent: {
          name: "lever-agent",
          state: { waiting: { reason: "CrashLoopBackOff" } },
          lastState: { terminated: { startedAt: at(0), finishedAt: at(5000) } },
        },
      },
      true,
    ],
    ["not Ready, without a time", { status: { conditions: [{ type: "Ready", status: "False" }] } }, false],
    ["without conditions", { status: { conditions: [] } }, false],
    ["not Ready, its app not started yet", { ready: false, app: { name: "app", state: { waiting: {} } } }, false],
  ])("that is %s: out of the table? %s", (_, shape, expected) => {
    expect(isFoundNotReady(pod(shape))).toBe(expected);
    expect(only(shape)?.isNotReady).toBe(expected);
  });

  test("that served when the operator last ran is believed if it is the same pod, Ready, and not about to end", () => {
    const served = [`${name}/uid-${name}`];
    expect(only({}, served)?.wasServing).toBe(true);
    expect(only({ meta: { uid: "another" } }, served)?.wasServing).toBe(false);
    expect(only({ ready: false }, served)?.wasServing).toBe(false);
    expect(only({ meta: { uid: `uid-${name}`, deletionTimestamp: at(0) } }, served)?.wasServing).toBe(false);
  });
});

describe("what is told", () => {
  test("is what has changed, and no more", () => {
    const { source, calls } = make();
    source.upsert(pod());
    source.upsert(pod());
    expect(calls).toEqual([["upsert", name]]);
    source.upsert(pod({ ready: false, readyMs: 9000 }));
    source.upsert(pod({ status: { phase: "Failed" } }));
    source.upsert(pod({ status: { phase: "Failed" } }));
    source.remove(pod({ status: { phase: "Failed" } }));
    expect(calls.slice(1)).toEqual([
      ["upsert", name],
      ["remove", name],
    ]);
  });

  test("is all of it, where the service is declared anew", () => {
    const { source, calls } = make();
    source.upsert(pod());
    source.upsert(pod({ name: "hello-1-bbbbb", status: { phase: "Failed" } }));
    source.tellAgain();
    expect(calls).toEqual([
      ["upsert", name],
      ["upsert", name],
    ]);
  });

  test("of a list: which pods are gone", () => {
    const { source, instances, calls } = make();
    source.upsert(pod());
    source.upsert(pod({ name: "hello-1-bbbbb" }));
    source.replace([pod({ name: "hello-1-bbbbb" }), pod({ name: "hello-1-ccccc" })]);
    expect([...instances.keys()]).toEqual(["hello-1-bbbbb", "hello-1-ccccc"]);
    expect(calls.filter((call) => (call as string[])[0] === "ended")).toEqual([]);
  });

  test("another pod of the same name is another instance, and the end of the first is not its end", () => {
    const { source, calls } = make();
    source.upsert(pod());
    source.upsert(pod({ meta: { uid: "second" } }));
    source.remove(pod(overShape));
    expect(calls).toEqual([
      ["upsert", name],
      ["remove", name],
      ["upsert", name],
    ]);
  });
});

const allEnded = [
  ["ended", name, "app", Number.POSITIVE_INFINITY],
  ["ended", name, "agent", Number.POSITIVE_INFINITY],
];

describe("a process's end", () => {
  test("is told with the time before which all that began have ended, each time", () => {
    const { source, calls } = make();
    source.upsert(pod({ app: appEnded }));
    source.upsert(pod({ app: appEnded }));
    const told = ["ended", name, "app", 59_000];
    expect(calls).toEqual([["upsert", name], told, told]);
    const later: unknown[] = [];
    source.tellAll({
      upsertInstance: ({ instance }) => later.push(["upsert", instance]),
      removeInstance: () => {},
      processEnded: ({ instance }, process, endedBefore) =>
        later.push(["ended", instance, process, endedBefore - startedAt]),
    });
    expect(later).toEqual([["upsert", name], told]);
  });

  test("is certain of a pod that the kubelet has ended", () => {
    const { source, calls } = make();
    source.upsert(pod());
    source.upsert(pod(overShape));
    expect(calls.slice(1)).toEqual([["remove", name], ...allEnded]);
  });

  test("is told of what the last state of a deleted pod says, and of nothing else", () => {
    const gone = make();
    gone.source.upsert(pod());
    gone.source.remove(pod(overShape));
    expect(gone.calls.slice(1)).toEqual([["remove", name], ...allEnded]);
    const forced = make();
    forced.source.upsert(pod());
    forced.source.remove(pod({ meta: { deletionTimestamp: at(0) }, status: { phase: "Failed" } }));
    expect(forced.calls.slice(1)).toEqual([["remove", name]]);
    const unseen = make();
    unseen.source.remove(pod(overShape));
    expect(unseen.calls).toEqual([]);
  });
});

// ------------------------------------------------------------------ random sequences

interface Life {
  readonly startedMs: number;
  finishedMs: number | undefined;
}

/** A connection of the app with its agent, of which the leader hears some time. */
interface Link {
  readonly startedMs: number;
  readonly app: Life;
  readonly agent: Life;
}

interface Lies {
  /** All is said to have begun long ago. */
  readonly starts?: boolean;
  /** Who ended the pod is not said. */
  readonly collector?: boolean;
}

/** One pod on a node, its kubelet, an API server with its garbage collector, and an operator that hears of it all late. */
class PodWorld {
  readonly #random: () => number;
  readonly #lies: Lies;
  readonly #source: EndpointSource;
  #nowMs = 0;
  /** The node's clock is another than ours. */
  readonly #skewMs: number;
  readonly #lives: { app: Life[]; agent: Life[] } = { app: [], agent: [] };
  readonly #known: Link[] = [];
  /** On their way, in order. */
  #links: { link: Link; dueMs: number }[] = [];
  #states: { pod: Pod; isLast: boolean; dueMs: number }[] = [];
  /** What the API server has. */
  #stored: Pod;
  #isDeleted = false;
  #isEnding = false;
  #isKubeletCutOff = false;
  #isAtTheEnd = false;
  /** The kubelet's word is not the last one. */
  isTaken = false;
  readonly violations: string[] = [];
  readonly #endedBefore = { app: Number.NEGATIVE_INFINITY, agent: Number.NEGATIVE_INFINITY };
  readonly told = { app: 0, agent: 0 };

  constructor(seed: number, lies: Lies = {}) {
    this.#random = seeded(seed);
    this.#lies = lies;
    this.#skewMs = (this.#random() - 0.5) * 20_000;
    this.#stored = pod();
    this.#source = new EndpointSource({
      environment: "shop",
      service: "hello",
      sink: {
        upsertInstance: () => {},
        removeInstance: () => {},
        processEnded: (_, process, endedBefore) => {
          this.told[process]++;
          this.#endedBefore[process] = Math.max(this.#endedBefore[process], endedBefore);
          for (const link of this.#known) this.#judge(link, process);
        },
      },
      zoneOf: () => undefined,
      wasServing: () => false,
    });
    this.#start("agent");
    this.#start("app");
  }

  /** As the leader does. */
  #judge(link: Link, process: "app" | "agent"): void {
    const startedMs = process === "app" ? link.startedMs : link.agent.startedMs;
    const start = this.#lies.starts ? 0 : this.#nodeMs(startedMs);
    if (link[process].finishedMs !== undefined || start >= this.#endedBefore[process]) return;
    this.violations.push(`${this.#nowMs}: the ${process} of ${link[process].startedMs} lives`);
  }

  get isProven(): boolean {
    return this.told.app > 0 && this.told.agent > 0;
  }

  step(): void {
    const weighted: [number, () => void][] = [
      [6, () => this.#flip("app")],
      [3, () => this.#flip("agent")],
      [1, () => [this.#stop("agent"), this.#stop("app")]],
      [6, () => this.#link()],
      [12, () => this.#report()],
      [1, () => (this.#isKubeletCutOff = this.#random() < 0.5)],
      [0.3, () => this.#delete()],
      [0.3, () => this.#collect()],
      [0.3, () => this.#deleteByForce()],
    ];
    let choice = this.#random() * weighted.reduce((sum, [weight]) => sum + weight, 0);
    for (const [weight, act] of weighted) {
      choice -= weight;
      if (choice > 0) continue;
      act();
      break;
    }
    this.#nowMs += this.#random() < 0.7 ? this.#random() * 200 : this.#random() * 4000;
    this.#deliver();
  }

  /** The kubelet ends the pod, as it does with one that was deleted, and tells of it. */
  end(): void {
    this.#isKubeletCutOff = false;
    this.#isEnding = true;
    this.#isAtTheEnd = true;
    this.#stop("app");
    this.#nowMs += 1500;
    this.#stop("agent");
    this.#report();
    this.#nowMs += 60_000;
    this.#deliver();
  }

  #nodeMs(ms: number): number {
    return startedAt + ms + this.#skewMs;
  }

  #current(kind: "app" | "agent"): Life | undefined {
    const life = this.#lives[kind].at(-1);
    return life?.finishedMs === undefined ? life : undefined;
  }

  #start(kind: "app" | "agent"): void {
    if (this.#isEnding || this.#current(kind) !== undefined) return;
    this.#lives[kind].push({ startedMs: this.#nowMs, finishedMs: undefined });
  }

  #stop(kind: "app" | "agent"): void {
    const life = this.#current(kind);
    if (life !== undefined) life.finishedMs = this.#nowMs;
    if (life !== undefined && this.#random() < 0.8) this.#report();
  }

  #flip(kind: "app" | "agent"): void {
    if (this.#current(kind) === undefined) this.#start(kind);
    else if (this.#random() < 0.5) this.#stop(kind);
  }

  /** The app connects to its agent, and the leader will hear of it. */
  #link(): void {
    const [app, agent] = [this.#current("app"), this.#current("agent")];
    if (app === undefined || agent === undefined) return;
    const link = { startedMs: this.#nowMs, app, agent };
    this.#links.push({ link, dueMs: this.#nowMs + this.#random() ** 4 * 5000 });
  }

  #containerStatus(name: string, lives: readonly Life[]) {
    const told = lives.map((life) => ({
      startedAt: this.#time(life.startedMs),
      ...(life.finishedMs !== undefined && { finishedAt: this.#time(life.finishedMs), exitCode: 1 }),
      isOver: life.finishedMs !== undefined,
    }));
    const [last, before] = [told.at(-1), told.at(-2)];
    const isUnknown = !this.#isAtTheEnd && this.#random() < 0.03;
    return {
      name,
      restartCount: Math.max(0, told.length - 1),
      // At times the kubelet does not find the container, and says so whatever has become of it.
      state: isUnknown
        ? { terminated: { exitCode: 137, reason: "ContainerStatusUnknown", finishedAt: this.#time(this.#nowMs) } }
        : last === undefined
          ? { waiting: {} }
          : last.isOver
            ? { terminated: last }
            : { running: last },
      ...(before === undefined ? {} : { lastState: { terminated: before } }),
    };
  }

  #time(ms: number): string {
    return new Date(Math.floor(this.#nodeMs(ms) / 1000) * 1000).toISOString();
  }

  #report(): void {
    if (this.#isKubeletCutOff || this.#isDeleted) return;
    const isOver = this.#isEnding && !this.#current("app") && !this.#current("agent");
    const isFinal = ["Failed", "Succeeded"].includes(this.#stored.status?.phase ?? "");
    this.#store({
      ...this.#stored,
      status: {
        ...this.#stored.status,
        // A last phase stays.
        ...(isFinal ? {} : { phase: isOver ? "Failed" : "Running" }),
        containerStatuses: [this.#containerStatus("app", this.#lives.app)],
        initContainerStatuses: [this.#containerStatus("lever-agent", this.#lives.agent)],
      },
    });
  }

  #store(stored: Pod): void {
    this.#stored = stored;
    this.#states.push({ pod: stored, isLast: false, dueMs: this.#nowMs + this.#random() ** 4 * 8000 });
  }

  #delete(): void {
    if (this.#isDeleted) return;
    this.#store({ ...this.#stored, metadata: { ...this.#stored.metadata, deletionTimestamp: at(this.#nowMs) } });
    // The kubelet hears of it, or does not.
    if (!this.#isKubeletCutOff && this.#random() < 0.7) this.#isEnding = true;
  }

  /** The garbage collector: over the state that the API server has, whatever it is. */
  #collect(): void {
    if (this.#isDeleted) return;
    const conditions = [{ type: "DisruptionTarget", status: "True", reason: "DeletionByPodGC" }];
    this.isTaken = true;
    this.#store({
      ...this.#stored,
      status: { ...this.#stored.status, phase: "Failed", ...(this.#lies.collector ? {} : { conditions }) },
    });
    if (this.#random() < 0.5) this.#deleteByForce();
  }

  #deleteByForce(): void {
    if (this.#isDeleted) return;
    this.#isDeleted = true;
    this.isTaken = true;
    this.#states.push({ pod: this.#stored, isLast: true, dueMs: this.#nowMs + this.#random() ** 4 * 8000 });
  }

  #deliver(): void {
    while (this.#links[0] !== undefined && this.#links[0].dueMs <= this.#nowMs) {
      const { link } = this.#links.shift() as { link: Link };
      this.#known.push(link);
      for (const process of ["app", "agent"] as const) this.#judge(link, process);
    }
    while (this.#states[0] !== undefined && this.#states[0].dueMs <= this.#nowMs) {
      const { pod: state, isLast } = this.#states.shift() as { pod: Pod; isLast: boolean };
      if (isLast) this.#source.remove(state);
      // Some are seen together only: the next one says all.
      else if (this.#states.length === 0 || this.#random() < 0.8) this.#source.upsert(state);
      else if (this.#random() < 0.5) this.#source.replace([state]);
    }
  }
}

const seedsMax = Number(process.env["LEVER_SEEDS"] ?? 300);

function run(lies: Lies = {}) {
  const found = { violations: [] as string[], proofs: 0, unproven: 0 };
  for (let seed = 1; seed <= seedsMax; seed++) {
    const world = new PodWorld(seed, lies);
    for (let step = 0; step < 150; step++) world.step();
    world.end();
    found.violations.push(...world.violations.map((text) => `seed ${seed}: ${text}`));
    found.proofs += world.told.app + world.told.agent;
    if (!world.isTaken && !world.isProven) found.unproven++;
  }
  return found;
}

describe("whatever is seen, and however late", () => {
  test("an end that is told is the end of all that the leader knows of, and a pod's end is told", () => {
    const { violations, proofs, unproven } = run();
    expect(violations).toEqual([]);
    expect(proofs).toBeGreaterThan(seedsMax);
    expect(unproven).toBe(0);
  });

  test("it is found out where an earlier container's end is charged to the next life", () => {
    expect(run({ starts: true }).violations.length).toBeGreaterThan(10);
  });

  test("it is found out where the garbage collector is believed", () => {
    expect(run({ collector: true }).violations.length).toBeGreaterThan(0);
  });
});
