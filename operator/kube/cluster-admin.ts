/**
 * What a replica of a cluster's operator knows, for `admin/admin-methods.ts`. All replicas answer alike, but for what the
 * leader alone knows of a slot: another one refuses with NOT_LEADER and names the pod that leads.
 *
 * It changes nothing. What people do to a cluster they do as themselves, at the API server: the operator lends nobody its
 * rights.
 */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { AdminService, AdminSource, HeldCalls, InstanceFacts } from "../admin/admin-methods.ts";
import type { OperatorReport, SlotFacts } from "../admin/admin-report.ts";
import { slotFacts } from "../admin/slot-facts.ts";
import type { InstanceKey, ServiceRegistry } from "../core/service-registry.ts";
import { operatorVersion } from "../version.ts";
import type { LeaderElection } from "./leader-election.ts";
import type { Leadership } from "./leadership.ts";
import { type LeverServiceObject, type Pod, timestampMs } from "./reconcile/kubernetes-object.ts";
import { podProblem } from "./reconcile/pod-problem.ts";
import { appContainerName, statusOf } from "./reconcile/process-end.ts";
import { adminPort } from "./reconcile/wanted-deployment.ts";
import type { Reflector } from "./reflector.ts";
import type { Seen } from "./seen-objects.ts";

export interface ClusterAdminOptions {
  readonly registry: ServiceRegistry;
  readonly services: Pick<Reflector<Seen<LeverServiceObject>>, "values">;
  readonly pods: Pick<Reflector<Seen<Pod>>, "get">;
  readonly leadership: Pick<Leadership, "leader">;
  readonly election: Pick<LeaderElection, "isLeader" | "holder" | "identity">;
  /** Since 1970. */
  readonly wallMs: () => number;
  /** The own pod's name. */
  readonly name: string;
  /** `host:port` for agents. */
  readonly address: string | undefined;
  readonly otherReplicas: () => number;
}

export class ClusterAdmin implements AdminSource {
  readonly registry: ServiceRegistry;
  readonly #options: ClusterAdminOptions;

  constructor(options: ClusterAdminOptions) {
    this.#options = options;
    this.registry = options.registry;
  }

  operator(): OperatorReport {
    const { name, address, otherReplicas } = this.#options;
    return {
      version: operatorVersion,
      address: address ?? "",
      pid: process.pid,
      replica: name,
      leader: this.#leader() ?? null,
      otherReplicas: otherReplicas(),
      gateways: [],
    };
  }

  services(): AdminService[] {
    const { services, wallMs } = this.#options;
    return [...services.values()].map((object) => {
      const { metadata, spec } = object;
      const ready = object.status?.conditions?.find(({ type }) => type === "Ready");
      const replicas = (spec as { readonly replicas?: unknown } | undefined)?.replicas;
      return {
        environment: metadata.namespace ?? "",
        service: metadata.name,
        desired: typeof replicas === "number" ? replicas : 1,
        waiting: 0,
        declaredAt: timestampMs(metadata.creationTimestamp) ?? wallMs(),
        ...(ready !== undefined &&
          ready.status !== "True" && { problem: { reason: ready.reason, message: ready.message } }),
      };
    });
  }

  factsOf({ environment, service, instance }: InstanceKey): InstanceFacts {
    const pod = this.#options.pods.get(environment, instance);
    const { state } =
      this.registry.tables.table(environment, service).instances.find(({ id }) => id === instance) ?? {};
    const app = pod && statusOf(pod, appContainerName(pod) ?? "");
    return {
      pid: null,
      restarts: app?.restartCount ?? 0,
      adminPort,
      isAttached: false,
      node: pod?.spec?.nodeName ?? null,
      podUid: pod?.metadata.uid ?? null,
      problem:
        pod === undefined || state === "Serving"
          ? null
          : (podProblem(pod, { nowMs: this.#options.wallMs(), state })?.message ?? null),
    };
  }

  slotFacts(environment: string, service: string, slot: number): SlotFacts | undefined {
    const { leader } = this.#options.leadership;
    if (leader === undefined || !this.#options.election.isLeader) throw this.#notLeader();
    const explanation = leader.explain(environment, service, slot);
    return explanation && slotFacts(explanation);
  }

  /** Agents are processes of their own, each of which may hold some. */
  heldCalls(): HeldCalls {
    let agentsNotAsked = 0;
    for (const { environment, service } of this.services()) {
      agentsNotAsked += this.registry.tables.table(environment, service).instances.length;
    }
    return { byAgent: [], agentsNotAsked };
  }

  /** The pod that leads, as far as is known here. */
  #leader(): string | undefined {
    const { election, name } = this.#options;
    if (election.isLeader) return name;
    // What it has said of itself before it lost the election.
    return election.holder?.identity === election.identity ? undefined : election.holder?.candidate;
  }

  #notLeader(): LeverError {
    const leader = this.#leader();
    return new LeverError(
      "NOT_LEADER",
      `${this.#options.name} does not lead; ${leader === undefined ? "nobody is known to" : `${leader} does`}`,
      { effect: "none", ...(leader !== undefined && { details: { leader } }) },
    );
  }
}
