/** Which functions of a resource's objects can be called: as of a service (`method-table.ts`), looked up at each call. */

import type { RegisteredMethod } from "@leveros/protocol/control/registration.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isCallableName, isStreamingName } from "@leveros/protocol/target/lever-url.ts";
import { type StandardSchema, validatedMethod } from "../validated.ts";

/**
 * What a resource finds when its object is made: `state`, what the last one left; `fresh`, nothing was cut off: the
 * resource is new, or its last object was disposed of in order and left nothing; `lost`, something may have been cut off,
 * and nobody can say what.
 */
export type ResourceMemory = "state" | "fresh" | "lost";

/** The class of a service's resources: one object for each resource that is called. */
// biome-ignore lint/suspicious/noExplicitAny: the state is what the class itself has handed over, whatever its type.
export type ResourceClass = new (name: string, state: any, memory: ResourceMemory) => object;

type AnyFunction = (...args: unknown[]) => unknown;

/** As in a service's table, but for its object. */
export interface ResourceMethod {
  readonly name: string;
  readonly schemas: readonly StandardSchema[] | undefined;
  readonly method: AnyFunction;
}

const namesKeptMax = 1024;

export class ResourceMethods {
  readonly #class: ResourceClass;
  readonly #known = new Map<string, ResourceMethod>();

  /** Throws INVALID_OPTION. */
  constructor(resourceClass: ResourceClass) {
    const found: unknown = resourceClass;
    if (typeof found !== "function" || typeof found.prototype !== "object" || found.prototype === null) {
      throw new LeverError(
        "INVALID_OPTION",
        `resource is ${found === null ? "null" : `a ${typeof found}`}, expected a class: serve(methods, { resource: Room })`,
        { details: { field: "resource" } },
      );
    }
    this.#class = resourceClass;
  }

  /** Undefined if the object has none of this name that may be called. */
  find(instance: object, name: string): ResourceMethod | undefined {
    if (!isCallableName(name)) return undefined;
    // What stands before it in the chain hides it, also if that is no function. A getter is no method, and must not run.
    const own = Object.getOwnPropertyDescriptor(instance, name);
    if (own !== undefined) return methodOf(name, own.value);
    const prototype = Object.getPrototypeOf(instance) as object | null;
    if (prototype !== this.#class.prototype) return inherited(prototype, name);
    let method = this.#known.get(name);
    if (method === undefined) {
      method = inherited(prototype, name);
      if (method !== undefined && this.#known.size < namesKeptMax) this.#known.set(name, method);
    }
    return method;
  }

  /** Those of the class; what a constructor adds to an object is not known before. */
  registered(): RegisteredMethod[] {
    const methods: RegisteredMethod[] = [];
    const seen = new Set<string>();
    let owner = this.#class.prototype as object | null;
    while (owner !== null && owner !== Object.prototype) {
      for (const name of Object.getOwnPropertyNames(owner)) {
        if (seen.has(name)) continue;
        seen.add(name);
        if (
          !isCallableName(name) ||
          methodOf(name, Object.getOwnPropertyDescriptor(owner, name)?.value) === undefined
        ) {
          continue;
        }
        methods.push({ name, kind: isStreamingName(name) ? "channel" : "call" });
      }
      owner = Object.getPrototypeOf(owner) as object | null;
    }
    return methods;
  }
}

function inherited(from: object | null, name: string): ResourceMethod | undefined {
  for (let owner = from; owner !== null && owner !== Object.prototype; ) {
    const descriptor = Object.getOwnPropertyDescriptor(owner, name);
    if (descriptor !== undefined) return methodOf(name, descriptor.value);
    owner = Object.getPrototypeOf(owner) as object | null;
  }
  return undefined;
}

function methodOf(name: string, value: unknown): ResourceMethod | undefined {
  if (typeof value !== "function") return undefined;
  const { schemas, method } = validatedMethod(value) ?? { schemas: undefined, method: value as AnyFunction };
  return { name, schemas, method };
}
