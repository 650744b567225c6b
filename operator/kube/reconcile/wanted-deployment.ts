/**
 * The Deployment of a `LeverService`, as it is to be applied by the server with the one field manager of the operator.
 *
 * The service's pod template is kept as it is; the agent is put into it. What is put in is data (`AgentInjection`) that
 * the Deployment carries along, and merging it is all that is done to the template: so an operator of another version,
 * with another image or other settings, changes nobody's pods. Fresh data is taken when the workload rolls out by its own
 * doing: when its template (or what it says of its agent) has changed, or `kubectl rollout restart` was asked for.
 *
 * Nothing is adopted: a Deployment of that name that another owner has, or nobody, is left alone. That somebody makes one
 * in the moment before it is applied is refused by the API server: a selector never changes.
 */

import { createHash, createHmac } from "node:crypto";
import {
  type AgentResources,
  agentContainerName,
  apiGroup,
  apiVersion,
  appContainerOf,
  endingSeconds,
  gracePeriodSecondsDefault,
  type LeverService,
  leverServiceKind,
  socketVolumeName,
  tokenVolumeName,
} from "../../api/v1alpha1/lever-service.ts";
import { controllerOf, type Deployment, type PodTemplateSpec } from "./kubernetes-object.ts";
import type { ObservedService } from "./observed-service.ts";

/** On the Deployment and on its pods; the Deployment's selector. */
export const serviceLabel = `${apiGroup}/service`;
/** On pods: which of their containers is the app's. */
export const appContainerAnnotation = `${apiGroup}/app-container`;
/** On the Deployment: of what the workload rolls out for, and what was put into its pods then. */
export const templateHashAnnotation = `${apiGroup}/template-hash`;
export const injectionAnnotation = `${apiGroup}/agent-injection`;
/** What `kubectl rollout restart` sets on a pod template. */
const restartedAtAnnotation = "kubectl.kubernetes.io/restartedAt";

export const agentPort = 3837;
export const adminPort = 3838;
/** Of the loopback address: what `lever` reaches by a port-forward. */
export const forwardPort = 3839;
const socketDirectory = "/run/lever";
const socketUrl = `unix://${socketDirectory}/agent.sock`;
/** The ConfigMap in each namespace with the CAs that agents trust; `identity/trust-maps.ts` keeps it. */
export const trustMapName = "lever-trust";
export const trustMapKey = "ca.crt";
const tokenDirectory = "/var/run/secrets/leveros.dev";

/** What the operator is configured with; the same for all services. */
export interface AgentSettings {
  readonly image: string;
  readonly imagePullPolicy?: "Always" | "IfNotPresent" | "Never";
  /** `host:port` that agents reach the operator at. */
  readonly operator: string;
  /** Whom the agents' tokens are for. */
  readonly tokenAudience: string;
  /** Of services that say nothing of it. */
  readonly resources: AgentResources;
  /** Who the agent runs as; undefined: the pod, the cluster or the image says it. */
  readonly runAsUser?: number;
  /** A secret: the paths of drain hooks are made from it. */
  readonly drainKey: string;
}

type Fields = Readonly<Record<string, unknown>>;

interface Named {
  readonly name: string;
}

/** What is put into a pod template. It is kept in an annotation: plain JSON. */
export interface AgentInjection {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly container: Fields & Named;
  readonly volumes: readonly (Fields & Named)[];
  /** The container that gets the following. */
  readonly appContainer: string;
  readonly env: readonly (Fields & Named)[];
  readonly volumeMounts: readonly Fields[];
  /** Undefined: the app has a hook of its own, which stays. */
  readonly preStop?: Fields;
}

export type WantedDeployment =
  | {
      readonly kind: "apply";
      /** To be applied with force: what it names is the operator's. */
      readonly object: Deployment;
      /** The pods' agents are not as this operator would make them; they will be with the next rollout. */
      readonly isAgentOutdated: boolean;
    }
  /** A Deployment of the service's name is there that is not the service's. */
  | { readonly kind: "clash"; readonly owner: string; readonly isDeleting: boolean }
  /** The service is being deleted, or cannot be read. */
  | { readonly kind: "none" };

/** What is to be done about the Deployment of the service's name, `found`. */
export function wantedDeployment(
  observed: ObservedService,
  found: Deployment | undefined,
  settings: AgentSettings,
): WantedDeployment {
  const { service, name, namespace, uid, isDeleting } = observed;
  if (service === undefined || isDeleting) return { kind: "none" };
  if (found !== undefined && controllerOf(found)?.uid !== uid) {
    const owner = controllerOf(found);
    return {
      kind: "clash",
      owner: owner === undefined ? "" : `${owner.kind} ${owner.name}`,
      isDeleting: found.metadata.deletionTimestamp !== undefined,
    };
  }
  const fresh = agentInjection(service, uid, settings);
  const hash = templateHash(service, found);
  const kept = found?.metadata.annotations?.[templateHashAnnotation] === hash ? keptInjection(found) : undefined;
  const injection = kept ?? fresh;
  const object: Deployment = {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: {
      name,
      namespace,
      // Of another one, made meanwhile, nothing is changed.
      ...(found?.metadata.uid !== undefined && { uid: found.metadata.uid }),
      labels: { "app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "lever", [serviceLabel]: name },
      annotations: { [templateHashAnnotation]: hash, [injectionAnnotation]: canonicalJson(injection) },
      ownerReferences: [{ apiVersion, kind: leverServiceKind, name, uid, controller: true, blockOwnerDeletion: true }],
    },
    spec: {
      replicas: service.spec.replicas,
      selector: { matchLabels: { [serviceLabel]: name } },
      template: injectAgent(service.spec.template, injection),
    },
  };
  return { kind: "apply", object, isAgentOutdated: canonicalJson(injection) !== canonicalJson(fresh) };
}

/** The app's container has a `preStop` hook of its own, which is kept: then no hook of Lever's holds its end back. */
export function hasOwnPreStop(service: LeverService): boolean {
  return preStopOf(appContainerOf(service)) !== undefined;
}

function preStopOf(container: Fields): unknown {
  return (container["lifecycle"] as { preStop?: unknown } | undefined)?.preStop ?? undefined;
}

/** The agent for pods of `service`, as this operator makes it. */
export function agentInjection(service: LeverService, uid: string, settings: AgentSettings): AgentInjection {
  const { name, namespace } = service.metadata;
  const { template } = service.spec;
  const app = appContainerOf(service);
  const graceSeconds = template.spec.terminationGracePeriodSeconds ?? gracePeriodSecondsDefault;
  const drainToken = createHmac("sha256", settings.drainKey).update(uid).digest("hex").slice(0, 32);
  const whoItIs = [
    { name: "LEVER_AGENT", value: socketUrl },
    { name: "LEVER_ENVIRONMENT", value: namespace },
    { name: "LEVER_SERVICE", value: name },
    fromPod("LEVER_INSTANCE", "metadata.name"),
  ];
  return {
    labels: {
      // The template's own goes before it.
      ...(template.metadata?.labels?.["app.kubernetes.io/name"] === undefined && { "app.kubernetes.io/name": name }),
      [serviceLabel]: name,
    },
    annotations: { [appContainerAnnotation]: app.name },
    container: {
      name: agentContainerName,
      image: settings.image,
      ...(settings.imagePullPolicy && { imagePullPolicy: settings.imagePullPolicy }),
      // A sidecar: there before the app is started, and until it has ended.
      restartPolicy: "Always",
      env: [
        ...whoItIs,
        fromPod("LEVER_ADVERTISED_HOST", "status.podIP"),
        // Empty where the cluster does not label its pods with it.
        fromPod("LEVER_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
        { name: "LEVER_OPERATOR", value: settings.operator },
        // In the network of the node its loopback address is not the pod's own.
        ...(template.spec["hostNetwork"] === true ? [] : [{ name: "LEVER_FORWARD_PORT", value: String(forwardPort) }]),
        { name: "LEVER_TOKEN_FILE", value: `${tokenDirectory}/token` },
        { name: "LEVER_TRUST_FILE", value: `${tokenDirectory}/${trustMapKey}` },
        { name: "LEVER_DRAIN_TOKEN", value: drainToken },
        { name: "LEVER_DRAIN_TIMEOUT_MS", value: String((graceSeconds - endingSeconds) * 1000) },
      ],
      ports: [
        { name: "lever", containerPort: agentPort },
        { name: "lever-admin", containerPort: adminPort },
      ],
      resources: service.spec.agent?.resources ?? settings.resources,
      volumeMounts: [
        { name: socketVolumeName, mountPath: socketDirectory },
        { name: tokenVolumeName, mountPath: tokenDirectory, readOnly: true },
      ],
      // The app is started when the agent's socket is there.
      startupProbe: { ...probe("/livez"), periodSeconds: 1, failureThreshold: 60 },
      // Ready: the app has registered. It speaks for the whole pod.
      readinessProbe: { ...probe("/readyz"), periodSeconds: 1, failureThreshold: 3 },
      livenessProbe: { ...probe("/livez"), periodSeconds: 10, failureThreshold: 3 },
      securityContext: {
        runAsNonRoot: true,
        ...(settings.runAsUser !== undefined && { runAsUser: settings.runAsUser, runAsGroup: settings.runAsUser }),
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ["ALL"] },
        seccompProfile: { type: "RuntimeDefault" },
      },
      terminationMessagePolicy: "FallbackToLogsOnError",
    },
    volumes: [
      { name: socketVolumeName, emptyDir: { medium: "Memory", sizeLimit: "1Mi" } },
      {
        name: tokenVolumeName,
        projected: {
          sources: [
            { serviceAccountToken: { path: "token", audience: settings.tokenAudience, expirationSeconds: 3600 } },
            // Not optional: it is there a moment later, and an agent can do nothing without it.
            { configMap: { name: trustMapName, items: [{ key: trustMapKey, path: trustMapKey }] } },
          ],
        },
      },
    ],
    appContainer: app.name,
    env: whoItIs,
    // Read-only: the app connects to the socket, and cannot put another in its place.
    volumeMounts: [{ name: socketVolumeName, mountPath: socketDirectory, readOnly: true }],
    // It answers when what runs has ended and the resources have moved; only then the app is told to end (R22).
    ...(preStopOf(app) === undefined && {
      preStop: { httpGet: { path: `/drain/${drainToken}`, port: adminPort, scheme: "HTTP" } },
    }),
  };
}

function fromPod(name: string, fieldPath: string) {
  return { name, valueFrom: { fieldRef: { apiVersion: "v1", fieldPath } } };
}

function probe(path: string) {
  return { httpGet: { path, port: adminPort, scheme: "HTTP" }, timeoutSeconds: 2 };
}

/**
 * `template` with what `injection` says, and nothing else changed. How the two are merged never changes: pods of all
 * services would roll. What is to be different is said by another injection.
 */
export function injectAgent(template: LeverService["spec"]["template"], injection: AgentInjection): PodTemplateSpec {
  const { metadata, spec } = template;
  const own = new Set(injection.env.map(({ name }) => name));
  const containers = spec.containers.map((container) => {
    if (container.name !== injection.appContainer) return withOneOfEach(container);
    const {
      env = [],
      volumeMounts,
      lifecycle,
    } = container as typeof container & {
      volumeMounts?: readonly Fields[];
      lifecycle?: Fields;
    };
    return withOneOfEach({
      ...container,
      // First, so that the app's own variables can be made from them.
      env: [...injection.env, ...env.filter(({ name }) => !own.has(name))],
      volumeMounts: [...(volumeMounts ?? []), ...injection.volumeMounts],
      ...(injection.preStop && { lifecycle: { ...lifecycle, preStop: injection.preStop } }),
    });
  });
  return {
    metadata: {
      ...metadata,
      labels: { ...metadata?.labels, ...injection.labels },
      annotations: { ...metadata?.annotations, ...injection.annotations },
    },
    spec: {
      ...spec,
      initContainers: [injection.container, ...(spec.initContainers ?? [])],
      containers,
      volumes: [...(spec.volumes ?? []), ...injection.volumes],
    },
  };
}

/** Of variables with one name the last one counts, and the server takes no name twice. */
function withOneOfEach<Container extends { readonly env?: readonly Named[] | undefined }>(container: Container) {
  const { env } = container;
  if (env === undefined) return container;
  const last = new Map(env.map((variable) => [variable.name, variable]));
  return { ...container, env: env.filter((variable) => last.get(variable.name) === variable) };
}

/** Of all that the workload rolls out for by its own doing. */
function templateHash({ spec }: LeverService, found: Deployment | undefined): string {
  const restartedAt = found?.spec?.template?.metadata?.annotations?.[restartedAtAnnotation];
  const text = canonicalJson([spec.template, spec.appContainer ?? "", spec.agent ?? {}, restartedAt ?? ""]);
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

function keptInjection(found: Deployment): AgentInjection | undefined {
  try {
    const kept = JSON.parse(found.metadata.annotations?.[injectionAnnotation] ?? "") as AgentInjection;
    const isWhole =
      kept.container.name === agentContainerName &&
      typeof kept.appContainer === "string" &&
      [kept.labels, kept.annotations].every((map) => typeof map === "object" && map !== null) &&
      [kept.volumes, kept.env, kept.volumeMounts].every(Array.isArray);
    return isWhole ? kept : undefined;
  } catch {
    // Somebody has changed it: then it is made anew.
    return undefined;
  }
}

/** The same text for the same content, in whatever order its fields come. */
function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, field: unknown) =>
    typeof field === "object" && field !== null && !Array.isArray(field)
      ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => (a < b ? -1 : 1)))
      : field,
  );
}
