/**
 * The CustomResourceDefinition of `LeverService`, generated from the zod schemas.
 *
 * A CRD takes JSON Schema in Kubernetes' structural form only, so this turns the one into the other: additional
 * properties are not forbidden but pruned (or, under strict field validation, which kubectl asks for, refused), maps of
 * entries become list-maps, quantities int-or-string, cross-field rules CEL.
 */

import { Document } from "yaml";
import { type FieldSchema, serviceFieldSchema, statusFieldSchema } from "./field-schema.ts";
import { apiGroup, leverServiceKind } from "./v1alpha1/lever-service.ts";

export const crdFile = "crds/leveros.dev_leverservices.yaml";

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

export function leverServiceCrd(): unknown {
  const service = structural(serviceFieldSchema);
  const { metadata, spec } = service.properties as { [name: string]: StructuralSchema };
  const name = metadata?.properties?.["name"];
  const plural = "leverservices";
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${plural}.${apiGroup}` },
    spec: {
      group: apiGroup,
      scope: "Namespaced",
      names: {
        kind: leverServiceKind,
        listKind: `${leverServiceKind}List`,
        plural,
        singular: "leverservice",
        shortNames: ["lsvc"],
        categories: ["lever"],
      },
      versions: [
        {
          name: "v1alpha1",
          served: true,
          storage: true,
          subresources: {
            status: {},
            scale: {
              specReplicasPath: ".spec.replicas",
              statusReplicasPath: ".status.replicas",
              labelSelectorPath: ".status.selector",
            },
          },
          additionalPrinterColumns: [
            printerColumn(
              "Ready",
              "string",
              '.status.conditions[?(@.type=="Ready")].status',
              "Whether it takes calls.",
            ),
            printerColumn("Instances", "integer", ".status.readyReplicas", "Instances that take calls."),
            printerColumn("Desired", "integer", ".spec.replicas", "Instances that are wanted."),
            {
              ...printerColumn(
                "Reason",
                "string",
                '.status.conditions[?(@.type=="Ready")].reason',
                "Why it is not Ready.",
              ),
              priority: 1,
            },
            printerColumn("Age", "date", ".metadata.creationTimestamp", "Time since it was created."),
          ],
          schema: {
            openAPIV3Schema: {
              description:
                "A service that others call by its name: what runs it, and what callers may assume about it.",
              type: "object",
              required: ["spec"],
              properties: {
                apiVersion: { description: "The version of this schema.", type: "string" },
                kind: { description: "The kind of this object.", type: "string" },
                // A CRD may say of metadata no more than what its name is.
                metadata: {
                  type: "object",
                  properties: { name: pick(name, ["type", "pattern", "minLength", "maxLength"]) },
                },
                spec,
                status: { description: "What is. Written by the operator only.", ...structural(statusFieldSchema) },
              },
            },
          },
        },
      ],
    },
  };
}

function printerColumn(name: string, type: string, jsonPath: string, description: string) {
  return { name, type, jsonPath, description };
}

function pick(schema: StructuralSchema | undefined, keywords: readonly string[]): StructuralSchema {
  return Object.fromEntries(keywords.map((keyword) => [keyword, schema?.[keyword]]));
}

/** The text of `crdFile`. */
export function printLeverServiceCrd(): string {
  const document = new Document(leverServiceCrd(), { aliasDuplicateObjects: false });
  document.commentBefore = " Generated from operator/api/v1alpha1: npx node operator/api/print-crd.ts";
  return document.toString({ lineWidth: 0 });
}
