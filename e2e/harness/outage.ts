/**
 * What all depend on is away for minutes, under load: operator or API server. Three services with resources, one for each
 * rule of `onUncertain`, have callers of their own meanwhile; afterwards it is told what became of their calls, and how
 * much was asked of the API server once it all came back.
 */

import type { CommandResult } from "../cluster/command.ts";
import type { LoadReport } from "../fixtures/load/plan.ts";
import { ClusterLoad, deployTarget, targetManifest } from "./cluster-load.ts";
import { kubectl, kubectlJson, kubectlResult } from "./kubectl.ts";
import { leverNamespace } from "./lever-install.ts";
import { hasOwnNodes } from "./pod-processes.ts";
import { allPodsOf, type ListedPod, waitReady } from "./service-pods.ts";
import { testNamespace } from "./test-namespace.ts";

export const outageMs = Number(process.env["LEVER_OUTAGE_SECONDS"] ?? 120) * 1000;

/** By what the service's `onUncertain` says. */
export interface OutageLoads {
  readonly namespace: string;
  readonly wait: ClusterLoad;
  readonly fail: ClusterLoad;
  readonly serve: ClusterLoad;
}

export type OutageReports = Readonly<Record<"wait" | "fail" | "serve", LoadReport>>;

const light = { perSecond: 20, roomShare: 1, rooms: 20, slowEvery: 0, talkers: 0 } as const;

export async function startLoads(name: string): Promise<OutageLoads> {
  const namespace = await testNamespace(name);
  for (const onUncertain of ["Fail", "Serve"] as const) {
    const service = `target-${onUncertain.toLowerCase()}`;
    const manifest = { ...targetManifest({ replicas: 2, ownership: { onUncertain } }), metadata: { name: service } };
    await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: JSON.stringify(manifest) });
  }
  await deployTarget(namespace);
  for (const service of ["target-fail", "target-serve"]) await waitReady(namespace, service);
  const fail = await ClusterLoad.start(namespace, { ...light, target: "target-fail" }, { name: "load-fail" });
  const serve = await ClusterLoad.start(namespace, { ...light, target: "target-serve" }, { name: "load-serve" });
  return { namespace, wait: await ClusterLoad.start(namespace), fail, serve };
}

/** Calls a service that the caller's agent has never heard of before; how `kubectl exec` ends. */
export async function firstCall(
  { namespace }: OutageLoads,
  service: string,
  timeoutMs: number,
): Promise<CommandResult> {
  const [pod] = await allPodsOf(namespace, "load");
  const exec = ["exec", "--namespace", namespace, (pod as ListedPod).metadata.name, "--container=app", "--"];
  return kubectlResult([...exec, "node", "/app/call.js", `/${service}/where`, "[]", String(timeoutMs)]);
}

export async function stopLoads({ wait, fail, serve }: OutageLoads): Promise<OutageReports> {
  return { wait: await wait.stop(), fail: await fail.stop(), serve: await serve.stop() };
}

/** For each room: when, from `at` on, its holder of before was last heard, ms, the latest of all. */
export function lastHeardMs({ rooms }: LoadReport, at: number): number {
  const before = Object.values(rooms.stays).flatMap((stays) => stays.findLast((stay) => stay.at <= at) ?? []);
  return Math.round(Math.max(0, ...before.map(({ until }) => until - at)));
}

/** For each room: when, from `at` on, it was answered for under a new epoch, ms, ascending; Infinity: never. */
export function takenUpMs({ rooms }: LoadReport, at: number): number[] {
  const times = Object.values(rooms.stays).map((stays) => stays.find((stay) => stay.at > at)?.at);
  return times
    .map((time) => (time === undefined ? Number.POSITIVE_INFINITY : Math.round(time - at)))
    .sort((a, b) => a - b);
}

/** By kind: plain calls, and those for rooms. */
export function failuresOf({ calls: { failed } }: LoadReport): { readonly plain: number; readonly room: number } {
  let [plain, room] = [0, 0];
  for (const [what, count] of Object.entries(failed)) {
    if (what.includes("room")) room += count;
    else plain += count;
  }
  return { plain, room };
}

// ---------------------------------------------------------------- what is asked of the API server

/** Requests of the operator's replicas, by verb, kind and status, such as `update leases 200`. */
export type Requests = ReadonlyMap<string, number>;

/** The whole page. Where the nodes are this machine the API server is not needed for it. */
export async function metricsOf({ metadata, status }: ListedPod): Promise<string> {
  if (hasOwnNodes) return (await fetch(`http://${status.podIP}:3838/metrics`)).text();
  return kubectl(["get", "--raw", `/api/v1/namespaces/${leverNamespace}/pods/${metadata.name}:3838/proxy/metrics`]);
}

export async function requestsOf(pods: readonly ListedPod[]): Promise<Requests> {
  const counts = new Map<string, number>();
  for (const pod of pods) {
    const line = /^lever_operator_kube_requests_total\{verb="(\w+)",resource="(\w+)",code="(\d+)"\} (\d+)$/gm;
    for (const [, verb, resource, code, count] of (await metricsOf(pod)).matchAll(line)) {
      const key = `${verb} ${resource} ${code}`;
      counts.set(key, (counts.get(key) ?? 0) + Number(count));
    }
  }
  return counts;
}

export function since(before: Requests, after: Requests): Requests {
  const grown = [...after].map(([key, count]) => [key, count - (before.get(key) ?? 0)] as const);
  return new Map(grown.filter(([, count]) => count > 0));
}

/** Leases come by the second, not by what there is. */
export function totalOf(requests: Requests, which: "leases" | "others"): number {
  let total = 0;
  for (const [key, count] of requests) if (key.includes(" leases ") === (which === "leases")) total += count;
  return total;
}

export const shownRequests = (requests: Requests): string =>
  [...requests]
    .sort()
    .map(([key, count]) => `${count} ${key}`)
    .join(", ");

/** All clients' together, by the API server's own count. */
export async function apiServerRequests(): Promise<number> {
  const page = await kubectl(["get", "--raw", "/metrics"]);
  let total = 0;
  for (const [, count] of page.matchAll(/^apiserver_request_total\{[^}]*\} (\S+)$/gm)) total += Number(count);
  return total;
}

/** What the operator's replicas may ask for when they begin anew, or see the API server again. */
export async function requestsMax(replicas: number): Promise<{ readonly max: number; readonly from: string }> {
  const { items: services } = await kubectlJson<{ items: unknown[] }>(["get", "lsvc", "--all-namespaces"]);
  const { items: pods } = await kubectlJson<{ items: unknown[] }>([
    ...["get", "pods", "--all-namespaces", "--selector", "leveros.dev/service"],
  ]);
  return {
    // A list and a watch of each kind, and one more of each; a few writes for each service, and two words for each pod.
    max: replicas * kinds * 4 + services.length * 8 + pods.length * 2,
    from: `${replicas} replicas x ${kinds} kinds x 4 + ${services.length} services x 8 + ${pods.length} pods x 2`,
  };
}

const kinds = 10;
