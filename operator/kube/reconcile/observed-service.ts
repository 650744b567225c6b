/**
 * A `LeverService` as the API server gives it, read with the schema that manifests are read with.
 *
 * The API server has checked it by the CRD already. What it has not: an operator of another version than the CRD, whose
 * unknown fields are passed over here (a slip of the pen was refused where it was written), and whose rules may be other.
 */

import type * as z from "zod";
import {
  expectedText,
  type FieldPath,
  type FieldSchema,
  formatPath,
  schemaAt,
  serviceFieldSchema,
} from "../../api/field-schema.ts";
import { describeValue } from "../../api/manifest-problem.ts";
import type { CrossFieldRule } from "../../api/v1alpha1/cross-field-rule.ts";
import {
  apiVersion,
  type LeverService,
  type LeverServiceStatus,
  leverServiceKind,
  leverServiceSchema,
} from "../../api/v1alpha1/lever-service.ts";
import type { LeverServiceObject } from "./kubernetes-object.ts";

export interface ObservedService {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly generation: number;
  /** It is being deleted: nothing more is made for it. */
  readonly isDeleting: boolean;
  readonly status: LeverServiceStatus;
  /** Undefined: it cannot be read. */
  readonly service: LeverService | undefined;
  /** Why not: sentences; empty if it can. */
  readonly problems: readonly string[];
}

/** Problems that are told; more of them tell nobody more. */
const problemsToldMax = 5;

export function observeService(object: LeverServiceObject): ObservedService {
  const {
    name = "",
    namespace = "",
    uid = "",
    generation = 0,
    labels,
    annotations,
    deletionTimestamp,
  } = object.metadata;
  const written = {
    apiVersion,
    kind: leverServiceKind,
    metadata: { name, namespace, ...(labels && { labels }), ...(annotations && { annotations }) },
    spec: known(object.spec, serviceFieldSchema.properties?.["spec"]),
  };
  const parsed = leverServiceSchema.safeParse(written);
  return {
    name,
    namespace,
    uid,
    generation,
    isDeleting: deletionTimestamp !== undefined,
    status: object.status ?? {},
    service: parsed.success ? parsed.data : undefined,
    problems: parsed.success
      ? []
      : parsed.error.issues.slice(0, problemsToldMax).map((issue) => issueText(issue, written)),
  };
}

/** `value` without fields that the schema does not know, and without nulls, which stand for nothing. */
function known(value: unknown, schema: FieldSchema | undefined): unknown {
  if (Array.isArray(value)) return value.map((item) => known(item, schema?.items));
  if (typeof value !== "object" || value === null) return value;
  const isClosed = schema?.additionalProperties === false;
  const entries = Object.entries(value).filter(
    ([name, field]) => field !== null && !(isClosed && schema.properties?.[name] === undefined),
  );
  return Object.fromEntries(entries.map(([name, field]) => [name, known(field, schema?.properties?.[name])]));
}

function issueText(issue: z.core.$ZodIssue, written: unknown): string {
  const path = issue.path as FieldPath;
  const rule = issue.code === "custom" ? (issue.params as { rule?: CrossFieldRule<never> }).rule : undefined;
  let value: unknown = written;
  for (const step of path) value = (value as Record<string | number, unknown> | undefined)?.[step];
  const expected = rule?.message ?? expectedText(schemaAt(serviceFieldSchema, path) ?? serviceFieldSchema);
  const text = `${formatPath(path)}: found ${describeValue(value)}, expected ${expected}.`;
  return rule === undefined ? text : `${text} ${rule.remedy}`;
}
