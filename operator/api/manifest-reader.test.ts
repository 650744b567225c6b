import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { eachField, type FieldSchema, serviceFieldSchema } from "./field-schema.ts";
import { type InvalidManifest, invalidManifests } from "./invalid-manifests.fixture.ts";
import { formatProblem, nearestName } from "./manifest-problem.ts";
import { type ManifestSet, problemsMax, readManifests } from "./manifest-reader.ts";

function read(content: string | Uint8Array, file = "chat.yaml"): ManifestSet {
  return readManifests([{ file, content }]);
}

const minimal = `apiVersion: leveros.dev/v1alpha1
kind: LeverService
metadata: { name: chat }
spec: { template: { spec: { containers: [{ name: app }] } } }
`;

/** The manifest of the documentation, with the fields of this release. */
const full = `apiVersion: leveros.dev/v1alpha1
kind: LeverService                     # short name lsvc, category lever, namespaced
metadata:
  name: chat                           # DNS label
  namespace: shop                      # the environment
  annotations:                         # read by \`lever dev\` only
    leveros.dev/dev-command: node chat.ts
    leveros.dev/dev-directory: .       # relative to this file
spec:
  replicas: 3
  appContainer: app
  template:
    spec:
      serviceAccountName: chat
      containers:
        - { name: app, image: example.org/chat:1.4.2, command: [node, /app/chat.js], ports: [{ containerPort: 80 }] }
        - { name: proxy, image: example.org/proxy:1 }
  methods:                             # a map by name; "*" is the default
    - { name: "*", timeoutMilliseconds: 30000 }
    - { name: history, idempotent: true }
  limits: { argsBytes: 1Mi, resultBytes: 524288, messageBytes: 16Mi, inFlightPerInstance: 1000, channelsPerInstance: 10000 }
`;

describe("a valid manifest", () => {
  test("gets every default", () => {
    const { services, problems, skipped } = read(minimal);
    expect(problems).toEqual([]);
    expect(skipped).toEqual([]);
    expect(services).toEqual([
      {
        apiVersion: "leveros.dev/v1alpha1",
        kind: "LeverService",
        metadata: { name: "chat", namespace: "dev", annotations: {} },
        spec: {
          replicas: 1,
          template: { spec: { containers: [{ name: "app" }] } },
          access: { callers: [], gateway: { expose: "None" } },
          methods: [],
          limits: {
            argsBytes: 1024 ** 2,
            resultBytes: 1024 ** 2,
            messageBytes: 16 * 1024 ** 2,
            inFlightPerInstance: 1000,
            channelsPerInstance: 10_000,
          },
        },
      },
    ]);
  });

  test("keeps what it says, and the pod template's other fields", () => {
    const { services, problems } = read(full);
    expect(problems).toEqual([]);
    const [service] = services;
    expect(service?.metadata).toEqual({
      name: "chat",
      namespace: "shop",
      annotations: { "leveros.dev/dev-command": "node chat.ts", "leveros.dev/dev-directory": "." },
    });
    expect(service?.spec.replicas).toBe(3);
    expect(service?.spec.methods).toEqual([
      { name: "*", timeoutMilliseconds: 30_000 },
      { name: "history", idempotent: true },
    ]);
    expect(service?.spec.limits.resultBytes).toBe(524_288);
    expect(service?.spec.template.spec).toMatchObject({
      serviceAccountName: "chat",
      containers: [{ ports: [{ containerPort: 80 }] }, { image: "example.org/proxy:1" }],
    });
  });

  test.each([
    ["zero replicas", "replicas: 0"],
    ["the most replicas", "replicas: 1000"],
    ["the least time", "methods: [{ name: a, timeoutMilliseconds: 1 }]"],
    ["the most time", "methods: [{ name: a, timeoutMilliseconds: 3600000 }]"],
    ["the smallest limits", "limits: { argsBytes: 1Ki, resultBytes: 1024, messageBytes: 1Ki, inFlightPerInstance: 1 }"],
    ["the largest limits", "limits: { argsBytes: 16Mi, resultBytes: 16777216, messageBytes: 64Mi }"],
    ["the most calls and channels", "limits: { inFlightPerInstance: 5000, channelsPerInstance: 10000 }"],
    [
      "the least ownership",
      "ownership: { slots: 1, onUncertain: Fail, onLapse: Kill, leaseSeconds: 15, idleSeconds: 1 }",
    ],
    ["the most ownership", "ownership: { slots: 4096, onUncertain: Serve, leaseSeconds: 300, idleSeconds: 604800 }"],
    ["ownership as it comes", "ownership: {}"],
    ["access as it comes", "access: {}"],
    ["access of nobody", "access: { callers: [], gateway: {} }"],
    ["access of others", "access: { callers: [{ namespace: billing }, { namespace: crm, service: people }] }"],
    ["access of everybody", "access: { gateway: { expose: Public } }"],
    ["access to one method", "access: { gateway: { expose: Public, methods: [history] } }"],
    ["the agent as it comes", "agent: {}\n  replicas: 1"],
    [
      "the agent's resources",
      "agent: { resources: { requests: { cpu: 20m, memory: 64Mi }, limits: { memory: 128Mi } } }",
    ],
    [
      "equal requests and limits",
      'agent: { resources: { requests: { cpu: "0.5" }, limits: { cpu: 500m, memory: 64Mi } } }',
    ],
    ["a field without a value", "replicas:\n  limits:\n  methods:"],
    ["a method's name of any kind", "methods: [{ name: joinChan }, { name: $a_1 }, { name: '*' }]"],
  ])("%s", (_, fields) => {
    const text = `${minimal.replace(/spec: \{ (.*) \}\n$/, "spec:\n  $1\n")}  ${fields}\n`;
    const { services, problems } = read(text);
    expect(problems.map(formatProblem)).toEqual([]);
    expect(services).toHaveLength(1);
  });

  test("as it comes back from a cluster", () => {
    const { services, problems } = read(`apiVersion: v1
kind: List
metadata: { resourceVersion: "" }
items:
- apiVersion: leveros.dev/v1alpha1
  kind: LeverService
  metadata:
    creationTimestamp: "2026-01-01T00:00:00Z"
    generation: 1
    managedFields: [{ manager: kubectl }]
    name: chat
    namespace: shop
    resourceVersion: "17"
    uid: 5b3d0a4e-7f6a-4a77-8a9d-0a4c1f8f6d11
  spec:
    template:
      metadata: { creationTimestamp: null }
      spec: { containers: [{ name: app, resources: {} }] }
  status: { replicas: 1 }
- apiVersion: v1
  kind: ConfigMap
  metadata: { name: settings, namespace: shop }
  data: { A: a }
`);
    expect(problems).toEqual([]);
    expect(services.map((service) => service.metadata)).toEqual([{ name: "chat", namespace: "shop", annotations: {} }]);
    expect(services[0]).not.toHaveProperty("status");
  });

  test("with a pod template that Kubernetes uses more of", () => {
    const pod =
      "{ terminationGracePeriodSeconds: 10, hostNetwork: false, volumes: [{ name: data, emptyDir: {} }], " +
      "initContainers: [{ name: setup, image: a, restartPolicy: Always }], " +
      "containers: [{ name: app, lifecycle: { preStop: { sleep: { seconds: 1 } } } }] }";
    const { services, problems } = read(minimal.replace("{ containers: [{ name: app }] }", pod));
    expect(problems.map(formatProblem)).toEqual([]);
    expect(services[0]?.spec.template.spec).toMatchObject({
      initContainers: [{ restartPolicy: "Always" }],
      volumes: [{ emptyDir: {} }],
      containers: [{ lifecycle: { preStop: { sleep: { seconds: 1 } } } }],
    });
  });

  test("as JSON, with a byte order mark, with Windows' line ends", () => {
    const json = JSON.stringify({
      apiVersion: "leveros.dev/v1alpha1",
      kind: "LeverService",
      metadata: { name: "chat" },
      spec: { template: { spec: { containers: [{ name: "app" }] } } },
    });
    for (const text of [json, `\ufeff${minimal}`, minimal.replaceAll("\n", "\r\n")]) {
      const { services, problems } = read(text);
      expect(problems.map(formatProblem)).toEqual([]);
      expect(services).toHaveLength(1);
    }
  });

  test("with anchors, aliases and merges, whose problems have the place of what is written", () => {
    const text = `apiVersion: leveros.dev/v1alpha1
kind: LeverService
metadata: { name: chat }
spec:
  template:
    spec:
      containers:
        - &base
          name: a
          env: [{ name: A, value: a }]
        - <<: *base
          name: b
  appContainer: a
`;
    const { services, problems } = read(text);
    expect(problems.map(formatProblem)).toEqual([]);
    const env = [{ name: "A", value: "a" }];
    expect(services[0]?.spec.template.spec.containers).toEqual([
      { name: "a", env },
      { name: "b", env },
    ]);
    const [first, second] = read(text.replace("value: a", "value: 1")).problems;
    expect(first).toMatchObject({ path: "spec.template.spec.containers[0].env[0].value", line: 10, column: 35 });
    expect(second).toMatchObject({ path: "spec.template.spec.containers[1].env[0].value", line: 10, column: 35 });
  });
});

describe("an invalid manifest", () => {
  test.each(invalidManifests.map((entry) => [entry.rule, entry.path, entry] as const))("%s: %s", (_, __, invalid) => {
    const { services, problems } = read(invalid.text);
    expect(services).toEqual([]);
    expect(problems.map(({ rule, path, line, column, file }) => ({ rule, path, line, column, file }))).toEqual([
      { rule: invalid.rule, path: invalid.path, line: invalid.line, column: invalid.column, file: "chat.yaml" },
    ]);
    for (const text of [problems[0]?.found, problems[0]?.expected, problems[0]?.remedy]) {
      expect(text).toMatch(/^[^\n]+$/);
    }
    expect(formatProblem(problems[0]!)).not.toMatch(/undefined|NaN|\[object|\.\.| {2}/);
  });

  const casePaths = new Set(invalidManifests.map((entry) => entry.path.replace(/\[\d+\]/g, "[]")));
  const fields = [...eachField(serviceFieldSchema)];

  test("is there for every field", () => {
    expect(fields.length).toBeGreaterThan(40);
    expect(fields.map((field) => field.path).filter((path) => !casePaths.has(path))).toEqual([]);
  });

  test("is there for every cross-field rule", () => {
    const rules = new Set(
      [serviceFieldSchema, ...fields.map((field) => field.schema)].flatMap((schema) => rulesOf(schema)),
    );
    expect(rules.size).toBeGreaterThan(7);
    const caseRules = new Set(invalidManifests.map((entry) => entry.rule));
    expect([...rules].filter((rule) => !caseRules.has(rule))).toEqual([]);
  });

  test("is there for an unknown field in every closed object", () => {
    const closed = [{ path: "", schema: serviceFieldSchema }, ...fields].flatMap(({ path, schema }) => {
      const isList = schema.items !== undefined;
      return (schema.items ?? schema).additionalProperties === false ? [isList ? `${path}[]` : path] : [];
    });
    expect(closed.length).toBeGreaterThan(8);
    const unknown = new Set(
      invalidManifests
        .filter((entry) => entry.rule === "unknown-field")
        .map((entry) => entry.path.replace(/\[\d+\]/g, "[]").replace(/(^|\.)\w+$/, "")),
    );
    expect(closed.filter((path) => !unknown.has(path))).toEqual([]);
  });

  test("is there for every bound of every field, and breaks it", () => {
    const missing = fields.flatMap(({ path, schema }) => boundsOf(path, schema));
    // It is filled in.
    expect(missing).toEqual(["metadata.namespace required"]);

    function boundsOf(path: string, schema: FieldSchema): string[] {
      const cases = invalidManifests.filter((entry) => entry.path.replace(/\[\d+\]/g, "[]") === path);
      const values = cases.filter((entry) => entry.rule === "field-value").map((entry) => valueAtPath(entry));
      const broken: Record<string, (bound: never, value: never) => boolean> = {
        minLength: (bound: number, value: string) => value.length < bound,
        maxLength: (bound: number, value: string) => value.length > bound,
        pattern: (bound: string, value: string) => value.length > 0 && !new RegExp(bound).test(value),
        minimum: (bound: number, value: number) => value < bound,
        maximum: (bound: number, value: number) => value > bound,
        minItems: (bound: number, value: unknown[]) => value.length < bound,
        maxItems: (bound: number, value: unknown[]) => value.length > bound,
        enum: (bound: string[], value: string) => !bound.includes(value),
      };
      const bounds = Object.entries(schema.anyOf ? Object.assign({}, ...schema.anyOf) : schema).filter(
        ([keyword, bound]) => broken[keyword] && Math.abs(Number(bound)) !== Number.MAX_SAFE_INTEGER,
      );
      const untried = bounds.filter(
        ([keyword, bound]) => !values.some((value) => broken[keyword]!(bound as never, value as never)),
      );
      const isTyped = (schema.const ?? schema.enum) !== undefined || cases.some((entry) => entry.rule === "field-type");
      const required = (schema.items ?? schema).required ?? [];
      const parent = schema.items ? `${path}[]` : path;
      const untold = required.filter(
        (name) =>
          !invalidManifests.some(
            (entry) => entry.rule === "field-required" && entry.path.replace(/\[\d+\]/g, "[]") === `${parent}.${name}`,
          ),
      );
      return [
        ...untried.map(([keyword]) => `${path} ${keyword}`),
        ...(isTyped ? [] : [`${path} type`]),
        ...untold.map((name) => `${parent}.${name} required`),
      ];
    }

    function valueAtPath({ path, text }: InvalidManifest): unknown {
      const steps = path.split(/[.[\]]+/).filter(Boolean);
      return steps.reduce((value, step) => (value as Record<string, unknown>)[step], parse(text));
    }
  });

  test("has a description for every field", () => {
    expect(fields.filter((field) => !field.schema.description?.endsWith(".")).map((field) => field.path)).toEqual([]);
  });

  function rulesOf(schema: FieldSchema): string[] {
    return [...(schema.rules ?? []), ...(schema.items?.rules ?? [])].map((rule) => rule.name);
  }
});

describe("a problem's text", () => {
  function only(text: string): string {
    const { problems } = read(text);
    expect(problems).toHaveLength(1);
    return formatProblem(problems[0]!);
  }

  test("names place, field, what was found, what was expected and what to do", () => {
    expect(only(full.replace("replicas: 3", "replicas: -1"))).toBe(
      "chat.yaml:10:13 spec.replicas: found -1, expected an integer from 0 to 1000. Correct the value. Number of instances.",
    );
  });

  test("suggests the field that was meant", () => {
    expect(only(full.replace("appContainer: app", "apContainer: app").replace(/\n *- \{ name: proxy.*/, ""))).toMatch(
      /^chat\.yaml:11:3 spec\.apContainer: found the unknown field apContainer, .* Did you mean appContainer\?$/,
    );
    expect(nearestName("Replicas", ["replicas", "template"])).toBe("replicas");
    expect(nearestName("timeoutMs", ["name", "timeoutMilliseconds", "idempotent"])).toBe(undefined);
  });

  test("says why a plain scalar is no string", () => {
    expect(only(full.replace("node, /app", "yes, /app"))).toContain(
      'found true, expected a string. Without quotes, yes is a boolean in YAML; write "yes".',
    );
  });

  test("names the first of two services of one name, in another file too", () => {
    const { services, problems } = readManifests([
      { file: "a.yaml", content: full },
      { file: "b.yaml", content: full.replace("replicas: 3", "replicas: 5") },
      { file: "c.yaml", content: full.replace("namespace: shop", "namespace: other") },
    ]);
    expect(services.map((service) => service.metadata.namespace)).toEqual(["shop", "other"]);
    expect(problems.map(formatProblem)).toEqual([
      expect.stringMatching(
        /^b\.yaml:4:9 metadata\.name: found a second LeverService chat in shop; the first is at a\.yaml:4:9, /,
      ),
    ]);
  });

  test("is one line of bounded length whatever the manifest holds", () => {
    const evil = `\\e[31m\\n\\u202e${"x".repeat(10_000)}`;
    for (const text of [
      full.replace("replicas: 3", `"${evil}": 3`),
      full.replace("replicas: 3", `replicas: "${evil}"`),
      minimal.replace("kind: LeverService", `kind: "${evil}"`),
      minimal.replace("name: chat", `name: "${evil}"`),
    ]) {
      const line = only(text);
      expect(line).not.toMatch(/[\p{Cc}\p{Cf}]/u);
      expect(line.length).toBeLessThan(600);
    }
  });

  test("never shows what a Secret holds", () => {
    const secret = "apiVersion: v1\nkind: Secret\nmetadata: { name: s }\n";
    for (const data of ["data: { k: '*hunter2*' }", "stringData: { k: [hunter2] }", "data: { k: { hunter2: 1 } }"]) {
      const { secrets, problems } = read(secret + data);
      expect(secrets).toEqual([]);
      expect(problems).toHaveLength(1);
      expect(JSON.stringify(problems)).not.toContain("hunter2");
    }
  });

  test("stands for more where there are too many", () => {
    const { problems } = read(full.replace("[node, /app/chat.js]", `[${"1, ".repeat(1000)}]`));
    expect(problems).toHaveLength(problemsMax);
    expect(problems.at(-1)).toMatchObject({ rule: "too-many-problems", found: "at least 2 more problems" });
  });
});

describe("several documents", () => {
  test("that the operator writes are skipped, as any other kind", () => {
    const { skipped, problems } = read(
      `${minimal}---\napiVersion: leveros.dev/v1alpha1\nkind: LeverEndpointTable\nmetadata: { name: chat }\nversion: 7\n`,
    );
    expect(problems).toEqual([]);
    expect(skipped).toMatchObject([{ kind: "LeverEndpointTable", name: "chat" }]);
  });

  test("of other kinds are skipped, each with its line; empty ones are nothing", () => {
    const { services, skipped, problems } = read(
      `# only a comment\n---\n---\n${minimal}---\napiVersion: v1\nkind: Service\nmetadata: { name: web }\nspec: { a: 1, a: 2 }\n---\n# end\n---\napiVersion: apps/v1\nkind: Deployment\n`,
    );
    expect(problems).toEqual([]);
    expect(services).toHaveLength(1);
    expect(skipped).toEqual([
      { kind: "Service", name: "web", file: "chat.yaml", line: 9, column: 1 },
      { kind: "Deployment", name: "", file: "chat.yaml", line: 16, column: 1 },
    ]);
  });

  test("with one bad among them give the good ones, and problems in the order of the file", () => {
    const bad = minimal.replace("name: chat", "name: Bad").replace("name: app", "name: App");
    const { services, problems } = read(`${minimal}---\n${bad}---\n${minimal.replace("chat", "other")}---\na: [\n`);
    expect(services.map((service) => service.metadata.name)).toEqual(["chat", "other"]);
    expect(problems.map((problem) => [problem.rule, problem.line])).toEqual([
      ["field-value", 8],
      ["field-value", 9],
      ["yaml-syntax", 17],
    ]);
  });

  test("keep ConfigMaps and Secrets", () => {
    const { configMaps, secrets, skipped, problems } = read(
      `apiVersion: v1
kind: ConfigMap
metadata: { name: c, namespace: shop }
data: { a: "1", b: "", c: }
---
apiVersion: v1
kind: Secret
metadata: { name: s }
data: { both: b2xk, bytes: /w==, text: "aMOk\\n bGxv" }
stringData: { both: new }
`.replace("\\n ", ""),
    );
    expect(problems.map(formatProblem)).toEqual([]);
    expect(skipped).toEqual([]);
    expect(configMaps).toMatchObject([{ kind: "ConfigMap", name: "c", namespace: "shop", place: { line: 1 } }]);
    expect([...(configMaps[0]?.data ?? [])]).toEqual([
      ["a", "1"],
      ["b", ""],
      ["c", ""],
    ]);
    expect(secrets).toMatchObject([{ kind: "Secret", name: "s", namespace: "dev" }]);
    expect([...(secrets[0]?.data ?? [])]).toEqual([
      ["both", "new"],
      ["bytes", undefined],
      ["text", "hällo"],
    ]);
  });

  test.each([
    ["field-type", "data.a", "kind: ConfigMap\nmetadata: { name: c }\ndata: { a: 1 }\n"],
    ["field-type", "data", "kind: ConfigMap\nmetadata: { name: c }\ndata: a\n"],
    ["field-required", "metadata.name", "kind: ConfigMap\ndata: {}\n"],
    ["field-type", "metadata.name", "kind: Secret\nmetadata: { name: 7 }\n"],
    ["not-base64", "data.a", "kind: Secret\nmetadata: { name: s }\ndata: { a: plain text }\n"],
    ["not-base64", "data.a", "kind: Secret\nmetadata: { name: s }\ndata: { a: YQ }\n"],
    ["field-type", "items", "kind: List\nitems: {}\n"],
    ["not-a-map", "items[0]", "kind: List\nitems: [a]\n"],
    ["no-kind", "items[1].kind", "kind: List\nitems: [{ apiVersion: v1, kind: Pod }, { apiVersion: v1 }]\n"],
  ])("%s of other objects: %s", (rule, path, text) => {
    const { configMaps, secrets, problems } = read(`apiVersion: v1\n${text}`);
    expect([...configMaps, ...secrets]).toEqual([]);
    expect(problems.map((problem) => [problem.rule, problem.path])).toEqual([[rule, path]]);
  });

  test("use the given namespace where they name none", () => {
    const { services } = readManifests([{ file: "a", content: minimal }], { namespace: "staging" });
    expect(services[0]?.metadata.namespace).toBe("staging");
  });
});
