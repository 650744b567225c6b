/**
 * A cluster's operator, as the commands ask it: by a port-forward to one of its replicas, and to the one that leads where
 * only that one knows. Questions may be repeated, and are, when a replica goes. What changes something is done at the API
 * server, with the rights of who asks.
 */

import { setTimeout as sleep } from "node:timers/promises";
import type {
  EndpointsReport,
  EvictReport,
  ScaleReport,
  ServicesReport,
} from "@leveros/operator/admin/admin-report.ts";
import { KubeError } from "@leveros/operator/kube/kube-error.ts";
import { type KubeObject, leverServices, pods } from "@leveros/operator/kube/kube-object.ts";
import { type Client, LeverError } from "leveros";
import { type Operator, operatorUrl } from "../operator.ts";
import { type Cluster, type Right, rightTo } from "./cluster.ts";
import { type ForwardedPod, forwardedClient } from "./forwarded-client.ts";
import { isReady, operatorReplicas } from "./operator-pods.ts";

const askTimeoutMs = 10_000;
/** An election takes some seconds. */
const leaderWaitMs = 15_000;
const pauseMs = 500;
/** Replicas that are tried when one is gone. */
const goneMax = 4;
const evictPauseMs = 500;
/** An instance has the grace period to end, but another one is there long before. */
const evictTimeoutMs = 90_000;

export class ClusterOperator implements Operator, AsyncDisposable {
  readonly home: string;
  readonly #cluster: Cluster;
  readonly #signal: AbortSignal;
  /** By the pod's name. */
  readonly #clients = new Map<string, Client>();
  #replica: ForwardedPod | undefined;

  constructor(cluster: Cluster, signal: AbortSignal) {
    this.#cluster = cluster;
    this.#signal = signal;
    this.home = cluster.namespace;
  }

  async ask<Report>(method: string, args: readonly unknown[] = [], timeoutMs = askTimeoutMs): Promise<Report> {
    const untilMs = performance.now() + Math.max(timeoutMs, leaderWaitMs);
    let leader: ForwardedPod | undefined;
    let gone = 0;
    for (;;) {
      const replica = leader ?? this.#replica ?? (await this.#anyReplica());
      try {
        const report = await this.askReplica<Report>(replica, method, args, timeoutMs);
        if (leader === undefined) this.#replica = replica;
        return report;
      } catch (error) {
        const { reason, details } = LeverError.from(error);
        const isGone = reason === "AGENT_UNREACHABLE" || reason === "CONNECTION_LOST" || reason === "DRAINING";
        if (!LeverError.is(error) || !(isGone || reason === "NOT_LEADER")) throw error;
        if (isGone) {
          await this.#forget(replica);
          gone++;
        }
        if (gone >= goneMax || performance.now() >= untilMs) throw error;
        const named = (details as { readonly leader?: unknown } | undefined)?.leader;
        leader =
          reason === "NOT_LEADER" && typeof named === "string" && named !== leader?.name
            ? { namespace: this.#cluster.operatorNamespace, name: named }
            : undefined;
        if (leader === undefined) await sleep(pauseMs, undefined, { signal: this.#signal }).catch(() => {});
        this.#signal.throwIfAborted();
      }
    }
  }

  /** This one's own answer. */
  async askReplica<Report>(
    replica: ForwardedPod,
    method: string,
    args: readonly unknown[] = [],
    timeoutMs = askTimeoutMs,
  ): Promise<Report> {
    let client = this.#clients.get(replica.name);
    if (client === undefined) {
      client = await forwardedClient({
        cluster: this.#cluster,
        name: `the operator's replica ${replica.name}`,
        environment: this.home,
        pods: async () => [replica],
      });
      this.#clients.set(replica.name, client);
    }
    return client.invoke<Report>(operatorUrl(method), args, { timeoutMs, signal: this.#signal });
  }

  /**
   * By the Eviction API, which heeds PodDisruptionBudgets. The pod's hook lets it end when what runs has ended and its
   * resources have moved. Resolves when another instance serves in its place.
   */
  async evict(instance: string, environment = this.home): Promise<EvictReport> {
    const { api } = this.#cluster;
    const before = await this.#instances(environment);
    const evicted = before.find(({ id }) => id === instance);
    if (evicted === undefined) {
      throw new LeverError(
        "INVALID_ARGUMENTS",
        `there is no instance ${instance} in namespace ${environment}; lever endpoints lists them`,
        { effect: "none", details: { instance } },
      );
    }
    const { service } = evicted;
    const eviction = {
      apiVersion: "policy/v1",
      kind: "Eviction",
      metadata: { namespace: environment, name: instance },
    };
    const asked = api.post(pods, eviction.metadata, "eviction", eviction).catch((error: unknown) => {
      if (!KubeError.is(error) || error.status !== 429) throw error;
      throw new LeverError(
        "OVERLOADED",
        `${instance} may not be evicted now: ${error.said?.message ?? error.message}`,
        {
          effect: "none",
          cause: error,
          details: { remedy: `Wait until more instances serve, or see \`kubectl get pdb -n ${environment}\`.` },
        },
      );
    });
    const right = rightTo("create", pods, environment, "eviction");
    await this.#found(asked, right, `pod ${instance}`);
    const untilMs = performance.now() + evictTimeoutMs;
    const known = new Set(before.map(({ id }) => id));
    for (;;) {
      const now = (await this.#instances(environment)).filter((each) => each.service === service);
      const replacement = now.find(({ id, state }) => state === "Serving" && !known.has(id));
      if (replacement !== undefined) return { environment, service, evicted: instance, replacement: replacement.id };
      if (performance.now() >= untilMs) {
        throw new LeverError(
          "DEADLINE_EXCEEDED",
          `${instance} was evicted, and after ${evictTimeoutMs / 1000} s no new instance of ${environment}/${service} serves`,
          {
            effect: "ran",
            details: { remedy: `\`lever endpoints ${environment}/${service}\` says what keeps the new one.` },
          },
        );
      }
      await sleep(evictPauseMs);
      this.#signal.throwIfAborted();
    }
  }

  /** As `kubectl scale` does it. */
  async scale(service: string, replicas: number, environment = this.home): Promise<ScaleReport> {
    const { api } = this.#cluster;
    const name = { namespace: environment, name: service };
    const what = `LeverService ${service}`;
    const right = rightTo("get", leverServices, environment);
    type Scaled = KubeObject & { readonly spec?: { readonly replicas?: number } };
    const found = await this.#found(api.get<Scaled>(leverServices, name), right, what);
    const patched = api.mergePatch(leverServices, name, { spec: { replicas } }, { subresource: "scale" });
    await this.#found(patched, rightTo("patch", leverServices, environment, "scale"), what);
    return { environment, service, before: found.spec?.replicas ?? 1, after: replicas };
  }

  async services(environment?: string): Promise<ServicesReport> {
    const report = await this.ask<ServicesReport>("listServices");
    if (environment === undefined) return report;
    return { ...report, services: report.services.filter((each) => each.environment === environment) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#clients.values()].map((client) => client[Symbol.asyncDispose]()));
    this.#cluster[Symbol.dispose]();
  }

  async #instances(environment: string): Promise<{ service: string; id: string; state: string }[]> {
    const reports = await this.ask<EndpointsReport[]>("listEndpoints", [environment]);
    return reports.flatMap(({ service, endpoints }) =>
      endpoints.map(({ instance, state }) => ({ service, id: instance, state })),
    );
  }

  async #found<Answer>(asked: Promise<Answer>, right: Right, what: string): Promise<Answer> {
    try {
      return await this.#cluster.explained(asked, right);
    } catch (error) {
      if (!KubeError.is(error)) throw error;
      throw new LeverError("SERVICE_NOT_FOUND", `there is no ${what} in namespace ${right.namespace}`, {
        effect: "none",
        cause: error,
      });
    }
  }

  async #anyReplica(): Promise<ForwardedPod> {
    const { pods: found, deployment } = await operatorReplicas(this.#cluster);
    const ready = found.filter(isReady);
    const replica = ready[Math.floor(Math.random() * ready.length)];
    if (replica !== undefined) return { namespace: replica.metadata.namespace, name: replica.metadata.name };
    const { namespace } = deployment.metadata;
    throw new LeverError("DISCOVERY_UNAVAILABLE", `none of the operator's ${found.length} pods is ready`, {
      effect: "none",
      details: { remedy: `\`lever check\` and \`kubectl describe pods -n ${namespace}\` say why.` },
    });
  }

  async #forget({ name }: ForwardedPod): Promise<void> {
    const client = this.#clients.get(name);
    this.#clients.delete(name);
    if (this.#replica?.name === name) this.#replica = undefined;
    await client?.[Symbol.asyncDispose]();
  }
}
