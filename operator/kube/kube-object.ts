/**
 * Objects of the Kubernetes API as JSON has them, and where each kind of them lives.
 *
 * Objects are never put through the client library's serializer: dates stay strings, fields that are not in its model
 * stay, and nothing is copied.
 */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";

export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller?: boolean;
  readonly blockOwnerDeletion?: boolean;
}

export interface ObjectMeta {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  /** Opaque: only compared for equality. */
  readonly resourceVersion?: string;
  readonly generation?: number;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly ownerReferences?: readonly OwnerReference[];
  readonly finalizers?: readonly string[];
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
  readonly managedFields?: readonly unknown[];
}

export interface KubeObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: ObjectMeta;
}

/** A page of a list, or all of it. */
export interface KubeList<T> {
  readonly metadata: { readonly resourceVersion: string; readonly continue?: string };
  readonly items: readonly T[];
}

export interface WatchEvent<T> {
  readonly type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK";
  /** Of a bookmark only `metadata.resourceVersion` means anything. */
  readonly object: T;
}

/** A type of the client library (`V1Pod`) as JSON has it: a date is a string. */
export type Json<T> = T extends Date
  ? string
  : T extends readonly (infer Item)[]
    ? readonly Json<Item>[]
    : T extends object
      ? { readonly [Field in keyof T]: Json<T[Field]> }
      : T;

/** An object as the API server gives it out: `Served<V1Pod>`. */
export type Served<T> = Omit<Json<T>, "metadata"> & KubeObject;

export interface ResourceKind {
  /** Empty: the core group. */
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  readonly plural: string;
  readonly isNamespaced: boolean;
}

/** Which object of a kind. */
export interface ObjectName {
  /** Of a kind that has namespaces. */
  readonly namespace?: string | undefined;
  readonly name: string;
}

export function resourceKind(group: string, version: string, kind: string, plural: string): ResourceKind {
  return { group, version, kind, plural, isNamespaced: true };
}

export const leverServices = resourceKind("leveros.dev", "v1alpha1", "LeverService", "leverservices");
export const leverEndpointTables = resourceKind("leveros.dev", "v1alpha1", "LeverEndpointTable", "leverendpointtables");
export const replicaSets = resourceKind("apps", "v1", "ReplicaSet", "replicasets");
export const nodes: ResourceKind = { group: "", version: "v1", kind: "Node", plural: "nodes", isNamespaced: false };
export const pods = resourceKind("", "v1", "Pod", "pods");
export const deployments = resourceKind("apps", "v1", "Deployment", "deployments");
export const leases = resourceKind("coordination.k8s.io", "v1", "Lease", "leases");
export const events = resourceKind("events.k8s.io", "v1", "Event", "events");

export function apiVersionOf({ group, version }: ResourceKind): string {
  return group === "" ? version : `${group}/${version}`;
}

/**
 * The path of an object, of its `subresource`, or, without a name, of the kind's objects (in one namespace or in all).
 * Throws INVALID_OPTION for a name that is not one, before it could become another path.
 */
export function resourcePath(
  kind: ResourceKind,
  { namespace, name }: { namespace?: string | undefined; name?: string | undefined },
  subresource?: string,
): string {
  const { group, version, plural, isNamespaced } = kind;
  if (name !== undefined && isNamespaced !== (namespace !== undefined)) {
    throw new LeverError(
      "INVALID_OPTION",
      `${kind.kind} ${JSON.stringify(name)}: ${isNamespaced ? "a namespace is missing" : "the kind has no namespaces"}`,
    );
  }
  let path = group === "" ? `/api/${version}` : `/apis/${group}/${version}`;
  if (namespace !== undefined) path += `/namespaces/${segment(kind, "namespace", namespace)}`;
  path += `/${plural}`;
  if (name !== undefined) path += `/${segment(kind, "name", name)}`;
  return subresource === undefined ? path : `${path}/${subresource}`;
}

/** They are as large as the rest of a pod, and nobody here reads them. */
export function withoutManagedFields<T extends KubeObject>(object: T): T {
  if (object.metadata.managedFields === undefined) return object;
  const { managedFields: _, ...metadata } = object.metadata;
  return { ...object, metadata };
}

function segment(kind: ResourceKind, field: string, value: string): string {
  if (value === "" || value === "." || value === ".." || value.includes("/")) {
    throw new LeverError(
      "INVALID_OPTION",
      `${kind.kind}: the ${field} is ${JSON.stringify(value)}, expected a name of Kubernetes`,
    );
  }
  return encodeURIComponent(value);
}
