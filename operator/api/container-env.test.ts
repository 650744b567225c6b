import { describe, expect, test } from "vitest";
import { resolveEnv } from "./container-env.ts";
import { formatProblem } from "./manifest-problem.ts";
import { readManifests } from "./manifest-reader.ts";

/** A service whose container has the given fields, indented by ten, and the objects beside it. */
function resolve(container: string, overrides: Record<string, string> = {}, objects = "") {
  const content = `apiVersion: leveros.dev/v1alpha1
kind: LeverService
metadata: { name: chat, namespace: shop }
spec:
  appContainer: app
  template:
    spec:
      containers:
        - { name: proxy, env: [{ name: OTHER, value: container }] }
        - name: app
          ${container.replaceAll("\n", "\n          ")}
${objects}`;
  const set = readManifests([{ file: "chat.yaml", content }]);
  expect(set.problems.map(formatProblem)).toEqual([]);
  const [service] = set.services;
  const { env, problems } = resolveEnv(set, service!, { instance: "chat-1-x7q2", overrides });
  return { env, problems: problems.map(formatProblem), rules: problems.map((problem) => problem.rule) };
}

const objects = `---
apiVersion: v1
kind: ConfigMap
metadata: { name: settings, namespace: shop }
data: { COLOR: blue, size: "7", "no=name": x, bad.key: dotted }
---
apiVersion: v1
kind: Secret
metadata: { name: keys, namespace: shop }
data: { TOKEN: czNjcjN0, BYTES: /w== }
stringData: { COLOR: red, NUL: "a\\0b" }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: elsewhere, namespace: other }
data: { A: a }
`;

describe("resolved", () => {
  test("literal values of the app's container only", () => {
    expect(resolve("env: [{ name: A, value: a }, { name: EMPTY }, { name: B, value: '' }]")).toMatchObject({
      env: { A: "a", EMPTY: "", B: "" },
      problems: [],
    });
    expect(resolve("image: x").env).toEqual({});
  });

  test("keys of ConfigMaps and Secrets, and fields of the instance", () => {
    const { env, problems } = resolve(
      `env:
  - { name: C, valueFrom: { configMapKeyRef: { name: settings, key: COLOR } } }
  - { name: T, valueFrom: { secretKeyRef: { name: keys, key: TOKEN } } }
  - { name: R, valueFrom: { secretKeyRef: { name: keys, key: COLOR } } }
  - { name: POD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
  - { name: NS, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: metadata.namespace } } }`,
      {},
      objects,
    );
    expect(problems).toEqual([]);
    expect(env).toEqual({ C: "blue", T: "s3cr3t", R: "red", POD: "chat-1-x7q2", NS: "shop" });
  });

  test("whole objects, with a prefix; later sources win, env wins over them", () => {
    const { env, problems } = resolve(
      `envFrom:
  - configMapRef: { name: settings }
  - { prefix: P_, configMapRef: { name: settings } }
env: [{ name: size, value: "8" }]`,
      {},
      objects,
    );
    expect(problems).toEqual([]);
    expect(env).toEqual({
      COLOR: "blue",
      size: "8",
      "bad.key": "dotted",
      P_COLOR: "blue",
      P_size: "7",
      "P_bad.key": "dotted",
    });
  });

  test("optional objects and keys that are missing are left out", () => {
    const { env, problems } = resolve(
      `envFrom: [{ secretRef: { name: none, optional: true } }]
env:
  - { name: A, valueFrom: { configMapKeyRef: { name: none, key: k, optional: true } } }
  - { name: B, valueFrom: { configMapKeyRef: { name: settings, key: none, optional: true } } }`,
      {},
      objects,
    );
    expect({ env, problems }).toEqual({ env: {}, problems: [] });
  });

  test("references as a kubelet expands them", () => {
    const { env } = resolve(
      `envFrom: [{ configMapRef: { name: settings } }]
env:
  - { name: A, value: "1" }
  - { name: B, value: "$(A)-$(COLOR)-$(LATER)-$$(A)-$A-$-$(A" }
  - { name: LATER, value: "$(B)" }
  - { name: A, value: "$(A)2" }`,
      {},
      objects,
    );
    const b = "1-blue-$(LATER)-$(A)-$A-$-$(A";
    expect(env).toMatchObject({ A: "12", B: b, LATER: b });
  });

  test("overrides come last, and into references", () => {
    const { env, problems } = resolve(
      `env:
  - { name: A, value: a }
  - { name: B, value: "$(A)!" }
  - { name: C, valueFrom: { secretKeyRef: { name: none, key: k } } }`,
      { A: "over", C: "given", NEW: "new" },
    );
    expect({ env, problems }).toEqual({ env: { A: "over", B: "over!", C: "given", NEW: "new" }, problems: [] });
  });
});

describe("what cannot be resolved is a problem", () => {
  test.each([
    [
      "a missing object",
      "env: [{ name: A, valueFrom: { configMapKeyRef: { name: none, key: k } } }]",
      /^chat\.yaml:11:66 .*\.env\[0\]\.valueFrom\.configMapKeyRef\.name: found no ConfigMap none in shop in the given files, .* --env A=… gives a value\.$/,
    ],
    [
      "an object of another namespace",
      "env: [{ name: A, valueFrom: { configMapKeyRef: { name: elsewhere, key: A } } }]",
      /found no ConfigMap elsewhere in shop/,
    ],
    [
      "a Secret of a ConfigMap's name",
      "env: [{ name: A, valueFrom: { secretKeyRef: { name: settings, key: COLOR } } }]",
      /found no Secret settings in shop/,
    ],
    [
      "a missing key",
      "env: [{ name: A, valueFrom: { configMapKeyRef: { name: settings, key: colour } } }]",
      /^chat\.yaml:11:81 .*\.key: found no key colour in the ConfigMap settings \(chat\.yaml:13\)/,
    ],
    [
      "a missing object of envFrom",
      "envFrom: [{ secretRef: { name: none } }]",
      /^chat\.yaml:11:42 .*found no Secret none/,
    ],
    [
      "a field that only a cluster has",
      "env: [{ name: IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }]",
      /found status\.podIP, which only a cluster has, .* --env IP=…/,
    ],
    [
      "a source that only a cluster has",
      "env: [{ name: CPU, valueFrom: { resourceFieldRef: { resource: limits.cpu } } }]",
      /found resourceFieldRef, which only a cluster has/,
    ],
    ["no source", "env: [{ name: A, valueFrom: {} }]", /found no source/],
    [
      "bytes",
      "env: [{ name: A, valueFrom: { secretKeyRef: { name: keys, key: BYTES } } }]",
      /found bytes that are not text for A/,
    ],
    [
      "a NUL",
      "env: [{ name: A, valueFrom: { secretKeyRef: { name: keys, key: NUL } } }]",
      /found a value with a NUL character for A/,
    ],
  ])("%s", (_, container, expected) => {
    const { env, problems } = resolve(container, {}, objects);
    expect(env).toEqual({});
    expect(problems).toEqual([expect.stringMatching(expected)]);
    expect(problems[0]).not.toMatch(/s3cr3t|blue|a\0b/);
  });

  test("references that grow without end, one value that is too long, and all together", () => {
    const doubling = Array.from({ length: 100 }, (_, i) => `  - { name: V${i + 1}, value: "$(V${i})$(V${i})" }`);
    const { env, rules } = resolve(`env:\n  - { name: V0, value: xxxxxxxx }\n${doubling.join("\n")}`);
    expect(rules).toContain("env-too-large");
    expect(Math.max(...Object.values(env).map((value) => value.length))).toBeLessThan(128 * 1024);

    const long = (length: number) =>
      `---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: c, namespace: shop }\ndata: { k: ${"x".repeat(length)} }\n`;
    const one = "env: [{ name: A, valueFrom: { configMapKeyRef: { name: c, key: k } } }]";
    expect(resolve(one, {}, long(128 * 1024 - 1)).rules).toEqual([]);
    expect(resolve(one, {}, long(128 * 1024)).rules).toEqual(["env-too-large"]);
    const many = Array.from({ length: 20 }, (_, i) => `{ prefix: "P${i}", configMapRef: { name: c } }`).join(", ");
    const together = resolve(`envFrom: [${many}]`, {}, long(100 * 1024));
    expect(together.rules.length).toBe(10);
    expect(Object.keys(together.env)).toHaveLength(10);
  });
});
