/**
 * The CustomResourceDefinitions of Lever's kinds, generated from the zod schemas.
 *
 * A CRD takes JSON Schema in Kubernetes' structural form only, so this turns the one into the other: additional
 * properties are not forbidden but pruned (or, under strict field validation, which kubectl asks for, refused), maps of
 * entries become list-maps, quantities int-or-string, cross-field rules CEL.
 */

import { Document } from "yaml";
import { type FieldSchema, serviceFieldSchema, statusFieldSchema, tableFieldSchema } from "./field-schema.ts";
import { leverEndpointTableKind } from "./v1alpha1/lever-endpoint-table.ts";
import { apiGroup, leverServiceKind } from "./v1alpha1/lever-service.ts";

/** A kind as the API server is told of it. */
export interface CustomKind {
  readonly kind: string;
  readonly plural: string;
  readonly shortName: string;
  readonly description: string;
  /** Of the whole object, as it is written. */
  readonly schema: FieldSchema;
  /** Undefined: the kind has no status. */
  readonly status?: FieldSchema;
  /** Has replicas: the scale subresource. */
  readonly isScalable: boolean;
  readonly columns: readonly PrinterColumn[];
}

interface PrinterColumn {
  readonly name: string;
  readonly type: "string" | "integer" | "date";
  readonly jsonPath: string;
  readonly description: string;
  /** 1: with `-o wide` only. */
  readonly priority?: 1;
}

const age: PrinterColumn = {
  name: "Age",
  type: "date",
  jsonPath: ".metadata.creationTimestamp",
  description: "Time since it was created.",
};

const ready = (field: "status" | "reason") => `.status.conditions[?(@.type=="Ready")].${field}`;

export const customKinds: readonly CustomKind[] = [
  {
    kind: leverServiceKind,
    plural: "leverservices",
    shortName: "lsvc",
    description: "A service that others call by its name: what runs it, and what callers may assume about it.",
    schema: serviceFieldSchema,
    status: statusFieldSchema,
    isScalable: true,
    columns: [
      { name: "Ready", type: "string", jsonPath: ready("status"), description: "Whether it takes calls." },
      {
        name: "Instances",
        type: "integer",
        jsonPath: ".status.readyReplicas",
        description: "Instances that take calls.",
      },
      { name: "Desired", type: "integer", jsonPath: ".spec.replicas", description: "Instances that are wanted." },
      { name: "Reason", type: "string", jsonPath: ready("reason"), description: "Why it is not Ready.", priority: 1 },
      age,
    ],
  },
  {
    kind: leverEndpointTableKind,
    plural: "leverendpointtables",
    shortName: "lept",
    description:
      "What callers know of a LeverService: its instances, and which of them holds which slots. Written by the operator " +
      "only; it goes with the service.",
    schema: tableFieldSchema,
    isScalable: false,
    columns: [
      { name: "Serving", type: "integer", jsonPath: ".servingInstances", description: "Instances that take calls." },
      { name: "Held", type: "integer", jsonPath: ".heldSlots", description: "Slots that an instance holds." },
      { name: "Version", type: "integer", jsonPath: ".version", description: "Rises with each change.", priority: 1 },
      age,
    ],
  },
];

/** From the repository's root. */
export function crdFile({ plural }: CustomKind): string {
  return `crds/${apiGroup}_${plural}.yaml`;
}

interface StructuralSchema {
  [keyword: string]: unknown;
  properties?: { [name: string]: StructuralSchema };
}

/** `schema` in Kubernetes' structural form. */
function structural(schema: FieldSchema): StructuralSchema {
  const result: StructuralSchema = {};
  if (schema.description !== undefined) result["description"] = schema.description;
  if (schema.intOrString) {
    result["x-kubernetes-int-or-string"] = true;
    result["anyOf"] = [{ type: "integer" }, { type: "string" }];
    // These say nothing about integers; the CRD takes no type inside of anyOf but in this very form.
    const text = schema.anyOf?.find((alternative) => alternative.type === "string");
    for (const keyword of ["maxLength", "pattern"] as const) {
      if (text?.[keyword] !== undefined) result[keyword] = text[keyword];
    }
  } else {
    result["type"] = schema.type;
  }
  if (schema.type === "integer")
    result["format"] = (schema.maximum ?? Number.MAX_VALUE) > 0x7fffffff ? "int64" : "int32";
  if (schema.format === "date-time") result["format"] = schema.format;
  else if (schema.pattern !== undefined) result["pattern"] = schema.pattern;
  for (const keyword of ["default", "enum", "minLength", "maxLength", "minimum", "minItems", "maxItems"] as const) {
    if (schema[keyword] !== undefined) result[keyword] = schema[keyword];
  }
  // The largest safe integer is the absence of a bound.
  if (schema.maximum !== undefined && schema.maximum < Number.MAX_SAFE_INTEGER) result["maximum"] = schema.maximum;
  if (schema.type === "array") {
    result["x-kubernetes-list-type"] = schema.listMapKey === undefined ? "atomic" : "map";
    if (schema.listMapKey !== undefined) result["x-kubernetes-list-map-keys"] = [schema.listMapKey];
    if (schema.items !== undefined) result["items"] = structural(schema.items);
  }
  if (schema.properties !== undefined) {
    if (schema.required !== undefined) result["required"] = schema.required;
    result.properties = Object.fromEntries(
      Object.entries(schema.properties).map(([name, field]) => [name, structural(field)]),
    );
    // Fields that zod keeps although it does not know them.
    if (schema.additionalProperties) result["x-kubernetes-preserve-unknown-fields"] = true;
  } else if (schema.additionalProperties) {
    result["additionalProperties"] = structural(schema.additionalProperties);
  }
  const rules = [...(schema.rules ?? []), ...(schema.changeRules ?? []).map((rule) => ({ ...rule, path: [] }))];
  if (rules.length > 0) {
    result["x-kubernetes-validations"] = rules.map((rule) => ({
      rule: rule.cel,
      message: `expected ${rule.message}. ${rule.remedy}`,
      ...(rule.path.length > 0 ? { fieldPath: `.${rule.path.join(".")}` } : {}),
    }));
  }
  return result;
}

/** The definition of `kind`, as an object of Kubernetes. */
export function customResourceDefinition(kind: CustomKind): unknown {
  const { plural, status } = kind;
  const { type, required = [], properties = {}, ...rest } = structural(kind.schema);
  const { apiVersion: _, kind: __, metadata, ...fields } = properties;
  const subresources = {
    ...(status === undefined ? {} : { status: {} }),
    ...(kind.isScalable && {
      scale: {
        specReplicasPath: ".spec.replicas",
        statusReplicasPath: ".status.replicas",
        labelSelectorPath: ".status.selector",
      },
    }),
  };
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${plural}.${apiGroup}` },
    spec: {
      group: apiGroup,
      scope: "Namespaced",
      names: {
        kind: kind.kind,
        listKind: `${kind.kind}List`,
        plural,
        singular: kind.kind.toLowerCase(),
        shortNames: [kind.shortName],
        categories: ["lever"],
      },
      versions: [
        {
          name: "v1alpha1",
          served: true,
          storage: true,
          ...(Object.keys(subresources).length > 0 && { subresources }),
          additionalPrinterColumns: kind.columns,
          schema: {
            openAPIV3Schema: {
              description: kind.description,
              type,
              // The API server has seen to these before it looks at the schema.
              ...withoutEmpty(required as string[]),
              properties: {
                apiVersion: { description: "The version of this schema.", type: "string" },
                kind: { description: "The kind of this object.", type: "string" },
                // A CRD may say of metadata no more than what its name is.
                metadata: {
                  type: "object",
                  properties: {
                    name: pick(metadata?.properties?.["name"], ["type", "pattern", "minLength", "maxLength"]),
                  },
                },
                ...fields,
                ...(status && {
                  status: { description: "What is. Written by the operator only.", ...structural(status) },
                }),
              },
              ...rest,
            },
          },
        },
      ],
    },
  };
}

function withoutEmpty(required: readonly string[]): { required?: string[] } {
  const asked = required.filter((name) => !["apiVersion", "kind", "metadata"].includes(name));
  return asked.length === 0 ? {} : { required: asked };
}

function pick(schema: StructuralSchema | undefined, keywords: readonly string[]): StructuralSchema {
  return Object.fromEntries(keywords.map((keyword) => [keyword, schema?.[keyword]]));
}

/** The text of the kind's `crdFile`. */
export function printCustomResourceDefinition(kind: CustomKind): string {
  const document = new Document(customResourceDefinition(kind), { aliasDuplicateObjects: false });
  document.commentBefore = " Generated from operator/api/v1alpha1: npx node operator/api/print-crd.ts";
  return document.toString({ lineWidth: 0 });
}
