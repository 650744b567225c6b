/**
 * The operator as its chart installs it. Its pods have to be reachable from this machine, as those of the cluster of the
 * tests are.
 */

import { kubectl } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";
import { operatorPods } from "../harness/operator-pods.ts";
import { killProcessOf } from "../harness/pod-processes.ts";
import type { ListedPod } from "../harness/service-pods.ts";
import { until } from "../harness/until.ts";
import { type Memory, Metrics, type Operator, operatorNamespace, type Replica } from "./operator.ts";

/** Of the process that the image starts, wherever the pod is. */
export async function podMemory(namespace: string, pod: string, container: string): Promise<Memory> {
  const program = 'process.stdout.write(require("node:fs").readFileSync("/proc/1/status"))';
  const args = ["exec", "--namespace", namespace, pod, "--container", container, "--", "node", "-e", program];
  const status = await kubectl(args);
  const bytes = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1]) * 1024;
  return { residentBytes: bytes("VmRSS"), peakBytes: bytes("VmHWM") };
}

class ReplicaPod implements Replica {
  readonly name: string;
  readonly host: string;

  constructor({ metadata, status }: ListedPod) {
    this.name = metadata.name;
    this.host = status.podIP ?? "";
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

  memory(): Promise<Memory> {
    return podMemory(operatorNamespace, this.name, "operator");
  }

  async cpuMs(): Promise<number> {
    return (await this.metrics()).sum("process_cpu_seconds_total") * 1000;
  }
}

export class OperatorPods implements Operator {
  readonly about = "two pods of its image, installed by the chart";

  static async start(): Promise<OperatorPods> {
    await installLever();
    return new OperatorPods();
  }

  async replicas(): Promise<readonly Replica[]> {
    return (await this.#pods()).map((pod) => new ReplicaPod(pod));
  }

  async whenReady(): Promise<void> {
    await until(
      "two replicas are ready",
      async () => {
        const pods = await this.#pods();
        return pods.length === 2 && pods.every(isReady);
      },
      120_000,
    );
  }

  /** The process of the pod on this machine: from within nobody can kill it. */
  async kill({ name }: Replica): Promise<void> {
    killProcessOf(name);
  }

  async restart(replicas: readonly Replica[]): Promise<void> {
    await kubectl([
      "delete",
      "pods",
      "--namespace",
      operatorNamespace,
      "--wait=false",
      ...replicas.map(({ name }) => name),
    ]);
    const former = new Set(replicas.map(({ name }) => name));
    await until("the pods have others in their place", async () => {
      return (await this.#pods()).every(({ metadata }) => !former.has(metadata.name));
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  /** That are not about to end. */
  async #pods(): Promise<ListedPod[]> {
    return (await operatorPods()).filter(({ metadata }) => metadata.deletionTimestamp === undefined);
  }
}

function isReady({ status }: ListedPod): boolean {
  return status.containerStatuses?.[0]?.ready === true;
}
