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

/** Arguments at the end that take `undefined` may be left out. */
type TrailingOptional<Values extends readonly unknown[]> = Values extends readonly [...infer Head, infer Last]
  ? undefined extends Last
    ? [...TrailingOptional<Head>, Last?]
    : Values
  : Values;

type InputsOf<Schemas extends readonly StandardSchema[]> = TrailingOptional<{
  -readonly [Index in keyof Schemas]: Schemas[Index] extends StandardSchema<infer Input, unknown> ? Input : never;
}>;
type OutputsOf<Schemas extends readonly StandardSchema[]> = {
  -readonly [Index in keyof Schemas]: Schemas[Index] extends StandardSchema<unknown, infer Output> ? Output : never;
};

type AnyFunction = (...args: unknown[]) => unknown;

/** What a method made here is made of. */
interface Validated {
  readonly schemas: readonly StandardSchema[];
  readonly method: AnyFunction;
}

const brand = Symbol.for("leveros.dev/validated");

/**
 * A method with a schema for each argument. They are checked before the method runs, and the method gets the schemas'
 * outputs; its callers see their inputs. A call with other arguments is refused: INVALID_ARGUMENTS, or ARGS_FORM if it
 * came with bytes. Called directly it checks too, and gives a promise if a validator does.
 *
 *     export const hello = {
 *       sayHello: validated([z.string().min(1)], (name) => `Hello, ${name}!`),
 *     };
 */
export function validated<const Schemas extends readonly StandardSchema[], Result>(
  schemas: Schemas,
  method: (...args: OutputsOf<Schemas>) => Result,
): (...args: InputsOf<Schemas>) => Result {
  return checked(schemas, method as AnyFunction, 0) as (...args: InputsOf<Schemas>) => Result;
}

/** As `validated`, for a streaming method: the schemas are those of the arguments behind the channel. */
export function validatedChannel<const Schemas extends readonly StandardSchema[], Receives, Sends, Result>(
  schemas: Schemas,
  method: (channel: Channel<Receives, Sends>, ...args: OutputsOf<Schemas>) => Result,
): (channel: Channel<Receives, Sends>, ...args: InputsOf<Schemas>) => Result {
  return checked(schemas, method as AnyFunction, 1) as (
    channel: Channel<Receives, Sends>,
    ...args: InputsOf<Schemas>
  ) => Result;
}

/** `unchecked`: how many arguments stand before those with schemas. */
function checked(schemas: readonly StandardSchema[], method: AnyFunction, unchecked: number): AnyFunction {
  function run(this: unknown, ...args: unknown[]): unknown {
    const call = (values: unknown[]) => method.apply(this, [...args.slice(0, unchecked), ...values]);
    const values = checkArguments(schemas, args.slice(unchecked), method.name || "the method");
    return values instanceof Promise ? values.then(call) : call(values);
  }
  const made: Validated = { schemas, method };
  return Object.defineProperty(run, brand, { value: made });
}

/** What `validated` made a function of; undefined for any other function. */
export function validatedMethod(method: object): Validated | undefined {
  return (method as { [brand]?: Validated })[brand];
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
  return results.some(isThenable)
    ? Promise.all(results).then((settled) => settled.map((result, index) => checkedValue(result, index, method)))
    : (results as StandardResult<unknown>[]).map((result, index) => checkedValue(result, index, method));
}

function isThenable(result: object): boolean {
  return typeof (result as { then?: unknown }).then === "function";
}

const issuesMax = 20;
const issueCharsMax = 200;

function checkedValue(result: StandardResult<unknown>, index: number, method: string): unknown {
  if (result.issues === undefined) return result.value;
  const issues = result.issues.slice(0, issuesMax).map((issue) => ({
    path: pathOf(issue, index),
    message: issue.message.length > issueCharsMax ? `${issue.message.slice(0, issueCharsMax)}…` : issue.message,
  }));
  const more = result.issues.length > issuesMax ? `; and ${result.issues.length - issuesMax} more` : "";
  throw new LeverError(
    "INVALID_ARGUMENTS",
    `${method}: ${issues.map((issue) => `${issue.path}: ${issue.message}`).join("; ")}${more}`,
    { effect: "none", details: { method, issues } },
  );
}

const identifier = /^[A-Za-z_$][A-Za-z0-9_$]*$/;

/** As in the errors of values: `args[1].when`. */
function pathOf(issue: StandardIssue, index: number): string {
  let path = `args[${index}]`;
  for (const part of issue.path ?? []) {
    const key = typeof part === "object" ? part.key : part;
    if (typeof key === "number") path += `[${key}]`;
    else path += identifier.test(String(key)) ? `.${String(key)}` : `[${JSON.stringify(String(key))}]`;
  }
  return path;
}
