/** `lever check --pre`: whether the chart can be installed. */

import { KubeError } from "@leveros/operator/kube/kube-error.ts";
import { deployments, type KubeObject, type ResourceKind } from "@leveros/operator/kube/kube-object.ts";
import type { CheckList } from "../check-list.ts";
import { apiServerChecks, definitionChecks, nodeClockChecks, shortList } from "./api-server-checks.ts";
import { type Cluster, type Right, rightTo } from "./cluster.ts";
import { operatorDeployment } from "./operator-pods.ts";

const namespaces: ResourceKind = {
  group: "",
  version: "v1",
  kind: "Namespace",
  plural: "namespaces",
  isNamespaced: false,
};

const accessReviews: ResourceKind = {
  group: "authorization.k8s.io",
  version: "v1",
  kind: "SelfSubjectAccessReview",
  plural: "selfsubjectaccessreviews",
  isNamespaced: false,
};

/** What the chart has, besides the namespace. */
const clusterKinds: readonly (readonly [group: string, resource: string])[] = [
  ["apiextensions.k8s.io", "customresourcedefinitions"],
  ["rbac.authorization.k8s.io", "clusterroles"],
  ["rbac.authorization.k8s.io", "clusterrolebindings"],
];
const namespacedKinds: readonly (readonly [group: string, resource: string])[] = [
  ["apps", "deployments"],
  ["", "services"],
  ["", "serviceaccounts"],
  ["", "secrets"],
  ["rbac.authorization.k8s.io", "roles"],
  ["rbac.authorization.k8s.io", "rolebindings"],
  ["policy", "poddisruptionbudgets"],
];
/** What the operator's ClusterRole gives: nobody may give what he does not have, unless he may `escalate`. */
const operatorRights: readonly Right[] = [
  { verbs: ["watch"], group: "leveros.dev", resource: "leverservices" },
  { verbs: ["patch"], group: "leveros.dev", resource: "leverservices/status" },
  { verbs: ["update"], group: "leveros.dev", resource: "leverendpointtables" },
  { verbs: ["patch"], group: "apps", resource: "deployments" },
  { verbs: ["watch"], group: "apps", resource: "replicasets" },
  { verbs: ["watch"], group: "", resource: "pods" },
  { verbs: ["watch"], group: "", resource: "nodes" },
  { verbs: ["create"], group: "", resource: "configmaps" },
  { verbs: ["create"], group: "events.k8s.io", resource: "events" },
  { verbs: ["create"], group: "authentication.k8s.io", resource: "tokenreviews" },
];
const escalate: Right = { verbs: ["escalate"], group: "rbac.authorization.k8s.io", resource: "clusterroles" };

export async function installChecks(list: CheckList, cluster: Cluster): Promise<void> {
  const clock = await apiServerChecks(list, cluster);
  if (clock === undefined) return;
  const { operatorNamespace: namespace } = cluster;
  const exists = await namespaceChecks(list, cluster);

  list.heading("rights-to-install");
  if (!exists) await rightsCheck(list, cluster, `create namespace ${namespace}`, [create("", "namespaces")]);
  const whole = clusterKinds.map(([group, resource]) => create(group, resource));
  await rightsCheck(list, cluster, "create CRDs and cluster roles", whole);
  const inside = namespacedKinds.map(([group, resource]) => create(group, resource, namespace));
  await rightsCheck(list, cluster, `create the chart's objects in ${namespace}`, inside);
  await rightsCheck(list, cluster, "grant the operator its rights", operatorRights, escalate);

  await definitionChecks(list, cluster, false);
  await nodeClockChecks(list, cluster, clock);
}

/** Whether the namespace exists. */
async function namespaceChecks(list: CheckList, cluster: Cluster): Promise<boolean> {
  const { api, operatorNamespace: name } = cluster;
  list.heading("namespace");
  let labels: Readonly<Record<string, string>> | undefined;
  await list.look(`namespace ${name} is free, or Lever's own`, async () => {
    let found: KubeObject;
    try {
      found = await cluster.explained(api.get<KubeObject>(namespaces, { name }), rightTo("get", namespaces));
    } catch (error) {
      if (KubeError.is(error)) return undefined;
      throw error;
    }
    labels = found.metadata.labels ?? {};
    if (found.metadata.deletionTimestamp !== undefined)
      return { failed: "It is being deleted: wait until it is gone." };
    const right = rightTo("get", deployments, name);
    const asked = api.get<KubeObject>(deployments, { namespace: name, name: operatorDeployment });
    const operator = await cluster.explained(asked, right).catch((error: unknown) => {
      if (KubeError.is(error)) return undefined;
      throw error;
    });
    if (operator === undefined) return undefined;
    return { warning: "Lever is installed there: upgrade it by helm upgrade, and look at it by lever check." };
  });
  if (labels === undefined) return false;
  const level = labels["pod-security.kubernetes.io/enforce"] ?? "privileged";
  const isKnown = ["privileged", "baseline", "restricted"].includes(level);
  list.say(
    `its Pod Security level, ${level}, takes Lever's pods`,
    isKnown ? undefined : { failed: "The label pod-security.kubernetes.io/enforce is none that Kubernetes knows." },
  );
  return true;
}

/** One check for all of them; `instead` would do too. */
async function rightsCheck(
  list: CheckList,
  cluster: Cluster,
  what: string,
  rights: readonly Right[],
  instead?: Right,
): Promise<void> {
  await list.look(`you may ${what}`, async () => {
    if (instead !== undefined && (await isAllowed(cluster, instead))) return undefined;
    const answers = await Promise.all(rights.map((right) => isAllowed(cluster, right)));
    const missing = rights.filter((_, index) => answers[index] !== true);
    if (missing.length === 0) return undefined;
    const texts = missing.map(
      ({ verbs, group, resource }) => `${verbs[0]} ${group === "" ? resource : `${resource}.${group}`}`,
    );
    return { failed: `You may not ${shortList(texts)}. Have a cluster's admin install it, or grant you that.` };
  });
}

async function isAllowed(cluster: Cluster, right: Right): Promise<boolean> {
  const [resource, subresource] = right.resource.split("/");
  const review = {
    metadata: {} as KubeObject["metadata"],
    spec: {
      resourceAttributes: {
        verb: right.verbs[0],
        group: right.group,
        resource,
        ...(subresource !== undefined && { subresource }),
        ...(right.namespace !== undefined && { namespace: right.namespace }),
      },
    },
  };
  const asked = cluster.api.create<KubeObject & { readonly status?: { readonly allowed?: boolean } }>(
    accessReviews,
    review,
  );
  const { status } = await cluster.explained(asked, rightTo("create", accessReviews));
  return status?.allowed === true;
}

function create(group: string, resource: string, namespace?: string): Right {
  return { verbs: ["create"], group, resource, namespace };
}
