/**
 * Endpoint lag: from the moment that a pod is Ready at the API server until an app's call reaches it.
 *
 * Real agents, each a process with an app of its own: one calls, the others serve, each under the pod of a service with
 * one instance. The pod is written as not Ready, until calls find nobody; then as Ready. The time begins when the change
 * arrives at a watch that has nothing to do with the operator (the condition's own time is in whole seconds), and ends
 * with the first answer to a caller that tries all the time. So it may be negative, and it contains the caller's own
 * pause, the connection of the two agents and the call.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, type Server, serve } from "leveros";
import { type ApiServer, kubectlResult } from "../harness/kubectl.ts";
import { residentBytes } from "../harness/process-list.ts";
import { until } from "../harness/until.ts";
import type { FakePod, FakePods } from "./fake-pods.ts";

const root = path.resolve(import.meta.dirname, "../..");
/** As in its image. */
const agentFlags = ["--max-semi-space-size=2"];
const callers = 1;
const targets = 4;
const triedMsMax = 60_000;
/** Between two tries of the caller. */
const pauseMs = 1;
/** What agents and the operator do regularly must not beat with the events. */
const restMs = () => 30 + Math.random() * 120;

export interface LagTimes {
  /** From Ready at the watch to the first answer, ms. */
  readonly usable: number[];
  /** From the request that makes it Ready to the first answer: what it is at most. */
  readonly usableSinceRequest: number[];
  /** From not Ready at the watch until calls find nobody. */
  readonly gone: number[];
  /** From an app's beginning to register at its agent to the first answer. */
  readonly registered: number[];
}

interface Target {
  readonly pod: FakePod;
  server: Server;
}

export class EndpointLag implements AsyncDisposable {
  readonly #pods: FakePods;
  readonly #directory: string;
  readonly #targets: Target[] = [];
  readonly #client: Client;
  readonly #agents: readonly ChildProcess[];
  readonly #unwatch: () => void;
  /** When the watch heard that a pod is Ready, or that it is not any more, whichever came last; by its name. */
  readonly #heard = new Map<string, { isReady: boolean; atMs: number }>();

  private constructor(api: ApiServer, pods: FakePods, directory: string, all: readonly FakePod[], operator: string) {
    this.#pods = pods;
    this.#directory = directory;
    const [caller] = all as [FakePod];
    this.#agents = all.map((pod) => startAgent(pod, directory, operator));
    this.#client = new Client({ agent: `unix://${this.#socketOf(caller)}` });
    this.#unwatch = api.watch(`/api/v1/namespaces/${caller.namespace}/pods?watch=1`, ({ object }) => {
      const atMs = performance.now();
      const { metadata, status } = object as WatchedPod;
      const isReady = status.conditions?.some(({ type, status }) => type === "Ready" && status === "True") === true;
      if (this.#heard.get(metadata.name)?.isReady !== isReady) this.#heard.set(metadata.name, { isReady, atMs });
    });
  }

  /** Makes the services and pods in `namespace`, starts the agents and waits until calls reach all of them. */
  static async start(api: ApiServer, pods: FakePods, namespace: string, operator: string): Promise<EndpointLag> {
    const directory = await mkdtemp(path.join(tmpdir(), "lever-scale-"));
    const all = Array.from({ length: callers + targets }, (_, index): FakePod => {
      const service = index < callers ? `caller-${index}` : `target-${index - callers}`;
      return { namespace, service, name: `${service}-0`, ip: `127.0.1.${1 + index}` };
    });
    for (const pod of all) {
      await pods.createService(namespace, pod.service);
      const uid = await pods.create(pod);
      await pods.setReady(pod, true);
      await writeFile(path.join(directory, `${pod.name}.token`), await pods.token(pod, uid), { mode: 0o600 });
    }
    const trust = await until("the namespace has the CAs to trust", () => trustOf(namespace));
    await writeFile(path.join(directory, "ca.crt"), trust);
    const lag = new EndpointLag(api, pods, directory, all, operator);
    for (const pod of all.slice(callers)) lag.#targets.push({ pod, server: await lag.#serve(pod) });
    for (const { pod } of lag.#targets) await lag.#answered(pod);
    return lag;
  }

  /** Each target in turn. */
  async measure(events: number): Promise<LagTimes> {
    const times: LagTimes = { usable: [], usableSinceRequest: [], gone: [], registered: [] };
    for (let event = 0; event < events; event++) {
      const target = this.#targets[event % this.#targets.length] as Target;
      const { pod } = target;
      const refused = this.#refused(pod);
      await this.#pods.setReady(pod, false);
      const goneAtMs = await refused;
      times.gone.push(goneAtMs - (await this.#heardAt(pod, false)));
      await sleep(restMs());

      const answered = this.#answered(pod);
      const sentAtMs = performance.now();
      await this.#pods.setReady(pod, true);
      const answeredAtMs = await answered;
      times.usable.push(answeredAtMs - (await this.#heardAt(pod, true)));
      times.usableSinceRequest.push(answeredAtMs - sentAtMs);
      await sleep(restMs());

      if (event % 2 !== 0) continue;
      const without = this.#refused(pod);
      await target.server.drain();
      await without;
      const again = this.#answered(pod);
      const beganAtMs = performance.now();
      target.server = await this.#serve(pod);
      times.registered.push((await again) - beganAtMs);
      await sleep(restMs());
    }
    return times;
  }

  /** Of the agents' processes, idle or not. */
  agentBytes(): number[] {
    return this.#agents.map(({ pid }) => residentBytes(pid as number));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#unwatch();
    await this.#client.close();
    await Promise.all(this.#targets.map(({ server }) => server[Symbol.asyncDispose]()));
    await Promise.all(
      this.#agents.map(async (agent) => {
        if (agent.exitCode !== null) return;
        const ended = once(agent, "exit");
        agent.kill("SIGKILL");
        await ended;
      }),
    );
    await rm(this.#directory, { recursive: true, force: true });
  }

  #socketOf(pod: FakePod): string {
    return socketOf(this.#directory, pod);
  }

  #serve(pod: FakePod): Promise<Server> {
    return serve({ whoAmI: () => pod.name }, { agent: `unix://${this.#socketOf(pod)}`, handleSignals: false });
  }

  /** When a call to the pod's service was first answered. */
  async #answered(pod: FakePod): Promise<number> {
    return await this.#tried(pod, true);
  }

  /** When a call to the pod's service first found nobody. */
  async #refused(pod: FakePod): Promise<number> {
    return await this.#tried(pod, false);
  }

  async #tried(pod: FakePod, isAnswered: boolean): Promise<number> {
    const endMs = performance.now() + triedMsMax;
    for (;;) {
      const answer = await this.#client.invoke(`/${pod.service}/whoAmI`, []).then(
        (name) => name === pod.name,
        () => false,
      );
      const nowMs = performance.now();
      if (answer === isAnswered) return nowMs;
      if (nowMs > endMs) throw new Error(`calls to ${pod.service} ${isAnswered ? "found nobody" : "were answered"}`);
      await sleep(pauseMs);
    }
  }

  async #heardAt(pod: FakePod, isReady: boolean): Promise<number> {
    return await until(`the watch hears of ${pod.name}`, () => {
      const heard = this.#heard.get(pod.name);
      return heard?.isReady === isReady && heard.atMs;
    });
  }
}

function socketOf(directory: string, { name }: FakePod): string {
  return path.join(directory, `${name}.sock`);
}

async function trustOf(namespace: string): Promise<string | undefined> {
  const args = ["get", "configmap/lever-trust", "--namespace", namespace, "--output=jsonpath={.data.ca\\.crt}"];
  const { stdout } = await kubectlResult(args);
  return stdout || undefined;
}

function startAgent(pod: FakePod, directory: string, operator: string): ChildProcess {
  return spawn(
    "setpriv",
    ["--pdeathsig", "KILL", process.execPath, ...agentFlags, path.join(root, "dist/agent/main.js")],
    {
      stdio: ["ignore", "ignore", "inherit"],
      env: {
        ...process.env,
        LEVER_AGENT: `unix://${socketOf(directory, pod)}`,
        LEVER_TOKEN_FILE: path.join(directory, `${pod.name}.token`),
        LEVER_TRUST_FILE: path.join(directory, "ca.crt"),
        LEVER_ENVIRONMENT: pod.namespace,
        LEVER_SERVICE: pod.service,
        LEVER_INSTANCE: pod.name,
        LEVER_OPERATOR: operator,
        LEVER_HOST: pod.ip,
        LEVER_FORWARD_PORT: "0",
        LEVER_ADVERTISED_HOST: pod.ip,
      },
    },
  );
}

interface WatchedPod {
  readonly metadata: { readonly name: string };
  readonly status: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}
