/** Typed proxies: what is written as a function at the service is called as an async function by its caller. */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isCallableName } from "@leveros/protocol/target/lever-url.ts";
import type { CallOptions } from "./client.ts";

type StreamingName = `${string}Chan` | `${string}_chan` | "chan";

// biome-ignore lint/suspicious/noExplicitAny: any function is meant; `unknown` parameters would match none.
type AnyFunction = (...args: any[]) => unknown;

type RemoteMethod<Name, Method> = Name extends StreamingName
  ? // biome-ignore lint/suspicious/noExplicitAny: as above.
    Method extends (channel: Channel<infer Receives, infer Sends>, ...args: infer Args extends any[]) => unknown
    ? (...args: Args) => Promise<Channel<Sends, Receives>>
    : Method extends () => unknown
      ? () => Promise<Channel>
      : never
  : Method extends (...args: infer Args) => infer Result
    ? (...args: Args) => Promise<Awaited<Result>>
    : never;

/** `Methods` as its callers see it. Names that begin with `_` and what is no function are left out. */
export type Remote<Methods> = {
  readonly [Name in keyof Methods as Name extends `_${string}` | "with" | symbol
    ? never
    : Methods[Name] extends AnyFunction
      ? Name
      : never]: RemoteMethod<Name, Methods[Name]>;
} & {
  /** The same methods with options for each call: a deadline, a signal, a token, metadata. */
  with(options: CallOptions): Remote<Methods>;
};

type Invoke = (method: string, args: unknown[], options: CallOptions) => Promise<unknown>;

export function makeProxy<Methods extends object>(invoke: Invoke, options: CallOptions = {}): Remote<Methods> {
  const functions = new Map<string, AnyFunction>();
  const withOptions = (more: CallOptions) => makeProxy<Methods>(invoke, { ...options, ...more });
  return new Proxy(Object.create(null) as object, {
    get(_target, name) {
      if (name === "with") return withOptions;
      // `await proxy` asks for `then`, printing asks for symbols: neither is a remote method.
      if (typeof name !== "string" || name === "then" || name === "toJSON" || name === "constructor") return undefined;
      let method = functions.get(name);
      if (method === undefined) {
        method = isCallableName(name)
          ? (...args: unknown[]) => invoke(name, args, options)
          : () =>
              Promise.reject(
                new LeverError(
                  "METHOD_NOT_FOUND",
                  `${JSON.stringify(name)} is not the name of a method that can be called`,
                  {
                    effect: "none",
                  },
                ),
              );
        if (functions.size < 1024) functions.set(name, method);
      }
      return method;
    },
    set() {
      return false;
    },
  }) as Remote<Methods>;
}
