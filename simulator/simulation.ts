/**
 * One world from one seed: made, run with its faults, healed, and judged. What a seed stands for is decided here alone,
 * so that it can be replayed.
 */

import { defaultServicePolicy, type ServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { type Caller, callOnce, type Load, startCalling } from "./app/callers.ts";
import { FencedStore } from "./app/fenced-store.ts";
import { marksIn } from "./app/mark.ts";
import { RoomMethods } from "./app/room.ts";
import { Checker, type Violation } from "./check/checker.ts";
import { type FaultPlan, Faults } from "./fault/faults.ts";
import type { AppNode } from "./node/app-node.ts";
import { Cluster } from "./node/cluster.ts";
import { Network } from "./world/network.ts";
import { World } from "./world/world.ts";

export interface SimulationOptions {
  readonly seed: number;
  /** Virtual; some half a minute more is spent to see that all is well again. */
  readonly minutes: number;
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

const planned = { drain: 3, "scale up": 2, "scale down": 2 } as const;

const weathers: readonly (readonly [weight: number, Weather])[] = [
  [
    6,
    {
      name: "storm",
      onlyPlanned: false,
      plan: {
        weights: {
          ...planned,
          evict: 1,
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
          "store unwell": 3,
          "store slow": 1,
        },
        pauseMs: 4000,
        durationMsMax: 40_000,
        instancesMin: 2,
        instancesMax: 5,
      },
      load: {},
    },
  ],
  [
    2,
    {
      name: "planned",
      onlyPlanned: true,
      plan: {
        weights: { drain: 4, "scale up": 2, "scale down": 2, evict: 2 },
        pauseMs: 5000,
        durationMsMax: 1000,
        instancesMin: 2,
        instancesMax: 5,
      },
      load: { stubbornRate: 0, timeoutMsMin: 15_000, methodMsMax: 300, nestedRate: 0.3, channelMsMax: 3000 },
    },
  ],
];

const load: Load = {
  rooms: Array.from({ length: 8 }, (_, index) => `room-${index}`),
  callers: 4,
  talkers: 2,
  pauseMs: 500,
  methodMsMax: 1500,
  timeoutMsMin: 1000,
  timeoutMsMax: 20_000,
  stubbornRate: 0.08,
  stubbornMsMax: 30_000,
  nestedRate: 0.15,
  tokenRate: 0.2,
  channelMsMax: 20_000,
  resumes: false,
};

const service = "rooms";
/** After everything is healed: within this a call has to succeed, and every end to be known. */
const recoveryMs = 25_000;

export async function simulateSeed({ seed, minutes, onLine }: SimulationOptions): Promise<SimulationReport> {
  const world = new World(seed, onLine);
  const { random } = world;
  const weather = random.weighted(weathers);
  const checker = new Checker({ onlyPlanned: weather.onlyPlanned, tokensHaveTimes: true });
  world.onUncaught = (error, process) => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    checker.violations.push({ promise: "no crash", atMs: world.now(), text: `${process?.name}: ${text}` });
  };
  const network = new Network(world);
  network.onWrite = (from, chunks) => {
    for (const chunk of chunks)
      for (const run of marksIn(chunk)) checker.wentOut(run, from.machine.name, world.seenNow());
  };
  const policy: ServicePolicy = defaultServicePolicy;
  const store = new FencedStore(world, checker);
  let runs = 0;
  const serve = (app: AppNode) => {
    const { process } = app;
    app.serve(new RoomMethods({ app: process.name, process, observer: checker, store, nextRun: () => ++runs }));
  };
  const cluster = new Cluster(network, [{ name: service, policy, serve }], checker);
  for (let i = 0; i < 3; i++) cluster.addInstance(service);
  const faults = new Faults(cluster, weather.plan);
  const endsAtMs = minutes * 60_000;
  const isOver = () => world.now() >= endsAtMs;
  const { app } = cluster.addCaller("caller");
  const caller: Caller = {
    world,
    process: app.process,
    client: app.client,
    observer: checker,
    load: { ...load, ...weather.load },
    isOver,
  };
  startCalling(caller);
  world.after(3000, () => faults.begin());
  const isViolated = () => checker.violations.length > 0;
  await world.run(endsAtMs, isViolated);
  if (!isViolated()) {
    faults.end();
    for (const room of caller.load.rooms) {
      app.process.run(() => {
        void callOnce(caller, room, "add", { call: `last/${room}`, ms: 0 }, { timeoutMs: recoveryMs }).then((answer) =>
          checker.expectSuccess(answer, `a call to ${room}`),
        );
      });
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
