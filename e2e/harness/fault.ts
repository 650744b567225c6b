/**
 * Unplanned faults under load: an instance of the target is lost in some way, and what its callers saw is told: how long
 * it took until others answered for what it had, what failed, and whether anything was said that must not be.
 */

import type { LoadReport } from "../fixtures/load/plan.ts";
import {
  ClusterLoad,
  deployTarget,
  describeLoad,
  harm,
  type LoadEvent,
  roomsAnewAfter,
  type TargetOptions,
} from "./cluster-load.ts";
import { kubectlJson } from "./kubectl.ts";
import { leverNamespace } from "./lever-install.ts";
import { leader } from "./operator-pods.ts";
import { allPodsOf, type ListedPod } from "./service-pods.ts";
import { testNamespace } from "./test-namespace.ts";

/**
 * A lease of 15 s starts with the newest answer of the app that the operator has heard of: at most 3 s before the fault.
 * It is given away when it has ended by the leader's clock and the tables have arrived; that is no bound of the
 * protocol, and 1.5 s on a machine that has nothing else to do.
 */
export const lapse = { earliestMs: 12_000, latestMs: 15_000 + 3 * 1500 } as const;
/** Until then nothing can have lapsed: what is served again has another reason. */
export const beforeAnyLapseMs = lapse.earliestMs;
/** At its holder nothing of a lease is let out any more after that (14.3 s, by a clock that is 1 % slow). */
export const gateShutMs = 14_450;

/** A target pod on a node that has neither the load nor, unless asked for, the operator's leader. */
export async function victimOf(namespace: string, load: ClusterLoad, withLeader = false): Promise<ListedPod> {
  const leaderNode = await nodeOf(leverNamespace, (await leader()).pod);
  const pods = (await allPodsOf(namespace, "target")).filter(({ spec }) => spec.nodeName !== load.node);
  const pod = pods.find(({ spec }) => (spec.nodeName === leaderNode) === withLeader);
  if (pod !== undefined) return pod;
  const places = pods.map(({ metadata, spec }) => `${metadata.name} on ${spec.nodeName}`).join(", ");
  throw new Error(`the load is on ${load.node}, the leader on ${leaderNode}: no victim among ${places}`);
}

export async function nodeOf(namespace: string, pod: string): Promise<string> {
  const get = ["get", `pod/${pod}`, "--namespace", namespace];
  return (await kubectlJson<{ spec: { nodeName: string } }>(get)).spec.nodeName;
}

export interface Fault {
  /** What the namespace's name begins with. */
  readonly name: string;
  readonly what: string;
  readonly target?: TargetOptions;
  /** On each side of it, ms. */
  readonly quietMs: number;
  /** Until there is nothing more to be done about it. */
  inflict(victim: ListedPod, namespace: string): Promise<unknown>;
}

export interface Aftermath {
  readonly report: LoadReport;
  readonly event: LoadEvent;
  readonly victim: string;
  /** Of the plain calls that were sent from a tenth of a second before the event on. */
  readonly plain: {
    readonly failed: number;
    /** From the event until the last one was sent that failed; 0: none did. */
    readonly lastFailureMs: number;
    readonly slowestMs: number;
  };
  /** For each room that the victim had: from the event until it was answered for in a later epoch, ms, ascending. */
  readonly rooms: readonly number[];
}

/** Three instances of the target, 500 calls/s and 200 channels, and the fault in their midst. */
export async function underFault({ name, what, target = {}, quietMs, inflict }: Fault): Promise<Aftermath> {
  const namespace = await testNamespace(name);
  await deployTarget(namespace, target);
  await using load = await ClusterLoad.start(namespace);
  const victim = await victimOf(namespace, load);
  const event = await load.during(what, () => inflict(victim, namespace), quietMs);
  const found = aftermath(await load.stop(), event, victim.metadata.name);
  console.log(describeFault(found));
  return found;
}

export function aftermath(report: LoadReport, event: LoadEvent, victim: string): Aftermath {
  const { startedAt, calls } = report;
  const first = Math.max(0, Math.floor((event.at - startedAt) / 100) - 1);
  const after = calls.plainPerTenth.slice(first);
  const last = after.findLastIndex(([, failed]) => failed > 0);
  return {
    report,
    event,
    victim,
    plain: {
      failed: after.reduce((sum, [, failed]) => sum + failed, 0),
      lastFailureMs: last < 0 ? 0 : Math.max(0, Math.round((first + last + 1) * 100 + startedAt - event.at)),
      slowestMs: Math.max(0, ...after.map(([, , slowestMs]) => slowestMs)),
    },
    rooms: roomsAnewAfter(report, event.at, victim),
  };
}

export function describeFault({ report, event, plain, rooms }: Aftermath): string {
  const at = (part: number) => rooms[Math.min(rooms.length - 1, Math.floor(rooms.length * part))];
  return [
    describeLoad(event.what, report, [event]),
    `  plain calls after it: no success for ${report.calls.longestSilenceMs} ms at most; ${plain.failed} failed, ` +
      `the last of them sent ${plain.lastFailureMs} ms after it; the slowest took ${plain.slowestMs} ms`,
    `  its ${rooms.length} rooms were answered for anew after ${at(0)} ms (the first), ${at(0.5)} ms, ${at(1)} ms (the last)`,
  ].join("\n");
}

/** What no fault is an excuse for: epochs that go back, two holders at once, calls counted twice or not at all. */
export interface Untruths {
  readonly unsent: number;
  readonly violations: readonly string[];
  readonly miscounted: readonly string[];
  readonly overlaps: readonly string[];
  readonly doubled: number;
  readonly disordered: number;
}

export const noUntruths: Untruths = {
  unsent: 0,
  violations: [],
  miscounted: [],
  overlaps: [],
  doubled: 0,
  disordered: 0,
};

export function untruths(report: LoadReport): Untruths {
  const { unsent, violations, miscounted, doubled, disordered } = harm(report);
  return { unsent, violations, miscounted, overlaps: overlaps([report]), doubled, disordered };
}

/** Replies that were under way when a room moved in good order may come after the first ones of its next holder. */
const underWayMs = 250;

/** Rooms for which an instance was heard, by whichever of the callers, after one with a later epoch had been. */
export function overlaps(reports: readonly LoadReport[]): string[] {
  const found: string[] = [];
  const rooms = new Set(reports.flatMap(({ rooms: { stays } }) => Object.keys(stays)));
  for (const room of rooms) {
    const stays = reports.flatMap(({ rooms: { stays } }) => stays[room] ?? []);
    for (const [index, early] of stays.entries()) {
      for (const late of stays.slice(index + 1).concat(stays.slice(0, index))) {
        const isAtOnce = late.instance !== early.instance && late.at + underWayMs < early.until;
        if (late.epoch < early.epoch || !isAtOnce) continue;
        const ms = Math.round(early.until - late.at);
        found.push(
          `${room}: ${early.instance} (${early.epoch}) is heard ${ms} ms after ${late.instance} (${late.epoch})`,
        );
      }
    }
  }
  return found;
}

/** Instances that answered for rooms from the event on, of the rooms that `instance` had. */
export function holdersAfter({ rooms }: LoadReport, at: number, instance: string): Set<string> {
  const holders = new Set<string>();
  for (const stays of Object.values(rooms.stays)) {
    if (stays.findLast((stay) => stay.at <= at)?.instance !== instance) continue;
    for (const stay of stays) if (stay.until > at) holders.add(stay.instance);
  }
  return holders;
}
