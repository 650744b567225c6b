/**
 * Who may call, at both ends: the caller's agent, which spares a forbidden call the way, and the instance's agent, which
 * goes by nothing but the session that a call came over. `effect` is compared with what ran.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { AccessPolicy } from "@leveros/protocol/control/access.ts";
import { operatorEnvironment } from "@leveros/protocol/control/discovery.ts";
import { agentService, handOverMethod } from "@leveros/protocol/control/ownership.ts";
import { decodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Flag, FrameType } from "@leveros/protocol/frame/frame.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { encodeFields, type RoutingFields } from "@leveros/protocol/session/routing-header.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { HolderWorld } from "./ownership/holder.fixture.ts";
import { environment, type Node, type NodeOptions, Outcome, service, World } from "./world.fixture.ts";

const denied = "none PERMISSION_DENIED";
const hidden = "none SERVICE_NOT_FOUND";

class Rig {
  readonly world: World;
  readonly server: Node;
  /** Methods and channels that were entered. */
  ran = 0;
  #others = 0;

  private constructor(world: World) {
    this.world = world;
    this.server = world.addNode("server");
  }

  static async start(access: Partial<AccessPolicy>, world = new World()): Promise<Rig> {
    const rig = new Rig(world);
    rig.allow(access);
    rig.server.startApp({
      work: () => ++rig.ran,
      other: () => ++rig.ran,
      echoChan: async (_context, channel: Channel) => {
        rig.ran++;
        for await (const value of channel) await channel.send(value);
      },
    });
    await world.settle();
    return rig;
  }

  allow(access: Partial<AccessPolicy>): void {
    this.world.declare({ access: { gateway: { expose: "None" }, ...access } });
  }

  /** An app beside an agent of another environment, or a client of a gateway. */
  caller(options: NodeOptions = { environment: "billing", service: "invoices" }) {
    const node = this.world.addNode(`other-${++this.#others}`, options);
    return { node, app: options.role === "gateway" ? node.startClient() : node.startApp() };
  }

  async outcome(call: Promise<unknown>): Promise<Outcome> {
    const outcome = new Outcome(call);
    await this.world.advance(500);
    return outcome;
  }

  /** A peer that looks at no table before it calls: what it gets is the instance's agent's. */
  async peer(identity: Identity): Promise<Peer> {
    const session = new Session({
      transport: await this.world.dial(this.server.address),
      clock: this.world.clock,
      side: "dialer",
      identity,
      limits: { ...defaultSessionLimits, pingIntervalMs: 0 },
      handler: { onOpen() {} },
    });
    await this.world.settle();
    return new Peer(this.world, session);
  }

  async end(): Promise<void> {
    await this.world.advance(1000);
    this.world.checkIdle();
    await this.world.close();
  }
}

class Peer {
  readonly #world: World;
  readonly #session: Session;

  constructor(world: World, session: Session) {
    this.#world = world;
    this.#session = session;
  }

  /** What comes back first: `ok`, or a refusal's reason. */
  async call(method: string, fields: RoutingFields = {}, of = [environment, service]): Promise<string> {
    let text = "nothing";
    const target = new Target(of[0] as string, of[1] as string, method);
    this.#session.open(target, target.isStreaming ? Flag.Channel : 0, 0, encodeFields(fields), encodeArgs([]).bytes, {
      onFrame(stream, type, _flags, payload) {
        if (type === FrameType.Refuse) text = decodeFault(payload).reason;
        else if (text === "nothing") text = "ok";
        if (type === FrameType.Accept) stream.reset(new Uint8Array(0));
        else if (type !== FrameType.Refuse) stream.consume(payload.length + 64);
      },
      onWritable() {},
      onLost() {},
    });
    await this.#world.advance(100);
    return text;
  }

  async end(): Promise<void> {
    this.#session.destroy(new LeverError("CANCELLED", "the test is over"));
    await this.#world.settle();
  }
}

describe("the agent of an instance", () => {
  const callers = [{ environment: "billing", service: "invoices" }, { environment: "crm" }];
  const open: Partial<AccessPolicy> = { callers, gateway: { expose: "Public", methods: ["work"] } };

  it.each<[string, Identity, string, string]>([
    ["of the own environment", { role: "agent", environment, service: "any" }, "ok", "ok"],
    ["that is named", { role: "agent", environment: "billing", service: "invoices" }, "ok", "ok"],
    ["of a named environment", { role: "agent", environment: "crm", service: "x" }, "ok", "ok"],
    ["of a named environment, without a service", { role: "agent", environment: "crm" }, "ok", "ok"],
    [
      "beside the one that is named",
      { role: "agent", environment: "billing", service: "x" },
      "PERMISSION_DENIED",
      "PERMISSION_DENIED",
    ],
    [
      "without the service that is named",
      { role: "agent", environment: "billing" },
      "PERMISSION_DENIED",
      "PERMISSION_DENIED",
    ],
    ["of no environment", { role: "agent" }, "PERMISSION_DENIED", "PERMISSION_DENIED"],
    ["that is a gateway", { role: "gateway" }, "ok", "PERMISSION_DENIED"],
    ["that is a gateway and says more", { role: "gateway", environment }, "ok", "PERMISSION_DENIED"],
    ["that is a client", { role: "client", environment }, "PERMISSION_DENIED", "PERMISSION_DENIED"],
    ["that is an app", { role: "app", environment }, "PERMISSION_DENIED", "PERMISSION_DENIED"],
    ["that is an operator", { role: "operator", environment }, "PERMISSION_DENIED", "PERMISSION_DENIED"],
  ])("takes calls of a peer %s as the policy says, before its app hears of them", async (_, identity, work, other) => {
    const rig = await Rig.start(open);
    const peer = await rig.peer(identity);
    expect([await peer.call("work"), await peer.call("other")]).toEqual([work, other]);
    expect(rig.ran).toBe([work, other].filter((text) => text === "ok").length);
    await peer.end();
    await rig.end();
  });

  it("believes nothing that a call says of its caller", async () => {
    const rig = await Rig.start({});
    const caller = { environment, service: "any", instance: "any-1" };
    for (const identity of [
      { role: "agent", environment: "billing", service: "invoices" },
      { role: "gateway" },
    ] as const) {
      const peer = await rig.peer(identity);
      expect(await peer.call("work", { caller })).toBe("PERMISSION_DENIED");
      await peer.end();
    }
    expect(rig.ran).toBe(0);
    await rig.end();
  });

  it("asks it of channels, resources, tokens, private methods and methods that there are not too", async () => {
    const identity = { role: "agent", environment: "billing", service: "invoices" } as const;
    const kinds: [string, RoutingFields, string][] = [
      ["echoChan", {}, "ok"],
      ["work", { resource: "room" }, "NO_RESOURCES"],
      ["work", { token: "t-1" }, "ok"],
      ["_work", {}, "METHOD_NOT_FOUND"],
      ["nothing", {}, "METHOD_NOT_FOUND"],
    ];
    for (const isAllowed of [false, true]) {
      const rig = await Rig.start(isAllowed ? { callers: [{ environment: "billing" }] } : {});
      const peer = await rig.peer(identity);
      for (const [method, fields, allowed] of kinds) {
        expect([method, await peer.call(method, fields)]).toEqual([method, isAllowed ? allowed : "PERMISSION_DENIED"]);
      }
      expect(rig.ran).toBe(isAllowed ? 2 : 0);
      await peer.end();
      await rig.end();
    }
  });

  it("goes by the policy of the moment, for the next call of a session that is open", async () => {
    const rig = await Rig.start({});
    const peer = await rig.peer({ role: "agent", environment: "billing" });
    const seen: string[] = [];
    for (const allowed of [[], [{ environment: "billing" }], [], [{ environment: "billing", service: "x" }]]) {
      rig.allow({ callers: allowed });
      await rig.world.settle();
      seen.push(await peer.call("work"));
    }
    expect(seen).toEqual(["PERMISSION_DENIED", "ok", "PERMISSION_DENIED", "PERMISSION_DENIED"]);
    expect(rig.ran).toBe(1);
    await peer.end();
    await rig.end();
  });

  it("says that it does not know yet, to those who may be named, while it has no policy", async () => {
    const world = new World();
    world.isOperatorAway = true;
    const rig = await Rig.start(open, world);
    const other = await rig.peer({ role: "agent", environment: "billing" });
    const own = await rig.peer({ role: "agent", environment });
    expect([await other.call("work"), await own.call("work")]).toEqual(["DISCOVERY_UNAVAILABLE", "ok"]);
    world.isOperatorAway = false;
    await Promise.all([other.end(), own.end()]);
    await rig.world.close();
  });
});

describe("what lies in the slots of a service", () => {
  it.each<[string, Partial<Identity>, string]>([
    ["its own instances", {}, "INVALID_ARGUMENTS"],
    ["another service of its environment", { service: "other" }, "PERMISSION_DENIED"],
    ["a service of its name elsewhere", { environment: "billing" }, "PERMISSION_DENIED"],
    ["a gateway", { role: "gateway" }, "PERMISSION_DENIED"],
    ["a client", { role: "client" }, "PERMISSION_DENIED"],
  ])("is for its own instances alone: asked for by %s", async (_, part, reason) => {
    const world = new HolderWorld();
    const holder = world.addAgent("rooms-1");
    const session = new Session({
      transport: holder.connect(),
      clock: world.clock,
      side: "dialer",
      identity: { role: "agent", environment, service: "rooms", instance: "rooms-2", ...part },
      limits: { ...defaultSessionLimits, pingIntervalMs: 0 },
      handler: { onOpen() {} },
    });
    const seen: string[] = [];
    const target = new Target(operatorEnvironment, agentService, handOverMethod);
    // What is no question for contents: whoever may ask is told so.
    session.open(target, Flag.Channel, 0, encodeFields({}), encodeArgs(["nothing"]).bytes, {
      onFrame(_stream, type, _flags, payload) {
        if (type === FrameType.Refuse) seen.push(decodeFault(payload).reason);
      },
      onWritable() {},
      onLost() {},
    });
    await world.settle();
    expect(seen).toEqual([reason]);
    session.destroy(new LeverError("CANCELLED", "the test is over"));
    await world.close();
  });
});

describe("the agent of a caller", () => {
  it("refuses without a hop what the policy does not allow, and sends the same once it does", async () => {
    const rig = await Rig.start({});
    const { node, app } = rig.caller();
    const options = { environment };
    const calls = () => [
      app.call("work", [], options),
      app.open("echoChan", [], options),
      app.call("work", [], { ...options, fields: { resource: "room" } }),
      app.call("work", [], { ...options, fields: { token: "t-1" } }),
    ];
    const first = await Promise.all(calls().map((call) => rig.outcome(call)));
    expect(first.map(({ text }) => text)).toEqual([denied, denied, denied, denied]);
    expect(first[0]?.error?.rawMessage).toMatch(/^billing\/invoices may not call dev\/test: .*spec\.access\.callers/);
    expect([rig.server.dials, rig.ran]).toEqual([0, 0]);
    expect(node.notes.ends[0]).toBe("call dev/test PERMISSION_DENIED");
    rig.allow({ callers: [{ environment: "billing", service: "invoices" }] });
    await rig.world.settle();
    const [work, channel, resource, token] = await Promise.all(calls().map((call) => rig.outcome(call)));
    expect([work?.text, channel?.text, token?.text]).toEqual(["ok", "ok", "ok"]);
    expect(resource?.text).toBe("none NO_RESOURCES");
    expect(rig.ran).toBe(3);
    const open = channel?.value as Channel;
    open.close();
    await rig.end();
  });

  it("has a call that is held come to the end that the policy gives it by then", async () => {
    const rig = await Rig.start({ callers: [{ environment: "billing" }] });
    const { app } = rig.caller();
    rig.server.reachability = "hangs";
    const call = new Outcome(app.call("work", [], { environment }));
    await rig.world.advance(50);
    expect(call.text).toBe("open");
    rig.allow({});
    rig.server.reachability = "open";
    await rig.world.advance(10_000);
    expect([call.text, rig.ran]).toEqual([denied, 0]);
    await rig.end();
  });

  it("has a call that waits for the first table come to the end that it gives", async () => {
    const rig = await Rig.start({});
    rig.world.isOperatorAway = true;
    const { app } = rig.caller();
    const call = new Outcome(app.call("work", [], { environment }));
    await rig.world.advance(50);
    rig.world.isOperatorAway = false;
    rig.world.publish();
    await rig.world.advance(50);
    expect([call.text, rig.ran]).toEqual([denied, 0]);
    await rig.end();
  });

  it("leaves channels that are open to go on when the policy changes; the next one is refused", async () => {
    const rig = await Rig.start({ callers: [{ environment: "billing" }] });
    const { app } = rig.caller();
    const opened = await rig.outcome(app.open("echoChan", [], { environment }));
    rig.allow({});
    await rig.world.advance(100);
    const channel = opened.value as {
      send(value: unknown): Promise<void>;
      end(): Promise<void>;
    } & AsyncIterable<unknown>;
    const said = (async () => {
      await channel.send("still here");
      for await (const value of channel) return value;
      return undefined;
    })();
    expect((await rig.outcome(said)).value).toBe("still here");
    expect((await rig.outcome(app.open("echoChan", [], { environment }))).text).toBe(denied);
    expect(rig.ran).toBe(1);
    await rig.end();
  });
});

describe("a gateway", () => {
  it("says of what is not exposed that it is not there, whatever would else be wrong with the call", async () => {
    const rig = await Rig.start({ gateway: { expose: "Public", methods: ["work"] } });
    const { app } = rig.caller({ role: "gateway" });
    const large = ["x".repeat(2000)];
    rig.world.declare({ access: { gateway: { expose: "Public", methods: ["work"] } }, limits: { argsBytes: 1000 } });
    await rig.world.settle();
    const texts = async (of: string) => {
      const options = { environment, service: of };
      const calls = [
        app.call("other", [], options),
        app.call("other", large, options),
        app.call("_private", [], options),
        app.call("nothing", [], options),
        app.call("other", [], { ...options, fields: { resource: "room" } }),
        app.open("echoChan", [], options),
        app.open("echoChan", large, options),
      ];
      const outcomes = await Promise.all(calls.map((call) => rig.outcome(call)));
      return outcomes.map(({ error }) => `${error?.effect} ${error?.reason}: ${error?.rawMessage.replace(of, "X")}`);
    };
    const [found, missing] = [await texts(service), await texts("nosuch")];
    expect(found).toEqual(missing);
    expect(new Set(found).size).toBe(1);
    expect([rig.server.dials, rig.ran]).toEqual([0, 0]);
    expect((await rig.outcome(app.call("work", [], { environment }))).text).toBe("ok");
    expect((await rig.outcome(app.call("work", large, { environment }))).text).toBe("none ARGS_TOO_LARGE");
    await rig.end();
  });

  it("says the same when the instance knows of a change before it does", async () => {
    const rig = await Rig.start({ gateway: { expose: "Public" } });
    const { app } = rig.caller({ role: "gateway" });
    expect((await rig.outcome(app.call("work", [], { environment }))).text).toBe("ok");
    const old = rig.world.tableOf(service);
    // Of the instance's agent alone: the gateway's table stays as it is.
    rig.server.agent.view(environment, service).update({
      ...old,
      policy: { ...old.policy, access: { callers: [], gateway: { expose: "None" } } },
    });
    const refused = await rig.outcome(app.call("work", [], { environment }));
    const missing = await rig.outcome(app.call("work", [], { environment, service: "nosuch" }));
    expect(refused.text).toBe(hidden);
    expect(refused.error?.rawMessage.replace(service, "nosuch")).toBe(missing.error?.rawMessage);
    expect(rig.ran).toBe(1);
    await rig.end();
  });

  it("names, beside a method that there is not, only methods that are exposed", async () => {
    const rig = await Rig.start({ gateway: { expose: "Public", methods: ["work", "later"] } });
    const { app } = rig.caller({ role: "gateway" });
    const { text, error } = await rig.outcome(app.call("later", [], { environment }));
    expect([text, error?.rawMessage]).toEqual(["none METHOD_NOT_FOUND", expect.stringMatching(/it has work$/)]);
    await rig.end();
  });
});

it("lets a call run just when the policy allows it, and says so", async () => {
  const names = fc.constantFrom("billing", "crm", environment);
  const services = fc.constantFrom("invoices", "people");
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ environment: names, service: services }, { requiredKeys: ["environment"] }), {
        maxLength: 2,
      }),
      fc.constantFrom<AccessPolicy["gateway"]>(
        { expose: "None" },
        { expose: "Public" },
        { expose: "Public", methods: ["work"] },
      ),
      fc.option(fc.record({ environment: names, service: services }), { nil: undefined }),
      fc.constantFrom("work", "other"),
      async (callers, gateway, from, method) => {
        const rig = await Rig.start({ callers, gateway });
        const { app } = rig.caller(from ?? { role: "gateway" });
        const { text } = await rig.outcome(app.call(method, [], { environment }));
        const isAllowed =
          from === undefined
            ? gateway.expose === "Public" && (gateway.methods ?? [method]).includes(method)
            : from.environment === environment ||
              callers.some((x) => x.environment === from.environment && (x.service ?? from.service) === from.service);
        expect([text, rig.ran]).toEqual(isAllowed ? ["ok", 1] : [from === undefined ? hidden : denied, 0]);
        await rig.end();
      },
    ),
    { numRuns: 40 },
  );
});
