/**
 * The status of a `LeverService`, and the events to record, from what was observed: pure, and the same whenever the same
 * is observed.
 *
 * The four conditions are always there. Each is of the spec's present generation: `Ready` is not True before what the
 * spec asks for is what runs, so that `kubectl wait --for=condition=Ready` after an apply waits for the rollout. Whether
 * calls are answered meanwhile, by what ran before, `EndpointsReady` says.
 *
 * `Accepted`: the API server has taken the Deployment. `WorkloadAvailable`: all instances are of the present revision,
 * and as many run as the Deployment's strategy asks for. `EndpointsReady`: at least one instance takes calls.
 */

import type { InstanceState } from "@leveros/protocol/control/discovery.ts";
import type { LeverServiceStatus, StatusCondition } from "../../api/v1alpha1/lever-service.ts";
import { type ApplyOutcome, isQuota, quotaExceeded, refusal } from "./apply-outcome.ts";
import { type Finding, finding, quoted } from "./finding.ts";
import { conditionOf, controllerOf, type Deployment, type Pod, type ReplicaSet } from "./kubernetes-object.ts";
import type { ObservedService } from "./observed-service.ts";
import { type PodProblem, podProblem, registrationDueInMs } from "./pod-problem.ts";
import { type TrustProblem, trustMissing } from "./trust-problem.ts";
import { hasOwnPreStop, serviceLabel, type WantedDeployment } from "./wanted-deployment.ts";

export interface ServiceFacts {
  readonly observed: ObservedService;
  readonly wanted: WantedDeployment;
  /** Of the last try for this generation. */
  readonly apply: ApplyOutcome;
  /** The one of the service's name, whosever it is. */
  readonly deployment: Deployment | undefined;
  /** Of the deployment. */
  readonly replicaSets: readonly ReplicaSet[];
  /** Of the service. */
  readonly pods: readonly Pod[];
  /** The operator's table: state by instance; undefined: this operator does not know it yet. */
  readonly instances: ReadonlyMap<string, InstanceState> | undefined;
  /** Of the namespace's ConfigMap with the trusted CAs; undefined: it is there, as far as is known. */
  readonly trustProblem?: TrustProblem | undefined;
  readonly nowMs: number;
}

export interface ServiceEvent {
  readonly type: "Normal" | "Warning";
  readonly reason: string;
  readonly message: string;
}

export interface ServiceReport {
  readonly status: LeverServiceStatus;
  /** It is to be written. */
  readonly isChanged: boolean;
  /** To be recorded; a recorder that counts repeats is expected. */
  readonly events: readonly ServiceEvent[];
  /** When to look again without any event; undefined: not needed. */
  readonly lookAgainInMs: number | undefined;
}

const conditionTypes = ["Accepted", "WorkloadAvailable", "EndpointsReady", "Ready"] as const;
type ConditionType = (typeof conditionTypes)[number];

/** What `kubectl` shows of a service before anything is known. */
const reconciling = "Reconciling";

export function serviceReport(facts: ServiceFacts): ServiceReport {
  const { observed, deployment, instances } = facts;
  const { status: before } = observed;
  if (observed.isDeleting) return { status: before, isChanged: false, events: [], lookAgainInMs: undefined };
  const isOwn = controllerOf(deployment ?? { metadata: {} })?.uid === observed.uid;
  const workload = new Workload(facts, isOwn ? deployment : undefined);
  const accepted = acceptedFinding(facts);
  const available = accepted.status === "True" ? workload.finding() : workload.notAccepted(accepted);
  const endpoints = workload.endpointsFinding([accepted, available]);
  const findings: Record<ConditionType, Finding> = {
    Accepted: accepted,
    WorkloadAvailable: available,
    EndpointsReady: endpoints,
    Ready: readyFinding([accepted, available, endpoints], endpoints),
  };
  // Counts of 0 are not in what the API server says.
  const replicas = isOwn || deployment === undefined ? (deployment?.status?.replicas ?? 0) : (before.replicas ?? 0);
  const readyReplicas = instances === undefined ? before.readyReplicas : workload.serving;
  const status: LeverServiceStatus = {
    observedGeneration: observed.generation,
    replicas,
    ...(readyReplicas !== undefined && { readyReplicas }),
    selector: `${serviceLabel}=${observed.name}`,
    url: `lever://${observed.namespace}/${observed.name}`,
    conditions: conditionTypes.map((type) => condition(type, findings[type], facts)),
  };
  return {
    status,
    isChanged: !isSameStatus(before, status),
    events: eventsOf(facts, findings, status),
    lookAgainInMs: workload.lookAgainInMs,
  };
}

/** In whatever order their conditions and fields come. */
export function isSameStatus(a: LeverServiceStatus, b: LeverServiceStatus): boolean {
  return statusText(a) === statusText(b);
}

function statusText({ conditions = [], ...rest }: LeverServiceStatus): string {
  const inOrder = conditions.toSorted((a, b) => (a.type < b.type ? -1 : 1));
  return JSON.stringify([fieldsOf(rest), inOrder.map(fieldsOf)]);
}

function fieldsOf(object: object): [string, unknown][] {
  return Object.entries(object)
    .filter(([, value]) => value !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

// ------------------------------------------------------------------ conditions

function formerCondition({ observed }: ServiceFacts, type: ConditionType): StatusCondition | undefined {
  return observed.status.conditions?.find((entry) => entry.type === type);
}

function condition(type: ConditionType, { status, reason, message }: Finding, facts: ServiceFacts): StatusCondition {
  const former = formerCondition(facts, type);
  return {
    type,
    status,
    observedGeneration: facts.observed.generation,
    lastTransitionTime:
      former?.status === status
        ? former.lastTransitionTime
        : new Date(facts.nowMs).toISOString().replace(/\.\d+Z$/, "Z"),
    reason,
    message,
  };
}

function acceptedFinding(facts: ServiceFacts): Finding {
  const { observed, wanted, apply } = facts;
  if (observed.service === undefined) return finding("False", "InvalidSpec", observed.problems.join(" "));
  if (wanted.kind === "clash") {
    const whose = wanted.owner === "" ? "that this service does not own" : `that belongs to ${quoted(wanted.owner)}`;
    const what = wanted.isDeleting
      ? "It is being deleted; the service's own is made when it is gone."
      : "It is left alone. Delete it, or give the service another name.";
    return finding("False", "NameClash", `A Deployment named ${observed.name} is there ${whose}. ${what}`);
  }
  if (apply.kind === "applied") {
    if (!hasOwnPreStop(observed.service)) return finding("True", "Accepted", "The Deployment is as it is wanted.");
    return finding(
      "True",
      "PreStopPresent",
      "The app's container has a preStop hook of its own, which is kept. Lever's hook, which waits until what runs has " +
        "ended, would stand there: without it an instance drains from the moment at which it is told to end.",
    );
  }
  const former = formerCondition(facts, "Accepted");
  const isFormer = former?.observedGeneration === observed.generation && former.status !== "Unknown";
  if (apply.kind === "failed") {
    const refused = refusal(apply, observed.namespace);
    if (refused !== undefined) return refused;
    // What the API server has of this generation it still has.
    if (isFormer) return { status: former.status, reason: former.reason, message: former.message };
    const why = quoted(apply.message);
    return finding("Unknown", "ApplyFailed", `The API server did not take the Deployment: ${why}. It is tried again.`);
  }
  if (isFormer) return { status: former.status, reason: former.reason, message: former.message };
  return finding("Unknown", reconciling, "The operator has not written the Deployment yet.");
}

/** What of the others stands in its way: the first that is not True, False before Unknown. */
function readyFinding(others: readonly Finding[], endpoints: Finding): Finding {
  const cause = others.find(({ status }) => status === "False") ?? others.find(({ status }) => status === "Unknown");
  return cause ?? finding("True", "Ready", endpoints.message);
}

// ------------------------------------------------------------------ the workload

/** The Deployment of a service with its pods, as far as it is the service's. */
class Workload {
  readonly #facts: ServiceFacts;
  readonly #deployment: Deployment | undefined;
  /** Instances; 0 where the spec cannot be read and nothing is there. */
  readonly #wanted: number;
  /** Those that are not about to end, of the present revision. */
  readonly #pods: readonly Pod[];
  readonly #problems: readonly PodProblem[];
  readonly serving: number;
  readonly lookAgainInMs: number | undefined;

  constructor(facts: ServiceFacts, deployment: Deployment | undefined) {
    this.#facts = facts;
    this.#deployment = deployment;
    this.#wanted = facts.observed.service?.spec.replicas ?? deployment?.spec?.replicas ?? 0;
    this.#pods = this.#presentPods();
    const factsOf = ({ metadata }: Pod) => ({
      nowMs: facts.nowMs,
      state: facts.instances?.get(metadata.name ?? ""),
    });
    this.#problems = this.#pods.flatMap((pod) => podProblem(pod, factsOf(pod)) ?? []);
    const dueInMs = this.#pods.flatMap((pod) => registrationDueInMs(pod, factsOf(pod)) ?? []);
    this.lookAgainInMs = dueInMs.length === 0 ? undefined : Math.min(...dueInMs);
    this.serving = [...(facts.instances?.values() ?? [])].filter((state) => state === "Serving").length;
  }

  notAccepted({ status, reason }: Finding): Finding {
    const runs =
      (this.#deployment?.status?.replicas ?? 0) > 0 ? " What was made for an earlier generation runs on." : "";
    return finding("Unknown", "NotAccepted", `Accepted is ${status} (${reason}).${runs}`);
  }

  finding(): Finding {
    const deployment = this.#deployment;
    const {
      observedGeneration = 0,
      updatedReplicas = 0,
      availableReplicas = 0,
      replicas = 0,
    } = deployment?.status ?? {};
    if (deployment === undefined || observedGeneration < (deployment.metadata.generation ?? 0)) {
      return finding("Unknown", reconciling, "Kubernetes has not looked at the Deployment yet.");
    }
    if (this.#wanted === 0) {
      return replicas === 0
        ? finding("True", "ScaledToZero", "No instance is wanted, and none is there.")
        : finding("Unknown", "ScalingDown", `No instance is wanted; ${replicas} are ending.`);
    }
    const progress = conditionOf(deployment, "Progressing");
    const isRolledOut =
      progress?.reason === "NewReplicaSetAvailable" && updatedReplicas >= this.#wanted && replicas === updatedReplicas;
    const available = `${availableReplicas} of ${this.#wanted} instances are available`;
    if (isRolledOut && conditionOf(deployment, "Available")?.status === "True") {
      // What runs has what it was mounted when it was there.
      const note = [this.#trustFinding()?.message ?? "", this.#problemText()].join(" ").trim();
      const but = note === "" ? "" : ` ${note}`;
      if (this.#facts.wanted.kind === "apply" && this.#facts.wanted.isAgentOutdated) {
        return finding(
          "True",
          "AgentOutdated",
          `${available}. Their agents are those of an operator before this one, and are replaced with the next rollout: ` +
            `kubectl rollout restart -n ${deployment.metadata.namespace} deployment/${deployment.metadata.name}.${but}`,
        );
      }
      return finding("True", "Available", `${available}.${but}`);
    }
    const refused = this.#refusedPods() ?? this.#trustFinding();
    if (refused !== undefined) return refused;
    const [first] = this.#problems;
    if (first !== undefined) return finding("False", this.#worst().reason, `${this.#problemText()} ${available}.`);
    if (progress?.reason === "ProgressDeadlineExceeded") {
      return finding(
        "False",
        "RolloutStuck",
        `${available}, and nothing has changed for too long: ${quoted(progress.message)}.`,
      );
    }
    if (!isRolledOut) {
      const isFirst = replicas === updatedReplicas;
      return isFirst
        ? finding("Unknown", "Starting", `${available}.`)
        : finding(
            "Unknown",
            "RollingOut",
            `${updatedReplicas} of ${this.#wanted} instances are of the new revision, ${available}.`,
          );
    }
    if (this.#pods.some((pod) => !areContainersStarted(pod))) return finding("Unknown", "Starting", `${available}.`);
    return finding("False", "InstancesMissing", `${available}.`);
  }

  /** `others`: what was found of the conditions before it. */
  endpointsFinding(others: readonly Finding[]): Finding {
    const { instances } = this.#facts;
    if (instances === undefined) {
      return finding("Unknown", reconciling, "This operator has not heard of the service's instances yet.");
    }
    const taking = `${this.serving} of ${this.#wanted} instances take calls`;
    if (this.serving > 0) return finding("True", "Serving", `${taking}.`);
    if (this.#facts.observed.service?.spec.replicas === 0) {
      return finding("False", "ScaledToZero", "No instance is wanted: calls find none.");
    }
    const [first] = this.#problems;
    if (first !== undefined) return finding("False", this.#worst().reason, this.#problemText());
    const states = [...instances.values()];
    if (states.includes("Unreachable")) {
      return finding(
        "False",
        "Unreachable",
        `${taking}: the operator does not hear of their agents, or their pods are not ready.`,
      );
    }
    const isUnderWay =
      !others.some(({ status }) => status === "False") && others.some(({ status }) => status === "Unknown");
    if (states.includes("Starting") || this.#pods.length > 0 || isUnderWay) {
      return finding("Unknown", "Starting", `${taking}.`);
    }
    return finding("False", "NoInstances", `${taking}: there is none.`);
  }

  #trustFinding(): Finding | undefined {
    const { trustProblem, observed } = this.#facts;
    return trustProblem && trustMissing(trustProblem, observed.namespace);
  }

  /** Pods that Kubernetes does not make. */
  #refusedPods(): Finding | undefined {
    const failure = [this.#deployment, ...this.#presentSets()]
      .map((object) => conditionOf(object, "ReplicaFailure"))
      .find((entry) => entry?.status === "True");
    if (failure === undefined) return undefined;
    const said = quoted(failure.message);
    if (isQuota(said)) return quotaExceeded(said, this.#facts.observed.namespace);
    return finding("False", "PodsRefused", `The API server refuses the pods: ${said}.`);
  }

  #presentSets(): ReplicaSet[] {
    const revisionOf = (object: Deployment | ReplicaSet | undefined) =>
      object?.metadata.annotations?.["deployment.kubernetes.io/revision"];
    const revision = revisionOf(this.#deployment);
    return this.#facts.replicaSets.filter(
      (set) =>
        controllerOf(set)?.uid === this.#deployment?.metadata.uid &&
        revision !== undefined &&
        revisionOf(set) === revision,
    );
  }

  #presentPods(): readonly Pod[] {
    const { pods } = this.#facts;
    const lasting = pods.filter(
      ({ metadata, status }) =>
        metadata.deletionTimestamp === undefined && status?.phase !== "Failed" && status?.phase !== "Succeeded",
    );
    const sets = new Set(this.#presentSets().map(({ metadata }) => metadata.uid));
    // Which revision is the present one is not known for a moment after each change.
    if (sets.size === 0) return lasting;
    return lasting.filter((pod) => sets.has(controllerOf(pod)?.uid));
  }

  /** That of most pods; of as many the first by name, so that it stays the same. */
  #worst(): PodProblem {
    const counts = new Map<string, number>();
    for (const { reason } of this.#problems) counts.set(reason, (counts.get(reason) ?? 0) + 1);
    const [worst] = this.#problems.toSorted(
      (a, b) => (counts.get(b.reason) ?? 0) - (counts.get(a.reason) ?? 0) || (a.pod < b.pod ? -1 : 1),
    );
    return worst as PodProblem;
  }

  #problemText(): string {
    if (this.#problems.length === 0) return "";
    const { pod, message } = this.#worst();
    const others = this.#problems.length - 1;
    return `${pod}: ${message}${others === 0 ? "" : ` ${others} more ${others === 1 ? "has" : "have"} a problem.`}`;
  }
}

function areContainersStarted({ status }: Pod): boolean {
  const statuses = status?.containerStatuses ?? [];
  return statuses.length > 0 && statuses.every(({ state }) => state?.running !== undefined);
}

// ------------------------------------------------------------------ events

/** Of what is new, once for each reason. */
function eventsOf(
  facts: ServiceFacts,
  findings: Readonly<Record<ConditionType, Finding>>,
  status: LeverServiceStatus,
): ServiceEvent[] {
  const { observed, apply } = facts;
  const events = new Map<string, ServiceEvent>();
  const add = (type: ServiceEvent["type"], { reason, message }: Pick<Finding, "reason" | "message">) => {
    if (!events.has(reason)) events.set(reason, { type, reason, message });
  };
  const isNew = (type: ConditionType) => {
    const former = formerCondition(facts, type);
    return former?.status !== findings[type].status || former.reason !== findings[type].reason;
  };
  for (const type of ["Accepted", "WorkloadAvailable", "EndpointsReady"] as const) {
    const found = findings[type];
    // That is but the consequence of what was found before.
    const isConsequence =
      found.reason === "NoInstances" && [...events.values()].some((event) => event.type === "Warning");
    if (!isNew(type) || isConsequence) continue;
    if (found.status === "False") add(found.reason === "ScaledToZero" ? "Normal" : "Warning", found);
    else if (found.reason === "PreStopPresent") add("Warning", found);
    else if (found.reason === "AgentOutdated") add("Normal", found);
  }
  if (apply.kind === "failed" && refusal(apply, observed.namespace) === undefined) {
    add(
      "Warning",
      finding("Unknown", "ApplyFailed", `The API server did not take the Deployment: ${quoted(apply.message)}.`),
    );
  }
  if (status.readyReplicas !== undefined && status.readyReplicas !== (observed.status.readyReplicas ?? 0)) {
    add("Normal", { reason: "EndpointsUpdated", message: `${status.readyReplicas} instances take calls.` });
  }
  if (findings.Ready.status === "True" && isNew("Ready")) add("Normal", findings.Ready);
  return [...events.values()];
}
