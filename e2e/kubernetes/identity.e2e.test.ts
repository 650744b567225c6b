/**
 * Nobody takes part in a cluster who has not proven who it is, and nobody calls another environment that has not been
 * named: each refusal beside what is let in, counted, and told once.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ImpostorAuthority, type Knock, knock, type Validity } from "../harness/impostor.ts";
import { kubectl, kubectlJson } from "../harness/kubectl.ts";
import { exampleManifest, fixtureManifest } from "../harness/lever-images.ts";
import { installLever, leverNamespace } from "../harness/lever-install.ts";
import { operatorPods } from "../harness/operator-pods.ts";
import { hasOwnNodes } from "../harness/pod-processes.ts";
import { callFrom, type ListedPod, podsOf, type ServicePod, waitReady } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

const framesPort = 3837;
let namespace: string;
let pods: readonly ServicePod[];

const apply = (to: string, text: string) => kubectl(["apply", "--namespace", to, "--filename=-"], { input: text });

beforeAll(async () => {
  await installLever();
  namespace = await testNamespace("identity");
  await apply(namespace, exampleManifest("hello"));
  await apply(namespace, fixtureManifest("caller/caller.yaml"));
  for (const service of ["hello", "caller"]) await waitReady(namespace, service);
  pods = await podsOf(namespace, "hello");
});

/** The sum of a counter over pods, for the labels that match. */
async function metric(of: string, names: readonly string[], counter: string, labels: RegExp): Promise<number> {
  let sum = 0;
  for (const name of names) {
    const page = await kubectl(["get", "--raw", `/api/v1/namespaces/${of}/pods/${name}:3838/proxy/metrics`]);
    for (const [, found = "", value] of page.matchAll(new RegExp(`^${counter}\\{(.*)\\} (\\S+)$`, "gm"))) {
      if (labels.test(found)) sum += Number(value);
    }
  }
  return sum;
}

/** Lines of a container's log. */
async function logged(of: string, pod: string, container: string, text: RegExp): Promise<string[]> {
  const log = await kubectl(["logs", "--namespace", of, pod, `--container=${container}`]);
  return log.split("\n").filter((line) => text.test(line));
}

const operatorNames = async () => (await operatorPods()).map(({ metadata }) => metadata.name);
const operatorLines = async (text: RegExp) =>
  (await Promise.all((await operatorNames()).map((name) => logged(leverNamespace, name, "operator", text)))).flat();

// ---------------------------------------------------------------- tokens

interface Volume {
  readonly name: string;
  readonly projected?: { sources: { serviceAccountToken?: { audience?: string } }[] };
}

interface Pod {
  metadata: { name: string; namespace: string; labels: Record<string, string>; annotations?: Record<string, string> };
  spec: { volumes: Volume[]; nodeName?: string };
  status?: unknown;
}

/** A pod that nobody owns, as one of `hello` is but for `change`. */
async function copyOf(name: string, change: (pod: Pod) => void): Promise<void> {
  const [pod] = pods as [ServicePod];
  const { metadata, spec } = await kubectlJson<Pod>(["get", `pod/${pod.metadata.name}`, "--namespace", namespace]);
  const { "pod-template-hash": _, ...labels } = metadata.labels;
  const { nodeName: __, ...freeSpec } = spec;
  const copy: Pod = { metadata: { name, namespace, labels, annotations: metadata.annotations ?? {} }, spec: freeSpec };
  change(copy);
  await apply(namespace, JSON.stringify({ apiVersion: "v1", kind: "Pod", ...copy }));
}

const tokenSources = (pod: Pod) =>
  pod.spec.volumes.find(({ name }) => name === "lever-agent-token")?.projected as NonNullable<Volume["projected"]>;

interface Table {
  readonly instances?: readonly { readonly id: string; readonly state: string }[];
}

const servingInstances = async () => {
  const { instances = [] } = await kubectlJson<Table>(["get", "lept/hello", "--namespace", namespace]);
  return instances.filter(({ state }) => state === "Serving").map(({ id }) => id);
};

describe("a pod that is like an instance's", () => {
  test("with its token: it gets a certificate, and serves", async () => {
    const issued = async () =>
      metric(leverNamespace, await operatorNames(), "lever_operator_certificates_issued_total", /kind="instance"/);
    const before = await issued();
    await copyOf("hello-copy", () => {});
    await until("it serves", async () => (await servingInstances()).includes("hello-copy"), 60_000);
    expect(await issued()).toBeGreaterThan(before);
  });

  const refusals: readonly (readonly [
    what: string,
    name: string,
    reason: RegExp | undefined,
    change: (pod: Pod) => void,
  ])[] = [
    [
      "without a token",
      "hello-no-token",
      undefined,
      (pod) => {
        const projected = tokenSources(pod);
        projected.sources = projected.sources.filter(({ serviceAccountToken }) => serviceAccountToken === undefined);
      },
    ],
    [
      "with a token for another audience",
      "hello-other-audience",
      /reason="(token|audience)"/,
      (pod) => {
        for (const { serviceAccountToken } of tokenSources(pod).sources) {
          if (serviceAccountToken !== undefined) serviceAccountToken.audience = "somebody-else";
        }
      },
    ],
    [
      "that is no instance of a service",
      "hello-nobodys",
      /reason="pod"/,
      (pod) => {
        delete pod.metadata.labels["leveros.dev/service"];
      },
    ],
  ];

  test.each(refusals)("%s: it gets none, and never serves", async (_, name, reason, change) => {
    const refused = async () =>
      metric(leverNamespace, await operatorNames(), "lever_operator_certificates_refused_total", reason ?? /./);
    const before = await refused();
    await copyOf(name, change);
    const tries = reason === undefined ? 0 : 3;
    const told = () => logged(namespace, name, "lever-agent", /no certificate from the operator/).catch(() => []);
    await until("its agent has said so", async () => (await told()).length > 0, 60_000);
    // Time for more tries, of which nobody is to hear.
    await until("it has tried again and again", async () => (await refused()) >= before + tries, 60_000);
    await sleep(3000);
    const count = (await refused()) - before;
    const address = await kubectlJson<ServicePod>(["get", `pod/${name}`, "--namespace", namespace]);
    const operatorSays = (await operatorLines(/no certificate/)).filter(
      (line) => line.includes(address.status.podIP) || line.includes(`${namespace}/${name}`),
    );
    console.log(
      `${name}: refused ${count} times; its agent says ${(await told()).length} lines, the operator ${operatorSays.length}:\n  ${[...(await told()), ...operatorSays].join("\n  ")}`,
    );
    expect(await told()).toHaveLength(1);
    if (reason !== undefined) {
      expect(count).toBeGreaterThanOrEqual(tries);
      // One line of each replica that it has asked.
      expect(operatorSays.length).toBeGreaterThan(0);
      expect(operatorSays.length).toBeLessThanOrEqual((await operatorNames()).length);
    }
    expect(await servingInstances()).not.toContain(name);
    expect(await metric(namespace, [name], "lever_agent_refused_connections_total", /./)).toBe(0);
  });

  test("those that serve go on serving", async () => {
    const [caller] = await podsOf(namespace, "caller");
    for (let n = 0; n < 20; n++) {
      const outcome = await callFrom(namespace, (caller as ServicePod).metadata.name, "/hello/sayHello", "Ada");
      expect(outcome).toEqual({ value: "Hello, Ada!" });
    }
  });
});

// ---------------------------------------------------------------- certificates

const uriOf = ({ metadata }: ServicePod, service: string) =>
  `spiffe://leveros.dev/environment/${namespace}/service/${service}/instance/${metadata.name}/uid/${metadata.uid}`;
const helloOf = ({ metadata }: ServicePod, service: string) => ({
  role: "agent",
  environment: namespace,
  service,
  instance: metadata.name,
});

interface Door {
  readonly namespace: string;
  readonly pod: string;
  readonly host: string;
  readonly container: string;
}

const doors: Readonly<Record<"agent" | "operator", () => Promise<Door>>> = {
  agent: async () => {
    const [{ metadata, status }] = pods as [ServicePod];
    return { namespace, pod: metadata.name, host: status.podIP, container: "lever-agent" };
  },
  operator: async () => {
    const [{ metadata, status }] = (await operatorPods()) as [ListedPod];
    return { namespace: leverNamespace, pod: metadata.name, host: status.podIP as string, container: "operator" };
  },
};

describe.runIf(hasOwnNodes).each(["agent", "operator"] as const)("at the %s's port", (kind) => {
  let cluster: ImpostorAuthority;
  let foreign: ImpostorAuthority;
  let caller: ServicePod;
  let door: Door;
  let own: Knock;

  beforeAll(async () => {
    door = await doors[kind]();
    [caller] = (await podsOf(namespace, "caller")) as [ServicePod];
    cluster = await ImpostorAuthority.ofCluster();
    foreign = await ImpostorAuthority.foreign(cluster.bundle);
    own = {
      host: door.host,
      port: framesPort,
      bundle: cluster.bundle,
      credentials: await cluster.issue(uriOf(caller, "caller")),
      hello: helloOf(caller, "caller"),
    };
  });

  afterAll(async () => {
    await cluster?.[Symbol.asyncDispose]();
    await foreign?.[Symbol.asyncDispose]();
  });

  const refusedFor = (reason: string) => {
    const counter = `lever_${kind}_refused_connections_total`;
    return metric(door.namespace, [door.pod], counter, new RegExp(`reason="${reason}"`));
  };

  test("who shows its own certificate is served", async () => {
    const before = await refusedFor(".*");
    expect(await knock(own)).toBe("served");
    expect(await refusedFor(".*")).toBe(before);
  });

  const issue = (validity?: Validity) => cluster.issue(uriOf(caller, "caller"), validity);
  const cases: readonly (readonly [what: string, reason: string, change: () => Promise<Partial<Knock>>])[] = [
    ["without TLS", "plain", async () => ({ bundle: undefined })],
    [
      "with a certificate that has expired",
      "expired",
      async () => ({ credentials: await issue({ fromDays: -3, toDays: -2 }) }),
    ],
    [
      "with a certificate that is not valid yet",
      "expired",
      async () => ({ credentials: await issue({ fromDays: 2, toDays: 3 }) }),
    ],
    [
      "with a certificate of another CA",
      "untrusted",
      async () => ({ credentials: await foreign.issue(uriOf(caller, "caller")) }),
    ],
    [
      "with another pod's certificate",
      "identity",
      async () => ({ credentials: await cluster.issue(uriOf(pods[0] as ServicePod, "hello")) }),
    ],
    [
      "with a certificate of no pod",
      "identity",
      async () => ({ credentials: await cluster.issue("spiffe://leveros.dev/somebody") }),
    ],
    // The operator lets those in who come for their first one.
    ...(kind === "agent"
      ? ([["without a certificate", "no-certificate", async () => ({ credentials: undefined })]] as const)
      : []),
  ];

  test.each(cases)("%s: refused (%s), and counted", async (_, reason, change) => {
    const knocks = 3;
    const changed = await change();
    const before = await refusedFor(reason);
    for (let n = 0; n < knocks; n++) expect(await knock({ ...own, ...changed })).toBe("refused");
    expect((await refusedFor(reason)) - before).toBe(knocks);
  });

  test("each was told once", async () => {
    for (const reason of new Set(cases.map(([, reason]) => reason))) {
      const text = new RegExp(`refused a connection .*\\(${reason}\\)`);
      const lines = await logged(door.namespace, door.pod, door.container, text);
      console.log(lines.join("\n"));
      // All come from one address. Of the two with a trusted certificate it is known that they are not the same.
      expect(lines, reason).toHaveLength(reason === "identity" ? 2 : 1);
    }
  });

  test("who shows its own certificate is served still", async () => {
    expect(await knock(own)).toBe("served");
  });
});

// ---------------------------------------------------------------- environments

test("another environment calls what its owner lets it call", async () => {
  const other = await testNamespace("stranger");
  await apply(other, fixtureManifest("caller/caller.yaml"));
  await waitReady(other, "caller");
  const [stranger] = (await podsOf(other, "caller")) as [ServicePod];
  const call = () => callFrom(other, stranger.metadata.name, `lever://${namespace}/hello/sayHello`, "Ada");
  const allow = (callers: readonly { namespace: string; service?: string }[]) =>
    kubectl([
      ...["patch", "lsvc/hello", "--namespace", namespace, "--type=merge"],
      "--patch",
      JSON.stringify({ spec: { access: { callers } } }),
    ]);
  expect(await call()).toMatchObject({ reason: "PERMISSION_DENIED" });
  await allow([{ namespace: other, service: "somebody" }]);
  await sleep(1000);
  expect(await call()).toMatchObject({ reason: "PERMISSION_DENIED" });
  await allow([{ namespace: other, service: "caller" }]);
  await until("it is let in", async () => "value" in (await call()));
  expect(await call()).toEqual({ value: "Hello, Ada!" });
  await allow([]);
  await until("it is let in no more", async () => !("value" in (await call())));
  expect(await call()).toMatchObject({ reason: "PERMISSION_DENIED" });
});
