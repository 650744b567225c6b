import { type Channel, MethodError } from "leveros";
import { TestEnvironment } from "leveros/testing";
import { expect, test } from "vitest";
import { type Post, Room } from "./room.ts";

function start() {
  return TestEnvironment.start({ chat: { resource: Room, instances: 3 } });
}

function roomOf(env: TestEnvironment) {
  return env.client.resource<Room>("chat", "room-7");
}

async function texts(channel: Channel<Post, string>, count: number): Promise<string[]> {
  const heard: string[] = [];
  while (heard.length < count) heard.push((await channel.receive())?.text ?? "the end");
  return heard;
}

test("a room keeps its posts when its instance stops", async () => {
  await using env = await start();
  const room = roomOf(env);
  await room.say("Ada", "hi");
  const holder = await env.holderOf("chat", "room-7");
  await env.stop(holder);
  expect(await room.history()).toEqual([{ user: "Ada", text: "hi" }]);
  expect(await env.holderOf("chat", "room-7")).not.toBe(holder);
});

test("who joins gets the last posts, and then all that come, their own too", async () => {
  await using env = await start();
  const room = roomOf(env);
  for (let n = 0; n < 120; n++) await room.say("Ada", `${n}`);
  await using bob = await room.joinChan("Bob");
  expect(await texts(bob, 100)).toEqual(Array.from({ length: 100 }, (_, n) => `${n + 20}`));
  await using eve = await room.joinChan("Eve");
  await texts(eve, 100);
  await bob.send("hi all");
  expect([await bob.receive(), await eve.receive()]).toEqual(Array(2).fill({ user: "Bob", text: "hi all" }));
  expect((await room.history()).length).toBe(100);
});

test("rooms are apart", async () => {
  await using env = await start();
  await env.client.resource<Room>("chat", "kitchen").say("Ada", "hi");
  expect(await env.client.resource<Room>("chat", "garden").history()).toEqual([]);
});

test("a channel that resumes goes on at the next holder, without a gap", async () => {
  await using env = await start();
  const room = roomOf(env);
  await using channel = await room.with({ resume: true }).joinChan("Bob");
  let said = 0;
  let isOver = false;
  const talk = (async () => {
    for (; !isOver; said++) await room.say("Ada", `${said}`);
  })();
  const heard = await texts(channel, 20);
  for (let moves = 0; moves < 2; moves++) {
    await env.stop(await env.holderOf("chat", "room-7"));
    heard.push(...(await texts(channel, 20)));
  }
  isOver = true;
  await talk;
  heard.push(...(await texts(channel, said - heard.length)));
  expect(heard).toEqual(Array.from({ length: said }, (_, n) => `${n}`));
});

test("a room whose instance is killed begins anew, and does not pretend to go on", async () => {
  await using env = await start();
  const room = roomOf(env);
  await room.say("Ada", "hi");
  await using channel = await room.with({ resume: true }).joinChan("Bob");
  expect(await texts(channel, 1)).toEqual(["hi"]);
  await env.kill(await env.holderOf("chat", "room-7"));
  await expect(channel.receive()).rejects.toMatchObject({ value: { error: "GAP" } });
  expect(await room.history()).toEqual([]);
});

test("one slow reader does not stop the room", async () => {
  await using env = await start();
  const room = roomOf(env);
  await using slow = await room.joinChan("Bob");
  await using quick = await room.joinChan("Eve");
  const text = "x".repeat(500);
  let heard = 0;
  const listen = (async () => {
    for await (const _ of quick) heard++;
  })();
  for (let n = 0; n < 1000; n++) await room.say("Ada", text);
  await quick.send("bye");
  quick.closeWrite();
  await listen;
  expect(heard).toBe(1001);
  const error: unknown = await texts(slow, 1001).catch((thrown: unknown) => thrown);
  expect(MethodError.is(error) && error.value).toEqual({ error: "TOO_SLOW" });
});

test("what is handed over stays below what may be", async () => {
  await using env = await start();
  const room = roomOf(env);
  // Three bytes for each character, and a thousand of them would be 1.5 MB.
  for (let n = 0; n < 1100; n++) await room.say("Ada", `${n} ${"€".repeat(490)}`);
  await env.stop(await env.holderOf("chat", "room-7"));
  const history = await room.history();
  expect(history).toHaveLength(100);
  expect(history.at(-1)?.text).toMatch(/^1099 /);
});

test("text and names have limits", async () => {
  await using env = await start();
  const room = roomOf(env);
  const refused = (error: string, max: number) => ({ value: { error, max } });
  await expect(room.say("Ada", "x".repeat(501))).rejects.toMatchObject(refused("TOO_LONG", 500));
  await expect(room.say("A".repeat(51), "x")).rejects.toMatchObject(refused("NO_NAME", 50));
  await using channel = await room.joinChan("");
  await expect(channel.receive()).rejects.toMatchObject(refused("NO_NAME", 50));
});
