/** Resources in a test environment: who holds them, and what a stop and a kill do to them. */

import { describe, expect, it } from "vitest";
import { type Channel, context, handOver, LeverError, type ResourceMemory } from "../index.ts";
import { TestEnvironment } from "./index.ts";

interface Post {
  readonly user: string;
  readonly text: string;
}

class Room {
  readonly #posts: Post[];
  readonly #memory: ResourceMemory;

  constructor(_name: string, posts: Post[] | undefined, memory: ResourceMemory) {
    this.#posts = posts ?? [];
    this.#memory = memory;
  }

  history(): Post[] {
    return this.#posts;
  }

  say(user: string, text: string): void {
    this.#posts.push({ user, text });
  }

  where(): { instance: string; epoch: number; memory: ResourceMemory } {
    const { instance, epoch } = context();
    return { instance, epoch, memory: this.#memory };
  }

  async countChan(channel: Channel<number, number>): Promise<void> {
    let next = Number(context().cursor ?? 0);
    await channel.send(++next, { cursor: String(next) });
    for await (const step of channel) {
      next += step;
      await channel.send(next, { cursor: String(next) });
    }
  }

  [handOver](): Post[] {
    return this.#posts;
  }
}

const three = { chat: { resource: Room, instances: 3 } };

describe("resources in a TestEnvironment", () => {
  it("keep what is in them when their instance stops", async () => {
    await using env = await TestEnvironment.start(three);
    const room = env.client.resource<Room>("chat", "room-7");
    await room.say("Ada", "hi");
    const holder = await env.holderOf("chat", "room-7");
    const before = await room.where();
    await env.stop(holder);
    expect(await room.history()).toEqual([{ user: "Ada", text: "hi" }]);
    const after = await room.where();
    expect(after).toMatchObject({ memory: "state", instance: await env.holderOf("chat", "room-7") });
    expect(after.instance).not.toBe(holder);
    expect(after.epoch).toBeGreaterThan(before.epoch);
  });

  it("are where holderOf says, each in one instance, and all instances have some", async () => {
    await using env = await TestEnvironment.start(three);
    const names = Array.from({ length: 60 }, (_, n) => `room-${n}`);
    const holders = await Promise.all(
      names.map(async (name) => {
        const places = await Promise.all(
          Array.from({ length: 3 }, () => env.client.resource<Room>("chat", name).where()),
        );
        const instances = new Set(places.map(({ instance }) => instance));
        expect(instances).toEqual(new Set([await env.holderOf("chat", name)]));
        return [...instances][0];
      }),
    );
    expect([...new Set(holders)].sort()).toEqual(env.instances("chat"));
  });

  it("are lost with a killed instance, and elsewhere at once", async () => {
    await using env = await TestEnvironment.start(three);
    const room = env.client.resource<Room>("chat", "room-7");
    await room.say("Ada", "hi");
    expect((await room.where()).memory).toBe("fresh");
    const holder = await env.holderOf("chat", "room-7");
    await env.kill(holder);
    const { instance, memory } = await room.where();
    expect(instance).not.toBe(holder);
    expect(memory).toBe("lost");
    expect(await room.history()).toEqual([]);
  });

  it("move one after the other through all instances while they are called, and no call fails", async () => {
    await using env = await TestEnvironment.start(three);
    let isOver = false;
    let said = 0;
    const lanes = Array.from({ length: 20 }, async (_, lane) => {
      const room = env.client.resource<Room>("chat", `room-${lane}`);
      for (; !isOver; said++) await room.say("Ada", "hi");
    });
    await env.stop("chat-1");
    await env.stop("chat-2");
    isOver = true;
    await Promise.all(lanes);
    let kept = 0;
    for (let lane = 0; lane < 20; lane++) {
      kept += (await env.client.resource<Room>("chat", `room-${lane}`).history()).length;
    }
    expect(kept).toBe(said);
  });

  it("take their channels along if these resume, and end the others with MOVED", async () => {
    await using env = await TestEnvironment.start(three);
    const room = env.client.resource<Room>("chat", "room-7");
    await using resuming = await room.with({ resume: true }).countChan();
    await using plain = await room.countChan();
    expect([await resuming.receive(), await plain.receive()]).toEqual([1, 1]);
    await env.stop(await env.holderOf("chat", "room-7"));
    expect(await resuming.receive()).toBe(2);
    await resuming.send(5);
    expect(await resuming.receive()).toBe(7);
    await expect(plain.receive()).rejects.toMatchObject({ reason: "MOVED" });
  });

  it("run a call with a token once, through a move too", async () => {
    let runs = 0;
    class Counter {
      async add(): Promise<number> {
        return ++runs;
      }
    }
    await using env = await TestEnvironment.start({ count: { resource: Counter, instances: 2 } });
    const counter = env.client.resource<Counter>("count", "a").with({ token: "once" });
    expect([await counter.add(), await counter.add()]).toEqual([1, 1]);
    await env.stop(await env.holderOf("count", "a"));
    expect(await counter.add()).toBe(1);
    expect(runs).toBe(1);
  });

  it("stand beside plain methods", async () => {
    await using env = await TestEnvironment.start({
      chat: { methods: { rooms: () => "many" }, resource: Room, instances: 2 },
    });
    expect(await env.client.invoke("/chat/rooms")).toBe("many");
    expect(await env.client.invoke("/chat/room-7/history")).toEqual([]);
    await expect(env.client.invoke("/chat/history")).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND" });
    await expect(env.client.invoke("/chat/room-7/rooms")).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND" });
  });

  it("wait for their holder, or do not, as the manifest would say", async () => {
    await using env = await TestEnvironment.start({
      waits: { resource: Room, instances: 0 },
      fails: { resource: Room, instances: 0, ownership: { onUncertain: "Fail", slots: 1 } },
    });
    const call = (service: string) => env.client.resource<Room>(service, "a").with({ timeoutMs: 50 }).history();
    const reasons = await Promise.all(
      ["waits", "fails"].map((service) =>
        call(service).catch((error: unknown) => [LeverError.from(error).reason, LeverError.from(error).effect]),
      ),
    );
    expect(reasons).toEqual([
      ["DEADLINE_EXCEEDED", "none"],
      ["RESOURCE_UNAVAILABLE", "none"],
    ]);
  });

  it("are asked for by service and name", async () => {
    await using env = await TestEnvironment.start({ ...three, plain: { methods: { any: () => 1 } } });
    await expect(env.holderOf("nowhere", "a")).rejects.toMatchObject({ reason: "INVALID_OPTION" });
    await expect(env.holderOf("plain", "a")).rejects.toMatchObject({ reason: "NO_RESOURCES" });
    await expect(env.holderOf("chat", "")).rejects.toMatchObject({ reason: "INVALID_URL" });
    await expect(env.client.invoke("/plain/a/any")).rejects.toMatchObject({ reason: "NO_RESOURCES" });
  });

  it.each([
    [{}, /neither methods nor a resource/],
    [{ methods: { any: () => 1 }, ownership: {} }, /ownership but no resource/],
    [{ resource: Room, ownership: { slots: 0 } }, /slots of chat is 0/],
    [{ resource: Room, ownership: { slots: 5000 } }, /1 to 4096/],
    [{ resource: Room, ownership: { idleMs: 10 } }, /idleMs of chat is 10/],
    [{ resource: Room, ownership: { onUncertain: "Hope" as "Wait" } }, /Hope/],
    [{ resource: {} as typeof Room }, /expected a class/],
  ])("do not start with %j", async (service, message) => {
    await expect(TestEnvironment.start({ chat: service })).rejects.toMatchObject({
      reason: "INVALID_OPTION",
      message: expect.stringMatching(message),
    });
  });
});
