/**
 * What the status of a pod proves about the ends of its processes (R10b, R11).
 *
 * A proof is what stays true whatever comes after it: that all processes of a kind which began before some time, by the
 * clock of their node, have ended. It comes from the kubelet's word that a container terminated, and when; in its own
 * PID namespace, where nothing outlives the first process. It is no proof that a pod was deleted, by force or by garbage
 * collection, that it is Failed or not ready, nor a termination that nobody saw.
 *
 * A time and not a yes, because a status is late: the container that it tells of may have been started again, and its
 * next process be a holder already.
 */

import { agentContainerName } from "../../api/v1alpha1/lever-service.ts";
import type { InstanceProcess } from "../../core/ownership/holder.ts";
import { type ContainerStatus, conditionOf, type Pod, type TerminatedState, timestampMs } from "./kubernetes-object.ts";
import { appContainerAnnotation } from "./wanted-deployment.ts";

/** A process must have begun this long before its container's end: ends are told in whole seconds. */
const marginMs = 1000;

/**
 * For each kind of process the time before which all that began have ended, in wall-clock ms of the pod's node; infinity:
 * all, and none will begin; undefined: nothing is proven.
 */
export type ProcessEnds = Readonly<Record<InstanceProcess, number | undefined>>;

export function processEnds(pod: Pod): ProcessEnds {
  // There a process may outlive the first one of its container.
  if (pod.spec?.hostPID === true || pod.spec?.shareProcessNamespace === true)
    return { app: undefined, agent: undefined };
  if (isOver(pod)) return { app: Number.POSITIVE_INFINITY, agent: Number.POSITIVE_INFINITY };
  const app = appContainerName(pod);
  return {
    app: app === undefined ? undefined : endedBefore(statusOf(pod, app)),
    agent: endedBefore(statusOf(pod, agentContainerName)),
  };
}

/** The container that runs the service; undefined where the pod does not say it. */
export function appContainerName({ metadata, spec }: Pod): string | undefined {
  const named = metadata.annotations?.[appContainerAnnotation];
  if (named !== undefined) return named;
  const [only, ...others] = spec?.containers ?? [];
  return others.length === 0 ? only?.name : undefined;
}

export function statusOf({ status }: Pod, container: string): ContainerStatus | undefined {
  return [...(status?.containerStatuses ?? []), ...(status?.initContainerStatuses ?? [])].find(
    ({ name }) => name === container,
  );
}

/**
 * Its own end, or that of the one before it. Later ends imply the earlier ones. Nothing is said of what runs now, though
 * the node's clock was set back since the end.
 */
function endedBefore(status: ContainerStatus | undefined): number | undefined {
  const ends = [status?.state?.terminated, status?.lastState?.terminated].flatMap((end) => finishedAt(end) ?? []);
  if (ends.length === 0) return undefined;
  const runsSince = timestampMs(status?.state?.running?.startedAt) ?? Number.POSITIVE_INFINITY;
  return Math.min(Math.max(...ends) - marginMs, runsSince);
}

/** When the kubelet saw it end. */
function finishedAt(end: TerminatedState | undefined): number | undefined {
  // The kubelet found nothing where the container should be, and made up an end.
  if (end === undefined || end.reason === "ContainerStatusUnknown") return undefined;
  const ms = timestampMs(end.finishedAt);
  return ms === undefined || ms <= 0 ? undefined : ms;
}

/**
 * The kubelet has ended the pod: it starts nothing in it any more. It says so by a last phase once all containers have
 * terminated. The garbage collector says the same of pods whose node it does not find: there the containers' states are
 * old, and what they tell of may have been started again.
 */
function isOver({ spec, status, ...pod }: Pod): boolean {
  if (status?.phase !== "Failed" && status?.phase !== "Succeeded") return false;
  const disruption = conditionOf({ status }, "DisruptionTarget");
  if (disruption?.status === "True" && disruption.reason === "DeletionByPodGC") return false;
  const sidecars = (spec?.initContainers ?? []).filter(({ restartPolicy }) => restartPolicy === "Always");
  const containers = [...(spec?.containers ?? []), ...sidecars];
  return (
    containers.length > 0 &&
    containers.every(({ name }) => finishedAt(statusOf({ ...pod, status }, name)?.state?.terminated) !== undefined)
  );
}
