/** Pods of LeverServices, and calls from them. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { kubectl, kubectlJson } from "./kubectl.ts";

/** A pod in whatever state. */
export interface ListedPod {
  readonly metadata: { readonly name: string; readonly uid: string; readonly deletionTimestamp?: string };
  readonly spec: { readonly nodeName: string };
  readonly status: { readonly podIP?: string; readonly containerStatuses?: readonly ContainerStatus[] };
}

/** One that runs. */
export interface ServicePod extends ListedPod {
  readonly status: {
    readonly podIP: string;
    readonly containerStatuses: readonly ContainerStatus[];
    readonly initContainerStatuses: readonly ContainerStatus[];
  };
}

interface ContainerStatus {
  readonly name: string;
  readonly ready: boolean;
  readonly restartCount: number;
  readonly imageID: string;
}

/** Those of the service that are not being deleted. */
export async function podsOf(namespace: string, service: string): Promise<ServicePod[]> {
  const pods = await allPodsOf(namespace, service);
  return pods.filter((pod): pod is ServicePod => pod.metadata.deletionTimestamp === undefined);
}

/** Those that are being deleted too. */
export function allPodsOf(namespace: string, service: string): Promise<readonly ListedPod[]> {
  return listPods(namespace, `leveros.dev/service=${service}`);
}

export async function listPods(namespace: string, selector: string): Promise<readonly ListedPod[]> {
  const get = ["get", "pods", "--namespace", namespace, "--selector", selector];
  return (await kubectlJson<{ items: ListedPod[] }>(get)).items;
}

export async function waitReady(namespace: string, service: string, timeoutSeconds = 90): Promise<void> {
  await kubectl([
    "wait",
    "--for=condition=Ready",
    `lsvc/${service}`,
    "--namespace",
    namespace,
    `--timeout=${timeoutSeconds}s`,
  ]);
}

export type CallOutcome = { readonly value: unknown } | { readonly reason: string } | { readonly thrown: unknown };

/** A call from a pod of the service `caller` (e2e/fixtures/caller), through its agent. */
export async function callFrom(
  namespace: string,
  pod: string,
  url: string,
  ...args: readonly unknown[]
): Promise<CallOutcome> {
  const program = ["node", "/app/call.js", url, ...args.map((arg) => JSON.stringify(arg))];
  const line = await kubectl(["exec", "--namespace", namespace, pod, "--container=app", "--", ...program]);
  return JSON.parse(line) as CallOutcome;
}

/** A channel from a pod of the service `caller`, through its agent; it has been opened when the first message is there. */
export class JoinedChannel implements AsyncDisposable {
  readonly messages: unknown[] = [];
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
    createInterface(child.stdout as NodeJS.ReadableStream).on("line", (line) => this.messages.push(JSON.parse(line)));
  }

  static async open(namespace: string, pod: string, url: string, ...args: readonly unknown[]): Promise<JoinedChannel> {
    const program = ["node", "/app/join.js", url, ...args.map((arg) => JSON.stringify(arg))];
    const command = ["exec", "--stdin", "--namespace", namespace, pod, "--container=app", "--", ...program];
    const child = spawn("kubectl", command, { stdio: ["pipe", "pipe", "inherit"] });
    await once(child, "spawn");
    return new JoinedChannel(child);
  }

  send(message: unknown): void {
    this.#child.stdin?.write(`${JSON.stringify(message)}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await ended;
  }
}
