/**
 * The operator's configuration: flags, each with a variable of the environment behind it, as its container has them.
 * `docs/operator.md` has the table, which is checked against `flags`.
 */

import { parseArgs } from "node:util";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { wholeQuantity } from "./api/quantity.ts";
import { type AgentResources, agentResources } from "./api/v1alpha1/lever-service.ts";
import type { AgentSettings } from "./kube/reconcile/wanted-deployment.ts";

export interface OperatorSettings {
  /** Undefined: as kubectl finds it, or as a pod does. */
  readonly kubeconfig: string | undefined;
  readonly context: string | undefined;
  /** The operator's own; undefined: the service account's, or the context's. */
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  /** The host by which agents and replicas reach this one; undefined: by the Service only. */
  readonly advertisedHost: string | undefined;
  readonly host: string;
  readonly port: number;
  readonly adminPort: number;
  readonly forwardPort: number;
  readonly leaseName: string;
  readonly replicaSelector: string | undefined;
  /** The name of a Secret, in the own namespace. */
  readonly identitySecret: string;
  /** Whose pods are gateways, in the own namespace. */
  readonly gatewayServiceAccount: string;
  /** `operator` empty: made from the namespace. The drain key is in the Secret. */
  readonly agent: Omit<AgentSettings, "drainKey">;
}

interface Flag {
  readonly variable: string;
  readonly value: string;
  readonly help: string;
  readonly fallback?: string;
}

/** By flag. */
export const flags = {
  kubeconfig: {
    variable: "LEVER_KUBECONFIG",
    value: "FILE",
    help: "The kubeconfig. Without it: $KUBECONFIG, ~/.kube/config, or the pod's service account.",
  },
  context: {
    variable: "LEVER_CONTEXT",
    value: "NAME",
    help: "The context of the kubeconfig, the current one unless set.",
  },
  namespace: {
    variable: "LEVER_NAMESPACE",
    value: "NAME",
    help: "The operator's own namespace, where its Lease is. The pod's, or the context's, unless set.",
  },
  name: { variable: "LEVER_NAME", value: "NAME", help: "This replica's name: its pod's. The host's name unless set." },
  "advertised-host": {
    variable: "LEVER_ADVERTISED_HOST",
    value: "ADDRESS",
    help: "Where agents and other replicas reach this one: the pod's IP. Needed with more than one replica.",
  },
  host: {
    variable: "LEVER_HOST",
    value: "ADDRESS",
    help: "What its ports are bound to. All IPv4 addresses unless set, or all if --advertised-host is one of IPv6.",
  },
  port: {
    variable: "LEVER_PORT",
    value: "PORT",
    help: "The port for agents, gateways and replicas.",
    fallback: "3837",
  },
  "admin-port": {
    variable: "LEVER_ADMIN_PORT",
    value: "PORT",
    help: "The port of /metrics, /livez and /readyz.",
    fallback: "3838",
  },
  "forward-port": {
    variable: "LEVER_FORWARD_PORT",
    value: "PORT",
    help: "The port, of the loopback address alone, that `lever` reaches by a port-forward.",
    fallback: "3839",
  },
  "lease-name": {
    variable: "LEVER_LEASE_NAME",
    value: "NAME",
    help: "The Lease that its replicas elect their leader by.",
    fallback: "lever-operator",
  },
  "replica-selector": {
    variable: "LEVER_REPLICA_SELECTOR",
    value: "SELECTOR",
    help: "Label selector of the operator's pods. Without it there is one replica.",
  },
  "agent-image": { variable: "LEVER_AGENT_IMAGE", value: "IMAGE", help: "The agent's image. Has to be set." },
  "agent-image-pull-policy": {
    variable: "LEVER_AGENT_IMAGE_PULL_POLICY",
    value: "POLICY",
    help: "Always, IfNotPresent or Never. Kubernetes' default unless set.",
  },
  "agent-operator": {
    variable: "LEVER_AGENT_OPERATOR",
    value: "HOST:PORT",
    help: "What agents reach the operator by: a headless Service. lever-operator.<namespace>.svc:3837 unless set.",
  },
  "agent-token-audience": {
    variable: "LEVER_AGENT_TOKEN_AUDIENCE",
    value: "NAME",
    help: "Whom the agents' service account tokens are for.",
    fallback: "lever-operator",
  },
  "agent-resources": {
    variable: "LEVER_AGENT_RESOURCES",
    value: "JSON",
    help: "requests and limits of agents whose LeverService says nothing of it.",
    fallback: '{"requests":{"cpu":"20m","memory":"64Mi"},"limits":{"memory":"128Mi"}}',
  },
  "agent-run-as-user": {
    variable: "LEVER_AGENT_RUN_AS_USER",
    value: "UID",
    help: "User and group of agents. By none it is for the cluster to say, as OpenShift does.",
    fallback: "65532",
  },
  "identity-secret": {
    variable: "LEVER_IDENTITY_SECRET",
    value: "NAME",
    help: "The Secret in the operator's namespace that has its CA. It has to be there; an empty one is filled.",
    fallback: "lever-identity",
  },
  "gateway-service-account": {
    variable: "LEVER_GATEWAY_SERVICE_ACCOUNT",
    value: "NAME",
    help: "Pods of this service account in the operator's namespace are gateways.",
    fallback: "lever-gateway",
  },
} as const satisfies Record<string, Flag>;

type FlagName = keyof typeof flags;
type Variables = Readonly<Record<string, string | undefined>>;

/** Undefined: help was asked for. Throws INVALID_OPTION, naming the flag, what was found and what is expected. */
export function operatorSettings(args: readonly string[], variables: Variables): OperatorSettings | undefined {
  const given = parse(args);
  if (given["help"] === true) return undefined;
  const text = (name: FlagName): string | undefined => {
    const flag: Flag = flags[name];
    const value = (given[name] as string | undefined) ?? variables[flag.variable]?.trim();
    return value === undefined || value === "" ? flag.fallback : value;
  };
  const required = (name: FlagName, expected: string): string => {
    const value = text(name);
    if (value === undefined) throw new LeverError("INVALID_OPTION", `${named(name)} is not set, expected ${expected}`);
    return value;
  };
  const port = (name: FlagName): number => {
    const value = text(name) as string;
    if (!/^\d{1,5}$/.test(value) || Number(value) > 65_535) throw invalid(name, value, "a port from 0 to 65535");
    return Number(value);
  };
  const matching = (name: FlagName, pattern: RegExp, expected: string): string | undefined => {
    const value = text(name);
    if (value !== undefined && !pattern.test(value)) throw invalid(name, value, expected);
    return value;
  };
  const pullPolicy = matching(
    "agent-image-pull-policy",
    /^(Always|IfNotPresent|Never)$/,
    "Always, IfNotPresent or Never",
  );
  const runAsUser = matching(
    "agent-run-as-user",
    /^([1-9]\d{0,8}|none)$/,
    "the number of a user that is not root, or none",
  );
  const advertisedHost = matching("advertised-host", /^[^\s[\]]+$/, "an address, without brackets");
  const label = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;
  return {
    kubeconfig: text("kubeconfig"),
    context: text("context"),
    namespace: matching("namespace", label, "a namespace"),
    name: matching("name", label, "the name of a pod"),
    advertisedHost,
    host: text("host") ?? (advertisedHost?.includes(":") === true ? "::" : "0.0.0.0"),
    port: port("port"),
    adminPort: port("admin-port"),
    forwardPort: port("forward-port"),
    leaseName: matching("lease-name", label, "the name of a Lease") as string,
    replicaSelector: text("replica-selector"),
    identitySecret: matching("identity-secret", label, "the name of a Secret") as string,
    gatewayServiceAccount: matching("gateway-service-account", label, "the name of a service account") as string,
    agent: {
      image: required("agent-image", "the agent's image, such as example.org/lever/agent:0.1.0"),
      ...(pullPolicy !== undefined && { imagePullPolicy: pullPolicy as NonNullable<AgentSettings["imagePullPolicy"]> }),
      operator: matching("agent-operator", /^(\[[0-9a-fA-F:.]+\]|[^:\s]+):\d{1,5}$/, "host:port") ?? "",
      tokenAudience: text("agent-token-audience") as string,
      resources: resources(text("agent-resources") as string),
      ...(runAsUser !== "none" && { runAsUser: Number(runAsUser) }),
    },
  };
}

export function usage(): string {
  const rows = Object.entries(flags).map(([name, { variable, value, help, ...rest }]) => {
    const fallback = "fallback" in rest ? ` (${rest.fallback})` : "";
    return `  --${name} ${value}\n      ${help}${fallback} [${variable}]`;
  });
  return `lever-operator: the operator of Lever in a Kubernetes cluster\n\n${rows.join("\n")}\n`;
}

function parse(args: readonly string[]): Record<string, string | boolean | undefined> {
  const options = Object.fromEntries(Object.keys(flags).map((name) => [name, { type: "string" as const }]));
  try {
    return parseArgs({ args: [...args], options: { ...options, help: { type: "boolean" } } }).values;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LeverError("INVALID_OPTION", `${why}; --help lists the flags`, { cause });
  }
}

function resources(value: string): AgentResources {
  const expected = 'JSON such as {"requests":{"cpu":"20m","memory":"64Mi"},"limits":{"memory":"128Mi"}}';
  let found: unknown;
  try {
    found = JSON.parse(value);
  } catch {
    throw invalid("agent-resources", value, expected);
  }
  const read = agentResources.safeParse(withStrictAmounts(found));
  if (read.success) return read.data;
  const [issue] = read.error.issues;
  const rule = issue?.code === "custom" ? (issue.params?.["rule"] as { readonly message: string }) : undefined;
  if (issue === undefined || rule === undefined) throw invalid("agent-resources", value, expected);
  throw invalid("agent-resources", value, `its ${issue.path.join(".")} to be ${rule.message}`);
}

/** What Kubernetes takes for a pod, as its rules for a LeverService would have it: 0.5 as "0.5", 1.5Gi as 1536Mi. */
function withStrictAmounts(found: unknown): unknown {
  const isObject = (value: unknown): value is object =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  if (!isObject(found)) return found;
  const strict = (name: string, amount: unknown) => {
    if (name === "cpu" && typeof amount === "number") return String(amount);
    return name === "memory" && typeof amount === "string" ? wholeQuantity(amount) : amount;
  };
  const amounts = (field: unknown) =>
    isObject(field)
      ? Object.fromEntries(Object.entries(field).map(([name, amount]) => [name, strict(name, amount)]))
      : field;
  return Object.fromEntries(Object.entries(found).map(([name, field]) => [name, amounts(field)]));
}

function named(name: FlagName): string {
  return `--${name} (${flags[name].variable})`;
}

function invalid(name: FlagName, value: string, expected: string): LeverError {
  const found = JSON.stringify(value.slice(0, 200));
  return new LeverError("INVALID_OPTION", `${named(name)} is ${found}, expected ${expected}`);
}
