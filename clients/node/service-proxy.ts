/** Typed proxies: what is written as a function at the service is called as an async function by its caller. */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isCallableName } from "@leveros/protocol/target/lever-url.ts";
import type { CallOptions } from "./call-options.ts";

type StreamingName = `${string}Chan` | `${string}_chan` | "chan";
type UncallableName = `_${string}` | "constructor" | "then" | "toJSON" | "with";

// biome-ignore lint/suspicious/noExplicitAny: any function is meant; `unknown` parameters would match none.
type AnyFunction = (...args: any[]) => unknown;

/** A result as it arrives: `undefined` has no JSON form and comes as null. */
type Received<Result> = Result extends undefined ? null : Result;

type RemoteCall<Method> = Method extends (...args: infer Args) => infer Result
  ? (...args: Args) => Promise<Received<Awaited<Result>>>
  : never;

/** The channel is the method's first parameter, and its caller's result, with the two directions swapped. */
type RemoteChannel<Method extends AnyFunction> =
  Parameters<Method> extends [Channel<infer Receives, infer Sends>, ...infer Args]
    ? (...args: Args) => Promise<Channel<Sends, Receives>>
    : Parameters<Method> extends []
      ? () => Promise<Channel>
      : never;

/** `Methods` as its callers see it. Names that begin with `_` and what is no function are left out. */
export type Remote<Methods> = {
  readonly [Name in keyof Methods as Name extends string
    ? Name extends UncallableName
      ? never
      : Methods[Name] extends AnyFunction
        ? Name
        : never
    : never]: Name extends StreamingName
    ? Methods[Name] extends AnyFunction
      ? RemoteChannel<Methods[Name]>
      : never
    : RemoteCall<Methods[Name]>;
} & {
  /** The same methods with options for each call: a deadline, a signal, a token, metadata. Later options win. */
  with(options: CallOptions): Remote<Methods>;
};

/** What a proxy calls; `service` is its name for people. */
export interface RemoteService {
  readonly name: string;
  call(method: string, args: unknown[], options: CallOptions): Promise<unknown>;
}

const nameOf = Symbol("name");

/** What the proxy stands in front of: it answers whoever prints it, with the proxy itself as `this`. */
class RemoteMethods {
  declare readonly [nameOf]: string;

  constructor(name: string) {
    Object.defineProperty(this, nameOf, { value: name });
  }

  [Symbol.toPrimitive](): string {
    return `[Remote ${this[nameOf]}]`;
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return `[Remote ${this[nameOf]}]`;
  }
}
Object.setPrototypeOf(RemoteMethods.prototype, null);

const functionsKeptMax = 1024;

export function makeProxy<Methods extends object>(service: RemoteService, options: CallOptions = {}): Remote<Methods> {
  const functions = new Map<string, AnyFunction>();
  const withOptions = (more: CallOptions) => makeProxy<Methods>(service, mergeOptions(options, more));
  return new Proxy(Object.freeze(new RemoteMethods(service.name)), {
    get(target, name) {
      if (typeof name === "symbol") return Reflect.get(target, name);
      if (name === "with") return withOptions;
      // `await proxy` asks for `then`, JSON for `toJSON`: neither is a remote method.
      if (name === "then" || name === "toJSON" || name === "constructor") return undefined;
      let method = functions.get(name);
      if (method === undefined) {
        method = isCallableName(name)
          ? (...args: unknown[]) => service.call(name, args, options)
          : () => Promise.reject(uncallable(name));
        if (functions.size < functionsKeptMax) functions.set(name, method);
      }
      return method;
    },
    set() {
      return false;
    },
  }) as unknown as Remote<Methods>;
}

function uncallable(name: string): LeverError {
  return new LeverError(
    "METHOD_NOT_FOUND",
    `${JSON.stringify(name.slice(0, 200))} is not the name of a method that can be called`,
    { effect: "none" },
  );
}

function mergeOptions(options: CallOptions, more: CallOptions): CallOptions {
  const merged = { ...options, ...more };
  if (options.metadata === undefined || more.metadata === undefined) return merged;
  return { ...merged, metadata: { ...options.metadata, ...more.metadata } };
}
