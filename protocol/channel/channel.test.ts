/** What a channel keeps, at its two ends. How it behaves over a wire is for the sessions' compliance suite. */

import { expect, test } from "vitest";
import { runtimeClock } from "../clock/runtime-clock.ts";
import { decodeFault } from "../error/fault.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import { messageBytesHardMax } from "../invocation/item-limits.ts";
import { eventually, openPayload, RawRig, Rig, rejection } from "../session/rig.fixture.ts";
import { memoryTransportPair } from "../transport/memory-transport.ts";

const clock = runtimeClock(globalThis);
const KiB = 1024;
const MiB = 1024 * 1024;

test("a message above the hard limit is refused at its sender, and the channel goes on", async () => {
  const rig = new Rig(memoryTransportPair(clock), clock);
  const channel = await rig.client.channel("echoChan");
  const tooLarge = new Uint8Array(messageBytesHardMax + 1);
  expect(await rejection(channel.send(tooLarge))).toMatchObject({
    reason: "MESSAGE_TOO_LARGE",
    details: { limit: "messageBytes", bytes: messageBytesHardMax + 1, bytesMax: messageBytesHardMax },
  });
  expect(() => channel.trySend(tooLarge)).toThrow(/MESSAGE_TOO_LARGE/);
  await channel.send("small");
  expect(await channel.receive()).toBe("small");
  channel.close();
  await rig.close();
});

test("a message above the hard limit ends the channel at its receiver, and nothing of it is kept", async () => {
  const raw = new RawRig(memoryTransportPair(clock), clock, {
    limits: { streamWindowBytes: 16 * MiB, sessionWindowBytes: 64 * MiB },
    budgetBytes: 2 * messageBytesHardMax,
  });
  raw.peer.sayHello();
  raw.peer.send(FrameType.Open, Flag.Channel, 1, openPayload("readChan"));
  await raw.peer.receive(FrameType.Accept);
  const fragment = new Uint8Array(32 * KiB);
  for (let index = 0; raw.peer.of(FrameType.Reset).length === 0; index++) {
    expect(index).toBeLessThan(3000);
    raw.peer.send(FrameType.Message, Flag.More | Flag.Bytes, 1, fragment);
    if (index % 100 === 0) await raw.settled();
  }
  expect(decodeFault(raw.peer.of(FrameType.Reset)[0]?.payload ?? fragment)).toMatchObject({
    reason: "MESSAGE_TOO_LARGE",
    effect: "ran",
  });
  await eventually(() => raw.end.server.running === 0, "the method learns of it");
  expect(raw.facts.seen).toMatchObject([{ reason: "MESSAGE_TOO_LARGE" }]);
  expect(raw.end.budget.bytes).toBe(0);
  raw.destroy();
});

test("sends that are not awaited are bounded: one too many cancels the channel", async () => {
  const rig = new Rig(memoryTransportPair(clock), clock);
  const channel = await rig.client.channel("stalledChan");
  const message = new Uint8Array(MiB);
  const sends = Array.from({ length: 70 }, () => rejection(channel.send(message)));
  const reasons = (await Promise.all(sends)).map((error) => (error as { reason: string }).reason);
  expect(reasons.filter((reason) => reason === "OVERLOADED").length).toBeGreaterThan(0);
  expect(channel.isEnded).toBe(true);
  rig.facts.gate.open();
  await rig.close();
});

test("while a message lies unread, a large one behind it waits within the stream's window", async () => {
  const rig = new Rig(memoryTransportPair(clock), clock);
  const channel = await rig.client.channel("stalledChan");
  await channel.send("unread");
  const large = channel.send(new Uint8Array(8 * MiB));
  // Each is a round trip: what could move has moved.
  for (let round = 0; round < 10; round++) await rig.settled();
  expect(rig.server.budget.bytes).toBeLessThanOrEqual(128 * KiB);
  rig.facts.gate.open();
  await large;
  channel.closeWrite();
  expect(await channel.receive()).toBe(2);
  await rig.close();
});

test("trySend sends what fits, says no when it does not, and never queues a message whole", async () => {
  const rig = new Rig(memoryTransportPair(clock), clock);
  const channel = await rig.client.channel("stalledChan");
  let sent = 0;
  while (channel.trySend(new Uint8Array(1000))) sent++;
  expect(sent).toBe(Math.floor((128 * KiB) / 1064));
  rig.facts.gate.open();
  await eventually(() => channel.trySend("again"), "there is credit again");
  channel.closeWrite();
  expect(await channel.receive()).toBe(sent + 1);
  expect(channel.trySend("late")).toBe(false);
  await rig.close();
});

test("reads in advance get the messages in order, and the end", async () => {
  const rig = new Rig(memoryTransportPair(clock), clock);
  const channel = await rig.client.channel("sourceChan", [3, 1]);
  const reads = await Promise.all(Array.from({ length: 5 }, () => channel.receive()));
  expect(reads).toEqual([Uint8Array.of(0), Uint8Array.of(1), Uint8Array.of(2), undefined, undefined]);
  channel.close();
  await rig.close();
});

test("a channel disposed of with `await using` closes", async () => {
  const rig = new Rig(memoryTransportPair(clock), clock);
  {
    await using channel = await rig.client.channel("readChan");
    await channel.send(1);
  }
  await eventually(() => rig.facts.seen.length === 2, "the method reads to the end");
  expect(rig.facts.seen).toEqual([1, "end"]);
  await rig.close();
});
