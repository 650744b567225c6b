import { leaderLeaseMs, leaseMsDefault, newLeaderWaitMs, rebalanceDrainMs } from "@leveros/protocol/control/lease.ts";
import { describe, expect, it } from "vitest";
import { type FakeHolder, LeaderWorld, policyOf } from "./leader.fixture.ts";
import { rebalancingMax } from "./service-slots.ts";

const leaseMs = leaderLeaseMs(leaseMsDefault, 0);

function slotsOf(holder: FakeHolder): number[] {
  return [...holder.holds.keys()].sort((a, b) => a - b);
}

function typesOf(holder: FakeHolder): string[] {
  return holder.log.map(({ type }) => type).filter((type) => type !== "renewed");
}

/** Slot 0 is with `a`, and is to go to `b`: `a` drains it and has not released it. */
async function moving() {
  const world = new LeaderWorld({ slots: 2 });
  const a = world.add("a");
  await world.run(100);
  a.busy.add(0);
  a.busy.add(1);
  const b = world.add("b");
  await world.run(100);
  const slot = [...a.holds].find(([, hold]) => hold.isDraining)?.[0] as number;
  return { world, a, b, slot, epoch: world.row(slot).epoch, next: world.row(slot).issued };
}

describe("the first holders", () => {
  it("are given all slots at once, evenly, as fresh ones, and shown when they have confirmed", async () => {
    const world = new LeaderWorld({ slots: 9 });
    const holders = ["a", "b", "c"].map((instance) => world.add(instance));
    await world.run(50);
    expect(world.counts()).toEqual({ a: 3, b: 3, c: 3 });
    const first = new Map(holders.flatMap(({ grants }) => grants).map((grant) => [grant.slot, grant]));
    for (const { grants } of holders) {
      for (const grant of grants) if (grant.epoch < (first.get(grant.slot)?.epoch ?? 0)) first.set(grant.slot, grant);
    }
    expect([...first.values()].every(({ origin }) => origin.memory === "fresh")).toBe(true);
    for (const holder of holders) {
      for (const [slot, { epoch }] of holder.holds) {
        expect(world.row(slot)).toEqual({
          slot,
          holder: holder.instance,
          epoch,
          issued: epoch,
          isMoving: false,
          fence: 0,
        });
      }
    }
    expect(world.leader.slotsOf("dev", "chat")).toEqual([...world.shown.values()].sort((x, y) => x.slot - y.slot));
  });

  it("are shown only once they have answered `held`, while the row says that the slot moves", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a", { openMs: () => 40 });
    await world.run(20);
    expect(slotsOf(a)).toEqual([0]);
    const { epoch } = a.grants[0] as { epoch: number };
    expect(world.row(0)).toMatchObject({ holder: "", epoch: 0, issued: epoch, isMoving: true });
    await world.run(40);
    expect(world.row(0)).toMatchObject({ holder: "a", epoch, issued: epoch, isMoving: false });
  });

  it("are granted nothing before the table is written", async () => {
    const world = new LeaderWorld({ slots: 1 });
    await world.settle();
    world.store.delayMs = () => 500;
    const a = world.add("a");
    await world.run(400);
    expect(a.grants).toEqual([]);
    expect(world.shown.size).toBe(0);
    await world.run(200);
    expect(a.grants.length).toBe(1);
  });

  it("are granted nothing before the first renewal", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a");
    a.isHung = true;
    a.cut();
    await world.run(10_000);
    expect(a.isConnected).toBe(true);
    expect(a.log).toEqual([]);
    a.isHung = false;
    await world.run(2100);
    expect(typesOf(a)).toEqual(["grant"]);
  });

  it("are given nothing while the source does not know them", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a");
    world.leader.removeInstance({ environment: "dev", service: "chat", instance: "a" });
    await world.run(5000);
    expect(a.grants).toEqual([]);
    world.know("a");
    await world.run(50);
    expect(a.grants.length).toBe(1);
  });
});

describe("epochs", () => {
  it("are one count of the table, wall-clock ms or one more than the last (R13)", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a");
    await world.run(100);
    const first = world.row(0).epoch;
    expect(first).toBeGreaterThanOrEqual(1_000_000);
    expect(first).toBeLessThan(1_000_100);
    // The wall clock is set back: they rise all the same, also from one leader to the next.
    world.wallOffsetMs = -500_000;
    world.add("b");
    world.end(a);
    await world.run(100);
    expect(world.row(0)).toMatchObject({ holder: "b", epoch: first + 1 });
    world.stopLeader();
    world.startLeader();
    await world.run(500);
    expect(world.row(0)).toMatchObject({ holder: "b", epoch: first + 1 });
    world.holders[1]?.restartApp();
    world.processesEnded("none");
    await world.run(leaseMs + 100);
    expect(world.row(0).epoch).toBe(first + 2);
  });

  it("survive that somebody deletes the table (R13)", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a");
    await world.run(2000);
    const { epoch } = world.row(0);
    world.store.inner.lose("dev", "chat");
    world.wallOffsetMs = -500_000;
    const b = world.add("b");
    world.end(a);
    await world.run(3000);
    expect(world.row(0)).toMatchObject({ holder: "b", epoch: epoch + 1 });
    expect((await world.store.inner.read("dev", "chat"))?.rows[0]?.holder?.incarnation).toBe(b.incarnation);
  });
});

describe("leases", () => {
  it("answer exactly one renewal each", async () => {
    const world = new LeaderWorld();
    const a = world.add("a");
    await world.run(7000);
    expect(a.log.filter(({ type }) => type === "renewed")).toEqual([1, 2, 3, 4].map((n) => ({ type: "renewed", n })));
  });

  it("end by the leader's clock at the last renewal's processing + L(1+ε) − a(1−2ε), and not before", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a", { ageMs: () => 800, staysAway: true });
    await world.run(100);
    const { epoch } = world.row(0);
    world.add("b");
    // The renewal was sent at 0, and arrived 1 ms later.
    a.partition();
    await world.run(1 + leaderLeaseMs(leaseMsDefault, 800) - 100 - 1);
    expect(world.row(0)).toMatchObject({ holder: "a", epoch, fence: 0 });
    await world.run(10);
    expect(world.row(0)).toMatchObject({ holder: "b", fence: epoch + 1 });
  });

  it("are not taken for ended when the wall clock is set forward", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a", { staysAway: true });
    await world.run(100);
    world.add("b");
    a.partition();
    world.wallOffsetMs += 3_600_000;
    await world.run(leaseMs - 1000);
    expect(world.row(0).holder).toBe("a");
  });

  it("that have ended are not renewed, and their incarnation is refused", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a");
    await world.run(100);
    const { identity } = a;
    a.partition();
    await world.run(leaseMs + 100);
    expect(world.row(0).holder).toBe("");
    expect(() =>
      world.leader.connect(
        identity,
        () => {},
        () => {},
      ),
    ).toThrow(expect.objectContaining({ reason: "LEASE_LAPSED", effect: "none" }));
  });

  it("run on while the connection is lost", async () => {
    const world = new LeaderWorld({ slots: 4 });
    const a = world.add("a");
    await world.run(100);
    const before = [...world.shown.values()];
    a.cut();
    await world.run(20_000);
    expect([...world.shown.values()]).toEqual(before);
    expect(a.grants.length).toBe(4);
  });
});

describe("a new member", () => {
  it("takes a quarter as the fourth, and no other slot moves; no more than 32 are under way at a time", async () => {
    const world = new LeaderWorld({ slots: 256 });
    for (const instance of ["a", "b", "c"]) world.add(instance, { closeMs: () => 5 });
    await world.run(3000);
    const before = new Map([...world.shown].map(([slot, { holder }]) => [slot, holder]));
    expect(Object.values(world.counts()).sort()).toEqual([85, 85, 86]);
    const d = world.add("d");
    let movingMax = 0;
    for (let ms = 0; ms < 300; ms++) {
      await world.run(1);
      movingMax = Math.max(movingMax, [...world.shown.values()].filter(({ isMoving }) => isMoving).length);
    }
    expect(movingMax).toBeGreaterThan(8);
    expect(movingMax).toBeLessThanOrEqual(rebalancingMax);
    expect(world.counts()).toEqual({ a: 64, b: 64, c: 64, d: 64 });
    for (const [slot, { holder }] of world.shown) expect([before.get(slot), "d"]).toContain(holder);
    expect(d.grants.every(({ origin }) => origin.memory === "state")).toBe(true);
  });

  it("gets a slot only after an intent was written, drained and released; callers see the move (R18)", async () => {
    const { world, a, b, slot, epoch, next } = await moving();
    expect(next).toBeGreaterThan(epoch);
    expect(a.log.filter(({ type }) => type === "drain")).toEqual([{ type: "drain", slots: [{ slot, epoch, next }] }]);
    expect(world.row(slot)).toEqual({ slot, holder: "a", epoch, issued: next, isMoving: true, fence: 0 });
    const stored = await world.store.inner.read("dev", "chat");
    expect(stored?.rows[slot]).toMatchObject({
      holder: { instance: "b", incarnation: b.incarnation },
      epoch: next,
      after: [{ holder: { instance: "a" }, epoch }],
    });
    expect(b.grants).toEqual([]);
    const writes = world.store.writes.length;
    a.finish(slot);
    await world.run(4);
    // Without another write.
    expect(world.store.writes.length).toBe(writes);
    expect(b.grants).toEqual([{ slot, epoch: next, origin: { memory: "state", address: "a:1", epoch } }]);
    expect(world.row(slot)).toEqual({ slot, holder: "b", epoch: next, issued: next, isMoving: false, fence: 0 });
    expect(world.leader.explain("dev", "chat", slot)?.moves.at(-1)).toMatchObject({
      from: "a",
      to: "b",
      epoch: next,
      reason: "rebalance",
    });
  });

  it("gives the one after what the last holder left, when the next one never took it", async () => {
    const { world, a, b, slot, epoch, next } = await moving();
    b.opens = false;
    a.finish(slot);
    await world.run(4);
    expect(b.grants).toHaveLength(1);
    b.send({ type: "neverHeld", slots: [{ slot, epoch: next }] });
    b.opens = true;
    await world.run(3000);
    const later = [...a.grants, ...b.grants].filter((grant) => grant.slot === slot && grant.epoch > next);
    later.sort((one, other) => one.epoch - other.epoch);
    expect(later[0]?.origin).toEqual({ memory: "state", address: "a:1", epoch });
  });

  it("gets the slot although the store has gone meanwhile (R18)", async () => {
    const { world, a, b, slot, next } = await moving();
    world.store.isDown = true;
    a.finish(slot);
    await world.run(10);
    expect(world.row(slot)).toMatchObject({ holder: "b", epoch: next, isMoving: false });
    expect(b.grants.length).toBe(1);
  });
});

describe("a rebalance that does not come to its end", () => {
  it("is called off: the holder goes on, the next one says that it never held, then the row is written (R20)", async () => {
    const { world, a, b, slot, epoch, next } = await moving();
    const writes = world.store.writes.length;
    await world.run(rebalanceDrainMs - 200);
    expect(a.log.some(({ type }) => type === "resume")).toBe(false);
    world.store.delayMs = () => 50;
    await world.run(200);
    expect(a.log.filter(({ type }) => type === "resume")).toEqual([{ type: "resume", slots: [{ slot, epoch }] }]);
    expect(b.log.filter(({ type }) => type === "withdraw")).toEqual([
      { type: "withdraw", slots: [{ slot, epoch: next }] },
    ]);
    await world.run(100);
    expect(world.store.writes.length).toBe(writes + 1);
    expect(world.row(slot)).toEqual({ slot, holder: "a", epoch, issued: next, isMoving: false, fence: 0 });
    // Another slot goes instead, and this one is left alone for a minute.
    expect(a.holds.get(slot)?.isDraining).toBe(false);
    a.busy.clear();
    await world.run(30_000);
    expect(world.row(slot)).toMatchObject({ holder: "a", epoch });
  });

  it("is not called off before the next one has answered", async () => {
    const { world, b, slot, next } = await moving();
    b.partition();
    await world.run(rebalanceDrainMs + 1000);
    expect(world.row(slot)).toMatchObject({ holder: "a", isMoving: true, issued: next });
    // Its lease ends instead.
    await world.run(leaseMs);
    expect(world.row(slot)).toMatchObject({ holder: "a", isMoving: false, issued: next });
  });

  it("gives the slot to whoever comes next under a new epoch, if its holder had released it meanwhile", async () => {
    const { world, a, b, slot, epoch, next } = await moving();
    await world.run(rebalanceDrainMs - 100);
    // The release crosses the call-off.
    world.latencyMs = () => 20;
    while (world.leader.explain("dev", "chat", slot)?.isWithdrawn !== true) await world.run(1);
    a.finish(slot);
    await world.run(1000);
    expect(typesOf(b)).toContain("withdraw");
    const row = world.row(slot);
    expect(row).toMatchObject({ isMoving: false, fence: 0 });
    expect(row.epoch).toBeGreaterThan(next);
    const taker = row.holder === "a" ? a : b;
    expect(taker.grants.at(-1)).toEqual({
      slot,
      epoch: row.epoch,
      origin: { memory: "state", address: "a:1", epoch },
    });
  });
});

describe("a holder that leaves", () => {
  it.each(["says so", "is said to drain by the source"])(
    "and %s loses all its slots, with their state",
    async (how) => {
      const world = new LeaderWorld({ slots: 8 });
      const a = world.add("a");
      const b = world.add("b");
      await world.run(1000);
      const slots = slotsOf(a);
      if (how === "says so") a.leave();
      else world.leader.upsertInstance({ environment: "dev", service: "chat", instance: "a" }, true);
      await world.run(100);
      expect(world.counts()).toEqual({ b: 8 });
      const taken = b.grants.slice(-slots.length);
      expect(taken.map(({ slot }) => slot).sort()).toEqual(slots);
      expect(taken.every(({ origin }) => origin.memory === "state")).toBe(true);
      expect([...world.shown.values()].every(({ fence }) => fence === 0)).toBe(true);
    },
  );

  it("is waited for as long as it takes, until its end is proven", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a");
    await world.run(100);
    a.busy.add(0);
    const b = world.add("b");
    a.leave();
    await world.run(60_000);
    expect(world.row(0)).toMatchObject({ holder: "a", isMoving: true });
    const { epoch, issued } = world.row(0);
    world.end(a);
    await world.run(10);
    expect(world.row(0)).toMatchObject({ holder: "b", epoch: issued, isMoving: false, fence: epoch + 1 });
    expect(b.grants).toMatchObject([{ origin: { memory: "lost" } }]);
  });

  it("keeps its slots while nobody else is there, and is given none", async () => {
    const world = new LeaderWorld({ slots: 4 });
    const a = world.add("a");
    await world.run(100);
    a.leave();
    await world.run(5000);
    expect(world.counts()).toEqual({ a: 4 });
    const b = world.add("b");
    b.leave();
    await world.run(5000);
    expect(world.counts()).toEqual({ a: 4 });
    expect(b.grants).toEqual([]);
  });

  it("gives its slots up where all instances are being stopped, and they are anybody's with their state", async () => {
    const world = new LeaderWorld({ slots: 4 });
    const a = world.add("a");
    await world.run(100);
    const { epoch } = world.row(0);
    world.leader.upsertInstance({ environment: "dev", service: "chat", instance: "a" }, true);
    await world.run(100);
    expect([a.holds.size, world.counts()]).toEqual([0, { "": 4 }]);
    expect(world.row(0)).toMatchObject({ holder: "", epoch, isMoving: false, fence: 0 });
    const b = world.add("b");
    await world.run(100);
    expect(world.counts()).toEqual({ b: 4 });
    expect(b.grants.every(({ origin }) => origin.memory === "state")).toBe(true);
  });

  it("keeps them if that is called off, and callers hear that what they wait for will not come", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a");
    await world.run(100);
    a.busy.add(0);
    const { epoch } = world.row(0);
    const key = { environment: "dev", service: "chat", instance: "a" };
    world.leader.upsertInstance(key, true);
    await world.run(100);
    const drain = a.log.find((message) => message.type === "drain");
    const next = drain?.slots[0]?.next as number;
    expect([a.holds.get(0)?.isDraining, next > epoch]).toEqual([true, true]);
    world.leader.upsertInstance(key, false);
    await world.run(100);
    expect(a.holds.get(0)?.isDraining).toBe(false);
    expect(world.row(0)).toMatchObject({ holder: "a", epoch, isMoving: false });
    expect(world.row(0).issued).toBeGreaterThanOrEqual(next);
  });

  it("gives them up to whom the source expects, when that one is there", async () => {
    const world = new LeaderWorld({ slots: 4 });
    const a = world.add("a");
    await world.run(100);
    world.know("b");
    world.leader.upsertInstance({ environment: "dev", service: "chat", instance: "a" }, true);
    await world.run(5000);
    expect(world.counts()).toEqual({ a: 4 });
    world.add("b");
    await world.run(100);
    expect(world.counts()).toEqual({ b: 4 });
    expect(a.isAlive).toBe(true);
  });

  it("is given nothing that was on its way to it", async () => {
    const { world, a, b, slot, epoch, next } = await moving();
    b.leave();
    await world.run(100);
    expect(b.log.filter(({ type }) => type === "withdraw").length).toBe(1);
    expect(world.row(slot)).toEqual({ slot, holder: "a", epoch, issued: next, isMoving: false, fence: 0 });
    expect(a.holds.get(slot)?.isDraining).toBe(false);
    expect(b.grants).toEqual([]);
  });

  it("may stay after all", async () => {
    const world = new LeaderWorld({ slots: 4 });
    const a = world.add("a");
    world.add("b");
    await world.run(1000);
    world.leader.upsertInstance({ environment: "dev", service: "chat", instance: "a" }, true);
    await world.run(100);
    expect(world.counts()).toEqual({ b: 4 });
    world.leader.upsertInstance({ environment: "dev", service: "chat", instance: "a" }, false);
    await world.run(100);
    expect(world.counts()).toEqual({ a: 2, b: 2 });
    expect(a.isAlive).toBe(true);
  });
});

describe("evidence", () => {
  it("of a process's end gives its slots away at once, lost, with the fence above its epochs (R10b, R23)", async () => {
    const world = new LeaderWorld({ slots: 4 });
    const a = world.add("a");
    const b = world.add("b");
    await world.run(1000);
    const epochs = new Map([...a.holds].map(([slot, { epoch }]) => [slot, epoch]));
    const had = b.grants.length;
    world.store.delayMs = () => 20;
    world.end(a);
    await world.run(1);
    // At once, before anything is written.
    for (const [slot, epoch] of epochs) expect(world.row(slot)).toMatchObject({ holder: "", epoch, fence: epoch + 1 });
    await world.run(100);
    expect(world.counts()).toEqual({ b: 4 });
    for (const { epoch, slot, origin } of b.grants.slice(had)) {
      expect(origin).toEqual({ memory: "lost" });
      expect(epoch).toBeGreaterThanOrEqual(world.row(slot).fence);
    }
  });

  const silences: Record<string, (world: LeaderWorld, holder: FakeHolder) => void> = {
    "says so": (_, holder) => holder.send({ type: "silent" }),
    "has ended": (world) => world.leader.processEnded({ environment: "dev", service: "chat", instance: "a" }, "agent"),
    "serves another app": (_, holder) => holder.restartApp(),
  };
  for (const [how, silence] of Object.entries(silences)) {
    it(`of an app's end counts once nothing of it is left in its agent: that ${how}`, async () => {
      const world = new LeaderWorld({ slots: 1 });
      const a = world.add("a");
      await world.run(1000);
      world.add("b");
      const { epoch } = world.row(0);
      a.busy.add(0);
      world.leader.processEnded({ environment: "dev", service: "chat", instance: "a" }, "app");
      await world.run(3000);
      expect(world.row(0)).toMatchObject({ holder: "a", epoch });
      silence(world, a);
      await world.run(100);
      expect(world.row(0).epoch).toBeGreaterThan(epoch);
      expect(world.row(0).fence).toBe(epoch + 1);
    });
  }

  it("of an end charges what began before it, and not what was started after it (sick variant 12)", async () => {
    const world = new LeaderWorld({ slots: 1 });
    world.add("a", { appStartedAt: 10_000, agentStartedAt: 5000 });
    await world.run(1000);
    world.add("b");
    const { epoch } = world.row(0);
    const key = { environment: "dev", service: "chat", instance: "a" };
    for (const process of ["app", "agent"] as const) world.leader.processEnded(key, process, 10_000);
    await world.run(100);
    expect(world.row(0)).toMatchObject({ holder: "a", epoch, fence: 0 });
    world.leader.processEnded(key, "app", 10_001);
    await world.run(100);
    expect(world.row(0)).toMatchObject({ holder: "b", fence: epoch + 1 });
  });

  it("of an end stands for who is found in the table, and for who registers later", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a", { staysAway: true });
    await world.run(1000);
    const { epoch } = world.row(0);
    a.partition();
    world.stopLeader();
    world.startLeader();
    const key = { environment: "dev", service: "chat", instance: "a" };
    // Before the table is read.
    for (const process of ["app", "agent"] as const) world.leader.processEnded(key, process, 10_000);
    world.add("b");
    await world.run(500);
    expect(world.row(0)).toMatchObject({ holder: "b", fence: epoch + 1 });
    const late = world.add("a");
    await world.run(100);
    expect(late.isConnected).toBe(false);
    expect(late.refusals.at(0)).toMatchObject({ reason: "LEASE_LAPSED" });
  });

  it("of an end that was told by a clock which has been set back refuses nobody once it is told anew", async () => {
    const world = new LeaderWorld({ slots: 1 });
    await world.run(100);
    const key = { environment: "dev", service: "chat", instance: "a" };
    world.know("a");
    for (const process of ["app", "agent"] as const) world.leader.processEnded(key, process, 10_000);
    const a = world.add("a", { appStartedAt: 5000, agentStartedAt: 4000 });
    await world.run(100);
    expect(a.isConnected).toBe(false);
    for (const process of ["app", "agent"] as const) world.leader.processEnded(key, process, 4000);
    await world.run(leaseMs);
    expect(world.row(0).holder).toBe("a");
  });

  it("of an end is not kept for another instance of the same name", async () => {
    const world = new LeaderWorld({ slots: 1 });
    await world.run(100);
    const key = { environment: "dev", service: "chat", instance: "a" };
    world.know("a");
    for (const process of ["app", "agent"] as const) world.leader.processEnded(key, process, 10_000);
    world.leader.removeInstance(key);
    const a = world.add("a");
    await world.run(1000);
    expect(a.isConnected).toBe(true);
    expect(world.row(0).holder).toBe("a");
  });

  it("of an app's end stands for the next leader too, though the agent reports what its app had", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a");
    await world.run(1000);
    a.busy.add(0);
    const b = world.add("b");
    // It is to leave, and b waits for it.
    world.know("a", true);
    await world.run(100);
    a.loseApp();
    world.leader.processEnded({ environment: "dev", service: "chat", instance: "a" }, "app");
    await world.run(100);
    expect(b.holds.get(0)?.isOpen).toBe(true);
    const { epoch } = world.row(0);
    b.partition();
    world.stopLeader();
    world.startLeader();
    world.add("c");
    await world.run(500);
    world.leader.processEnded({ environment: "dev", service: "chat", instance: "a" }, "app");
    await world.run(5000);
    // B may have it, and is waited for.
    expect(world.row(0)).toMatchObject({ epoch: expect.toSatisfy((shown: number) => shown <= epoch) });
    expect(b.isLeaseRunning).toBe(true);
    expect(world.holders.filter((holder) => holder.holds.has(0) && holder !== a)).toEqual([b]);
  });

  it("of an app's end does not count for what its agent has left while that says nothing", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a", { staysAway: true });
    await world.run(1000);
    world.add("b");
    a.partition();
    world.leader.processEnded({ environment: "dev", service: "chat", instance: "a" }, "app");
    // Another start of the agent proves nothing of the last one.
    world.add("a");
    await world.run(leaseMs - 3000);
    expect(world.row(0).holder).toBe("a");
    expect(world.row(0).fence).toBe(0);
    await world.run(4000);
    expect(world.row(0).fence).toBeGreaterThan(0);
  });

  it("of a lost connection alone is none", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a", { staysAway: true });
    await world.run(100);
    world.add("b");
    await world.run(100);
    const slots = slotsOf(a);
    a.cut();
    await world.run(leaseMs - 3000);
    for (const slot of slots) expect(world.row(slot).holder).toBe("a");
  });

  it("of its own release without state gives the slots away at once, lost, without a fence (R12)", async () => {
    const world = new LeaderWorld({ slots: 4 });
    const a = world.add("a");
    const b = world.add("b");
    await world.run(1000);
    const [busy, idle] = slotsOf(a) as [number, number];
    const had = b.grants.length;
    a.busy.add(busy);
    a.loseApp();
    await world.run(10);
    expect(world.row(idle)).toMatchObject({ holder: "b", fence: 0 });
    expect(b.grants.slice(had)).toMatchObject([{ slot: idle, origin: { memory: "lost" } }]);
    // What still runs is waited for.
    expect(world.row(busy)).toMatchObject({ holder: "a", isMoving: false });
    const { epoch } = world.row(busy);
    await world.run(leaseMs + 100);
    expect(world.row(busy)).toMatchObject({ holder: "b", fence: epoch + 1 });
  });

  it("of a later incarnation of the same process leaves its slots there under a new epoch, with their state (R10a)", async () => {
    const world = new LeaderWorld({ slots: 6 });
    const a = world.add("a");
    const b = world.add("b");
    await world.run(1000);
    const epochs = new Map([...a.holds].map(([slot, { epoch }]) => [slot, epoch]));
    const had = { a: a.grants.length, b: b.grants.length };
    a.address = "a:2";
    a.restartAgent();
    await world.run(10);
    expect(world.counts()).toEqual({ a: 3, b: 3 });
    expect(b.grants.length).toBe(had.b);
    const again = a.grants.slice(had.a);
    expect(again.map(({ slot }) => slot).sort()).toEqual([...epochs.keys()].sort());
    for (const { slot, epoch, origin } of again) {
      const former = epochs.get(slot) as number;
      expect(epoch).toBeGreaterThan(former);
      expect(origin).toEqual({ memory: "state", address: "a:2", epoch: former });
      expect(world.row(slot)).toMatchObject({ holder: "a", epoch, fence: 0 });
    }
  });

  it("of a later incarnation keeps a slot that was being drained where its state is", async () => {
    const { world, a, b, slot, epoch, next } = await moving();
    a.restartAgent();
    await world.run(10);
    const row = world.row(slot);
    expect(row.epoch).toBeGreaterThan(next);
    expect(a.grants.find((grant) => grant.slot === slot && grant.epoch > next)?.origin).toMatchObject({ epoch });
    await world.run(100);
    expect(b.grants.every(({ origin }) => origin.memory === "state")).toBe(true);
  });

  it("is none if only another process of the same instance registers", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a");
    await world.run(1000);
    const before = world.row(0);
    a.restartApp();
    await world.run(leaseMs - 3000);
    expect(world.row(0)).toEqual(before);
    expect(a.holds.size).toBe(0);
    await world.run(3000);
    expect(world.row(0)).toMatchObject({ holder: "a", fence: before.epoch + 1 });
    expect(a.grants.at(-1)).toMatchObject({ origin: { memory: "lost" } });
  });

  it("is none if an earlier incarnation connects after a later one", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a");
    await world.run(100);
    const late = { ...a.identity, incarnation: a.incarnation.replace(/\.0\.0$/, ".0.-1"), holds: [] };
    expect(() =>
      world.leader.connect(
        late,
        () => {},
        () => {},
      ),
    ).toThrow(expect.objectContaining({ reason: "CANCELLED", effect: "none" }));
    await world.run(100);
    expect(a.isConnected).toBe(true);
    expect(world.counts()).toEqual({ a: 2 });
  });
});

describe("a connection", () => {
  it("is ended by a newer one of the same instance, and says nothing any more", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a");
    await world.run(100);
    const messages: unknown[] = [];
    const link = world.leader.connect(
      a.identity,
      (message) => messages.push(message),
      () => {},
    );
    await world.run(1);
    expect(a.ends).toMatchObject([{ reason: "CANCELLED" }]);
    link.message({ type: "renew", n: 7, ageMs: 0 });
    expect(messages).toEqual([{ type: "renewed", n: 7 }]);
    link.lost();
    link.message({ type: "renew", n: 8, ageMs: 0 });
    expect(messages.length).toBe(1);
  });

  it("that reports slots which are not its own is told to drop them", async () => {
    const world = new LeaderWorld({ slots: 4 });
    const a = world.add("a");
    const b = world.add("b");
    await world.run(1000);
    const [theirs] = slotsOf(b) as [number];
    a.cut();
    a.holds.set(theirs, { epoch: 5, origin: { memory: "fresh" }, isDraining: false, isOpen: true });
    a.connect();
    await world.run(10);
    expect(a.log.filter(({ type }) => type === "drop")).toEqual([
      { type: "drop", slots: [{ slot: theirs, epoch: 5 }] },
    ]);
    expect(world.row(theirs).holder).toBe("b");
    expect(world.counts()).toEqual({ a: 2, b: 2 });
  });

  it("that was cut before the grant arrived is granted the same again", async () => {
    const world = new LeaderWorld({ slots: 1 });
    const a = world.add("a");
    await world.clock.step();
    world.latencyMs = () => 30;
    await world.run(10);
    expect(a.grants).toEqual([]);
    a.cut();
    world.latencyMs = () => 1;
    await world.run(200);
    expect(a.grants.length).toBe(1);
    expect(a.grants[0]?.origin).toEqual({ memory: "fresh" });
    expect(world.row(0).holder).toBe("a");
  });

  it("is refused for a service that holds no resources, and above the limit, which is named", async () => {
    const world = new LeaderWorld();
    const a = world.add("a");
    const connect = (part: object) =>
      world.leader.connect(
        { ...a.identity, ...part },
        () => {},
        () => {},
      );
    expect(() => connect({ service: "other" })).toThrow(
      expect.objectContaining({ reason: "NO_RESOURCES", effect: "none" }),
    );
    await world.settle();
    for (let n = 1; n < 10_000; n++) connect({ instance: `i-${n}`, incarnation: `x${n}.0.0`, process: `p${n}` });
    expect(() => connect({ instance: "one-more", incarnation: "y.0.0", process: "p" })).toThrow(
      expect.objectContaining({ reason: "OVERLOADED", details: { limit: "holdersPerService", holdersMax: 10_000 } }),
    );
  });
});

describe("a leader whose own lease is over", () => {
  it("answers no renewal, judges no lease and grants nothing, by the very reading (R10c, R14; sick variant 13)", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a", { staysAway: true });
    await world.run(3000);
    const epochs = new Map([...world.shown].map(([slot, { epoch }]) => [slot, epoch]));
    const untilMs = world.clock.now();
    world.isLeaderAt = (reading) => reading.monotonicMs <= untilMs;
    const b = world.add("b");
    await world.run(2000);
    expect(b.grants).toEqual([]);
    expect(b.isLeaseRunning).toBe(false);
    a.partition();
    await world.run(60_000);
    for (const [slot, epoch] of epochs) expect(world.row(slot)).toMatchObject({ holder: "a", epoch, fence: 0 });
    expect(a.isLeaseRunning).toBe(false);
  });
});

describe("another leader", () => {
  it("takes what live incarnations report and goes on; nothing moves (R15)", async () => {
    const world = new LeaderWorld({ slots: 9 });
    const holders = ["a", "b", "c"].map((instance) => world.add(instance));
    await world.run(3000);
    const before = [...world.shown.values()].sort((x, y) => x.slot - y.slot);
    const granted = holders.map(({ grants }) => grants.length);
    world.stopLeader();
    await world.run(4000);
    world.startLeader();
    await world.settle();
    expect(world.leader.slotsOf("dev", "chat")).toEqual(before);
    await world.run(40_000);
    expect(world.leader.slotsOf("dev", "chat")).toEqual(before);
    expect(holders.map(({ grants }) => grants.length)).toEqual(granted);
  });

  it("takes a lease for ended no sooner than L(1+ε) after its start, of incarnations that say nothing (R15)", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a", { staysAway: true });
    await world.run(100);
    world.add("b");
    await world.run(3000);
    const [slot] = slotsOf(a) as [number];
    world.stopLeader();
    a.partition();
    await world.run(1000);
    world.startLeader();
    await world.run(newLeaderWaitMs(leaseMsDefault) - 2);
    expect(world.row(slot)).toMatchObject({ holder: "a", fence: 0 });
    await world.run(10);
    expect(world.row(slot).holder).toBe("b");
  });

  it("goes on with a move, at whatever point of it", async () => {
    for (const at of ["before the release", "after the release", "after the grant"]) {
      const { world, a, b, slot, epoch, next } = await moving();
      if (at === "after the grant") {
        a.finish(slot);
        await world.run(3);
        expect(b.grants.length).toBe(1);
      }
      if (at === "after the release") {
        world.stopLeader();
        a.finish(slot);
      }
      world.stopLeader();
      await world.run(1000);
      world.startLeader();
      await world.run(500);
      if (at === "before the release") {
        expect(world.row(slot)).toMatchObject({ holder: "a", epoch, isMoving: true, issued: next });
        a.finish(slot);
        await world.run(10);
      }
      expect(world.row(slot), at).toEqual({ slot, holder: "b", epoch: next, issued: next, isMoving: false, fence: 0 });
      expect(b.grants, at).toEqual([{ slot, epoch: next, origin: { memory: "state", address: "a:1", epoch } }]);
    }
  });

  it("does not give what was left before an epoch that may have run and crashed (sick variant 17)", async () => {
    const { world, a, b, slot, next } = await moving();
    // B takes the slot, the leader crashes before it hears so, and B crashes too.
    a.finish(slot);
    await world.run(2);
    world.stopLeader();
    await world.run(2);
    expect(b.holds.get(slot)?.epoch ?? next).toBe(next);
    b.kill();
    world.startLeader();
    await world.run(500);
    world.processesEnded("b");
    await world.run(500);
    const row = world.row(slot);
    expect(row).toMatchObject({ holder: "a", isMoving: false });
    expect(row.epoch).toBeGreaterThan(next);
    expect(a.grants.at(-1)).toMatchObject({ slot, origin: { memory: "lost" } });
  });

  it("reads again though its process was stopped until long after the time to do so", async () => {
    const world = new LeaderWorld({ slots: 2 });
    world.stopLeader();
    world.store.isDown = true;
    world.stopAtErrorMs = 10_000;
    world.startLeader();
    await world.settle();
    world.store.isDown = false;
    expect(world.errors).not.toEqual([]);
    world.add("a");
    await world.run(5000);
    expect(world.counts()).toEqual({ a: 2 });
  });

  it("gives nothing away while it cannot read, and answers no renewal", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a");
    await world.run(3000);
    world.stopLeader();
    world.store.isDown = true;
    world.startLeader();
    await world.run(1000);
    const answered = a.log.length;
    expect(a.isConnected).toBe(true);
    await world.run(3000);
    expect(a.log.length).toBe(answered);
    world.store.isDown = false;
    await world.run(5000);
    expect(a.log.length).toBeGreaterThan(answered);
    expect(world.counts()).toEqual({ a: 2 });
    expect(a.grants.length).toBe(2);
  });

  it("is told by the release that the last one has not heard of", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a");
    world.add("b");
    await world.run(3000);
    const [slot] = slotsOf(a) as [number];
    world.stopLeader();
    a.loseApp();
    expect(a.released.length).toBe(1);
    await world.run(500);
    world.startLeader();
    await world.run(500);
    expect(world.row(slot).holder).toBe("b");
  });
});

describe("the store", () => {
  it("has one write in flight at most, and changes meanwhile go into the next one", async () => {
    const world = new LeaderWorld({ slots: 64 });
    await world.settle();
    world.store.delayMs = () => 50;
    const holders = Array.from({ length: 8 }, (_, n) => world.add(`h${n}`));
    await world.run(5000);
    expect(world.store.inFlightMax).toBe(1);
    expect(world.store.writes.length).toBeLessThan(30);
    expect(Object.values(world.counts())).toEqual(holders.map(() => 8));
  });

  it.each(["doneUnanswered", "lostUnanswered", "late"] as const)(
    "is read before anything else is done for the table after a write without an answer: %s (R8)",
    async (fault) => {
      const world = new LeaderWorld({ slots: 2 });
      await world.settle();
      const reads = world.store.reads;
      world.store.faults.push(fault);
      const a = world.add("a");
      await world.run(5);
      expect(a.grants).toEqual([]);
      expect(world.store.reads).toBe(reads);
      // Nothing is known, so nothing is given.
      world.store.isDown = true;
      await world.run(2000);
      expect(a.grants).toEqual([]);
      world.store.isDown = false;
      await world.run(6000);
      await world.store.land();
      expect(world.store.reads).toBeGreaterThan(reads);
      expect(world.counts()).toEqual({ a: 2 });
      expect(world.store.writes.length).toBeLessThanOrEqual(fault === "doneUnanswered" ? 2 : 3);
      world.add("b");
      await world.run(5000);
      expect(world.counts()).toEqual({ a: 1, b: 1 });
    },
  );

  it("takes a write that lands late for somebody else's change, and goes on", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a");
    await world.run(3000);
    world.store.faults.push("late");
    world.store.delayMs = () => 20;
    const b = world.add("b");
    await world.run(30);
    // It lands after the table was read again, and before the next write.
    await world.run(20);
    await world.store.land();
    await world.run(5000);
    expect(world.counts()).toEqual({ a: 1, b: 1 });
    expect(a.isConnected && b.isConnected).toBe(true);
    expect(b.grants.every(({ origin }) => origin.memory === "state")).toBe(true);
  });

  it("is written anew by the next leader before it acts: what the last one had under way finds another version", async () => {
    const world = new LeaderWorld({ slots: 2 });
    world.add("a");
    await world.run(3000);
    world.store.faults.push("late");
    world.add("b");
    await world.run(5);
    expect(world.store.faults).toEqual([]);
    world.stopLeader();
    world.startLeader();
    await world.run(50);
    const taken = await world.store.inner.read("dev", "chat");
    await world.store.land();
    expect(await world.store.inner.read("dev", "chat")).toEqual(taken);
    expect(taken?.rows.every(({ holder }) => holder?.instance === "a")).toBe(true);
    await world.run(5000);
    expect(world.counts()).toEqual({ a: 1, b: 1 });
  });

  it("in which somebody else has written makes everybody say anew what it has; nothing lapses", async () => {
    const world = new LeaderWorld({ slots: 4 });
    const a = world.add("a");
    const b = world.add("b");
    await world.run(3000);
    const stored = await world.store.inner.read("dev", "chat");
    if (stored === undefined) throw new Error("nothing is stored");
    const before = [...world.shown.values()].sort((x, y) => x.slot - y.slot);
    await world.store.inner.write({ ...stored, writer: "somebody", lastEpoch: stored.lastEpoch + 50 }, stored.version);
    const incarnations = [a.incarnation, b.incarnation];
    const c = world.add("c");
    await world.run(500);
    expect(a.ends).toMatchObject([{ reason: "CANCELLED" }]);
    await world.run(5000);
    expect(world.counts()).toMatchObject({ c: 1 });
    expect(c.grants[0]?.epoch).toBeGreaterThan(stored.lastEpoch + 50);
    expect([a.incarnation, b.incarnation]).toEqual(incarnations);
    const moved = new Set(c.holds.keys());
    for (const row of before) if (!moved.has(row.slot)) expect(world.row(row.slot)).toEqual(row);
    expect(world.errors).toMatchObject([{ name: "SlotStoreConflict" }]);
  });

  it("that has lost the table gets it back as soon as the leader hears of it", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a");
    await world.run(3000);
    const before = await world.store.inner.read("dev", "chat");
    world.store.inner.lose("dev", "chat");
    world.leader.tableGone("dev", "chat");
    await world.run(100);
    expect((await world.store.inner.read("dev", "chat"))?.rows).toEqual(before?.rows);
    // Also while a write is under way that comes before.
    world.store.delayMs = () => 20;
    world.add("b");
    await world.run(25);
    world.store.inner.lose("dev", "chat");
    world.leader.tableGone("dev", "chat");
    await world.run(2000);
    expect(await world.store.inner.read("dev", "chat")).toBeDefined();
    expect(a.isConnected).toBe(true);
    // What comes late changes nothing.
    const { writes } = world.store;
    const written = writes.length;
    world.leader.tableGone("dev", "chat");
    await world.run(3000);
    expect(writes.length).toBe(written);
  });

  it("that fails is asked again with growing pauses, and no more often", async () => {
    const world = new LeaderWorld({ slots: 1 });
    await world.settle();
    world.store.isDown = true;
    world.add("a");
    await world.run(60_000);
    expect(world.errors.length).toBeGreaterThan(10);
    expect(world.errors.length).toBeLessThan(60);
    world.store.isDown = false;
    await world.run(6000);
    expect(world.counts()).toEqual({ a: 1 });
  });
});

describe("a service", () => {
  it("that is removed ends its holders' connections and is forgotten", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a");
    await world.run(1000);
    world.leader.removeService("dev", "chat");
    await world.run(50);
    expect(a.ends).toMatchObject([{ reason: "NO_RESOURCES" }]);
    expect(world.leader.slotsOf("dev", "chat")).toBeUndefined();
    expect(await world.store.inner.read("dev", "chat")).toBeUndefined();
  });

  it("that is declared anew gives no slot to anybody while one from before may still be held", async () => {
    for (const proof of ["lease", "process"]) {
      const world = new LeaderWorld({ slots: 2 });
      const a = world.add("a", { staysAway: true });
      await world.run(1000);
      const { epoch } = world.row(0);
      a.partition();
      world.leader.removeService("dev", "chat");
      world.leader.declareService("dev", "chat", world.policy);
      const b = world.add("b");
      await world.run(leaseMs - 1500);
      expect(b.grants).toEqual([]);
      if (proof === "process") world.processesEnded("a");
      await world.run(proof === "process" ? 100 : 2000);
      expect(b.grants.length, proof).toBe(2);
      expect(b.grants[0]?.epoch).toBeGreaterThan(epoch);
    }
  });

  it("that is removed before its table was read gives, declared anew, no slot while one from before may be held", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a", { staysAway: true });
    await world.run(1000);
    a.partition();
    world.stopLeader();
    world.store.delayMs = () => 200;
    world.startLeader();
    await world.run(50);
    world.leader.removeService("dev", "chat");
    world.leader.declareService("dev", "chat", world.policy);
    const b = world.add("b");
    await world.run(leaseMs - 1500);
    expect(b.grants).toEqual([]);
    await world.run(3000);
    expect(b.grants.length).toBe(2);
  });

  it("is not deleted by a leader whose time is over: the table may be the next one's", async () => {
    for (const isRead of [true, false]) {
      const world = new LeaderWorld({ slots: 2 });
      if (isRead) await world.run(1000);
      world.store.delayMs = () => 500;
      world.leader.removeService("dev", "chat");
      world.stopLeader();
      world.store.delayMs = () => 1;
      world.startLeader();
      const b = world.add("b");
      await world.run(200);
      expect(b.grants.length).toBe(2);
      // Before the next leader has written it again for another reason.
      await world.run(400);
      expect(await world.store.inner.read("dev", "chat"), `read before: ${isRead}`).toBeDefined();
    }
  });

  it("keeps its number of slots", () => {
    const world = new LeaderWorld({ slots: 2 });
    expect(() => world.leader.declareService("dev", "chat", policyOf(3))).toThrow(
      expect.objectContaining({ reason: "INVALID_OPTION", effect: "none" }),
    );
  });

  it("waits for the longer lease after it was made shorter", async () => {
    const world = new LeaderWorld({ slots: 1 });
    world.leader.declareService("dev", "chat", policyOf(1, { leaseMs: 40_000 }));
    const a = world.add("a", { staysAway: true });
    await world.run(100);
    world.add("b");
    a.partition();
    world.leader.declareService("dev", "chat", policyOf(1));
    await world.run(40_000);
    expect(world.row(0).holder).toBe("a");
    await world.run(500);
    expect(world.row(0).holder).toBe("b");
  });

  it("is explained: holder, why, lease, moves", async () => {
    const { world, a, slot, epoch, next } = await moving();
    const explained = world.leader.explain("dev", "chat", slot);
    expect(explained).toMatchObject({
      slot,
      holder: "a",
      epoch,
      issued: next,
      isMoving: true,
      next: { instance: "b", epoch: next },
      waitsFor: [{ instance: "a", epoch }],
      isWithdrawn: false,
      moves: [
        { from: "", to: "a", epoch, reason: "first" },
        { from: "a", to: "b", epoch: next, reason: "rebalance" },
      ],
    });
    expect(explained?.leaseLeftMs).toBeGreaterThan(10_000);
    expect(world.leader.explain("dev", "chat", 2)).toBeUndefined();
    world.end(a);
    await world.run(10);
    expect(world.leader.explain("dev", "chat", slot)?.moves.at(-1)).toMatchObject({ to: "b", reason: "rebalance" });
  });

  it("remembers five moves of a slot", async () => {
    const world = new LeaderWorld({ slots: 1 });
    let last = world.add("h0");
    for (let n = 1; n < 9; n++) {
      await world.run(50);
      const next = world.add(`h${n}`);
      world.end(last);
      last = next;
    }
    await world.run(50);
    expect(world.leader.explain("dev", "chat", 0)?.moves.map(({ to }) => to)).toEqual(["h4", "h5", "h6", "h7", "h8"]);
  });
});

describe("a leader that is closed", () => {
  it("sends nothing and leaves no timer", async () => {
    const world = new LeaderWorld({ slots: 2 });
    const a = world.add("a", { staysAway: true });
    await world.run(1000);
    const { length } = a.log;
    world.leader.close();
    await world.run(20_000);
    expect(a.log.length).toBe(length);
    expect(a.ends).toEqual([]);
    a.kill();
    await world.run(3000);
    expect(world.clock.timerCount).toBe(0);
  });
});
