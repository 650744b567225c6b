/**
 * Why a pod does not serve, where it will not come right by waiting a moment: of a pod that is starting nothing is said.
 *
 * A problem is stable while its cause is: Kubernetes tells of one cause by several words in turn (ErrImagePull and
 * ImagePullBackOff; running, terminated and CrashLoopBackOff), and conditions that follow them would never rest.
 */

import type { InstanceState } from "@leveros/protocol/control/discovery.ts";
import { agentContainerName } from "../../api/v1alpha1/lever-service.ts";
import { quoted } from "./finding.ts";
import { type ContainerStatus, conditionOf, type Pod, type TerminatedState, timestampMs } from "./kubernetes-object.ts";
import { appContainerName, statusOf } from "./process-end.ts";

export interface PodProblem {
  readonly pod: string;
  readonly reason: string;
  /** A sentence. */
  readonly message: string;
}

/** An app that runs for longer than this without having registered has a problem. */
export const registrationGraceMs = 30_000;
/** Ends of a container from which on it is said to crash, also while it is being tried again. */
const crashesMin = 2;

export interface InstanceFacts {
  readonly nowMs: number;
  /** As the operator's table has it; undefined: it is not in there, or the table is not known. */
  readonly state: InstanceState | undefined;
}

export function podProblem(pod: Pod, facts: InstanceFacts): PodProblem | undefined {
  const { name = "" } = pod.metadata;
  const found = schedulingProblem(pod) ?? containerProblem(pod, facts) ?? registrationProblem(pod, facts);
  return found && { pod: name, reason: found[0], message: found[1] };
}

/** How long until something can be said of a pod of which nothing can yet; undefined: only an event changes it. */
export function registrationDueInMs(pod: Pod, { nowMs, state }: InstanceFacts): number | undefined {
  const since = silentSince(pod, state);
  return since === undefined || nowMs > since + registrationGraceMs
    ? undefined
    : since + registrationGraceMs - nowMs + 1;
}

type Found = readonly [reason: string, message: string];

function schedulingProblem(pod: Pod): Found | undefined {
  const scheduled = conditionOf(pod, "PodScheduled");
  if (scheduled?.status !== "False") return undefined;
  if (scheduled.reason === "SchedulingGated") {
    return ["SchedulingGated", "it has scheduling gates, and waits for whoever is to remove them."];
  }
  return ["Unschedulable", `no node takes it: ${quoted(scheduled.message)}.`];
}

function containerProblem(pod: Pod, { nowMs }: InstanceFacts): Found | undefined {
  const { initContainerStatuses = [], containerStatuses = [] } = pod.status ?? {};
  for (const status of [...initContainerStatuses, ...containerStatuses]) {
    const found = waitingProblem(pod, status) ?? crashProblem(pod, status, nowMs);
    if (found !== undefined) return found;
  }
  return undefined;
}

function waitingProblem(pod: Pod, { name, image, state }: ContainerStatus): Found | undefined {
  const { reason, message } = state?.waiting ?? {};
  switch (reason) {
    case "ErrImagePull":
    case "ImagePullBackOff":
    case "ErrImageNeverPull":
    case "RegistryUnavailable":
    case "ImageInspectError": {
      const wanted = imageOf(pod, name) ?? image ?? "";
      // Of the two words that take turns, the same detail.
      const detail = quoted(message).replace(/^Back-off pulling image "[^"]*"(: ErrImagePull)?(: )?/, "");
      const why = detail === "" ? "" : `: ${detail}`;
      return [
        "ImagePullFailed",
        `the image ${quoted(wanted)} of container ${name} cannot be pulled${why}. Check its name and tag, and imagePullSecrets.`,
      ];
    }
    case "InvalidImageName":
      return [
        "InvalidImageName",
        `${quoted(imageOf(pod, name) ?? image)}, of container ${name}, is no name of an image.`,
      ];
    case "CreateContainerConfigError":
    case "CreateContainerError":
    case "RunContainerError":
      return [reason, `container ${name} cannot be started: ${quoted(message)}.`];
    default:
      return undefined;
  }
}

function imageOf({ spec }: Pod, container: string): string | undefined {
  return [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])].find(({ name }) => name === container)?.image;
}

function crashProblem(pod: Pod, status: ContainerStatus, nowMs: number): Found | undefined {
  const { name, state, lastState, restartCount = 0 } = status;
  const last = state?.terminated ?? lastState?.terminated;
  if (last === undefined || (state?.waiting?.reason !== "CrashLoopBackOff" && restartCount < crashesMin))
    return undefined;
  // It is Ready between its ends, or runs for so long that it is another matter.
  if (conditionOf(pod, "Ready")?.status === "True") return undefined;
  const runsSince = timestampMs(state?.running?.startedAt);
  if (runsSince !== undefined && nowMs > runsSince + registrationGraceMs) return undefined;
  // An ordinary init container that is done.
  if (state?.terminated?.exitCode === 0) return undefined;
  const { namespace, name: podName } = pod.metadata;
  const logs = `kubectl logs -n ${namespace} ${podName} -c ${name} --previous`;
  return ["CrashLoop", `container ${name} ends again and again, last ${endText(last)}. See ${logs}.`];
}

function endText({ exitCode, signal, reason, message }: TerminatedState): string {
  const said = quoted(message);
  const why =
    reason === "OOMKilled"
      ? "for want of memory (OOMKilled): raise its limit"
      : signal !== undefined && signal !== 0
        ? `by signal ${signal}`
        : `with exit code ${exitCode ?? "unknown"}${reason === undefined || reason === "Error" ? "" : ` (${quoted(reason)})`}`;
  return said === "" ? why : `${why}: ${said}`;
}

function registrationProblem(pod: Pod, { nowMs, state }: InstanceFacts): Found | undefined {
  const since = silentSince(pod, state);
  if (since === undefined || nowMs <= since + registrationGraceMs) return undefined;
  const app = appContainerName(pod);
  // The agent is ready when its app has registered: then it is the operator who has not heard of it.
  if (statusOf(pod, agentContainerName)?.ready === true) {
    return ["AgentNotConnected", "its agent has not reached the operator. See the agent's log, and network policies."];
  }
  return [
    "NotRegistered",
    `container ${app} runs and has not registered with its agent, as serve() does. See its log.`,
  ];
}

/** Since when its app and agent run without the operator having heard of a registration. */
function silentSince(pod: Pod, state: InstanceState | undefined): number | undefined {
  const agent = statusOf(pod, agentContainerName);
  const app = statusOf(pod, appContainerName(pod) ?? "");
  if (state !== "Starting" || agent?.started !== true) return undefined;
  return timestampMs(app?.state?.running?.startedAt);
}
