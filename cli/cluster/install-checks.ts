/** `lever check --pre`: whether the chart can be installed. */

import { KubeError } from "@leveros/operator/kube/kube-error.ts";
import { deployments, type KubeObject, type ResourceKind } from "@leveros/operator/kube/kube-object.ts";
import type { CheckList } from "../check-list.ts";
import { apiServerChecks, definitionChecks, nodeClockChecks, shortList } from "./api-server-checks.ts";
import { type Cluster, type Right, rightTo } from "./cluster.ts";
import {
  clusterGrants,
  clusterObjects,
  insteadOfClusterGrants,
  insteadOfNamespacedGrants,
  namespacedGrants,
  namespacedObjects,
  waitRights,
} from "./install-rights.ts";
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

export async function installChecks(list: CheckList, cluster: Cluster): Promise<void> {
  const clock = await apiServerChecks(list, cluster);
  if (clock === undefined) return;
  const { operatorNamespace: namespace } = cluster;
  const exists = await namespaceChecks(list, cluster);

  list.heading("rights-to-install");
  const createNamespace: Right = { verbs: ["create"], group: "", resource: "namespaces" };
  if (!exists) await rightsCheck(list, cluster, `create namespace ${namespace}`, [createNamespace]);
  await rightsCheck(list, cluster, "create CRDs and cluster roles", clusterObjects);
  const inside = (rights: readonly Right[]) => rights.map((right) => ({ ...right, namespace }));
  const objects = inside([...namespacedObjects, ...waitRights]);
  await rightsCheck(list, cluster, `create the chart's objects in ${namespace}`, objects);
  const what = "grant the operator its rights";
  await rightsCheck(list, cluster, what, clusterGrants, insteadOfClusterGrants);
  const instead = inside(insteadOfNamespacedGrants);
  await rightsCheck(list, cluster, `${what} in ${namespace}`, inside(namespacedGrants), instead);

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

/** One check for all of them; all of `instead` would do too. */
async function rightsCheck(
  list: CheckList,
  cluster: Cluster,
  what: string,
  rights: readonly Right[],
  instead: readonly Right[] = [],
): Promise<void> {
  await list.look(`you may ${what}`, async () => {
    if (instead.length > 0 && (await missingOf(cluster, instead)).length === 0) return undefined;
    const missing = await missingOf(cluster, rights);
    if (missing.length === 0) return undefined;
    const texts = missing.map(({ verbs, group, resource, name }) => {
      const which = name === undefined ? "" : ` ${name}`;
      return `${verbs.join("/")} ${group === "" ? resource : `${resource}.${group}`}${which}`;
    });
    return { failed: `You may not ${shortList(texts)}. Have a cluster's admin install it, or grant you that.` };
  });
}

/** Those of `rights`, with those of their verbs, that are not allowed. */
async function missingOf(cluster: Cluster, rights: readonly Right[]): Promise<Right[]> {
  const answers = rights.map(async (right) => {
    const allowed = await Promise.all(right.verbs.map((verb) => isAllowed(cluster, right, verb)));
    return { ...right, verbs: right.verbs.filter((_, index) => allowed[index] !== true) };
  });
  return (await Promise.all(answers)).filter(({ verbs }) => verbs.length > 0);
}

async function isAllowed(cluster: Cluster, right: Right, verb: string): Promise<boolean> {
  const { group, name, namespace } = right;
  const [resource, subresource] = right.resource.split("/");
  const review = {
    metadata: {} as KubeObject["metadata"],
    spec: {
      resourceAttributes: {
        verb,
        group,
        resource,
        ...(subresource !== undefined && { subresource }),
        ...(name !== undefined && { name }),
        ...(namespace !== undefined && { namespace }),
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
