/** `lever check` of a cluster: from the API server to each service's pods. */

import { X509Certificate } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { pemBlocks } from "@leveros/agent/host/pem.ts";
import type { CheckReport, EndpointsReport, ServicesReport } from "@leveros/operator/admin/admin-report.ts";
import { dayMs } from "@leveros/operator/identity/lifetimes.ts";
import { configMaps } from "@leveros/operator/identity/trust-maps.ts";
import { KubeError } from "@leveros/operator/kube/kube-error.ts";
import {
  deployments,
  type KubeObject,
  leases,
  leverServices,
  pods,
  type ResourceKind,
} from "@leveros/operator/kube/kube-object.ts";
import { leaseNameDefault } from "@leveros/operator/kube/kube-operator.ts";
import { leaderLeaseMs } from "@leveros/operator/kube/leader-election.ts";
import type { Deployment, LeverServiceObject, Pod } from "@leveros/operator/kube/reconcile/kubernetes-object.ts";
import { serviceLabel, trustMapKey, trustMapName } from "@leveros/operator/kube/reconcile/wanted-deployment.ts";
import { type CheckList, type Verdict, verdictOf } from "../check-list.ts";
import type { ClusterFlags } from "../cluster-flags.ts";
import { version } from "../version.ts";
import {
  apiServerChecks,
  definitionChecks,
  nodeClockChecks,
  type ServerClock,
  shortList,
} from "./api-server-checks.ts";
import { Cluster, rightTo } from "./cluster.ts";
import { ClusterOperator } from "./cluster-operator.ts";
import { installChecks } from "./install-checks.ts";
import { isReady, type OperatorPod, operatorReplicas, type Replicas } from "./operator-pods.ts";

const gatewayDeployment = "lever-gateway";
const trustDaysMin = 14;
/** How far the clock of the leader's node may be from the API server's, and its answer from now. */
const leaseSlackMs = 5000;
/** What changes is heard by one sooner than by the other. */
const agreeTries = 4;
const agreePauseMs = 700;

interface Lease extends KubeObject {
  readonly spec?: { readonly holderIdentity?: string; readonly renewTime?: string };
}

/** `isPre`: whether Lever can be installed. */
export async function clusterChecks(list: CheckList, flags: ClusterFlags, isPre: boolean): Promise<void> {
  const cluster = new Cluster(flags);
  if (isPre) {
    using _ = cluster;
    return await installChecks(list, cluster);
  }
  await using operator = new ClusterOperator(cluster, new AbortController().signal);
  await new InstallationCheck(list, cluster, operator, flags.namespace).run();
}

class InstallationCheck {
  readonly #list: CheckList;
  readonly #cluster: Cluster;
  readonly #operator: ClusterOperator;
  /** Whose services are looked at; undefined: all. */
  readonly #namespace: string | undefined;

  constructor(list: CheckList, cluster: Cluster, operator: ClusterOperator, namespace: string | undefined) {
    this.#list = list;
    this.#cluster = cluster;
    this.#operator = operator;
    this.#namespace = namespace;
  }

  /** What cannot be made without one that has failed is left out. */
  async run(): Promise<void> {
    const list = this.#list;
    const clock = await apiServerChecks(list, this.#cluster);
    if (clock === undefined) return;
    if (!(await definitionChecks(list, this.#cluster, true))) return;
    const answering = await this.#operatorChecks(clock);
    await this.#trustChecks(clock);
    await this.#gatewayChecks();
    if (answering) await this.#serviceChecks();
    await nodeClockChecks(list, this.#cluster, clock);
  }

  // ---------------------------------------------------------------- the operator

  /** Whether it can be asked. */
  async #operatorChecks(clock: ServerClock): Promise<boolean> {
    const list = this.#list;
    list.heading("lever-operator");
    let replicas: Replicas | undefined;
    await list.look(`the operator is installed in ${this.#cluster.operatorNamespace}`, async () => {
      replicas = await operatorReplicas(this.#cluster);
      return undefined;
    });
    if (replicas === undefined) return false;
    const { deployment, pods: found } = replicas;
    const ready = found.filter(isReady);
    const wanted = deployment.spec?.replicas ?? 1;
    const name = `deployment/${deployment.metadata.name} -n ${deployment.metadata.namespace}`;
    list.say(
      `${ready.length} of its ${wanted} pods are ready`,
      ready.length >= wanted && wanted > 0
        ? undefined
        : { failed: `kubectl describe ${name} and kubectl logs ${name} say why.` },
    );
    if (wanted === 1)
      list.say("it has more than one replica", { warning: "With one, its restart is an outage of it." });
    await this.#leaderCheck(found, clock);
    if (ready.length === 0) return false;
    return await this.#replicaChecks(ready);
  }

  async #leaderCheck(found: readonly OperatorPod[], clock: ServerClock): Promise<void> {
    const { operatorNamespace: namespace, api } = this.#cluster;
    await this.#list.look("one of them leads, and its Lease is fresh", async () => {
      let lease: Lease;
      try {
        lease = await this.#cluster.explained(
          api.get<Lease>(leases, { namespace, name: leaseNameDefault }),
          rightTo("get", leases, namespace),
        );
      } catch (error) {
        if (!KubeError.is(error)) throw error;
        return { failed: "There is no Lease: no replica was ever elected. Their logs say why." };
      }
      const identity = lease.spec?.holderIdentity ?? "";
      if (identity === "") return { failed: "Nobody holds the Lease: look again in some seconds, then at their logs." };
      const holder = identity.slice(0, identity.lastIndexOf("_"));
      const ageMs = clock.now() - Date.parse(lease.spec?.renewTime ?? "");
      if (!found.some(({ metadata }) => metadata.name === holder)) {
        return { failed: `${holder} holds it, which is no pod of the operator's: another one takes over in seconds.` };
      }
      if (ageMs <= leaderLeaseMs + leaseSlackMs) return undefined;
      return {
        failed: `${holder} renewed it ${(ageMs / 1000).toFixed(0)} s ago: it is cut off from the API server, or clocks differ.`,
      };
    });
  }

  async #replicaChecks(ready: readonly OperatorPod[]): Promise<boolean> {
    const list = this.#list;
    const names = ready.map(({ metadata: { namespace, name } }) => ({ namespace, name }));
    const ask = <Report>(method: string) =>
      Promise.all(names.map((pod) => this.#operator.askReplica<Report>(pod, method)));
    let reports: readonly ServicesReport[] = [];
    await list.look(names.length === 1 ? "it answers" : "each of them answers", async () => {
      reports = await ask<ServicesReport>("listServices");
      return undefined;
    });
    if (reports.length === 0) return false;
    const others = reports
      .filter(({ operator }) => operator.version !== version)
      .map(({ operator }) => operator.version);
    list.say(
      `their version is this command's, ${version}`,
      others.length === 0
        ? undefined
        : {
            warning: `They are ${shortList([...new Set(others)])}. One minor version apart works; use the lever of the release.`,
          },
    );
    if (names.length > 1) {
      await list.look("they are in touch, and tell the same", () =>
        agreed(async () => {
          const [services, endpoints] = [await ask<ServicesReport>("listServices"), await ask("listEndpoints")];
          const alone = services.filter(({ operator }) => operator.otherReplicas < names.length - 1);
          if (alone.length > 0) {
            const pods = alone.map(({ operator }) => operator.replica ?? "");
            return {
              failed: `${shortList(pods)} does not see the others: is a NetworkPolicy in the way of port 3837?`,
            };
          }
          const leaders = [...new Set(services.map(({ operator }) => operator.leader ?? "nobody"))];
          if (leaders.length > 1) return { failed: `They take different pods for the leader: ${leaders.join(", ")}.` };
          const tables = (endpoints as EndpointsReport[][]).map((each) => JSON.stringify(each.map(statesOf)));
          if (new Set(tables).size === 1) return undefined;
          return {
            failed: "Their tables differ: lever endpoints says what each agent is told; restart the one that is wrong.",
          };
        }),
      );
    }
    return true;
  }

  // ---------------------------------------------------------------- identity and the gateway

  async #trustChecks(clock: ServerClock): Promise<void> {
    const { operatorNamespace: namespace, api } = this.#cluster;
    this.#list.heading("lever-identity");
    await this.#list.look("the CA that agents and operator trust is there, and lasts", async () => {
      let found: KubeObject & { readonly data?: Readonly<Record<string, string>> };
      try {
        found = await this.#cluster.explained(
          api.get(configMaps, { namespace, name: trustMapName }),
          rightTo("get", configMaps, namespace),
        );
      } catch (error) {
        if (!KubeError.is(error)) throw error;
        return {
          failed: `There is no ConfigMap ${trustMapName} in ${namespace}: the leader makes it from the Secret lever-identity; its log says why not.`,
        };
      }
      const certificates = pemBlocks(found.data?.[trustMapKey] ?? "");
      if (certificates.length === 0)
        return { failed: `${trustMapName} has no certificate under ${trustMapKey}; the leader's log says why.` };
      const daysLeft = Math.max(
        ...certificates.map((text) => (new X509Certificate(text).validToDate.getTime() - clock.now()) / dayMs),
      );
      if (daysLeft <= 0) return { failed: "It has ended: nobody can connect any more. See docs/identity.md." };
      if (daysLeft >= trustDaysMin) return undefined;
      return {
        warning: `It ends in ${Math.floor(daysLeft)} days, and the next one is not there yet; the leader's log says why.`,
      };
    });
  }

  async #gatewayChecks(): Promise<void> {
    const { operatorNamespace: namespace, api } = this.#cluster;
    this.#list.heading("lever-gateway");
    let wanted = 0;
    await this.#list.look("the gateway is ready, or not installed", async () => {
      const right = rightTo("get", deployments, namespace);
      const asked = api.get<Deployment & KubeObject>(deployments, { namespace, name: gatewayDeployment });
      const found = await this.#cluster.explained(asked, right).catch((error: unknown) => {
        if (!KubeError.is(error)) throw error;
        return undefined;
      });
      wanted = found?.spec?.replicas ?? 0;
      const { availableReplicas = 0 } = found?.status ?? {};
      if (availableReplicas >= wanted) return undefined;
      const name = `deployment/${gatewayDeployment} -n ${namespace}`;
      return { failed: `${availableReplicas} of ${wanted} pods are: kubectl describe ${name}, kubectl logs ${name}.` };
    });
  }

  // ---------------------------------------------------------------- services

  async #serviceChecks(): Promise<void> {
    const list = this.#list;
    const namespace = this.#namespace;
    list.heading("lever-services");
    try {
      const { checks } = await this.#operator.ask<CheckReport>("check");
      list.add(checks.filter(({ category }) => namespace === undefined || category.startsWith(`${namespace}/`)));
    } catch (error) {
      return list.say("the operator says how services are", verdictOf(error));
    }
    await list.look("the tables have the pods that there are", () => agreed(() => this.#tablesVerdict()));
    await list.look("agents are those of the operator's version", async () => {
      const { items } = await this.#listed<LeverServiceObject & KubeObject>(leverServices);
      const outdated = items.filter(({ status }) =>
        status?.conditions?.some(({ reason }) => reason === "AgentOutdated"),
      );
      if (outdated.length === 0) return undefined;
      const commands = outdated.map(
        ({ metadata }) => `kubectl rollout restart deployment/${metadata.name} -n ${metadata.namespace}`,
      );
      return {
        warning: `Those of ${outdated.length} services are older, and go with their next rollout: ${shortList(commands)}`,
      };
    });
  }

  /** By uid: a pod that came in the place of one of its name is another. */
  async #tablesVerdict(): Promise<Verdict> {
    const { items } = await this.#listed<Pod & KubeObject>(pods, serviceLabel);
    const reports = await this.#operator.ask<EndpointsReport[]>("listEndpoints", [this.#namespace ?? null]);
    const services = new Set(reports.map(({ environment, service }) => `${environment}/${service}`));
    const there = new Map<string, string>();
    for (const { metadata, status } of items) {
      const isOver = status?.phase === "Failed" || status?.phase === "Succeeded";
      if (isOver || !services.has(`${metadata.namespace}/${metadata.labels?.[serviceLabel]}`)) continue;
      there.set(metadata.uid ?? "", `${metadata.namespace}/${metadata.name}`);
    }
    const told = new Map<string, string>();
    for (const { environment, endpoints } of reports) {
      for (const { podUid, instance } of endpoints) told.set(podUid ?? instance, `${environment}/${instance}`);
    }
    const missing = [...there].filter(([uid]) => !told.has(uid)).map(([, name]) => name);
    const gone = [...told].filter(([uid]) => !there.has(uid)).map(([, name]) => name);
    if (missing.length + gone.length === 0) return undefined;
    const parts = [
      ...(missing.length > 0 ? [`${shortList(missing)} not in the tables`] : []),
      ...(gone.length > 0 ? [`${shortList(gone)} in the tables, and no pod`] : []),
    ];
    return { failed: `${parts.join("; ")}. Does the operator's log tell of failed watches?` };
  }

  #listed<T extends KubeObject>(kind: ResourceKind, labelSelector?: string) {
    const namespace = this.#namespace;
    return this.#cluster.explained(
      this.#cluster.api.list<T>(kind, { namespace, labelSelector }),
      rightTo("list", kind, namespace),
    );
  }
}

/** The last verdict, if none before it was good. */
async function agreed(look: () => Promise<Verdict>): Promise<Verdict> {
  for (let tries = 1; ; tries++) {
    const verdict = await look();
    if (verdict === undefined || tries === agreeTries) return verdict;
    await sleep(agreePauseMs);
  }
}

function statesOf({ environment, service, endpoints }: EndpointsReport): unknown {
  return [environment, service, endpoints.map(({ instance, state, podUid }) => [instance, state, podUid])];
}
