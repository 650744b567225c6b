/**
 * Arbitrary changes to valid manifests, half of them to the text and half to the values (which stay YAML): the reader
 * gives services or problems, never an exception.
 *
 * `LEVER_FUZZ_INPUTS` is the number of inputs, `LEVER_FUZZ_SEED` repeats a run; a failure prints the seed and the input.
 */

import { expect, test } from "vitest";
import { parseAllDocuments, stringify } from "yaml";
import { resolveEnv } from "./container-env.ts";
import { formatProblem } from "./manifest-problem.ts";
import { problemsMax, readManifests } from "./manifest-reader.ts";
import { appContainerOf, methodPolicies } from "./v1alpha1/lever-service.ts";

const inputsMax = Number(process.env["LEVER_FUZZ_INPUTS"] ?? 5000);
const seed = Number(process.env["LEVER_FUZZ_SEED"] ?? Math.floor(Math.random() * 2 ** 32));

const seeds = [
  `apiVersion: leveros.dev/v1alpha1
kind: LeverService
metadata:
  name: chat
  namespace: shop
  annotations: { leveros.dev/dev-command: "node chat.ts" }
spec:
  replicas: 3
  appContainer: app
  template:
    metadata: { labels: { app: chat } }
    spec:
      containers:
        - name: app
          image: example.org/chat:1.4.2
          command: [node, /app/chat.js]
          env:
            - { name: A, value: "1" }
            - { name: B, value: $(A)$(A) }
            - { name: C, valueFrom: { secretKeyRef: { name: s, key: k, optional: true } } }
          envFrom: [{ prefix: P_, configMapRef: { name: settings } }]
        - name: proxy
  methods:
    - { name: "*", timeoutMilliseconds: 30000 }
    - { name: history, idempotent: true }
  ownership: { slots: 16, onUncertain: Serve, onLapse: Kill, leaseSeconds: 20, idleSeconds: 60 }
  limits: { argsBytes: 1Mi, resultBytes: 524288, messageBytes: 16Mi, inFlightPerInstance: 1000 }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: settings, namespace: shop }
data: { a: "1", b: |
    text }
`,
  `x: &base { name: app, env: &env [{ name: A, value: a }] }
---
apiVersion: leveros.dev/v1alpha1
kind: LeverService
metadata: &meta { name: hello }
spec: &spec
  template: { spec: { containers: [&c { name: app, env: &e [{ name: A, value: &v "x" }] }] } }
---
apiVersion: v1
kind: List
items:
  - { apiVersion: leveros.dev/v1alpha1, kind: LeverService, metadata: { name: a }, spec: { template: { spec: { containers: [{ name: b }] } } } }
  - apiVersion: v1
    kind: Secret
    metadata: { name: s }
    data: { k: dg==, l: "\\xff" }
    stringData: { k: v }
`,
  `apiVersion: leveros.dev/v1alpha1
kind: LeverService
metadata: { name: merged }
spec:
  template:
    spec:
      volumes: [{ mode: 0644, big: 1_000, hex: 0x1F, bits: 0b11, float: 1.5e3, neg: -017, none: ~, text: !!str 5, at: 12:30 }]
      containers:
        - &base
          name: a
          env: &env [&one { name: A, value: a }, { <<: *one, name: B }]
        - { <<: *base, name: b }
        - { name: c, <<: [*base, { image: x }], env: *env, list: *env }
  appContainer: a
`,
  `{"apiVersion":"leveros.dev/v1alpha1","kind":"LeverService","metadata":{"name":"j"},"spec":{"replicas":0,"template":{"spec":{"containers":[{"name":"app"}]}}}}`,
];

/** What has a meaning in YAML or in a manifest. */
const pieces = [
  "&a ",
  "*a",
  "*spec",
  "*e",
  "<<: ",
  "<<: 1, ",
  "<<: [*a, *e], ",
  "*base",
  "0644",
  "017",
  ".inf",
  "1_0",
  "- ",
  "? ",
  ": ",
  ", ",
  "[",
  "]",
  "{",
  "}",
  "|",
  ">",
  "'",
  '"',
  "#",
  "!!str ",
  "!x ",
  "%YAML 1.1",
  "---",
  "...",
  "\n",
  "\n  ",
  "\t",
  "\0",
  "\r",
  "\ufeff",
  "\u2028",
  "\ud800",
  "~",
  "null",
  "yes",
  "0x",
  ".nan",
  "-1",
  "1e999",
  "9".repeat(30),
  "__proto__",
  "constructor",
  "$(A)",
  "$$",
  "name",
  "spec",
  "containers",
  "valueFrom",
  "99E",
  "LeverService",
  "List",
  "x".repeat(70),
];

/** Mulberry32. */
function randomFrom(start: number): (below: number) => number {
  let state = start >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return Math.floor((((x ^ (x >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

function mutateText(random: (below: number) => number): string | Uint8Array {
  const pick = <T>(list: readonly T[]): T => list[random(list.length)] as T;
  let text = pick(seeds);
  for (let changes = random(6); changes >= 0; changes--) {
    const at = random(text.length + 1);
    const length = random(12);
    const lines = text.split("\n");
    switch (random(7)) {
      case 0: // A piece put in.
        text = text.slice(0, at) + pick(pieces) + text.slice(at);
        break;
      case 1: // Something replaced by a piece.
        text = text.slice(0, at) + pick(pieces) + text.slice(at + length);
        break;
      case 2: // Something taken out.
        text = text.slice(0, at) + text.slice(at + length);
        break;
      case 3: // A line moved, repeated or indented otherwise.
        lines.splice(random(lines.length), random(2), " ".repeat(random(8)) + pick(lines).trimStart());
        text = lines.join("\n");
        break;
      case 4: {
        // A value replaced by another one.
        const values = [...text.matchAll(/(?<=: )[^\s,{}[\]]+/g)];
        const [first, second] = [pick(values), pick(values)];
        if (first && second) text = text.slice(0, first.index) + second[0] + text.slice(first.index + first[0].length);
        break;
      }
      case 5: // One character for another.
        text = text.slice(0, at) + String.fromCharCode(random(random(4) === 0 ? 0x10000 : 0x80)) + text.slice(at + 1);
        break;
      default: // A part repeated.
        text = text.slice(0, at) + text.slice(at, at + 40).repeat(1 + random(20)) + text.slice(at);
    }
  }
  if (random(10) > 0) return text;
  const bytes = new TextEncoder().encode(text);
  bytes[random(bytes.length)] = random(256);
  return bytes;
}

const documents = seeds.flatMap((text) => parseAllDocuments(text).map((document) => JSON.stringify(document.toJS())));

const values: readonly unknown[] = [
  null,
  true,
  false,
  0,
  1,
  -1,
  1.5,
  1e300,
  2 ** 53,
  5000,
  1001,
  "",
  "app",
  "A B",
  "x".repeat(300),
  "1Mi",
  "99E",
  "1Ki",
  "*",
  "shop",
  "settings",
  "constructor",
  [],
  {},
  [null],
  ["a"],
  [[]],
  { name: "app" },
  { name: "a", value: "$(B)" },
  { name: "a", idempotent: true },
  { configMapKeyRef: { name: "settings", key: "a" } },
  { fieldRef: { fieldPath: "x" } },
  { secretRef: { name: "none" } },
  { value: "\u0000" },
  { "leveros.dev/dev-directory": "." },
  "\u001b[31m\u0000",
];

function mutateValues(random: (below: number) => number): string {
  const pick = <T>(list: readonly T[]): T => list[random(list.length)] as T;
  const roots = [JSON.parse(pick(documents)) as Container, JSON.parse(pick(documents)) as Container].slice(random(2));
  for (let changes = random(4); changes >= 0; changes--) {
    const containers: Container[] = [];
    const visit = (value: unknown) => {
      if (typeof value !== "object" || value === null) return;
      containers.push(value as Container);
      for (const child of Object.values(value)) visit(child);
    };
    visit(roots);
    const container = pick(containers);
    const key = pick(Object.keys(container));
    if (key === undefined) continue;
    const other = pick(containers);
    switch (random(5)) {
      case 0:
        delete container[key];
        break;
      case 1: // Another field's name.
        container[pick(Object.keys(other)) ?? "x"] = structuredClone(container[key]);
        break;
      case 2: // A copy of another part.
        container[key] = JSON.parse(JSON.stringify(other));
        break;
      case 3: // One more entry.
        if (Array.isArray(container))
          container.push(structuredClone(random(2) === 0 ? pick(values) : container[Number(key)]));
        else container[`${key}s`] = structuredClone(container[key]);
        break;
      default:
        container[key] = structuredClone(pick(values));
    }
  }
  return roots.map((root) => (random(2) === 0 ? JSON.stringify(root) : stringify(root))).join("\n---\n");
}

type Container = Record<string, unknown>;

test(`fuzz: ${inputsMax} changed manifests give services or problems (LEVER_FUZZ_SEED=${seed})`, () => {
  const random = randomFrom(seed);
  let withService = 0;
  const rules = new Set<string>();
  for (let input = 0; input < inputsMax; input++) {
    const content = input % 2 === 0 ? mutateText(random) : mutateValues(random);
    try {
      if (check(content, rules) > 0) withService++;
    } catch (error) {
      const text = typeof content === "string" ? content : Buffer.from(content).toString("latin1");
      throw new Error(`input ${input} of seed ${seed}: ${JSON.stringify(text)}`, { cause: error });
    }
  }
  // A fuzzer whose inputs all fail alike, or all pass, tests nothing.
  expect(withService / inputsMax).toBeGreaterThan(0.1);
  expect(withService / inputsMax).toBeLessThan(0.9);
  if (inputsMax >= 5000) expect(rules.size).toBeGreaterThan(15);
});

function check(content: string | Uint8Array, rules: Set<string>): number {
  const set = readManifests([{ file: "f.yaml", content }]);
  const problems = [...set.problems];
  for (const service of set.services) {
    const resolved = resolveEnv(set, service, { instance: "i-1" });
    problems.push(...resolved.problems);
    expect(Object.keys(resolved.env).every((name) => name !== "" && !name.includes("="))).toBe(true);
    expect(appContainerOf(service).name).toMatch(/^[a-z0-9-]+$/);
    expect(methodPolicies(service)[0]?.name).toBe("*");
    const { replicas, limits } = service.spec;
    expect(Number.isInteger(replicas) && replicas >= 0 && replicas <= 1000).toBe(true);
    expect(Object.values(limits).every((limit) => Number.isSafeInteger(limit) && limit > 0)).toBe(true);
    expect(set.locate(service).place(["spec", "replicas"]).line).toBeGreaterThan(0);
  }
  expect(set.problems.length).toBeLessThanOrEqual(problemsMax);
  const lines = (typeof content === "string" ? content : Buffer.from(content).toString("latin1")).split("\n").length;
  for (const problem of problems) {
    rules.add(problem.rule);
    expect(problem.line).toBeGreaterThan(0);
    expect(problem.line).toBeLessThanOrEqual(lines);
    expect(problem.column).toBeGreaterThan(0);
    expect(formatProblem(problem)).toMatch(/^[^\p{Cc}]{1,2000}$/u);
  }
  expect(({} as Record<string, unknown>)["polluted"]).toBe(undefined);
  return set.services.length;
}
