/**
 * `npm run scale`: how late agents learn of endpoints, and what the operator costs, idle and with many services. Prints
 * one table. On the cluster that `$KUBECONFIG` names, else on one that is brought up for it.
 *
 *     npm run scale
 *     npm run scale -- --services 1000 --instances 10 --events 100 --idle-seconds 60
 *     npm run scale -- --connected 1000         not all of the fake pods have an agent that is connected
 *     npm run scale -- --operator processes     the operator beside the cluster: of that an API server is enough
 */

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { availableParallelism } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Cluster } from "./cluster/cluster.ts";
import { run } from "./cluster/command.ts";
import { lockMachine } from "./cluster/control.ts";
import { interrupted } from "./cluster/interruption.ts";
import { prepareMachine, restoreMachine } from "./cluster/machine.ts";
import { clusterParts } from "./cluster/parts.ts";
import { collectLogs } from "./harness/cluster-logs.ts";
import { ApiServer, kubectl, kubectlJson } from "./harness/kubectl.ts";
import { testNamespace } from "./harness/test-namespace.ts";
import { until } from "./harness/until.ts";
import { EndpointLag, type LagTimes } from "./scale/endpoint-lag.ts";
import type { FakeAgent, FakeAgentsMessage, FakeAgentsOrder, FakeAgentsReport } from "./scale/fake-agents.ts";
import { type FakePod, FakePods, forEach } from "./scale/fake-pods.ts";
import { type Operator, operatorLease, operatorNamespace, type Replica } from "./scale/operator.ts";
import { OperatorProcesses } from "./scale/operator-processes.ts";

const root = path.resolve(import.meta.dirname, "..");
const logs = path.join(root, ".cache/scale-logs");
const { values } = parseArgs({
  options: {
    services: { type: "string", default: "1000" },
    instances: { type: "string", default: "10" },
    events: { type: "string", default: "100" },
    "idle-seconds": { type: "string", default: "60" },
    connected: { type: "string", default: "10000" },
    operator: { type: "string", default: "pods" },
  },
});
const services = whole("services", 10_000);
const instancesPerService = whole("instances", 10_000);
const events = whole("events", 100_000);
const idleSeconds = whole("idle-seconds", 3600);
const connectedMax = whole("connected", 100_000);
const namespaceCount = Math.min(20, services);

function whole(name: keyof typeof values, max: number): number {
  const value = Number(values[name]);
  if (Number.isInteger(value) && value >= 1 && value <= max) return value;
  console.error(`--${name} is ${JSON.stringify(values[name])}, expected a whole number from 1 to ${max}`);
  process.exit(2);
}

// ---------------------------------------------------------------- the report

const rows: [string, string][] = [];
const note = (what: string, found: string) => {
  rows.push([what, found]);
  console.log(`${what.padEnd(64)}  ${found}`);
};
const mebibytes = (bytes: number) => `${(bytes / 1024 / 1024).toFixed(0)} MiB`;
const both = (found: readonly string[]) => found.join(" / ");
const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;

function quantile(times: readonly number[], q: number): number {
  const sorted = times.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN;
}

function noteTimes(what: string, times: readonly number[]): void {
  const at = (q: number) => `${quantile(times, q).toFixed(1)} ms`;
  note(what, `p50 ${at(0.5)}, p99 ${at(0.99)}, most ${at(1)} (${times.length} events)`);
}

function noteLag(where: string, { usable, usableSinceRequest, gone, registered }: LagTimes): void {
  noteTimes(`${where}: pod Ready at a watch → a call is answered`, usable);
  noteTimes(`${where}: the same from the request that makes it Ready`, usableSinceRequest);
  noteTimes(`${where}: pod not Ready at a watch → calls find nobody`, gone);
  noteTimes(`${where}: app begins to register → a call is answered`, registered);
}

// ---------------------------------------------------------------- the operator

async function of(operator: Operator, ask: (replica: Replica) => Promise<string>): Promise<string> {
  return both(await Promise.all((await operator.replicas()).map(ask)));
}

async function noteMemory(operator: Operator, where: string): Promise<void> {
  const found = await of(operator, async (replica) => {
    const { residentBytes, peakBytes } = await replica.memory();
    return `${mebibytes(residentBytes)} (peak ${mebibytes(peakBytes)})`;
  });
  note(`${where}: operator, resident`, found);
}

async function requests(operator: Operator): Promise<Map<string, number>> {
  const sums = new Map<string, number>();
  for (const replica of await operator.replicas()) {
    const page = await replica.metrics();
    const found = page.sums("lever_operator_kube_requests_total", (label) => `${label("verb")} ${label("resource")}`);
    for (const [key, count] of found) sums.set(key, (sums.get(key) ?? 0) + count);
  }
  return sums;
}

function noteRequests(what: string, before: ReadonlyMap<string, number>, after: ReadonlyMap<string, number>): void {
  const grown = [...after].map(([key, count]) => [key, count - (before.get(key) ?? 0)] as const);
  const shown = grown.filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
  const sum = shown.reduce((all, [, count]) => all + count, 0);
  note(what, `${sum}: ${shown.map(([key, count]) => `${key} ${count}`).join(", ")}`);
}

/** CPU time of each replica while `work` runs; undefined for one that was started meanwhile. */
async function cpuDuring(operator: Operator, work: () => Promise<void>): Promise<string> {
  const replicas = await operator.replicas();
  const before = await Promise.all(replicas.map((replica) => replica.cpuMs()));
  const sinceMs = performance.now();
  await work();
  const tookMs = performance.now() - sinceMs;
  const after = await Promise.all(replicas.map((replica) => replica.cpuMs()));
  const used = after.map((ms, index) => ms - (before[index] as number));
  return `${both(used.map((ms) => `${seconds(ms)}`))} in ${seconds(tookMs)} (${both(
    used.map((ms) => `${((100 * ms) / tookMs).toFixed(1)} %`),
  )} of a CPU)`;
}

async function leaderOf(operator: Operator): Promise<Replica> {
  return await until("one replica leads", async () => {
    for (const replica of await operator.replicas()) {
      const page = await replica.metrics().catch(() => undefined);
      if (page?.sum("lever_operator_leader") === 1) return replica;
    }
    return undefined;
  });
}

/** How long until another one holds the Lease than the one that was killed, from the kill. */
async function failOver(api: ApiServer, operator: Operator): Promise<number> {
  const leader = await leaderOf(operator);
  let holder = "";
  let wake = () => {};
  const url = `/apis/coordination.k8s.io/v1/namespaces/${operatorNamespace}/leases?watch=1&fieldSelector=metadata.name%3D${operatorLease}`;
  const unwatch = api.watch(url, ({ object }) => {
    holder = (object as { spec?: { holderIdentity?: string } }).spec?.holderIdentity ?? "";
    wake();
  });
  await until("the Lease is watched", () => holder !== "");
  const before = holder;
  const sinceMs = performance.now();
  const taken = new Promise<number>((resolve) => {
    wake = () => {
      if (holder !== before && holder !== "") resolve(performance.now() - sinceMs);
    };
  });
  const killed = operator.kill(leader);
  const tookMs = await taken;
  await killed;
  unwatch();
  return tookMs;
}

// ---------------------------------------------------------------- many of them

class FakeAgents {
  readonly #child: ChildProcess;
  report: FakeAgentsReport = { certified: 0, connected: 0, whole: 0, lost: 0 };

  constructor() {
    this.#child = fork(path.join(import.meta.dirname, "scale/fake-agents.ts"));
    this.#child.on("message", (report) => {
      this.report = report as FakeAgentsReport;
    });
  }

  send(message: FakeAgentsMessage): void {
    this.#child.send(message);
  }

  /** Resolves with how long it took. */
  async whenWhole(count: number, what: string): Promise<number> {
    const sinceMs = performance.now();
    await until(
      what,
      () => {
        if (this.#child.exitCode !== null) throw new Error("the process that plays the agents has ended");
        return this.report.whole === count && this.report.connected === count;
      },
      900_000,
    ).catch((error: unknown) => {
      throw new Error(`${error}: ${JSON.stringify(this.report)} of ${count}`);
    });
    return performance.now() - sinceMs;
  }

  async cpuMs(): Promise<number> {
    const { cpuMs } = await import("./harness/process-list.ts");
    return cpuMs(this.#child.pid as number);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await ended;
  }
}

/** The operator's CA. */
async function authority(): Promise<FakeAgentsOrder["authority"]> {
  const args = ["get", "secret/lever-identity", "--namespace", operatorNamespace];
  const { data } = await kubectlJson<{ data: Record<string, string> }>(args);
  const text = (key: string) => Buffer.from(data[key] ?? "", "base64").toString();
  return { certificate: text("tls.crt"), key: text("tls.key") };
}

function manyPods(namespaces: readonly string[]): FakePod[] {
  return Array.from({ length: services * instancesPerService }, (_, index) => {
    const number = Math.floor(index / instancesPerService);
    const service = `service-${number}`;
    return {
      namespace: namespaces[number % namespaces.length] as string,
      service,
      name: `${service}-${index % instancesPerService}`,
      ip: `172.${16 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`,
    };
  });
}

/** What an agent and a gateway take in pods, with nothing to do. */
async function notePods(): Promise<void> {
  const { podMemory } = await import("./scale/operator-pods.ts");
  const { exampleManifest } = await import("./harness/lever-images.ts");
  const namespace = await testNamespace("pods");
  await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: exampleManifest("hello") });
  await kubectl(["wait", "--namespace", namespace, "--for=condition=Ready", "lsvc/hello", "--timeout=120s"]);
  await sleep(10_000);
  const found = async (of: string, args: readonly string[], container: string) => {
    const names = await kubectl([
      "get",
      "pods",
      "--namespace",
      of,
      ...args,
      "--output=jsonpath={.items[*].metadata.name}",
    ]);
    const memory = await Promise.all(names.split(" ").map((name) => podMemory(of, name, container)));
    return both(memory.map((each) => `${mebibytes(each.residentBytes)} (peak ${mebibytes(each.peakBytes)})`));
  };
  note("idle agents in pods, resident", await found(namespace, [], "lever-agent"));
  const gateways = ["--selector=app.kubernetes.io/component=gateway"];
  note("idle gateways in pods, resident", await found(operatorNamespace, gateways, "gateway"));
}

async function startOperator(pods: FakePods, logs: string): Promise<Operator> {
  // Which images there are is known only now.
  if (values.operator === "pods") return await (await import("./scale/operator-pods.ts")).OperatorPods.start();
  if (values.operator === "processes") return await OperatorProcesses.start(pods, logs);
  throw new Error(`--operator is ${JSON.stringify(values.operator)}, expected pods or processes`);
}

async function measure(): Promise<void> {
  await mkdir(logs, { recursive: true });
  await using api = await ApiServer.open();
  const pods = new FakePods(api);
  await using operator = await startOperator(pods, logs);
  note("machine", `${availableParallelism()} CPUs, Node ${process.version}; operator: ${operator.about}`);
  const lagNamespace = await testNamespace("lag");
  await pods.prepare(lagNamespace);
  const [first] = await operator.replicas();
  await using lag = await EndpointLag.start(api, pods, lagNamespace, `${(first as Replica).host}:3837`);

  await sleep(3000);
  if (values.operator === "pods") await notePods();
  await noteMemory(operator, "idle");
  note("idle: operator, CPU", await cpuDuring(operator, () => sleep(Math.min(20, idleSeconds) * 1000)));
  noteLag("idle", await lag.measure(events));

  const many = `${services} services, ${services * instancesPerService} pods`;
  const namespaces = await Promise.all(Array.from({ length: namespaceCount }, () => testNamespace("scale")));
  await forEach(namespaces, (namespace) => pods.prepare(namespace));
  const all = manyPods(namespaces);
  // Of whole services.
  const connected = all.slice(0, Math.ceil(connectedMax / instancesPerService) * instancesPerService);
  const uids = new Map<FakePod, string>();
  await using agents = new FakeAgents();
  const beforeLoad = await requests(operator);
  const load = await cpuDuring(operator, async () => {
    const sinceMs = performance.now();
    const declared = new Map(all.map(({ namespace, service }) => [`${namespace}/${service}`, { namespace, service }]));
    await forEach(declared.values(), ({ namespace, service }) => pods.createService(namespace, service));
    await forEach(all, async (pod) => {
      uids.set(pod, await pods.create(pod));
      await pods.setReady(pod, true);
    });
    note("load: written to the API server in", seconds(performance.now() - sinceMs));
    const replicas = await operator.replicas();
    agents.send({
      authority: await authority(),
      agents: connected.map(
        (pod): FakeAgent => ({
          environment: pod.namespace,
          service: pod.service,
          instance: pod.name,
          address: `${pod.ip}:3837`,
          uid: uids.get(pod) as string,
        }),
      ),
      operatorHosts: replicas.map(({ host }) => host),
      instancesPerService,
    });
    await until("the agents have certificates", () => agents.report.certified === connected.length, 600_000);
    const tookMs = await agents.whenWhole(connected.length, "all agents know all instances of their service");
    note(`load: ${connected.length} agents connected and told in`, seconds(tookMs));
  });
  note("load: operator, CPU", load);
  await until(
    "the tables are written",
    async () => {
      const listed = await kubectl(["get", "leverendpointtables", "-A", "-o", "jsonpath={.items[*].servingInstances}"]);
      return (
        listed.split(" ").filter((count) => Number(count) === instancesPerService).length ===
        connected.length / instancesPerService
      );
    },
    120_000,
  );
  noteRequests("load: requests to the API server", beforeLoad, await requests(operator));
  await sleep(5000);

  const beforeIdle = await requests(operator);
  const agentsCpu = await agents.cpuMs();
  note(`${many}: operator, idle CPU`, await cpuDuring(operator, () => sleep(idleSeconds * 1000)));
  note("(the process that plays the agents, meanwhile)", seconds((await agents.cpuMs()) - agentsCpu));
  noteRequests(`${many}: idle, requests in ${idleSeconds} s`, beforeIdle, await requests(operator));
  await noteMemory(operator, many);
  noteLag(many, await lag.measure(events));
  note("agents' processes, resident", both(lag.agentBytes().map(mebibytes)));

  const lostBefore = agents.report.lost;
  const [one] = await operator.replicas();
  await restart("one replica restarted", operator, [one as Replica], agents, connected.length);
  await sleep(12_000);
  await restart("both replicas restarted at once", operator, await operator.replicas(), agents, connected.length);
  await sleep(12_000);
  note("the leader is killed: another one holds the Lease after", seconds(await failOver(api, operator)));
  note("  all agents connected and told again after", seconds(await agents.whenWhole(connected.length, "fail-over")));
  note("instances that agents lost sight of, over all of these", String(agents.report.lost - lostBefore));
  await noteMemory(operator, "after these");

  console.log(`\n${rows.map(([what, found]) => `| ${what} | ${found} |`).join("\n")}`);
}

async function restart(
  what: string,
  operator: Operator,
  replicas: readonly Replica[],
  agents: FakeAgents,
  count: number,
): Promise<void> {
  const { lost } = agents.report;
  const sinceMs = performance.now();
  await operator.restart(replicas);
  await operator.whenReady();
  agents.send({ operatorHosts: (await operator.replicas()).map(({ host }) => host) });
  note(`${what}: ready after`, seconds(performance.now() - sinceMs));
  await sleep(500);
  await agents.whenWhole(count, what);
  note(`${what}: all agents connected and told after`, seconds(performance.now() - sinceMs));
  const again = await Promise.all((await operator.replicas()).map((replica) => replica.cpuMs()));
  note(`${what}: CPU since`, both(again.map(seconds)));
  noteRequests(`${what}: requests of both since they began`, new Map(), await requests(operator));
  note(`${what}: instances that agents lost sight of`, String(agents.report.lost - lost));
}

/** On a cluster of its own, unless one is given. */
async function main(): Promise<void> {
  await run(process.execPath, ["esbuild.config.ts", "operator/main.ts", "agent/main.ts"], { cwd: root });
  if (process.env["KUBECONFIG"]) return await measure();
  await prepareMachine();
  const parts = await clusterParts();
  await lockMachine();
  await restoreMachine();
  const cluster = new Cluster(parts);
  process.env["KUBECONFIG"] = cluster.kubeconfig;
  process.env["KUBECACHEDIR"] = cluster.kubectlCache;
  process.env["PATH"] = [...parts.tools, process.env["PATH"]].join(":");
  try {
    await cluster.up();
    process.env["LEVER_E2E_IMAGES"] = JSON.stringify(cluster.imageIds);
    const ended = interrupted.aborted ? Promise.resolve() : once(interrupted, "abort");
    await Promise.race([measure(), ended]);
  } catch (error) {
    await collectLogs(logs, cluster);
    throw error;
  } finally {
    await cluster.down();
  }
  // What was interrupted would go on without a cluster.
  if (interrupted.aborted) process.exit(130);
}

await main();
