/**
 * Makes of each `LeverService` its Deployment and its status, while this replica leads.
 *
 * What is wanted and what is reported are functions of what is observed (`reconcile/`); here it is fetched, written and
 * tried again. Level-based: a key says that something may have changed, and the work looks at all there is. Invariants:
 * nothing is written by who does not lead; nothing that others have made is taken over; what the API server has as it is
 * wanted is not written again.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { InstanceState } from "@leveros/protocol/control/discovery.ts";
import { apiVersion, type LeverServiceStatus, leverServiceKind } from "../api/v1alpha1/lever-service.ts";
import type { EventRecorder } from "./event-recorder.ts";
import type { KubeClient } from "./kube-client.ts";
import { KubeError } from "./kube-error.ts";
import { deployments, leverServices } from "./kube-object.ts";
import type { ApplyOutcome } from "./reconcile/apply-outcome.ts";
import type { Deployment, LeverServiceObject, Pod, ReplicaSet } from "./reconcile/kubernetes-object.ts";
import { type ObservedService, observeService } from "./reconcile/observed-service.ts";
import { serviceReport } from "./reconcile/service-status.ts";
import type { TrustProblem } from "./reconcile/trust-problem.ts";
import { type AgentSettings, serviceLabel, wantedDeployment } from "./reconcile/wanted-deployment.ts";
import type { Reflector } from "./reflector.ts";
import { type Seen, seenDeployment } from "./seen-objects.ts";
import { type WorkDone, WorkQueue, type WorkResult } from "./work-queue.ts";

const workers = 4;
const retry = { minMs: 200, maxMs: 60_000 };
/** Nobody tells of a Deployment of others that has gone: it is not watched. */
const clashRecheckMs = 15_000;

export interface ServiceControllerOptions {
  readonly client: Pick<KubeClient, "get" | "apply" | "applyStatus">;
  readonly clock: Clock;
  readonly random: Random;
  /** Since 1970, for the times that people read. */
  readonly wallMs: () => number;
  readonly services: Reflector<Seen<LeverServiceObject>>;
  readonly deployments: Reflector<Seen<Deployment>>;
  readonly replicaSets: Reflector<Seen<ReplicaSet>>;
  readonly pods: Reflector<Seen<Pod>>;
  readonly recorder: Pick<EventRecorder, "record">;
  readonly agent: () => AgentSettings;
  readonly isLeader: () => boolean;
  /** Why pods of the namespace would not start. */
  readonly trustProblemOf?: ((namespace: string) => TrustProblem | undefined) | undefined;
  /** The state of each instance, as agents are told; undefined: the service is not known there yet. */
  readonly statesOf: (environment: string, service: string) => ReadonlyMap<string, InstanceState> | undefined;
  /** For metrics and the log. Does not throw. */
  readonly onDone?: (done: WorkDone) => void;
}

/** What was done for a service, so that it is not done again. */
interface Memory {
  readonly uid: string;
  /** What was applied last, as text. */
  applied: string | undefined;
  deploymentUid: string | undefined;
  /** Of the Deployment, after that. */
  generation: number;
  outcome: ApplyOutcome;
  /** The service's generation that the outcome is of. */
  outcomeOf: number;
  /** The status that was written over the version that was seen then: the copy here may be behind. */
  written: { readonly over: string; readonly status: LeverServiceStatus } | undefined;
}

export class ServiceController {
  readonly #options: ServiceControllerOptions;
  readonly queue: WorkQueue;
  readonly #memory = new Map<string, Memory>();
  readonly #sets: ByService<Seen<ReplicaSet>>;
  readonly #pods: ByService<Seen<Pod>>;

  constructor(options: ServiceControllerOptions) {
    this.#options = options;
    const { clock, random, onDone } = options;
    this.queue = new WorkQueue({
      clock,
      random,
      workers,
      retry,
      work: (key) => this.#reconcile(key),
      ...(onDone && { onDone }),
    });
    const onChange = (key: string) => this.changed(key);
    this.#sets = new ByService(options.replicaSets, onChange);
    this.#pods = new ByService(options.pods, onChange);
  }

  /** The reflectors have to be synced. */
  start(): void {
    const { services, deployments } = this.#options;
    this.#sets.start();
    this.#pods.start();
    services.subscribe({
      onUpsert: ({ metadata: { namespace, name } }) => this.changed(`${namespace}/${name}`),
      onDelete: ({ metadata: { namespace, name } }) => {
        this.#memory.delete(`${namespace}/${name}`);
      },
    });
    const onDeployment = ({ metadata: { namespace, name } }: Seen<Deployment>) => this.changed(`${namespace}/${name}`);
    deployments.subscribe({ onUpsert: onDeployment, onDelete: onDeployment });
  }

  /** This one leads from now on: all services are looked at, and nothing is known of what was written by others. */
  elected(): void {
    this.#memory.clear();
    for (const { metadata } of this.#options.services.values()) this.changed(`${metadata.namespace}/${metadata.name}`);
  }

  /** Something about all services of the namespace may have. */
  namespaceChanged(namespace: string): void {
    for (const { metadata } of this.#options.services.values()) {
      if (metadata.namespace === namespace) this.changed(`${namespace}/${metadata.name}`);
    }
  }

  /** Something about the service (`environment/service`) may have changed. */
  changed(key: string): void {
    if (this.#options.isLeader()) this.queue.add(key);
  }

  close(): Promise<void> {
    return this.queue.close("drop");
  }

  async #reconcile(key: string): Promise<WorkResult> {
    const { services, deployments: copies, agent, isLeader, statesOf, wallMs, client, recorder } = this.#options;
    const { trustProblemOf } = this.#options;
    const slash = key.indexOf("/");
    const [namespace, name] = [key.slice(0, slash), key.slice(slash + 1)];
    const object = services.get(namespace, name);
    if (object === undefined || !isLeader()) return;
    const memory = this.#remember(key, object);
    const observed = this.#observe(object, memory);
    if (observed.isDeleting) return;

    let found: Deployment | undefined = copies.get(namespace, name);
    if (found === undefined && observed.service !== undefined) found = await this.#find(namespace, name);
    const wanted = wantedDeployment(observed, found, agent());
    if (memory.outcomeOf !== observed.generation) memory.outcome = { kind: "pending" };
    memory.outcomeOf = observed.generation;
    let failure: unknown;
    if (wanted.kind === "apply") {
      // The uid is there from the second time on.
      const text = JSON.stringify({ ...wanted.object, metadata: { ...wanted.object.metadata, uid: undefined } });
      if (isToBeApplied(memory, text, found)) {
        if (!isLeader()) return;
        try {
          const applied = await client.apply(deployments, wanted.object as Seen<Deployment>);
          found = seenDeployment(applied as Seen<Deployment>);
          memory.applied = text;
          memory.deploymentUid = found.metadata.uid;
          memory.generation = found.metadata.generation ?? 0;
          memory.outcome = { kind: "applied" };
        } catch (error) {
          failure = error;
          memory.applied = undefined;
          memory.outcome = failed(error);
        }
      }
    } else memory.applied = undefined;

    const report = serviceReport({
      observed,
      wanted,
      apply: memory.outcome,
      deployment: found,
      replicaSets: this.#sets.of(key),
      pods: this.#pods.of(key),
      instances: statesOf(namespace, name),
      trustProblem: trustProblemOf?.(namespace),
      nowMs: wallMs(),
    });
    if (report.isChanged && isLeader()) {
      const { resourceVersion = "" } = object.metadata;
      const { status } = report;
      // Of another service of that name, made meanwhile, nothing is said.
      const { uid } = object.metadata;
      const body = { apiVersion, kind: leverServiceKind, metadata: { namespace, name, ...(uid && { uid }) }, status };
      try {
        await client.applyStatus(leverServices, body);
        memory.written = { over: resourceVersion, status };
      } catch (error) {
        // It is gone: so is its status.
        if (!KubeError.is(error) || !error.isNotFound) failure ??= error;
      }
    }
    // Once it is written: what could not be is found anew, and told then.
    if (failure === undefined || memory.outcome.kind === "failed") {
      for (const { type, reason, message } of report.events) {
        recorder.record(leverServices, object, { type, reason, note: message });
      }
    }
    if (failure !== undefined) throw failure;
    const lookAgainInMs = Math.min(
      report.lookAgainInMs ?? Number.POSITIVE_INFINITY,
      wanted.kind === "clash" ? clashRecheckMs : Number.POSITIVE_INFINITY,
    );
    return Number.isFinite(lookAgainInMs) ? { requeueAfterMs: lookAgainInMs } : undefined;
  }

  #remember(key: string, { metadata: { uid = "" } }: Seen<LeverServiceObject>): Memory {
    let memory = this.#memory.get(key);
    if (memory === undefined || memory.uid !== uid) {
      memory = {
        uid,
        applied: undefined,
        deploymentUid: undefined,
        generation: 0,
        outcome: { kind: "pending" },
        outcomeOf: 0,
        written: undefined,
      };
      this.#memory.set(key, memory);
    }
    return memory;
  }

  /** With the status that was written last, if the copy does not have it yet. */
  #observe(object: Seen<LeverServiceObject>, memory: Memory): ObservedService {
    const observed = observeService(object);
    const { written } = memory;
    if (written === undefined) return observed;
    if (written.over === object.metadata.resourceVersion) return { ...observed, status: written.status };
    memory.written = undefined;
    return observed;
  }

  /** What is there may not have the label that is watched. */
  async #find(namespace: string, name: string): Promise<Deployment | undefined> {
    try {
      return seenDeployment(await this.#options.client.get<Seen<Deployment>>(deployments, { namespace, name }));
    } catch (error) {
      if (KubeError.is(error) && error.isNotFound) return undefined;
      throw error;
    }
  }
}

/** The copy may be behind what was applied, never before it: generations of an object rise. */
function isToBeApplied({ applied, deploymentUid, generation }: Memory, text: string, found: Deployment | undefined) {
  if (applied !== text || found === undefined || found.metadata.uid !== deploymentUid) return true;
  return (found.metadata.generation ?? 0) > generation;
}

function failed(error: unknown): ApplyOutcome {
  if (!KubeError.is(error)) return { kind: "failed", message: error instanceof Error ? error.message : String(error) };
  const { status, details, said = error } = error;
  const causes = (details as { causes?: readonly { field?: unknown }[] } | undefined)?.causes ?? [];
  return {
    kind: "failed",
    ...(status !== 0 && { code: status }),
    ...(said.reason !== undefined && { reason: said.reason }),
    message: said.message,
    fields: causes.flatMap(({ field }) => (typeof field === "string" ? [field] : [])),
  };
}

/** Objects that carry the label of their service, by service. */
class ByService<T extends Seen<object>> {
  readonly #reflector: Reflector<T>;
  readonly #onChange: (key: string) => void;
  readonly #byService = new Map<string, Map<string, T>>();

  constructor(reflector: Reflector<T>, onChange: (key: string) => void) {
    this.#reflector = reflector;
    this.#onChange = onChange;
  }

  start(): void {
    this.#reflector.subscribe({
      onUpsert: (object, old) => {
        if (old !== undefined && keyOf(old) !== keyOf(object)) this.#remove(old);
        const key = keyOf(object);
        const objects = this.#byService.get(key) ?? new Map<string, T>();
        this.#byService.set(key, objects.set(object.metadata.name, object));
        this.#onChange(key);
      },
      onDelete: (old) => this.#remove(old),
    });
  }

  of(key: string): T[] {
    return [...(this.#byService.get(key)?.values() ?? [])];
  }

  #remove(object: T): void {
    const key = keyOf(object);
    const objects = this.#byService.get(key);
    objects?.delete(object.metadata.name);
    if (objects?.size === 0) this.#byService.delete(key);
    this.#onChange(key);
  }
}

function keyOf({ metadata: { namespace = "", labels } }: Seen<object>): string {
  return `${namespace}/${labels?.[serviceLabel] ?? ""}`;
}
