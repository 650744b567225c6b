/** The replicas of a cluster's operator. */

import { KubeError } from "@leveros/operator/kube/kube-error.ts";
import { deployments, type KubeObject, pods } from "@leveros/operator/kube/kube-object.ts";
import { conditionOf, type Deployment, type Pod } from "@leveros/operator/kube/reconcile/kubernetes-object.ts";
import { LeverError } from "leveros";
import { type Cluster, rightTo } from "./cluster.ts";

export const operatorDeployment = "lever-operator";

export type OperatorPod = Pod & KubeObject & { readonly metadata: { readonly namespace: string } };

export interface Replicas {
  readonly deployment: Deployment & KubeObject;
  /** Ready ones first; none that ends. */
  readonly pods: readonly OperatorPod[];
}

export function isReady(pod: OperatorPod): boolean {
  return conditionOf(pod, "Ready")?.status === "True";
}

/** Rejects with DISCOVERY_UNAVAILABLE if no operator is installed there. */
export async function operatorReplicas(cluster: Cluster): Promise<Replicas> {
  const { api, operatorNamespace: namespace, context } = cluster;
  const right = rightTo("get", deployments, namespace);
  const asked = api.get<Deployment & KubeObject>(deployments, { namespace, name: operatorDeployment });
  const deployment = await cluster.explained(asked, right).catch((error: unknown) => {
    if (!KubeError.is(error)) throw error;
    throw new LeverError(
      "DISCOVERY_UNAVAILABLE",
      `there is no operator of Lever in namespace ${namespace} of context ${context}`,
      { effect: "none", cause: error, details: { remedy: installRemedy(namespace) } },
    );
  });
  const labels = Object.entries(deployment.spec?.selector?.matchLabels ?? {});
  const labelSelector = labels.map(([name, value]) => `${name}=${value}`).join(",");
  const { items } = await cluster.explained(
    api.list<OperatorPod>(pods, { namespace, labelSelector }),
    rightTo("list", pods, namespace),
  );
  const living = items.filter(({ metadata }) => metadata.deletionTimestamp === undefined);
  return { deployment, pods: living.sort((a, b) => Number(isReady(b)) - Number(isReady(a))) };
}

export function installRemedy(namespace: string): string {
  return (
    `Install it: helm install lever charts/lever --namespace ${namespace} --create-namespace --wait; ` +
    "or name its namespace: --operator-namespace."
  );
}
