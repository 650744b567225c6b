/**
 * What whoever installs the chart has to be allowed to: the objects that it is made of, and what its roles grant, since
 * nobody may grant what he does not have. The test compares it with the chart's templates. Parts that are off unless asked
 * for (NetworkPolicies, ServiceMonitors) are not in it.
 */

import type { Right } from "./cluster.ts";

/** Helm looks whether an object is there, makes it, changes it with an upgrade, and takes it away. */
const byHelm = ["get", "create", "patch", "delete"];

export const clusterObjects: readonly Right[] = [
  { verbs: byHelm, group: "apiextensions.k8s.io", resource: "customresourcedefinitions" },
  { verbs: byHelm, group: "rbac.authorization.k8s.io", resource: "clusterroles" },
  { verbs: byHelm, group: "rbac.authorization.k8s.io", resource: "clusterrolebindings" },
];

/** In the release's namespace. */
export const namespacedObjects: readonly Right[] = [
  { verbs: byHelm, group: "", resource: "serviceaccounts" },
  { verbs: byHelm, group: "", resource: "services" },
  // Releases too.
  { verbs: [...byHelm, "list", "update"], group: "", resource: "secrets" },
  { verbs: byHelm, group: "apps", resource: "deployments" },
  { verbs: byHelm, group: "policy", resource: "poddisruptionbudgets" },
  { verbs: byHelm, group: "rbac.authorization.k8s.io", resource: "roles" },
  { verbs: byHelm, group: "rbac.authorization.k8s.io", resource: "rolebindings" },
];

/** What `--wait` goes by, beside the objects themselves. */
export const waitRights: readonly Right[] = [{ verbs: ["list"], group: "apps", resource: "replicasets" }];

/** By the ClusterRoles `lever-operator`, `lever-view` and `lever-edit`. */
export const clusterGrants: readonly Right[] = [
  {
    verbs: ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
    group: "leveros.dev",
    resource: "leverservices",
  },
  { verbs: ["get", "list", "watch", "patch"], group: "leveros.dev", resource: "leverservices/status" },
  { verbs: ["get", "list", "watch", "update", "patch"], group: "leveros.dev", resource: "leverservices/scale" },
  { verbs: ["update"], group: "leveros.dev", resource: "leverservices/finalizers" },
  {
    verbs: ["get", "list", "watch", "create", "update", "patch", "delete"],
    group: "leveros.dev",
    resource: "leverendpointtables",
  },
  { verbs: ["get", "list", "watch", "create", "patch"], group: "apps", resource: "deployments" },
  { verbs: ["list", "watch"], group: "apps", resource: "replicasets" },
  { verbs: ["list", "watch"], group: "", resource: "pods" },
  { verbs: ["list", "watch"], group: "", resource: "nodes" },
  { verbs: ["create"], group: "", resource: "configmaps" },
  { verbs: ["get", "list", "watch", "patch", "delete"], group: "", resource: "configmaps", name: "lever-trust" },
  { verbs: ["create"], group: "authentication.k8s.io", resource: "tokenreviews" },
  { verbs: ["create", "patch"], group: "events.k8s.io", resource: "events" },
];

/** By the Role `lever-operator`, in the release's namespace. */
export const namespacedGrants: readonly Right[] = [
  { verbs: ["create"], group: "coordination.k8s.io", resource: "leases" },
  { verbs: ["get", "update"], group: "coordination.k8s.io", resource: "leases", name: "lever-operator" },
  { verbs: ["get", "list", "watch", "update"], group: "", resource: "secrets", name: "lever-identity" },
];

/** Who may both may grant and bind anything: then the grants need not be his own. */
export const insteadOfClusterGrants: readonly Right[] = [
  { verbs: ["escalate", "bind"], group: "rbac.authorization.k8s.io", resource: "clusterroles" },
];
export const insteadOfNamespacedGrants: readonly Right[] = [
  { verbs: ["escalate", "bind"], group: "rbac.authorization.k8s.io", resource: "roles" },
];
