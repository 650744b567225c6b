/** Idempotency tokens at the instance: what a repeat gets, what is remembered for how long, and where it goes. */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { tokenSkewMs, tokensMax, tokenWindowMs } from "@leveros/protocol/invocation/token-memory.ts";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { context, LeverError, MethodError, mintToken } from "../index.ts";
import { type CallFields, Outcome, World, wallStartMs } from "./agent-end.fixture.ts";

let world: World;
let runs: string[];
let gates: Map<string, () => void>;

beforeEach(() => {
  runs = [];
  gates = new Map();
});
afterEach(() => world.close());

class Account {
  charge(cents: number) {
    runs.push(`charge ${cents}`);
    return { run: runs.length };
  }

  refund(cents: number) {
    runs.push(`refund ${cents}`);
    return Uint8Array.of(runs.length);
  }

  fails() {
    runs.push("fails");
    throw new MethodError({ run: runs.length });
  }

  async slow(key: string) {
    const { signal } = context();
    runs.push(key);
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    await Promise.race([new Promise<void>((resolve) => gates.set(key, resolve)), aborted]);
    return { run: runs.length };
  }

  async chatChan(channel: Channel) {
    runs.push("chat");
    for await (const _ of channel);
  }
}

async function settled(resource: string | undefined, method: string, args: unknown[], fields: CallFields = {}) {
  const now = wallStartMs + world.clock.now();
  const outcome = new Outcome(world.agent.call(resource, method, args, { tokenTime: now, ...fields }));
  await world.settle();
  return outcome;
}

describe("a repeat", () => {
  it("gets the first outcome, of a resource's method and of a plain one", async () => {
    world = await World.start(Account, new Account());
    await world.openAll();
    for (const resource of ["a", undefined]) {
      runs = [];
      const first = await settled(resource, "charge", [5], { token: "t" });
      const second = await settled(resource, "charge", [5], { token: "t" });
      expect([first.value, second.value, runs]).toEqual([{ run: 1 }, { run: 1 }, ["charge 5"]]);
      const bytes = await settled(resource, "refund", [1], { token: "t" });
      const again = await settled(resource, "refund", [1], { token: "t" });
      expect([bytes.value, again.value]).toEqual([Uint8Array.of(2), Uint8Array.of(2)]);
      await settled(resource, "fails", [], { token: "t" });
      const failed = await settled(resource, "fails", [], { token: "t" });
      expect(failed.error).toMatchObject({ value: { run: 3 } });
      expect(runs).toHaveLength(3);
    }
  });

  it("is one of the same resource and method only, and needs a token", async () => {
    world = await World.start(Account);
    await world.openAll();
    await settled("a", "charge", [1], { token: "t" });
    await settled("b", "charge", [2], { token: "t" });
    await settled("a", "charge", [3], { token: "u" });
    await settled("a", "charge", [4]);
    await settled("a", "charge", [4]);
    expect(runs).toEqual(["charge 1", "charge 2", "charge 3", "charge 4", "charge 4"]);
  });

  it("waits while the first runs; its own deadline and cancel are its own", async () => {
    world = await World.start(Account);
    await world.openAll();
    const first = await settled("a", "slow", ["x"], { token: "t" });
    const second = await settled("a", "slow", ["x"], { token: "t" });
    const hasty = await settled("a", "slow", ["x"], { token: "t", timeoutMs: 1000 });
    const controller = new AbortController();
    const cancelled = await settled("a", "slow", ["x"], { token: "t", signal: controller.signal });
    await world.pass(1100);
    controller.abort();
    await world.settle();
    expect([hasty.reason, cancelled.reason]).toEqual(["DEADLINE_EXCEEDED unknown", "CANCELLED unknown"]);
    gates.get("x")?.();
    await world.settle();
    expect([first.value, second.value, runs]).toEqual([{ run: 1 }, { run: 1 }, ["x"]]);
  });

  it("runs if the first was refused before it ran", async () => {
    world = await World.start(Account);
    await world.openAll();
    const refused = await settled("a", "missing", [], { token: "t" });
    const again = await settled("a", "missing", [], { token: "t" });
    expect([refused.reason, again.reason]).toEqual(["METHOD_NOT_FOUND none", "METHOD_NOT_FOUND none"]);
  });

  it("does not run after one that was cut off", async () => {
    world = await World.start(Account);
    await world.openAll();
    const controller = new AbortController();
    await settled("a", "slow", ["x"], { token: "t", signal: controller.signal });
    controller.abort();
    await world.settle();
    const again = await settled("a", "slow", ["x"], { token: "t" });
    expect([again.reason, runs]).toEqual(["CANCELLED ran", ["x"]]);
  });

  it("of a channel is another channel", async () => {
    world = await World.start(Account);
    await world.openAll();
    for (let n = 0; n < 2; n++) {
      void world.agent.channel("a", "chatChan", [], { token: "t", tokenTime: wallStartMs });
      await world.settle();
    }
    expect(runs).toEqual(["chat", "chat"]);
  });
});

describe("the memory", () => {
  it("keeps each for ten minutes, and then runs no token that is as old", async () => {
    world = await World.start(Account);
    await world.openAll();
    const made = { token: "t", tokenTime: wallStartMs };
    await settled("a", "charge", [1], made);
    await world.pass(tokenWindowMs - 1000);
    await settled("a", "charge", [1], made);
    await world.pass(1000);
    const late = await settled("a", "charge", [1], made);
    expect([late.reason, runs]).toEqual(["TOKEN_MEMORY_LOST unknown", ["charge 1"]]);
    const young = await settled("a", "charge", [2], { token: "u" });
    expect(young.value).toEqual({ run: 2 });
  });

  it("that is full takes no new token, and forgets none", async () => {
    world = await World.start(Account, new Account());
    for (let n = 0; n < tokensMax; n += 500) {
      for (let each = n; each < n + 500; each++) {
        void world.agent.call(undefined, "charge", [each], { token: `t-${each}`, tokenTime: wallStartMs });
      }
      await world.settle();
    }
    const full = await settled(undefined, "charge", [0], { token: "new" });
    expect(full.error).toMatchObject({
      reason: "OVERLOADED",
      effect: "none",
      details: { limit: "tokensMax", tokensMax },
    });
    const known = await settled(undefined, "charge", [0], { token: "t-0", tokenTime: wallStartMs });
    expect([known.value, runs.length]).toEqual([{ run: 1 }, tokensMax]);
    await world.pass(tokenWindowMs);
    expect((await settled(undefined, "charge", [0], { token: "new" })).value).toEqual({ run: tokensMax + 1 });
  });

  it("that began later than the token was made runs it not; ten seconds of skew are taken for older", async () => {
    world = await World.start(Account);
    const since = wallStartMs + 60_000;
    await world.pass(70_000);
    world.agent.open(world.slot("a"), 1, { absent: "lost", tokensSince: since });
    await world.settle();
    for (const [token, tokenTime, reason] of [
      ["1", since - 1, "TOKEN_MEMORY_LOST unknown"],
      ["2", since + 9999, "TOKEN_MEMORY_LOST unknown"],
      ["3", since + 10_000, undefined],
    ] as const) {
      expect((await settled("a", "charge", [1], { token, tokenTime })).reason).toBe(reason);
    }
    expect(runs).toHaveLength(1);
  });

  it("does not believe that another one began far in the future, and says no such thing when it moves on", async () => {
    world = await World.start(Account);
    const slot = world.slot("a");
    world.agent.open(slot, 1, { tokensSince: 2 ** 48 - 1 });
    await world.settle();
    expect((await settled("a", "charge", [1], { token: "t" })).reason).toBe("TOKEN_MEMORY_LOST unknown");
    await world.pass(2 * tokenSkewMs);
    expect((await settled("a", "charge", [1], { token: "u" })).value).toEqual({ run: 1 });
    world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    expect(world.agent.of("closed")).toMatchObject([{ tokensSince: wallStartMs + tokenSkewMs }]);
  });

  it("takes no token that is still to be made, and forgets none of the others for it", async () => {
    world = await World.start(Account, new Account());
    await world.openAll();
    const slot = world.slot("a");
    for (const resource of ["a", undefined]) {
      runs = [];
      for (const tokenTime of [2 ** 48 - 1, wallStartMs + world.clock.now() + tokenSkewMs + 1]) {
        const refused = await settled(resource, "charge", [1], { token: "t", tokenTime });
        expect(refused.error).toMatchObject({
          reason: "INVALID_OPTION",
          effect: "none",
          details: { field: "tokenTime", tokenTime, nowMs: wallStartMs + world.clock.now() },
        });
        expect(refused.error?.message).toContain(new Date(tokenTime).toISOString());
      }
      const ahead = { token: "ahead", tokenTime: wallStartMs + world.clock.now() + tokenSkewMs };
      expect((await settled(resource, "charge", [1], ahead)).value).toEqual({ run: 1 });
      await world.pass(tokenWindowMs);
      expect((await settled(resource, "charge", [1], ahead)).reason).toBe("TOKEN_MEMORY_LOST unknown");
      expect((await settled(resource, "charge", [1], { token: "u" })).value).toEqual({ run: 2 });
    }
    world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    const [closed] = world.agent.of("closed");
    expect(closed?.tokensSince).toBeLessThanOrEqual(wallStartMs + world.clock.now() - tokenWindowMs + 1);
  });

  it("runs no token again that came from a clock ahead, moved, and was forgotten after that", async () => {
    world = await World.start(Account);
    const slot = world.slot("a");
    world.agent.open(slot, 1);
    await world.settle();
    const ahead = { token: "t", tokenTime: wallStartMs + tokenSkewMs };
    await settled("a", "charge", [1], ahead);
    world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    for (const item of world.agent.handed.get(slot)?.tokens ?? []) world.agent.token(slot, 2, item);
    world.agent.open(slot, 2);
    await world.pass(tokenWindowMs);
    const again = await settled("a", "charge", [1], { ...ahead, epoch: 2 });
    expect([again.reason, runs]).toEqual(["TOKEN_MEMORY_LOST unknown", ["charge 1"]]);
  });

  it("takes a token of which its caller says no time for a new one", async () => {
    world = await World.start(Account);
    world.agent.open(world.slot("a"), 1, { absent: "lost", tokensSince: wallStartMs });
    await world.settle();
    const first = new Outcome(world.agent.call("a", "charge", [1], { token: "t" }));
    await world.settle();
    const again = new Outcome(world.agent.call("a", "charge", [1], { token: "t" }));
    await world.settle();
    expect([first.value, again.value]).toEqual([{ run: 1 }, { run: 1 }]);
  });

  it("of plain methods is the process's: older tokens are not run", async () => {
    world = await World.start(undefined, new Account());
    const old = await settled(undefined, "charge", [1], { token: "t", tokenTime: wallStartMs - 1 });
    expect(old.reason).toBe("TOKEN_MEMORY_LOST unknown");
    expect((await settled(undefined, "charge", [1], { token: "u" })).value).toEqual({ run: 1 });
  });

  it("moves with its slot", async () => {
    world = await World.start(Account);
    await world.openAll();
    const slot = world.slot("a");
    await settled("a", "charge", [5], { token: "t" });
    await settled("a", "fails", [], { token: "u" });
    world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    const handed = world.agent.handed.get(slot);
    expect(handed?.tokens.map(({ message }) => message)).toMatchObject([
      { resource: "a", method: "charge", token: "t", forgetAt: wallStartMs + tokenWindowMs },
      { resource: "a", method: "fails", token: "u" },
    ]);
    expect(world.agent.of("closed")).toMatchObject([{ hasState: true, tokensSince: 0 }]);
    world.close();
    world = await World.start(Account);
    for (const item of handed?.tokens ?? []) world.agent.token(slot, 2, item);
    world.agent.open(slot, 2);
    await world.settle();
    const again = await settled("a", "charge", [5], { token: "t", epoch: 2 });
    const failed = await settled("a", "fails", [], { token: "u", epoch: 2 });
    expect([again.value, failed.error]).toEqual([{ run: 1 }, expect.objectContaining({ value: { run: 2 } })]);
    expect(runs).toHaveLength(2);
  });

  it("stays with the process: a repeat at the next epoch waits for a method of the last", async () => {
    world = await World.start(Account);
    await world.openAll();
    const slot = world.slot("a");
    await settled("a", "slow", ["x"], { token: "t" });
    world.agent.session.destroy(new LeverError("CONNECTION_LOST", "the agent was killed"));
    await world.settle();
    await world.pass(1000);
    world.agent.open(slot, 2, { keeps: 1, absent: "lost", tokensSince: wallStartMs + 60_000 });
    await world.settle();
    const again = await settled("a", "slow", ["x"], { token: "t", epoch: 2, tokenTime: wallStartMs });
    expect([again.reason, runs]).toEqual(["LEASE_LAPSED ran", ["x"]]);
  });
});

describe("callers", () => {
  it("from outside, of the own environment and of each other one have tokens apart, after a move too", async () => {
    const callers = [
      { environment: "test", service: "web" },
      { environment: "test", outside: true },
      { environment: "shop", service: "web" },
      { environment: "bank", service: "web" },
    ];
    const charge = async (resource: string | undefined, epoch: number) => {
      const values = [];
      for (const caller of callers) {
        const fields = { token: "order-17", caller, ...(resource !== undefined && { epoch }) };
        values.push((await settled(resource, "charge", [1], fields)).value);
      }
      return values;
    };
    world = await World.start(Account, new Account());
    const slot = world.slot("a");
    world.agent.open(slot, 1);
    await world.settle();
    const each = callers.map((_, index) => ({ run: index + 1 }));
    for (let again = 0; again < 2; again++) expect(await charge("a", 1)).toEqual(each);
    world.agent.send({ type: "drain", slot, epoch: 1 });
    await world.settle();
    for (const item of world.agent.handed.get(slot)?.tokens ?? []) world.agent.token(slot, 2, item);
    world.agent.open(slot, 2);
    await world.settle();
    expect(await charge("a", 2)).toEqual(each);
    runs = [];
    for (let again = 0; again < 2; again++) expect(await charge(undefined, 0)).toEqual(each);
  });

  it("say when a token was made: itself, if it was minted, else at the call", async () => {
    world = await World.start(undefined, { any: () => 0 });
    const before = Date.now();
    const token = mintToken();
    await world.pass(5000);
    for (const each of [token, "order-17"]) {
      void world.client.invoke("/other/charge", [], { token: each });
      await world.settle();
    }
    const [minted, other] = world.callsTo("charge").map(({ fields }) => fields);
    expect(minted?.token).toBe(token);
    expect(minted?.tokenTime).toBeGreaterThanOrEqual(before);
    expect(minted?.tokenTime).toBeLessThanOrEqual(Date.now());
    expect(other).toMatchObject({ token: "order-17", tokenTime: wallStartMs + 5000 });
    expect(new Set(Array.from({ length: 100 }, mintToken)).size).toBe(100);
    expect(token.length).toBeLessThanOrEqual(128);
  });
});
