/** The chart against what it is about: the CRDs, the programs' settings, and what docs/operator.md says of rights. */

import { globSync, readFileSync } from "node:fs";
import path from "node:path";
import { flags, operatorSettings } from "@leveros/operator/settings.ts";
import { describe, expect, test } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import * as z from "zod";
import { crdTemplateOf, generatedChartFiles } from "./chart.ts";

const root = path.resolve(import.meta.dirname, "..");
const read = (file: string) => readFileSync(path.join(root, file), "utf8");
const template = (file: string) => read(`charts/lever/templates/${file}`);
const crds = globSync("crds/*.yaml", { cwd: root }).sort();

/** What is left of a template when its actions are taken out. */
function withoutActions(text: string): string {
  return text.replace(/^\s*\{\{-.*\n/gm, "").replace(/\{\{[^}]*\}\}/g, "x");
}

test("what is generated is as it would be generated: npm run generate", () => {
  for (const [file, text] of Object.entries(generatedChartFiles(crds))) expect(read(file), file).toBe(text);
});

describe.each(crds)("%s in the chart", (file) => {
  test("is that of the tree, kept on uninstall", () => {
    const [crd] = parseAllDocuments(withoutActions(read(crdTemplateOf(file)))).map((each) => each.toJS());
    const own = parse(read(file));
    expect(crd).toEqual({
      ...own,
      metadata: { ...own.metadata, annotations: { "helm.sh/resource-policy": "keep" }, labels: null },
    });
  });
});

describe("versions", () => {
  const chart = parse(read("charts/lever/Chart.yaml"));
  const { version } = JSON.parse(read("package.json")) as { version: string };

  test("are those of the project", () => {
    expect(chart).toMatchObject({ version, appVersion: version, kubeVersion: ">=1.29.0-0" });
  });

  test("are those of the examples' images", () => {
    for (const file of globSync("examples/*/*.yaml", { cwd: root })) {
      expect(read(file)).toContain(`image: lever/example-${path.basename(file, ".yaml")}:${version}\n`);
    }
    for (const file of globSync("e2e/fixtures/*/*.yaml", { cwd: root })) {
      for (const [, image] of read(file).matchAll(/image: (.*)/g)) {
        expect(image).toMatch(new RegExp(`^lever\\.test/[a-z]+:${version.replaceAll(".", "\\.")}$`));
      }
    }
  });
});

test("every flag that the chart sets is one of the operator's, none twice", () => {
  const set = [...template("operator/deployment.yaml").matchAll(/^ +- --([a-z-]+)=/gm)].map(([, name]) => name);
  expect(set.length).toBeGreaterThan(5);
  expect(new Set(set).size).toBe(set.length);
  for (const name of set) expect(Object.keys(flags)).toContain(name);
});

test("every variable that the chart sets is one of the program's", () => {
  const set = (part: string) =>
    [...template(`${part}/deployment.yaml`).matchAll(/- name: (LEVER_[A-Z_]+)/g)].map(([, name]) => name);
  const known = Object.values(flags).map(({ variable }) => variable as string);
  expect(set("operator").length).toBeGreaterThan(2);
  for (const name of set("operator")) expect(known).toContain(name);
  const settings = read("gateway/settings.ts");
  expect(set("gateway").length).toBeGreaterThan(5);
  for (const name of set("gateway")) expect(settings).toContain(`"${name}"`);
});

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly verbs: readonly string[];
}

function rulesOf(kind: string, name: string, file: string): readonly Rule[] {
  const documents = parseAllDocuments(withoutActions(template(file))).map(
    (each) => each.toJS() as { kind: string; metadata: { name: string }; rules: Rule[] },
  );
  const found = documents.find((each) => each.kind === kind && each.metadata.name === name);
  if (found === undefined) throw new Error(`no ${kind} ${name} in ${file}`);
  return found.rules;
}

describe("the operator's rights", () => {
  const line = (group: string, resources: string, names: string, verbs: string) =>
    [group === "core" ? "" : group, resources, names, verbs].join(" | ");

  /** The tables of docs/operator.md below "## Rights", in their order. */
  const documented = read("docs/operator.md")
    .split(/^## /m)
    .find((section) => section.startsWith("Rights\n"))
    ?.split(/^\| group .*\n/m)
    .slice(1)
    .map((table) =>
      [...table.matchAll(/^\| `?([a-z0-9.]+)`? \| `([a-z/]+)`([^|]*) \| ([a-z, ]+) \|/gm)].map(
        ([, group = "", resource = "", rest = "", verbs = ""]) => {
          const flag = /`--([a-z-]+)`/.exec(rest)?.[1];
          const name = /`(lever-[a-z-]+)`/.exec(rest)?.[1];
          const fallback = flag === undefined ? name : (flags as Record<string, { fallback?: string }>)[flag]?.fallback;
          return line(group, resource, fallback ?? "", verbs);
        },
      ),
    );

  test.each([
    ["ClusterRole", 0],
    ["Role", 1],
  ] as const)("of the %s are those that are documented", (kind, index) => {
    const rules = rulesOf(kind, "lever-operator", "operator/rbac.yaml").flatMap((rule) =>
      rule.resources.map((resource) =>
        line(rule.apiGroups.join(), resource, (rule.resourceNames ?? []).join(), rule.verbs.join(", ")),
      ),
    );
    expect(rules.sort()).toEqual(documented?.[index]?.sort());
  });

  test("each have a comment that says what for", () => {
    const lines = template("operator/rbac.yaml").split("\n");
    const begins = lines.flatMap((text, index) => (text.startsWith("  - apiGroups:") ? [index] : []));
    expect(begins.length).toBeGreaterThan(10);
    for (const begin of begins) expect(lines[begin - 1], lines.slice(begin, begin + 3).join("\n")).toMatch(/^ {2}# /);
  });
});

test("no role has a wildcard, exec, or secrets without a name; tables are for people to read", () => {
  const all = [
    ...rulesOf("ClusterRole", "lever-operator", "operator/rbac.yaml"),
    ...rulesOf("Role", "lever-operator", "operator/rbac.yaml"),
    ...rulesOf("ClusterRole", "lever-view", "user-roles.yaml"),
    ...rulesOf("ClusterRole", "lever-edit", "user-roles.yaml"),
  ];
  for (const rule of all) {
    const text = JSON.stringify(rule);
    expect(text).not.toMatch(/\*|pods\/|impersonate|escalate|bind/);
    if (rule.resources.includes("secrets")) expect(rule.resourceNames).toHaveLength(1);
  }
  for (const name of ["lever-view", "lever-edit"]) {
    for (const { resources, verbs } of rulesOf("ClusterRole", name, "user-roles.yaml")) {
      if (resources.includes("leverendpointtables")) expect(verbs).toEqual(["get", "list", "watch"]);
    }
  }
});

describe("values", () => {
  type Schema = {
    properties?: Record<string, Schema>;
    additionalProperties?: unknown;
    allOf?: unknown;
    description?: string;
  };
  const schema = JSON.parse(read("charts/lever/values.schema.json")) as Schema;

  test("the schema knows every value, and no others but global", () => {
    const compare = (given: Schema, value: unknown, name: string) => {
      if (given.properties === undefined) return;
      expect(given.additionalProperties, name).toBe(false);
      const keys = Object.keys(given.properties).filter((key) => key !== "global");
      expect(Object.keys(value as object).sort(), name).toEqual(keys.sort());
      for (const key of keys) {
        compare(given.properties[key] as Schema, (value as Record<string, unknown>)[key], `${name}.${key}`);
      }
    };
    compare(schema, parse(read("charts/lever/values.yaml")), "");
  });

  describe("agent.resources: the operator starts with what the schema and the template let through", () => {
    const bySchema = z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]);
    const operatorTakes = (resources: unknown) => {
      operatorSettings(["--agent-image=agent:1", `--agent-resources=${JSON.stringify(resources)}`], {});
    };

    test.each([
      { limits: { memory: "64Mi" } },
      { limits: { memory: "1.5Gi" } },
      { limits: { memory: "1e9" } },
      { limits: { memory: 134_217_728 } },
      { limits: { memory: "16Gi" } },
      { requests: { cpu: 0.5 } },
      { requests: { cpu: "0.5", memory: "0.5Gi" }, limits: { cpu: 1, memory: "512Mi" } },
      { requests: { cpu: "1m" } },
      {},
    ])("%j is taken", (resources) => {
      expect(bySchema.safeParse({ agent: { resources } }).success).toBe(true);
      expect(() => operatorTakes(resources)).not.toThrow();
    });

    test.each([
      { limits: { memory: "much" } },
      { limits: { memory: "1.5" } },
      { limits: { memory: "134217728000m" } },
      { limits: { memory: 1.5 } },
      { limits: { cpu: "1e3" } },
      { limits: { cpu: "0.1234" } },
      { limits: { "ephemeral-storage": "1Gi" } },
      { requests: { "nvidia.com/gpu": 1 } },
      { claims: [] },
    ])("%j is refused by both", (resources) => {
      expect(bySchema.safeParse({ agent: { resources } }).success).toBe(false);
      expect(() => operatorTakes(resources)).toThrow(expect.objectContaining({ reason: "INVALID_OPTION" }));
    });

    // What a schema cannot say; e2e/kubernetes/chart.e2e.test.ts has what helm says to it.
    test.each([
      { limits: { memory: "48Mi" } },
      { limits: { memory: "16.5Gi" } },
      { requests: { memory: "0.5Mi" } },
      { requests: { cpu: 0.1234 } },
      { requests: { cpu: "65" } },
      { requests: { cpu: "0" } },
      { requests: { memory: "256Mi" }, limits: { memory: "128Mi" } },
      { requests: { cpu: 0.5 }, limits: { cpu: "499m" } },
    ])("%j is refused by the template", (resources) => {
      expect(() => operatorTakes(resources)).toThrow(expect.objectContaining({ reason: "INVALID_OPTION" }));
    });
  });

  test("values-ha.yaml sets what there is", () => {
    const names = (value: unknown, name: string): string[] =>
      typeof value === "object" && value !== null && !Array.isArray(value) && !name.endsWith("resources")
        ? Object.entries(value).flatMap(([key, inner]) => names(inner, `${name}.${key}`))
        : [name];
    const known = names(parse(read("charts/lever/values.yaml")), "");
    for (const name of names(parse(read("charts/lever/values-ha.yaml")), "")) expect(known).toContain(name);
  });
});
