/** Serving: what is registered, over reconnects too, and how it ends. Processes are real, their agent is in this one. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Listener, listenUnix } from "@leveros/agent/host/socket.ts";
import { defaultServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Client, type OwnConnection, ownConnection } from "./client.ts";
import { Connection, clock } from "./connection.ts";
import { type Channel, context, LeverError, serve } from "./index.ts";
import { MethodServer, type MethodServerOptions } from "./method-server.ts";
import { type ClusterInstance, TestCluster } from "./testing/test-cluster.ts";

const limits = { ...defaultSessionLimits, pingIntervalMs: 0, silenceMs: 0, goAwayGraceMs: 3_700_000 };
const serverOptions: MethodServerOptions = {
  drainTimeoutMs: 25_000,
  onError: undefined,
  instance: "hello-1",
  showsErrors: false,
};

/** An environment with a client, and one instance of `hello` whose agent may come and go. */
class Rig {
  readonly cluster = new TestCluster("test");
  readonly client: Client;
  instance: ClusterInstance | undefined;

  constructor() {
    this.cluster.declareService("hello", defaultServicePolicy);
    this.cluster.declareService("other", defaultServicePolicy);
    const own: OwnConnection = { [ownConnection]: this.cluster.addCaller("client").connection };
    this.client = new Client(own);
  }

  startAgent(): ClusterInstance {
    this.instance = this.cluster.addInstance("hello", "hello-1");
    return this.instance;
  }

  stopAgent(): void {
    const { instance } = this;
    this.instance = undefined;
    instance?.agent.cut();
    if (instance !== undefined) this.cluster.removeInstance(instance);
  }

  /** An app's connection to the agent, whichever that is. */
  connect(): Connection {
    return new Connection({
      identity: { role: "app", instance: "hello-1" },
      name: "the agent",
      limits,
      dial: async () => {
        if (this.instance === undefined) throw new Error("connect ENOENT");
        const [near, far] = memoryTransportPair(clock);
        this.instance.agent.agent.acceptApp(far);
        return near;
      },
    }).retain();
  }

  async serveOther(methods: object): Promise<MethodServer> {
    const { agent } = this.cluster.addInstance("other", "other-1");
    const server = new MethodServer(agent.connection.retain(), methods, { ...serverOptions, instance: "other-1" });
    await server.start(5000);
    return server;
  }

  async call(method: string, ...args: unknown[]): Promise<unknown> {
    return this.client.invoke(`/hello/${method}`, args);
  }

  /** Calls until an instance takes the call. */
  async eventually(method: string, ...args: unknown[]): Promise<unknown> {
    for (;;) {
      try {
        return await this.call(method, ...args);
      } catch (error) {
        const { kind, effect } = LeverError.from(error);
        if (kind !== "network" || effect !== "none") throw error;
        await sleep(2);
      }
    }
  }

  /** Until so many methods of the process have been entered. */
  async untilRunning(count: number): Promise<void> {
    while (((await this.call("running")) as number) < count) await sleep(2);
  }

  async untilRefused(method: string): Promise<LeverError> {
    for (;;) {
      const error = await this.call(method).then(
        () => undefined,
        (thrown: unknown) => LeverError.from(thrown),
      );
      if (error !== undefined) return error;
      await sleep(2);
    }
  }
}

let rig: Rig;
beforeEach(() => {
  rig = new Rig();
});
afterEach(() => {
  rig.cluster.close();
});

const methods = {
  echo(value: unknown) {
    return value;
  },
};

describe("a server", () => {
  it("is there for callers when start has resolved, with its methods and no others", async () => {
    rig.startAgent();
    const server = new MethodServer(rig.connect(), { ...methods, _private() {}, echoChan() {} }, serverOptions);
    await server.start(5000);
    expect(rig.instance?.agent.agent.registration).toMatchObject({
      methods: [
        { name: "echo", kind: "call" },
        { name: "echoChan", kind: "channel" },
      ],
      resources: false,
      library: "leveros",
    });
    expect(await rig.eventually("echo", 1)).toBe(1);
    await server.end();
  });

  it("waits for an agent that is late", async () => {
    const server = new MethodServer(rig.connect(), methods, serverOptions);
    const started = server.start(5000);
    await sleep(60);
    rig.startAgent();
    await started;
    expect(await rig.eventually("echo", 1)).toBe(1);
  });

  it("registers again, on its own, with every agent that takes the place of the last", async () => {
    rig.startAgent();
    const server = new MethodServer(rig.connect(), methods, serverOptions);
    await server.start(5000);
    expect(await rig.eventually("echo", "first")).toBe("first");
    for (const round of ["second", "third"]) {
      rig.stopAgent();
      await expect(rig.call("echo", 1)).rejects.toMatchObject({ kind: "network" });
      await sleep(20);
      rig.startAgent();
      expect(await rig.eventually("echo", round)).toBe(round);
    }
    await server.end();
  });

  it("fails to start without an agent, and leaves nothing behind", async () => {
    const connection = rig.connect();
    const server = new MethodServer(connection, methods, serverOptions);
    await expect(server.start(100)).rejects.toMatchObject({
      reason: "AGENT_UNREACHABLE",
      message: expect.stringContaining("connect ENOENT"),
    });
    rig.startAgent();
    await sleep(150);
    expect(connection.current).toBeUndefined();
    connection.release();
  });

  it("is refused while another process serves at the same agent, and says so", async () => {
    rig.startAgent();
    const first = new MethodServer(rig.connect(), methods, serverOptions);
    await first.start(5000);
    const second = new MethodServer(rig.connect(), methods, serverOptions);
    await expect(second.start(5000)).rejects.toMatchObject({
      reason: "INVALID_OPTION",
      message: expect.stringContaining("another process has registered"),
    });
    expect(await rig.eventually("echo", 1)).toBe(1);
  });

  it("is one for each connection, and a second one does the first no harm", async () => {
    rig.startAgent();
    const connection = rig.connect();
    const first = new MethodServer(connection, methods, serverOptions);
    await first.start(5000);
    const second = new MethodServer(connection.retain(), methods, serverOptions);
    await expect(second.start(5000)).rejects.toMatchObject({
      reason: "INVALID_OPTION",
      message: expect.stringContaining("serves already"),
    });
    connection.release();
    expect(await rig.eventually("echo", 1)).toBe(1);
    await first.end();
    const third = new MethodServer(rig.connect(), methods, serverOptions);
    await third.start(5000);
    expect(await rig.eventually("echo", 3)).toBe(3);
  });

  it("reports that it is no longer registered, once", async () => {
    const log = vi.spyOn(console, "error").mockImplementation(() => {});
    try {
      rig.startAgent();
      const server = new MethodServer(rig.connect(), methods, serverOptions);
      await server.start(5000);
      rig.stopAgent();
      rig.startAgent();
      // Another process is quicker.
      const usurper = new MethodServer(rig.connect(), methods, serverOptions);
      await usurper.start(5000);
      while (log.mock.calls.length === 0) await sleep(5);
      await sleep(150);
      expect(log.mock.calls).toEqual([
        [expect.stringMatching(/does not register this process again: .*another process/)],
      ]);
      await usurper.end();
      expect(await rig.eventually("echo", "back")).toBe("back");
      await server.end();
    } finally {
      log.mockRestore();
    }
  });

  it.each([
    ["no methods", {}, /without a function/],
    [
      "too many names for one frame",
      Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`${"m".repeat(50)}${index}`, () => {}])),
      /32768 can be registered/,
    ],
  ])("cannot be made of %s", (_what, unservable, message) => {
    expect(() => new MethodServer(rig.connect(), unservable, serverOptions)).toThrow(
      expect.objectContaining({ reason: "INVALID_OPTION", message: expect.stringMatching(message) }),
    );
  });

  it("hides from callers what methods throw, and logs it with the trace that they are told of", async () => {
    const log = vi.spyOn(console, "error").mockImplementation(() => {});
    try {
      rig.startAgent();
      const secret = new Error("the password is hunter2");
      const failing = {
        throws() {
          throw secret;
        },
      };
      await new MethodServer(rig.connect(), failing, serverOptions).start(5000);
      const error = LeverError.from(await rig.eventually("throws").catch((thrown: unknown) => thrown));
      expect(error).toMatchObject({ reason: "METHOD_THREW", effect: "ran" });
      expect(error.message).not.toContain("hunter2");
      expect(error.message).toContain("log of hello-1");
      const trace = /trace ([0-9a-f]{32})$/.exec(error.message)?.[1];
      expect(log.mock.calls).toEqual([[`lever: throws threw (trace ${trace}):`, secret]]);
    } finally {
      log.mockRestore();
    }
  });

  it("gives the error to onError instead, and to the log if that throws", async () => {
    const log = vi.spyOn(console, "error").mockImplementation(() => {});
    try {
      rig.startAgent();
      const thrown = new Error("unexpected");
      const seen: unknown[] = [];
      const failing = {
        throws() {
          throw thrown;
        },
      };
      const onError = (...report: unknown[]) => {
        seen.push(report);
        if (seen.length === 2) throw new Error("the reporter is broken");
      };
      await new MethodServer(rig.connect(), failing, { ...serverOptions, onError }).start(5000);
      await expect(rig.eventually("throws")).rejects.toMatchObject({ reason: "METHOD_THREW" });
      expect(seen).toEqual([[thrown, { method: "throws", traceId: expect.stringMatching(/^[0-9a-f]{32}$/) }]]);
      expect(log).not.toHaveBeenCalled();
      await expect(rig.call("throws")).rejects.toMatchObject({ reason: "METHOD_THREW" });
      expect(log.mock.calls.flat()).toContain(thrown);
    } finally {
      log.mockRestore();
    }
  });
});

describe("the end of a server", () => {
  it("refuses new calls with the effect none, and waits for those that run", async () => {
    rig.startAgent();
    const release = Promise.withResolvers<string>();
    let runs = 0;
    const slow = {
      waits() {
        runs++;
        return release.promise;
      },
    };
    const server = new MethodServer(rig.connect(), slow, serverOptions);
    await server.start(5000);
    const running = rig.eventually("waits");
    while (runs === 0) await sleep(1);
    let isOver = false;
    const end = server.end().then((how) => {
      isOver = true;
      return how;
    });
    await sleep(20);
    for (let index = 0; index < 5; index++) {
      const error = LeverError.from(await rig.call("waits").catch((thrown: unknown) => thrown));
      expect(["DRAINING", "NO_INSTANCES"]).toContain(error.reason);
      expect(error.effect).toBe("none");
    }
    expect([runs, isOver]).toEqual([1, false]);
    release.resolve("answered");
    expect(await running).toBe("answered");
    expect(await end).toEqual({ cutOff: 0 });
  });

  it("lets running methods call others to the end", async () => {
    rig.startAgent();
    const other = await rig.serveOther({
      async echo(value: unknown) {
        await sleep(20);
        return value;
      },
    });
    let entered = false;
    const connection = rig.connect();
    const nested: OwnConnection = { [ownConnection]: connection };
    const client = new Client(nested);
    const server = new MethodServer(
      connection,
      {
        async nests() {
          entered = true;
          const seen: unknown[] = [];
          for (let index = 0; index < 5; index++) seen.push(await client.invoke("/other/echo", [index]));
          return [context().draining.aborted, ...seen];
        },
      },
      serverOptions,
    );
    await server.start(5000);
    const call = rig.eventually("nests");
    while (!entered) await sleep(1);
    const end = server.end();
    expect(await call).toEqual([true, 0, 1, 2, 3, 4]);
    expect(await end).toEqual({ cutOff: 0 });
    // The client shares the connection, and still works when the server has ended.
    expect(await client.invoke("/other/echo", ["later"])).toBe("later");
    await client.close();
    await other.end();
  });

  it("comes after the last byte of answers that are read slowly", async () => {
    rig.startAgent();
    const size = 1_000_000;
    const server = new MethodServer(
      rig.connect(),
      {
        async pourChan(channel: Channel<never, Uint8Array>) {
          // Returns while nearly all of it waits for the reader's credit.
          const sending = Array.from({ length: 20 }, () => channel.send(new Uint8Array(size / 20).fill(7)));
          await sending[0];
        },
      },
      serverOptions,
    );
    await server.start(5000);
    await rig.eventually("missing").catch(() => {});
    const channel = await rig.client.openChannel<Uint8Array>("/hello/pourChan");
    await sleep(20);
    let isOver = false;
    const end = server.end().then((how) => {
      isOver = true;
      return how;
    });
    await sleep(50);
    expect(isOver).toBe(false);
    let bytes = 0;
    for await (const part of channel) {
      bytes += part.length;
      await sleep(1);
    }
    expect(bytes).toBe(size);
    expect(await end).toEqual({ cutOff: 0 });
  });

  it("waits for calls whose arguments are still being validated", async () => {
    rig.startAgent();
    const validation = Promise.withResolvers<{ value: unknown }>();
    let validating = false;
    const { validated } = await import("./validated.ts");
    const schema = {
      "~standard": {
        version: 1,
        vendor: "test",
        validate: () => {
          validating = true;
          return validation.promise;
        },
      },
    } as const;
    const server = new MethodServer(rig.connect(), { checked: validated([schema], (value) => value) }, serverOptions);
    await server.start(5000);
    const call = rig.eventually("checked", 1);
    while (!validating) await sleep(1);
    const end = server.end();
    await sleep(20);
    validation.resolve({ value: "valid" });
    expect(await call).toBe("valid");
    expect(await end).toEqual({ cutOff: 0 });
  });

  it("cuts off what does not end in time, and cancels it", async () => {
    rig.startAgent();
    const aborted: unknown[] = [];
    let entered = false;
    const server = new MethodServer(
      rig.connect(),
      {
        async waits() {
          const { signal } = context();
          entered = true;
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
          aborted.push(LeverError.from(signal.reason).kind);
        },
      },
      { ...serverOptions, drainTimeoutMs: 50 },
    );
    await server.start(5000);
    await rig.eventually("missing").catch(() => {});
    const call = rig.call("waits");
    const failed = expect(call).rejects.toMatchObject({ kind: "network", effect: "unknown" });
    while (!entered) await sleep(1);
    expect(await server.end()).toEqual({ cutOff: 1 });
    await failed;
    expect(aborted).toEqual(["network"]);
  });

  it("is one, however often it is asked for", async () => {
    rig.startAgent();
    const connection = rig.connect();
    const server = new MethodServer(connection, methods, serverOptions);
    await server.start(5000);
    expect(await Promise.all([server.end(), server.drain(), server[Symbol.asyncDispose]()])).toEqual([
      { cutOff: 0 },
      undefined,
      undefined,
    ]);
    expect(connection.current).toBeUndefined();
  });
});

describe("serve", () => {
  it.each([
    [{ drainTimeoutMs: -1 }, /drainTimeoutMs is -1/],
    [{ drainTimeoutMs: 3_600_001 }, /drainTimeoutMs/],
    [{ drainTimeoutMs: "5" }, /drainTimeoutMs/],
    [{ handleSignals: "no" }, /handleSignals/],
    [{ agent: "nowhere" }, /agent is "nowhere"/],
  ])("refuses the options %j", async (options, message) => {
    await expect(serve(methods, options as object)).rejects.toMatchObject({
      reason: "INVALID_OPTION",
      message: expect.stringMatching(message),
    });
  });

  it("says how to get an agent when there is none", async () => {
    await expect(serve(methods)).rejects.toMatchObject({
      reason: "AGENT_UNREACHABLE",
      message: expect.stringContaining("LEVER_AGENT is not set"),
    });
  });
});

describe("a process", () => {
  const script = fileURLToPath(new URL("./serving-process.fixture.ts", import.meta.url));
  let directory: string;
  let listener: Listener | undefined;
  const children: ChildProcess[] = [];

  beforeEach(async () => {
    directory = mkdtempSync(path.join(tmpdir(), "lever-node-"));
    rig.startAgent();
    await listen();
    await rig.serveOther({ echo: (value: unknown) => value });
  });
  afterEach(() => {
    for (const child of children.splice(0)) if (child.exitCode === null) child.kill("SIGKILL");
    listener?.close();
    rmSync(directory, { recursive: true, force: true });
  });

  async function listen(): Promise<void> {
    listener = await listenUnix(path.join(directory, "agent.sock"), (transport) => {
      if (rig.instance === undefined) transport.destroy();
      else rig.instance.agent.agent.acceptApp(transport);
    });
  }

  interface Started {
    readonly child: ChildProcess;
    readonly exited: Promise<{ code: number | null; signal: string | null }>;
    readonly output: () => string;
  }

  async function start(argument: string, env: Record<string, string> = {}): Promise<Started> {
    const child = spawn(process.execPath, [script, argument], {
      env: {
        PATH: process.env.PATH,
        LEVER_AGENT: `unix://${path.join(directory, "agent.sock")}`,
        LEVER_INSTANCE: "hello-1",
        ...env,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    children.push(child);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        output += chunk.toString();
      });
    }
    const exited = once(child, "close").then(([code, signal]) => ({ code, signal }) as never);
    if (argument !== "client") {
      while (!output.includes("serving")) {
        if (child.exitCode !== null) throw new Error(output);
        await sleep(5);
      }
    }
    return { child, exited, output: () => output };
  }

  it("that only calls ends by itself when its client is closed", async () => {
    const { exited, output } = await start("client");
    expect(await exited).toEqual({ code: 0, signal: null });
    expect(output()).toBe("called\n");
  });

  it("that finds no agent ends by itself too", async () => {
    const { exited, output } = await start("client", { LEVER_AGENT: "" });
    expect(await exited).toEqual({ code: 0, signal: null });
    expect(output()).toBe("AGENT_UNREACHABLE\n");
  });

  it("that serves stays, and is there again when its agent is", async () => {
    const { child } = await start("{}");
    expect(await rig.eventually("pid")).toBe(child.pid);
    listener?.close();
    rig.stopAgent();
    await sleep(100);
    expect(child.exitCode).toBeNull();
    rig.startAgent();
    await listen();
    expect(await rig.eventually("pid")).toBe(child.pid);
  });

  it.each(["SIGTERM", "SIGINT"] as const)(
    "drains on %s: answers what runs, nested calls too, then exits with 0",
    async (signal) => {
      const { child, exited } = await start("{}");
      await rig.eventually("pid");
      const running = [rig.call("nests", 400), rig.call("slow", 450)];
      await rig.untilRunning(2);
      child.kill(signal);
      expect(await rig.untilRefused("pid")).toMatchObject({ kind: "network", effect: "none" });
      expect(await Promise.all(running)).toEqual(["nested, draining: true", "done"]);
      expect(await exited).toEqual({ code: 0, signal: null });
    },
  );

  it("exits at once on a second signal, whichever", async () => {
    const { child, exited } = await start("{}");
    await rig.eventually("pid");
    const running = rig.call("slow", 60_000);
    const failed = expect(running).rejects.toMatchObject({ kind: "network", effect: "unknown" });
    await rig.untilRunning(1);
    child.kill("SIGTERM");
    await rig.untilRefused("pid");
    expect(child.exitCode).toBeNull();
    child.kill("SIGINT");
    expect(await exited).toEqual({ code: 130, signal: null });
    await failed;
  });

  it("exits with 1 and says so when it had to cut something off", async () => {
    const { child, exited, output } = await start('{"drainTimeoutMs":50}');
    await rig.eventually("pid");
    const failed = expect(rig.call("slow", 60_000)).rejects.toMatchObject({ kind: "network", effect: "unknown" });
    await rig.untilRunning(1);
    child.kill("SIGTERM");
    expect(await exited).toEqual({ code: 1, signal: null });
    expect(output()).toContain("1 calls and channels still ran and were cut off");
    await failed;
  });

  it("shows callers what methods throw if LEVER_SHOW_ERRORS is 1, and logs it", async () => {
    const { output } = await start("{}", { LEVER_SHOW_ERRORS: "1" });
    await expect(rig.eventually("throws")).rejects.toMatchObject({
      reason: "METHOD_THREW",
      message: expect.stringContaining("throws threw RangeError: the text"),
    });
    while (!output().includes("serving-process.fixture.ts")) await sleep(5);
    expect(output()).toMatch(/lever: throws threw \(trace [0-9a-f]{32}\): RangeError: the text\n {4}at /);
  });

  it("leaves signals alone if told to", async () => {
    const { child, exited } = await start('{"handleSignals":false}');
    child.kill("SIGTERM");
    expect(await exited).toEqual({ code: null, signal: "SIGTERM" });
  });
});
