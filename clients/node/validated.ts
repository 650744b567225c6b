/**
 * Arguments checked by any Standard Schema validator (https://standardschema.dev): zod, valibot, arktype and others.
 * A call whose arguments do not fit is refused before the method runs.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";

/** The part of Standard Schema v1 that is used, as its specification has it. */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    validate(value: unknown): StandardResult<Output> | Promise<StandardResult<Output>>;
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

export type StandardResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly StandardIssue[] };

export interface StandardIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

type InputsOf<Schemas extends readonly StandardSchema[]> = {
  -readonly [Index in keyof Schemas]: Schemas[Index] extends StandardSchema<infer Input, unknown> ? Input : never;
};
type OutputsOf<Schemas extends readonly StandardSchema[]> = {
  -readonly [Index in keyof Schemas]: Schemas[Index] extends StandardSchema<unknown, infer Output> ? Output : never;
};

const schemasOf = Symbol.for("leveros.dev/schemas");

/**
 * A method with a schema for each argument. `serve` checks them before the method runs, and the method gets the
 * schemas' outputs; its callers see their inputs.
 *
 *     export const hello = {
 *       sayHello: validated([z.string().min(1)], (name) => `Hello, ${name}!`),
 *     };
 */
export function validated<const Schemas extends readonly StandardSchema[], Result>(
  schemas: Schemas,
  method: (...args: OutputsOf<Schemas>) => Result,
): (...args: InputsOf<Schemas>) => Result {
  return Object.assign((...args: unknown[]) => method(...(args as OutputsOf<Schemas>)), { [schemasOf]: schemas }) as (
    ...args: InputsOf<Schemas>
  ) => Result;
}

/** As `validated`, for a streaming method: the schemas are those of the arguments behind the channel. */
export function validatedChannel<const Schemas extends readonly StandardSchema[], Receives, Sends, Result>(
  schemas: Schemas,
  method: (channel: Channel<Receives, Sends>, ...args: OutputsOf<Schemas>) => Result,
): (channel: Channel<Receives, Sends>, ...args: InputsOf<Schemas>) => Result {
  const checked = (channel: Channel<Receives, Sends>, ...args: unknown[]) =>
    method(channel, ...(args as OutputsOf<Schemas>));
  return Object.assign(checked, { [schemasOf]: schemas }) as (
    channel: Channel<Receives, Sends>,
    ...args: InputsOf<Schemas>
  ) => Result;
}

/** The schemas of a method's arguments, if it has some. */
export function schemasFor(method: object): readonly StandardSchema[] | undefined {
  return (method as { [schemasOf]?: readonly StandardSchema[] })[schemasOf];
}

/** The checked arguments; a promise if a validator gives one. Raises INVALID_ARGUMENTS, naming the argument. */
export function checkArguments(
  schemas: readonly StandardSchema[],
  args: readonly unknown[],
  method: string,
): unknown[] | Promise<unknown[]> {
  if (args.length > schemas.length) {
    throw new LeverError(
      "INVALID_ARGUMENTS",
      `${method} was given ${args.length} arguments, expected at most ${schemas.length}`,
      { effect: "none", details: { method, count: args.length, countMax: schemas.length } },
    );
  }
  const results = schemas.map((schema, index) => schema["~standard"].validate(args[index]));
  return results.some((result) => result instanceof Promise)
    ? Promise.all(results).then((settled) => settled.map((result, index) => checkedValue(result, index, method)))
    : (results as StandardResult<unknown>[]).map((result, index) => checkedValue(result, index, method));
}

function checkedValue(result: StandardResult<unknown>, index: number, method: string): unknown {
  if (result.issues === undefined) return result.value;
  const issues = result.issues.slice(0, 20).map((issue) => ({ path: pathOf(issue, index), message: issue.message }));
  throw new LeverError(
    "INVALID_ARGUMENTS",
    `${method}: ${issues.map((issue) => `${issue.path}: ${issue.message}`).join("; ")}`,
    { effect: "none", details: { method, issues } },
  );
}

function pathOf(issue: StandardIssue, index: number): string {
  let path = `args[${index}]`;
  for (const part of issue.path ?? []) {
    const key = typeof part === "object" ? part.key : part;
    path += typeof key === "number" ? `[${key}]` : `.${String(key)}`;
  }
  return path;
}
