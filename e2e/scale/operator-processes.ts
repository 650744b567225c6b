/**
 * The operator as processes of this machine, each on an address of its own (127.0.0.0/8), as pods have theirs: for a
 * cluster without Lever's images. The pods by which the replicas find each other are written for them.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import path from "node:path";
import { kubectl } from "../harness/kubectl.ts";
import { cpuMs, peakBytes, residentBytes } from "../harness/process-list.ts";
import { until } from "../harness/until.ts";
import type { FakePods } from "./fake-pods.ts";
import { type Memory, Metrics, type Operator, operatorNamespace, type Replica } from "./operator.ts";

const root = path.resolve(import.meta.dirname, "../..");
const label = { app: "lever-operator-process" };
const names = ["operator-a", "operator-b"];

class ReplicaProcess implements Replica {
  readonly name: string;
  readonly host: string;
  readonly #logs: string;
  #child: ChildProcess | undefined;

  constructor(name: string, host: string, logs: string) {
    this.name = name;
    this.host = host;
    this.#logs = logs;
  }

  get #pid(): number {
    return this.#child?.pid as number;
  }

  start(): void {
    const args = [
      ...(process.env["LEVER_SCALE_NODE_FLAGS"]?.split(" ") ?? []),
      path.join(root, "dist/operator/main.js"),
    ];
    const child = spawn("setpriv", ["--pdeathsig", "KILL", process.execPath, ...args], {
      stdio: ["ignore", "ignore", "pipe"],
      env: {
        ...process.env,
        LEVER_NAMESPACE: operatorNamespace,
        LEVER_NAME: this.name,
        LEVER_HOST: this.host,
        LEVER_FORWARD_PORT: "0",
        LEVER_ADVERTISED_HOST: this.host,
        LEVER_AGENT_IMAGE: "example.org/agent:1",
        LEVER_REPLICA_SELECTOR: Object.entries(label)[0]?.join("="),
      },
    });
    child.stderr?.pipe(createWriteStream(path.join(this.#logs, `${this.name}.log`), { flags: "a" }));
    this.#child = child;
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    await ended;
  }

  async isReady(): Promise<boolean> {
    return await fetch(`http://${this.host}:3838/readyz`).then(
      ({ ok }) => ok,
      () => false,
    );
  }

  async metrics(): Promise<Metrics> {
    return new Metrics(await (await fetch(`http://${this.host}:3838/metrics`)).text());
  }

  async memory(): Promise<Memory> {
    return { residentBytes: residentBytes(this.#pid), peakBytes: peakBytes(this.#pid) };
  }

  async cpuMs(): Promise<number> {
    return cpuMs(this.#pid);
  }
}

export class OperatorProcesses implements Operator {
  readonly about = "two processes beside the cluster";
  readonly #replicas: readonly ReplicaProcess[];

  private constructor(replicas: readonly ReplicaProcess[]) {
    this.#replicas = replicas;
  }

  static async start(pods: FakePods, logs: string): Promise<OperatorProcesses> {
    const replicas = names.map((name, index) => new ReplicaProcess(name, `127.0.0.${11 + index}`, logs));
    await kubectl(["apply", "--server-side", "--filename", path.join(root, "crds")]);
    await kubectl(["wait", "--for=condition=Established", "crd", "--all"]);
    const objects = [
      { apiVersion: "v1", kind: "Namespace", metadata: { name: operatorNamespace } },
      { apiVersion: "v1", kind: "Secret", metadata: { name: "lever-identity", namespace: operatorNamespace } },
    ];
    const list = { apiVersion: "v1", kind: "List", items: objects };
    await kubectl(["apply", "--filename=-"], { input: JSON.stringify(list) });
    await pods.prepare(operatorNamespace);
    for (const { name, host } of replicas) {
      const pod = { namespace: operatorNamespace, service: "none", name, ip: host };
      await pods.create(pod, label);
      await pods.setReady(pod, true);
    }
    for (const replica of replicas) replica.start();
    const operator = new OperatorProcesses(replicas);
    await operator.whenReady();
    return operator;
  }

  async replicas(): Promise<readonly Replica[]> {
    return this.#replicas;
  }

  async whenReady(): Promise<void> {
    for (const replica of this.#replicas) {
      await until(`${replica.name} is ready`, () => replica.isReady(), 120_000);
    }
  }

  async kill({ name }: Replica): Promise<void> {
    await this.#named(name).end("SIGKILL");
    this.#named(name).start();
  }

  async restart(replicas: readonly Replica[]): Promise<void> {
    await Promise.all(
      replicas.map(async ({ name }) => {
        await this.#named(name).end("SIGTERM");
        this.#named(name).start();
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#replicas.map((replica) => replica.end("SIGTERM")));
  }

  #named(name: string): ReplicaProcess {
    return this.#replicas.find((replica) => replica.name === name) as ReplicaProcess;
  }
}
