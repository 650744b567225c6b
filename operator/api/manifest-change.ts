/**
 * What a manifest may not change of a service that is there already: the rules that the CRD states with `oldSelf`, where
 * there is no API server to ask them.
 */

import { type FieldPath, formatPath } from "./field-schema.ts";
import { describeValue, type ManifestProblem, problemAt } from "./manifest-problem.ts";
import type { ManifestSet } from "./manifest-reader.ts";
import { type LeverService, serviceChangeRules } from "./v1alpha1/lever-service.ts";

/** The problems of `after`, one of `set`, as the successor of `before`; none for a service of another name. */
export function changeProblems(set: ManifestSet, before: LeverService, after: LeverService): ManifestProblem[] {
  const { namespace, name } = before.metadata;
  if (after.metadata.namespace !== namespace || after.metadata.name !== name) return [];
  return serviceChangeRules.flatMap(({ path, rule }) => {
    const [value, former] = [numberAt(after, path), numberAt(before, path)];
    if (value === undefined || former === undefined || rule.holds(value, former)) return [];
    const found = `${describeValue(value)} where it was ${describeValue(former)}`;
    return [problemAt(set.locate(after).place(path), rule.name, path, found, rule.message, rule.remedy)];
  });
}

function numberAt(service: LeverService, path: FieldPath): number | undefined {
  let value: unknown = service;
  for (const step of path) value = (value as Record<string, unknown> | undefined)?.[step];
  if (value !== undefined && typeof value !== "number") throw new TypeError(`${formatPath(path)} is no number`);
  return value;
}
