/**
 * The parts of charts/lever that are made from other files: the CustomResourceDefinitions, which are those of `crds/`, and
 * the table of values in its README. `npm run generate` writes them; chart.test.ts compares.
 */

import { readFileSync } from "node:fs";
import path from "node:path";
import { parse } from "yaml";

const root = path.resolve(import.meta.dirname, "..");
const chart = path.join(root, "charts/lever");
const read = (file: string) => readFileSync(path.join(root, file), "utf8");

/** Text by file, relative to the project's root. `crds` are files of it. */
export function generatedChartFiles(crds: readonly string[]): Record<string, string> {
  const files = crds.map((file) => [crdTemplateOf(file), crdTemplate(read(file))]);
  const readme = read("charts/lever/README.md");
  return { ...Object.fromEntries(files), "charts/lever/README.md": withTable(readme, valuesTable()) };
}

export function crdTemplateOf(file: string): string {
  return `charts/lever/templates/crds/${path.basename(file).replace(/^[^_]*_/, "")}`;
}

/** Helm's own folder for CRDs would never upgrade them. */
function crdTemplate(crd: string): string {
  const metadata = /^metadata:\n {2}name: \S+\n/m;
  if (!metadata.test(crd) || crd.includes("{{")) throw new Error("the CRD is not of the form that is expected");
  const kept = `$&  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
  labels:
    {{- include "lever.constantLabels" (list . "crds") | nindent 4 }}
`;
  return `{{- if .Values.crds.enabled }}\n${crd.replace(metadata, kept)}{{- end }}\n`;
}

interface Schema {
  readonly $ref?: string;
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly definitions?: Readonly<Record<string, Schema>>;
}

/** Defaults are those of values.yaml, descriptions those of values.schema.json. */
function valuesTable(): string {
  const schema = JSON.parse(readFileSync(path.join(chart, "values.schema.json"), "utf8")) as Schema;
  const values: unknown = parse(readFileSync(path.join(chart, "values.yaml"), "utf8"));
  const rows: string[] = [];
  const walk = (name: string, value: unknown, given: Schema) => {
    const definition = given.$ref?.replace("#/definitions/", "");
    const field = { ...(definition === undefined ? {} : schema.definitions?.[definition]), ...given };
    const isGroup = typeof value === "object" && value !== null && field.properties !== undefined;
    if (isGroup && !name.endsWith("ecurityContext")) {
      for (const [key, inner] of Object.entries(value)) {
        const innerSchema = field.properties?.[key];
        if (innerSchema === undefined) throw new Error(`values.schema.json does not know ${name}.${key}`);
        walk(name === "" ? key : `${name}.${key}`, inner, innerSchema);
      }
      return;
    }
    if (field.description === undefined) throw new Error(`values.schema.json says nothing of ${name}`);
    const cell = (text: string) => text.replaceAll("|", "\\|");
    rows.push(`| \`${name}\` | \`${cell(JSON.stringify(value))}\` | ${cell(field.description)} |`);
  };
  walk("", values, schema);
  return ["| value | default | |", "|---|---|---|", ...rows].join("\n");
}

function withTable(readme: string, table: string): string {
  const place = /(<!-- values -->\n).*(<!-- \/values -->)/s;
  if (!place.test(readme)) throw new Error("charts/lever/README.md has no place for the table of values");
  return readme.replace(place, (_, begin: string, end: string) => `${begin}${table}\n${end}`);
}
