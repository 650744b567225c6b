/**
 * Manifests of `LeverService` that are refused, each with the rule and the field that it breaks and where. The manifest
 * reader is tested with them; a cluster with the CRD has to refuse the same ones, unless `onlyLocal` says why not.
 *
 * `«` stands before the place of the problem and is no part of the manifest.
 */

export interface InvalidManifest {
  readonly rule: string;
  readonly path: string;
  readonly text: string;
  readonly line: number;
  readonly column: number;
  /** Why the API server does not refuse it. */
  readonly onlyLocal?: string;
}

function at(rule: string, path: string, marked: string, onlyLocal?: string): InvalidManifest {
  const before = marked.slice(0, marked.indexOf("«"));
  if (marked.split("«").length !== 2) throw new Error(`one « is needed in ${marked}`);
  const line = before.split("\n").length;
  const column = before.length - before.lastIndexOf("\n");
  return { rule, path, text: marked.replace("«", ""), line, column, ...(onlyLocal ? { onlyLocal } : {}) };
}

const head = "apiVersion: leveros.dev/v1alpha1\nkind: LeverService\n";
const template = "template: { spec: { containers: [{ name: app }] } }";

const whole = (rule: string, path: string, text: string) => at(rule, path, text);
const inMetadata = (rule: string, path: string, metadata: string, onlyLocal?: string) =>
  at(rule, path, `${head}metadata: ${metadata}\nspec: { ${template} }\n`, onlyLocal);
const inSpec = (rule: string, path: string, spec: string, onlyLocal?: string) =>
  at(rule, path, `${head}metadata: { name: chat }\nspec:\n  ${template}\n  ${spec}\n`, onlyLocal);
const inTemplate = (rule: string, path: string, text: string) =>
  at(rule, `spec.template${path}`, `${head}metadata: { name: chat }\nspec:\n  template: ${text}\n`);
const inContainer = (rule: string, path: string, fields: string) =>
  at(
    rule,
    `spec.template.spec.containers[0]${path}`,
    `${head}metadata: { name: chat }\nspec:\n  template:\n    spec:\n      containers:\n        - name: app\n          ${fields}\n`,
  );

const longName = "a".repeat(64);

export const invalidManifests: readonly InvalidManifest[] = [
  whole("wrong-api-version", "apiVersion", `apiVersion: «leveros.dev/v1\nkind: LeverService\nmetadata: { name: a }\n`),
  whole("wrong-api-version", "apiVersion", `apiVersion: «v1\nkind: LeverService\nmetadata: { name: a }\n`),
  whole("unknown-kind", "kind", "apiVersion: leveros.dev/v1alpha1\nkind: «LeverServcie\nmetadata: { name: a }\n"),
  whole("unknown-kind", "kind", "apiVersion: leveros.dev/v1alpha1\nkind: «Chat\nmetadata: { name: a }\n"),
  whole("field-required", "metadata", `«${head}spec: { ${template} }\n`),
  whole("field-type", "metadata", `${head}metadata: «chat\nspec: { ${template} }\n`),
  whole("field-required", "spec", `«${head}metadata: { name: chat }\n`),
  whole("field-required", "spec", `${head}metadata: { name: chat }\nspec:«\n`),
  whole("field-type", "spec", `${head}metadata: { name: chat }\nspec: «[]\n`),
  whole("unknown-field", "specs", `${head}metadata: { name: chat }\n«specs: {}\nspec: { ${template} }\n`),

  inMetadata("field-required", "metadata.name", "«{ labels: { app: chat } }"),
  inMetadata("field-value", "metadata.name", "{ name: «Chat }"),
  inMetadata("field-value", "metadata.name", "{ name: «-chat }"),
  inMetadata("field-value", "metadata.name", "{ name: «chat.room }"),
  inMetadata("field-value", "metadata.name", `{ name: «${longName} }`),
  inMetadata("field-value", "metadata.name", '{ name: «"" }'),
  inMetadata("field-type", "metadata.name", "{ name: «7 }"),
  inMetadata("field-value", "metadata.namespace", "{ name: chat, namespace: «my_shop }"),
  inMetadata("field-value", "metadata.namespace", `{ name: chat, namespace: «${longName} }`),
  inMetadata(
    "field-value",
    "metadata.namespace",
    '{ name: chat, namespace: «"" }',
    "an empty namespace is none to the API server, which takes the one of the request",
  ),
  inMetadata("field-type", "metadata.namespace", "{ name: chat, namespace: «[shop] }"),
  inMetadata("field-type", "metadata.labels", "{ name: chat, labels: «[a] }"),
  inMetadata("field-type", "metadata.labels.tier", "{ name: chat, labels: { tier: «1 } }"),
  inMetadata("field-type", "metadata.annotations", "{ name: chat, annotations: «none }"),
  inMetadata("field-type", "metadata.annotations.note", "{ name: chat, annotations: { note: «true } }"),
  inMetadata("unknown-field", "metadata.nmae", "{ name: chat, «nmae: chat }"),
  inMetadata(
    "unknown-annotation",
    'metadata.annotations["leveros.dev/dev-comand"]',
    "{ name: chat, annotations: { «leveros.dev/dev-comand: node chat.ts } }",
    "annotations are free there, and only `lever dev` reads this one",
  ),

  inSpec("field-value", "spec.replicas", "replicas: «-1"),
  inSpec("field-value", "spec.replicas", "replicas: «1001"),
  inSpec("field-type", "spec.replicas", "replicas: «1.5"),
  inSpec("field-type", "spec.replicas", 'replicas: «"3"'),
  inSpec("field-type", "spec.appContainer", "appContainer: «1"),
  inSpec("field-value", "spec.appContainer", "appContainer: «App"),
  inSpec("field-value", "spec.appContainer", 'appContainer: «""'),
  inSpec("field-value", "spec.appContainer", `appContainer: «${longName}`),
  inSpec("app-container-exists", "spec.appContainer", "appContainer: «chat"),
  inSpec("unknown-field", "spec.replica", "«replica: 3"),
  inSpec("unknown-field", "spec.scaling", "«scaling: { min: 0, max: 20 }"),

  whole("field-required", "spec.template", `${head}metadata: { name: chat }\nspec: «{}\n`),
  whole("field-type", "spec.template", `${head}metadata: { name: chat }\nspec: { template: «app }\n`),
  inTemplate("field-required", ".spec", "«{ metadata: {} }"),
  inTemplate("field-type", ".spec", "{ spec: «app }"),
  inTemplate("unknown-field", ".containers", "{ «containers: [], spec: { containers: [{ name: app }] } }"),
  inTemplate("field-type", ".metadata", "{ metadata: «app, spec: { containers: [{ name: app }] } }"),
  inTemplate("field-type", ".metadata.labels", "{ metadata: { labels: «[] }, spec: { containers: [{ name: app }] } }"),
  inTemplate(
    "field-type",
    ".metadata.labels.a",
    "{ metadata: { labels: { a: «1 } }, spec: { containers: [{ name: app }] } }",
  ),
  inTemplate(
    "field-type",
    ".metadata.annotations",
    "{ metadata: { annotations: «1 }, spec: { containers: [{ name: app }] } }",
  ),
  ...["initContainers", "volumes"].flatMap((list) => {
    const inList = (rule: string, field: string, items: string) =>
      inTemplate(rule, `.spec.${list}${field}`, `{ spec: { containers: [{ name: app }], ${list}: ${items} } }`);
    const max = list === "volumes" ? 128 : 32;
    return [
      inList("field-type", "", "«{ name: setup }"),
      inList("field-value", "", `«[${Array.from({ length: max + 1 }, (_, i) => `{ name: n${i} }`).join(", ")}]`),
      inList("field-type", "[0]", "[«setup]"),
      inList("field-required", "[0].name", "[«{ image: a }]"),
      inList("field-value", "[0].name", "[{ name: «my_setup }]"),
      inList("field-value", "[0].name", '[{ name: «"" }]'),
      inList("field-value", "[0].name", `[{ name: «${longName} }]`),
      inList("field-type", "[0].name", "[{ name: «1 }]"),
      inList("list-map", "[1].name", "[{ name: setup }, { name: «setup }]"),
    ];
  }),
  inTemplate("agent-container-name", ".spec.containers", "{ spec: { containers: «[{ name: lever-agent }] } }"),
  inTemplate(
    "agent-init-container-name",
    ".spec.initContainers",
    "{ spec: { containers: [{ name: app }], initContainers: «[{ name: a }, { name: lever-agent }] } }",
  ),
  ...["lever-agent", "lever-agent-token"].map((name) =>
    inTemplate(
      "agent-volume-name",
      ".spec.volumes",
      `{ spec: { containers: [{ name: app }], volumes: «[{ name: data }, { name: ${name}, emptyDir: {} }] } }`,
    ),
  ),
  inTemplate("no-host-network", ".spec.hostNetwork", "{ spec: { containers: [{ name: app }], hostNetwork: «true } }"),
  inTemplate("field-type", ".spec.hostNetwork", '{ spec: { containers: [{ name: app }], hostNetwork: «"false" } }'),
  ...[
    ["grace-above-drain", "«9"],
    ["grace-above-drain", "«0"],
    ["field-value", "«-1"],
    ["field-value", "«2147483648"],
    ["field-type", "«30s"],
    ["field-type", "«12.5"],
  ].map(([rule, grace]) =>
    inTemplate(
      rule as string,
      ".spec.terminationGracePeriodSeconds",
      `{ spec: { containers: [{ name: app }], terminationGracePeriodSeconds: ${grace} } }`,
    ),
  ),
  inTemplate("field-required", ".spec.containers", "{ spec: «{ volumes: [] } }"),
  inTemplate("field-type", ".spec.containers", "{ spec: { containers: «{ name: app } } }"),
  inTemplate("field-value", ".spec.containers", "{ spec: { containers: «[] } }"),
  inTemplate(
    "field-value",
    ".spec.containers",
    `{ spec: { containers: «[${Array.from({ length: 33 }, (_, i) => `{ name: c${i} }`).join(", ")}] } }`,
  ),
  inTemplate("list-map", ".spec.containers[1].name", "{ spec: { containers: [{ name: app }, { name: «app }] } }"),
  at(
    "app-container-needed",
    "spec.appContainer",
    `${head}metadata: { name: chat }\nspec:\n  «template: { spec: { containers: [{ name: a }, { name: b }] } }\n`,
  ),
  at(
    "app-container-exists",
    "spec.appContainer",
    `${head}metadata: { name: chat }\nspec:\n  appContainer: «c\n  template: { spec: { containers: [{ name: a }, { name: b }] } }\n`,
  ),

  inTemplate("field-type", ".spec.containers[0]", "{ spec: { containers: [«app] } }"),
  inTemplate("field-required", ".spec.containers[0].name", "{ spec: { containers: [«{ image: a }] } }"),
  inTemplate("field-value", ".spec.containers[0].name", "{ spec: { containers: [{ name: «my_app }] } }"),
  inTemplate("field-value", ".spec.containers[0].name", '{ spec: { containers: [{ name: «"" }] } }'),
  inTemplate("field-value", ".spec.containers[0].name", `{ spec: { containers: [{ name: «${longName} }] } }`),
  inTemplate("field-type", ".spec.containers[0].name", "{ spec: { containers: [{ name: «5 }] } }"),
  inContainer("field-type", ".image", "image: «1.4"),
  inContainer("field-value", ".image", 'image: «""'),
  inContainer("field-type", ".command", "command: «node chat.ts"),
  inContainer("field-type", ".command[1]", "command: [node, «5]"),
  inContainer("field-type", ".args", "args: «-v"),
  inContainer("field-type", ".args[0]", "args: [«yes]"),
  inContainer("field-type", ".env", "env: «{ A: a }"),
  inContainer("field-value", ".env", `env: «[${Array.from({ length: 1001 }, (_, i) => `{ name: V${i} }`).join(", ")}]`),
  inContainer("field-type", ".env[0]", "env: [«A=a]"),
  inContainer("field-required", ".env[0].name", "env: [«{ value: a }]"),
  inContainer("field-value", ".env[0].name", 'env: [{ name: «"A=B" }]'),
  inContainer("field-value", ".env[0].name", "env: [{ name: «Grüße }]"),
  inContainer("field-value", ".env[0].name", 'env: [{ name: «"" }]'),
  inContainer("field-value", ".env[0].name", `env: [{ name: «${"V".repeat(513)} }]`),
  inContainer("field-type", ".env[0].name", "env: [{ name: «y, value: a }]"),
  inContainer("field-type", ".env[0].value", "env: [{ name: PORT, value: «8080 }]"),
  inContainer("field-type", ".env[0].value", "env: [{ name: DEBUG, value: «on }]"),
  inContainer("field-type", ".env[0].value", "env: [{ name: MODE, value: «0644 }]"),
  inContainer("unknown-field", ".env[0].vale", "env: [{ name: A, «vale: a }]"),
  inContainer("field-type", ".env[0].valueFrom", "env: [{ name: A, valueFrom: «b }]"),
  inContainer(
    "env-value-or-source",
    ".env[0].valueFrom",
    "env: [{ name: A, value: a, valueFrom: «{ configMapKeyRef: { name: m, key: k } } }]",
  ),
  inContainer(
    "env-one-source",
    ".env[0].valueFrom",
    "env: [{ name: A, valueFrom: «{ configMapKeyRef: { name: m, key: k }, secretKeyRef: { name: s, key: k } } }]",
  ),
  ...["configMapKeyRef", "secretKeyRef"].flatMap((source) => {
    const path = `.env[0].valueFrom.${source}`;
    const inSource = (rule: string, field: string, text: string) =>
      inContainer(rule, `${path}${field}`, `env: [{ name: A, valueFrom: { ${source}: ${text} } }]`);
    return [
      inSource("field-type", "", "«m"),
      inSource("field-required", ".name", "«{ key: k }"),
      inSource("field-type", ".name", "{ name: «1, key: k }"),
      inSource("field-value", ".name", '{ name: «"", key: k }'),
      inSource("field-value", ".name", `{ name: «${"m".repeat(254)}, key: k }`),
      inSource("field-required", ".key", "«{ name: m }"),
      inSource("field-type", ".key", "{ name: m, key: «[k] }"),
      inSource("field-value", ".key", '{ name: m, key: «"" }'),
      inSource("field-value", ".key", `{ name: m, key: «${"k".repeat(254)} }`),
      inSource("field-type", ".optional", '{ name: m, key: k, optional: «"true" }'),
      inSource("unknown-field", ".keys", "{ name: m, key: k, «keys: k }"),
    ];
  }),
  inContainer(
    "field-type",
    ".env[0].valueFrom.fieldRef",
    "env: [{ name: A, valueFrom: { fieldRef: «metadata.name } }]",
  ),
  inContainer(
    "field-required",
    ".env[0].valueFrom.fieldRef.fieldPath",
    "env: [{ name: A, valueFrom: { fieldRef: «{} } }]",
  ),
  inContainer(
    "field-value",
    ".env[0].valueFrom.fieldRef.fieldPath",
    'env: [{ name: A, valueFrom: { fieldRef: { fieldPath: «"" } } }]',
  ),
  inContainer(
    "field-type",
    ".env[0].valueFrom.fieldRef.fieldPath",
    "env: [{ name: A, valueFrom: { fieldRef: { fieldPath: «[metadata, name] } } }]",
  ),
  inContainer("field-type", ".envFrom", "envFrom: «{ configMapRef: { name: m } }"),
  inContainer(
    "field-value",
    ".envFrom",
    `envFrom: «[${Array.from({ length: 101 }, (_, i) => `{ secretRef: { name: s${i} } }`).join(", ")}]`,
  ),
  inContainer("field-type", ".envFrom[0].prefix", "envFrom: [{ prefix: «1, configMapRef: { name: m } }]"),
  inContainer(
    "field-value",
    ".envFrom[0].prefix",
    `envFrom: [{ prefix: «${"P".repeat(513)}, configMapRef: { name: m } }]`,
  ),
  inContainer("field-type", ".envFrom[0]", "envFrom: [«settings]"),
  inContainer(
    "unknown-field",
    ".envFrom[0].configMap",
    "envFrom: [{ «configMap: { name: m }, secretRef: { name: s } }]",
  ),
  inContainer("env-from-one-source", ".envFrom[0]", "envFrom: [«{ prefix: A }]"),
  inContainer(
    "env-from-one-source",
    ".envFrom[0]",
    "envFrom: [«{ configMapRef: { name: m }, secretRef: { name: s } }]",
  ),
  ...["configMapRef", "secretRef"].flatMap((source) => {
    const inSource = (rule: string, field: string, text: string) =>
      inContainer(rule, `.envFrom[0].${source}${field}`, `envFrom: [{ ${source}: ${text} }]`);
    return [
      inSource("field-type", "", "«m"),
      inSource("field-required", ".name", "«{ optional: true }"),
      inSource("field-type", ".name", "{ name: «{} }"),
      inSource("field-value", ".name", '{ name: «"" }'),
      inSource("field-value", ".name", `{ name: «${"m".repeat(254)} }`),
      inSource("field-type", ".optional", "{ name: m, optional: «1 }"),
      inSource("unknown-field", ".optionl", "{ name: m, «optionl: true }"),
    ];
  }),

  inSpec("field-type", "spec.ownership", "ownership: «true"),
  inSpec("unknown-field", "spec.ownership.slot", "ownership: { «slot: 256 }"),
  inSpec("field-value", "spec.ownership.slots", "ownership: { slots: «0 }"),
  inSpec("field-value", "spec.ownership.slots", "ownership: { slots: «4097 }"),
  inSpec("field-type", "spec.ownership.slots", "ownership: { slots: «2.5 }"),
  inSpec("field-type", "spec.ownership.slots", 'ownership: { slots: «"256" }'),
  inSpec("field-value", "spec.ownership.onUncertain", "ownership: { onUncertain: «wait }"),
  inSpec("field-value", "spec.ownership.onUncertain", "ownership: { onUncertain: «Abort }"),
  inSpec("field-value", "spec.ownership.onUncertain", "ownership: { onUncertain: «[Wait] }"),
  inSpec("field-value", "spec.ownership.onLapse", "ownership: { onLapse: «Wait }"),
  inSpec("field-value", "spec.ownership.onLapse", "ownership: { onLapse: «9 }"),
  inSpec("field-value", "spec.ownership.leaseSeconds", "ownership: { leaseSeconds: «14 }"),
  inSpec("field-value", "spec.ownership.leaseSeconds", "ownership: { leaseSeconds: «301 }"),
  inSpec("field-type", "spec.ownership.leaseSeconds", "ownership: { leaseSeconds: «15s }"),
  inSpec("field-value", "spec.ownership.idleSeconds", "ownership: { idleSeconds: «0 }"),
  inSpec("field-value", "spec.ownership.idleSeconds", "ownership: { idleSeconds: «604801 }"),
  inSpec("field-type", "spec.ownership.idleSeconds", "ownership: { idleSeconds: «never }"),

  inSpec("field-type", "spec.access", "access: «Public"),
  inSpec("unknown-field", "spec.access.caller", "access: { «caller: [] }"),
  inSpec("field-type", "spec.access.callers", "access: { callers: «{ namespace: billing } }"),
  inSpec(
    "field-value",
    "spec.access.callers",
    `access: { callers: «[${Array.from({ length: 257 }, (_, i) => `{ namespace: n${i} }`).join(", ")}] }`,
  ),
  inSpec("field-type", "spec.access.callers[0]", "access: { callers: [«billing] }"),
  inSpec("field-required", "spec.access.callers[0].namespace", "access: { callers: [«{ service: invoices }] }"),
  inSpec("unknown-field", "spec.access.callers[0].method", "access: { callers: [{ namespace: a, «method: say }] }"),
  inSpec("field-type", "spec.access.callers[0].namespace", "access: { callers: [{ namespace: «7 }] }"),
  inSpec("field-value", "spec.access.callers[0].namespace", 'access: { callers: [{ namespace: «"*" }] }'),
  inSpec("field-value", "spec.access.callers[0].namespace", 'access: { callers: [{ namespace: «"" }] }'),
  inSpec("field-value", "spec.access.callers[0].namespace", `access: { callers: [{ namespace: «${longName} }] }`),
  inSpec("field-type", "spec.access.callers[0].service", "access: { callers: [{ namespace: a, service: «[b] }] }"),
  inSpec("field-value", "spec.access.callers[0].service", "access: { callers: [{ namespace: a, service: «B }] }"),
  inSpec("field-value", "spec.access.callers[0].service", 'access: { callers: [{ namespace: a, service: «"" }] }'),
  inSpec(
    "field-value",
    "spec.access.callers[0].service",
    `access: { callers: [{ namespace: a, service: «${longName} }] }`,
  ),
  inSpec("field-type", "spec.access.gateway", "access: { gateway: «Public }"),
  inSpec("unknown-field", "spec.access.gateway.method", "access: { gateway: { expose: Public, «method: say } }"),
  inSpec("field-value", "spec.access.gateway.expose", "access: { gateway: { expose: «Authenticated } }"),
  inSpec("field-value", "spec.access.gateway.expose", "access: { gateway: { expose: «public } }"),
  inSpec("field-value", "spec.access.gateway.expose", "access: { gateway: { expose: «1 } }"),
  inSpec("field-type", "spec.access.gateway.methods", "access: { gateway: { expose: Public, methods: «say } }"),
  inSpec("field-value", "spec.access.gateway.methods", "access: { gateway: { expose: Public, methods: «[] } }"),
  inSpec(
    "field-value",
    "spec.access.gateway.methods",
    `access: { gateway: { expose: Public, methods: «[${Array.from({ length: 1001 }, (_, i) => `m${i}`).join(", ")}] } }`,
  ),
  ...[
    ["field-type", "«1"],
    ["field-value", '«""'],
    ["field-value", '«"*"'],
    ["field-value", "«_secret"],
    ["field-value", "«say.all"],
    ["field-value", `«${"m".repeat(129)}`],
    ["exposed-method-callable", "«constructor"],
  ].map(([rule, name]) =>
    inSpec(
      rule as string,
      "spec.access.gateway.methods[0]",
      `access: { gateway: { expose: Public, methods: [${name}] } }`,
    ),
  ),
  inSpec(
    "exposed-method-callable",
    "spec.access.gateway.methods[1]",
    "access: { gateway: { expose: Public, methods: [say, «then] } }",
  ),
  inSpec("methods-of-exposed", "spec.access.gateway.methods", "access: { gateway: { methods: «[say] } }"),
  inSpec("methods-of-exposed", "spec.access.gateway.methods", "access: { gateway: { expose: None, methods: «[say] } }"),

  inSpec("field-type", "spec.methods", "methods: «{ history: { idempotent: true } }"),
  inSpec(
    "field-value",
    "spec.methods",
    `methods: «[${Array.from({ length: 1001 }, (_, i) => `{ name: m${i} }`).join(", ")}]`,
  ),
  inSpec("field-type", "spec.methods[0]", "methods: [«history]"),
  inSpec("field-required", "spec.methods[0].name", "methods: [«{ idempotent: true }]"),
  inSpec("field-value", "spec.methods[0].name", 'methods: [{ name: «"get*" }]'),
  inSpec("field-value", "spec.methods[0].name", "methods: [{ name: «_secret }]"),
  inSpec("field-value", "spec.methods[0].name", `methods: [{ name: «${"m".repeat(129)} }]`),
  inSpec("field-value", "spec.methods[0].name", 'methods: [{ name: «"" }]'),
  inSpec("field-type", "spec.methods[0].name", "methods: [{ name: «1 }]"),
  inSpec("field-value", "spec.methods[0].name", "methods: [{ name: «1st }]"),
  inSpec("field-value", "spec.methods[0].name", "methods: [{ name: «say.all }]"),
  inSpec("method-callable", "spec.methods[0].name", "methods: [{ name: «constructor }]"),
  inSpec("method-callable", "spec.methods[0].name", "methods: [{ name: «then }]"),
  inSpec("method-callable", "spec.methods[0].name", "methods: [{ name: «with, idempotent: true }]"),
  inSpec("method-callable", "spec.methods[1].name", 'methods: [{ name: "*" }, { name: «toJSON }]'),
  inSpec("list-map", "spec.methods[1].name", "methods: [{ name: history }, { name: «history, idempotent: true }]"),
  inSpec("list-map", "spec.methods[2].name", 'methods: [{ name: "*" }, { name: say }, { name: «"*" }]'),
  inSpec("field-value", "spec.methods[0].timeoutMilliseconds", "methods: [{ name: say, timeoutMilliseconds: «0 }]"),
  inSpec(
    "field-value",
    "spec.methods[0].timeoutMilliseconds",
    "methods: [{ name: say, timeoutMilliseconds: «3600001 }]",
  ),
  inSpec("field-type", "spec.methods[0].timeoutMilliseconds", "methods: [{ name: say, timeoutMilliseconds: «30s }]"),
  inSpec("field-type", "spec.methods[0].idempotent", "methods: [{ name: say, idempotent: «1 }]"),
  inSpec("unknown-field", "spec.methods[0].timeoutMs", "methods: [{ name: say, «timeoutMs: 500 }]"),
  inSpec(
    "unknown-field",
    "spec.methods[0].hedgeAfterMilliseconds",
    "methods: [{ name: say, «hedgeAfterMilliseconds: 50 }]",
  ),

  inSpec("field-type", "spec.limits", "limits: «1Mi"),
  inSpec("unknown-field", "spec.limits.heldCallsPerAgent", "limits: { «heldCallsPerAgent: 1000 }"),
  ...["argsBytes", "resultBytes", "messageBytes"].flatMap((field) => [
    inSpec("field-type", `spec.limits.${field}`, `limits: { ${field}: «[1Mi] }`),
    inSpec("field-type", `spec.limits.${field}`, `limits: { ${field}: «0.5 }`),
    inSpec("quantity-range", `spec.limits.${field}`, `limits: { ${field}: «1023 }`),
    inSpec("quantity-range", `spec.limits.${field}`, `limits: { ${field}: «1k }`),
    inSpec("quantity-range", `spec.limits.${field}`, `limits: { ${field}: «1Gi }`),
    inSpec("quantity-range", `spec.limits.${field}`, `limits: { ${field}: «99999999999999999999E }`),
    inSpec("field-value", `spec.limits.${field}`, `limits: { ${field}: «1MB }`),
    inSpec("field-value", `spec.limits.${field}`, `limits: { ${field}: «1.5Mi }`),
    inSpec("field-value", `spec.limits.${field}`, `limits: { ${field}: «"-1Mi" }`),
    inSpec("field-value", `spec.limits.${field}`, `limits: { ${field}: «"${"0".repeat(32)}1" }`),
  ]),
  inSpec("quantity-range", "spec.limits.argsBytes", "limits: { argsBytes: «16777217 }"),
  inSpec("quantity-range", "spec.limits.resultBytes", "limits: { resultBytes: «17Mi }"),
  inSpec("quantity-range", "spec.limits.messageBytes", "limits: { messageBytes: «65Mi }"),
  inSpec("message-holds-args", "spec.limits.messageBytes", "limits: { messageBytes: «1Mi, argsBytes: 2Mi }"),
  inSpec("message-holds-result", "spec.limits.messageBytes", "limits: { messageBytes: «1Mi, resultBytes: 1048577 }"),
  inSpec("field-value", "spec.limits.inFlightPerInstance", "limits: { inFlightPerInstance: «0 }"),
  inSpec("field-value", "spec.limits.inFlightPerInstance", "limits: { inFlightPerInstance: «5001 }"),
  inSpec("field-type", "spec.limits.inFlightPerInstance", "limits: { inFlightPerInstance: «many }"),
  inSpec("field-value", "spec.limits.channelsPerInstance", "limits: { channelsPerInstance: «0 }"),
  inSpec("field-value", "spec.limits.channelsPerInstance", "limits: { channelsPerInstance: «10001 }"),
  inSpec("field-type", "spec.limits.channelsPerInstance", "limits: { channelsPerInstance: «true }"),

  inSpec("field-type", "spec.agent", "agent: «Sidecar"),
  inSpec("unknown-field", "spec.agent.mode", "agent: { «mode: Sidecar }"),
  inSpec("field-type", "spec.agent.resources", "agent: { resources: «64Mi }"),
  inSpec("unknown-field", "spec.agent.resources.claims", "agent: { resources: { «claims: [] } }"),
  ...["requests", "limits"].flatMap((list) => {
    const inList = (rule: string, field: string, text: string) =>
      inSpec(rule, `spec.agent.resources.${list}${field}`, `agent: { resources: { ${list}: ${text} } }`);
    return [
      inList("field-type", "", "«64Mi"),
      inList("unknown-field", ".storage", "{ «storage: 1Gi }"),
      inList("field-type", ".cpu", "{ cpu: «0.5 }"),
      inList("field-type", ".cpu", "{ cpu: «[1] }"),
      inList("field-value", ".cpu", "{ cpu: «20mm }"),
      inList("field-value", ".cpu", '{ cpu: «"-1" }'),
      inList("field-value", ".cpu", `{ cpu: «"${"0".repeat(32)}1" }`),
      inList("quantity-range", ".cpu", "{ cpu: «0 }"),
      inList("quantity-range", ".cpu", "{ cpu: «65 }"),
      inList("quantity-range", ".cpu", "{ cpu: «64001m }"),
      inList("field-type", ".memory", "{ memory: «{} }"),
      inList("field-value", ".memory", "{ memory: «64MB }"),
      inList("field-value", ".memory", "{ memory: «1.5Gi }"),
      inList("field-value", ".memory", `{ memory: «"${"0".repeat(32)}1" }`),
      inList("quantity-range", ".memory", `{ memory: «${list === "limits" ? "63Mi" : "1023Ki"} }`),
      inList("quantity-range", ".memory", "{ memory: «17Gi }"),
    ];
  }),
  inSpec(
    "agent-cpu-limit",
    "spec.agent.resources.limits.cpu",
    "agent: { resources: { requests: { cpu: 1 }, limits: { cpu: «999m } } }",
  ),
  inSpec(
    "agent-memory-limit",
    "spec.agent.resources.limits.memory",
    "agent: { resources: { requests: { memory: 128Mi }, limits: { memory: «127Mi } } }",
  ),
];

/** Two manifests of one service, each valid; `«` as above, in the second, which is refused where the first is there. */
export interface InvalidChange extends InvalidManifest {
  readonly before: string;
}

const change = (rule: string, path: string, before: string, after: string): InvalidChange => ({
  ...inSpec(rule, path, after),
  before: inSpec(rule, path, `«${before}`).text,
});

export const invalidChanges: readonly InvalidChange[] = [
  change("slots-unchanged", "spec.ownership.slots", "ownership: { slots: 256 }", "ownership: { slots: «257 }"),
  change("slots-unchanged", "spec.ownership.slots", "ownership: {}", "ownership: { slots: «255 }"),
  change("slots-unchanged", "spec.ownership.slots", "ownership: { slots: 16 }", "ownership: «{}"),
];
