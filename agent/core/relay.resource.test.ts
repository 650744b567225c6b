/**
 * Calls and channels with a resource at their caller's agent: to whom they go and under which epoch, what they wait for,
 * when they are repeated, and when nothing that their instance says counts any more. Rows are set by hand; holders are
 * peers that do as the test says. `effect` is compared with what ran.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { OnUncertain, SlotRow } from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Flag, FrameType } from "@leveros/protocol/frame/frame.ts";
import type { Gate } from "@leveros/protocol/session/gate.ts";
import { encodeFields, type RoutingFields } from "@leveros/protocol/session/routing-header.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import type { Stream } from "@leveros/protocol/session/stream.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import { describe, expect, it } from "vitest";
import type { AgentLimits } from "./limits.ts";
import type { ParentInvocation } from "./outgoing-fields.ts";
import {
  type App,
  type CallOptions,
  type Holder,
  type Methods,
  moved,
  type Node,
  Outcome,
  World,
} from "./world.fixture.ts";

const room = "room";
const slot = slotOf(room, 8);

class Rig {
  readonly world = new World();
  readonly caller: Node;
  readonly app: App;
  readonly x: Holder;
  readonly y: Holder;
  /** `<instance> <method> <argument>` of each method that was entered. */
  readonly ran: string[] = [];
  openGate!: () => void;
  gate = new Promise<void>((resolve) => {
    this.openGate = resolve;
  });

  constructor(
    policy: { readonly onUncertain?: OnUncertain; readonly idempotent?: boolean } = {},
    limits: Partial<AgentLimits> = {},
  ) {
    const { idempotent = false, onUncertain = "Wait" } = policy;
    this.world.declare({ idempotent, ownership: { onUncertain } });
    const methods: Methods = {
      work: ({ app, invocation }, value: unknown) => {
        this.ran.push(`${app.name} ${invocation.target.method} ${value}`);
        return value;
      },
      held: async ({ app }, value: unknown) => {
        this.ran.push(`${app.name} held ${value}`);
        await this.gate;
        return value;
      },
      echoChan: async ({ app }, channel: Channel<string, string>) => {
        this.ran.push(`${app.name} echoChan`);
        for await (const message of channel) await channel.send(message);
      },
      lengthOf: ({ app }, bytes: Uint8Array) => {
        this.ran.push(`${app.name} lengthOf`);
        return bytes.length;
      },
    };
    this.x = this.world.addHolder("x", methods);
    this.y = this.world.addHolder("y", methods);
    this.caller = this.world.addNode("caller", { service: "caller", limits });
    this.app = this.caller.startApp();
  }

  call(method: string, value: unknown = 1, options: CallOptions = {}): Outcome {
    const fields = { resource: room, ...options.fields };
    return new Outcome(this.app.call(method, [value], { ...options, fields }));
  }

  async open(options: CallOptions = {}): Promise<Channel<string, string>> {
    const fields = { resource: room, ...options.fields };
    const opening = new Outcome(this.app.open("echoChan", [], { ...options, fields }));
    await this.world.until(() => opening.isSettled, "the channel is open");
    if (opening.error !== undefined) throw opening.error;
    return opening.value as Channel<string, string>;
  }

  /** A call without a resource, and its result. */
  async plain(value: unknown): Promise<unknown> {
    const call = new Outcome(this.app.call("work", [value]));
    await this.world.until(() => call.isSettled, "it ends");
    return call.value ?? call.text;
  }

  get held(): Record<string, number> {
    return Object.fromEntries(this.caller.agent.heldBySlot("dev", "test"));
  }

  async finish(): Promise<void> {
    this.openGate();
    await this.world.advance(1000);
    this.world.checkIdle();
    for (const { apps } of this.world.holders) {
      for (const { session } of apps) session.destroy(new LeverError("CANCELLED", "the test is over"));
    }
    this.app.kill();
    await this.world.close();
  }
}

async function rigged(policy?: ConstructorParameters<typeof Rig>[0], limits?: Partial<AgentLimits>): Promise<Rig> {
  const rig = new Rig(policy, limits);
  await rig.world.settle();
  return rig;
}

describe("a call with a resource", () => {
  it("goes to the holder of its slot, whoever else there is, and says under which epoch", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.y, 7);
    await rig.world.settle();
    for (let count = 0; count < 20; count++) {
      const call = rig.call("work", count);
      await rig.world.settle();
      expect(call.value).toBe(count);
    }
    expect(rig.y.received).toHaveLength(20);
    expect(rig.x.received).toHaveLength(0);
    for (const { fields } of rig.y.received) expect(fields).toMatchObject({ resource: room, epoch: 7 });
    await rig.finish();
  });

  it("takes no epoch and no chain from an app or a client", async () => {
    const rig = await rigged();
    const gateway = rig.world.addNode("gateway", { role: "gateway", defaultEnvironment: "dev" });
    const client = gateway.startClient();
    rig.world.grant(slot, rig.x, 7);
    await rig.world.settle();
    const fields: RoutingFields = {
      resource: room,
      epoch: 99,
      chain: Uint8Array.of(1),
      parent: 3,
      metadata: { a: "b" },
    };
    const byClient = new Outcome(client.call("work", [2], { fields }));
    const { parent: _, ...withoutParent } = fields;
    const byApp = rig.call("work", 1, { fields: withoutParent });
    await rig.world.settle();
    expect([byApp.text, byClient.text]).toEqual(["ok", "ok"]);
    for (const received of rig.x.received) {
      expect(received.fields).toMatchObject({ epoch: 7, metadata: { a: "b" } });
      expect(received.fields.chain).toBeUndefined();
      expect(received.fields.parent).toBeUndefined();
    }
    expect(rig.x.received.map(({ fields: { caller } }) => caller?.outside)).toContain(true);
    client.kill();
    await rig.finish();
  });

  it("is taken by holders that the balancer would not choose", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 7);
    for (const state of ["Draining", "Unreachable", "Starting"] as const) {
      rig.world.setState(rig.x, state);
      await rig.world.settle();
      const call = rig.call("work", state);
      await rig.world.settle();
      expect(call.text).toBe("ok");
    }
    // One connection, whichever way it is looked at.
    rig.world.setState(rig.x, "Serving");
    rig.world.setState(rig.y, undefined);
    await rig.world.settle();
    expect(await rig.plain("plain")).toBe("plain");
    expect(rig.x.dials).toBe(1);
    expect(rig.x.received).toHaveLength(4);
    await rig.finish();
  });

  it("waits for the first table, and is refused where a service holds none or is not there", async () => {
    const rig = new Rig();
    rig.world.isOperatorAway = true;
    rig.world.declare({ service: "plain" });
    const calls = ["plain", "nowhere"].map((service) => rig.call("work", 1, { service }));
    await rig.world.settle();
    expect(calls.map((call) => call.text)).toEqual(["open", "open"]);
    rig.world.isOperatorAway = false;
    rig.world.publish();
    await rig.world.settle();
    expect(calls.map((call) => call.text)).toEqual(["none NO_RESOURCES", "none SERVICE_NOT_FOUND"]);
    await rig.finish();
  });

  it("leaves plain calls to the service as they are", async () => {
    const rig = await rigged();
    const values = [await rig.plain(1), await rig.plain(2), await rig.plain(3)];
    expect(values).toEqual([1, 2, 3]);
    for (const { received } of [rig.x, rig.y]) for (const { fields } of received) expect(fields.epoch).toBeUndefined();
    await rig.finish();
  });

  it("goes on to new slots when a service was made anew", async () => {
    const rig = await rigged();
    const call = rig.call("work");
    await rig.world.settle();
    rig.world.declare({ ownership: { slots: 3 } });
    await rig.world.settle();
    expect(rig.held).toEqual({ [slotOf(room, 3)]: 1 });
    rig.world.grant(slotOf(room, 3), rig.x, 2);
    await rig.world.settle();
    expect(call.text).toBe("ok");
    const none = rig.call("work", 2, { fields: { resource: "lobby" } });
    await rig.world.settle();
    expect(none.text).toBe("open");
    rig.world.declare({});
    await rig.world.settle();
    expect(none.text).toBe("none NO_RESOURCES");
    await rig.finish();
  });
});

describe("while nobody is known to hold the slot", () => {
  it("calls are held in the order in which they came, until their deadline", async () => {
    const rig = await rigged();
    const calls = [1, 2, 3, 4].map((value) => rig.call("work", value, { timeoutMs: value === 2 ? 500 : 5000 }));
    const large = new Outcome(rig.app.call("lengthOf", [new Uint8Array(300_000)], { fields: { resource: room } }));
    await rig.world.advance(200);
    expect(rig.held).toEqual({ [slot]: 5 });
    expect(rig.caller.agent.counts).toMatchObject({ held: 5, heldForResources: 5 });
    await rig.world.advance(1000);
    expect(calls[1]?.text).toBe("none DEADLINE_EXCEEDED");
    expect(calls[1]?.error?.message).toContain(`slot ${slot} of dev/test: nobody is known to hold it`);
    rig.world.grant(slot, rig.x, 3);
    await rig.world.settle();
    expect(calls.map((call) => call.text)).toEqual(["ok", "none DEADLINE_EXCEEDED", "ok", "ok"]);
    expect(large.value).toBe(300_000);
    expect(rig.ran).toEqual(["x work 1", "x work 3", "x work 4", "x lengthOf"]);
    expect(rig.held).toEqual({});
    await rig.finish();
  });

  it("no more are held than may be", async () => {
    const rig = await rigged({}, { heldCallsMax: 3 });
    const calls = [1, 2, 3, 4, 5].map((value) => rig.call("work", value));
    await rig.world.settle();
    expect(calls.map((call) => call.text)).toEqual(["open", "open", "open", "none OVERLOADED", "none OVERLOADED"]);
    rig.world.grant(slot, rig.x, 3);
    await rig.world.settle();
    expect(rig.ran).toEqual(["x work 1", "x work 2", "x work 3"]);
    await rig.finish();
  });

  it("those that the caller gives up are not sent", async () => {
    const rig = await rigged();
    const abort = new AbortController();
    const call = rig.call("work", 1, { signal: abort.signal });
    const other = rig.call("work", 2);
    await rig.world.settle();
    abort.abort();
    await rig.world.settle();
    expect(call.error?.reason).toBe("CANCELLED");
    expect(rig.held).toEqual({ [slot]: 1 });
    rig.world.grant(slot, rig.x, 3);
    await rig.world.settle();
    expect([other.text, rig.ran]).toEqual(["ok", ["x work 2"]]);
    await rig.finish();
  });

  it("onUncertain: Fail refuses at once", async () => {
    const rig = await rigged({ onUncertain: "Fail" });
    const call = rig.call("work");
    await rig.world.settle();
    expect(call.text).toBe("none RESOURCE_UNAVAILABLE");
    expect(rig.ran).toEqual([]);
    await rig.finish();
  });

  it.each([
    ["Fail" as const, "none RESOURCE_UNAVAILABLE"],
    ["Serve" as const, "ok"],
  ])("they are not held any longer when the service is told otherwise: %s", async (onUncertain, expected) => {
    const rig = await rigged();
    const call = rig.call("work");
    await rig.world.advance(100);
    expect(call.text).toBe("open");
    rig.world.declare({ ownership: { onUncertain } });
    await rig.world.settle();
    expect(call.text).toBe(expected);
    await rig.finish();
  });

  it("onUncertain: Serve asks one that all callers agree on, under epoch 0", async () => {
    const rig = await rigged({ onUncertain: "Serve" });
    const other = rig.world.addNode("other", { service: "other" });
    const otherApp = other.startApp();
    const names = Array.from({ length: 24 }, (_, index) => `room-${index}`);
    const used = new Set<string>();
    for (const resource of names) {
      const outcomes = [rig.app, otherApp].map(
        (app) => new Outcome(app.call("work", [resource], { fields: { resource } })),
      );
      await rig.world.settle();
      expect(outcomes.map((outcome) => outcome.text)).toEqual(["ok", "ok"]);
      const by = new Set(rig.ran.splice(0).map((text) => text.split(" ")[0] as string));
      expect(by.size).toBe(1);
      for (const id of by) used.add(id);
    }
    expect(used.size).toBe(2);
    for (const { received } of [rig.x, rig.y]) for (const { fields } of received) expect(fields.epoch).toBe(0);
    // Once somebody holds it, that one is asked, and no fence harms who was asked before.
    rig.world.grant(slot, rig.x, 9, { fence: 9 });
    await rig.world.settle();
    const call = rig.call("work");
    await rig.world.settle();
    expect([call.text, rig.x.received.at(-1)?.fields.epoch]).toEqual(["ok", 9]);
    otherApp.kill();
    await rig.finish();
  });
});

describe("a call that is refused as MOVED", () => {
  it("waits for the epoch that the refusal names, and all that come behind it wait too", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    rig.x.holds.set(slot, { epoch: 5, next: 8 });
    await rig.world.settle();
    const first = [1, 2].map((value) => rig.call("work", value));
    await rig.world.settle();
    const second = [3, 4].map((value) => rig.call("work", value));
    await rig.world.settle();
    expect(rig.x.received).toHaveLength(2);
    expect(rig.held).toEqual({ [slot]: 4 });
    // What is not yet the move: the intent, the release.
    rig.world.setRow(slot, { issued: 8, isMoving: true });
    await rig.world.advance(1000);
    rig.world.setRow(slot, { holder: "", isMoving: true });
    await rig.world.advance(1000);
    expect(rig.x.received).toHaveLength(2);
    rig.world.grant(slot, rig.y, 8);
    await rig.world.settle();
    expect([...first, ...second].map((call) => call.text)).toEqual(["ok", "ok", "ok", "ok"]);
    expect(rig.ran).toEqual(["y work 1", "y work 2", "y work 3", "y work 4"]);
    expect(rig.caller.notes).toMatchObject({ moves: 2, retries: [] });
    await rig.finish();
  });

  it("goes back to the holder when the move is called off", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    rig.x.holds.set(slot, { epoch: 5, next: 8 });
    rig.world.setRow(slot, { issued: 8, isMoving: true });
    await rig.world.settle();
    const call = rig.call("work");
    await rig.world.advance(1000);
    expect([call.text, rig.x.received.length]).toEqual(["open", 1]);
    rig.x.holds.set(slot, { epoch: 5 });
    rig.world.setRow(slot, { isMoving: false });
    await rig.world.settle();
    expect([call.text, rig.ran]).toEqual(["ok", ["x work 1"]]);
    await rig.finish();
  });

  it("by one that does not know yet that the move is off, asks again after a while", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    rig.world.setRow(slot, { issued: 8 });
    rig.x.holds.set(slot, { epoch: 5, next: 8 });
    await rig.world.settle();
    const call = rig.call("work");
    await rig.world.advance(150);
    expect([call.text, rig.x.received.length]).toEqual(["open", 1]);
    rig.x.holds.set(slot, { epoch: 5 });
    await rig.world.advance(100);
    expect([call.text, rig.x.received.length]).toEqual(["ok", 2]);
    await rig.finish();
  });

  it("goes at once where the table has it already", async () => {
    const rig = await rigged();
    rig.world.latencyMs = () => 10;
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    const warm = rig.call("work", "warm");
    await rig.world.until(() => warm.isSettled, "it is connected");
    rig.x.holds.delete(slot);
    const call = rig.call("work");
    await rig.world.advance(5);
    rig.world.grant(slot, rig.y, 6);
    await rig.world.advance(100);
    expect([call.text, rig.x.received.length, rig.y.received.length]).toEqual(["ok", 2, 1]);
    await rig.finish();
  });

  it("counts as no attempt, takes no retry and puts nobody out", async () => {
    const rig = await rigged({}, { attemptsMax: 1 });
    for (let epoch = 1; epoch <= 30; epoch++) {
      const [holder, other] = epoch % 2 === 0 ? [rig.x, rig.y] : [rig.y, rig.x];
      other.holds.delete(slot);
      rig.world.setRow(slot, { holder: holder.id, epoch });
      if (epoch === 1) await rig.world.settle();
      if (epoch === 1) rig.call("work");
      await rig.world.settle();
    }
    const refusals = rig.x.received.length + rig.y.received.length;
    expect(refusals).toBe(30);
    const budget = rig.caller.agent.view("dev", "test").retryBudget.balance(rig.world.clock.now());
    rig.world.grant(slot, rig.x, 31);
    await rig.world.settle();
    expect(rig.ran).toEqual(["x work 1"]);
    expect(rig.caller.agent.view("dev", "test").retryBudget.balance(rig.world.clock.now())).toBe(budget);
    // Plain calls go to both as before.
    for (let count = 0; count < 40; count++) await rig.plain("plain");
    expect(rig.ran.filter((text) => text === "y work plain").length).toBeGreaterThan(5);
    await rig.finish();
  });

  it("leaves the attempts that a failure may take as many as before", async () => {
    const rig = await rigged({ idempotent: true }, { attemptsMax: 2 });
    for (let epoch = 1; epoch <= 6; epoch++) {
      rig.world.setRow(slot, { holder: "x", epoch });
      await rig.world.settle();
      if (epoch === 1) rig.call("held");
      await rig.world.settle();
    }
    rig.world.grant(slot, rig.x, 7);
    await rig.world.settle();
    expect(rig.ran).toEqual(["x held 1"]);
    rig.x.cut();
    await rig.world.advance(100);
    expect(rig.ran).toEqual(["x held 1", "x held 1"]);
    await rig.finish();
  });

  it("has an end even if two never agree", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    rig.x.refuses = () => moved(0);
    const call = rig.call("work", 1, { timeoutMs: 600_000 });
    await rig.world.until(() => call.isSettled, "it ends", 400_000);
    expect(call.text).toBe("none RESOURCE_UNAVAILABLE");
    expect(rig.x.received).toHaveLength(1001);
    await rig.finish();
  });

  it("whatever the refusal says, ends at its deadline and keeps no later one from going", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    rig.x.refuses = () => moved(2 ** 48 - 1);
    const call = rig.call("work", 1, { timeoutMs: 1000 });
    await rig.world.advance(100);
    const later = rig.call("work", 2);
    rig.world.grant(slot, rig.y, 6);
    await rig.world.advance(500);
    expect([call.text, later.text]).toEqual(["open", "open"]);
    await rig.world.advance(1000);
    expect([call.text, later.text]).toEqual(["none DEADLINE_EXCEEDED", "ok"]);
    await rig.finish();
  });

  it("is not sent again without its arguments", async () => {
    const rig = await rigged({}, { retainedBytesMax: 0 });
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    rig.x.holds.delete(slot);
    const call = rig.call("work");
    await rig.world.settle();
    expect([call.text, rig.ran]).toEqual(["none MOVED", []]);
    await rig.finish();
  });
});

describe("a holder that cannot be reached", () => {
  it("is asked again and again, until the deadline or another row", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    rig.x.reachability = "refuses";
    await rig.world.settle();
    const late = rig.call("work", "late", { timeoutMs: 1000 });
    const call = rig.call("work", "early");
    await rig.world.advance(1500);
    expect(late.text).toBe("none DEADLINE_EXCEEDED");
    expect(rig.x.dials).toBeGreaterThan(5);
    expect(rig.held).toEqual({ [slot]: 1 });
    rig.x.reachability = "open";
    await rig.world.advance(250);
    expect([call.text, rig.ran]).toEqual(["ok", ["x work early"]]);
    await rig.finish();
  });

  it("is left for the next one at once, even while it is dialed", async () => {
    for (const how of ["refuses", "hangs", "silent"] as const) {
      const rig = await rigged();
      rig.world.grant(slot, rig.x, 5);
      rig.x.reachability = how;
      await rig.world.settle();
      const call = rig.call("work");
      await rig.world.advance(50);
      expect(rig.held).toEqual({ [slot]: 1 });
      rig.world.grant(slot, rig.y, 6, { fence: 6 });
      await rig.world.settle();
      expect([call.text, rig.ran]).toEqual(["ok", ["y work 1"]]);
      expect(rig.caller.notes.fences).toBe(0);
      await rig.world.advance(3000);
      await rig.finish();
    }
  });

  it("may be missing in the table for a while", async () => {
    const rig = await rigged();
    rig.world.setState(rig.x, undefined);
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    const call = rig.call("work");
    await rig.world.advance(1000);
    expect([call.text, rig.x.dials]).toEqual(["open", 0]);
    rig.world.setState(rig.x, "Serving");
    await rig.world.advance(250);
    expect(call.text).toBe("ok");
    await rig.finish();
  });

  it("fails the call at once with onUncertain: Fail", async () => {
    const rig = await rigged({ onUncertain: "Fail" });
    rig.world.grant(slot, rig.x, 5);
    rig.x.reachability = "refuses";
    await rig.world.settle();
    const call = rig.call("work");
    await rig.world.settle();
    expect(call.text).toBe("none INSTANCE_UNREACHABLE");
    await rig.finish();
  });

  it("is replaced under epoch 0 with onUncertain: Serve", async () => {
    const rig = await rigged({ onUncertain: "Serve" });
    rig.world.grant(slot, rig.x, 5);
    rig.x.reachability = "refuses";
    await rig.world.settle();
    const call = rig.call("work");
    await rig.world.advance(50);
    expect([call.text, rig.ran, rig.y.received[0]?.fields.epoch]).toEqual(["ok", ["y work 1"], 0]);
    await rig.finish();
  });

  it("does not pass for a bad one among plain calls", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    rig.x.refuses = (_, slotOfCall) =>
      slotOfCall === undefined ? undefined : new LeverError("NO_INSTANCES", "no app", { effect: "none" });
    const call = rig.call("work", 1, { timeoutMs: 4000 });
    await rig.world.advance(5000);
    expect([call.text, rig.x.received.length]).toEqual(["none DEADLINE_EXCEEDED", 20]);
    expect(call.error?.message).toContain("NO_INSTANCES: no app");
    for (let count = 0; count < 60; count++) await rig.plain("plain");
    expect(rig.ran.filter((text) => text === "x work plain").length).toBeGreaterThan(10);
    await rig.finish();
  });
});

describe("a call that may have run", () => {
  const lost = async (rig: Rig, options: CallOptions) => {
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    const call = rig.call("held", 1, options);
    await rig.world.settle();
    rig.x.cut();
    await rig.world.settle();
    return call;
  };

  it("is not repeated", async () => {
    const rig = await rigged();
    const call = await lost(rig, {});
    expect([call.text, rig.ran.length]).toEqual(["unknown CONNECTION_LOST", 1]);
    await rig.finish();
  });

  it.each([
    ["idempotent", { idempotent: true }, {}],
    ["with a token", {}, { fields: { token: "t" } }],
  ])("is repeated at the holder of that time: %s", async (_, policy, options) => {
    const rig = await rigged(policy);
    const call = await lost(rig, options);
    rig.world.grant(slot, rig.y, 6, { fence: 6 });
    await rig.world.advance(100);
    rig.openGate();
    await rig.world.settle();
    expect(call.text).toBe("ok");
    expect(rig.ran.at(-1)).toBe("y held 1");
    await rig.finish();
  });

  it("waits for a holder that is not there then, as often as it takes", async () => {
    const rig = await rigged({ idempotent: true });
    rig.x.reachability = "open";
    const call = await lost(rig, {});
    rig.x.reachability = "refuses";
    rig.x.cut();
    await rig.world.advance(4000);
    expect(call.text).toBe("open");
    rig.world.grant(slot, rig.y, 6, { fence: 6 });
    await rig.world.settle();
    rig.openGate();
    await rig.world.settle();
    expect(call.text).toBe("ok");
    await rig.finish();
  });

  it("ends as unknown at its deadline, although its last attempt was refused", async () => {
    const rig = await rigged({ idempotent: true });
    const call = await lost(rig, { timeoutMs: 2000 });
    rig.world.setRow(slot, { holder: "", epoch: 5 });
    await rig.world.advance(3000);
    expect(call.text).toBe("unknown DEADLINE_EXCEEDED");
    await rig.finish();
  });

  it("is not repeated where its token is forgotten", async () => {
    const rig = await rigged({ idempotent: true });
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    const call = await lost(rig, { fields: { token: "t" } });
    rig.x.refuses = () => new LeverError("TOKEN_MEMORY_LOST", "forgotten");
    rig.y.refuses = rig.x.refuses;
    await rig.world.advance(100);
    expect(call.text).toBe("unknown TOKEN_MEMORY_LOST");
    await rig.finish();
  });
});

describe("a call with a token and without a resource", () => {
  const tokenTime = 1_767_225_600_000;
  const lostAt = async (rig: Rig) => {
    const call = new Outcome(rig.app.call("held", [1], { fields: { token: "t", tokenTime } }));
    await rig.world.settle();
    const first = rig.x.received.length > 0 ? rig.x : rig.y;
    expect(rig.ran).toEqual([`${first.id} held 1`]);
    return { call, first, other: first === rig.x ? rig.y : rig.x };
  };

  it("is repeated at the very same instance, and nowhere else", async () => {
    const rig = await rigged({ idempotent: true });
    const { call, first, other } = await lostAt(rig);
    first.cut();
    await rig.world.advance(100);
    rig.openGate();
    await rig.world.settle();
    expect([call.text, rig.ran.length, other.received.length]).toEqual(["ok", 2, 0]);
    // Another process may be there by now, whose clock may be behind by that much.
    expect(first.received.map(({ fields }) => fields.tokenTime)).toEqual([tokenTime, tokenTime - 10_000]);
    await rig.finish();
  });

  it.each([
    ["is gone", "gone"],
    ["is at another address", "moved"],
  ])("keeps its error if that instance %s", async (_, how) => {
    const rig = await rigged({ idempotent: true });
    const { call, first, other } = await lostAt(rig);
    if (how === "gone") rig.world.setState(first, undefined);
    else rig.world.setState({ id: first.id, address: "elsewhere.test:1" }, "Serving");
    await rig.world.settle();
    first.cut();
    await rig.world.advance(2000);
    expect([call.text, rig.ran.length, other.received.length]).toEqual(["unknown CONNECTION_LOST", 1, 0]);
    await rig.finish();
  });

  it("goes elsewhere as long as it cannot have run", async () => {
    const rig = await rigged();
    rig.x.reachability = "refuses";
    const calls = [1, 2, 3, 4, 5, 6].map(
      (value) => new Outcome(rig.app.call("work", [value], { fields: { token: "t" } })),
    );
    await rig.world.advance(1000);
    expect(calls.map((call) => call.text)).toEqual(new Array(6).fill("ok"));
    await rig.finish();
  });
});

describe("a fence above the epoch of a call", () => {
  it("ends it, and what its instance says later is not heard", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    const call = rig.call("held");
    await rig.world.settle();
    // A planned move leaves it alone.
    rig.world.grant(slot, rig.y, 6);
    await rig.world.settle();
    expect(call.text).toBe("open");
    rig.world.setRow(slot, { epoch: 7, holder: "x", fence: 7 });
    await rig.world.settle();
    expect(call.text).toBe("unknown LEASE_LAPSED");
    rig.openGate();
    await rig.world.advance(100);
    expect(call.settledTimes).toBe(1);
    expect(rig.caller.notes.fences).toBe(1);
    await rig.finish();
  });

  it("has it repeated at the next holder if it is idempotent", async () => {
    const rig = await rigged({ idempotent: true });
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    const call = rig.call("held");
    await rig.world.settle();
    rig.world.setRow(slot, { epoch: 5, holder: "", issued: 6, isMoving: true, fence: 6 });
    await rig.world.advance(100);
    rig.world.grant(slot, rig.y, 6);
    await rig.world.settle();
    expect(rig.ran).toEqual(["x held 1", "y held 1"]);
    rig.openGate();
    await rig.world.settle();
    expect(call.text).toBe("ok");
    await rig.finish();
  });

  it("ends a channel that is open, as run", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    const channel = await rig.open();
    const received: string[] = [];
    const read = new Outcome(
      (async () => {
        for await (const message of channel) received.push(message);
      })(),
    );
    void channel.send("before");
    await rig.world.settle();
    rig.world.setRow(slot, { epoch: 6, holder: "y", fence: 6 });
    await rig.world.settle();
    expect([received, read.text]).toEqual([["before"], "ran LEASE_LAPSED"]);
    await rig.finish();
  });

  it("ends a reply that has begun, as run", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    rig.x.refuses = () => undefined;
    const large = rig.world.addHolder("z", { large: () => new Uint8Array(8 * 1024 * 1024) });
    rig.world.latencyMs = () => 20;
    rig.world.grant(slot, large, 6);
    await rig.world.settle();
    const call = rig.call("large");
    await rig.world.advance(130);
    expect(call.text).toBe("open");
    rig.world.setRow(slot, { epoch: 7, holder: "x", fence: 7 });
    await rig.world.settle();
    expect(call.text).toBe("ran LEASE_LAPSED");
    await rig.world.advance(1000);
    await rig.finish();
  });

  it("never falls, and no row goes back to a lower epoch", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5, { fence: 5 });
    await rig.world.settle();
    rig.call("work", "first");
    await rig.world.settle();
    // As from a replica of the operator that is behind.
    rig.world.setRow(slot, { holder: "y", epoch: 4, issued: 4, fence: 4 });
    await rig.world.settle();
    const second = rig.call("work", "second");
    await rig.world.settle();
    expect([second.text, rig.ran]).toEqual(["ok", ["x work first", "x work second"]]);
    rig.world.setRow(slot, { holder: "x", epoch: 5, issued: 5, fence: 0 });
    await rig.world.settle();
    rig.x.holds.set(slot, { epoch: 5 });
    const third = rig.call("work", "third");
    await rig.world.settle();
    expect(third.text).toBe("ok");
    await rig.finish();
  });

  it("under epochs that have one keeps nothing from being sent under a later one", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5, { fence: 5 });
    await rig.world.settle();
    const call = rig.call("work");
    await rig.world.settle();
    expect([call.text, rig.caller.notes.fences]).toEqual(["ok", 0]);
    await rig.finish();
  });
});

describe("calls made by methods", () => {
  const invoke = (rig: Rig, parent: number | "hook", value: unknown, options: CallOptions = {}) =>
    rig.call("work", value, {
      ...options,
      fields: { ...options.fields, ...(parent === "hook" ? { hook: "hooked" } : { parent }) },
    });

  /** The agent has an invocation of the app, on this stream, in a slot with this gate. */
  const running = (rig: Rig, stream: number, gate: Gate) => {
    const [session] = rig.caller.agent.sessions;
    const { invocations } = (session as Session).owner as { invocations: Map<number, ParentInvocation> };
    invocations.set(stream, { slotEpoch: 3, gate, chain: undefined });
  };

  it("are taken by a holder that drains, and do not wait behind those that it refuses", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    rig.x.holds.set(slot, { epoch: 5, next: 6 });
    running(rig, 2, { isOpen: true });
    await rig.world.settle();
    const root = rig.call("work", "root", { timeoutMs: 1000 });
    await rig.world.settle();
    rig.world.setRow(slot, { issued: 6, isMoving: true });
    await rig.world.settle();
    const nested = invoke(rig, 2, "nested");
    await rig.world.settle();
    expect([root.text, nested.text, rig.ran]).toEqual(["open", "ok", ["x work nested"]]);
    expect(rig.x.received.at(-1)?.fields.chain).toEqual(Uint8Array.of(0));
    await rig.world.advance(2000);
    await rig.finish();
  });

  it("do not leave once the slot is lost", async () => {
    const rig = await rigged();
    const gate = { isOpen: false };
    running(rig, 2, gate);
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    const late = invoke(rig, 2, "late");
    const plainCall = new Outcome(rig.app.call("work", ["plain"], { fields: { parent: 2 } }));
    await rig.world.settle();
    expect([late.text, plainCall.text]).toEqual(["none LEASE_LAPSED", "none LEASE_LAPSED"]);
    // One that waited until then.
    gate.isOpen = true;
    rig.world.setRow(slot, { holder: "" });
    await rig.world.settle();
    const waiting = invoke(rig, 2, "waiting");
    await rig.world.settle();
    gate.isOpen = false;
    rig.world.grant(slot, rig.x, 6);
    await rig.world.settle();
    expect([waiting.text, rig.x.received, rig.ran]).toEqual(["none LEASE_LAPSED", [], []]);
    await rig.finish();
  });

  it("end half-way when the slot is lost, and are not repeated, idempotent or not", async () => {
    const rig = await rigged({ idempotent: true });
    const gate = { isOpen: true };
    running(rig, 2, gate);
    rig.world.grant(slot, rig.x, 5);
    rig.world.latencyMs = () => 20;
    await rig.world.settle();
    const fields = { resource: room, parent: 2 };
    const call = new Outcome(rig.app.call("lengthOf", [new Uint8Array(900_000)], { fields }));
    await rig.world.advance(90);
    expect([call.text, rig.x.received.length]).toEqual(["open", 1]);
    gate.isOpen = false;
    await rig.world.advance(1000);
    expect([call.text, rig.x.received.length, rig.ran]).toEqual(["unknown LEASE_LAPSED", 1, []]);
    await rig.finish();
  });

  it("from a hook are taken by a holder that drains, unless the table says that the slot is moving", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    rig.x.holds.set(slot, { epoch: 5, next: 6 });
    await rig.world.settle();
    const root = rig.call("work", "root", { timeoutMs: 1000 });
    await rig.world.settle();
    expect(root.text).toBe("open");
    const nested = invoke(rig, "hook", "nested");
    await rig.world.settle();
    expect([nested.text, rig.ran]).toEqual(["ok", ["x work nested"]]);
    const chain = rig.x.received.at(-1)?.fields.chain;
    expect(chain?.[0]).toBe(1);
    expect(chain).toHaveLength(17);
    rig.world.setRow(slot, { issued: 6, isMoving: true });
    await rig.world.settle();
    const moving = invoke(rig, "hook", "moving");
    await rig.world.settle();
    expect(moving.text).toBe("none HOOK_REENTRY");
    rig.world.setRow(slot, { holder: "" });
    await rig.world.settle();
    const unheld = invoke(rig, "hook", "unheld");
    await rig.world.settle();
    expect(unheld.text).toBe("none HOOK_REENTRY");
    await rig.world.advance(2000);
    expect(root.text).toBe("none DEADLINE_EXCEEDED");
    await rig.finish();
  });

  it("from a hook are not held when they are refused as MOVED", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    rig.x.holds.delete(slot);
    const call = invoke(rig, "hook", 1);
    await rig.world.settle();
    expect([call.text, rig.ran]).toEqual(["none HOOK_REENTRY", []]);
    await rig.finish();
  });

  it("from a hook wait for a holder that cannot be reached, like any", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    rig.x.reachability = "refuses";
    await rig.world.settle();
    const call = invoke(rig, "hook", 1);
    await rig.world.advance(500);
    expect(call.text).toBe("open");
    rig.x.reachability = "open";
    await rig.world.advance(300);
    expect(call.text).toBe("ok");
    await rig.finish();
  });
});

describe("what passes through", () => {
  it("is told to move, and goes on until the method ends it", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    // Streams by hand at both ends: the library's own handling of MOVE is not the relay's.
    const types: number[] = [];
    let method: Stream | undefined;
    rig.x.takes = (stream) => {
      method = stream;
      stream.handler = { onFrame() {}, onWritable() {}, onLost() {} };
      stream.accept(new Uint8Array(2));
    };
    const flags: number[] = [];
    const stream = rig.app.session.open(
      new Target("dev", "test", "echoChan"),
      Flag.Channel,
      0,
      encodeFields({ resource: room }),
      encodeArgs([]).bytes,
      {
        onFrame: (_stream, type, frameFlags, payload) => {
          types.push(type);
          if (type === FrameType.Message) flags.push(frameFlags, payload[0] ?? 0);
        },
        onWritable() {},
        onLost() {},
      },
    );
    await rig.world.settle();
    method?.send(FrameType.Message, Flag.Cursor | Flag.Bytes, Uint8Array.of(2, 55, 55, 1));
    method?.move();
    await rig.world.settle();
    expect(types).toEqual([FrameType.Accept, FrameType.Message, FrameType.Move]);
    expect(flags).toEqual([Flag.Cursor | Flag.Bytes, 2]);
    method?.send(FrameType.End, 0, new Uint8Array(0));
    stream.send(FrameType.End, 0, new Uint8Array(0));
    method?.release();
    await rig.world.settle();
    await rig.finish();
  });
});

describe("rows", () => {
  it("of other slots do not matter", async () => {
    const rig = await rigged();
    rig.world.grant(slot, rig.x, 5);
    await rig.world.settle();
    const call = rig.call("held");
    await rig.world.settle();
    const others: Partial<SlotRow> = { holder: "y", epoch: 9, fence: 9 };
    for (let index = 0; index < 8; index++) if (index !== slot) rig.world.setRow(index, others);
    await rig.world.settle();
    rig.openGate();
    await rig.world.settle();
    expect(call.text).toBe("ok");
    await rig.finish();
  });
});
