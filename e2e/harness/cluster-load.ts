/**
 * Steady load inside of the cluster while something happens to it: the `load` fixture in a pod of its own calls the
 * `target` fixture, 500 calls/s of all kinds and 200 channels. What it has seen is told once it has ended.
 *
 *     await deployTarget(namespace, { replicas: 3 });
 *     await using load = await ClusterLoad.start(namespace);
 *     const event = await load.during("the node's end", () => powerOff("n2"));
 *     const report = await load.stop();
 *     console.log(describeLoad("a node without power", report, event));
 *     expect(harm(report)).toEqual(noHarm);
 */

import { setTimeout as sleep } from "node:timers/promises";
import { onTestFinished } from "vitest";
import type { ChannelReport, LoadPlan, LoadProgress, LoadReport } from "../fixtures/load/plan.ts";
import { kubectl, kubectlJson } from "./kubectl.ts";
import { fixtureManifest, leverImage } from "./lever-images.ts";
import { allPodsOf, type ListedPod, waitReady } from "./service-pods.ts";
import { until } from "./until.ts";

/** How long the load runs before an event, and after it. */
export const aroundMs = Number(process.env["LEVER_AROUND_SECONDS"] ?? 6) * 1000;

/** What is measured is the same everywhere, unless a test says otherwise. */
const plan: LoadPlan = {
  target: "target",
  perSecond: 500,
  roomShare: 0.4,
  rooms: 100,
  slowEvery: 100,
  slowMs: 1000,
  talkers: 200,
  talkEveryMs: 500,
  timeoutMs: 5000,
  durationMsMax: 600_000,
};

export interface TargetOptions {
  readonly replicas?: number;
  readonly image?: string;
  /** Answered by every call: which revision of the template it is. */
  readonly revision?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Of the app's container. */
  readonly lifecycle?: unknown;
  readonly ownership?: Readonly<Record<string, unknown>>;
  readonly terminationGracePeriodSeconds?: number;
}

export function targetManifest(options: TargetOptions = {}): object {
  const { replicas = 3, image = leverImage("target"), revision = "1", env = {}, lifecycle, ownership = {} } = options;
  const container = {
    name: "app",
    image,
    env: Object.entries({ REVISION: revision, ...env }).map(([name, value]) => ({ name, value })),
    ...(lifecycle !== undefined && { lifecycle }),
  };
  const grace = options.terminationGracePeriodSeconds;
  const labelSelector = { matchLabels: { "leveros.dev/service": "target" } };
  const spec = {
    containers: [container],
    // One on each node, so that what befalls a node befalls one of them.
    topologySpreadConstraints: [
      { maxSkew: 1, topologyKey: "kubernetes.io/hostname", whenUnsatisfiable: "ScheduleAnyway", labelSelector },
    ],
    ...(grace && { terminationGracePeriodSeconds: grace }),
  };
  return {
    apiVersion: "leveros.dev/v1alpha1",
    kind: "LeverService",
    metadata: { name: "target" },
    spec: { replicas, ownership, template: { spec } },
  };
}

/** Applies the `target` service, or a change to it, and waits until it is Ready and its instances share the slots. */
export async function deployTarget(namespace: string, options: TargetOptions = {}): Promise<void> {
  const manifest = JSON.stringify(targetManifest(options));
  await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: manifest });
  await waitReady(namespace, "target");
  await spread(namespace, options.replicas ?? 3);
}

interface Table {
  readonly instances: readonly { readonly id: string; readonly state: string }[];
  readonly slots?: readonly { readonly first: number; readonly last: number; readonly holder: string }[];
}

/** How many slots each instance of the service holds, as the table says. */
export async function slotCounts(namespace: string, service = "target"): Promise<Map<string, number>> {
  const { slots = [] } = await kubectlJson<Table>(["get", `lept/${service}`, "--namespace", namespace]);
  const counts = new Map<string, number>();
  for (const { first, last, holder } of slots) counts.set(holder, (counts.get(holder) ?? 0) + last - first + 1);
  return counts;
}

/** Until `count` instances hold as many slots each, ± 1. */
export async function spread(namespace: string, count: number, timeoutMs = 30_000): Promise<void> {
  await until(
    `${count} instances hold their shares`,
    async () => {
      const counts = [...(await slotCounts(namespace)).values()];
      return counts.length === count && Math.max(...counts) - Math.min(...counts) <= 1;
    },
    timeoutMs,
  );
}

/** For a second load in one namespace, and for one that has to be on a certain node. */
export interface LoadPlace {
  /** Of the service; `load` unless set. */
  readonly name?: string;
  readonly node?: string;
}

function loadManifest(name: string, node: string | undefined): string {
  const text = fixtureManifest("load/load.yaml").replace("name: load\n", `name: ${name}\n`);
  if (node === undefined) return text;
  return text.replace("containers:\n", `nodeSelector: { kubernetes.io/hostname: ${node} }\n      containers:\n`);
}

/** Times are ms since 1970, as in the report. */
export interface LoadEvent {
  readonly what: string;
  readonly at: number;
  readonly endedAt: number;
}

export class ClusterLoad implements AsyncDisposable {
  readonly namespace: string;
  /** Where the load is: what befalls this node befalls the caller. */
  readonly node: string;
  readonly #service: string;
  readonly #pod: string;
  #report: Promise<LoadReport> | undefined;

  private constructor(namespace: string, service: string, pod: ListedPod) {
    this.namespace = namespace;
    this.#service = service;
    this.node = pod.spec.nodeName;
    this.#pod = pod.metadata.name;
  }

  /**
   * Resolves once calls succeed and all channels are open. The target is to be there. When the test has passed the
   * namespace goes: the machine is to be as idle for the next one.
   */
  static async start(namespace: string, change: Partial<LoadPlan> = {}, place: LoadPlace = {}): Promise<ClusterLoad> {
    onTestFinished(async ({ task }) => {
      if (task.result?.state !== "pass") return;
      await kubectl(["delete", "namespace", namespace, "--wait=false", "--ignore-not-found"]);
    });
    const { name = "load", node } = place;
    await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: loadManifest(name, node) });
    await waitReady(namespace, name);
    const [pod] = await allPodsOf(namespace, name);
    const load = new ClusterLoad(namespace, name, pod as ListedPod);
    const planned = { ...plan, ...change };
    await load.#call("start", [planned]);
    await until("all channels are open", async () => {
      const { talking, succeeded } = await load.progress();
      return succeeded > 0 && talking === planned.talkers;
    });
    return load;
  }

  progress(): Promise<LoadProgress> {
    return this.#call("progress", []);
  }

  async #call<Result>(method: string, args: readonly unknown[]): Promise<Result> {
    const command = ["node", "/app/call.js", `/${this.#service}/${method}`, JSON.stringify(args)];
    const exec = ["exec", "--namespace", this.namespace, this.#pod, "--container=app", "--", ...command];
    return JSON.parse(await kubectl(exec)) as Result;
  }

  /** `aroundMs` before it, the event itself until it resolves, and as long after it. */
  async during(what: string, event: () => Promise<unknown>, quietMs = aroundMs): Promise<LoadEvent> {
    await sleep(quietMs);
    const at = Date.now();
    await event();
    const endedAt = Date.now();
    await sleep(quietMs);
    return { what, at, endedAt };
  }

  stop(): Promise<LoadReport> {
    this.#report ??= this.#call<LoadReport>("stop", []);
    return this.#report;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What was going wrong is told by the test itself.
    await this.stop().catch(() => {});
  }
}

/** Everything that a planned event must not do. */
export interface Harm {
  /** Calls that were planned and not sent in time, messages that could not be sent: the load was not what it says. */
  readonly unsent: number;
  readonly unsentMessages: number;
  readonly failed: Readonly<Record<string, number>>;
  readonly lost: number;
  readonly doubled: number;
  readonly disordered: number;
  readonly notOpened: Readonly<Record<string, number>>;
  /** Ends of channels other than clean ones and moves. */
  readonly broken: Readonly<Record<string, number>>;
  /** Epochs that went back, rooms at two instances, numbers given twice. */
  readonly violations: readonly string[];
  readonly miscounted: readonly string[];
  readonly forgetfulRooms: number;
}

export const noHarm: Harm = {
  unsent: 0,
  unsentMessages: 0,
  failed: {},
  lost: 0,
  doubled: 0,
  disordered: 0,
  notOpened: {},
  broken: {},
  violations: [],
  miscounted: [],
  forgetfulRooms: 0,
};

export function harm({ calls, channels, rooms }: LoadReport): Harm {
  return {
    unsent: calls.planned - calls.sent,
    unsentMessages: channels.planned - channels.sent,
    failed: calls.failed,
    lost: channels.lostUp + channels.lostDown,
    doubled: channels.doubled,
    disordered: channels.disordered,
    notOpened: channels.notOpened,
    broken: brokenEnds(channels),
    violations: [...rooms.violations, ...channels.violations],
    miscounted: rooms.miscounted,
    forgetfulRooms: rooms.forgetful,
  };
}

function brokenEnds({ ends }: ChannelReport): Record<string, number> {
  return Object.fromEntries(Object.entries(ends).filter(([reason]) => reason !== "MOVED" && reason !== "cleanly"));
}

/** For controls: apps that end when they are told to, and no hook of Lever's that holds that back, since they have one. */
export const withoutBarrier: TargetOptions = {
  env: { E2E_HEEDLESS: "1" },
  lifecycle: { preStop: { exec: { command: ["cat", "/dev/null"] } } },
};

export const failedCalls = ({ calls }: LoadReport): number =>
  Object.values(calls.failed).reduce((sum, count) => sum + count, 0);

/**
 * For each room that was at `instance` at `at`: from then until it was answered for in a later epoch, by whichever instance
 * (one whose process has ended may be back at once), ms, ascending; Infinity where it never was.
 */
export function roomsAnewAfter({ rooms }: LoadReport, at: number, instance: string): number[] {
  const times: number[] = [];
  for (const stays of Object.values(rooms.stays)) {
    const held = stays.findLast((stay) => stay.at <= at);
    if (held?.instance !== instance) continue;
    const next = stays.find((stay) => stay.at > at && stay.epoch > held.epoch);
    times.push(next === undefined ? Number.POSITIVE_INFINITY : Math.round(next.at - at));
  }
  return times.sort((a, b) => a - b);
}

/** Rooms that were answered for by another instance than before between the two times. */
export function roomsMoved({ rooms }: LoadReport, { at, endedAt }: LoadEvent): number {
  return Object.values(rooms.stays).filter((stays) => {
    const first = stays.findLast((stay) => stay.at <= at)?.instance;
    return stays.some((stay) => stay.at > at && stay.at <= endedAt + aroundMs && stay.instance !== first);
  }).length;
}

/** For people: all counts, those that are zero too. */
export function describeLoad(what: string, report: LoadReport, events: readonly LoadEvent[] = []): string {
  const { calls, channels, rooms, retries, moved, fenced, startedAt, endedAt } = report;
  const seconds = (ms: number) => (ms / 1000).toFixed(1);
  const lines = [
    `${what}: ${seconds(endedAt - startedAt)} s of load`,
    `  calls: ${calls.planned} planned, ${calls.sent} sent (${Math.round((calls.sent * 1000) / (endedAt - startedAt))}/s, latest ${calls.latestMs} ms late), ` +
      `${calls.succeeded} succeeded, failed ${JSON.stringify(calls.failed)}`,
    `  p50 ${calls.p50Ms} ms, p99 ${calls.p99Ms} ms, slowest ${calls.slowestMs} ms, longest silence ${calls.longestSilenceMs} ms`,
    `  hidden by agents: retries ${JSON.stringify(retries)}, moved ${moved}, fenced ${fenced}`,
    `  channels: ${channels.planned} messages planned, ${channels.sent} sent, ${channels.received} answered, lost ${channels.lostUp} up and ${channels.lostDown} down, ` +
      `doubled ${channels.doubled}, disordered ${channels.disordered}; opened ${channels.opened}, not opened ${JSON.stringify(channels.notOpened)}, ` +
      `ends ${JSON.stringify(channels.ends)}, slowest reopening ${channels.slowestReopeningMs} ms`,
    `  rooms: violations ${rooms.violations.length}, miscounted ${rooms.miscounted.length}, forgetful ${rooms.forgetful}; ` +
      `answered by ${JSON.stringify(calls.answeredBy)}`,
    ...events.map((event) => {
      const within = calls.perSecond.slice(
        Math.max(0, Math.floor((event.at - startedAt) / 1000)),
        Math.ceil((event.endedAt - startedAt) / 1000) + 1,
      );
      const slowest = Math.max(0, ...within.map(([, , slowestMs]) => slowestMs));
      return `  ${event.what}: ${seconds(event.endedAt - event.at)} s, ${roomsMoved(report, event)} rooms moved, slowest call meanwhile ${slowest} ms`;
    }),
    ...calls.failures.slice(0, 10).map((failure) => {
      const { kind, at, endedAt: failedAt, reason, effect, text } = failure;
      return `  failed ${seconds(at - startedAt)} s in, after ${Math.round(failedAt - at)} ms: ${kind} ${reason} ${effect}: ${text}`;
    }),
    ...[...rooms.violations, ...channels.violations, ...rooms.miscounted].slice(0, 10).map((text) => `  ${text}`),
  ];
  return lines.join("\n");
}
