import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { crdFile, customKinds, customResourceDefinition, printCustomResourceDefinition } from "./crd.ts";

type Schema = Record<string, unknown> & {
  type?: string;
  description?: string;
  properties?: Record<string, Schema>;
  items?: Schema;
  additionalProperties?: Schema;
};

interface Definition {
  readonly spec: {
    readonly versions: readonly [
      {
        readonly schema: { readonly openAPIV3Schema: Schema };
        readonly additionalPrinterColumns: readonly { name: string; jsonPath: string; priority?: number }[];
      },
    ];
  };
}

const definitions = customKinds.map((kind) => {
  const crd = customResourceDefinition(kind) as Definition;
  const [version] = crd.spec.versions;
  return { name: kind.kind, kind, crd, version, root: version.schema.openAPIV3Schema };
});

function definitionOf(name: string) {
  const found = definitions.find((definition) => definition.name === name);
  if (found === undefined) throw new Error(`no kind ${name}`);
  return found;
}

function* each(schema: Schema, path: string): Generator<[string, Schema]> {
  yield [path, schema];
  for (const [name, field] of Object.entries(schema.properties ?? {})) yield* each(field, `${path}.${name}`);
  if (schema.items) yield* each(schema.items, `${path}[]`);
  if (schema.additionalProperties) yield* each(schema.additionalProperties, `${path}{}`);
}

describe.each(definitions)("$name", ({ kind, crd, version, root }) => {
  test("the committed file is what the schema gives (npx node operator/api/print-crd.ts writes it)", () => {
    const text = printCustomResourceDefinition(kind);
    expect(readFileSync(new URL(`../../${crdFile(kind)}`, import.meta.url), "utf8")).toBe(text);
    expect(parse(text)).toEqual(JSON.parse(JSON.stringify(crd)));
  });

  test("the schema is structural", () => {
    for (const [path, schema] of each(root, "")) {
      expect(schema.type ?? schema["x-kubernetes-int-or-string"], path).toBeTruthy();
      expect(schema.properties !== undefined && schema.additionalProperties !== undefined, path).toBe(false);
      for (const keyword of ["const", "oneOf", "allOf", "not", "$ref", "$schema", "propertyNames", "uniqueItems"]) {
        expect(schema, path).not.toHaveProperty([keyword]);
      }
    }
  });

  test("every field has a description", () => {
    const missing = [...each(root, "")].filter(
      ([path, schema]) => !/(\[\]|\{\})$|^\.metadata/.test(path) && !schema.description,
    );
    expect(missing.map(([path]) => path)).toEqual([]);
  });

  test("columns show fields that there are", () => {
    const paths = new Set([...each(root, "")].map(([path]) => path));
    for (const { name, jsonPath } of version.additionalPrinterColumns) {
      const path = jsonPath.replace(/\[\?\(.*?\)\]/, "[]");
      expect(path === ".metadata.creationTimestamp" || paths.has(path), name).toBe(true);
    }
  });

  test("client-side apply has room: the definition is far below the annotation's 262,144 bytes", () => {
    expect(JSON.stringify(crd).length).toBeLessThan(64 * 1024);
  });
});

test("crds/ has the definitions and nothing else", () => {
  const files = customKinds.map((kind) => crdFile(kind).replace(/^crds\//, ""));
  expect(readdirSync(new URL("../../crds/", import.meta.url)).sort()).toEqual(files.sort());
});

function listsOf(root: Schema): Record<string, unknown> {
  const lists = [...each(root, "")].filter(([, schema]) => schema.type === "array");
  return Object.fromEntries(lists.map(([path, schema]) => [path, schema["x-kubernetes-list-map-keys"] ?? "atomic"]));
}

describe("LeverService", () => {
  const { crd, version, root } = definitionOf("LeverService");

  test("every list has its kind", () => {
    expect(listsOf(root)).toEqual({
      ".spec.template.spec.containers": ["name"],
      ".spec.template.spec.containers[].command": "atomic",
      ".spec.template.spec.containers[].args": "atomic",
      ".spec.template.spec.containers[].env": "atomic",
      ".spec.template.spec.containers[].envFrom": "atomic",
      ".spec.template.spec.initContainers": ["name"],
      ".spec.template.spec.volumes": ["name"],
      ".spec.access.callers": "atomic",
      ".spec.access.gateway.methods": "atomic",
      ".spec.methods": ["name"],
      ".status.conditions": ["type"],
    });
  });

  test("unknown fields are kept in the pod template only", () => {
    const open = [...each(root, "")].filter(([, schema]) => schema["x-kubernetes-preserve-unknown-fields"]);
    expect(open.map(([path]) => path).every((path) => path.startsWith(".spec.template."))).toBe(true);
    expect(open.map(([path]) => path)).toContain(".spec.template.spec");
    expect(open.map(([path]) => path)).toContain(".spec.template.spec.containers[]");
  });

  test("has subresources, columns and names that kubectl users expect", () => {
    expect(version).toMatchObject({
      subresources: {
        status: {},
        scale: { specReplicasPath: ".spec.replicas", labelSelectorPath: ".status.selector" },
      },
    });
    const columns = version.additionalPrinterColumns.map(({ name, priority }) => `${name}${priority ? " (wide)" : ""}`);
    expect(columns).toEqual(["Ready", "Instances", "Desired", "Reason (wide)", "Age"]);
    expect(crd.spec).toMatchObject({ names: { shortNames: ["lsvc"], categories: ["lever"] }, scope: "Namespaced" });
  });
});

describe("LeverEndpointTable", () => {
  const { crd, version, root } = definitionOf("LeverEndpointTable");

  test("has no subresources: a table is written as a whole", () => {
    expect(version).not.toHaveProperty("subresources");
    expect(listsOf(root)).toEqual({ ".instances": "atomic", ".slots": "atomic", ".ownership.rows": "atomic" });
    expect(crd.spec).toMatchObject({ names: { shortNames: ["lept"], categories: ["lever"] }, scope: "Namespaced" });
  });

  test("the largest one is below what etcd takes", () => {
    const id = "a".repeat(63);
    const size = (value: object) => JSON.stringify(value).length + 1;
    const instance = {
      id,
      podUid: "0".repeat(36),
      address: "255.255.255.255:3837",
      zone: "zone-name-1",
      state: "Unreachable",
    };
    const run = { first: 4095, last: 4095, holder: id, epoch: Number.MAX_SAFE_INTEGER };
    // Runs of one slot each are of services with many instances: their ids are as long as pods' names.
    const bytes = 1000 * size(instance) + 4096 * size(run) + 12 * 65_536;
    expect(bytes).toBeLessThan(1.5 * 1024 * 1024);
    expect(root.properties?.["instances"]?.["maxItems"]).toBe(1000);
    expect(root.properties?.["slots"]?.["maxItems"]).toBe(4096);
    expect(root.properties?.["ownership"]?.properties?.["rows"]).toMatchObject({
      maxItems: 12,
      items: { maxLength: 65_536 },
    });
  });
});
