/**
 * Which functions of an object can be called from outside: own ones and those of its classes, without the names that
 * are never callable (`isCallableName`), streaming or not by their names.
 */

import type { RegisteredMethod } from "@leveros/protocol/control/registration.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isCallableName, isStreamingName } from "@leveros/protocol/target/lever-url.ts";
import { type StandardSchema, schemasFor } from "./validated.ts";

export interface Method {
  readonly name: string;
  readonly isStreaming: boolean;
  readonly schemas: readonly StandardSchema[] | undefined;
  /** Calls it on its object. */
  call(args: unknown[]): unknown;
}

type AnyFunction = (...args: unknown[]) => unknown;

/** Throws INVALID_OPTION when there is nothing to serve. */
export function methodTable(methods: object): Map<string, Method> {
  if (typeof methods !== "object" || methods === null) {
    throw new LeverError("INVALID_OPTION", `serve was given ${String(methods)}, expected an object of functions`);
  }
  const table = new Map<string, Method>();
  for (let owner: object | null = methods; owner !== null && owner !== Object.prototype; ) {
    for (const name of Object.getOwnPropertyNames(owner)) {
      if (table.has(name) || !isCallableName(name)) continue;
      // A getter is no method, and must not run here.
      const value: unknown = Object.getOwnPropertyDescriptor(owner, name)?.value;
      if (typeof value !== "function") continue;
      const fn = value as AnyFunction;
      table.set(name, {
        name,
        isStreaming: isStreamingName(name),
        schemas: schemasFor(fn),
        call: (args) => fn.apply(methods, args),
      });
    }
    owner = Object.getPrototypeOf(owner) as object | null;
  }
  if (table.size === 0) {
    throw new LeverError(
      "INVALID_OPTION",
      "serve was given an object without a function that can be called; names that begin with _ are private",
    );
  }
  return table;
}

export function registeredMethods(table: ReadonlyMap<string, Method>): RegisteredMethod[] {
  return [...table.values()].map(({ name, isStreaming }) => ({ name, kind: isStreaming ? "channel" : "call" }));
}
