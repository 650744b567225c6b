/**
 * Which functions of an object can be called from outside: own ones and those of its classes, without the names that
 * are never callable (`isCallableName`), streaming or not by their names.
 */

import { type RegisteredMethod, registeredMethodsMax } from "@leveros/protocol/control/registration.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isCallableName, isStreamingName } from "@leveros/protocol/target/lever-url.ts";
import { type StandardSchema, validatedMethod } from "./validated.ts";

export interface Method {
  readonly name: string;
  readonly isStreaming: boolean;
  /** Those of its arguments, for who calls it to check. */
  readonly schemas: readonly StandardSchema[] | undefined;
  /** Calls it on its object, with arguments that were checked. */
  call(args: unknown[]): unknown;
}

type AnyFunction = (...args: unknown[]) => unknown;

/** Throws INVALID_OPTION when there is nothing to serve (unless it `mayBeEmpty`), or more than can be registered. */
export function methodTable(methods: object, mayBeEmpty = false): Map<string, Method> {
  if (typeof methods !== "object" || methods === null) {
    const found =
      typeof methods === "function"
        ? `the function or class ${(methods as AnyFunction).name}; make an instance of it`
        : String(methods);
    throw new LeverError("INVALID_OPTION", `serve takes an object whose functions are the methods, got ${found}`);
  }
  const table = new Map<string, Method>();
  const seen = new Set<string>();
  for (let owner: object | null = methods; owner !== null && owner !== Object.prototype; ) {
    for (const name of Object.getOwnPropertyNames(owner)) {
      // What stands before it in the chain hides it, also if that is no function.
      if (seen.has(name)) continue;
      seen.add(name);
      // A getter is no method, and must not run here.
      const value: unknown = Object.getOwnPropertyDescriptor(owner, name)?.value;
      if (typeof value !== "function" || !isCallableName(name)) continue;
      table.set(name, methodOf(methods, name, value as AnyFunction));
    }
    owner = Object.getPrototypeOf(owner) as object | null;
  }
  if (table.size === 0 && !mayBeEmpty) {
    throw new LeverError(
      "INVALID_OPTION",
      "serve was given an object without a function that can be called; names that begin with _ are private, and " +
        "getters are not run",
    );
  }
  if (table.size > registeredMethodsMax) {
    throw new LeverError(
      "INVALID_OPTION",
      `serve was given ${table.size} methods, at most ${registeredMethodsMax} can be registered`,
    );
  }
  return table;
}

function methodOf(owner: object, name: string, given: AnyFunction): Method {
  const { schemas, method } = validatedMethod(given) ?? { schemas: undefined, method: given };
  return { name, isStreaming: isStreamingName(name), schemas, call: (args) => method.apply(owner, args) };
}

export function registeredMethods(table: ReadonlyMap<string, Method>): RegisteredMethod[] {
  return [...table.values()].map(({ name, isStreaming }) => ({ name, kind: isStreaming ? "channel" : "call" }));
}
