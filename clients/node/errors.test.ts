/** Every kind of error as a caller in Node sees it; `effect` is compared with how often the method was entered. */

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { type CallOptions, type Channel, context, LeverError, MethodError, validated } from "./index.ts";
import { TestEnvironment } from "./testing/index.ts";

/** Calls that were entered. */
const entered: { readonly method: string; readonly instance: string; readonly signal: AbortSignal }[] = [];
function enter(): AbortSignal {
  const { method, instance, signal } = context();
  entered.push({ method, instance, signal });
  return signal;
}
function entries(method: string) {
  return entered.filter((entry) => entry.method === method);
}
async function entry(method: string, index: number) {
  for (;;) {
    const found = entries(method)[index];
    if (found !== undefined) return found;
    await sleep(1);
  }
}

function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

const reported: unknown[] = [];
const megabyte = 1024 * 1024;

const methods = {
  echo(...args: unknown[]) {
    enter();
    return args;
  },
  checked: validated([z.string().min(1), z.number().optional()], (name, times) => {
    enter();
    return name.repeat(times ?? 1);
  }),
  checkedLater: validated([z.string().refine(async (name) => name !== "taken", "is taken")], async (name) => {
    enter();
    return name;
  }),
  checkedBadly: validated(
    [
      z.unknown().refine(() => {
        throw new Error("the validator is broken");
      }),
    ],
    () => {
      enter();
    },
  ),
  fails(value: unknown) {
    enter();
    throw new MethodError(value);
  },
  async failsLater(value: unknown) {
    enter();
    await null;
    throw new MethodError(value);
  },
  throws(text: string) {
    enter();
    throw new TypeError(text);
  },
  async throwsLater(text: string) {
    enter();
    await null;
    throw new RangeError(text);
  },
  throwsNothing() {
    enter();
    throw undefined;
  },
  throwsHostile() {
    enter();
    throw {
      toString() {
        throw new Error("no text");
      },
    };
  },
  returns(what: string): unknown {
    enter();
    if (what === "date") return { when: [new Date(0)] };
    if (what === "bytes inside") return [new Uint8Array(1)];
    if (what === "much") return new Uint8Array(megabyte + 1);
    return {
      // biome-ignore lint/suspicious/noThenProperty: a thenable that breaks the rules.
      get then(): unknown {
        throw new Error("hostile");
      },
    };
  },
  waits() {
    return untilAborted(enter());
  },
  waitsAtFirst() {
    const signal = enter();
    return entries("waitsAtFirst").length === 1 ? untilAborted(signal) : context().instance;
  },
  echoChan(channel: Channel) {
    enter();
    channel.close();
  },
  _private() {
    enter();
  },
};

let env: TestEnvironment;
beforeAll(async () => {
  env = await TestEnvironment.start(
    { hello: { methods, instances: 2 }, empty: { methods, instances: 0 } },
    { onError: (error) => reported.push(error) },
  );
});
afterAll(async () => {
  await env[Symbol.asyncDispose]();
});

function remote(options: CallOptions = {}) {
  return env.client.service<typeof methods>("hello").with(options);
}

/** How a call fails, and how often its method was entered for it. */
async function failure(method: string, call: () => Promise<unknown>) {
  const before = entries(method).length;
  try {
    await call();
  } catch (error) {
    if (LeverError.is(error) || MethodError.is(error)) return { error, ran: entries(method).length - before };
    throw error;
  }
  throw new Error("the call did not fail");
}

interface Case {
  /** Whose entries are counted; `echo` where there is none. */
  readonly method?: keyof typeof methods;
  readonly call: () => Promise<unknown>;
  readonly reason: string;
  readonly kind?: string;
  readonly message?: RegExp;
  readonly details?: object;
}

function url(path: string, ...args: unknown[]) {
  return () => env.client.invoke(path, args);
}

const neverRan: Record<string, Case> = {
  "a wrong argument": {
    method: "checked",
    call: () => remote().checked(""),
    reason: "INVALID_ARGUMENTS",
    details: { method: "checked", issues: [{ path: "args[0]" }] },
  },
  "a wrong argument, found later": {
    method: "checkedLater",
    call: () => remote().checkedLater("taken"),
    reason: "INVALID_ARGUMENTS",
    message: /checkedLater: args\[0\]: is taken/,
  },
  "too many arguments": { method: "checked", call: url("/hello/checked", "a", 1, 2), reason: "INVALID_ARGUMENTS" },
  "bytes where values are wanted": {
    method: "checked",
    call: url("/hello/checked", new Uint8Array(5)),
    reason: "ARGS_FORM",
    message: /5 bytes/,
  },
  "bytes where values are wanted, found later": {
    method: "checkedLater",
    call: url("/hello/checkedLater", new Uint8Array(5)),
    reason: "ARGS_FORM",
  },
  "bytes among values": {
    call: () => remote().echo("a", new Uint8Array(1)),
    reason: "ARGS_FORM",
    details: { index: 1 },
  },
  "a value without a JSON form": {
    call: () => remote().echo({ a: [1n] }),
    reason: "VALUE_NOT_ENCODABLE",
    message: /args\[0\]\.a\[0\]/,
  },
  "arguments above 1 MiB, values": {
    call: () => remote().echo("x".repeat(megabyte)),
    reason: "ARGS_TOO_LARGE",
    message: /channel/,
  },
  "arguments above 1 MiB, bytes": {
    call: () => remote().echo(new Uint8Array(megabyte + 1)),
    reason: "ARGS_TOO_LARGE",
  },
  "a header above 16 KiB": {
    call: () => remote({ metadata: { a: "x".repeat(17_000) } }).echo(),
    reason: "HEADER_TOO_LARGE",
  },
  "an unknown method": { call: url("/hello/missing"), reason: "METHOD_NOT_FOUND", message: /echo/ },
  "a method in the wrong case": { call: url("/hello/Echo"), reason: "METHOD_NOT_FOUND" },
  "a private method": { method: "_private", call: url("/hello/_private"), reason: "METHOD_NOT_FOUND" },
  "a method of Object.prototype": { call: url("/hello/toString"), reason: "METHOD_NOT_FOUND" },
  "an unknown service": { call: url("/nobody/echo"), reason: "SERVICE_NOT_FOUND" },
  "an unknown environment": { call: url("lever://elsewhere/hello/echo"), reason: "SERVICE_NOT_FOUND" },
  "a resource of a service that holds none": { call: url("/hello/room-7/echo"), reason: "NO_RESOURCES" },
  "a URL that is none": { call: url("hello/echo"), reason: "INVALID_URL" },
  "a port in a URL, with an agent": { call: url("lever://test:3837/hello/echo"), reason: "INVALID_URL" },
  "arguments that are no array": {
    call: () => env.client.invoke("/hello/echo", "Ada" as unknown as unknown[]),
    reason: "INVALID_ARGUMENTS",
    message: /args is a string/,
  },
  "invoke of a streaming method": {
    method: "echoChan",
    call: url("/hello/echoChan"),
    reason: "METHOD_KIND_MISMATCH",
    message: /openChannel/,
  },
  "a channel to a method that does not stream": {
    call: () => env.client.openChannel("/hello/echo"),
    reason: "METHOD_KIND_MISMATCH",
    message: /invoke/,
  },
  "a validator that throws": {
    method: "checkedBadly",
    call: url("/hello/checkedBadly", 1),
    reason: "METHOD_THREW",
    kind: "method",
  },
  "a service without instances": { call: url("/empty/echo"), reason: "NO_INSTANCES", kind: "network" },
  "a call that was cancelled before": {
    call: () => remote({ signal: AbortSignal.abort() }).echo(),
    reason: "CANCELLED",
    kind: "network",
  },
};

const ran: Record<string, Case> = {
  "a value, thrown": { method: "fails", call: () => remote().fails({ error: "NO" }), reason: "METHOD_ERROR" },
  "something unexpected, thrown": {
    method: "throws",
    call: () => remote().throws("unexpected"),
    reason: "METHOD_THREW",
    message: /throws threw TypeError: unexpected/,
  },
  "something unexpected, rejected": {
    method: "throwsLater",
    call: () => remote().throwsLater("unexpected"),
    reason: "METHOD_THREW",
    message: /RangeError: unexpected/,
  },
  "undefined, thrown": { method: "throwsNothing", call: () => remote().throwsNothing(), reason: "METHOD_THREW" },
  "something without a text, thrown": {
    method: "throwsHostile",
    call: () => remote().throwsHostile(),
    reason: "METHOD_THREW",
    message: /cannot be printed/,
  },
  "a result without a JSON form": {
    method: "returns",
    call: () => remote().returns("date"),
    reason: "RESULT_NOT_ENCODABLE",
    message: /result\.when\[0\]/,
  },
  "bytes within a result": {
    method: "returns",
    call: () => remote().returns("bytes inside"),
    reason: "RESULT_NOT_ENCODABLE",
    message: /result\[0\]/,
  },
  "a result above 1 MiB": {
    method: "returns",
    call: () => remote().returns("much"),
    reason: "RESULT_TOO_LARGE",
    message: /channel/,
  },
  "a thenable that throws": { method: "returns", call: () => remote().returns("hostile"), reason: "METHOD_THREW" },
};

describe("errors before the method ran", () => {
  it.each(Object.entries(neverRan))("%s", async (_what, { method = "echo", call, reason, kind, message, details }) => {
    const failed = await failure(method, call);
    expect(failed.error).toMatchObject({
      reason,
      kind: kind ?? "arguments",
      effect: "none",
      ...(details && { details }),
    });
    if (message !== undefined) expect(failed.error.message).toMatch(message);
    expect(failed.ran).toBe(0);
  });
});

describe("errors of the method", () => {
  it.each(Object.entries(ran))("%s", async (_what, { method = "echo", call, reason, message }) => {
    const failed = await failure(method, call);
    expect(failed.error).toMatchObject({ reason, kind: "method", effect: "ran" });
    if (message !== undefined) expect(failed.error.message).toMatch(message);
    expect(failed.ran).toBe(1);
  });

  it("a MethodError's value arrives as it is: JSON or bytes, thrown or rejected", async () => {
    for (const value of [{ error: "NO", max: 5 }, "text", 0, null, [1], new Uint8Array([1, 2, 3])]) {
      for (const method of ["fails", "failsLater"] as const) {
        const { error } = await failure(method, () => remote()[method](value));
        expect(MethodError.is(error) && error.value).toEqual(value);
      }
    }
    const { error } = await failure("fails", () => remote().fails(undefined));
    expect(MethodError.is(error) && error.value).toBeNull();
  });

  it("a MethodError without a JSON form is an error of the method, with the path", async () => {
    await using own = await TestEnvironment.start({
      hello: {
        methods: {
          dated() {
            throw new MethodError({ at: new Date(0) });
          },
          large() {
            throw new MethodError("x".repeat(2 * megabyte));
          },
        },
      },
    });
    await expect(own.client.invoke("/hello/dated")).rejects.toMatchObject({
      reason: "RESULT_NOT_ENCODABLE",
      effect: "ran",
      message: expect.stringContaining("error.at"),
    });
    await expect(own.client.invoke("/hello/large")).rejects.toMatchObject({
      reason: "RESULT_TOO_LARGE",
      effect: "ran",
    });
  });

  it("what is unexpected is reported at the instance, with the error itself; what is intended is not", async () => {
    reported.length = 0;
    await failure("throws", () => remote().throws("to be reported"));
    await failure("fails", () => remote().fails("intended"));
    expect(reported).toEqual([new TypeError("to be reported")]);
  });
});

describe("the stack of an error", () => {
  it("leads to where the call was made", async () => {
    async function caller(method: "fails" | "throws" | "checked") {
      await null;
      return await remote()[method]("");
    }
    for (const method of ["fails", "throws", "checked"] as const) {
      const { error } = await failure(method, () => caller(method));
      expect(error.stack).toMatch(/at (async )?caller .*errors\.test\.ts/);
      expect(error.stack?.startsWith(`${error.name}: ${error.message}`)).toBe(true);
    }
  });
});

describe("errors of which nobody can know", () => {
  it("a deadline that passes while the method runs", async () => {
    const { error, ran } = await failure("waits", () => remote({ timeoutMs: 250 }).waits());
    expect(error).toMatchObject({ reason: "DEADLINE_EXCEEDED", kind: "network" });
    // The method may be the first to answer, with the reason of its signal.
    expect(["unknown", "ran"]).toContain(error.effect);
    expect(ran).toBe(1);
    const { signal } = entries("waits").at(-1) as { signal: AbortSignal };
    while (!signal.aborted) await sleep(1);
    expect(signal.reason).toMatchObject({ reason: "DEADLINE_EXCEEDED" });
  });

  it("a call that is cancelled while the method runs", async () => {
    reported.length = 0;
    const controller = new AbortController();
    const index = entries("waits").length;
    const failed = failure("waits", () => remote({ signal: controller.signal }).waits());
    const { signal } = await entry("waits", index);
    expect(signal.aborted).toBe(false);
    controller.abort(new Error("no longer wanted"));
    const { error, ran } = await failed;
    expect(error).toMatchObject({ reason: "CANCELLED", effect: "unknown", cause: { message: "no longer wanted" } });
    expect(ran).toBe(1);
    while (!signal.aborted) await sleep(1);
    expect(signal.reason).toMatchObject({ reason: "CANCELLED" });
    // The method has thrown that reason, or an error caused by it: it knows that nobody waits, and says nothing new.
    await sleep(5);
    expect(reported).toEqual([]);
  });

  it("what a method throws of its own after that is reported all the same", async () => {
    reported.length = 0;
    const bug = new Error("in the cleaning up");
    const inMethod = {
      async cleansUpBadly() {
        await untilAborted(enter()).catch(() => {});
        throw bug;
      },
      async wraps() {
        await untilAborted(enter()).catch((cause: unknown) => {
          throw new Error("aborted", { cause });
        });
      },
    };
    await using own = await TestEnvironment.start(
      { hello: { methods: inMethod } },
      { onError: (error) => reported.push(error) },
    );
    for (const method of ["wraps", "cleansUpBadly"]) {
      const call = own.client.invoke(`/hello/${method}`, [], { timeoutMs: 250 });
      await expect(call).rejects.toBeInstanceOf(LeverError);
    }
    while (reported.length === 0) await sleep(1);
    expect(reported).toEqual([bug]);
  });

  it("an instance that is killed while the method runs", async () => {
    await using own = await TestEnvironment.start({ hello: { methods, instances: 3 } });
    const index = entries("waits").length;
    const failed = failure("waits", () => own.client.service<typeof methods>("hello").waits());
    const { instance, signal } = await entry("waits", index);
    await own.kill(instance);
    const { error, ran } = await failed;
    expect(error).toMatchObject({ kind: "network", effect: "unknown" });
    expect(ran).toBe(1);
    expect(signal.aborted).toBe(true);
  });

  it("is tried elsewhere if the method is declared idempotent", async () => {
    await using own = await TestEnvironment.start({
      hello: { methods, instances: 3, policies: { waitsAtFirst: { idempotent: true } } },
    });
    const answer = own.client.service<typeof methods>("hello").waitsAtFirst();
    const first = await entry("waitsAtFirst", 0);
    await own.kill(first.instance);
    const second = await answer;
    expect(entries("waitsAtFirst").map(({ instance }) => instance)).toEqual([first.instance, second]);
    expect(second).not.toBe(first.instance);
  });

  it("an instance that is gone before the call is no error while there are others", async () => {
    await using own = await TestEnvironment.start({ hello: { methods, instances: 3 } });
    const service = own.client.service<typeof methods>("hello");
    await service.echo();
    await own.kill(own.instances("hello")[0] as string);
    // Also of those that go out before anybody has been told.
    const before = entries("echo").length;
    await Promise.all(Array.from({ length: 100 }, () => service.echo()));
    expect(entries("echo").length - before).toBe(100);
    for (const instance of own.instances("hello")) await own.kill(instance);
    const { error, ran } = await failure("echo", () => service.echo());
    expect(error).toMatchObject({ kind: "network", effect: "none" });
    expect(ran).toBe(0);
  });
});
