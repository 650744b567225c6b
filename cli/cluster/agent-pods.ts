/** Pods with an agent that calls can be made through. */

import { agentContainerName } from "@leveros/operator/api/v1alpha1/lever-service.ts";
import { type KubeObject, pods } from "@leveros/operator/kube/kube-object.ts";
import { conditionOf, type Pod } from "@leveros/operator/kube/reconcile/kubernetes-object.ts";
import { statusOf } from "@leveros/operator/kube/reconcile/process-end.ts";
import { serviceLabel } from "@leveros/operator/kube/reconcile/wanted-deployment.ts";
import { LeverError } from "leveros";
import { type Cluster, rightTo } from "./cluster.ts";

export type FoundPod = Pod & KubeObject & { readonly metadata: { readonly namespace: string } };

const podsMax = 500;

/**
 * The best first: ready ones of the service, then ready ones of others, then those whose agent at least runs; among equals
 * in an order by chance. Rejects with AGENT_UNREACHABLE if there are none.
 */
export async function agentPods(
  cluster: Cluster,
  namespace: string,
  service: string,
  random: () => number = Math.random,
): Promise<FoundPod[]> {
  const { items } = await cluster.explained(
    cluster.api.list<FoundPod>(pods, { namespace, labelSelector: serviceLabel, limit: podsMax }),
    rightTo("list", pods, namespace),
  );
  const ranked = items
    .map((pod) => ({ pod, rank: rankOf(pod, service), chance: random() }))
    .filter(({ rank }) => rank > 0)
    .sort((a, b) => b.rank - a.rank || a.chance - b.chance);
  if (ranked.length > 0) return ranked.map(({ pod }) => pod);
  throw new LeverError(
    "AGENT_UNREACHABLE",
    `no pod in namespace ${namespace} of context ${cluster.context} has an agent of Lever that runs: there is none to call through`,
    {
      effect: "none",
      details: {
        remedy: `See what there is by \`kubectl get lsvc,pods -n ${namespace}\`, or name another namespace by -n or in the URL.`,
      },
    },
  );
}

function rankOf(pod: FoundPod, service: string): number {
  if (pod.metadata.deletionTimestamp !== undefined || statusOf(pod, agentContainerName)?.started !== true) return 0;
  if (conditionOf(pod, "Ready")?.status !== "True") return 1;
  return pod.metadata.labels?.[serviceLabel] === service ? 3 : 2;
}
