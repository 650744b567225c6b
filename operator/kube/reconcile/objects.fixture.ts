/** Kubernetes' objects for tests, as a cluster gives them: from YAML, or with what matters changed. */

import { parse } from "yaml";
import type {
  ContainerStatus,
  Deployment,
  LeverServiceObject,
  ObjectMeta,
  Pod,
  ReplicaSet,
} from "./kubernetes-object.ts";
import type { AgentSettings } from "./wanted-deployment.ts";

export const settings: AgentSettings = {
  image: "example.org/lever/agent:0.1.0",
  operator: "operator.lever-system.svc:3837",
  tokenAudience: "lever-operator",
  resources: { requests: { cpu: "20m", memory: "64Mi" }, limits: { memory: "128Mi" } },
  runAsUser: 65_532,
  drainKey: "key",
};

export const serviceUid = "5b3d0a4e-7f6a-4a77-8a9d-0a4c1f8f6d11";

export const hello = `
template: { spec: { containers: [{ name: app, image: "example.org/hello:1.0.0" }] } }
`;

/** A LeverService whose spec is this YAML. */
export function serviceObject(spec: string, meta: Partial<ObjectMeta> = {}): LeverServiceObject {
  return {
    metadata: { name: "hello", namespace: "shop", uid: serviceUid, generation: 1, ...meta },
    spec: parse(spec),
  };
}

/** What the API server adds to a Deployment that was applied. */
export function stored(object: Deployment, status: Deployment["status"] = {}): Deployment {
  const copy = structuredClone(object) as Required<Deployment>;
  const template = copy.spec.template as { spec: Record<string, unknown> };
  const containers = template.spec["containers"] as Record<string, unknown>[];
  return {
    ...copy,
    metadata: { ...copy.metadata, uid: "dep-uid", generation: 1, resourceVersion: "7" },
    spec: {
      ...copy.spec,
      template: {
        ...template,
        spec: {
          ...template.spec,
          containers: containers.map((container) => ({ imagePullPolicy: "IfNotPresent", ...container })),
          restartPolicy: "Always",
          dnsPolicy: "ClusterFirst",
        },
      },
    },
    status,
  };
}

export const minute = 60_000;
export const startedAt = Date.parse("2026-03-01T12:00:00Z");

/** In whole seconds, as the API writes times. */
export function at(ms: number): string {
  return new Date(Math.floor((startedAt + ms) / 1000) * 1000).toISOString().replace(".000Z", "Z");
}

export function running(name: string, startedMs = 0, fields: Partial<ContainerStatus> = {}): ContainerStatus {
  return {
    name,
    ready: true,
    started: true,
    restartCount: 0,
    state: { running: { startedAt: at(startedMs) } },
    ...fields,
  };
}

export interface PodShape {
  readonly name?: string;
  readonly replicaSet?: string;
  readonly app?: ContainerStatus;
  readonly agent?: ContainerStatus;
  readonly ready?: boolean;
  /** When Ready last changed. */
  readonly readyMs?: number;
  readonly meta?: Partial<ObjectMeta>;
  readonly spec?: Partial<NonNullable<Pod["spec"]>>;
  readonly status?: Partial<NonNullable<Pod["status"]>>;
}

/** A pod of `hello` that runs and is Ready, but for what is said. */
export function pod(shape: PodShape = {}): Pod {
  const { name = "hello-1-aaaaa", replicaSet = "hello-1", ready = true, readyMs = 2000 } = shape;
  return {
    metadata: {
      name,
      namespace: "shop",
      uid: `uid-${name}`,
      labels: { "leveros.dev/service": "hello" },
      creationTimestamp: at(0),
      ownerReferences: [
        { apiVersion: "apps/v1", kind: "ReplicaSet", name: replicaSet, uid: `uid-${replicaSet}`, controller: true },
      ],
      ...shape.meta,
    },
    spec: {
      nodeName: "node-1",
      initContainers: [{ name: "lever-agent", image: "agent:1", restartPolicy: "Always" }],
      containers: [{ name: "app", image: "example.org/hello:1.0.0" }],
      ...shape.spec,
    },
    status: {
      phase: "Running",
      podIP: "10.244.1.7",
      conditions: [
        { type: "PodScheduled", status: "True", lastTransitionTime: at(0) },
        {
          type: "Ready",
          status: ready ? "True" : "False",
          ...(!ready && { reason: "ContainersNotReady" }),
          lastTransitionTime: at(readyMs),
        },
      ],
      initContainerStatuses: [shape.agent ?? running("lever-agent", 0)],
      containerStatuses: [shape.app ?? running("app", 1000)],
      ...shape.status,
    },
  };
}

export function replicaSet(name: string, revision: number, fields: Partial<ReplicaSet> = {}): ReplicaSet {
  return {
    metadata: {
      name,
      namespace: "shop",
      uid: `uid-${name}`,
      annotations: { "deployment.kubernetes.io/revision": String(revision) },
      ownerReferences: [{ apiVersion: "apps/v1", kind: "Deployment", name: "hello", uid: "dep-uid", controller: true }],
    },
    ...fields,
  };
}
