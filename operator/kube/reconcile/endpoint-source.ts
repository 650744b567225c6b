/**
 * The instances of one service, from its pods: the source that the registry and the leader are fed by in a cluster.
 *
 * Pods say what exists, where it is, and which processes have ended; what is served the agents say themselves. Each pod
 * is looked at as it is now, whatever was seen of it before, so that events may be missed or come again. Invariants: a pod
 * that is terminating takes nothing new; what is proven of the ends of its processes (process-end.ts) is told each time, and
 * a pod that is only gone proves nothing.
 */

import { agentContainerName } from "../../api/v1alpha1/lever-service.ts";
import type { InstanceProcess } from "../../core/ownership/holder.ts";
import type { InstanceKey, SourceInstance } from "../../core/service-registry.ts";
import { type ContainerStatus, conditionOf, type Pod, timestampMs } from "./kubernetes-object.ts";
import { appContainerName, processEnds, statusOf } from "./process-end.ts";
import { agentPort } from "./wanted-deployment.ts";

/** Where it all goes: `ServiceRegistry` and `OwnershipLeader`. */
export interface EndpointSink {
  upsertInstance(instance: SourceInstance): void;
  removeInstance(key: InstanceKey): void;
  /** Those of the kind that began before `endedBefore` (wall-clock ms of their node) have ended. May be told again. */
  processEnded(key: InstanceKey, process: InstanceProcess, endedBefore: number): void;
}

export interface EndpointSourceOptions {
  readonly environment: string;
  readonly service: string;
  readonly sink: EndpointSink;
  /** The zone of a node; undefined where it has none, or the node is not known. */
  zoneOf(node: string): string | undefined;
  /** The pod served when the operator last ran, as its persisted table says. */
  wasServing(instance: string, podUid: string): boolean;
}

export class EndpointSource {
  readonly #options: EndpointSourceOptions;
  /** Those that are instances, and those whose processes may still be proven to have ended, by name. */
  readonly #pods = new Map<string, { pod: Pod; told: string | undefined }>();

  constructor(options: EndpointSourceOptions) {
    this.#options = options;
  }

  /** The pod as it is now. */
  upsert(pod: Pod): void {
    const { name = "", uid } = pod.metadata;
    if (name === "" || !isLeverPod(pod)) return;
    const former = this.#pods.get(name);
    // The end of the one before it was missed.
    if (former !== undefined && former.pod.metadata.uid !== uid) this.#forget(name);
    const known = this.#pods.get(name) ?? { pod, told: undefined };
    known.pod = pod;
    this.#pods.set(name, known);
    this.#tell(name, known);
    this.#prove(name, pod);
  }

  /** The pod is gone; `pod` is what was last seen of it. That it is gone proves nothing, what was seen may. */
  remove(pod: Pod): void {
    const { name = "", uid } = pod.metadata;
    if (this.#pods.get(name)?.pod.metadata.uid !== uid) return;
    this.#forget(name);
    this.#prove(name, pod);
  }

  /** These are all pods that there are: after a list. */
  replace(pods: readonly Pod[]): void {
    const names = new Set(pods.map(({ metadata }) => metadata.name));
    for (const name of [...this.#pods.keys()]) if (!names.has(name)) this.#forget(name);
    for (const pod of pods) this.upsert(pod);
  }

  /** Tells another one all that is known now: a leader that begins. */
  tellAll(sink: EndpointSink): void {
    for (const [name, { pod }] of this.#pods) {
      if (!isFinished(pod)) sink.upsertInstance(this.#instance(name, pod));
      this.#prove(name, pod, sink);
    }
  }

  /** The service, or the node's zone, is known only now: all instances are told again. */
  tellAgain(): void {
    for (const [name, known] of this.#pods) {
      known.told = undefined;
      this.#tell(name, known);
    }
  }

  #tell(name: string, known: { pod: Pod; told: string | undefined }): void {
    const { sink } = this.#options;
    if (isFinished(known.pod)) {
      if (known.told !== undefined) sink.removeInstance(this.#key(name));
      known.told = undefined;
      return;
    }
    const instance = this.#instance(name, known.pod);
    const text = JSON.stringify(instance);
    if (text === known.told) return;
    known.told = text;
    sink.upsertInstance(instance);
  }

  #instance(name: string, pod: Pod): SourceInstance {
    const { zoneOf, wasServing } = this.#options;
    const { metadata, spec, status } = pod;
    const zone = spec?.nodeName === undefined ? undefined : zoneOf(spec.nodeName);
    const isDraining = metadata.deletionTimestamp !== undefined;
    const isReady = conditionOf(pod, "Ready")?.status === "True";
    return {
      ...this.#key(name),
      ...(status?.podIP ? { address: addressOf(status.podIP) } : {}),
      ...(zone === undefined ? {} : { zone }),
      isDraining,
      isNotReady: isFoundNotReady(pod),
      wasServing: isReady && !isDraining && wasServing(name, metadata.uid ?? ""),
    };
  }

  #prove(name: string, pod: Pod, sink = this.#options.sink): void {
    const ends = processEnds(pod);
    // The app first: what it had said may lie in its agent, whose end is the last word.
    for (const process of ["app", "agent"] as const) {
      const endedBefore = ends[process];
      if (endedBefore !== undefined) sink.processEnded(this.#key(name), process, endedBefore);
    }
  }

  #forget(name: string): void {
    const known = this.#pods.get(name);
    this.#pods.delete(name);
    if (known?.told !== undefined) this.#options.sink.removeInstance(this.#key(name));
  }

  #key(instance: string): InstanceKey {
    const { environment, service } = this.#options;
    return { environment, service, instance };
  }
}

/** It has an agent. */
export function isLeverPod({ spec }: Pod): boolean {
  return spec?.initContainers?.some(({ name }) => name === agentContainerName) === true;
}

/** It runs nothing any more, and will not: whoever says so. */
function isFinished({ status }: Pod): boolean {
  return status?.phase === "Failed" || status?.phase === "Succeeded";
}

/**
 * The kubelet has found that the pod is not Ready after it had been, in the last known life of its processes. Before that
 * it is not Ready either, and its app may have registered a moment ago: the kubelet has not looked yet. Of a pod that was
 * never Ready that has not changed since before its containers were started.
 *
 * The kubelet says why. Without a reason it is the word of the node lifecycle controller, which has not heard of the
 * kubelet for a while: of that an agent whose connection is there knows more, and after an outage of the API server it
 * is said of all pods at once.
 */
export function isFoundNotReady(pod: Pod): boolean {
  const ready = conditionOf(pod, "Ready");
  if (ready === undefined || ready.status === "True" || !ready.reason) return false;
  const since = timestampMs(ready.lastTransitionTime);
  const agentSince = startedAt(statusOf(pod, agentContainerName));
  const appSince = startedAt(statusOf(pod, appContainerName(pod) ?? ""));
  if (since === undefined || agentSince === undefined || appSince === undefined) return false;
  return since > agentSince && since > appSince;
}

function startedAt(status: ContainerStatus | undefined): number | undefined {
  const { state, lastState } = status ?? {};
  return timestampMs(state?.running?.startedAt ?? state?.terminated?.startedAt ?? lastState?.terminated?.startedAt);
}

function addressOf(podIP: string): string {
  return podIP.includes(":") ? `[${podIP}]:${agentPort}` : `${podIP}:${agentPort}`;
}
