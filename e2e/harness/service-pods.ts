/** Pods of LeverServices, and calls from them. */

import { kubectl, kubectlJson } from "./kubectl.ts";

export interface ServicePod {
  readonly metadata: { readonly name: string; readonly uid: string };
  readonly spec: { readonly nodeName: string };
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
  type Listed = ServicePod & { readonly metadata: { readonly deletionTimestamp?: string } };
  const selector = `leveros.dev/service=${service}`;
  const { items } = await kubectlJson<{ items: Listed[] }>([
    "get",
    "pods",
    "--namespace",
    namespace,
    "--selector",
    selector,
  ]);
  return items.filter((pod) => pod.metadata.deletionTimestamp === undefined);
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
