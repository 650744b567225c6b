import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { parse } from "yaml";
import { crdFile, leverServiceCrd, printLeverServiceCrd } from "./crd.ts";

type Schema = Record<string, unknown> & {
  type?: string;
  description?: string;
  properties?: Record<string, Schema>;
  items?: Schema;
  additionalProperties?: Schema;
};

const crd = leverServiceCrd() as {
  spec: {
    versions: [
      { schema: { openAPIV3Schema: Schema }; additionalPrinterColumns: { name: string; priority?: number }[] },
    ];
  };
};
const [version] = crd.spec.versions;
const root = version.schema.openAPIV3Schema;

function* each(schema: Schema, path: string): Generator<[string, Schema]> {
  yield [path, schema];
  for (const [name, field] of Object.entries(schema.properties ?? {})) yield* each(field, `${path}.${name}`);
  if (schema.items) yield* each(schema.items, `${path}[]`);
  if (schema.additionalProperties) yield* each(schema.additionalProperties, `${path}{}`);
}

test("the committed file is what the schema gives (npx node operator/api/print-crd.ts writes it)", () => {
  expect(readFileSync(new URL(`../../${crdFile}`, import.meta.url), "utf8")).toBe(printLeverServiceCrd());
  expect(parse(printLeverServiceCrd())).toEqual(JSON.parse(JSON.stringify(leverServiceCrd())));
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

test("every field has a description, every list its kind", () => {
  const missing = [...each(root, "")].filter(
    ([path, schema]) => !/(\[\]|\{\})$|^\.metadata/.test(path) && !schema.description,
  );
  expect(missing.map(([path]) => path)).toEqual([]);
  const lists = [...each(root, "")].filter(([, schema]) => schema.type === "array");
  expect(
    Object.fromEntries(lists.map(([path, schema]) => [path, schema["x-kubernetes-list-map-keys"] ?? "atomic"])),
  ).toEqual({
    ".spec.template.spec.containers": ["name"],
    ".spec.template.spec.containers[].command": "atomic",
    ".spec.template.spec.containers[].args": "atomic",
    ".spec.template.spec.containers[].env": "atomic",
    ".spec.template.spec.containers[].envFrom": "atomic",
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
    subresources: { status: {}, scale: { specReplicasPath: ".spec.replicas", labelSelectorPath: ".status.selector" } },
  });
  const columns = version.additionalPrinterColumns.map(({ name, priority }) => `${name}${priority ? " (wide)" : ""}`);
  expect(columns).toEqual(["Ready", "Instances", "Desired", "Reason (wide)", "Age"]);
  expect(crd.spec).toMatchObject({ names: { shortNames: ["lsvc"], categories: ["lever"] }, scope: "Namespaced" });
});

test("client-side apply has room: the CRD is far below the annotation's 262,144 bytes", () => {
  expect(JSON.stringify(leverServiceCrd()).length).toBeLessThan(64 * 1024);
});
