import { getEventListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import { encodeFields } from "@leveros/protocol/session/routing-header.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { decodePayload, encodeArgs } from "@leveros/protocol/value/form.ts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Connection } from "./connection.ts";
import { homeConnection } from "./context.ts";
import { type CallOptions, type Channel, Client, context, LeverError } from "./index.ts";
import { TestEnvironment } from "./testing/index.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

type Untyped = Record<string, (...args: unknown[]) => Promise<unknown>>;

/** Made outside of any method and of any environment, as modules of services do. */
const client = new Client();
function back(options: CallOptions = {}): Untyped {
  return client.service<Record<string, (...args: unknown[]) => unknown>>("back").with(options) as Untyped;
}

const aborted: string[] = [];
let waiting = 0;
let leftBehind: Promise<unknown> = Promise.resolve();

const backMethods = {
  echo(value: unknown) {
    return value;
  },
  facts() {
    const { environment, service, instance, method, caller, token, metadata, traceparent, tracestate } = context();
    return { environment, service, instance, method, caller, token, metadata, traceparent, tracestate };
  },
  timeLeft() {
    return context().timeLeftMs;
  },
  async waits(name: string) {
    const { signal } = context();
    waiting++;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    aborted.push(name);
    throw signal.reason;
  },
  async waitsChan(channel: Channel, name: string) {
    waiting++;
    await new Promise((resolve) => channel.signal.addEventListener("abort", resolve));
    aborted.push(name);
  },
};

const frontMethods = {
  async facts(options?: CallOptions) {
    return back(options ?? {})["facts"]!();
  },
  async timeLeft(timeoutMs?: number) {
    await sleep(20);
    const own = context().timeLeftMs;
    return [own, await back(timeoutMs === undefined ? {} : { timeoutMs })["timeLeft"]!()];
  },
  async waits(name: string) {
    await back()["waits"]!(name);
  },
  async opensChannel(name: string) {
    const channel = (await back()["waitsChan"]!(name)) as Channel;
    await channel.receive();
  },
  async everywhere() {
    const seen: unknown[] = [];
    const look = () => seen.push(context().method);
    look();
    await null;
    look();
    await sleep(1);
    look();
    await new Promise<void>((resolve) =>
      setImmediate(() => {
        look();
        resolve();
      }),
    );
    for await (const _ of (async function* () {
      yield 1;
      look();
    })()) {
      look();
    }
    await Promise.all([sleep(1).then(look), back()["echo"]!(1).then(look)]);
    return seen;
  },
  async afterDeadline() {
    await sleep((context().timeLeftMs ?? 0) + 30);
    aborted.push(await (back()["echo"]!(1) as Promise<string>).catch((error) => LeverError.from(error).message));
  },
  /** Answers at once; what it has started goes on by itself. */
  leavesBehind() {
    const left = Promise.withResolvers<unknown>();
    leftBehind = left.promise;
    const own = context();
    setTimeout(() => {
      Promise.all([back()["echo"]!("late"), back()["timeLeft"]!()]).then(
        ([echo, timeLeft]) => left.resolve({ echo, timeLeft, ownTimeLeft: own.timeLeftMs, method: context().method }),
        left.reject,
      );
    }, 300);
    return "answered";
  },
  async listeners(parallel: number) {
    const { signal } = context();
    const calls = Array.from({ length: parallel }, () => back()["echo"]!(1));
    const during = getEventListeners(signal, "abort").length;
    await Promise.all(calls);
    return [during, getEventListeners(signal, "abort").length];
  },
  /** Calls as gateways do: clients have no option for a trace. */
  async traced(service: string, method: string, trace: { traceparent: string; tracestate: string }) {
    const connection = homeConnection() as Connection;
    const session = await connection.open(0, undefined);
    const target = new Target("test", service, method);
    const outgoing = { timeoutMs: 1000, fields: encodeFields(trace) };
    const result = await startCall(connection.runtime, session, target, encodeArgs([]), outgoing);
    return decodePayload(result.bytes, result.form);
  },
  /** Very many nested calls of one call, one after another on 16 lanes; heap before, and after. */
  async many(count: number) {
    const { signal } = context();
    const heap: number[] = [];
    const echo = back()["echo"] as (value: unknown) => Promise<unknown>;
    const own = new AbortController();
    const withSignal = back({ signal: own.signal })["echo"] as (value: unknown) => Promise<unknown>;
    for (const share of [0.1, 0.9]) {
      await Promise.all(
        Array.from({ length: 16 }, async () => {
          for (let index = 0; index < (count * share) / 32; index++) {
            await echo(index);
            await withSignal(index);
          }
        }),
      );
      collectGarbage();
      heap.push(process.memoryUsage().heapUsed);
    }
    return { heap, listeners: [signal, own.signal].map((each) => getEventListeners(each, "abort").length) };
  },
};

let env: TestEnvironment;
let front: Untyped;
beforeAll(async () => {
  env = await TestEnvironment.start({
    front: { methods: frontMethods, instances: 1 },
    back: { methods: backMethods, instances: 2 },
  });
  front = env.client.service<Record<string, (...args: unknown[]) => unknown>>("front") as Untyped;
});
afterAll(async () => {
  await env[Symbol.asyncDispose]();
});

async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await sleep(1);
}

describe("context()", () => {
  it("throws outside of methods", () => {
    expect(() => context()).toThrow(expect.objectContaining({ reason: "INVALID_OPTION" }));
  });

  it("is there in all that a method awaits", async () => {
    expect(new Set((await front["everywhere"]!()) as string[])).toEqual(new Set(["everywhere"]));
    expect((await front["everywhere"]!()) as string[]).toHaveLength(8);
    expect(() => context()).toThrow(LeverError);
  });

  it("says who calls whom", async () => {
    expect(await env.client.invoke("/back/facts")).toEqual({
      environment: "test",
      service: "back",
      instance: expect.stringMatching(/^back-[12]$/),
      method: "facts",
      caller: { environment: "test" },
      metadata: {},
    });
    expect(await front["facts"]!()).toMatchObject({
      caller: { environment: "test", service: "front", instance: "front-1" },
    });
  });

  it("passes neither token nor metadata on by itself", async () => {
    const service = front["with"] as unknown as (options: CallOptions) => Untyped;
    // A token once: a repeat would get the first outcome.
    const given = (token: string) => service({ token, metadata: { outer: "1" } });
    expect(await given("1")["facts"]!()).not.toHaveProperty("token");
    expect(await given("2")["facts"]!()).toMatchObject({ metadata: {} });
    expect(await given("3")["facts"]!({ token: "inner", metadata: { inner: "1" } })).toMatchObject({
      token: "inner",
      metadata: { inner: "1" },
    });
  });
});

describe("nested calls", () => {
  function within(options: CallOptions): Untyped {
    return (front["with"] as unknown as (options: CallOptions) => Untyped)(options);
  }

  it("get no more time than their caller has, whatever they ask for", async () => {
    for (const wanted of [undefined, 60_000]) {
      const [own, nested] = (await within({ timeoutMs: 2000 })["timeLeft"]!(wanted)) as [number, number];
      expect(own).toBeLessThanOrEqual(1990);
      // Each hop rounds up to whole milliseconds.
      expect(nested).toBeLessThanOrEqual(own + 3);
      expect(nested).toBeGreaterThan(0);
    }
    const [, shorter] = (await within({ timeoutMs: 20_000 })["timeLeft"]!(1000)) as [number, number];
    expect(shorter).toBeLessThanOrEqual(1003);
  });

  it("are cancelled with their caller, over both hops", async () => {
    aborted.length = 0;
    const controller = new AbortController();
    const outer = within({ signal: controller.signal });
    const calls = [outer["waits"]!("call"), outer["opensChannel"]!("channel")] as Promise<unknown>[];
    const failed = Promise.allSettled(calls);
    await until(() => waiting === 2);
    expect(aborted).toEqual([]);
    controller.abort();
    await until(() => aborted.length === 2);
    for (const result of await failed) {
      expect(result).toMatchObject({ status: "rejected", reason: { reason: "CANCELLED" } });
    }
  });

  it("end with their caller's deadline, and none begins after it", async () => {
    aborted.length = 0;
    await expect(within({ timeoutMs: 250 })["waits"]!("deadline")).rejects.toMatchObject({
      reason: "DEADLINE_EXCEEDED",
    });
    await until(() => aborted.length === 1);
    await expect(within({ timeoutMs: 250 })["afterDeadline"]!()).rejects.toMatchObject({ reason: "DEADLINE_EXCEEDED" });
    await until(() => aborted.length === 2);
    expect(aborted[1]).toMatch(/DEADLINE_EXCEEDED: the deadline of the calling method has passed/);
  });

  it("pass the trace on", async () => {
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const facts = await env.client.invoke("/front/traced", ["front", "facts", { traceparent, tracestate: "vendor=1" }]);
    expect(facts).toMatchObject({ caller: { service: "front" }, traceparent, tracestate: "vendor=1" });
    expect(await front["facts"]!()).not.toHaveProperty("traceparent");
  });

  it("of what a method has left behind are on their own", async () => {
    expect(await within({ timeoutMs: 250 })["leavesBehind"]!()).toBe("answered");
    expect(await leftBehind).toEqual({
      echo: "late",
      timeLeft: expect.toSatisfy((ms: number) => ms > 20_000),
      ownTimeLeft: 0,
      method: "leavesBehind",
    });
  });

  it("leave nothing at the signal of the method that makes them", async () => {
    expect(await front["listeners"]!(200)).toEqual([1, 0]);
    const count = 100_000;
    const { heap, listeners } = (await within({ timeoutMs: 60_000 })["many"]!(count)) as {
      heap: [number, number];
      listeners: number[];
    };
    expect(listeners).toEqual([0, 0]);
    // 90,000 calls after the first measurement: even 50 bytes of each would be 4.5 MB, garbage that waits included.
    expect(heap[1] - heap[0]).toBeLessThan(4_500_000);
  }, 60_000);
});
