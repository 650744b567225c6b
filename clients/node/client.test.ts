import { getEventListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { listenTcp } from "@leveros/agent/host/socket.ts";
import { defaultServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CallOptions, type Channel, Client, context, LeverError } from "./index.ts";
import { MethodServer } from "./method-server.ts";
import { TestEnvironment } from "./testing/index.ts";
import { TestCluster } from "./testing/test-cluster.ts";

let running = 0;

const methods = {
  echo(...args: unknown[]) {
    return args;
  },
  first(value: unknown) {
    return value;
  },
  nothing() {},
  thenable() {
    return {
      // biome-ignore lint/suspicious/noThenProperty: a thenable that breaks the rules.
      then(resolve: (value: unknown) => void, reject: (error: unknown) => void) {
        resolve("once");
        resolve("twice");
        reject(new Error("and this"));
      },
    };
  },
  instance() {
    return context().instance;
  },
  given() {
    const { token, metadata, timeLeftMs } = context();
    return { token: token ?? null, metadata, timeLeftMs: timeLeftMs ?? null };
  },
  async waits() {
    const { signal } = context();
    running++;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    running--;
  },
  async waitsChan(channel: Channel) {
    running++;
    await new Promise((resolve) => channel.signal.addEventListener("abort", resolve));
    running--;
  },
};

let env: TestEnvironment;
beforeAll(async () => {
  env = await TestEnvironment.start({ hello: { methods, instances: 2 }, "a-1": { methods } });
});
afterAll(async () => {
  await env[Symbol.asyncDispose]();
});

function remote(options: CallOptions = {}) {
  return env.client.service<typeof methods>("hello").with(options);
}

async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await sleep(1);
}

describe("calls", () => {
  it("carry JSON values both ways", async () => {
    const values = [null, true, 0, -1.5, 2 ** 53, "", "ä€𝄞", [], [[1], {}], { a: { b: [null] } }];
    expect(await remote().echo(...values)).toEqual(values);
  });

  it("carry undefined as what the other end can hold", async () => {
    expect(await remote().echo("a", { b: undefined, c: 1 }, undefined, undefined)).toEqual(["a", { c: 1 }]);
    expect(await remote().nothing()).toBeNull();
    expect(await remote().first(undefined)).toBeNull();
  });

  it("carry one chunk of bytes as it is, in memory of one's own", async () => {
    for (const length of [0, 1, 40_000, 1024 * 1024]) {
      const bytes = new Uint8Array(length).map((_, index) => index * 7);
      const back = (await remote().first(bytes)) as Uint8Array;
      expect(back).toBeInstanceOf(Uint8Array);
      expect(Buffer.compare(back, bytes)).toBe(0);
      expect(back.buffer.byteLength).toBe(length);
    }
    expect(await remote().first(Buffer.from("buffer"))).toEqual(new TextEncoder().encode("buffer"));
  });

  it("go by URL, absolute and relative", async () => {
    expect(await env.client.invoke("lever://test/hello/echo", ["Ada", 1])).toEqual(["Ada", 1]);
    expect(await env.client.invoke("/hello/echo")).toEqual([]);
    expect(await env.client.invoke("/a-1/echo", [1])).toEqual([1]);
    expect(await env.client.service<typeof methods>("test/hello").echo(1)).toEqual([1]);
  });

  it("by more URLs than are remembered are the same", async () => {
    for (let index = 0; index < 1100; index++) {
      await expect(env.client.invoke(`/hello/missing${index}`)).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND" });
    }
    expect(await env.client.invoke("/hello/echo", [1])).toEqual([1]);
  });

  it("settle once, whatever a thenable does", async () => {
    expect(await remote().thenable()).toBe("once");
    expect(await remote().echo(1)).toEqual([1]);
  });

  it("go to all instances", async () => {
    const instances = new Set<string>();
    while (instances.size < 2) instances.add(await remote().instance());
    expect([...instances].sort()).toEqual(["hello-1", "hello-2"]);
  });

  it("may be many at once", async () => {
    const results = await Promise.all(Array.from({ length: 1000 }, (_, index) => remote().first(index)));
    expect(results).toEqual(Array.from({ length: 1000 }, (_, index) => index));
  });
});

describe("options of a call", () => {
  it("reach the method", async () => {
    const metadata = { tenant: "ä", empty: "" };
    const given = await remote({ timeoutMs: 5000, token: "order-1", metadata }).given();
    expect(given).toMatchObject({ token: "order-1", metadata });
    expect(given.timeLeftMs).toBeGreaterThan(1000);
    expect(given.timeLeftMs).toBeLessThanOrEqual(5000);
    // Without a timeout it is the service's.
    const bare = await remote().given();
    expect(bare).toMatchObject({ token: null, metadata: {} });
    expect(bare.timeLeftMs).toBeGreaterThan(20_000);
    expect(await env.client.invoke("/hello/given", [], { token: "t" })).toMatchObject({ token: "t" });
  });

  it.each([
    ["timeoutMs", 0],
    ["timeoutMs", -5],
    ["timeoutMs", 0.5],
    ["timeoutMs", 3_600_001],
    ["timeoutMs", Number.NaN],
    ["timeoutMs", Number.POSITIVE_INFINITY],
    ["timeoutMs", "500"],
    ["signal", new AbortController()],
    ["signal", null],
    ["token", ""],
    ["token", "x".repeat(129)],
    ["token", "€".repeat(43)],
    ["token", 5],
    ["metadata", "text"],
    ["metadata", null],
    ["metadata", { count: 5 }],
  ])("refuse %s of %j before anything is sent", async (field, value) => {
    const options = { [field]: value } as CallOptions;
    for (const call of [
      () => remote(options).echo(),
      () => remote(options).waitsChan(),
      () => env.client.invoke("/hello/echo", [], options),
    ]) {
      await expect(call()).rejects.toMatchObject({
        reason: "INVALID_OPTION",
        kind: "arguments",
        effect: "none",
        message: expect.stringContaining(field),
      });
    }
  });

  it("take tokens of 1 to 128 bytes and fractions of milliseconds", async () => {
    const token = `${"€".repeat(42)}xx`;
    expect(await remote({ token, timeoutMs: 1000.5 }).given()).toMatchObject({ token });
    expect(await remote({ token: "x" }).given()).toMatchObject({ token: "x" });
  });

  it("leave no listener at a signal", async () => {
    const { signal } = new AbortController();
    await Promise.all(Array.from({ length: 50 }, () => remote({ signal }).echo()));
    await expect(env.client.invoke("/hello/missing", [], { signal })).rejects.toMatchObject({ effect: "none" });
    const channel = await remote({ signal }).waitsChan();
    expect(getEventListeners(signal, "abort")).toHaveLength(1);
    channel.cancel();
    await until(() => running === 0);
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
  });
});

describe("a client", () => {
  it("does nothing before its first call", () => {
    const { LEVER_AGENT } = process.env;
    delete process.env.LEVER_AGENT;
    try {
      expect(new Client()).toBeInstanceOf(Client);
      expect(new Client({ gateway: "127.0.0.1:1" })).toBeInstanceOf(Client);
      expect(new Client({ agent: "unix:///nowhere/agent.sock" })).toBeInstanceOf(Client);
    } finally {
      if (LEVER_AGENT !== undefined) process.env.LEVER_AGENT = LEVER_AGENT;
    }
  });

  it("says how to get an agent when there is none", async () => {
    const client = new Client();
    await expect(client.invoke("/hello/echo")).rejects.toMatchObject({
      reason: "AGENT_UNREACHABLE",
      effect: "none",
      message: expect.stringMatching(/LEVER_AGENT is not set.*gateway/s),
    });
    await client.close();
  });

  it("names the gateway that does not answer, at once", async () => {
    await using client = new Client({ gateway: "127.0.0.1:1", environment: "dev" });
    await expect(client.invoke("/hello/echo")).rejects.toMatchObject({
      reason: "AGENT_UNREACHABLE",
      effect: "none",
      message: expect.stringMatching(/gateway at tcp:\/\/127\.0\.0\.1:1: .*ECONNREFUSED/),
    });
  });

  it.each([
    [{ agent: "unix:///a.sock", gateway: "host" }, /agent and gateway/],
    [{ agent: "/run/agent.sock" }, /agent is "\/run\/agent.sock", expected unix:/],
    [{ agent: "unix://relative.sock" }, /expected unix:/],
    [{ agent: "tcp://host:0" }, /expected unix:/],
    [{ agent: 5 }, /agent is a number/],
    [{ gateway: "http://host" }, /gateway is "http:\/\/host", expected host:port/],
    [{ gateway: "host:99999" }, /expected host:port/],
    [{ gateway: null }, /gateway is null/],
    [{ gateway: "host", environment: "Shop" }, /environment: .*"Shop"/],
    [{ gateway: "host", environment: "" }, /environment: .*is empty/],
  ])("refuses the options %j", (options, message) => {
    expect(() => new Client(options as object)).toThrow(
      expect.objectContaining({ reason: "INVALID_OPTION", message: expect.stringMatching(message) }),
    );
  });

  it.each(["host", "host:4837", "tcp://host:4837", "[::1]:4837", "10.0.0.1"])("takes the gateway %s", (gateway) => {
    expect(() => new Client({ gateway })).not.toThrow();
  });

  it.each(["", "Hello", "hello/world/x", "/hello", "hello/", "a b", "-a", `${"a".repeat(64)}`])(
    "refuses the service %j",
    (name) => {
      expect(() => env.client.service(name)).toThrow(expect.objectContaining({ reason: "INVALID_URL" }));
    },
  );

  it("takes its gateway's port in URLs, and no other", async () => {
    await using client = new Client({ gateway: "127.0.0.1:1", environment: "dev" });
    await expect(client.invoke("lever://dev:1/hello/echo")).rejects.toMatchObject({ reason: "AGENT_UNREACHABLE" });
    await expect(client.invoke("lever://dev:2/hello/echo")).rejects.toMatchObject({
      reason: "INVALID_URL",
      details: { part: "port" },
    });
  });

  it("goes through a gateway from outside, with an environment of its own", async () => {
    const cluster = new TestCluster("shop");
    const access = { callers: [], gateway: { expose: "Public" } } as const;
    cluster.declareService("hello", { ...defaultServicePolicy, access });
    const { agent, whenServing } = cluster.addInstance("hello", "hello-1");
    const server = new MethodServer(
      agent.connection.retain(),
      { caller: () => context().caller },
      { drainTimeoutMs: 1000, onError: undefined, instance: "hello-1", showsErrors: false },
    );
    await Promise.all([server.start(5000), whenServing]);
    const gateway = cluster.addCaller("gateway", "gateway");
    const listener = await listenTcp("127.0.0.1", 0, (transport) => gateway.agent.acceptClient(transport));
    {
      await using client = new Client({ gateway: listener.address, environment: "shop" });
      await using stranger = new Client({ gateway: `tcp://${listener.address}`, environment: "elsewhere" });
      const url = `lever://shop:${listener.port}/hello/caller`;
      for (const call of [
        () => client.invoke("/hello/caller"),
        () => client.invoke(url),
        () => client.service<{ caller(): unknown }>("hello").caller(),
      ]) {
        expect(await call()).toEqual({ outside: true, environment: "shop" });
      }
      expect(await stranger.invoke(url)).toEqual({ outside: true, environment: "elsewhere" });
      await expect(stranger.invoke("/hello/caller")).rejects.toMatchObject({ reason: "SERVICE_NOT_FOUND" });
    }
    listener.close();
    cluster.close();
  });

  it("cancels what is not over when it is closed, and takes no more", async () => {
    const own = await TestEnvironment.start({ hello: { methods } });
    const { client } = own;
    const service = client.service<typeof methods>("hello");
    const call = service.waits();
    const channel = await service.waitsChan();
    await until(() => running === 2);
    await Promise.all([client.close(), client.close()]);
    await expect(call).rejects.toMatchObject({ reason: "CANCELLED", effect: "unknown" });
    await expect(channel.receive()).rejects.toMatchObject({ reason: "CANCELLED" });
    expect(channel.signal.aborted).toBe(true);
    await until(() => running === 0);
    for (const late of [() => service.echo(), () => client.invoke("/hello/echo"), () => service.waitsChan()]) {
      await expect(late()).rejects.toMatchObject({
        reason: "CANCELLED",
        effect: "none",
        message: expect.stringContaining("client was closed"),
      });
    }
    await own[Symbol.asyncDispose]();
  });

  it("is no one's but its own: another client of the same connection goes on", async () => {
    await using own = await TestEnvironment.start({
      hello: { methods },
      front: {
        methods: {
          async shared() {
            const [first, second] = [new Client(), new Client()];
            const waiting = first.invoke("/hello/waits").catch((error: unknown) => LeverError.from(error).reason);
            const other = second.invoke("/hello/echo", [1]);
            await first.close();
            return [await waiting, await other, await second.invoke("/hello/echo", [2])];
          },
        },
      },
    });
    expect(await own.client.invoke("/front/shared")).toEqual(["CANCELLED", [1], [2]]);
  });
});
