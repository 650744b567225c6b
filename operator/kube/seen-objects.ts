/**
 * What is kept of the objects that are watched: what the reconcilers read, and nothing else. Memory is what grows with the
 * cluster, and of a pod most is never looked at.
 */

import type { KubeObject, ObjectMeta } from "./kube-object.ts";
import type {
  ContainerState,
  ContainerStatus,
  Deployment,
  LeverServiceObject,
  ObjectCondition,
  Pod,
  PodContainer,
  ReplicaSet,
} from "./reconcile/kubernetes-object.ts";
import { appContainerAnnotation, serviceLabel } from "./reconcile/wanted-deployment.ts";
import { instancesDigest, type StoredEndpointTable, type TableSlotRun } from "./slot-table-object.ts";

/** An object as the API server gives it and as the reconcilers read it: both say the same of its metadata. */
export type Seen<T> = T & KubeObject;

/** What the controller asks of a `LeverEndpointTable`. */
export interface SeenTable extends KubeObject {
  /** The longest lease that the leader reckons with; undefined: it has not written the table yet. */
  readonly leaseMs: number | undefined;
  /** Id of an instance that was Serving → uid of its pod. */
  readonly serving: ReadonlyMap<string, string>;
  readonly slots: readonly TableSlotRun[];
  /** `instancesDigest`; undefined: nobody has written them yet. */
  readonly instances: string | undefined;
}

const revisionAnnotation = "deployment.kubernetes.io/revision";
const zoneLabel = "topology.kubernetes.io/zone";

export function seenService(object: Seen<LeverServiceObject>): Seen<LeverServiceObject> {
  const { metadata, spec, status } = object;
  return {
    metadata: withoutManaged(metadata),
    spec,
    ...(status !== undefined && { status }),
  } as Seen<LeverServiceObject>;
}

export function seenPod({ metadata, spec, status }: Seen<Pod>): Seen<Pod> {
  return {
    metadata: { ...identityOf(metadata), ...picked(metadata, serviceLabel, appContainerAnnotation) },
    spec: {
      ...(spec?.nodeName !== undefined && { nodeName: spec.nodeName }),
      ...(spec?.hostPID === true && { hostPID: true }),
      ...(spec?.shareProcessNamespace === true && { shareProcessNamespace: true }),
      initContainers: (spec?.initContainers ?? []).map(seenContainer),
      containers: (spec?.containers ?? []).map(seenContainer),
    },
    status: {
      ...(status?.phase !== undefined && { phase: status.phase }),
      ...(status?.reason !== undefined && { reason: status.reason }),
      ...(status?.podIP !== undefined && { podIP: status.podIP }),
      conditions: (status?.conditions ?? []).map(seenCondition),
      initContainerStatuses: (status?.initContainerStatuses ?? []).map(seenContainerStatus),
      containerStatuses: (status?.containerStatuses ?? []).map(seenContainerStatus),
    },
  } as Seen<Pod>;
}

export function seenDeployment({ metadata, spec, status }: Seen<Deployment>): Seen<Deployment> {
  const annotations = spec?.template?.metadata?.annotations;
  return {
    metadata: withoutManaged(metadata),
    spec: {
      ...(spec?.replicas !== undefined && { replicas: spec.replicas }),
      // Of the template only what `kubectl rollout restart` writes is read.
      ...(annotations !== undefined && { template: { metadata: { annotations } } }),
    },
    ...(status !== undefined && {
      status: { ...status, ...(status.conditions && { conditions: status.conditions.map(seenCondition) }) },
    }),
  } as Seen<Deployment>;
}

export function seenReplicaSet({ metadata, status }: Seen<ReplicaSet>): Seen<ReplicaSet> {
  return {
    metadata: { ...identityOf(metadata), ...picked(metadata, serviceLabel, revisionAnnotation) },
    status: {
      ...(status?.replicas !== undefined && { replicas: status.replicas }),
      conditions: (status?.conditions ?? []).map(seenCondition),
    },
  } as Seen<ReplicaSet>;
}

export function seenNode({ metadata }: KubeObject): KubeObject {
  return { metadata: { ...identityOf(metadata), ...picked(metadata, zoneLabel) } };
}

export function zoneOfNode(node: KubeObject | undefined): string | undefined {
  return node?.metadata.labels?.[zoneLabel] || undefined;
}

export function seenTable(table: StoredEndpointTable): SeenTable {
  const { metadata, instances, servingInstances = 0, slots = [], ownership } = table;
  const serving = (instances ?? []).filter(({ state }) => state === "Serving");
  return {
    metadata: identityOf(metadata),
    leaseMs: ownership?.leaseMs,
    serving: new Map(serving.map(({ id, podUid }) => [id, podUid ?? ""])),
    slots,
    instances: instances && instancesDigest(instances, servingInstances),
  };
}

function identityOf(metadata: ObjectMeta): ObjectMeta {
  const { name, namespace, uid, resourceVersion, generation, ownerReferences, creationTimestamp } = metadata;
  return {
    name,
    ...(namespace !== undefined && { namespace }),
    ...(uid !== undefined && { uid }),
    ...(resourceVersion !== undefined && { resourceVersion }),
    ...(generation !== undefined && { generation }),
    ...(ownerReferences !== undefined && { ownerReferences }),
    ...(creationTimestamp !== undefined && { creationTimestamp }),
    ...(metadata.deletionTimestamp !== undefined && { deletionTimestamp: metadata.deletionTimestamp }),
  };
}

function withoutManaged({ managedFields: _, ...metadata }: ObjectMeta): ObjectMeta {
  return metadata;
}

/** The labels and annotations of these names. */
function picked({ labels, annotations }: ObjectMeta, ...names: string[]): Pick<ObjectMeta, "labels" | "annotations"> {
  const pick = (from: Readonly<Record<string, string>> | undefined) =>
    Object.fromEntries(names.flatMap((name) => (from?.[name] === undefined ? [] : [[name, from[name]]])));
  return { labels: pick(labels), annotations: pick(annotations) };
}

function seenContainer({ name, image, restartPolicy }: PodContainer): PodContainer {
  return { name, ...(image !== undefined && { image }), ...(restartPolicy !== undefined && { restartPolicy }) };
}

function seenCondition({ type, status, reason, message, lastTransitionTime }: ObjectCondition): ObjectCondition {
  return {
    type,
    status,
    ...(reason !== undefined && { reason }),
    ...(message !== undefined && { message }),
    ...(lastTransitionTime !== undefined && { lastTransitionTime }),
  };
}

function seenContainerStatus(status: ContainerStatus): ContainerStatus {
  const { name, image, ready, started, restartCount, state, lastState } = status;
  return {
    name,
    ...(image !== undefined && { image }),
    ...(ready !== undefined && { ready }),
    ...(started !== undefined && { started }),
    ...(restartCount !== undefined && { restartCount }),
    ...(state !== undefined && { state: state as ContainerState }),
    ...(lastState !== undefined && { lastState: lastState as ContainerState }),
  };
}
