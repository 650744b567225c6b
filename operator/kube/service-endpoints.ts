/**
 * Services and their instances as every replica of the operator has them: from `LeverService` objects, pods and nodes into
 * the registry, which agents are told from, and to who leads.
 *
 * Invariants: a service is told before its instances; one that cannot be read any more stays as it last was. No lease is
 * announced that is longer than what the leader's record says that it reckons with: another replica may hear of a change
 * before the leader does, and a holder that went by a longer lease than the leader would still act for what is another's.
 */

import type { Clock } from "@leveros/protocol/clock/clock.ts";
import type { OwnershipPolicy, ServicePolicy, SlotRow } from "@leveros/protocol/control/discovery.ts";
import { leaseMsMin } from "@leveros/protocol/control/lease.ts";
import { servicePolicy } from "../api/v1alpha1/lever-service.ts";
import type { ServiceRegistry } from "../core/service-registry.ts";
import type { KubeObject } from "./kube-object.ts";
import type { SlotSink } from "./leadership.ts";
import { type EndpointSink, EndpointSource } from "./reconcile/endpoint-source.ts";
import type { LeverServiceObject, Pod } from "./reconcile/kubernetes-object.ts";
import { observeService } from "./reconcile/observed-service.ts";
import { serviceLabel } from "./reconcile/wanted-deployment.ts";
import type { Reflector } from "./reflector.ts";
import { type Seen, type SeenTable, zoneOfNode } from "./seen-objects.ts";

export interface ServiceEndpointsOptions {
  readonly registry: ServiceRegistry;
  /** Who may lead. */
  readonly slots: SlotSink;
  readonly services: Reflector<Seen<LeverServiceObject>>;
  readonly pods: Reflector<Seen<Pod>>;
  readonly nodes: Reflector<KubeObject>;
  readonly tables: Reflector<SeenTable>;
  readonly clock: Clock;
  /** For the log: a service's instances or slots are not taken. Does not throw. */
  readonly onError: (environment: string, service: string, error: unknown) => void;
}

interface Known {
  readonly environment: string;
  readonly service: string;
  /** As its object says; undefined: there is none that could be read. */
  policy: ServicePolicy | undefined;
  readonly source: EndpointSource;
  podCount: number;
}

export class ServiceEndpoints {
  readonly #options: ServiceEndpointsOptions;
  readonly #known = new Map<string, Known>();

  constructor(options: ServiceEndpointsOptions) {
    this.#options = options;
  }

  /** Tells all that the reflectors have, and from now on what changes. They have to be synced. */
  start(): void {
    const { services, pods, nodes, tables } = this.#options;
    nodes.subscribe({
      onUpsert: (node, old) => {
        if (zoneOfNode(node) !== zoneOfNode(old)) for (const { source } of this.#known.values()) source.tellAgain();
      },
    });
    services.subscribe({
      onUpsert: (object) => this.#onService(object),
      onDelete: (object) => this.#onServiceGone(object),
    });
    tables.subscribe({
      onUpsert: (table) => this.#onTable(table),
      onDelete: (table) => {
        this.#options.slots.tableGone(table.metadata.namespace ?? "", table.metadata.name);
        this.#onTable(table);
      },
    });
    pods.subscribe({
      onUpsert: (pod, old) => this.#onPod(pod, old),
      onDelete: (pod) => this.#onPodGone(pod),
    });
  }

  /** For a leader that begins. */
  tellAll(slots: SlotSink): void {
    for (const { environment, service, policy } of this.#known.values()) {
      this.#attempt(environment, service, () => {
        if (policy?.ownership !== undefined) slots.declareService(environment, service, policy.ownership);
      });
    }
    for (const { source, policy } of this.#known.values()) if (policy?.ownership !== undefined) source.tellAll(slots);
  }

  #onService(object: Seen<LeverServiceObject>): void {
    const { name, namespace = "" } = object.metadata;
    const { service } = observeService(object);
    if (service === undefined) return;
    const known = this.#get(namespace, name);
    const isNew = known.policy === undefined;
    const hadSlots = known.policy?.ownership !== undefined;
    known.policy = servicePolicy(service);
    this.#declare(known);
    // What was said of instances before there was a service, or a holder's place, was not heard.
    if (isNew || (!hadSlots && known.policy.ownership !== undefined)) {
      known.source.tellAgain();
      if (known.policy.ownership !== undefined) known.source.tellAll(this.#options.slots);
      this.#seed(known, this.#options.tables.get(namespace, name));
    }
  }

  #onServiceGone({ metadata: { name, namespace = "" } }: KubeObject): void {
    const { registry, slots } = this.#options;
    const known = this.#known.get(`${namespace}/${name}`);
    if (known === undefined) return;
    known.policy = undefined;
    slots.removeService(namespace, name);
    registry.removeService(namespace, name);
    this.#dropUnused(known);
  }

  #declare(known: Known): void {
    const { registry, slots, tables } = this.#options;
    const { environment, service, policy } = known;
    if (policy === undefined) return;
    this.#attempt(environment, service, () => {
      const { ownership, ...rest } = policy;
      // Before the agents.
      if (ownership === undefined) slots.removeService(environment, service);
      else slots.declareService(environment, service, ownership);
      const recordMs = tables.get(environment, service)?.leaseMs;
      registry.declareService(environment, service, {
        ...rest,
        ...(ownership !== undefined && { ownership: announced(ownership, recordMs) }),
      });
    });
  }

  #onTable({ metadata: { name, namespace = "" } }: SeenTable): void {
    const known = this.#known.get(`${namespace}/${name}`);
    if (known?.policy?.ownership === undefined) return;
    this.#declare(known);
    this.#seed(known, this.#options.tables.get(namespace, name));
  }

  /** Until the leader is heard, slots are where they last were. */
  #seed({ environment, service, policy }: Known, table: SeenTable | undefined): void {
    const { tables } = this.#options.registry;
    if (policy?.ownership === undefined || table === undefined) return;
    const known = tables.table(environment, service).slots ?? [];
    const rows: SlotRow[] = [];
    for (const { first, last, holder, epoch } of table.slots) {
      for (let slot = first; slot <= last; slot++) {
        // Of the same epoch the leader has said more.
        if ((known[slot]?.epoch ?? epoch) >= epoch) continue;
        rows.push({ slot, holder, epoch, issued: epoch, isMoving: false, fence: 0 });
      }
    }
    if (rows.length > 0) tables.setSlots(environment, service, rows);
  }

  #onPod(pod: Seen<Pod>, old: Seen<Pod> | undefined): void {
    const { namespace = "" } = pod.metadata;
    const service = serviceOf(pod);
    const isMoved = old !== undefined && serviceOf(old) !== service;
    if (isMoved) this.#onPodGone(old);
    if (service === undefined) return;
    const known = this.#get(namespace, service);
    if (old === undefined || isMoved) known.podCount++;
    this.#attempt(namespace, service, () => known.source.upsert(pod));
  }

  #onPodGone(pod: Seen<Pod>): void {
    const known = this.#known.get(`${pod.metadata.namespace ?? ""}/${serviceOf(pod) ?? ""}`);
    if (known === undefined) return;
    known.source.remove(pod);
    known.podCount--;
    this.#dropUnused(known);
  }

  #get(environment: string, service: string): Known {
    const key = `${environment}/${service}`;
    let known = this.#known.get(key);
    if (known === undefined) {
      const { registry, slots, nodes, tables } = this.#options;
      const sink: EndpointSink = {
        upsertInstance: (instance) => {
          if (registry.upsertInstance(instance)) slots.upsertInstance(instance);
        },
        removeInstance: (instance) => {
          registry.removeInstance(instance);
          slots.removeInstance(instance);
        },
        processEnded: (instance, process, endedBefore) => slots.processEnded(instance, process, endedBefore),
      };
      const source = new EndpointSource({
        environment,
        service,
        sink,
        zoneOf: (node) => zoneOfNode(nodes.get(undefined, node)),
        wasServing: (instance, podUid) => tables.get(environment, service)?.serving.get(instance) === podUid,
      });
      known = { environment, service, policy: undefined, source, podCount: 0 };
      this.#known.set(key, known);
    }
    return known;
  }

  #dropUnused({ environment, service, policy, podCount }: Known): void {
    if (policy === undefined && podCount === 0) this.#known.delete(`${environment}/${service}`);
  }

  #attempt(environment: string, service: string, attempt: () => void): void {
    try {
      attempt();
    } catch (error) {
      this.#options.onError(environment, service, error);
    }
  }
}

function serviceOf({ metadata }: Seen<Pod>): string | undefined {
  return metadata.labels?.[serviceLabel];
}

/** `recordMs`: the longest lease that the leader's record says that it reckons with. */
function announced(ownership: OwnershipPolicy, recordMs = leaseMsMin): OwnershipPolicy {
  return { ...ownership, leaseMs: Math.min(ownership.leaseMs, Math.max(recordMs, leaseMsMin)) };
}
