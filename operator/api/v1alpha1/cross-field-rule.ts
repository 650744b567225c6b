/**
 * A rule that a type alone cannot say, as one row: the same row refines the zod schema and becomes an entry of the
 * CRD's `x-kubernetes-validations`, so that `lever dev` and the API server refuse the same manifests.
 */

import * as z from "zod";

export interface CrossFieldRule<Value> {
  /** A stable word in kebab-case; problems and tests name it. */
  readonly name: string;
  /** The field at fault, from the object that the rule is about; empty: the object itself. */
  readonly path: readonly string[];
  /** The refinement: true for what is valid. It runs after every field of the object was found valid by itself. */
  readonly holds: (value: Value) => boolean;
  /** The same in CEL, over the object as it is written in the manifest (quantities are strings or integers). */
  readonly cel: string;
  /** What was expected, as `expected …` goes on; ends without a full stop. */
  readonly message: string;
  /** What to do, a sentence. */
  readonly remedy: string;
}

/** A rule about what a field's value may become, once the object is there. It is asked where there is a value before. */
export interface ChangeRule<Value> {
  readonly name: string;
  readonly holds: (value: Value, before: Value) => boolean;
  /** The same in CEL, over `self` and `oldSelf`. */
  readonly cel: string;
  /** What was expected, as `expected …` goes on; ends without a full stop. */
  readonly message: string;
  /** What to do, a sentence. */
  readonly remedy: string;
}

/** `schema` with the rules as metadata for the CRD; `manifest-change.ts` asks the same ones. */
export function withChangeRules<Schema extends z.ZodType>(
  schema: Schema,
  changeRules: readonly ChangeRule<z.output<Schema>>[],
): Schema {
  return schema.meta({ changeRules });
}

/** `schema` with the rules as refinements, and as metadata for the CRD and for whoever lists the rules. */
export function withRules<Schema extends z.ZodType>(
  schema: Schema,
  rules: readonly CrossFieldRule<z.output<Schema>>[],
): Schema {
  // Issues that do not continue: the rules of an enclosing object see valid values only.
  const check = z.superRefine<z.output<Schema>>((value, context) => {
    for (const rule of rules) {
      if (!rule.holds(value))
        context.addIssue({ code: "custom", path: [...rule.path], params: { rule }, continue: false });
    }
  });
  return schema.check(check as z.core.$ZodCheck<z.output<Schema>>).meta({ rules });
}

/** A list whose entries are told apart by `key`: a map by name, as Kubernetes' `x-kubernetes-list-type: map`. */
export function listMap<Item extends z.ZodType>(item: Item, key: string, itemsMax: number) {
  return z
    .array(item)
    .max(itemsMax)
    .superRefine((items, context) => {
      const firstIndex = new Map<unknown, number>();
      items.forEach((entry, index) => {
        const value = (entry as Record<string, unknown>)[key];
        const first = firstIndex.get(value);
        if (first === undefined) firstIndex.set(value, index);
        else {
          context.addIssue({
            code: "custom",
            path: [index, key],
            params: { duplicateOf: [first, key] },
            continue: false,
          });
        }
      });
    })
    .meta({ listMapKey: key });
}
