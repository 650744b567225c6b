/**
 * What the chart renders, without installing it: linted, compared with what was rendered before, and taken by the API
 * server of the cluster, which knows its own schemas better than any copy of them (a dry run with strict validation).
 */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { kubectl, kubectlResult } from "../harness/kubectl.ts";
import { chartDirectory, helm, helmResult, leverNamespace, makeLeverNamespace } from "../harness/lever-install.ts";

const haValues = path.join(chartDirectory, "values-ha.yaml");

/** Every optional part on, and every value that is passed through to an object. */
const everything = `
imagePullSecrets: [registry]
commonLabels: { team: platform }
crds: { keep: false }
operator:
  replicas: 3
  image: { registry: registry.example.org, repository: infra/lever-operator, digest: "sha256:${"0123456789abcdef".repeat(4)}" }
  extraArgs: [--agent-token-audience=lever-operator]
  extraEnv: [{ name: NODE_OPTIONS, value: --max-old-space-size=768 }]
  serviceAccount: { annotations: { example.org/role: operator } }
  podAnnotations: { example.org/scrape: "true" }
  podLabels: { sidecar: "false" }
  nodeSelector: { kubernetes.io/os: linux }
  affinity: { nodeAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [] } }
  tolerations: [{ key: control-plane, operator: Exists, effect: NoSchedule }]
  topologySpreadConstraints: []
  priorityClassName: system-cluster-critical
agent:
  image: { registry: registry.example.org, tag: 9.9.9, pullPolicy: Always }
  runAsUser: null
gateway:
  defaultEnvironment: shop
  environmentHosts: { shop.example.org: shop, blog.example.org: blog }
  corsOrigins: [https://app.example.org]
  bodyBytesMax: 1048576
  drainSeconds: 60
  service:
    type: LoadBalancer
    annotations: { example.org/internal: "true" }
    extraSpec: { externalTrafficPolicy: Local }
  podDisruptionBudget: { enabled: true, maxUnavailable: 50% }
  extraEnv: [{ name: LEVER_ALLOW_FORCE_ENV, value: "true" }]
networkPolicy:
  enabled: true
  metricsFrom: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: monitoring } } }]
  gatewayFrom: [{ ipBlock: { cidr: 10.0.0.0/8 } }]
prometheus:
  servicemonitor: { enabled: true, labels: { release: prometheus } }
`;

/** Of the Prometheus operator's kind only that it is there: what it may say is compared with the snapshot. */
const serviceMonitors = JSON.stringify({
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "servicemonitors.monitoring.coreos.com" },
  spec: {
    group: "monitoring.coreos.com",
    scope: "Namespaced",
    names: { kind: "ServiceMonitor", plural: "servicemonitors", singular: "servicemonitor" },
    versions: [
      {
        name: "v1",
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
      },
    ],
  },
});

let directory: string;
let cases: Readonly<Record<string, readonly string[]>>;

beforeAll(async () => {
  directory = await mkdtemp(path.join(tmpdir(), "lever-chart-"));
  const everythingFile = path.join(directory, "everything.yaml");
  await writeFile(everythingFile, everything);
  cases = { default: [], ha: ["--values", haValues], everything: ["--values", everythingFile] };
});

afterAll(() => rm(directory, { recursive: true }));

const render = (name: string, kubeVersion = "1.34.0") =>
  helm([
    "template",
    "lever",
    chartDirectory,
    `--namespace=${leverNamespace}`,
    `--kube-version=${kubeVersion}`,
    ...(cases[name] as string[]),
  ]);

describe.each(["default", "ha", "everything"])("with the values %s", (name) => {
  test("it is without a fault that helm lint would find", async () => {
    const said = await helm(["lint", "--strict", chartDirectory, ...(cases[name] as string[])]);
    expect(said).toContain("1 chart(s) linted, 0 chart(s) failed");
  });

  test("it is as it was: after a change that is meant, npm run e2e -- chart --update", async () => {
    const text = await render(name);
    // The CRDs are those of crds/, which other tests compare.
    const objects = text.split(/^---\n/m).filter((each) => !each.includes("kind: CustomResourceDefinition"));
    await expect(objects.join("---\n")).toMatchFileSnapshot(`rendered/${name}.yaml`);
  });
});

describe("the API server takes all of it, and finds it restricted enough,", () => {
  beforeAll(async () => {
    await makeLeverNamespace();
    await kubectl(["apply", "--filename=-"], { input: serviceMonitors });
    await kubectl(["wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com"]);
  });
  afterAll(() => kubectl(["delete", "crd", "servicemonitors.monitoring.coreos.com"]));

  test.each(["default", "ha", "everything"])("with the values %s", async (name) => {
    const flags = ["--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename=-"];
    const { exitCode, stdout, stderr } = await kubectlResult(["apply", ...flags], { input: await render(name) });
    expect(stderr).toBe("");
    expect(exitCode).toBe(0);
    expect(stdout.match(/serverside-applied/g)?.length).toBeGreaterThan(15);
  });
});

test("where a pod cannot sleep before its end, its own program does", async () => {
  expect(await render("default", "1.34.0")).toContain("sleep: { seconds: 5 }");
  expect(await render("default", "1.29.0")).toContain("exec: { command: [node, -e,");
});

test.each<[string, string]>([
  ["agent.resources.limits.memory=1.5Gi", '"limits":{"memory":"1.5Gi"}'],
  ["agent.resources.limits.memory=1073741824", '"limits":{"memory":1073741824}'],
  ["agent.resources.requests.cpu=0.5", '"requests":{"cpu":0.5,"memory":"64Mi"}'],
  ["agent.resources.requests=null", '{"limits":{"memory":"128Mi"}}'],
])("%s is what agents get", async (value, expected) => {
  const set = /=[\d.]+$|null$/.test(value) ? "--set-json" : "--set";
  const said = await helm(["template", "lever", chartDirectory, "--kube-version=1.34.0", set, value]);
  expect(/--agent-resources=(.*)/.exec(said)?.[1]).toContain(expected);
});

describe("what is not right is refused, and said", () => {
  test.each<[string, string]>([
    ["operator.replica=3", "at '/operator': additional properties 'replica' not allowed"],
    ["operators.replicas=3", "additional properties 'operators' not allowed"],
    ["operator.replicas=0", "at '/operator/replicas': minimum: got 0, want 1"],
    ["operator.replicas=two", "at '/operator/replicas': got string, want integer"],
    ["operator.image.pullPolicy=Sometimes", "at '/operator/image/pullPolicy': value must be one of"],
    ["operator.image.registry=https://example.org/", "at '/operator/image/registry'"],
    ["operator.image.digest=latest", "at '/operator/image/digest'"],
    ["operator.extraArgs={verbose}", "at '/operator/extraArgs/0'"],
    ["operator.resources.limits.memory=much", "at '/operator/resources/limits/memory'"],
    ["operator.resources.limit.memory=1Gi", "additional properties 'limit' not allowed"],
    ["agent.resources.limits.ephemeral-storage=1Gi", "at '/agent/resources/limits': additional properties"],
    ["agent.resources.claims={gpu}", "at '/agent/resources': additional properties 'claims' not allowed"],
    ["agent.resources.limits.memory=100m", "at '/agent/resources/limits/memory'"],
    ["agent.resources.limits.memory=48Mi", "agent.resources.limits.memory is 48Mi, expected from 64Mi to 16Gi"],
    ["agent.resources.limits.memory=16.5Gi", "agent.resources.limits.memory is 16.5Gi, expected from 64Mi to 16Gi"],
    ["agent.resources.requests.memory=0.5Mi", "agent.resources.requests.memory is 0.5Mi, expected from 1Mi to 16Gi"],
    ["agent.resources.requests.cpu=65", "agent.resources.requests.cpu is 65, expected from 1m to 64"],
    ["agent.resources.requests.cpu=0", "agent.resources.requests.cpu is 0, expected from 1m to 64"],
    [
      "agent.resources.requests.memory=256Mi",
      "agent.resources.limits.memory is 128Mi, expected at least agent.resources.requests.memory, which is 256Mi",
    ],
    [
      "agent.resources.limits.cpu=19m",
      "agent.resources.limits.cpu is 19m, expected at least agent.resources.requests.cpu, which is 20m",
    ],
    ["agent.runAsUser=0", "at '/agent/runAsUser': minimum: got 0, want 1"],
    ["gateway.defaultEnvironment=Shop", "at '/gateway/defaultEnvironment'"],
    ["gateway.environmentHosts.shop=A_B", "at '/gateway/environmentHosts/shop'"],
    ["gateway.corsOrigins={app.example.org}", "at '/gateway/corsOrigins/0'"],
    ["gateway.service.type=ExternalName", "at '/gateway/service/type': value must be one of"],
    ["gateway.service.httpPort=70000", "at '/gateway/service/httpPort': maximum: got 70,000, want 65,535"],
    ["gateway.bodyBytesMax=0", "at '/gateway/bodyBytesMax': minimum: got 0, want 1"],
    ["gateway.drainSeconds=-1", "at '/gateway/drainSeconds': minimum: got -1, want 0"],
    ["gateway.podDisruptionBudget.maxUnavailable=some", "at '/gateway/podDisruptionBudget/maxUnavailable'"],
    ["prometheus.serviceMonitor.enabled=true", "additional properties 'serviceMonitor' not allowed"],
    ["networkPolicy.enabled=yes-please", "at '/networkPolicy/enabled': got string, want boolean"],
  ])("%s", async (value, message) => {
    const { exitCode, stderr } = await helmResult([
      "template",
      "lever",
      chartDirectory,
      "--kube-version=1.34.0",
      "--set",
      value,
    ]);
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain(message);
  });

  test("a number of processors that is finer than Kubernetes takes", async () => {
    const set = ["--set-json", "agent.resources.requests.cpu=0.1234"];
    const { exitCode, stderr } = await helmResult([
      "template",
      "lever",
      chartDirectory,
      "--kube-version=1.34.0",
      ...set,
    ]);
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain("agent.resources.requests.cpu is 0.1234, expected at most three digits after the point");
  });

  test("an older Kubernetes", async () => {
    const { exitCode, stderr } = await helmResult(["template", "lever", chartDirectory, "--kube-version=1.28.15"]);
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain("chart requires kubeVersion: >=1.29.0-0");
  });
});
