/**
 * The schemas of Lever's kinds as JSON Schema over what people write (before defaults), and questions to it by path:
 * which fields there are, what a field expects. Problems, the CRD and the tests' list of fields all read this one.
 */

import * as z from "zod";
import { leverEndpointTableSchema } from "./v1alpha1/lever-endpoint-table.ts";
import { leverServiceSchema, leverServiceStatusSchema } from "./v1alpha1/lever-service.ts";

/** A cross-field rule without its refinement. */
export interface RuleText {
  readonly name: string;
  readonly path: readonly string[];
  readonly cel: string;
  readonly message: string;
  readonly remedy: string;
}

/** The part of JSON Schema that zod's output uses here, with the metadata of our schemas. */
export interface FieldSchema {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly const?: string;
  readonly enum?: readonly string[];
  readonly pattern?: string;
  readonly format?: string;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly items?: FieldSchema;
  readonly properties?: Readonly<Record<string, FieldSchema>>;
  readonly required?: readonly string[];
  /** `false`: other fields are refused; a schema with a type: a map; an empty one: other fields are kept. */
  readonly additionalProperties?: false | FieldSchema;
  /** What is expected, where the type and bounds alone say it badly. */
  readonly expected?: string;
  readonly intOrString?: true;
  readonly anyOf?: readonly FieldSchema[];
  readonly listMapKey?: string;
  readonly rules?: readonly RuleText[];
  /** Without `path`: they are about the field itself. */
  readonly changeRules?: readonly Omit<RuleText, "path">[];
}

export type FieldPath = readonly (string | number)[];

export const serviceFieldSchema = z.toJSONSchema(leverServiceSchema, { io: "input" }) as FieldSchema;
export const statusFieldSchema = z.toJSONSchema(leverServiceStatusSchema, { io: "input" }) as FieldSchema;
export const tableFieldSchema = z.toJSONSchema(leverEndpointTableSchema, { io: "input" }) as FieldSchema;

/** The schema of the field at `path`, or undefined where the schema says nothing. */
export function schemaAt(root: FieldSchema, path: FieldPath): FieldSchema | undefined {
  let schema: FieldSchema | undefined = root;
  for (const step of path) {
    if (schema === undefined) return undefined;
    if (typeof step === "number") schema = schema.items;
    else if (schema.properties !== undefined && Object.hasOwn(schema.properties, step))
      schema = schema.properties[step];
    else schema = schema.additionalProperties || undefined;
  }
  return schema;
}

/** `an integer from 0 to 1000`, as `expected …` goes on. */
export function expectedText(schema: FieldSchema): string {
  if (schema.expected !== undefined) return schema.expected;
  if (schema.const !== undefined) return schema.const;
  if (schema.enum !== undefined) return `one of ${schema.enum.join(", ")}`;
  switch (schema.type) {
    case "integer":
      return `an integer from ${schema.minimum} to ${schema.maximum}`;
    case "boolean":
      return "true or false";
    case "string":
      if (schema.maxLength !== undefined)
        return `a string of ${schema.minLength ?? 0} to ${schema.maxLength} characters`;
      return schema.minLength === undefined ? "a string" : "a string that is not empty";
    case "array": {
      const entries = schema.items?.type === "string" ? "strings" : "maps";
      if (schema.maxItems === undefined) return `a list of ${entries}`;
      return `a list of ${schema.minItems ?? 0} to ${schema.maxItems} ${entries}`;
    }
    default:
      if (schema.properties === undefined) return "a map of strings";
      return `a map with the fields ${Object.keys(schema.properties).join(", ")}`;
  }
}

/** `spec.methods[2].name`, `metadata.annotations["leveros.dev/dev-command"]`. */
export function formatPath(path: FieldPath): string {
  let text = "";
  for (const step of path) {
    if (typeof step === "number") text += `[${step}]`;
    else if (/^[A-Za-z_$*][\w$*-]*$/.test(step)) text += text === "" ? step : `.${step}`;
    else text += `[${JSON.stringify(step)}]`;
  }
  return text;
}

/** Every field with its path, list entries as `[]`, in the schema's order. */
export function* eachField(schema: FieldSchema, prefix = ""): Generator<{ path: string; schema: FieldSchema }> {
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const path = prefix === "" ? name : `${prefix}.${name}`;
    yield { path, schema: field };
    yield* eachField(field, path);
  }
  if (schema.items !== undefined) yield* eachField(schema.items, `${prefix}[]`);
}
