/** The agent as its host and its peers see it: the app's coming and going, who a call says it is from, limits, the end. */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Flag, FrameType, framePayloadBytesMax } from "@leveros/protocol/frame/frame.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits, sessionWindowBytesMin } from "@leveros/protocol/session/limits.ts";
import { type Caller, encodeFields, routingFixedBytes } from "@leveros/protocol/session/routing-header.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { StreamHandler } from "@leveros/protocol/session/stream.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { decodePayload, encodeArgs } from "@leveros/protocol/value/form.ts";
import { describe, expect, it } from "vitest";
import type { AgentLimits } from "./limits.ts";
import { type App, environment, type Methods, type Node, Outcome, service, World } from "./world.fixture.ts";

const noHandler: StreamHandler = { onFrame() {}, onWritable() {}, onLost() {} };

class Rig {
  readonly world: World;
  readonly caller: Node;
  readonly app: App;
  readonly server: Node;
  gates: (() => void)[] = [];
  readonly methods: Methods = {
    work: (_context, value: unknown) => value ?? null,
    held: () => new Promise<null>((resolve) => this.gates.push(() => resolve(null))),
    callerOf: ({ invocation }) => ({ ...invocation.fields.caller }),
    /** Time left, ms. */
    leftOf: ({ invocation, app }) => (invocation.deadlineAt ?? Number.NaN) - app.world.clock.now(),
    lengthOf: (_context, bytes: Uint8Array) => bytes.length,
    textOf: (_context, count: number) => "x".repeat(count),
  };

  constructor(policy: Parameters<World["declare"]>[0] = {}, limits: Partial<AgentLimits> = {}, world = new World()) {
    this.world = world;
    this.world.declare(policy);
    this.caller = this.world.addNode("caller", { service: "caller", limits });
    this.app = this.caller.startApp();
    this.server = this.world.addNode("server", { limits });
  }

  get state(): string | undefined {
    return this.world.tableOf(service).instances[0]?.state;
  }

  async serve(): Promise<App> {
    const app = this.server.startApp(this.methods);
    await this.world.settle();
    return app;
  }

  /** What comes of a call within 100 ms. */
  async outcome(call: Promise<unknown>): Promise<Outcome> {
    const outcome = new Outcome(call);
    await this.world.advance(100);
    return outcome;
  }

  async end(): Promise<void> {
    for (const open of this.gates) open();
    await this.world.advance(1000);
    this.world.checkIdle();
    await this.world.close();
  }
}

describe("the app at its agent", () => {
  it("makes the agent ready by registering, until it is gone", async () => {
    const rig = new Rig();
    await rig.world.settle();
    expect([rig.server.agent.isReady, rig.state]).toEqual([false, undefined]);
    const app = await rig.serve();
    expect([rig.server.agent.isReady, rig.state]).toEqual([true, "Serving"]);
    expect(rig.server.agent.registration?.methods.map((method) => method.name)).toContain("callerOf");
    app.kill();
    await rig.world.settle();
    expect([rig.server.agent.isReady, rig.state, rig.server.agent.registration]).toEqual([
      false,
      "Starting",
      undefined,
    ]);
    await rig.serve();
    expect([rig.server.agent.isReady, rig.state]).toEqual([true, "Serving"]);
    await rig.end();
  });

  it("is drained when it goes away; what runs goes on, and it may come back", async () => {
    const rig = new Rig();
    const app = await rig.serve();
    const held = new Outcome(rig.app.call("held"));
    await rig.world.settle();
    app.stop();
    await rig.world.settle();
    expect([rig.server.agent.isReady, rig.server.agent.isDraining, rig.state]).toEqual([false, true, "Draining"]);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("none NO_INSTANCES");
    expect(held.text).toBe("open");
    for (const open of rig.gates) open();
    await rig.world.settle();
    expect([held.text, app.session.isClosed]).toEqual(["ok", true]);
    await rig.serve();
    expect([rig.server.agent.isReady, rig.state]).toEqual([true, "Serving"]);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    await rig.end();
  });

  it("is one process: a second one is told so, and the first goes on", async () => {
    const rig = new Rig();
    await rig.serve();
    const second = await rig.serve();
    expect(second.closedWith?.message).toMatch(/another process has registered at this agent/);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    await rig.end();
  });

  it("makes room for the next one when it goes away, and finishes what it has", async () => {
    const rig = new Rig();
    const first = await rig.serve();
    const held = new Outcome(rig.app.call("held"));
    await rig.world.settle();
    first.stop();
    const second = await rig.serve();
    expect([second.closedWith, rig.server.agent.isReady, rig.state]).toEqual([undefined, true, "Serving"]);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    for (const open of rig.gates) open();
    await rig.world.settle();
    expect([held.text, first.session.isClosed, rig.server.agent.isReady]).toEqual(["ok", true, true]);
    await rig.end();
  });

  it("that only calls may come and go, and go away, as it likes", async () => {
    const rig = new Rig();
    await rig.serve();
    const other = rig.server.startApp();
    expect((await rig.outcome(other.call("work"))).text).toBe("ok");
    other.stop();
    await rig.world.settle();
    expect([rig.server.agent.isReady, rig.state]).toEqual([true, "Serving"]);
    await rig.end();
  });

  it("drains by the hook: what runs ends first, and nothing new comes; undone when an app registers again (R22)", async () => {
    const rig = new Rig();
    const app = await rig.serve();
    const held = new Outcome(rig.app.call("held"));
    await rig.world.settle();
    const drained = new Outcome(rig.server.agent.drainApp());
    const again = new Outcome(rig.server.agent.drainApp());
    await rig.world.settle();
    expect([rig.server.agent.isReady, rig.state, drained.text]).toEqual([false, "Draining", "open"]);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("none NO_INSTANCES");
    for (const open of rig.gates) open();
    await rig.world.settle();
    expect([held.text, drained.text, again.text, rig.state]).toEqual(["ok", "ok", "ok", "Draining"]);
    app.kill();
    await rig.serve();
    expect([rig.server.agent.isReady, rig.state]).toEqual([true, "Serving"]);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    await rig.end();
  });

  it("drains by the hook no longer than until another app has registered", async () => {
    const rig = new Rig();
    const app = await rig.serve();
    const held = new Outcome(rig.app.call("held"));
    await rig.world.settle();
    const drained = new Outcome(rig.server.agent.drainApp());
    app.stop();
    await rig.world.settle();
    expect(drained.text).toBe("open");
    await rig.serve();
    expect([drained.text, held.text, rig.server.agent.isReady]).toEqual(["ok", "open", true]);
    for (const open of rig.gates) open();
    await rig.world.settle();
    await rig.end();
  });

  it("has nothing to drain before it has registered", async () => {
    const rig = new Rig();
    await rig.world.settle();
    expect((await rig.outcome(rig.server.agent.drainApp())).text).toBe("ok");
    await rig.serve();
    expect([rig.server.agent.isReady, rig.state]).toEqual([true, "Serving"]);
    await rig.end();
  });

  it("cannot end the draining of an agent that is about to stop", async () => {
    const rig = new Rig();
    const app = await rig.serve();
    const held = new Outcome(rig.app.call("held"));
    await rig.world.settle();
    const drained = new Outcome(rig.server.agent.drain());
    await rig.world.settle();
    expect([rig.state, drained.text]).toEqual(["Draining", "open"]);
    app.kill();
    await rig.serve();
    expect([rig.server.agent.isReady, rig.state, drained.text, held.text]).toEqual([
      false,
      "Draining",
      "ok",
      "unknown APP_GONE",
    ]);
    await rig.end();
  });
});

describe("who calls", () => {
  const forged: Caller = { environment: "prod", service: "admin", instance: "root", outside: false };
  const callerIs = async (rig: Rig, app: App) => {
    const outcome = await rig.outcome(app.call("callerOf", [], { fields: { caller: forged } }));
    return outcome.value;
  };

  it("is what the caller's agent is, whatever an app writes", async () => {
    const rig = new Rig();
    await rig.serve();
    const expected = { environment, service: "caller", instance: "caller" };
    expect(await callerIs(rig, rig.app)).toEqual(expected);
    expect((await rig.outcome(rig.app.call("callerOf"))).value).toEqual(expected);
    await rig.end();
  });

  it("is outside for a client of a gateway, with the environment of its HELLO", async () => {
    const rig = new Rig();
    await rig.serve();
    const gateway = rig.world.addNode("gateway", { role: "gateway", defaultEnvironment: environment });
    expect(await callerIs(rig, gateway.startClient())).toEqual({ outside: true });
    expect(await callerIs(rig, gateway.startClient({ environment: "shop" }))).toEqual({
      outside: true,
      environment: "shop",
    });
    await rig.end();
  });

  it("is the agent's own service for who is let in beside its app, and that one cannot serve", async () => {
    const rig = new Rig();
    await rig.serve();
    const expected = { environment, service: "caller", instance: "caller" };
    expect(await callerIs(rig, rig.caller.startCaller())).toEqual(expected);
    expect(await callerIs(rig, rig.caller.startCaller({ environment: "shop" }))).toEqual(expected);
    const app = rig.caller.startCaller({ role: "app", methods: rig.methods });
    await rig.world.settle();
    expect(app.closedWith?.rawMessage).toMatch(/REGISTER, which only an app may send, to its agent/);
    expect(rig.caller.agent.registration).toBeUndefined();
    await rig.end();
  });

  it("is the peer itself for a peer that is no gateway", async () => {
    const rig = new Rig();
    await rig.serve();
    const session = new Session({
      transport: await rig.world.dial(rig.server.address),
      clock: rig.world.clock,
      side: "dialer",
      identity: { role: "agent", environment, service: "spy" },
      limits: { ...defaultSessionLimits, pingIntervalMs: 0 },
      handler: { onOpen() {} },
    });
    await rig.world.settle();
    const replies: Uint8Array[] = [];
    const target = new Target(environment, service, "callerOf");
    session.open(target, 0, 0, encodeFields({ caller: forged }), encodeArgs([]).bytes, {
      ...noHandler,
      onFrame: (stream, type, _flags, payload) => {
        if (type === FrameType.Reply) replies.push(payload.slice(2));
        stream.consume(payload.length + 64);
      },
    });
    await rig.world.settle();
    const text = new TextDecoder("latin1").decode(replies[0]);
    expect(text).toContain("spy");
    expect(text).not.toMatch(/admin|root|prod/);
    session.destroy(new LeverError("CANCELLED", "the test is over"));
    await rig.world.settle();
    await rig.end();
  });
});

describe("a target", () => {
  it("without an environment is of the app's own, or the client's, or the gateway's default", async () => {
    const rig = new Rig();
    await rig.serve();
    expect((await rig.outcome(rig.app.call("work", [], { environment: "" }))).text).toBe("ok");
    const lost = rig.world.addNode("gateway-1", { role: "gateway" });
    const refused = await rig.outcome(lost.startClient().call("work", [], { environment: "" }));
    expect(refused.text).toBe("none INVALID_URL");
    expect(lost.notes.ends).toEqual(["call /test INVALID_ARGUMENT"]);
    const own = await rig.outcome(lost.startClient({ environment }).call("work", [], { environment: "" }));
    expect(own.text).toBe("ok");
    const gateway = rig.world.addNode("gateway-2", { role: "gateway", defaultEnvironment: environment });
    expect((await rig.outcome(gateway.startClient().call("work", [], { environment: "" }))).text).toBe("ok");
    await rig.end();
  });
});

describe("deadlines", () => {
  it("shrink by what each hop takes, and never grow", async () => {
    const rig = new Rig({ timeoutMs: 7000 });
    await rig.serve();
    rig.world.latencyMs = () => 40;
    await rig.outcome(rig.app.call("work"));
    await rig.world.advance(100);
    const left = async (timeoutMs?: number) => {
      const outcome = new Outcome(rig.app.call("leftOf", [], timeoutMs === undefined ? {} : { timeoutMs }));
      await rig.world.advance(500);
      return outcome.value as number;
    };
    // The hop between the agents is not counted: nobody knows what it takes.
    expect(await left(1000)).toBe(1000);
    expect(await left()).toBe(7000);
    // The wait for the peer's HELLO is.
    rig.server.cut();
    await rig.world.advance(100);
    expect(await left(1000)).toBe(960);
    await rig.end();
  });

  it("are the service's own for a call that has waited for the table", async () => {
    const rig = new Rig({ timeoutMs: 7000 });
    await rig.serve();
    rig.world.isOperatorAway = true;
    const outcome = new Outcome(rig.app.call("leftOf"));
    await rig.world.advance(2000);
    rig.world.isOperatorAway = false;
    rig.world.publish();
    await rig.world.advance(100);
    expect(outcome.value).toBe(5000);
    await rig.end();
  });
});

describe("limits", () => {
  it("heldCallsMax: calls that wait for a table or a connection", async () => {
    const rig = new Rig({}, { heldCallsMax: 10 });
    await rig.serve();
    rig.server.reachability = "hangs";
    const calls = Array.from({ length: 15 }, () => new Outcome(rig.app.call("work")));
    await rig.world.settle();
    expect(rig.caller.agent.counts.held).toBe(10);
    const refused = calls.filter((call) => call.isSettled);
    expect(refused.map((call) => call.text)).toEqual(new Array(5).fill("none OVERLOADED"));
    expect(refused[0]?.error?.details).toEqual({ limit: "heldCallsMax", heldCallsMax: 10 });
    await rig.world.advance(3000);
    expect(calls.every((call) => call.isSettled)).toBe(true);
    await rig.end();
  });

  it("a burst at the first dial is served, not refused by the least number of streams", async () => {
    const rig = new Rig();
    await rig.serve();
    const calls = Array.from({ length: 800 }, () => new Outcome(rig.app.call("work")));
    await rig.world.advance(100);
    expect(calls.filter((call) => call.text !== "ok")).toEqual([]);
    expect([rig.caller.notes.retries, rig.server.dials]).toEqual([[], 1]);
    await rig.end();
  });

  it("retainedBytesMax: small fragments count for what they take", async () => {
    const rig = new Rig({}, { retainedBytesMax: 100_000 });
    await rig.serve();
    await rig.outcome(rig.app.call("work"));
    const target = new Target(environment, service, "lengthOf");
    const streams = Array.from({ length: 20 }, () =>
      rig.app.session.open(target, 3, 0, new Uint8Array(0), new Uint8Array(1), noHandler),
    );
    for (let count = 0; count < 100; count++) {
      for (const stream of streams) stream.send(FrameType.Open, 3, new Uint8Array(1));
      await rig.world.settle();
      expect(rig.caller.agent.counts.retainedBytes).toBeLessThanOrEqual(100_000);
    }
    expect(rig.caller.agent.counts.retainedBytes).toBeGreaterThan(0);
    for (const stream of streams) stream.send(FrameType.Open, 2, new Uint8Array(1));
    await rig.end();
  });

  it("streams: what is over makes room, however it went", async () => {
    const world = new World();
    world.sessionLimits = { streamsMax: 100 };
    const rig = new Rig({}, {}, world);
    await rig.serve();
    for (let count = 0; count < 150; count++) {
      const abort = new AbortController();
      const calls = [
        rig.app.call("work"),
        rig.app.call("absent"),
        rig.app.call("work", [], { service: "absent" }),
        rig.app.call("work", [], { fields: { resource: "room-7" } }),
        rig.app.call("held", [], { signal: abort.signal }),
      ].map((call) => new Outcome(call));
      await world.settle();
      abort.abort();
      for (const open of rig.gates.splice(0)) open();
      await world.settle();
      expect(calls.map((call) => call.text)).toEqual([
        "ok",
        "none METHOD_NOT_FOUND",
        "none SERVICE_NOT_FOUND",
        "none NO_RESOURCES",
        "unknown CANCELLED",
      ]);
    }
    await rig.end();
  });

  it("windows: arguments of calls that run take no credit", async () => {
    const world = new World();
    world.sessionLimits = { sessionWindowBytes: sessionWindowBytesMin };
    const rig = new Rig({}, {}, world);
    await rig.serve();
    await rig.outcome(rig.app.call("work"));
    const calls = Array.from({ length: 100 }, () => new Outcome(rig.app.call("held", ["x".repeat(20_000)])));
    await world.settle();
    expect(rig.gates).toHaveLength(100);
    for (const open of rig.gates) open();
    await world.settle();
    expect(calls.filter((call) => call.text !== "ok")).toEqual([]);
    await rig.end();
  });

  it("inFlightPerInstance: the agent refuses what is above it", async () => {
    const rig = new Rig({ limits: { inFlightPerInstance: 3 } });
    await rig.serve();
    const held = Array.from({ length: 3 }, () => new Outcome(rig.app.call("held")));
    await rig.world.settle();
    const refused = await rig.outcome(rig.app.call("work"));
    await rig.world.advance(1000);
    expect(refused.text).toBe("none OVERLOADED");
    expect(refused.error?.message).toContain("3 calls run in server, the most allowed (inFlightPerInstance)");
    for (const open of rig.gates) open();
    await rig.world.settle();
    expect(held.map((call) => call.text)).toEqual(["ok", "ok", "ok"]);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    await rig.end();
  });

  it("argsBytes, resultBytes, messageBytes: whoever exceeds one is told what to do instead", async () => {
    const rig = new Rig({ limits: { argsBytes: 100, resultBytes: 100 } });
    await rig.serve();
    const args = await rig.outcome(rig.app.call("work", ["x".repeat(100)]));
    expect(args.error?.message).toMatch(/larger than 100 bytes.*\(argsBytes\).*over a channel/);
    expect(args.error?.details).toEqual({ limit: "argsBytes", bytesMax: 100 });
    const result = await rig.outcome(rig.app.call("textOf", [100]));
    expect(result.error?.message).toMatch(/larger than 100 bytes.*\(resultBytes\).*over a channel/);
    expect(result.error?.details).toEqual({ limit: "resultBytes", bytesMax: 100 });
    await rig.end();
  });

  it("headers: what the agents write in front counts too", async () => {
    const rig = new Rig();
    await rig.serve();
    const gateway = rig.world.addNode("gateway", { role: "gateway", defaultEnvironment: environment });
    const client = gateway.startClient({ environment });
    const withMetadata = (bytes: number, args: number) =>
      rig.outcome(
        client.call("lengthOf", [new Uint8Array(args)], { fields: { metadata: { padding: "x".repeat(bytes) } } }),
      );
    const large = await withMetadata(16_300, 200_000);
    expect([large.text, large.value]).toEqual(["ok", 200_000]);
    const tooLarge = await withMetadata(16_360, 10);
    expect(tooLarge.text).toBe("none HEADER_TOO_LARGE");
    expect(gateway.notes.ends).toEqual(["call dev/test OK", "call dev/test RESOURCE_EXHAUSTED"]);
    await rig.end();
  });

  it("frames: one that grows above the largest by what an agent writes is cut anew", async () => {
    const rig = new Rig();
    await rig.serve();
    const gateway = rig.world.addNode("gateway", { role: "gateway", defaultEnvironment: environment });
    const replies: number[] = [];
    for (const app of [rig.app, gateway.startClient()]) {
      await rig.outcome(app.call("work"));
      const frame = new Uint8Array(framePayloadBytesMax);
      app.session.openFrame(new Target(environment, service, "lengthOf"), Flag.Bytes, frame, {
        ...noHandler,
        onFrame: (_stream, type, _flags, payload) => {
          if (type === FrameType.Reply) replies.push(decodePayload(payload.subarray(2), "value") as number);
        },
      });
      await rig.world.settle();
    }
    expect(replies).toEqual([framePayloadBytesMax - routingFixedBytes, framePayloadBytesMax - routingFixedBytes]);
    await rig.end();
  });

  it("sessionsMax: of each kind, and one that ends makes room", async () => {
    const rig = new Rig({}, { sessionsMax: 2 });
    await rig.serve();
    const gateway = rig.world.addNode("gateway", { role: "gateway", limits: { sessionsMax: 2 } });
    const clients = [gateway.startClient(), gateway.startClient(), gateway.startClient()];
    await rig.world.settle();
    expect(clients.map((client) => client.closedWith?.reason)).toEqual([undefined, undefined, "CONNECTION_LOST"]);
    // Those that the gateway dials do not count.
    expect((await rig.outcome((clients[0] as App).call("work"))).text).toBe("ok");
    clients[1]?.kill();
    await rig.world.settle();
    expect((await rig.outcome(gateway.startClient().call("work"))).text).toBe("ok");
    // The host's own door is none of them.
    expect(gateway.agent.acceptDoor(rig.world.pair()[1], defaultSessionLimits)).toBeDefined();
    expect(gateway.agent.acceptClient(rig.world.pair()[1])).toBeUndefined();
    await rig.end();
  });

  it("sessionsOfPeerMax: of one that has proven who it is, and of nobody else", async () => {
    const rig = new Rig({}, { sessionsOfPeerMax: 2 });
    await rig.serve();
    const { agent } = rig.server;
    const accept = (instance?: string) => {
      const [here, there] = rig.world.pair();
      const identity: Identity = { role: "agent", environment, service, instance: instance ?? "" };
      if (instance !== undefined) Object.assign(there, { provenPeer: { identity } });
      const before = agent.counts.sessions;
      agent.acceptPeer(there);
      return { here, isTaken: agent.counts.sessions > before };
    };
    const all = ["a", "a", "b", "a", undefined, undefined, undefined].map(accept);
    expect(all.map(({ isTaken }) => isTaken)).toEqual([true, true, true, false, true, true, true]);
    all[0]?.here.destroy();
    await rig.world.settle();
    expect(accept("a").isTaken).toBe(true);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    await rig.end();
  });

  it("names of services that there are not keep nobody out, and are forgotten", async () => {
    const rig = new Rig();
    await rig.serve();
    rig.world.subscriptionsMax = 50;
    rig.world.declare({ service: "late" });
    const before = rig.caller.agent.counts.views;
    for (let count = 0; count < 500; count++) {
      const refused = new Outcome(rig.app.call("work", [], { service: `absent-${count}` }));
      await rig.world.settle();
      expect(refused.text).toBe("none SERVICE_NOT_FOUND");
    }
    expect(rig.world.subscriptions).toBeLessThanOrEqual(50);
    expect((await rig.outcome(rig.app.call("work", [], { service: "late" }))).text).toBe("none NO_INSTANCES");
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    await rig.world.advance(11_000);
    expect(rig.caller.agent.counts.views).toBe(before + 2);
    await rig.world.advance(610_000);
    expect(rig.caller.agent.counts.views).toBe(before);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    await rig.end();
  });

  it("calls that wait for a table and end before hold nothing", async () => {
    const rig = new Rig();
    await rig.serve();
    rig.world.isOperatorAway = true;
    const abort = new AbortController();
    const calls = Array.from({ length: 300 }, (_, index) =>
      index % 2 === 0
        ? new Outcome(rig.app.call("work", [], { timeoutMs: 50 }))
        : new Outcome(rig.app.call("work", [], { signal: abort.signal })),
    );
    await rig.world.settle();
    expect(rig.caller.agent.counts).toMatchObject({ held: 300, outgoing: 300 });
    abort.abort();
    await rig.world.advance(100);
    expect(calls.filter((call) => !call.isSettled)).toEqual([]);
    expect(rig.caller.agent.counts).toMatchObject({ held: 0, outgoing: 0, retainedBytes: 0 });
    rig.world.isOperatorAway = false;
    rig.world.publish();
    await rig.end();
  });
});

describe("an instance", () => {
  it("whose agent has another address by now is found there", async () => {
    const rig = new Rig();
    await rig.serve();
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    rig.server.agent.close();
    rig.server.reachability = "refuses";
    const again = rig.world.addNode("server", { address: "elsewhere.test:3837" });
    again.startApp(rig.methods);
    await rig.world.settle();
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    expect(again.dials).toBe(1);
    rig.world.checkIdle();
    await rig.world.close();
  });

  it("is not dialed again for 200 ms after a dial has failed", async () => {
    const rig = new Rig();
    await rig.serve();
    rig.server.reachability = "refuses";
    // Five attempts, of which one dials.
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("open");
    await rig.world.advance(90);
    expect(rig.server.dials).toBe(1);
    rig.server.reachability = "open";
    await rig.world.advance(200);
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    expect(rig.server.dials).toBe(2);
    await rig.end();
  });

  it("that answers a dial too late, or says nothing, costs no connection", async () => {
    const rig = new Rig();
    await rig.serve();
    const before = rig.caller.agent.counts.sessions;
    rig.server.dialMs = 3000;
    void new Outcome(rig.app.call("work"));
    await rig.world.advance(2300);
    rig.server.reachability = "silent";
    rig.server.dialMs = 0;
    void new Outcome(rig.app.call("work"));
    await rig.world.advance(100);
    expect(rig.caller.agent.counts.sessions).toBe(before + 1);
    await rig.world.advance(2300);
    expect(rig.server.dials).toBe(2);
    expect(rig.caller.agent.counts.sessions).toBe(before);
    expect(rig.server.agent.counts.sessions).toBe(1);
    rig.server.reachability = "open";
    expect((await rig.outcome(rig.app.call("work"))).text).toBe("ok");
    await rig.end();
  });

  it("is dialed once for all that wait", async () => {
    const rig = new Rig();
    await rig.serve();
    rig.world.latencyMs = () => 50;
    const calls = Array.from({ length: 20 }, () => new Outcome(rig.app.call("work")));
    await rig.world.advance(1000);
    expect(calls.filter((call) => call.text !== "ok")).toEqual([]);
    expect(rig.server.dials).toBe(1);
    await rig.end();
  });
});

describe("the end of an agent", () => {
  it("ends what waits for a table, for a dial and for a retry, and leaves no timer", async () => {
    const rig = new Rig({ limits: { inFlightPerInstance: 0 } });
    await rig.serve();
    const other = rig.world.addNode("other", { service: "other" });
    other.reachability = "hangs";
    rig.world.declare({ service: "other" });
    rig.world.setState(other, "Serving", "other");
    await rig.world.settle();
    const retried = new Outcome(rig.app.call("work"));
    const dialing = new Outcome(rig.app.call("work", [], { service: "other" }));
    await rig.world.settle();
    rig.world.isOperatorAway = true;
    const waiting = new Outcome(rig.app.call("work", [], { service: "unknown" }));
    await rig.world.settle();
    expect(rig.caller.notes.retries).toEqual(["OVERLOADED"]);
    expect([retried.text, dialing.text, waiting.text]).toEqual(["open", "open", "open"]);
    await rig.world.close();
    expect([retried.isSettled, dialing.isSettled, waiting.isSettled]).toEqual([true, true, true]);
    expect(dialing.error?.effect).toBe("none");
    expect(waiting.error?.effect).toBe("none");
  });

  it("ends a drain that waits", async () => {
    const rig = new Rig();
    await rig.serve();
    void new Outcome(rig.app.call("held"));
    await rig.world.settle();
    const drained = new Outcome(rig.server.agent.drain());
    await rig.world.settle();
    expect(drained.text).toBe("open");
    await rig.world.close();
    expect(drained.text).toBe("ok");
  });
});
