import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { context, LeverError } from "../index.ts";
import { simulate } from "./index.ts";
import { Room, wakesLate } from "./rooms.fixture.ts";

const chat = { chat: { resource: Room, instances: 3 } };

describe("simulate", () => {
  it("serves a room that is cut off elsewhere, when its lease is over", async () => {
    const tookMs: number[] = [];
    await simulate({ seeds: 20, services: chat }, async (sim) => {
      const room = sim.client.resource<Room>("chat", "room-7").with({ timeoutMs: 60_000 });
      await room.history();
      const old = await sim.holderOf("chat", "room-7");
      const startedAt = sim.nowMs;
      sim.cutOff(old);
      await room.history();
      tookMs.push(sim.nowMs - startedAt);
      expect(await sim.holderOf("chat", "room-7")).not.toBe(old);
      sim.heal();
      await sim.sleep(2000);
      expect(await room.where()).toBe(await sim.holderOf("chat", "room-7"));
    });
    // The lease began up to 3 s before.
    expect(Math.min(...tookMs)).toBeGreaterThan(11_000);
    expect(Math.max(...tookMs)).toBeLessThan(17_500);
  });

  it("has rooms that keep their posts while nobody breaks them", () => {
    const services = { chat: { ...chat.chat, policies: { history: { idempotent: true } } } };
    return simulate({ seeds: 10, services }, async (sim) => {
      const room = sim.client.resource<Room>("chat", "room-7");
      await room.say("hi");
      expect(await room.history()).toEqual(["hi"]);
      await using channel = await room.shoutChan();
      await channel.send("again");
      for await (const text of channel) {
        expect(text).toBe("AGAIN");
        break;
      }
      expect(sim.instances("chat")).toHaveLength(3);
      sim.kill(await sim.holderOf("chat", "room-7"));
      // Nobody pretends that it is still there.
      expect(await room.with({ timeoutMs: 30_000 }).history()).toEqual([]);
      expect(sim.instances("chat")).toHaveLength(2);
    });
  });

  it("stops an app, and has it go on", () => {
    // What was sent to it may have run.
    const services = { chat: { ...chat.chat, policies: { where: { idempotent: true } } } };
    return simulate({ seeds: 10, services }, async (sim) => {
      const room = sim.client.resource<Room>("chat", "room-7").with({ timeoutMs: 60_000 });
      const old = await room.where();
      sim.pause(old);
      expect(await room.where()).not.toBe(old);
      sim.resume(old);
      await sim.sleep(5000);
      expect(await room.where()).toBe(await sim.holderOf("chat", "room-7"));
    });
  });

  it("runs plain methods too, in the instances that there are", async () => {
    const methods = { where: () => context().instance };
    await simulate({ seeds: 5, services: { plain: { methods, instances: 2 } } }, async (sim) => {
      const seen = new Set<string>();
      for (let i = 0; i < 40; i++) seen.add(await sim.client.service<typeof methods>("plain").where());
      expect([...seen].sort()).toEqual(sim.instances("plain"));
    });
  });

  it("does the same for the same seed", async () => {
    const told: string[] = [];
    for (const firstSeed of [5, 5, 6]) {
      await simulate({ seeds: 1, firstSeed, services: chat }, async (sim) => {
        await sim.client.resource<Room>("chat", "room-7").history();
        told.push(`${await sim.holderOf("chat", "room-7")} ${sim.nowMs}`);
      });
    }
    expect(told[1]).toBe(told[0]);
    expect(told[2]).not.toBe(told[0]);
  });

  it("fails with the seed of the first failure, and what the test threw", async () => {
    const seen: number[] = [];
    const failing = simulate({ seeds: 10, firstSeed: 3, services: chat }, (sim) => {
      seen.push(sim.seed);
      if (sim.seed === 5) throw new Error("not five");
    });
    await expect(failing).rejects.toThrow(/^seed 5, after .* virtual s: not five$/);
    expect(seen).toEqual([3, 4, 5]);
  });

  it("fails a test that does not end", async () => {
    const endless = simulate({ seeds: 1, services: chat, virtualMinutesMax: 2 }, () => new Promise(() => {}));
    await expect(endless).rejects.toThrow("did not end within 2 virtual minutes");
  });

  it.each([
    ["seeds", { seeds: 0 }],
    ["firstSeed", { firstSeed: -1 }],
    ["virtualMinutesMax", { virtualMinutesMax: Number.NaN }],
  ])("refuses a %s out of range", async (option, wrong) => {
    await expect(simulate({ services: chat, ...wrong }, () => {})).rejects.toThrow(option);
  });

  it("refuses what there is not", () =>
    simulate({ seeds: 1, services: chat }, async (sim) => {
      expect(() => sim.cutOff("chat-9")).toThrow(LeverError);
      expect(() => sim.instances("other")).toThrow("it has chat");
      await expect(sim.holderOf("other", "r")).rejects.toThrow("it has chat");
    }));
});

describe("exclusiveness", () => {
  it("holds for an app that finds a call when it has been stopped for longer than its lease", () => wakesLate(20));

  it("is seen to be broken where such an app goes by no lease", async () => {
    const lease = "agent/core/ownership/lease.ts";
    const appLease = "clients/node/resources/lease.ts";
    const patches = [
      {
        file: lease,
        find: "this.#hasLapsed = elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.admitMs;",
        replace: "this.#hasLapsed = false;",
      },
      {
        file: lease,
        find: "if (elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.gateMs) this.end();",
        replace: "",
      },
      {
        file: appLease,
        find: "this.#term = { asked, admitMs, killMs, gateMs };",
        replace: "this.#term = { asked, admitMs: 1e9, killMs: 1e9, gateMs: 1e9 };",
      },
    ];
    const worker = new Worker(new URL("./patched.fixture.ts", import.meta.url), { workerData: { patches } });
    const [message] = await once(worker, "message");
    await worker.terminate();
    expect(message).toMatch(
      /^seed \d+, .*chat-\d starts a call of chat\/room-7 under epoch \d+, after chat-\d has under/,
    );
  });
});
