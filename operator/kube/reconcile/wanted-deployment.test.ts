import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { operatorSettings } from "../../settings.ts";
import type { Deployment } from "./kubernetes-object.ts";
import { hello, serviceObject, serviceUid, settings, stored } from "./objects.fixture.ts";
import { observeService } from "./observed-service.ts";
import {
  type AgentInjection,
  type AgentSettings,
  injectAgent,
  injectionAnnotation,
  templateHashAnnotation,
  type WantedDeployment,
  wantedDeployment,
} from "./wanted-deployment.ts";

interface Container {
  name: string;
  image: string;
  restartPolicy?: string;
  env: { name: string; value?: string; valueFrom?: { fieldRef: { fieldPath: string } } }[];
  volumeMounts: { name: string; mountPath: string; readOnly?: boolean }[];
  lifecycle?: Record<string, unknown>;
  [field: string]: unknown;
}

interface PodSpec {
  initContainers: Container[];
  containers: Container[];
  volumes: { name: string }[];
  [field: string]: unknown;
}

function want(spec: string, found?: Deployment, with_: AgentSettings = settings): WantedDeployment {
  return wantedDeployment(observeService(serviceObject(spec)), found, with_);
}

function applied(spec: string, found?: Deployment, with_: AgentSettings = settings) {
  const wanted = want(spec, found, with_);
  if (wanted.kind !== "apply") throw new Error(`found ${wanted.kind}`);
  const pod = wanted.object.spec?.template?.spec as unknown as PodSpec;
  const container = (name: string) => {
    const one = [...pod.initContainers, ...pod.containers].find((entry) => entry.name === name);
    if (one === undefined) throw new Error(`no container ${name}`);
    return one;
  };
  return { ...wanted, pod, container, agent: container("lever-agent") };
}

const variables = (container: Container) =>
  Object.fromEntries(container.env.map(({ name, value, valueFrom }) => [name, value ?? valueFrom?.fieldRef.fieldPath]));

test("a Deployment of the service's name, with its labels, that goes with the service", () => {
  const { object } = applied(`${hello}replicas: 3`);
  expect(object).toMatchObject({
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: {
      name: "hello",
      namespace: "shop",
      labels: {
        "app.kubernetes.io/name": "hello",
        "app.kubernetes.io/managed-by": "lever",
        "leveros.dev/service": "hello",
      },
      ownerReferences: [
        {
          apiVersion: "leveros.dev/v1alpha1",
          kind: "LeverService",
          name: "hello",
          uid: serviceUid,
          controller: true,
          blockOwnerDeletion: true,
        },
      ],
    },
    spec: {
      replicas: 3,
      selector: { matchLabels: { "leveros.dev/service": "hello" } },
      template: { metadata: { labels: { "leveros.dev/service": "hello", "app.kubernetes.io/name": "hello" } } },
    },
  });
  expect(object.metadata).not.toHaveProperty("uid");
  expect(object).not.toHaveProperty("status");
});

describe("the agent", () => {
  test("is a sidecar that comes before all else", () => {
    const spec =
      "template: { spec: { initContainers: [{ name: setup, image: a }], containers: [{ name: app, image: b }] } }";
    const { pod, agent } = applied(spec);
    expect(pod.initContainers.map(({ name }) => name)).toEqual(["lever-agent", "setup"]);
    expect(agent).toMatchObject({ image: settings.image, restartPolicy: "Always", resources: settings.resources });
    expect(agent).not.toHaveProperty("imagePullPolicy");
    expect(applied(spec, undefined, { ...settings, imagePullPolicy: "Always" }).agent["imagePullPolicy"]).toBe(
      "Always",
    );
  });

  test("is told who it is, where the operator is, and how long a drain may take", () => {
    const { agent } = applied(`
template: { spec: { terminationGracePeriodSeconds: 60, containers: [{ name: app, image: b }] } }`);
    expect(variables(agent)).toEqual({
      LEVER_AGENT: "unix:///run/lever/agent.sock",
      LEVER_ENVIRONMENT: "shop",
      LEVER_SERVICE: "hello",
      LEVER_INSTANCE: "metadata.name",
      LEVER_ADVERTISED_HOST: "status.podIP",
      LEVER_ZONE: "metadata.labels['topology.kubernetes.io/zone']",
      LEVER_OPERATOR: "operator.lever-system.svc:3837",
      LEVER_FORWARD_PORT: "3839",
      LEVER_TOKEN_FILE: "/var/run/secrets/leveros.dev/token",
      LEVER_TRUST_FILE: "/var/run/secrets/leveros.dev/ca.crt",
      LEVER_DRAIN_TOKEN: expect.stringMatching(/^[0-9a-f]{32}$/),
      LEVER_DRAIN_TIMEOUT_MS: "53000",
    });
    expect(variables(applied(hello).agent)["LEVER_DRAIN_TIMEOUT_MS"]).toBe("23000");
  });

  test("runs restricted, whatever the app does", () => {
    const securityContext = {
      runAsNonRoot: true,
      runAsUser: 65_532,
      runAsGroup: 65_532,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
      seccompProfile: { type: "RuntimeDefault" },
    };
    expect(applied(hello).agent["securityContext"]).toEqual(securityContext);
    const { pod, container, agent } = applied(`
template:
  spec:
    securityContext: { runAsUser: 0, fsGroup: 7 }
    containers: [{ name: app, image: a, securityContext: { privileged: true } }]`);
    expect(pod["securityContext"]).toEqual({ runAsUser: 0, fsGroup: 7 });
    expect(container("app")["securityContext"]).toEqual({ privileged: true });
    expect(agent["securityContext"]).toEqual(securityContext);
  });

  // A container has of its pod's security context what it does not say itself: a root's would never be started.
  test.each([
    ["none", {}],
    ["a root's", { runAsUser: 0 }],
    ["a root's, with its group", { runAsUser: 0, runAsGroup: 0, fsGroup: 0 }],
    ["somebody else's", { runAsUser: 1000, runAsNonRoot: true }],
    ["any", { runAsNonRoot: false }],
  ])("by the operator's defaults is started in pods whose security context is %s", (_, ofPod) => {
    const byDefault = { ...settings, ...operatorSettings(["--agent-image=a"], {})?.agent };
    const spec = JSON.stringify({ securityContext: ofPod, containers: [{ name: "app", image: "a" }] });
    const { agent } = applied(`template: { spec: ${spec} }`, undefined, byDefault);
    expect(agent["securityContext"]).toMatchObject({ runAsNonRoot: true, runAsUser: 65_532, runAsGroup: 65_532 });
  });

  test("runs as whom the cluster says, if the operator is told so", () => {
    const { runAsUser: _, ...rest } = settings;
    const free = { ...rest, ...operatorSettings(["--agent-image=a", "--agent-run-as-user=none"], {})?.agent };
    expect(applied(hello, undefined, free).agent["securityContext"]).not.toHaveProperty("runAsUser");
  });

  test("has a token for the operator alone, and a socket in memory that the app cannot replace", () => {
    const { pod, container, agent } = applied(hello);
    expect(pod.volumes).toEqual([
      { name: "lever-agent", emptyDir: { medium: "Memory", sizeLimit: "1Mi" } },
      {
        name: "lever-agent-token",
        projected: {
          sources: [
            { serviceAccountToken: { path: "token", audience: "lever-operator", expirationSeconds: 3600 } },
            { configMap: { name: "lever-trust", items: [{ key: "ca.crt", path: "ca.crt" }] } },
          ],
        },
      },
    ]);
    expect(agent.volumeMounts).toEqual([
      { name: "lever-agent", mountPath: "/run/lever" },
      { name: "lever-agent-token", mountPath: "/var/run/secrets/leveros.dev", readOnly: true },
    ]);
    expect(container("app").volumeMounts).toEqual([{ name: "lever-agent", mountPath: "/run/lever", readOnly: true }]);
  });

  test("answers probes: for itself when it starts and lives, for the app's registration when it is ready", () => {
    expect(applied(hello).agent).toMatchObject({
      startupProbe: { httpGet: { path: "/livez", port: 3838 }, periodSeconds: 1 },
      readinessProbe: { httpGet: { path: "/readyz", port: 3838 } },
      livenessProbe: { httpGet: { path: "/livez", port: 3838 } },
    });
  });

  test("has the resources that the service asks for", () => {
    const resources = { requests: { cpu: "100m" }, limits: { memory: "256Mi" } };
    expect(applied(`${hello}agent: { resources: ${JSON.stringify(resources)} }`).agent["resources"]).toEqual(resources);
  });
});

describe("the app", () => {
  test("is told how it reaches its agent; its own variables come after, and cannot contradict", () => {
    const { container } = applied(`
template:
  spec:
    containers:
      - name: app
        image: a
        env:
          - { name: LEVER_AGENT, value: "unix:///tmp/mine.sock" }
          - { name: WHO, value: "$(LEVER_INSTANCE)" }`);
    expect(container("app").env.map(({ name }) => name)).toEqual([
      "LEVER_AGENT",
      "LEVER_ENVIRONMENT",
      "LEVER_SERVICE",
      "LEVER_INSTANCE",
      "WHO",
    ]);
    expect(variables(container("app"))["LEVER_AGENT"]).toBe("unix:///run/lever/agent.sock");
  });

  test("of variables with one name has the last one, as everywhere", () => {
    const env = "env: [{ name: A, value: '1' }, { name: B, value: b }, { name: A, value: '2' }]";
    const { container } = applied(`
appContainer: app
template: { spec: { containers: [{ name: app, image: a, ${env} }, { name: proxy, image: b, ${env} }] } }`);
    expect(container("app").env.slice(4)).toEqual([
      { name: "B", value: "b" },
      { name: "A", value: "2" },
    ]);
    expect(container("proxy").env).toEqual([
      { name: "B", value: "b" },
      { name: "A", value: "2" },
    ]);
  });

  test("is the named container; others are left alone", () => {
    const others = [
      { name: "proxy", image: "b", lifecycle: { preStop: { sleep: { seconds: 1 } } } },
      { name: "log", image: "c" },
    ];
    const { container } = applied(
      `appContainer: app\ntemplate: { spec: { containers: ${JSON.stringify([...others, { name: "app", image: "a" }])} } }`,
    );
    expect(container("proxy")).toEqual(others[0]);
    expect(container("log")).toEqual(others[1]);
    expect(container("app").env).toHaveLength(4);
  });

  test("is told to end when its agent has drained it, at a path that nobody can guess", () => {
    const { container, agent } = applied(`
template: { spec: { containers: [{ name: app, image: a, lifecycle: { postStart: { exec: { command: [a] } } } }] } }`);
    const token = variables(agent)["LEVER_DRAIN_TOKEN"];
    expect(container("app").lifecycle).toEqual({
      postStart: { exec: { command: ["a"] } },
      preStop: { httpGet: { path: `/drain/${token}`, port: 3838, scheme: "HTTP" } },
    });
    const other = wantedDeployment(observeService(serviceObject(hello, { uid: "other" })), undefined, settings);
    expect(JSON.stringify(other)).not.toContain(token);
    expect(JSON.stringify(applied(hello, undefined, { ...settings, drainKey: "other" }))).not.toContain(token);
  });

  test("keeps a hook of its own", () => {
    const preStop = { exec: { command: ["sleep", "5"] } };
    const { container } = applied(
      `template: { spec: { containers: [{ name: app, image: a, lifecycle: { preStop: ${JSON.stringify(preStop)} } }] } }`,
    );
    expect(container("app").lifecycle).toEqual({ preStop });
  });
});

describe("a Deployment that is there", () => {
  test("is written by its uid", () => {
    expect(applied(hello, stored(applied(hello).object)).object.metadata.uid).toBe("dep-uid");
  });

  test.each([
    ["nobody's", [], ""],
    ["another controller's", [{ apiVersion: "v1", kind: "Other", name: "a", uid: "u", controller: true }], "Other a"],
    [
      "that of a service of the same name that was deleted",
      [{ apiVersion: "v1", kind: "LeverService", name: "hello", uid: "before", controller: true }],
      "LeverService hello",
    ],
    [
      "one that the service owns without controlling it",
      [{ apiVersion: "leveros.dev/v1alpha1", kind: "LeverService", name: "hello", uid: serviceUid }],
      "",
    ],
  ])("and is %s is left alone", (_, ownerReferences, owner) => {
    const found: Deployment = { metadata: { name: "hello", uid: "dep-uid", ownerReferences } };
    expect(want(hello, found)).toEqual({ kind: "clash", owner, isDeleting: false });
    const ending = { metadata: { ...found.metadata, deletionTimestamp: "2026-03-01T12:00:00Z" } };
    expect(want(hello, ending)).toEqual({ kind: "clash", owner, isDeleting: true });
  });

  test("is not made anew while the service is deleted, nor for one that cannot be read", () => {
    const ending = observeService(serviceObject(hello, { deletionTimestamp: new Date() }));
    expect(wantedDeployment(ending, undefined, settings)).toEqual({ kind: "none" });
    expect(want("template: {}")).toEqual({ kind: "none" });
  });
});

describe("an operator of another version", () => {
  const newer: AgentSettings = { ...settings, image: "example.org/lever/agent:0.2.0", operator: "elsewhere:3837" };
  const first = applied(hello);
  const found = stored(first.object);

  test("changes no pods, and says that their agents are old", () => {
    const { object, isAgentOutdated } = applied(hello, found, newer);
    expect(object.spec).toEqual(first.object.spec);
    expect(isAgentOutdated).toBe(true);
    expect(first.isAgentOutdated).toBe(false);
  });

  test("also when the number of instances changes, or what callers may assume", () => {
    const { object, isAgentOutdated } = applied(`${hello}replicas: 5\nownership: {}\nlimits: {}`, found, newer);
    expect(object.spec?.replicas).toBe(5);
    expect(object.spec?.template).toEqual(first.object.spec?.template);
    expect(isAgentOutdated).toBe(true);
  });

  test.each([
    ["the template has changed", hello.replace("1.0.0", "1.0.1")],
    ["the agent's resources have changed", `${hello}agent: { resources: {} }`],
    ["the app's container is named", `${hello}appContainer: app`],
  ])("brings its agent when %s", (_, spec) => {
    const { agent, isAgentOutdated } = applied(spec, found, newer);
    expect(agent.image).toBe(newer.image);
    expect(isAgentOutdated).toBe(false);
  });

  test("brings its agent with `kubectl rollout restart`, once", () => {
    const restarted = structuredClone(found) as { spec: { template: { metadata: { annotations?: object } } } };
    restarted.spec.template.metadata.annotations = { "kubectl.kubernetes.io/restartedAt": "2026-03-01T12:00:00Z" };
    const { agent, object } = applied(hello, restarted as unknown as Deployment, newer);
    expect(agent.image).toBe(newer.image);
    // The annotation stays kubectl's.
    expect(object.spec?.template?.metadata?.annotations).toEqual({ "leveros.dev/app-container": "app" });
    const after = stored(object);
    Object.assign(
      after.spec?.template?.metadata as object,
      restarted.spec.template.metadata.annotations && {
        annotations: restarted.spec.template.metadata.annotations,
      },
    );
    expect(applied(hello, after, { ...newer, image: "example.org/lever/agent:0.3.0" }).agent.image).toBe(newer.image);
  });

  test("brings its agent where somebody has changed the record of the last one", () => {
    for (const text of ["", "{}", "null", '{"container":{"name":"lever-agent"}}', "{"]) {
      const changed = structuredClone(found) as { metadata: { annotations: Record<string, string> } };
      changed.metadata.annotations[injectionAnnotation] = text;
      expect(applied(hello, changed as unknown as Deployment, newer).agent.image).toBe(newer.image);
    }
  });

  test("undoes what others have made of the template", () => {
    const changed = structuredClone(found) as unknown as {
      spec: { template: { spec: { containers: { image: string }[] } } };
    };
    changed.spec.template.spec.containers[0]!.image = "example.org/evil:1";
    expect(applied(hello, changed as unknown as Deployment, newer).object.spec).toEqual(first.object.spec);
  });
});

test("how the agent is put in never changes: it would roll the pods of all services", () => {
  const injection: AgentInjection = {
    labels: { l: "1" },
    annotations: { n: "2" },
    container: { name: "lever-agent", image: "i" },
    volumes: [{ name: "v" }],
    appContainer: "app",
    env: [{ name: "E", value: "e" }],
    volumeMounts: [{ name: "v", mountPath: "/v" }],
    preStop: { sleep: { seconds: 1 } },
  };
  const template = parse(`
metadata: { labels: { a: b }, annotations: { c: d } }
spec:
  nodeSelector: { e: f }
  initContainers: [{ name: setup }]
  containers: [{ name: app, env: [{ name: X }], volumeMounts: [{ name: w, mountPath: /w }] }, { name: other }]
  volumes: [{ name: w }]`);
  expect(injectAgent(template, injection)).toEqual({
    metadata: { labels: { a: "b", l: "1" }, annotations: { c: "d", n: "2" } },
    spec: {
      nodeSelector: { e: "f" },
      initContainers: [{ name: "lever-agent", image: "i" }, { name: "setup" }],
      containers: [
        {
          name: "app",
          env: [{ name: "E", value: "e" }, { name: "X" }],
          volumeMounts: [
            { name: "w", mountPath: "/w" },
            { name: "v", mountPath: "/v" },
          ],
          lifecycle: { preStop: { sleep: { seconds: 1 } } },
        },
        { name: "other" },
      ],
      volumes: [{ name: "w" }, { name: "v" }],
    },
  });
});

describe("for any template", () => {
  const word = fc.stringMatching(/^[a-z][a-z0-9]{0,7}$/);
  const leaf = fc.oneof(fc.string(), fc.integer(), fc.boolean(), fc.constant(null), fc.array(fc.integer()));
  // Names that Lever gives a meaning to are not for chance.
  const free = fc.dictionary(
    word.map((name) => `x${name}`),
    fc.oneof(leaf, fc.dictionary(word, leaf)),
  );
  const container = (name: string) =>
    fc
      .record({
        free,
        env: fc.uniqueArray(fc.record({ name: word, value: fc.string() }), { selector: ({ name: n }) => n }),
        volumeMounts: fc.array(fc.record({ name: word, mountPath: word.map((path) => `/${path}`) })),
      })
      .map(({ free: fields, ...rest }) => ({ name, image: "a", ...fields, ...rest }));
  const template = fc
    .record({
      labels: fc.dictionary(word, word),
      annotations: fc.dictionary(word, word),
      pod: free,
      containers: fc.tuple(container("app"), container("other")),
      initContainers: fc.tuple(container("setup")),
      volumes: fc.uniqueArray(fc.record({ name: word }), { selector: ({ name }) => name }),
    })
    .map(({ labels, annotations, pod, ...lists }) => ({
      metadata: { labels, annotations },
      spec: { ...pod, ...lists },
    }));

  const withoutNulls = (value: unknown): unknown =>
    JSON.parse(JSON.stringify(value, (_, field) => (field === null ? undefined : field)));

  test("what the user wrote is there, and nothing but what is said to be added", () => {
    fc.assert(
      fc.property(template, (written) => {
        const { object, pod } = applied(JSON.stringify({ appContainer: "app", template: written }));
        const user = withoutNulls(written) as { metadata: object; spec: PodSpec };
        expect(object.spec?.template?.metadata).toMatchObject(user.metadata);
        // What is added taken away again, what is left is what was written.
        const [agent, ...initContainers] = pod.initContainers;
        const [app, ...others] = pod.containers as [Container, ...Container[]];
        const { lifecycle, ...rest } = app;
        expect(agent?.name).toBe("lever-agent");
        expect(lifecycle).toHaveProperty("preStop");
        expect({
          ...pod,
          initContainers,
          containers: [{ ...rest, env: app.env.slice(4), volumeMounts: app.volumeMounts.slice(0, -1) }, ...others],
          volumes: pod.volumes.slice(0, -2),
        }).toEqual(user.spec);
      }),
      { numRuns: 25 },
    );
  });

  test("applying it again writes the same", () => {
    fc.assert(
      fc.property(template, fc.nat(9), (written, replicas) => {
        const spec = JSON.stringify({ appContainer: "app", replicas, template: written });
        const first = applied(spec);
        const { uid, ...metadata } = applied(spec, stored(first.object)).object.metadata;
        expect(uid).toBe("dep-uid");
        expect(metadata).toEqual(first.object.metadata);
        expect(applied(spec, stored(first.object)).object.spec).toEqual(first.object.spec);
        // In whatever order the fields come.
        const reversed = JSON.stringify(JSON.parse(spec), (_, field: unknown) =>
          typeof field === "object" && field !== null && !Array.isArray(field)
            ? Object.fromEntries(Object.entries(field).reverse())
            : field,
        );
        expect(applied(reversed).object.metadata.annotations?.[templateHashAnnotation]).toBe(
          first.object.metadata.annotations?.[templateHashAnnotation],
        );
      }),
      { numRuns: 25 },
    );
  });
});
