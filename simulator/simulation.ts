/**
 * One world from one seed: made, run with its faults, healed, and judged. What a seed stands for is decided here alone,
 * so that it can be replayed.
 */

import { defaultServicePolicy, type ServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { leaseMsDefault } from "@leveros/protocol/control/lease.ts";
import { type Caller, callOnce, type Load, startCalling } from "./app/callers.ts";
import { FencedStore } from "./app/fenced-store.ts";
import { marksIn } from "./app/mark.ts";
import { plainMethods, roomsOf, sleep } from "./app/room.ts";
import { Checker, type Violation } from "./check/checker.ts";
import { traced } from "./check/traced-observer.ts";
import { type FaultPlan, Faults, type FaultWeights } from "./fault/faults.ts";
import type { AppNode } from "./node/app-node.ts";
import { Cluster } from "./node/cluster.ts";
import { Network } from "./world/network.ts";
import { World } from "./world/world.ts";

export interface SimulationOptions {
  readonly seed: number;
  /** Virtual; some half a minute more is spent to see that all is well again. */
  readonly minutes: number;
  /** A name of `weatherNames`; undefined: as the seed has it. */
  readonly weather?: string | undefined;
  readonly onLine?: (line: string) => void;
}

export interface SimulationReport {
  readonly seed: number;
  readonly hash: string;
  readonly weather: string;
  readonly virtualMs: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly counts: Readonly<Record<string, number>>;
  readonly violations: readonly Violation[];
}

/** How bad a world is. */
interface Weather {
  readonly name: string;
  readonly onlyPlanned: boolean;
  readonly plan: FaultPlan;
  readonly load: Partial<Load>;
}

const planned = { drain: 4, "scale up": 2, "scale down": 2, evict: 2 } as const;
const plannedLoad: Partial<Load> = {
  stubbornRate: 0,
  timeoutMsMin: 12_000,
  timeoutMsMax: 20_000,
  methodMsMax: 300,
  nestedRate: 0.3,
  channelMsMax: 3000,
};
const instances = { instancesMin: 2, instancesMax: 5 } as const;

const storm: FaultWeights = {
  ...planned,
  "app crash": 4,
  "app stopped": 3,
  "app stopped within": 3,
  "agent crash": 3,
  "agent stopped": 3,
  "agent stopped within": 4,
  "operator crash": 3,
  "operator stopped": 2,
  "operator stopped within": 2,
  "caller's agent crash": 1,
  "machine suspended": 3,
  "machine without power": 2,
  "wall clock set": 2,
  "app socket cut": 3,
  "link cut": 3,
  "link refuses": 2,
  "link slow": 4,
  "silent one way": 4,
  "silent both ways": 3,
  "machine cut off": 3,
  "cut off from operator": 4,
  "late, then cut off from operator": 3,
  "cluster split": 4,
  "instance frozen": 3,
  "stopped at the end of a lease": 3,
  "store unwell and operator crashes": 4,
  "store unwell": 3,
  "store slow": 1,
};

const weathers: readonly (readonly [weight: number, Weather])[] = [
  [
    50,
    {
      name: "storm",
      onlyPlanned: false,
      plan: { ...instances, weights: storm, pauseMs: 4000, durationMsMax: 40_000 },
      load: {},
    },
  ],
  [
    20,
    {
      // Few things at a time, each for so long that a lease ends by it, and methods that do not care.
      name: "leases end",
      onlyPlanned: false,
      plan: {
        ...instances,
        weights: {
          "cut off from operator": 3,
          "late, then cut off from operator": 8,
          "cluster split": 8,
          "instance frozen": 5,
          "stopped at the end of a lease": 6,
          "machine cut off": 2,
          "link slow": 5,
          "silent one way": 2,
          "agent stopped": 2,
          "agent stopped within": 3,
          "app stopped": 2,
          "machine suspended": 2,
          "operator crash": 1,
        },
        pauseMs: 8000,
        durationMsMax: 30_000,
        isLong: true,
      },
      load: {
        stubbornRate: 0.6,
        nestedRate: 0.3,
        callers: 8,
        talkers: 5,
        timeoutMsMin: 10_000,
        timeoutMsMax: 24_000,
        channelMsMax: 18_000,
      },
    },
  ],
  [
    10,
    {
      // Leases end one after the other, and methods use them to their last moment.
      name: "to the last moment",
      onlyPlanned: false,
      plan: {
        ...instances,
        weights: {
          "late, then cut off from operator": 5,
          "stopped at the end of a lease": 5,
          "cut off from operator": 2,
        },
        pauseMs: 6000,
        durationMsMax: 22_000,
        isLong: true,
      },
      load: {
        rooms: ["room-0", "room-1", "room-2", "room-3"],
        talkers: 6,
        pauseMs: 150,
        stubbornRate: 0.4,
        stubbornChannelMsMin: 12_000,
        everyMsMax: 60,
        timeoutMsMin: 4000,
        timeoutMsMax: 20_000,
        channelMsMax: 18_000,
      },
    },
  ],
  [
    8,
    {
      // What one leader has written, or has not, is what the next one goes by.
      name: "leaders and their store",
      onlyPlanned: false,
      plan: {
        ...instances,
        weights: {
          ...planned,
          "store unwell and operator crashes": 8,
          "store unwell": 3,
          "operator crash": 3,
          "cut off from operator": 6,
          "app crash": 2,
          "leader and its writes lost": 10,
          "app crash and its leader's": 6,
          "app crash with its words under way": 4,
        },
        pauseMs: 2000,
        durationMsMax: 20_000,
      },
      load: { pauseMs: 300, stubbornRate: 0.3, talkers: 3 },
    },
  ],
  [
    5,
    {
      name: "services made anew",
      onlyPlanned: false,
      plan: {
        ...instances,
        weights: { "service made anew": 2, "app crash": 1, "scale up": 1, drain: 1 },
        pauseMs: 8000,
        durationMsMax: 5000,
      },
      load: {},
    },
  ],
  [
    15,
    {
      name: "planned",
      onlyPlanned: true,
      plan: { ...instances, weights: planned, pauseMs: 5000, durationMsMax: 1000 },
      load: plannedLoad,
    },
  ],
  [
    5,
    {
      // A leader that is gone for a moment costs nobody anything.
      name: "leaders come and go",
      onlyPlanned: true,
      plan: { ...instances, weights: { "operator restart": 1 }, pauseMs: 6000, durationMsMax: 1000 },
      load: plannedLoad,
    },
  ],
  [
    10,
    {
      // An app that hangs loses its resources, and nobody else does.
      name: "apps hang",
      onlyPlanned: false,
      plan: { ...instances, weights: { "app hangs": 1 }, pauseMs: 9000, durationMsMax: 45_000 },
      load: {
        isSteady: true,
        callers: 8,
        stubbornRate: 0,
        timeoutMsMin: 2000,
        timeoutMsMax: 3000,
        methodMsMax: 200,
        nestedRate: 0,
      },
    },
  ],
];

const load: Load = {
  rooms: Array.from({ length: 8 }, (_, index) => `room-${index}`),
  callers: 4,
  talkers: 2,
  pauseMs: 600,
  methodMsMax: 1500,
  timeoutMsMin: 1000,
  timeoutMsMax: 8000,
  stubbornRate: 0.08,
  // Within the time that all has to be well again: nobody else gets the room of one that does not stop.
  stubbornMsMax: 18_000,
  nestedRate: 0.15,
  tokenRate: 0.2,
  channelMsMax: 20_000,
  stubbornChannelMsMin: 0,
  everyMsMax: 400,
  followers: 1,
  isSteady: false,
};

const service = "rooms";
/** The longest lease as seen from outside, and a call that began before its end. */
const unservedMsMax = 16_500 + 3000 + 2500;
/** Until there are instances, and holders. */
const warmUpMs = 2000;

/** Whoever is told that nothing was done tries again. */
async function callUntilItWorks(caller: Caller, room: string): Promise<void> {
  const { process, observer } = caller;
  const untilMs = process.seenNow() + recoveryMs;
  for (let attempt = 1; ; attempt++) {
    const call = `${caller.name}last/${room}.${attempt}`;
    const timeoutMs = Math.max(Math.ceil(untilMs - process.seenNow()), 1);
    const { error } = await callOnce(caller, room, "add", { call, ms: 0 }, { timeoutMs });
    if (error === undefined) return;
    if (process.seenNow() < untilMs - 1000) {
      await sleep(process, 200);
      continue;
    }
    return observer.failedWhenWell(`a call to ${room}`, error, process.seenNow());
  }
}

/** After everything is healed: within this a call has to succeed, and every end to be known. */
const recoveryMs = 25_000;

export const weatherNames: readonly string[] = weathers.map(([, { name }]) => name);

export async function simulateSeed({
  seed,
  minutes,
  weather: wanted,
  onLine,
}: SimulationOptions): Promise<SimulationReport> {
  const world = new World(seed, onLine);
  const { random } = world;
  const ofSeed = random.weighted(weathers);
  const weather = wanted === undefined ? ofSeed : weathers.find(([, { name }]) => name === wanted)?.[1];
  if (weather === undefined) {
    throw new RangeError(`the weather is ${wanted}, expected one of: ${weatherNames.join(", ")}`);
  }
  const checker = new Checker({
    onlyPlanned: weather.onlyPlanned,
    unservedMsMax: weather.load.isSteady === true ? unservedMsMax : Number.POSITIVE_INFINITY,
  });
  world.onUncaught = (error, process) => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    checker.violations.push({ promise: "no crash", atMs: world.now(), text: `${process?.name}: ${text}` });
  };
  const observer = traced(world, checker);
  const network = new Network(world);
  network.onWrite = (from, chunks) => {
    for (const chunk of chunks)
      for (const run of marksIn(chunk)) observer.wentOut(run, from.machine.name, world.seenNow());
  };
  const policy: ServicePolicy = {
    ...defaultServicePolicy,
    methods: [
      { name: "*", timeoutMs: 30_000, idempotent: false },
      { name: "look", timeoutMs: 30_000, idempotent: true },
    ],
    ownership: {
      slots: random.pick([2, 4, 8]),
      onUncertain: random.chance(0.85) ? "Wait" : "Fail",
      onLapse: "Abort",
      leaseMs: leaseMsDefault,
      idleMs: random.chance(0.5) ? 180_000 : random.integer(1000, 5000),
    },
  };
  const store = new FencedStore(world, observer);
  let numbers = 0;
  const serve = (app: AppNode) => {
    const { process } = app;
    const around = { app: process.name, process, observer, store, nextNumber: () => ++numbers };
    app.serve(plainMethods(around), roomsOf(around));
  };
  const provesByTime = seed % 2 === 0;
  const cluster = new Cluster(network, [{ name: service, policy, serve }], observer, { provesByTime });
  for (let i = 0; i < 3; i++) cluster.addInstance(service);
  const faults = new Faults(cluster, weather.plan);
  const endsAtMs = minutes * 60_000;
  const isOver = () => world.now() >= endsAtMs;
  const loadOfAll = { ...load, ...weather.load };
  const callers = [1, 2].map((number): Caller => {
    const { app } = cluster.addCaller(`caller-${number}`);
    return { name: `${number}-`, world, process: app.process, client: app.client, observer, load: loadOfAll, isOver };
  });
  world.after(warmUpMs, () => {
    for (const caller of callers) startCalling(caller);
    faults.begin();
  });
  const isViolated = () => checker.violations.length > 0;
  await world.run(endsAtMs, isViolated);
  if (!isViolated()) {
    faults.end();
    for (const caller of callers) {
      for (const room of loadOfAll.rooms) caller.process.run(() => void callUntilItWorks(caller, room));
    }
    await world.run(endsAtMs + recoveryMs + 3000, isViolated);
  }
  if (!isViolated()) checker.finish(world.now());
  for (const { promise, text } of checker.violations) world.note(`VIOLATION of ${promise}: ${text}`);
  return {
    seed,
    hash: world.trace.hash,
    weather: weather.name,
    virtualMs: world.now(),
    faults: faults.counts as Record<string, number>,
    counts: checker.counts,
    violations: checker.violations,
  };
}
