/**
 * `LeverService`, version v1alpha1: the one source of its fields, bounds, defaults, descriptions and rules.
 *
 * The manifest reader parses with these schemas; the CRD is generated from them (../crd.ts). A field exists here only
 * when what it asks for works. Fields of the pod template that Lever does not read are kept as they are.
 */

import { type AccessPolicy, allowedCallersMax, exposedMethodsMax } from "@leveros/protocol/control/access.ts";
import {
  type OwnershipPolicy,
  type ServicePolicy,
  slotsDefault,
  slotsMax,
} from "@leveros/protocol/control/discovery.ts";
import { leaseMsDefault, leaseMsMax, leaseMsMin } from "@leveros/protocol/control/lease.ts";
import * as z from "zod";
import { byteQuantityPattern, cpuQuantityPattern, formatBytes, quantityBytes, quantityMillis } from "../quantity.ts";
import { type ChangeRule, type CrossFieldRule, listMap, withChangeRules, withRules } from "./cross-field-rule.ts";

export const apiGroup = "leveros.dev";
export const apiVersion = `${apiGroup}/v1alpha1`;
export const leverServiceKind = "LeverService";

/** The environment of a manifest without a namespace, outside a cluster. */
export const localNamespace = "dev";

/** Annotations that `lever dev` reads; in a cluster they mean nothing. */
export const devCommandAnnotation = "leveros.dev/dev-command";
export const devDirectoryAnnotation = "leveros.dev/dev-directory";

/** The container that the operator adds to a service's pods; no other one may have its name. */
export const agentContainerName = "lever-agent";
/** The volumes that it adds: of the agent's socket, and of its token. */
export const socketVolumeName = "lever-agent";
export const tokenVolumeName = "lever-agent-token";

/** Of a pod's grace period: what is left for the app (5 s) and its agent (2 s) to end, when the drain has had the rest. */
export const endingSeconds = 7;
/** So that there is time for a drain. */
export const gracePeriodSecondsMin = 10;
/** As Kubernetes has it. */
export const gracePeriodSecondsDefault = 30;

export const replicasMax = 1000;
export const containersMax = 32;
export const volumesMax = 128;
export const envVariablesMax = 1000;
export const methodsMax = 1000;
export const timeoutMillisecondsMax = 3_600_000;
export const timeoutMillisecondsDefault = 30_000;
export const idleSecondsDefault = 180;
/** A week. */
export const idleSecondsMax = 604_800;

/** The entry of `spec.methods` for every method that has no entry of its own. */
export const defaultMethodName = "*";

export const dnsLabel = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/)
  .meta({ expected: "a DNS label: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends" });

const stringMap = z.record(z.string(), z.string());

/** An integer, or a string with a unit: as the manifest says it. */
function amount(
  pattern: RegExp,
  [min, max]: readonly [string, string],
  amountOf: (value: string | number) => number | undefined,
  [expected, remedy]: readonly [string, string],
) {
  const [least, most] = [amountOf(min), amountOf(max)] as [number, number];
  const inRange: CrossFieldRule<string | number> = {
    name: "quantity-range",
    path: [],
    holds(value) {
      const found = amountOf(value);
      return found !== undefined && found >= least && found <= most;
    },
    cel:
      "isQuantity(string(self)) && " +
      `quantity(string(self)).compareTo(quantity('${min}')) >= 0 && ` +
      `quantity(string(self)).compareTo(quantity('${max}')) <= 0`,
    message: expected,
    remedy,
  };
  return withRules(z.union([z.int(), z.string().max(32).regex(pattern)]), [inRange]).meta({
    intOrString: true,
    expected,
  });
}

function byteAmount(bytesMin: number, bytesMax: number, exampleBytes: number) {
  const [min, max] = [formatBytes(bytesMin), formatBytes(bytesMax)];
  return amount(byteQuantityPattern, [min, max], quantityBytes, [
    `a quantity of bytes from ${min} to ${max}, such as ${formatBytes(exampleBytes)}`,
    "Write an integer, or digits with k, M, G, Ki, Mi or Gi.",
  ]);
}

function quantity(bytesMin: number, bytesMax: number, defaultBytes: number, description: string) {
  const written = byteAmount(bytesMin, bytesMax, defaultBytes);
  const { expected } = written.meta() as { expected: string };
  return written
    .transform((value) => quantityBytes(value) ?? Number.NaN)
    .prefault(formatBytes(defaultBytes))
    .meta({ description, expected });
}

const cpuAmount = amount(cpuQuantityPattern, ["1m", "64"], quantityMillis, [
  "a quantity of processors from 1m to 64, such as 20m or 0.5",
  "Write digits with m for thousandths of a processor, or a number of processors; 0.5 needs quotes.",
]);

const keySelector = (kind: string) =>
  z.strictObject({
    name: z.string().min(1).max(253).describe(`Name of the ${kind}, in the service's namespace.`),
    key: z.string().min(1).max(253).describe(`Key in the ${kind}'s data.`),
    optional: z.boolean().optional().describe("If true, a missing object or key leaves the variable out."),
  });

const objectReference = (kind: string) =>
  z.strictObject({
    name: z.string().min(1).max(253).describe(`Name of the ${kind}, in the service's namespace.`),
    optional: z.boolean().optional().describe("If true, a missing object adds no variables."),
  });

const envValueSource = withRules(
  z.looseObject({
    configMapKeyRef: keySelector("ConfigMap").optional().describe("A key of a ConfigMap."),
    secretKeyRef: keySelector("Secret").optional().describe("A key of a Secret."),
    fieldRef: z
      .looseObject({ fieldPath: z.string().min(1).describe("Path of the pod's field, such as metadata.name.") })
      .optional()
      .describe("A field of the pod. `lever dev` knows metadata.name (the instance's id) and metadata.namespace."),
  }),
  [
    {
      name: "env-one-source",
      path: [],
      holds: (source) =>
        [source.configMapKeyRef, source.secretKeyRef, source.fieldRef].filter((x) => x !== undefined).length <= 1,
      cel: "[has(self.configMapKeyRef), has(self.secretKeyRef), has(self.fieldRef)].filter(x, x).size() <= 1",
      message: "only one of configMapKeyRef, secretKeyRef and fieldRef",
      remedy: "Keep the one source that the value comes from.",
    },
  ],
);

const envVariable = withRules(
  z.strictObject({
    name: z
      .string()
      .min(1)
      .max(512)
      .regex(/^[ -<>-~]+$/)
      .meta({ description: "Name of the variable.", expected: "printable ASCII characters without =" }),
    value: z
      .string()
      .optional()
      .describe("Its value. $(NAME) stands for a variable that comes before; $$(NAME) is the text $(NAME)."),
    valueFrom: envValueSource.optional().describe("Where its value comes from."),
  }),
  [
    {
      name: "env-value-or-source",
      path: ["valueFrom"],
      holds: (variable) => !variable.value || variable.valueFrom === undefined,
      cel: "!has(self.value) || self.value == '' || !has(self.valueFrom)",
      message: "either value or valueFrom, not both",
      remedy: "Remove one of the two.",
    },
  ],
);

const envFromSource = withRules(
  z.strictObject({
    prefix: z.string().max(512).optional().describe("Put in front of each variable's name."),
    configMapRef: objectReference("ConfigMap").optional().describe("All of a ConfigMap's data."),
    secretRef: objectReference("Secret").optional().describe("All of a Secret's data."),
  }),
  [
    {
      name: "env-from-one-source",
      path: [],
      holds: (source) => (source.configMapRef === undefined) !== (source.secretRef === undefined),
      cel: "has(self.configMapRef) != has(self.secretRef)",
      message: "exactly one of configMapRef and secretRef",
      remedy: "Name one ConfigMap or one Secret; use one entry of envFrom for each.",
    },
  ],
);

const container = z.looseObject({
  name: dnsLabel.describe("Name of the container."),
  image: z.string().min(1).optional().describe("Its image. `lever dev` does not use it."),
  command: z
    .array(z.string())
    .optional()
    .describe(
      "What the image runs instead of its entry point. `lever dev` does not use it: see leveros.dev/dev-command.",
    ),
  args: z.array(z.string()).optional().describe("Arguments of the command. `lever dev` does not use them."),
  env: z.array(envVariable).max(envVariablesMax).optional().describe("Environment variables; a later one wins."),
  envFrom: z
    .array(envFromSource)
    .max(100)
    .optional()
    .describe("Sources of whole sets of environment variables; a later one wins, and env wins over all."),
});

const ownNames = "Lever adds one of that name to the pods. Rename yours.";

const podSpec = withRules(
  z.looseObject({
    containers: listMap(container, "name", containersMax).min(1).describe("The pod's containers."),
    initContainers: listMap(z.looseObject({ name: dnsLabel.describe("Name of the container.") }), "name", containersMax)
      .optional()
      .describe("What runs before the containers, or beside them. `lever dev` does not use them."),
    volumes: listMap(z.looseObject({ name: dnsLabel.describe("Name of the volume.") }), "name", volumesMax)
      .optional()
      .describe("Volumes of the pod. `lever dev` does not use them."),
    hostNetwork: z.boolean().optional().describe("Must not be true: each pod's agent needs ports of its own."),
    terminationGracePeriodSeconds: z
      .int()
      .min(0)
      .max(0x7fffffff)
      .optional()
      .describe(
        `How long an instance may take to end, ${gracePeriodSecondsDefault} unless set. All but the last ` +
          `${endingSeconds} seconds are for what it is doing, and for its resources to move away.`,
      ),
  }),
  [
    ...(["containers", "initContainers"] as const).map((list) => ({
      name: list === "containers" ? "agent-container-name" : "agent-init-container-name",
      path: [list],
      holds: (pod: { [list in string]?: unknown }) =>
        (pod[list] as { name: string }[] | undefined)?.every(({ name }) => name !== agentContainerName) ?? true,
      cel: `!has(self.${list}) || !self.${list}.exists(c, c.name == '${agentContainerName}')`,
      message: `no container that is named ${agentContainerName}`,
      remedy: ownNames,
    })),
    {
      name: "agent-volume-name",
      path: ["volumes"],
      holds: (pod) => pod.volumes?.every(({ name }) => name !== socketVolumeName && name !== tokenVolumeName) ?? true,
      cel: `!has(self.volumes) || !self.volumes.exists(v, v.name in ['${socketVolumeName}', '${tokenVolumeName}'])`,
      message: `no volume that is named ${socketVolumeName} or ${tokenVolumeName}`,
      remedy: ownNames,
    },
    {
      name: "no-host-network",
      path: ["hostNetwork"],
      holds: (pod) => pod.hostNetwork !== true,
      cel: "!has(self.hostNetwork) || !self.hostNetwork",
      message: "false",
      remedy: "Remove it: on its node's network an instance could not have the agent's ports (3837, 3838) for itself.",
    },
    {
      name: "grace-above-drain",
      path: ["terminationGracePeriodSeconds"],
      holds: ({ terminationGracePeriodSeconds: grace }) => grace === undefined || grace >= gracePeriodSecondsMin,
      cel: `!has(self.terminationGracePeriodSeconds) || self.terminationGracePeriodSeconds >= ${gracePeriodSecondsMin}`,
      message: `at least ${gracePeriodSecondsMin} seconds`,
      remedy: `Give it more: the last ${endingSeconds} are for the processes to end, and what runs has only the rest to finish.`,
    },
  ],
);

const podTemplate = z.strictObject({
  metadata: z
    .looseObject({
      labels: stringMap.optional().describe("Labels of the pods."),
      annotations: stringMap.optional().describe("Annotations of the pods."),
    })
    .optional()
    .describe("Metadata of the pods."),
  spec: podSpec.describe("A PodSpec. Lever reads what is described here; all other fields reach the pods as they are."),
});

const uncallable = ["constructor", "then", "toJSON", "with"];
const uncallableCel = `[${uncallable.map((name) => `'${name}'`).join(", ")}]`;

const method = withRules(
  z.strictObject({
    name: z
      .string()
      .min(1)
      .max(128)
      .regex(/^(\*|[A-Za-z$][A-Za-z0-9_$]*)$/)
      .meta({
        description: 'The method\'s name, case-sensitive; "*" is the default for methods without an entry.',
        expected: 'a method\'s name (letters, digits, _ and $, not beginning with a digit or _) or "*" alone',
      }),
    timeoutMilliseconds: z
      .int()
      .min(1)
      .max(timeoutMillisecondsMax)
      .optional()
      .describe(
        "How long a call may take when its caller sets no time, in ms; of a channel, its opening only. " +
          `Without it, that of "*"; without that, ${timeoutMillisecondsDefault}.`,
      ),
    idempotent: z
      .boolean()
      .optional()
      .describe(
        "Whether running the method twice does the same as once: then a call whose outcome is unknown is tried again. " +
          'Without it, that of "*"; without that, false.',
      ),
  }),
  [
    {
      name: "method-callable",
      path: ["name"],
      holds: (entry) => !uncallable.includes(entry.name),
      cel: `!(self.name in ${uncallableCel})`,
      message: "a method that can be called; constructor, then, toJSON and with never can",
      remedy: "Remove the entry, or rename the method.",
    },
  ],
);

const exposedMethod = withRules(
  z
    .string()
    .min(1)
    .max(128)
    .regex(/^[A-Za-z$][A-Za-z0-9_$]*$/)
    .meta({ expected: "a method's name: letters, digits, _ and $, not beginning with a digit or _" }),
  [
    {
      name: "exposed-method-callable",
      path: [],
      holds: (name) => !uncallable.includes(name),
      cel: `!(self in ${uncallableCel})`,
      message: "a method that can be called; constructor, then, toJSON and with never can",
      remedy: "Remove the entry, or rename the method.",
    },
  ],
);

const allowedCaller = z.strictObject({
  namespace: dnsLabel.describe("The environment whose services may call."),
  service: dnsLabel.optional().describe("The one service of it that may. Without it: all of them."),
});

const access = z.strictObject({
  callers: z
    .array(allowedCaller)
    .max(allowedCallersMax)
    .default([])
    .describe("Services of other namespaces that may call this one. Those of its own namespace always may."),
  gateway: withRules(
    z.strictObject({
      expose: z
        .enum(["None", "Public"])
        .default("None")
        .describe(
          "Who may call through the gateway: None, nobody, and from outside it looks as if there were no such service; " +
            "or Public, everybody who reaches the gateway. `lever dev` serves everything unless it is told otherwise.",
        ),
      methods: z
        .array(exposedMethod)
        .min(1)
        .max(exposedMethodsMax)
        .optional()
        .describe("The methods that are exposed, those of resources too. Without it: all."),
    }),
    [
      {
        name: "methods-of-exposed",
        path: ["methods"],
        holds: ({ expose, methods }) => methods === undefined || expose !== "None",
        // The API server checks the default of `gateway`, {}, before it fills in the defaults above.
        cel: "!has(self.methods) || (has(self.expose) && self.expose != 'None')",
        message: "no methods while expose is None",
        remedy: "Set expose to Public, or remove methods.",
      },
    ],
  )
    .prefault({})
    .describe("What can be called from outside the cluster, through the gateway."),
});

const limits = withRules(
  z.strictObject({
    argsBytes: quantity(1024, 16 * 1024 ** 2, 1024 ** 2, "Largest encoded arguments of a call."),
    resultBytes: quantity(1024, 16 * 1024 ** 2, 1024 ** 2, "Largest encoded result of a call."),
    messageBytes: quantity(1024, 64 * 1024 ** 2, 16 * 1024 ** 2, "Largest encoded message of a channel."),
    inFlightPerInstance: z
      .int()
      .min(1)
      .max(5000)
      .default(1000)
      .describe("Calls that one instance runs at a time; one more is refused (OVERLOADED)."),
    channelsPerInstance: z
      .int()
      .min(1)
      .max(10_000)
      .default(10_000)
      .describe("Channels that one instance has open at a time; one more is refused (OVERLOADED)."),
  }),
  (["argsBytes", "resultBytes"] as const).map((field) => ({
    name: `message-holds-${field === "argsBytes" ? "args" : "result"}`,
    path: ["messageBytes"],
    holds: (value) => value.messageBytes >= value[field],
    // The API server checks the default of `limits`, {}, before it fills in the defaults below.
    cel:
      ["messageBytes", field].map((name) => `!has(self.${name}) || !isQuantity(string(self.${name}))`).join(" || ") +
      ` || quantity(string(self.messageBytes)).compareTo(quantity(string(self.${field}))) >= 0`,
    message: `at least ${field}`,
    remedy: "What is too large for a call goes over a channel, so a message must not be smaller than a call.",
  })),
);

/** Resources would lie in other slots, and two instances could hold the same one. */
const slotsUnchanged: ChangeRule<number> = {
  name: "slots-unchanged",
  holds: (value, before) => value === before,
  cel: "self == oldSelf",
  message: "the number of slots that the service has already, which never changes",
  remedy: "Take the change back; for another number, remove the service and create it again.",
};

/** The rules that a change of a service must keep, with the fields that they are about. */
export const serviceChangeRules: readonly { readonly path: readonly string[]; readonly rule: ChangeRule<number> }[] = [
  { path: ["spec", "ownership", "slots"], rule: slotsUnchanged },
];

const ownership = z.strictObject({
  slots: withChangeRules(z.int().min(1).max(slotsMax).default(slotsDefault), [slotsUnchanged]).describe(
    "Number of slots that the service's resources are spread over: what instances hold, and what moves. " +
      "It never changes.",
  ),
  onUncertain: z
    .enum(["Wait", "Fail", "Serve"])
    .default("Wait")
    .describe(
      "What becomes of calls while it is not known which instance holds their resource: Wait until their deadline, " +
        "Fail at once without having run, or Serve by any instance, which gives up that only one serves a resource.",
    ),
  onLapse: z
    .enum(["Abort", "Kill"])
    .default("Abort")
    .describe(
      "What becomes of methods that still run when their instance has lost the resource: they are told to Abort, or " +
        "the process ends by Kill.",
    ),
  leaseSeconds: z
    .int()
    .min(leaseMsMin / 1000)
    .max(leaseMsMax / 1000)
    .default(leaseMsDefault / 1000)
    .describe(
      "For how long an instance holds its resources without renewing. An instance that is cut off or hangs is " +
        "replaced after it, not before.",
    ),
  idleSeconds: z
    .int()
    .min(1)
    .max(idleSecondsMax)
    .default(idleSecondsDefault)
    .describe("A resource that was not called, and has no channel open, for this long is closed."),
});

const agentMemoryMax = 16 * 1024 ** 3;

export const agentResources = withRules(
  z.strictObject({
    requests: z
      .strictObject({
        cpu: cpuAmount.optional().describe("Processors that are set aside for the agent of each instance."),
        memory: byteAmount(1024 ** 2, agentMemoryMax, 64 * 1024 ** 2)
          .optional()
          .describe("Memory that is set aside for the agent of each instance."),
      })
      .optional()
      .describe("What is set aside for the agent of each instance."),
    limits: z
      .strictObject({
        cpu: cpuAmount.optional().describe("Processors that it may use; it is slowed down beyond that."),
        memory: byteAmount(64 * 1024 ** 2, agentMemoryMax, 128 * 1024 ** 2)
          .optional()
          .describe("Memory that it may use; it is ended and started anew beyond that."),
      })
      .optional()
      .describe("What the agent of each instance may use at most."),
  }),
  (["cpu", "memory"] as const).map((resource) => ({
    name: `agent-${resource}-limit`,
    path: ["limits", resource],
    holds({ requests, limits }) {
      const amountOf = resource === "cpu" ? quantityMillis : quantityBytes;
      const [asked, most] = [requests?.[resource], limits?.[resource]];
      return asked === undefined || most === undefined || (amountOf(most) ?? 0) >= (amountOf(asked) ?? 0);
    },
    cel:
      ["requests", "limits"]
        .map(
          (field) =>
            `!has(self.${field}) || !has(self.${field}.${resource}) || !isQuantity(string(self.${field}.${resource}))`,
        )
        .join(" || ") +
      ` || quantity(string(self.limits.${resource})).compareTo(quantity(string(self.requests.${resource}))) >= 0`,
    message: `at least requests.${resource}`,
    remedy: "Raise the limit, or lower the request.",
  })),
);

const agent = z.strictObject({
  resources: agentResources
    .optional()
    .describe(
      "Resources of the agent's container in each pod. Without it: those that the operator is configured with, " +
        "20m and 64Mi, at most 128Mi, unless your administrator has changed them. `lever dev` does not use it.",
    ),
});

const spec = withRules(
  z.strictObject({
    replicas: z.int().min(0).max(replicasMax).default(1).describe("Number of instances."),
    appContainer: dnsLabel
      .optional()
      .describe(
        "The container that runs the service: it gets the LEVER_ variables and the agent's socket. " +
          "Needed if the template has several containers.",
      ),
    template: podTemplate.describe("The pods that run the service: a pod template as in a Deployment."),
    ownership: ownership
      .optional()
      .describe(
        "How instances hold resources, each by one instance at a time. Without it calls that name a resource are " +
          "refused (NO_RESOURCES).",
      ),
    access: access.prefault({}).describe("Who may call the service, besides the services of its own namespace."),
    methods: listMap(method, "name", methodsMax)
      .default([])
      .describe('What callers may assume about methods; a map by name, with "*" for all that have no entry.'),
    limits: limits.prefault({}).describe("Limits of each instance; what exceeds one is refused with a typed error."),
    agent: agent.optional().describe("The agent in each pod."),
  }),
  [
    {
      name: "app-container-needed",
      path: ["appContainer"],
      holds: (value) => value.appContainer !== undefined || value.template.spec.containers.length === 1,
      cel: "has(self.appContainer) || size(self.template.spec.containers) == 1",
      message: "the name of the container that runs the service, as there are several",
      remedy: "Set spec.appContainer to the name of one of spec.template.spec.containers.",
    },
    {
      name: "app-container-exists",
      path: ["appContainer"],
      holds: (value) =>
        value.appContainer === undefined ||
        value.template.spec.containers.some((entry) => entry.name === value.appContainer),
      cel: "!has(self.appContainer) || self.template.spec.containers.exists(c, c.name == self.appContainer)",
      message: "the name of one of spec.template.spec.containers",
      remedy: "Correct the name; with a single container the field can be left out.",
    },
  ],
);

const metadata = z.strictObject({
  name: dnsLabel.describe("Name of the service, unique in its environment."),
  namespace: dnsLabel.describe("The environment. Without it: that of kubectl in a cluster, dev in `lever dev`."),
  labels: stringMap.optional().describe("Labels, as in every Kubernetes object."),
  annotations: stringMap
    .default({})
    .describe(`Annotations. \`lever dev\` reads ${devCommandAnnotation} and ${devDirectoryAnnotation}.`),
});

export const leverServiceSchema = z.strictObject({
  apiVersion: z.literal(apiVersion).describe("The version of this schema."),
  kind: z.literal(leverServiceKind).describe("The kind of this object."),
  metadata: metadata.describe("Name, environment, labels and annotations."),
  spec: spec.describe("What is wanted."),
});

const int32 = () => z.int().min(0).max(0x7fffffff);

const condition = z.strictObject({
  type: z.string().max(316).describe("Accepted, WorkloadAvailable, EndpointsReady or Ready."),
  status: z.enum(["True", "False", "Unknown"]).describe("Whether it holds; Unknown from the first write."),
  observedGeneration: z.int().min(0).optional().describe("The generation of the spec that it was found for."),
  lastTransitionTime: z.iso.datetime().describe("When its status last changed."),
  reason: z
    .string()
    .min(1)
    .max(1024)
    .regex(/^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$/)
    .describe("Why, as one CamelCase word for programs."),
  message: z.string().max(32_768).describe("Why, as a sentence for people."),
});

/** Written by the operator only. */
export const leverServiceStatusSchema = z.strictObject({
  observedGeneration: z.int().min(0).optional().describe("The generation of the spec that this status is about."),
  replicas: int32().optional().describe("Instances that there are."),
  readyReplicas: int32().optional().describe("Instances that take calls."),
  selector: z.string().optional().describe("Label selector of the instances' pods, for the scale subresource."),
  url: z.string().optional().describe("The service's URL: lever://<environment>/<service>."),
  conditions: listMap(condition, "type", 16).optional().describe("What holds about the service; all are positive."),
});

/** A valid service with every default in place. Limits are numbers of bytes. */
export type LeverService = z.output<typeof leverServiceSchema>;
export type LeverServiceStatus = z.output<typeof leverServiceStatusSchema>;
export type StatusCondition = z.output<typeof condition>;
export type PodTemplate = z.output<typeof podTemplate>;
export type AgentResources = z.output<typeof agentResources>;
export type Container = z.output<typeof container>;
export type EnvVariable = z.output<typeof envVariable>;
export type EnvFromSource = z.output<typeof envFromSource>;
/** What each instance accepts: `argsBytes`, `resultBytes`, `messageBytes`, `inFlightPerInstance`, `channelsPerInstance`. */
export type ServiceLimits = z.output<typeof limits>;

/** What callers may assume about one method. */
export interface MethodPolicy {
  /** `"*"` for the policy of every method without an entry. */
  readonly name: string;
  /** The call's time when its caller sets none; of a channel, the time of its opening. */
  readonly timeoutMs: number;
  readonly idempotent: boolean;
}

/** One policy for each entry of `spec.methods`, what it leaves out taken from `"*"`; that of `"*"` is always there, first. */
export function methodPolicies(service: LeverService): MethodPolicy[] {
  const entries = service.spec.methods;
  const fallback = entries.find((entry) => entry.name === defaultMethodName);
  const policy = (name: string, entry: LeverService["spec"]["methods"][number] | undefined): MethodPolicy => ({
    name,
    timeoutMs: entry?.timeoutMilliseconds ?? fallback?.timeoutMilliseconds ?? timeoutMillisecondsDefault,
    idempotent: entry?.idempotent ?? fallback?.idempotent ?? false,
  });
  return [
    policy(defaultMethodName, fallback),
    ...entries.filter((entry) => entry !== fallback).map((entry) => policy(entry.name, entry)),
  ];
}

/** How the service holds resources; undefined if it holds none. */
function ownershipPolicy({ spec: { ownership: declared } }: LeverService): OwnershipPolicy | undefined {
  if (declared === undefined) return undefined;
  const { slots, onUncertain, onLapse, leaseSeconds, idleSeconds } = declared;
  return { slots, onUncertain, onLapse, leaseMs: leaseSeconds * 1000, idleMs: idleSeconds * 1000 };
}

function accessPolicy({ spec: { access: declared } }: LeverService): AccessPolicy {
  const { expose, methods } = declared.gateway;
  return {
    callers: declared.callers.map(({ namespace, service }) => ({
      environment: namespace,
      ...(service !== undefined && { service }),
    })),
    gateway: { expose, ...(methods !== undefined && { methods }) },
  };
}

/** What agents are told of the service. */
export function servicePolicy(service: LeverService): ServicePolicy {
  const held = ownershipPolicy(service);
  return {
    methods: methodPolicies(service),
    limits: service.spec.limits,
    ...(held === undefined ? {} : { ownership: held }),
    access: accessPolicy(service),
  };
}

/** The container that runs the service: `spec.appContainer`, else the only one. */
export function appContainerOf(service: LeverService): Container {
  const { appContainer, template } = service.spec;
  const found = template.spec.containers.find((entry) => appContainer === undefined || entry.name === appContainer);
  if (found === undefined) throw new TypeError("a LeverService that the schema did not check");
  return found;
}
