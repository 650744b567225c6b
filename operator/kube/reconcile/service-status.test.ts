import { readFileSync } from "node:fs";
import type { InstanceState } from "@leveros/protocol/control/discovery.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type LeverServiceStatus, leverServiceStatusSchema } from "../../api/v1alpha1/lever-service.ts";
import type { ApplyOutcome } from "./apply-outcome.ts";
import type { ContainerStatus, Deployment, ObjectCondition, Pod, ReplicaSet } from "./kubernetes-object.ts";
import {
  at,
  hello,
  minute,
  pod,
  replicaSet,
  running,
  serviceObject,
  settings,
  startedAt,
  stored,
} from "./objects.fixture.ts";
import { observeService } from "./observed-service.ts";
import { isSameStatus, type ServiceFacts, serviceReport } from "./service-status.ts";
import type { TrustProblem } from "./trust-problem.ts";
import { type AgentSettings, wantedDeployment } from "./wanted-deployment.ts";

interface Shape {
  readonly spec?: string;
  readonly generation?: number;
  readonly before?: LeverServiceStatus;
  readonly apply?: ApplyOutcome;
  /** Of the Deployment; null: there is none. */
  readonly deployment?: Deployment["status"] | null;
  readonly found?: Deployment;
  readonly replicaSets?: readonly ReplicaSet[];
  readonly pods?: readonly Pod[];
  readonly instances?: Readonly<Record<string, InstanceState>> | null;
  readonly nowMs?: number;
  readonly settings?: AgentSettings;
  readonly trust?: TrustProblem;
}

const complete: ObjectCondition = { type: "Progressing", status: "True", reason: "NewReplicaSetAvailable" };
const progressing: ObjectCondition = { type: "Progressing", status: "True", reason: "ReplicaSetUpdated" };
const available: ObjectCondition = { type: "Available", status: "True" };
const unavailable: ObjectCondition = { type: "Available", status: "False", reason: "MinimumReplicasUnavailable" };
const failedCreate = (message: string): ObjectCondition => ({
  type: "ReplicaFailure",
  status: "True",
  reason: "FailedCreate",
  message,
});

/**
 * The status of a Deployment: how many instances there are, of the new revision, and available. As the API server says
 * it: without the counts of 0.
 */
const counts = (replicas: number, updated: number, up: number, ...conditions: ObjectCondition[]) => ({
  observedGeneration: 1,
  ...(replicas > 0 && { replicas }),
  ...(updated > 0 && { updatedReplicas: updated }),
  ...(up > 0 && { availableReplicas: up }),
  conditions,
});

const name = "hello-1-aaaaa";
const runs = counts(1, 1, 1, complete, available);
const starts = counts(1, 1, 0, progressing, unavailable);

function factsOf(shape: Shape): ServiceFacts {
  const spec = shape.spec ?? hello;
  const observed = observeService({
    ...serviceObject(spec, { generation: shape.generation ?? 1 }),
    ...(shape.before && { status: shape.before }),
  });
  const made = wantedDeployment(observeService(serviceObject(spec)), undefined, settings);
  const status = shape.deployment === undefined ? runs : shape.deployment;
  const own = made.kind === "apply" && status !== null ? stored(made.object, status) : undefined;
  const revision = { "deployment.kubernetes.io/revision": "1" };
  const deployment =
    shape.found ??
    (own && { ...own, metadata: { ...own.metadata, annotations: { ...own.metadata.annotations, ...revision } } });
  return {
    observed,
    wanted: wantedDeployment(observed, deployment, shape.settings ?? settings),
    apply: shape.apply ?? { kind: "applied" },
    deployment,
    replicaSets: shape.replicaSets ?? [replicaSet("hello-1", 1)],
    pods: shape.pods ?? [pod()],
    instances:
      shape.instances === null ? undefined : new Map(Object.entries(shape.instances ?? { [name]: "Serving" as const })),
    trustProblem: shape.trust,
    nowMs: startedAt + (shape.nowMs ?? 5000),
  };
}

function look(shape: Shape) {
  const report = serviceReport(factsOf(shape));
  const { conditions = [] } = report.status;
  const short = Object.fromEntries(conditions.map(({ type, status, reason }) => [type, `${status} ${reason}`]));
  const messageOf = (type: string) => conditions.find((entry) => entry.type === type)?.message ?? "";
  return { ...report, short, messageOf, reasons: report.events.map(({ type, reason }) => `${type} ${reason}`) };
}

const waiting = (reason: string, message = "", fields: Partial<ContainerStatus> = {}): ContainerStatus => ({
  name: "app",
  ready: false,
  restartCount: 0,
  state: { waiting: { reason, message } },
  ...fields,
});

const crashed = (fields: Partial<ContainerStatus> = {}, last: object = {}): ContainerStatus =>
  waiting("CrashLoopBackOff", "back-off 10s restarting failed container", {
    restartCount: 3,
    lastState: { terminated: { exitCode: 1, reason: "Error", finishedAt: at(4000), ...last } },
    ...fields,
  });

const unready = { ready: false, readyMs: 0 } as const;
const silentAgent = running("lever-agent", 0, { ready: false });
const failed = (code: number | undefined, message: string, more: object = {}): ApplyOutcome => ({
  kind: "failed",
  code,
  message,
  ...more,
});

const rbac =
  'deployments.apps "hello" is forbidden: User "system:serviceaccount:lever-system:operator" cannot patch resource "deployments" in API group "apps" in the namespace "shop"';
const quota = 'pods "hello-1-x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3';

/** What is observed; Accepted, WorkloadAvailable, EndpointsReady and Ready; what a message says; events. */
const cases: readonly [string, Shape, readonly [string, string, string, string], RegExp, readonly string[]][] = [
  [
    "all is well",
    {},
    ["True Accepted", "True Available", "True Serving", "True Ready"],
    /1 of 1 instances take calls/,
    ["Normal EndpointsUpdated", "Normal Ready"],
  ],
  [
    "it was just created",
    { apply: { kind: "pending" }, deployment: null, pods: [], instances: {} },
    ["Unknown Reconciling", "Unknown NotAccepted", "Unknown Starting", "Unknown Reconciling"],
    /has not written the Deployment yet/,
    [],
  ],
  [
    "this operator has just begun",
    { apply: { kind: "pending" }, deployment: null, pods: [], instances: null },
    ["Unknown Reconciling", "Unknown NotAccepted", "Unknown Reconciling", "Unknown Reconciling"],
    /not heard/,
    [],
  ],
  [
    "applied, and Kubernetes has not looked yet",
    { deployment: { observedGeneration: 0 }, pods: [], instances: {} },
    ["True Accepted", "Unknown Reconciling", "Unknown Starting", "Unknown Reconciling"],
    /not looked/,
    [],
  ],
  [
    "its first instance starts",
    {
      deployment: starts,
      pods: [pod({ ...unready, app: waiting("PodInitializing") })],
      instances: { [name]: "Starting" },
    },
    ["True Accepted", "Unknown Starting", "Unknown Starting", "Unknown Starting"],
    /0 of 1 instances are available/,
    [],
  ],
  [
    "whom to trust is in somebody else's ConfigMap",
    {
      deployment: starts,
      pods: [pod({ ...unready, app: waiting("ContainerCreating") })],
      instances: { [name]: "Starting" },
      trust: { kind: "foreign" },
    },
    ["True Accepted", "False TrustMissing", "Unknown Starting", "False TrustMissing"],
    /lever-trust, .* is somebody else's, .*: kubectl delete configmap lever-trust -n shop\.$/,
    ["Warning TrustMissing"],
  ],
  [
    "there is no room for the ConfigMap with whom to trust, and the rollout has stood still for long",
    {
      deployment: counts(1, 1, 0, { ...progressing, reason: "ProgressDeadlineExceeded" }, unavailable),
      pods: [pod({ ...unready, app: waiting("ContainerCreating") })],
      instances: { [name]: "Starting" },
      trust: { kind: "refused", message: quota.replace("pods", "configmaps") },
    },
    ["True Accepted", "False TrustMissing", "Unknown Starting", "False TrustMissing"],
    /lever-trust, .* cannot be written: .*exceeded quota: small, .*\. Raise the ResourceQuota of shop, or delete ConfigMaps\.$/,
    ["Warning TrustMissing"],
  ],
  [
    "a policy refuses the ConfigMap with whom to trust",
    {
      deployment: starts,
      pods: [],
      instances: {},
      trust: { kind: "refused", message: 'admission webhook "maps.example.org" denied the request: none of these.' },
    },
    ["True Accepted", "False TrustMissing", "False NoInstances", "False TrustMissing"],
    /denied the request: none of these\. Have whatever refuses it let the operator write lever-trust\.$/,
    ["Warning TrustMissing"],
  ],
  [
    "the operator may not write the ConfigMap with whom to trust",
    { deployment: starts, trust: { kind: "refused", message: rbac.replaceAll("deployments", "configmaps") } },
    ["True Accepted", "False TrustMissing", "True Serving", "False TrustMissing"],
    /Give the operator's service account the rights of the chart\.$/,
    ["Warning TrustMissing", "Normal EndpointsUpdated"],
  ],
  [
    "whom to trust cannot be told any more, and all runs that is wanted",
    { trust: { kind: "foreign" } },
    ["True Accepted", "True Available", "True Serving", "True Ready"],
    /1 of 1 instances are available\. The ConfigMap lever-trust/,
    ["Normal EndpointsUpdated", "Normal Ready"],
  ],
  [
    "its image cannot be pulled",
    {
      deployment: starts,
      pods: [pod({ ...unready, app: waiting("ErrImagePull", 'failed to pull image "x": not found') })],
      instances: { [name]: "Starting" },
    },
    ["True Accepted", "False ImagePullFailed", "False ImagePullFailed", "False ImagePullFailed"],
    /hello-1-aaaaa: the image example\.org\/hello:1\.0\.0 of container app cannot be pulled: failed to pull image "x": not found\. Check/,
    ["Warning ImagePullFailed"],
  ],
  [
    "its image cannot be pulled, and that is not tried for a moment: the same",
    {
      deployment: starts,
      pods: [
        pod({
          ...unready,
          app: waiting(
            "ImagePullBackOff",
            'Back-off pulling image "example.org/hello:1.0.0": ErrImagePull: failed to pull image "x": not found',
          ),
        }),
      ],
      instances: { [name]: "Starting" },
    },
    ["True Accepted", "False ImagePullFailed", "False ImagePullFailed", "False ImagePullFailed"],
    /cannot be pulled: failed to pull image "x": not found\. Check/,
    ["Warning ImagePullFailed"],
  ],
  [
    "its image's name is none",
    { deployment: starts, pods: [pod({ ...unready, app: waiting("InvalidImageName") })], instances: {} },
    ["True Accepted", "False InvalidImageName", "False InvalidImageName", "False InvalidImageName"],
    /is no name of an image/,
    ["Warning InvalidImageName"],
  ],
  [
    "a ConfigMap is missing",
    {
      deployment: starts,
      pods: [pod({ ...unready, app: waiting("CreateContainerConfigError", 'configmap "settings" not found') })],
      instances: {},
    },
    [
      "True Accepted",
      "False CreateContainerConfigError",
      "False CreateContainerConfigError",
      "False CreateContainerConfigError",
    ],
    /container app cannot be started: configmap "settings" not found\./,
    ["Warning CreateContainerConfigError"],
  ],
  [
    "it crashes",
    { deployment: starts, pods: [pod({ ...unready, app: crashed({}, { message: "no database\n" }) })], instances: {} },
    ["True Accepted", "False CrashLoop", "False CrashLoop", "False CrashLoop"],
    /container app ends again and again, last with exit code 1: no database\. See kubectl logs -n shop hello-1-aaaaa -c app --previous\./,
    ["Warning CrashLoop"],
  ],
  [
    "it crashes, and is being tried again",
    {
      deployment: starts,
      pods: [pod({ ...unready, app: crashed({ state: { running: { startedAt: at(4000) } } }) })],
      instances: { [name]: "Starting" },
    },
    ["True Accepted", "False CrashLoop", "False CrashLoop", "False CrashLoop"],
    /ends again and again/,
    ["Warning CrashLoop"],
  ],
  [
    "it has not enough memory",
    {
      deployment: starts,
      pods: [pod({ ...unready, app: crashed({}, { exitCode: 137, reason: "OOMKilled" }) })],
      instances: {},
    },
    ["True Accepted", "False CrashLoop", "False CrashLoop", "False CrashLoop"],
    /last for want of memory \(OOMKilled\): raise its limit\./,
    ["Warning CrashLoop"],
  ],
  [
    "its agent crashes",
    {
      deployment: starts,
      pods: [
        pod({
          ...unready,
          agent: crashed({ name: "lever-agent" }, { exitCode: 0, reason: "Completed" }),
          app: waiting("PodInitializing"),
        }),
      ],
      instances: {},
    },
    ["True Accepted", "False CrashLoop", "False CrashLoop", "False CrashLoop"],
    /container lever-agent ends again and again, last with exit code 0 \(Completed\)/,
    ["Warning CrashLoop"],
  ],
  [
    "it ended once, which happens",
    {
      deployment: starts,
      pods: [
        pod({ ...unready, app: waiting("", "", { restartCount: 1, lastState: { terminated: { exitCode: 1 } } }) }),
      ],
      instances: {},
    },
    ["True Accepted", "Unknown Starting", "Unknown Starting", "Unknown Starting"],
    /0 of 1/,
    [],
  ],
  [
    "no node takes it",
    {
      deployment: starts,
      pods: [
        pod({
          status: {
            phase: "Pending",
            conditions: [
              {
                type: "PodScheduled",
                status: "False",
                reason: "Unschedulable",
                message: "0/3 nodes are available: 3 Insufficient cpu.",
              },
            ],
            containerStatuses: [],
            initContainerStatuses: [],
          },
        }),
      ],
      instances: { [name]: "Starting" },
    },
    ["True Accepted", "False Unschedulable", "False Unschedulable", "False Unschedulable"],
    /no node takes it: 0\/3 nodes are available: 3 Insufficient cpu\./,
    ["Warning Unschedulable"],
  ],
  [
    "its quota is used up",
    { deployment: counts(0, 0, 0, progressing, unavailable, failedCreate(quota)), pods: [], instances: {} },
    ["True Accepted", "False QuotaExceeded", "False NoInstances", "False QuotaExceeded"],
    /exceeded quota: small, .* Raise the ResourceQuota of shop/,
    ["Warning QuotaExceeded"],
  ],
  [
    "its quota is used up, as its ReplicaSet says",
    {
      spec: `${hello}replicas: 3`,
      deployment: counts(2, 2, 2, complete, available),
      replicaSets: [replicaSet("hello-1", 1, { status: { conditions: [failedCreate(quota)] } })],
    },
    ["True Accepted", "False QuotaExceeded", "True Serving", "False QuotaExceeded"],
    /exceeded quota/,
    ["Warning QuotaExceeded", "Normal EndpointsUpdated"],
  ],
  [
    "a policy refuses its pods",
    {
      deployment: counts(
        0,
        0,
        0,
        progressing,
        unavailable,
        failedCreate('pods "hello-1-x" is forbidden: violates PodSecurity "restricted:latest": privileged'),
      ),
      pods: [],
      instances: {},
    },
    ["True Accepted", "False PodsRefused", "False NoInstances", "False PodsRefused"],
    /violates PodSecurity/,
    ["Warning PodsRefused"],
  ],
  [
    "its app runs and says nothing",
    {
      deployment: starts,
      pods: [pod({ ...unready, agent: silentAgent })],
      instances: { [name]: "Starting" },
      nowMs: 32_000,
    },
    ["True Accepted", "False NotRegistered", "False NotRegistered", "False NotRegistered"],
    /container app runs and has not registered with its agent, as serve\(\) does/,
    ["Warning NotRegistered"],
  ],
  [
    "its app runs and says nothing yet",
    {
      deployment: starts,
      pods: [pod({ ...unready, agent: silentAgent })],
      instances: { [name]: "Starting" },
      nowMs: 31_000,
    },
    ["True Accepted", "Unknown Starting", "Unknown Starting", "Unknown Starting"],
    /0 of 1/,
    [],
  ],
  [
    "its app has registered, and its agent cannot reach the operator",
    { pods: [pod()], instances: { [name]: "Starting" }, nowMs: 40_000 },
    ["True Accepted", "True Available", "False AgentNotConnected", "False AgentNotConnected"],
    /its agent has not reached the operator/,
    ["Warning AgentNotConnected"],
  ],
  [
    "its instances are not heard of any more",
    { instances: { [name]: "Unreachable" } },
    ["True Accepted", "True Available", "False Unreachable", "False Unreachable"],
    /does not hear/,
    ["Warning Unreachable"],
  ],
  [
    "its pods are gone, and nobody has seen it yet",
    { pods: [], instances: {} },
    ["True Accepted", "True Available", "False NoInstances", "False NoInstances"],
    /0 of 1 instances take calls: there is none/,
    ["Warning NoInstances"],
  ],
  [
    "a rollout is under way",
    {
      spec: `${hello}replicas: 2`,
      deployment: counts(3, 1, 2, progressing, available),
      replicaSets: [replicaSet("hello-1", 1), replicaSet("hello-0", 0)],
    },
    ["True Accepted", "Unknown RollingOut", "True Serving", "Unknown RollingOut"],
    /1 of 2 instances are of the new revision, 2 of 2 instances are available/,
    ["Normal EndpointsUpdated"],
  ],
  [
    "a rollout fails while what was there serves",
    {
      deployment: counts(2, 1, 1, progressing, available),
      replicaSets: [replicaSet("hello-1", 1), replicaSet("hello-0", 0)],
      pods: [
        pod({ name: "hello-0-aaaaa", replicaSet: "hello-0" }),
        pod({ ...unready, app: waiting("ErrImagePull", "not found") }),
      ],
      instances: { "hello-0-aaaaa": "Serving" },
    },
    ["True Accepted", "False ImagePullFailed", "True Serving", "False ImagePullFailed"],
    /cannot be pulled: not found/,
    ["Warning ImagePullFailed", "Normal EndpointsUpdated"],
  ],
  [
    "a pod of the revision before is in trouble: that is over",
    {
      deployment: counts(2, 1, 1, progressing, available),
      replicaSets: [replicaSet("hello-1", 1), replicaSet("hello-0", 0)],
      pods: [pod({ name: "hello-0-aaaaa", replicaSet: "hello-0", ...unready, app: crashed() }), pod()],
    },
    ["True Accepted", "Unknown RollingOut", "True Serving", "Unknown RollingOut"],
    /of the new revision/,
    ["Normal EndpointsUpdated"],
  ],
  [
    "a rollout is stuck, nobody knows why",
    {
      deployment: counts(
        1,
        1,
        0,
        {
          type: "Progressing",
          status: "False",
          reason: "ProgressDeadlineExceeded",
          message: 'ReplicaSet "hello-1" has timed out progressing.',
        },
        unavailable,
      ),
      pods: [pod({ ...unready, app: waiting("ContainerCreating") })],
      instances: { [name]: "Starting" },
    },
    ["True Accepted", "False RolloutStuck", "Unknown Starting", "False RolloutStuck"],
    /timed out progressing/,
    ["Warning RolloutStuck"],
  ],
  [
    "one of three is in trouble, and the others are enough",
    {
      spec: `${hello}replicas: 3`,
      deployment: counts(3, 3, 2, complete, available),
      pods: [pod(), pod({ name: "hello-1-bbbbb", ...unready, app: crashed() })],
    },
    ["True Accepted", "True Available", "True Serving", "True Ready"],
    /2 of 3 instances are available\. hello-1-bbbbb: container app ends again/,
    ["Normal EndpointsUpdated", "Normal Ready"],
  ],
  [
    "an instance is gone, and the others are not enough",
    {
      spec: `${hello}replicas: 2`,
      deployment: counts(2, 2, 1, complete, unavailable),
      pods: [pod(), pod({ name: "hello-1-bbbbb", ready: false, readyMs: 4000 })],
    },
    ["True Accepted", "False InstancesMissing", "True Serving", "False InstancesMissing"],
    /1 of 2 instances are available/,
    ["Warning InstancesMissing", "Normal EndpointsUpdated"],
  ],
  [
    "more instances are started",
    {
      spec: `${hello}replicas: 4`,
      deployment: counts(4, 4, 1, complete, unavailable),
      pods: [pod(), pod({ name: "hello-1-bbbbb", ...unready, app: waiting("ContainerCreating") })],
    },
    ["True Accepted", "Unknown Starting", "True Serving", "Unknown Starting"],
    /1 of 4 instances are available/,
    ["Normal EndpointsUpdated"],
  ],
  [
    "most problems are said, the others counted",
    {
      spec: `${hello}replicas: 3`,
      deployment: counts(3, 3, 0, progressing, unavailable),
      pods: [
        pod({ name: "hello-1-a", ...unready, app: crashed() }),
        pod({ name: "hello-1-c", ...unready, app: waiting("ErrImagePull") }),
        pod({ name: "hello-1-b", ...unready, app: waiting("ImagePullBackOff") }),
      ],
      instances: {},
    },
    ["True Accepted", "False ImagePullFailed", "False ImagePullFailed", "False ImagePullFailed"],
    /^hello-1-b: the image .* 2 more have a problem\. 0 of 3/,
    ["Warning ImagePullFailed"],
  ],
  [
    "pods that end are no problem",
    {
      pods: [
        pod(),
        pod({ name: "hello-1-b", app: crashed(), ...unready, meta: { deletionTimestamp: at(0) } }),
        pod({ name: "hello-1-c", app: crashed(), status: { phase: "Failed" } }),
      ],
    },
    ["True Accepted", "True Available", "True Serving", "True Ready"],
    /^1 of 1 instances are available\.$/,
    ["Normal EndpointsUpdated", "Normal Ready"],
  ],
  [
    "none is wanted",
    { spec: `${hello}replicas: 0`, deployment: counts(0, 0, 0, complete, available), pods: [], instances: {} },
    ["True Accepted", "True ScaledToZero", "False ScaledToZero", "False ScaledToZero"],
    /No instance is wanted: calls find none/,
    ["Normal ScaledToZero"],
  ],
  [
    "none is wanted, and one is there still",
    { spec: `${hello}replicas: 0`, deployment: counts(1, 1, 1, complete, available), pods: [], instances: {} },
    ["True Accepted", "Unknown ScalingDown", "False ScaledToZero", "False ScaledToZero"],
    /1 are ending/,
    ["Normal ScaledToZero"],
  ],
  [
    "its pods' agents are of an operator before",
    { settings: { ...settings, image: "example.org/lever/agent:0.2.0" } },
    ["True Accepted", "True AgentOutdated", "True Serving", "True Ready"],
    /kubectl rollout restart -n shop deployment\/hello/,
    ["Normal AgentOutdated", "Normal EndpointsUpdated", "Normal Ready"],
  ],
  [
    "its app has a hook of its own",
    {
      spec: "template: { spec: { containers: [{ name: app, image: a, lifecycle: { preStop: { sleep: { seconds: 1 } } } }] } }",
    },
    ["True PreStopPresent", "True Available", "True Serving", "True Ready"],
    /preStop hook of its own, which is kept/,
    ["Warning PreStopPresent", "Normal EndpointsUpdated", "Normal Ready"],
  ],
  [
    "its spec cannot be read",
    { spec: "template: { spec: { containers: [] } }", deployment: null, pods: [], instances: {} },
    ["False InvalidSpec", "Unknown NotAccepted", "False NoInstances", "False InvalidSpec"],
    /spec\.template\.spec\.containers: found an empty list, expected a list of 1 to 32 maps/,
    ["Warning InvalidSpec"],
  ],
  [
    "its spec breaks a rule",
    { spec: `${hello}appContainer: other`, deployment: null, pods: [], instances: {} },
    ["False InvalidSpec", "Unknown NotAccepted", "False NoInstances", "False InvalidSpec"],
    /spec\.appContainer: found "other", expected the name of one of .* Correct the name/,
    ["Warning InvalidSpec"],
  ],
  [
    "the API server refuses the template",
    {
      apply: failed(422, 'Deployment.apps "hello" is invalid: spec.template.spec.containers[0].image: Required value'),
    },
    ["False InvalidSpec", "Unknown NotAccepted", "True Serving", "False InvalidSpec"],
    /refuses the Deployment: .*image: Required value\. Correct the field/,
    ["Warning InvalidSpec", "Normal EndpointsUpdated"],
  ],
  [
    "the template has a field that no pod has",
    {
      apply: failed(
        500,
        "failed to create typed patch object (shop/hello; apps/v1, Kind=Deployment): .spec.template.spec.containr: field not declared in schema",
      ),
    },
    ["False InvalidSpec", "Unknown NotAccepted", "True Serving", "False InvalidSpec"],
    /\.spec\.template\.spec\.containr: field not declared in schema\. Correct/,
    ["Warning InvalidSpec", "Normal EndpointsUpdated"],
  ],
  [
    "the Deployment is another one than was read",
    {
      apply: failed(422, "metadata.uid: Invalid value: field is immutable", { fields: ["metadata.uid"] }),
      deployment: null,
      pods: [],
      instances: {},
    },
    ["Unknown ApplyFailed", "Unknown NotAccepted", "Unknown Starting", "Unknown ApplyFailed"],
    /It is tried again/,
    ["Warning ApplyFailed"],
  ],
  [
    "the operator may not write it",
    { apply: failed(403, rbac), deployment: null, pods: [], instances: {} },
    ["False MissingRights", "Unknown NotAccepted", "False NoInstances", "False MissingRights"],
    /may not write Deployments in shop: .*cannot patch resource/,
    ["Warning MissingRights"],
  ],
  [
    "the number of Deployments is limited",
    {
      apply: failed(
        403,
        'deployments.apps "hello" is forbidden: exceeded quota: few, requested: count/deployments.apps=1',
      ),
      deployment: null,
      pods: [],
      instances: {},
    },
    ["False QuotaExceeded", "Unknown NotAccepted", "False NoInstances", "False QuotaExceeded"],
    /exceeded quota: few/,
    ["Warning QuotaExceeded"],
  ],
  [
    "a policy refuses the Deployment",
    {
      apply: failed(403, 'admission webhook "policy.example.org" denied the request: no'),
      deployment: null,
      pods: [],
      instances: {},
    },
    ["False Denied", "Unknown NotAccepted", "False NoInstances", "False Denied"],
    /policy\.example\.org/,
    ["Warning Denied"],
  ],
  [
    "its namespace is being deleted",
    {
      apply: failed(
        403,
        'deployments.apps "hello" is forbidden: unable to create new content in namespace shop because it is being terminated',
      ),
      deployment: null,
      pods: [],
      instances: {},
    },
    ["False NamespaceTerminating", "Unknown NotAccepted", "False NoInstances", "False NamespaceTerminating"],
    /is being deleted/,
    ["Warning NamespaceTerminating"],
  ],
  [
    "another Deployment has its name",
    {
      found: { metadata: { name: "hello", uid: "x" }, status: { replicas: 7 } },
      apply: { kind: "pending" },
      pods: [],
      instances: {},
    },
    ["False NameClash", "Unknown NotAccepted", "False NoInstances", "False NameClash"],
    /A Deployment named hello is there that this service does not own\. It is left alone\. Delete it, or/,
    ["Warning NameClash"],
  ],
  [
    "another Deployment has its name since a moment ago",
    {
      apply: failed(422, "spec.selector: Invalid value: field is immutable", { fields: ["spec.selector"] }),
      deployment: null,
      pods: [],
      instances: {},
    },
    ["False NameClash", "Unknown NotAccepted", "False NoInstances", "False NameClash"],
    /made by others/,
    ["Warning NameClash"],
  ],
  ...([409, 429, 500, 503, 504, undefined] as const).map((code): (typeof cases)[number] => [
    `the API server does not answer well: ${code}`,
    { apply: failed(code, "etcdserver: request timed out"), deployment: null, pods: [], instances: {} },
    ["Unknown ApplyFailed", "Unknown NotAccepted", "Unknown Starting", "Unknown ApplyFailed"],
    /did not take the Deployment: etcdserver: request timed out\. It is tried again/,
    ["Warning ApplyFailed"],
  ]),
];

describe("when", () => {
  test.each(cases)("%s", (_, shape, [accepted, workload, endpoints, ready], message, events) => {
    const { short, status, reasons } = look(shape);
    expect(short).toEqual({ Accepted: accepted, WorkloadAvailable: workload, EndpointsReady: endpoints, Ready: ready });
    expect(status.conditions?.map((entry) => entry.message)).toContainEqual(expect.stringMatching(message));
    expect(reasons).toEqual(events);
    // As the CRD wants it.
    expect(leverServiceStatusSchema.safeParse(status).error).toBe(undefined);
    for (const { message: text } of status.conditions ?? []) {
      expect(text).toMatch(/^[^\n]+[.…]$/);
      expect(text).not.toMatch(/undefined|NaN|\[object|\.\.| {2}/);
    }
  });

  test.each(cases)(
    "%s: and nothing changes, nothing is written and no event recorded, but of failed writes",
    (_, shape) => {
      const first = look(shape);
      const again = look({ ...shape, before: first.status, nowMs: shape.nowMs ?? 5000 });
      expect(again.isChanged).toBe(false);
      expect(again.reasons.filter((reason) => reason !== "Warning ApplyFailed")).toEqual([]);
      expect(first.isChanged).toBe(true);
    },
  );
});

test("every reason is in docs/status.md", () => {
  const page = readFileSync(new URL("../../../docs/status.md", import.meta.url), "utf8");
  const reasons = cases.flatMap(([, shape]) => {
    const { status, events } = look(shape);
    return [...(status.conditions ?? []), ...events].map(({ reason }) => reason);
  });
  const missing = new Set(reasons.filter((reason) => !page.includes(`\`${reason}\``)));
  expect([...missing]).toEqual([]);
  expect(new Set(reasons).size).toBeGreaterThan(25);
});

test("says how many there are, how they are selected, and by which URL they are called", () => {
  expect(look({ generation: 4, deployment: { ...counts(3, 3, 3, complete, available) } }).status).toMatchObject({
    observedGeneration: 4,
    replicas: 3,
    readyReplicas: 1,
    selector: "leveros.dev/service=hello",
    url: "lever://shop/hello",
  });
  const none = {
    spec: `${hello}replicas: 0`,
    deployment: counts(0, 0, 0, complete, available),
    pods: [],
    instances: {},
  };
  expect(look({ ...none, before: { replicas: 3 } }).status).toMatchObject({ replicas: 0 });
  expect(look({ before: { replicas: 3 }, deployment: null }).status).toMatchObject({ replicas: 0 });
  // Not known is not none.
  const before = { replicas: 3, readyReplicas: 2 };
  expect(look({ before, instances: null }).status).toMatchObject({ readyReplicas: 2 });
  expect(look({ instances: null }).status).not.toHaveProperty("readyReplicas");
});

test("a condition's time is that of the last change of its status", () => {
  const timesOf = ({ conditions = [] }: LeverServiceStatus) =>
    Object.fromEntries(conditions.map(({ type, lastTransitionTime }) => [type, lastTransitionTime]));
  const starting: Shape = {
    deployment: starts,
    pods: [pod({ ...unready, app: waiting("ContainerCreating") })],
    instances: {},
  };
  const first = look({ ...starting, nowMs: 1000 }).status;
  expect(new Set(Object.values(timesOf(first)))).toEqual(new Set([at(1000)]));
  const second = look({ before: first, nowMs: minute }).status;
  expect(timesOf(second)).toEqual({
    Accepted: at(1000),
    WorkloadAvailable: at(minute),
    EndpointsReady: at(minute),
    Ready: at(minute),
  });
  const crashing: Shape = { deployment: starts, pods: [pod({ ...unready, app: crashed() })], instances: {} };
  const third = look({ ...crashing, before: second, nowMs: 2 * minute }).status;
  const imageGone: Shape = { ...crashing, pods: [pod({ ...unready, app: waiting("ErrImagePull") })] };
  const fourth = look({ ...imageGone, before: third, nowMs: 3 * minute });
  // Another reason, the same status.
  expect(timesOf(fourth.status)).toEqual(timesOf(third));
  expect(fourth.short["Ready"]).toBe("False ImagePullFailed");
  expect(fourth.reasons).toEqual(["Warning ImagePullFailed"]);
});

test("what the API server has taken it still has while it does not answer", () => {
  const before = look({ generation: 1 }).status;
  const down: ApplyOutcome = failed(503, "the server is currently unable to handle the request");
  expect(look({ before, apply: down }).short["Accepted"]).toBe("True Accepted");
  expect(look({ before, apply: { kind: "pending" } }).short["Accepted"]).toBe("True Accepted");
  // Of another generation nobody knows.
  expect(look({ before, apply: down, generation: 2 }).short).toMatchObject({
    Accepted: "Unknown ApplyFailed",
    EndpointsReady: "True Serving",
    Ready: "Unknown ApplyFailed",
  });
});

test("a service that is being deleted is left as it is", () => {
  const facts = factsOf({ before: { replicas: 3 } });
  const report = serviceReport({ ...facts, observed: { ...facts.observed, isDeleting: true } });
  expect(report).toEqual({ status: { replicas: 3 }, isChanged: false, events: [], lookAgainInMs: undefined });
});

test("an app that is silent is looked at again when it should have registered", () => {
  const silent: Shape = {
    deployment: starts,
    pods: [pod({ ...unready, agent: silentAgent })],
    instances: { [name]: "Starting" },
  };
  const { lookAgainInMs = 0, short } = look({ ...silent, nowMs: 11_000 });
  expect(short["Ready"]).toBe("Unknown Starting");
  expect(lookAgainInMs).toBe(20_001);
  const then = look({ ...silent, nowMs: 11_000 + lookAgainInMs });
  expect(then.short["Ready"]).toBe("False NotRegistered");
  expect(then.lookAgainInMs).toBe(undefined);
  expect(look({}).lookAgainInMs).toBe(undefined);
});

test("no order of conditions and no field that is missing makes another status of it", () => {
  const { status } = look({});
  const { conditions = [] } = status;
  expect(isSameStatus(status, { ...status, conditions: conditions.toReversed() })).toBe(true);
  expect(isSameStatus(status, { ...status, readyReplicas: 7 })).toBe(false);
  const changed = conditions.map((entry) => ({ ...entry, message: "other" }));
  expect(isSameStatus(status, { ...status, conditions: changed })).toBe(false);
});

test("whatever Kubernetes says, a message is one line, of a bounded length, and the status is valid", () => {
  const text = fc.oneof(
    fc.string({ unit: "binary", maxLength: 60 }),
    fc.constant("x".repeat(50_000)),
    fc.constant("a\n\u001b[31m\u202e"),
  );
  fc.assert(
    fc.property(
      text,
      text,
      fc.constantFrom("ErrImagePull", "CreateContainerError", "CrashLoopBackOff"),
      (said, also, reason) => {
        const app = { ...crashed({}, { message: also, reason: said }), state: { waiting: { reason, message: said } } };
        for (const shape of [
          { deployment: starts, pods: [pod({ ...unready, app })], instances: {} },
          { apply: failed(422, said) },
          { deployment: counts(0, 0, 0, progressing, failedCreate(said)), pods: [], instances: {} },
        ] satisfies Shape[]) {
          const { status, events } = look(shape);
          expect(leverServiceStatusSchema.safeParse(status).error).toBe(undefined);
          for (const { message } of [...(status.conditions ?? []), ...events]) {
            expect(message).not.toMatch(/[\p{Cc}\p{Cf}\u2028\u2029]/u);
            expect(message.length).toBeLessThanOrEqual(1000);
          }
        }
      },
    ),
    { numRuns: 15 },
  );
});
