/** What a channel keeps, at its two ends. How it behaves over a wire is for the sessions' compliance suite. */

import { expect, test } from "vitest";
import { runtimeClock } from "../clock/runtime-clock.ts";
import { decodeFault } from "../error/fault.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import { messageBytesHardMax } from "../invocation/item-limits.ts";
import { eventually, openPayload, RawRig, Rig, rejection } from "../session/rig.fixture.ts";
import type { Stream } from "../session/stream.ts";
import { memoryTransportPair } from "../transport/memory-transport.ts";
import { RawChannel } from "./channel.ts";

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

test("a method's cursor stands in front of its message, on the first fragment only", async () => {
  const rig = new Rig(memoryTransportPair(clock), clock);
  const { raw, method } = await openedTo(rig);
  const large = new Uint8Array(40_000).fill(7);
  await method.send({ bytes: Uint8Array.of(1, 2), form: "bytes" }, "c1");
  await method.send({ bytes: large, form: "bytes" }, "ü");
  await method.send({ bytes: new Uint8Array(0), form: "bytes" }, "c3");
  await method.send({ bytes: Uint8Array.of(3), form: "bytes" });
  for (const [cursor, bytes] of [
    ["c1", Uint8Array.of(1, 2)],
    ["ü", large],
    ["c3", new Uint8Array(0)],
    [undefined, Uint8Array.of(3)],
  ] as const) {
    const { value } = await raw.receive();
    expect([value?.cursor, value?.form]).toEqual([cursor, "bytes"]);
    expect(Buffer.compare(value?.bytes as Uint8Array, bytes)).toBe(0);
  }
  const messages = rig.server.written.filter(({ type }) => type === FrameType.Message);
  expect(messages.map(({ flags, head }) => [flags & ~Flag.Bytes, ...head.subarray(0, 4)])).toEqual([
    [Flag.Cursor, 2, 0x63, 0x31, 1],
    [Flag.Cursor | Flag.More, 2, 0xc3, 0xbc, 7],
    [0, 7, 7, 7, 7],
    [Flag.Cursor, 2, 0x63, 0x33],
    [0, 3],
  ]);
  raw.cancel();
});

/** A channel whose method's end is the test's. */
async function openedTo(rig: Rig): Promise<{ raw: RawChannel; method: RawChannel; stream: Stream }> {
  let stream: Stream | undefined;
  rig.server.onOpen = (opened) => {
    stream = opened;
    opened.accept(new Uint8Array(2));
    method = new RawChannel(opened, rig.server.budget);
    opened.handler = method;
  };
  let method: RawChannel | undefined;
  const raw = await rig.client.open("watchChan");
  return { raw, method: method as unknown as RawChannel, stream: stream as unknown as Stream };
}

test("a channel that moves ends its direction behind what was sent, and reads up to the other end", async () => {
  const rig = new Rig(memoryTransportPair(clock), clock);
  const { raw, method, stream } = await openedTo(rig);
  const item = (byte: number) => ({ bytes: Uint8Array.of(byte), form: "bytes" }) as const;
  await raw.send(item(1));
  await method.send(item(2));
  stream.move();
  await eventually(() => raw.isMoving, "MOVE arrives");
  expect(await rejection(raw.send(item(3)))).toMatchObject({ reason: "MOVED", effect: "ran" });
  expect(raw.trySend(item(3))).toBe(false);
  expect((await method.receive()).value?.bytes).toEqual(Uint8Array.of(1));
  expect(await method.receive()).toEqual({ done: true, value: undefined });
  // The method takes its time, and has more to say.
  expect(raw.isEnded).toBe(false);
  await method.send(item(4));
  method.close();
  for (const byte of [2, 4]) expect((await raw.receive()).value?.bytes).toEqual(Uint8Array.of(byte));
  expect(await rejection(raw.receive())).toMatchObject({ reason: "MOVED", effect: "ran" });
  expect(raw.signal.aborted).toBe(true);
  expect(method.error).toBeUndefined();
  await rig.idle();
});

test("one whose caller has said all, or reads no more, ends as if there were no move", async () => {
  for (const end of ["closeWrite", "close"] as const) {
    const rig = new Rig(memoryTransportPair(clock), clock);
    const { raw, method, stream } = await openedTo(rig);
    if (end === "closeWrite") raw.closeWrite();
    else raw.stopReading();
    stream.move();
    method.close();
    await eventually(() => stream.isClosed, "both directions end");
    expect(await raw.receive()).toEqual({ done: true, value: undefined });
    expect(raw.error).toBeUndefined();
    await rig.idle();
  }
});

test.each([
  ["is longer than the message", Uint8Array.of(9, 0x63)],
  ["has no bytes", Uint8Array.of(0, 1, 2)],
  ["is not there", new Uint8Array(0)],
  ["is not UTF-8", Uint8Array.of(2, 0xc3, 0x28, 1)],
])("a cursor that %s ends the channel at its reader", async (_, payload) => {
  const raw = new RawRig(memoryTransportPair(clock), clock);
  raw.peer.sayHello();
  raw.peer.send(FrameType.Open, Flag.Channel, 1, openPayload("readChan"));
  await raw.peer.receive(FrameType.Accept);
  raw.peer.send(FrameType.Message, Flag.Cursor | Flag.Bytes, 1, payload);
  const reset = await raw.peer.receive(FrameType.Reset);
  expect(decodeFault(reset.payload)).toMatchObject({ reason: "PROTOCOL_VIOLATION", effect: "ran" });
  await eventually(() => raw.facts.seen.length === 1, "the method learns of it");
  raw.destroy();
});
