/**
 * Kubernetes' objects, as far as the reconcilers read and write them: what they name here is all that they depend on.
 * Field names, optionality and meanings are those of the API (apps/v1, v1).
 */

import type { LeverServiceStatus } from "../../api/v1alpha1/lever-service.ts";

/** As the API writes it (RFC 3339, whole seconds), or as a client has parsed it. */
export type Timestamp = string | Date;

export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller?: boolean;
  readonly blockOwnerDeletion?: boolean;
}

export interface ObjectMeta {
  readonly name?: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly generation?: number;
  readonly resourceVersion?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly ownerReferences?: readonly OwnerReference[];
  readonly creationTimestamp?: Timestamp;
  readonly deletionTimestamp?: Timestamp;
}

export interface ObjectCondition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
  readonly message?: string;
  readonly lastTransitionTime?: Timestamp;
}

/** A LeverService as the API server gives it: defaults are filled in, nothing is parsed. */
export interface LeverServiceObject {
  readonly metadata: ObjectMeta;
  readonly spec?: unknown;
  readonly status?: LeverServiceStatus;
}

export interface PodTemplateSpec {
  readonly metadata?: Pick<ObjectMeta, "labels" | "annotations">;
  readonly spec?: Readonly<Record<string, unknown>>;
}

export interface Deployment {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: ObjectMeta;
  readonly spec?: {
    readonly replicas?: number;
    readonly selector?: { readonly matchLabels?: Readonly<Record<string, string>> };
    readonly template?: PodTemplateSpec;
  };
  readonly status?: {
    readonly observedGeneration?: number;
    readonly replicas?: number;
    readonly updatedReplicas?: number;
    readonly availableReplicas?: number;
    readonly conditions?: readonly ObjectCondition[];
  };
}

export interface ReplicaSet {
  readonly metadata: ObjectMeta;
  readonly status?: {
    readonly replicas?: number;
    readonly conditions?: readonly ObjectCondition[];
  };
}

export interface TerminatedState {
  readonly exitCode?: number;
  readonly signal?: number;
  readonly reason?: string;
  readonly message?: string;
  readonly startedAt?: Timestamp;
  /** Missing where nobody saw the end. */
  readonly finishedAt?: Timestamp;
}

/** One of the three; none of them: waiting. */
export interface ContainerState {
  readonly waiting?: { readonly reason?: string; readonly message?: string };
  readonly running?: { readonly startedAt?: Timestamp };
  readonly terminated?: TerminatedState;
}

export interface ContainerStatus {
  readonly name: string;
  readonly image?: string;
  readonly ready?: boolean;
  readonly started?: boolean;
  readonly restartCount?: number;
  readonly state?: ContainerState;
  /** Of the container before this one. */
  readonly lastState?: ContainerState;
}

export interface PodContainer {
  readonly name: string;
  readonly image?: string;
  /** `Always` on an init container: a sidecar. */
  readonly restartPolicy?: string;
}

export interface Pod {
  readonly metadata: ObjectMeta;
  readonly spec?: {
    readonly nodeName?: string;
    readonly hostPID?: boolean;
    readonly shareProcessNamespace?: boolean;
    readonly initContainers?: readonly PodContainer[];
    readonly containers?: readonly PodContainer[];
  };
  readonly status?: {
    readonly phase?: string;
    readonly reason?: string;
    readonly podIP?: string;
    readonly conditions?: readonly ObjectCondition[];
    readonly initContainerStatuses?: readonly ContainerStatus[];
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

/** Wall-clock ms; undefined for none, or for what is no time. */
export function timestampMs(timestamp: Timestamp | undefined): number | undefined {
  if (timestamp === undefined || timestamp === null) return undefined;
  const ms = new Date(timestamp).getTime();
  return Number.isNaN(ms) ? undefined : ms;
}

export function conditionOf(
  object: { readonly status?: { readonly conditions?: readonly ObjectCondition[] } } | undefined,
  type: string,
): ObjectCondition | undefined {
  return object?.status?.conditions?.find((condition) => condition.type === type);
}

/** Who controls the object: an object has one controller at most. */
export function controllerOf({ metadata }: { readonly metadata: ObjectMeta }): OwnerReference | undefined {
  return metadata.ownerReferences?.find(({ controller }) => controller === true);
}
