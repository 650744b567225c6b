/**
 * The operator of a cluster, one replica of it: what watches, what agents are served from, and what writes while it leads.
 *
 * Every replica has the same tables: from the same objects, from what agents say to it and, by way of each other, to the
 * other replicas, and from the leader's rows. Only the leader writes and gives slots away. Order: nobody is served before
 * all was listed and the other replicas were heard; at the end the lease is released after the last that was done by it.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import type { InstanceState, SlotRow } from "@leveros/protocol/control/discovery.ts";
import type { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { AdminMethods } from "../admin/admin-methods.ts";
import { apiVersion, leverServiceKind } from "../api/v1alpha1/lever-service.ts";
import { EndpointTables } from "../core/endpoint-table.ts";
import { ServiceRegistry } from "../core/service-registry.ts";
import { AgentReports } from "../discovery/agent-reports.ts";
import { DiscoveryServer } from "../discovery/discovery-server.ts";
import { LeaderRows } from "../discovery/leader-rows.ts";
import { OperatorServer, peopleSessionsMax } from "../discovery/operator-server.ts";
import { serveReplica } from "../discovery/replica-connection.ts";
import { replicaMethod } from "../discovery/replica-messages.ts";
import { strangerLimits } from "../identity/issue-limits.ts";
import type { ObservedObjects, OperatorIdentity } from "../identity/operator-identity.ts";
import { ClusterAdmin } from "./cluster-admin.ts";
import { EventRecorder } from "./event-recorder.ts";
import type { KubeClient } from "./kube-client.ts";
import {
  deployments,
  type KubeObject,
  leverEndpointTables,
  leverServices,
  nodes,
  type ObjectName,
  pods,
  type ResourceKind,
  replicaSets,
} from "./kube-object.ts";
import { KubeSlotStore } from "./kube-slot-store.ts";
import { LeaderElection } from "./leader-election.ts";
import { Leadership, type SlotSink } from "./leadership.ts";
import { MoveEvents } from "./move-events.ts";
import type { Deployment, LeverServiceObject, Pod, ReplicaSet } from "./reconcile/kubernetes-object.ts";
import { type AgentSettings, agentPort, serviceLabel } from "./reconcile/wanted-deployment.ts";
import { Reflector } from "./reflector.ts";
import { Replicas } from "./replicas.ts";
import {
  type Seen,
  type SeenTable,
  seenDeployment,
  seenNode,
  seenPod,
  seenReplicaSet,
  seenService,
  seenTable,
} from "./seen-objects.ts";
import { ServiceController } from "./service-controller.ts";
import { ServiceEndpoints } from "./service-endpoints.ts";
import type { StoredEndpointTable } from "./slot-table-object.ts";
import { TableWriter } from "./table-writer.ts";
import type { WorkDone } from "./work-queue.ts";

export const leaseNameDefault = "lever-operator";
/** How often it is looked whether another one leads: a candidate learns of that in its own time. */
const followIntervalMs = 250;

/** Pods come by another way than their agents, and perhaps later: of a whole cluster's they may. */
const unknownInstancesMax = 20_000;

/** For the log and for metrics. Nothing here throws. */
export interface OperatorObserver {
  onLog?(level: "info" | "warn", text: string): void;
  onReconciled?(controller: "service" | "table", done: WorkDone): void;
  /** A change of a table has been sent to an agent that is subscribed to it, this long after it was made here. */
  onTableSent?(lagMs: number): void;
  /** Slots have come to another holder. */
  onMoved?(slots: number): void;
}

export interface KubeOperatorOptions {
  readonly client: KubeClient;
  readonly clock: Clock;
  readonly leaseClock: LeaseClock;
  readonly random: Random;
  /** Since 1970. */
  readonly wallMs: () => number;
  /** The operator's own, where its Lease is. */
  readonly namespace: string;
  /** The own pod's name. */
  readonly name: string;
  /** `host:port` where agents and other replicas reach this one; undefined: it is found by the Service only. */
  readonly address?: string;
  readonly leaseName?: string;
  /** Asked for once there is an identity. */
  readonly agent: () => AgentSettings;
  /** Its keys and certificates, started and closed here; undefined: it needs none. */
  readonly identity?: OperatorIdentity;
  /** Label selector of the operator's pods; undefined: there is one replica. */
  readonly replicaSelector?: string;
  readonly replicaPort?: number;
  /** A session with another replica, on the dialer's side. */
  dial(address: string): Promise<Session>;
  readonly library?: string;
  readonly observer?: OperatorObserver;
}

/** Of whatever kind. */
export type AnyReflector = Pick<
  Reflector<KubeObject>,
  "counts" | "isSynced" | "size" | "start" | "whenSynced" | "close"
>;

export class KubeOperator {
  readonly server: DiscoveryServer;
  /** For people: answers questions, changes nothing. It knows no identities: who reaches it may ask. */
  readonly people: OperatorServer;
  /** For those without a certificate where there are some: what they can be given is one. */
  readonly strangers: OperatorServer | undefined;
  readonly election: LeaderElection;
  readonly leadership: Leadership;
  readonly registry: ServiceRegistry;
  readonly tables: EndpointTables;
  readonly services: ServiceController;
  readonly writer: TableWriter;
  /** While another one leads. */
  readonly rows: LeaderRows;
  readonly recorder: EventRecorder;
  /** By kind, for metrics. */
  readonly reflectors: Readonly<Record<string, AnyReflector>>;
  readonly #options: KubeOperatorOptions;
  readonly #endpoints: ServiceEndpoints;
  readonly #replicas: Replicas | undefined;
  readonly #moves: MoveEvents;
  readonly #watched: ObservedObjects;
  #follow: unknown;
  #isReady = false;
  #isClosed = false;

  constructor(options: KubeOperatorOptions) {
    this.#options = options;
    const { client, clock, leaseClock, random, wallMs, namespace, name, agent, observer = {} } = options;
    const startVersion = Math.floor(wallMs());
    this.tables = new EndpointTables({ startVersion, origin: originOf(name, startVersion) });
    const { tables } = this;
    this.registry = new ServiceRegistry({ tables, clock, limits: { unknownInstancesMax } });
    const reports = new AgentReports();
    this.recorder = new EventRecorder({
      client,
      clock,
      random,
      wallMs,
      instance: name,
      onError: (error) => this.#warn("an event was not recorded", error),
    });

    const watch = <T extends KubeObject>(
      kind: ResourceKind,
      part: Partial<ConstructorParameters<typeof Reflector<T>>[0]>,
    ) =>
      new Reflector<T>({
        client,
        kind,
        clock,
        random,
        onError: (error) => this.#warn(`watching ${kind.plural}`, error),
        ...part,
      });
    const labelSelector = serviceLabel;
    const watched = {
      services: watch<Seen<LeverServiceObject>>(leverServices, { transform: seenService }),
      deployments: watch<Seen<Deployment>>(deployments, { labelSelector, transform: seenDeployment }),
      replicaSets: watch<Seen<ReplicaSet>>(replicaSets, { labelSelector, transform: seenReplicaSet }),
      pods: watch<Seen<Pod>>(pods, { labelSelector, transform: seenPod }),
      nodes: watch<KubeObject>(nodes, { transform: seenNode }),
      // What is kept is made from what is stored, and is all that is looked at.
      tables: watch<SeenTable>(leverEndpointTables, {
        transform: (object) => seenTable(object as unknown as StoredEndpointTable),
      }),
    };
    const replicaPods =
      options.replicaSelector === undefined
        ? undefined
        : watch<Seen<Pod>>(pods, { namespace, labelSelector: options.replicaSelector, transform: seenPod });
    const { identity } = options;
    this.#watched = watched;
    this.reflectors = {
      ...watched,
      ...(replicaPods && { replicas: replicaPods }),
      ...identity?.reflectors,
    };

    const { address, leaseName = leaseNameDefault } = options;
    this.election = new LeaderElection({
      client,
      clock,
      leaseClock,
      random,
      namespace,
      name: leaseName,
      candidate: name,
      ...(address !== undefined && { address }),
      onElected: (term) => this.#elected(term),
      onLost: (term, why) => this.#lost(term, why),
      onError: (error) => this.#warn("the election", error),
    });
    const { election } = this;
    const isLeader = () => election.isLeader;
    const store = new KubeSlotStore({
      client,
      ownerOf: (environment, service) => ownerOf(watched.services.get(environment, service), service),
    });
    this.leadership = new Leadership({
      clock,
      leaseClock,
      random,
      store,
      election,
      tellAll: (sink) => this.#endpoints.tellAll(sink),
      onSlots: (environment, service, rows) => this.#onSlots(environment, service, rows),
      onError: (environment, service, error) => this.#warn(`the slots of ${environment}/${service}`, error),
    });
    this.#moves = new MoveEvents({
      clock,
      record: (environment, service, note) => {
        const object = watched.services.get(environment, service);
        const event = { type: "Normal" as const, reason: "ResourceMoved", action: "Move", note };
        if (object !== undefined) this.recorder.record(leverServices, object, event);
      },
    });
    const { leadership } = this;
    this.rows = new LeaderRows({ clock, random, tables, dial: (to) => options.dial(to) });
    const slots: SlotSink = {
      declareService: (environment, service, policy) => {
        this.rows.add(environment, service);
        leadership.declareService(environment, service, policy);
      },
      removeService: (environment, service) => {
        this.rows.remove(environment, service);
        leadership.removeService(environment, service);
      },
      tableGone: (environment, service) => leadership.tableGone(environment, service),
      upsertInstance: (instance) => leadership.upsertInstance(instance),
      removeInstance: (key) => leadership.removeInstance(key),
      processEnded: (key, process, endedBefore) => leadership.processEnded(key, process, endedBefore),
    };
    this.#endpoints = new ServiceEndpoints({
      ...watched,
      registry: this.registry,
      slots,
      clock,
      onError: (environment, service, error) => this.#warn(`the endpoints of ${environment}/${service}`, error),
    });
    this.services = new ServiceController({
      ...watched,
      client,
      clock,
      random,
      wallMs,
      recorder: this.recorder,
      agent,
      isLeader,
      trustProblemOf: (of) => identity?.trustMaps.problemOf(of),
      statesOf: (environment, service) => this.#statesOf(environment, service),
      onDone: (done) => this.#onDone("service", done),
    });
    this.writer = new TableWriter({
      tables,
      store,
      clock,
      random,
      pods: watched.pods,
      services: watched.services,
      stored: watched.tables,
      isLeader,
      onDone: (done) => this.#onDone("table", done),
    });
    this.#replicas =
      replicaPods &&
      new Replicas({
        pods: replicaPods,
        self: { name, address },
        port: options.replicaPort ?? agentPort,
        registry: this.registry,
        clock,
        random,
        dial: (to) => options.dial(to),
        onError: (replica, error) => observer.onLog?.("info", `replica ${replica}: ${textOf(error)}`),
      });
    this.server = new DiscoveryServer({
      registry: this.registry,
      clock,
      leader: leadership,
      reports,
      ...(observer.onTableSent && { onSent: (lagMs) => observer.onTableSent?.(lagMs) }),
      replicaChannels: { [replicaMethod]: () => (channel) => serveReplica(reports, channel) },
      ...(options.library !== undefined && { library: options.library }),
    });
    const admin = new ClusterAdmin({
      registry: this.registry,
      ...watched,
      leadership,
      election,
      wallMs,
      name,
      address,
      otherReplicas: () => this.replicaCount,
    });
    const { calls } = new AdminMethods(admin, wallMs);
    this.strangers =
      identity && new OperatorServer({ ...strangerLimits, clock, calls: identity.calls, library: options.library });
    this.people = new OperatorServer({ clock, calls, sessionsMax: peopleSessionsMax, library: options.library });
    this.#watchStates(watched.services);
  }

  /** All is known that agents are told from: it may be given connections. */
  get isReady(): boolean {
    return this.#isReady && !this.#isClosed;
  }

  get replicaCount(): number {
    return this.#replicas?.count ?? 0;
  }

  /** Why it is not ready, for people; undefined if it is. */
  whyNotReady(): string | undefined {
    if (this.#isClosed) return "stopping";
    const missing = Object.entries(this.reflectors).filter(([, { isSynced }]) => !isSynced);
    if (missing.length > 0) return `not listed yet: ${missing.map(([kind]) => kind).join(", ")}`;
    // At any time: a certificate ends.
    return this.#options.identity?.whyNotReady() ?? (this.#isReady ? undefined : "waiting for the other replicas");
  }

  /** Resolves when it is ready; false if it is closed before. */
  async start(): Promise<boolean> {
    const { identity } = this.#options;
    const reflectors = Object.values(this.reflectors);
    for (const reflector of reflectors) reflector.start();
    identity?.start();
    const synced = await Promise.all(reflectors.map((reflector) => reflector.whenSynced()));
    if (this.#isClosed || synced.includes(false)) return false;
    if (identity !== undefined && !(await identity.whenUsable(this.#watched))) return false;
    identity?.trustMaps.onProblem((namespace) => this.services.namespaceChanged(namespace));
    this.#endpoints.start();
    this.services.start();
    this.writer.start();
    await this.#replicas?.start();
    if (this.#isClosed) return false;
    this.#isReady = true;
    this.election.start();
    this.#followLater();
    return true;
  }

  /** Leads no more, ends all connections, and resolves when nothing is under way. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#options.clock.clearTimer(this.#follow);
    const { identity } = this.#options;
    await this.election.stop(() =>
      Promise.all([this.services.close(), this.writer.close(), identity?.trustMaps.close()]),
    );
    this.rows.close();
    this.#moves.close();
    this.#replicas?.close();
    this.server.close();
    this.strangers?.close();
    this.people.close();
    this.registry.close();
    await identity?.close();
    await Promise.all([...Object.values(this.reflectors).map((reflector) => reflector.close()), this.recorder.close()]);
  }

  // ---------------------------------------------------------------- who leads

  #elected(term: number): void {
    this.#log("info", `leads, term ${term}`);
    this.rows.follow(undefined);
    this.leadership.elected();
    this.#options.identity?.leads(true);
    this.services.elected();
    this.writer.elected();
  }

  #lost(term: number, why: string): void {
    this.#log("info", `leads no more, term ${term}: ${why}`);
    this.leadership.lost();
    this.#options.identity?.leads(false);
  }

  #followLater(): void {
    this.#follow = this.#options.clock.setTimer(() => {
      const { isLeader, holder, identity } = this.election;
      const leads = isLeader || holder === undefined || holder.identity === identity ? undefined : holder.address;
      // Between two leaders the last one's rows are as good as any.
      if (isLeader || leads !== undefined) this.rows.follow(leads);
      this.#followLater();
    }, followIntervalMs);
  }

  #onSlots(environment: string, service: string, rows: readonly SlotRow[]): void {
    const moved = this.#moves.moved(environment, service, rows, this.tables.table(environment, service).slots ?? []);
    if (moved > 0) this.#options.observer?.onMoved?.(moved);
    this.tables.setSlots(environment, service, rows);
  }

  // ---------------------------------------------------------------- what a service's status is made of

  #statesOf(environment: string, service: string): ReadonlyMap<string, InstanceState> | undefined {
    const { exists, instances } = this.tables.table(environment, service);
    return exists ? new Map(instances.map(({ id, state }) => [id, state])) : undefined;
  }

  /** A status says how many instances serve. */
  #watchStates(services: Reflector<Seen<LeverServiceObject>>): void {
    const watches = new Map<string, () => void>();
    services.subscribe({
      onUpsert: ({ metadata: { namespace = "", name } }) => {
        const key = `${namespace}/${name}`;
        if (watches.has(key)) return;
        let told = this.tables.table(namespace, name).instances;
        const onChange = () => {
          const { instances } = this.tables.table(namespace, name);
          if (isSameStates(instances, told)) return;
          told = instances;
          this.services.changed(key);
        };
        watches.set(key, this.tables.watch(namespace, name, onChange));
      },
      onDelete: ({ metadata: { namespace, name } }) => {
        watches.get(`${namespace}/${name}`)?.();
        watches.delete(`${namespace}/${name}`);
      },
    });
  }

  // ---------------------------------------------------------------- for people

  #onDone(controller: "service" | "table", done: WorkDone): void {
    // What fails on and on is told of more and more seldom.
    const isTold = Number.isInteger(Math.log2(done.failures));
    if (isTold) this.#warn(`${controller} ${done.key} (failed ${done.failures} in a row)`, done.error);
    this.#options.observer?.onReconciled?.(controller, done);
  }

  #warn(what: string, error: unknown): void {
    if (!this.#isClosed) this.#log("warn", `${what}: ${textOf(error)}`);
  }

  #log(level: "info" | "warn", text: string): void {
    this.#options.observer?.onLog?.(level, text);
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? ((error as LeverError).rawMessage ?? error.message) : String(error);
}

/** At most 64 characters, as an origin may have. */
function originOf(name: string, startVersion: number): string {
  return `${name.slice(-40)}-${startVersion}`;
}

/** Of a table. It does not hold up the owner's end: the leader writes a table that is gone anew until then. */
function ownerOf(service: KubeObject | undefined, name: ObjectName["name"]) {
  const uid = service?.metadata.uid;
  if (uid === undefined) return undefined;
  return { apiVersion, kind: leverServiceKind, name, uid, controller: true, blockOwnerDeletion: false };
}

type States = readonly { readonly id: string; readonly state: InstanceState }[];

function isSameStates(a: States, b: States): boolean {
  return (
    a === b ||
    (a.length === b.length && a.every(({ id, state }, index) => b[index]?.id === id && b[index]?.state === state))
  );
}
