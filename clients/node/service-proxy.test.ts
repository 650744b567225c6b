import { inspect } from "node:util";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { describe, expect, it } from "vitest";
import type { CallOptions } from "./call-options.ts";
import { makeProxy } from "./service-proxy.ts";

interface Call {
  readonly method: string;
  readonly args: unknown[];
  readonly options: CallOptions;
}

function recording() {
  const calls: Call[] = [];
  const proxy = makeProxy<{ sayHello(name: string): string; toString(): string }>({
    name: "dev/hello",
    call: async (method, args, options) => {
      calls.push({ method, args, options });
      return `${method} done`;
    },
  });
  return { calls, proxy, any: proxy as unknown as Record<string, (...args: unknown[]) => Promise<unknown>> };
}

describe("a proxy of a service", () => {
  it("calls what is named, with the arguments and without options", async () => {
    const { calls, proxy } = recording();
    expect(await proxy.sayHello("Ada")).toBe("sayHello done");
    expect(calls).toEqual([{ method: "sayHello", args: ["Ada"], options: {} }]);
  });

  it("gives the same function each time, which may be taken off", async () => {
    const { calls, proxy } = recording();
    const { sayHello } = proxy;
    expect(proxy.sayHello).toBe(sayHello);
    await sayHello("Ada");
    expect(calls).toHaveLength(1);
  });

  it("has methods that Object.prototype has too, if the service serves them", async () => {
    const { calls, any } = recording();
    await any["toString"]?.();
    await any["valueOf"]?.();
    expect(calls.map(({ method }) => method)).toEqual(["toString", "valueOf"]);
  });

  it("is not called by await, printing, JSON, text and comparison", async () => {
    const { calls, proxy } = recording();
    expect(await proxy).toBe(proxy);
    expect(await Promise.resolve(proxy)).toBe(proxy);
    expect(inspect(proxy)).toBe("[Remote dev/hello]");
    expect(inspect({ proxy }, { depth: 3 })).toContain("[Remote dev/hello]");
    expect(`${proxy}`).toBe("[Remote dev/hello]");
    expect(JSON.stringify({ proxy })).toBe('{"proxy":{}}');
    expect(Object.keys(proxy)).toEqual([]);
    expect({ ...proxy }).toEqual({});
    expect("sayHello" in proxy).toBe(false);
    expect(proxy).toEqual(proxy);
    expect(Array.isArray(proxy)).toBe(false);
    expect(typeof proxy).toBe("object");
    expect(calls).toEqual([]);
  });

  it("cannot be changed", () => {
    const { any } = recording();
    expect(() => {
      any["sayHello"] = async () => "mine";
    }).toThrow(TypeError);
    expect(() => Object.defineProperty(any, "sayHello", { value: 1 })).toThrow(TypeError);
  });

  it.each(["_private", "with-dash", "größe", "", "1st", "a/b", "x".repeat(129), "a b"])(
    "refuses the name %j without a call",
    async (name) => {
      const { calls, any } = recording();
      await expect(any[name]?.()).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND", effect: "none" });
      expect(calls).toEqual([]);
    },
  );

  it("has nothing under the reserved names", () => {
    const { any } = recording();
    expect([any["then"], any["toJSON"], any["constructor"]]).toEqual([undefined, undefined, undefined]);
  });

  it("keeps no more functions than there are methods", async () => {
    const { any, calls } = recording();
    for (let index = 0; index < 5000; index++) await any[`method${index}`]?.();
    expect(calls).toHaveLength(5000);
  });

  it("merges options: later ones win, metadata key by key", async () => {
    const { calls, proxy } = recording();
    const signal = new AbortController().signal;
    const first = proxy.with({ timeoutMs: 500, token: "a", metadata: { a: "1", b: "1" } });
    const second = first.with({ timeoutMs: 100, signal, metadata: { b: "2", c: "2" } });
    await proxy.sayHello("x");
    await first.sayHello("x");
    await second.sayHello("x");
    expect(calls.map(({ options }) => options)).toEqual([
      {},
      { timeoutMs: 500, token: "a", metadata: { a: "1", b: "1" } },
      { timeoutMs: 100, token: "a", signal, metadata: { a: "1", b: "2", c: "2" } },
    ]);
  });

  it("passes errors on as they are", async () => {
    const error = new LeverError("NO_INSTANCES", "none");
    const proxy = makeProxy<{ f(): void }>({ name: "s", call: () => Promise.reject(error) });
    await expect(proxy.f()).rejects.toBe(error);
  });
});
