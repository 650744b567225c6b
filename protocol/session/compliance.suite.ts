/**
 * What every session, call and channel does, whatever the transport below. Run by one thin file per transport.
 */

import { describe, expect, test } from "vitest";
import type { Channel } from "../channel/channel.ts";
import type { Clock } from "../clock/clock.ts";
import { decodeFault, encodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import { MethodError } from "../error/method-error.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import type { Transport } from "../transport/transport.ts";
import { encodeValue } from "../value/encode.ts";
import {
  controlBacklogBytesMax,
  queuedAnswerBytesMax,
  sessionWindowBytesMin,
  streamsMaxMin,
  streamWindowBytesMin,
} from "./limits.ts";
import { eventually, frameBytes, openPayload, RawRig, Rig, type RigOptions, rejection } from "./rig.fixture.ts";
import { encodeFields } from "./routing-header.ts";
import type { Stream } from "./stream.ts";

const KiB = 1024;
const MiB = 1024 * 1024;
const cancelledFault = encodeFault(new LeverError("CANCELLED", "enough"));
const empty = new Uint8Array(0);

/** `pair` makes two joined transports, the dialer's first. */
export function sessionCompliance(name: string, clock: Clock, pair: () => Promise<[Transport, Transport]>): void {
  const rigOf = async (options: RigOptions = {}) => new Rig(await pair(), clock, options);
  const rawOf = async (options: ConstructorParameters<typeof RawRig>[2] = {}) =>
    new RawRig(await pair(), clock, options);

  describe(`calls over ${name}`, () => {
    test("values, bytes, nothing, in both directions of the session", async () => {
      const rig = await rigOf();
      for (const end of [rig.client, rig.server]) {
        expect(await end.call("echo", [{ a: [1, null, "é"] }])).toEqual({ a: [1, null, "é"] });
        expect(await end.call("echo", [])).toBe(null);
        expect(await end.call("nothing")).toBe(null);
        expect(await end.call("sum", [1, 2, 3])).toBe(6);
        expect(await end.call("lengthOf", [new Uint8Array(10)])).toBe(10);
        expect(await end.call("bytesOf", [3])).toEqual(Uint8Array.of(0, 7, 14));
        expect(await end.call("bytesOf", [0])).toEqual(empty);
      }
      await rig.close();
    });

    test("what a method throws: its value, its bytes, or METHOD_THREW, each with effect ran", async () => {
      const rig = await rigOf();
      const value = await rejection(rig.client.call("threw", [{ error: "TOO_LONG" }]));
      expect(MethodError.is(value) && value.value).toEqual({ error: "TOO_LONG" });
      const bytes = await rejection(rig.client.call("threwBytes"));
      expect(MethodError.is(bytes) && bytes.value).toEqual(Uint8Array.of(1, 2, 3));
      const bug = await rejection(rig.client.call("broke"));
      expect(bug).toMatchObject({ reason: "METHOD_THREW", effect: "ran", kind: "method" });
      const date = await rejection(rig.client.call("unencodable"));
      expect(date).toMatchObject({ reason: "RESULT_NOT_ENCODABLE", effect: "ran", details: { path: "result.at" } });
      for (const method of ["threw", "threwBytes", "broke", "unencodable"]) {
        expect(rig.server.host.count(method)).toBe(1);
      }
      await rig.close();
    });

    test("what is refused has not run: an unknown method, arguments that do not fit, the wrong kind", async () => {
      const rig = await rigOf();
      expect(await rejection(rig.client.call("none"))).toMatchObject({ reason: "METHOD_NOT_FOUND", effect: "none" });
      expect(await rejection(rig.client.open("noneChan"))).toMatchObject({
        reason: "METHOD_NOT_FOUND",
        effect: "none",
      });
      expect(await rejection(rig.client.call("echoChan"))).toMatchObject({
        reason: "METHOD_KIND_MISMATCH",
        effect: "none",
      });
      expect(await rejection(rig.client.open("echo"))).toMatchObject({
        reason: "METHOD_KIND_MISMATCH",
        effect: "none",
      });
      expect(await rejection(rig.client.call("lengthOf", [new Uint8Array(16 * MiB + 1)]))).toMatchObject({
        reason: "ARGS_TOO_LARGE",
        effect: "none",
      });
      expect(rig.server.host.entered).toEqual({});
      await rig.close();
    });

    test("a host that cannot describe what a method threw still answers", async () => {
      const rig = await rigOf();
      rig.server.host.logFails = true;
      expect(await rejection(rig.client.call("broke"))).toMatchObject({ reason: "METHOD_THREW", effect: "ran" });
      const channel = await rig.client.channel("endingChan", ["bug"]);
      const read = async () => {
        for await (const _message of channel) {
          // Fifty of them.
        }
      };
      expect(await rejection(read())).toMatchObject({ reason: "METHOD_THREW", effect: "ran" });
      await rig.close();
    });

    test("what a caller may conclude from an answer that is wrong, from RESET and from a refusal", async () => {
      const raw = await rawOf({ side: "dialer" });
      raw.peer.sayHello({ role: "agent" });
      const calls = Array.from({ length: 5 }, () => rejection(raw.end.call("any")));
      await raw.peer.receive(FrameType.Open, 4);
      const fault = (effect: "none" | "ran") => encodeFault(new LeverError("DRAINING", "no", { effect }));
      raw.peer.send(FrameType.Reply, 0, 1, Uint8Array.of(0, 0, 0xc1));
      raw.peer.send(FrameType.Reply, Flag.Error, 3, Uint8Array.of(0, 0, 0xc1));
      raw.peer.send(FrameType.Reset, 0, 5, fault("none"));
      raw.peer.send(FrameType.Reset, 0, 7, fault("ran"));
      raw.peer.send(FrameType.Refuse, 0, 9, fault("ran"));
      expect(await Promise.all(calls)).toMatchObject([
        { reason: "INVALID_VALUE_ENCODING", effect: "ran" },
        { reason: "INVALID_VALUE_ENCODING", effect: "ran" },
        { reason: "DRAINING", effect: "unknown" },
        { reason: "DRAINING", effect: "ran" },
        { reason: "DRAINING", effect: "none" },
      ]);
      raw.destroy();
    });

    test("a caller's cancel reaches the method's signal; effect is unknown after the OPEN has left, none before", async () => {
      const rig = await rigOf();
      const controller = new AbortController();
      const call = rejection(rig.client.call("hang", [], { signal: controller.signal }));
      await eventually(() => rig.server.host.count("hang") === 1, "the method runs");
      controller.abort();
      expect(await call).toMatchObject({ reason: "CANCELLED", effect: "unknown" });
      await eventually(() => rig.facts.seen.length === 1, "the method's signal is aborted");
      expect(rig.facts.seen[0]).toMatchObject({ reason: "CANCELLED" });

      expect(await rejection(rig.client.call("hang", [], { signal: controller.signal }))).toMatchObject({
        reason: "CANCELLED",
        effect: "none",
      });
      await rig.settled();
      expect(rig.server.host.count("hang")).toBe(1);
      await rig.close();
    });

    test("a deadline travels, ends the call, and reaches the method's signal", async () => {
      const rig = await rigOf();
      expect(await rig.client.call("deadlineOf")).toBe(null);
      const now = clock.now();
      const deadlineAt = (await rig.client.call("deadlineOf", [], { timeoutMs: 60_000 })) as number;
      expect(deadlineAt).toBeGreaterThan(now);
      // One method goes on, and its caller waits for it a little longer than it said; the other heeds its signal.
      const error = rejection(rig.client.call("gated", [], { timeoutMs: 30 }));
      expect(await rig.client.call("hang", [], { timeoutMs: 30 })).toBe(null);
      expect(await error).toMatchObject({ reason: "DEADLINE_EXCEEDED", effect: "unknown" });
      expect(rig.server.host.entered).toMatchObject({ gated: 1, hang: 1 });
      rig.facts.gate.open();
      await eventually(() => rig.facts.seen.length === 1, "the method's signal is aborted");
      expect(rig.facts.seen[0]).toMatchObject({ reason: "DEADLINE_EXCEEDED" });
      await rig.close();
    });

    test("a timeout below a millisecond is not none", async () => {
      const rig = await rigOf();
      expect(await rig.client.call("deadlineOf", [], { timeoutMs: 0.2 })).not.toBe(null);
      const open = rig.client.written.find((frame) => frame.type === FrameType.Open);
      expect(Buffer.from(open?.head ?? []).readUInt32BE(2)).toBe(1);
      await rig.close();
    });

    test("large arguments and results go in fragments", async () => {
      const rig = await rigOf();
      const text = "é".repeat(MiB / 2);
      expect(await rig.client.call("echo", [text])).toBe(text);
      expect(await rig.client.call("lengthOf", [new Uint8Array(3 * MiB)])).toBe(3 * MiB);
      expect(((await rig.client.call("bytesOf", [MiB])) as Uint8Array)[MiB - 1]).toBe(((MiB - 1) * 7) & 255);
      for (const frame of [...rig.client.written, ...rig.server.written])
        expect(frame.bytes).toBeLessThanOrEqual(16 * KiB + 512);
      await rig.close();
    });

    test("metadata up to 16 KiB travels, more is refused before anything is sent", async () => {
      const rig = await rigOf();
      const metadata = { a: "x".repeat(15 * KiB), "b/c": "é" };
      const fields = { resource: "room/7", token: "t", traceparent: "00-1", tracestate: "a=b", metadata };
      expect(await rig.client.call("fieldsOf", ["x".repeat(100_000)], { fields })).toMatchObject(fields);
      const before = rig.client.written.length;
      const tooMuch = { fields: { metadata: { a: "x".repeat(16 * KiB) } } };
      expect(await rejection(rig.client.call("echo", [], tooMuch))).toMatchObject({
        reason: "HEADER_TOO_LARGE",
        effect: "none",
      });
      expect(rig.client.written.length).toBe(before);
      await rig.close();
    });

    test("targets beyond the peer's number go inline, and each number is given once", async () => {
      const rig = await rigOf({ server: { targetsMax: 2 } });
      await rig.settled();
      for (let round = 0; round < 2; round++) {
        expect(await rig.client.call("sum", [1, round])).toBe(1 + round);
        expect(await rig.client.call("echo", [round])).toBe(round);
        expect(await rig.client.call("nothing")).toBe(null);
        expect(await rig.client.call("fieldsOf", [], { fields: { resource: "r" } })).toMatchObject({ resource: "r" });
      }
      const targets = rig.client.written.filter((frame) => frame.type === FrameType.Target);
      expect(targets.map((frame) => Buffer.from(frame.head).readUInt16BE(0))).toEqual([1, 2]);
      await rig.close();
    });

    test("many at once, of all kinds, leave nothing behind", async () => {
      const rig = await rigOf({
        client: { sessionWindowBytes: sessionWindowBytesMin },
        server: { sessionWindowBytes: sessionWindowBytesMin },
      });
      await rig.settled();
      const done = await Promise.all(
        Array.from({ length: 300 }, async (_, index) => {
          if (index % 5 === 0) return rig.client.call("echo", ["x".repeat(index * 100)]);
          if (index % 5 === 1) return rig.server.call("textOf", [index * 100]);
          if (index % 5 === 2) return rejection(rig.client.call("threw", [index]));
          if (index % 5 === 3) return rejection(rig.client.call("none"));
          return rejection(rig.client.call("gated", ["x".repeat(index)], { timeoutMs: 20 }));
        }),
      );
      rig.facts.gate.open();
      expect((done[295] as string).length).toBe(29_500);
      expect((done[296] as string).length).toBe(29_600);
      expect(done[297]).toMatchObject({ value: 297 });
      expect(done[298]).toMatchObject({ reason: "METHOD_NOT_FOUND" });
      expect(done[299]).toMatchObject({ reason: "DEADLINE_EXCEEDED" });
      await rig.close();
    });
  });

  describe(`channels over ${name}`, () => {
    const collect = async (channel: Channel) => {
      const messages: unknown[] = [];
      try {
        for await (const message of channel) messages.push(message);
      } catch (error) {
        return { messages, error };
      }
      return { messages, error: undefined };
    };
    const fifty = Array.from({ length: 50 }, (_, index) => index);

    test("messages in order, values and bytes, half-closed by the opener first", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("echoChan");
      const sent = [1, "two", null, { three: [3] }, empty, Uint8Array.of(4), new Uint8Array(100_000).fill(5)];
      for (const message of sent) await channel.send(message);
      channel.closeWrite();
      expect(await collect(channel)).toEqual({ messages: sent, error: undefined });
      expect(channel.isEnded).toBe(true);
      await rig.close();
    });

    test("half-closed by the method first: the other direction goes on", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("firstChan");
      expect(await collect(channel)).toEqual({ messages: ["only"], error: undefined });
      expect(channel.isEnded).toBe(false);
      for (let index = 0; index < 3; index++) await channel.send(index);
      channel.closeWrite();
      expect(channel.isEnded).toBe(true);
      await eventually(() => rig.facts.seen.length === 4, "the method reads to the end");
      expect(rig.facts.seen).toEqual([0, 1, 2, "end"]);
      await rig.close();
    });

    test("a closed channel drops what still comes in", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("sourceChan", [100, 10_000]);
      await channel.receive();
      channel.close();
      expect(await channel.receive()).toBe(undefined);
      await expect(channel.send(1)).rejects.toMatchObject({ reason: "CANCELLED" });
      expect(channel.trySend(1)).toBe(false);
      await rig.close();
    });

    test.each([
      ["value", { value: { error: "TOO_SLOW" } }],
      ["bytes", { value: Uint8Array.of(9, 9) }],
      ["large", { value: "x".repeat(500_000) }],
      ["fail", { value: [1] }],
      ["bug", { reason: "METHOD_THREW", effect: "ran" }],
    ])("a method that ends with an error (%s): it arrives behind the messages", async (how, expected) => {
      const rig = await rigOf();
      const channel = await rig.client.channel("endingChan", [how]);
      const { messages, error } = await collect(channel);
      expect(messages).toEqual(fifty);
      expect(error).toMatchObject(expected);
      expect(channel.isEnded).toBe(true);
      await expect(channel.send(1)).rejects.toBe(error);
      expect(channel.signal.reason).toBe(error);
      expect(rig.server.host.count("endingChan")).toBe(1);
      await rig.close();
    });

    test.each([
      ["value", { error: "MINE" }],
      ["bytes", Uint8Array.of(1)],
    ])("an opener that fails its channel (%s): the method reads the messages, then the error", async (_form, value) => {
      const rig = await rigOf();
      const channel = await rig.client.channel("readChan");
      for (const message of fifty) await channel.send(message);
      const read = rejection(channel.receive());
      channel.fail(value);
      // The own reader did not see the peer's clean end.
      expect(await read).toMatchObject({ reason: "CANCELLED", effect: "ran" });
      expect(await rejection(channel.receive())).toMatchObject({ reason: "CANCELLED" });
      await eventually(() => rig.facts.seen.length === 51, "the method reads all");
      expect(rig.facts.seen.slice(0, 50)).toEqual(fifty);
      expect(rig.facts.seen[50]).toMatchObject({ value });
      await rig.close();
    });

    test("a cancel by the opener resets: the method's channel says so, pending reads and sends reject", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("watchChan");
      const reads = [rejection(channel.receive()), rejection(channel.receive())];
      const sends: Promise<unknown>[] = [];
      while (channel.trySend(new Uint8Array(16 * KiB))) {
        // Until the window is full.
      }
      sends.push(rejection(channel.send(new Uint8Array(16 * KiB))), rejection(channel.send(new Uint8Array(MiB))));
      channel.cancel();
      for (const error of await Promise.all([...reads, ...sends]))
        expect(error).toMatchObject({ reason: "CANCELLED", effect: "ran" });
      await eventually(() => rig.facts.seen.length === 1, "the method's channel is aborted");
      expect(rig.facts.seen[0]).toMatchObject({ reason: "CANCELLED", effect: "ran" });
      await rig.close();
    });

    test("a cancel by the method resets: the opener reads an error, not an end", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("endingChan", ["cancel"]);
      const { error } = await collect(channel);
      expect(error).toMatchObject({ reason: "CANCELLED", effect: "ran" });
      await rig.close();
    });

    test("leaving the loop early cancels; an abort signal does too", async () => {
      const rig = await rigOf();
      for await (const message of await rig.client.channel("sourceChan", [1000, 1000])) {
        expect(message).toEqual(new Uint8Array(1000));
        break;
      }
      const controller = new AbortController();
      const channel = await rig.client.channel("watchChan", [], { signal: controller.signal });
      const read = rejection(channel.receive());
      controller.abort();
      expect(await read).toMatchObject({ reason: "CANCELLED", effect: "ran" });
      await eventually(() => rig.facts.seen.length === 1, "the method's channel is aborted");
      await rig.close();
    });

    test("sends that wait settle when the channel ends behind them", async () => {
      const rig = await rigOf();
      for (const how of ["fail", "close", "closeWrite", "cancel"] as const) {
        rig.facts.gate.open();
        const channel = await rig.client.channel("readChan");
        while (channel.trySend(new Uint8Array(16 * KiB))) {
          // Until the window is full.
        }
        const last = channel.send("x".repeat(16 * KiB)).then(
          () => "left",
          () => "lost",
        );
        if (how === "fail") channel.fail(1);
        else channel[how]();
        expect(await last).toBe(how === "cancel" ? "lost" : "left");
      }
      await rig.close();
    });

    test("a failed channel whose peer does not read can still be cancelled", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("watchChan");
      while (channel.trySend(new Uint8Array(16 * KiB))) {
        // Until the window is full.
      }
      const waiting = rejection(channel.send(new Uint8Array(MiB)));
      channel.fail("too slow");
      await rig.settled();
      expect(rig.facts.seen).toEqual([]);
      channel.cancel();
      expect(await waiting).toMatchObject({ reason: "CANCELLED" });
      await eventually(() => rig.facts.seen.length === 1, "the method learns of it");
      await rig.close();
    });

    test("the deadline is the opening's; an open channel lives on", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("echoChan", [], { timeoutMs: 40 });
      // Another call with that deadline passes it for certain, the wheel's grace included.
      expect(await rejection(rig.client.call("gated", [], { timeoutMs: 60 }))).toMatchObject({
        reason: "DEADLINE_EXCEEDED",
      });
      rig.facts.gate.open();
      await channel.send("alive");
      expect(await channel.receive()).toBe("alive");
      channel.close();
      await rig.close();
    });

    test("a buffer that is filled anew after send does not change what was sent", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("echoChan");
      const buffer = new Uint8Array(20_000);
      const collecting = collect(channel);
      for (let index = 0; index < 20; index++) {
        buffer.fill(index);
        await channel.send(buffer);
      }
      buffer.fill(255);
      channel.closeWrite();
      const { messages } = await collecting;
      expect(messages.map((message) => [...new Set(message as Uint8Array)])).toEqual(
        fifty.slice(0, 20).map((index) => [index]),
      );
      await rig.close();
    });
  });

  describe(`flow control over ${name}`, () => {
    test("a reader that stalls stops its writer, and nobody else", async () => {
      const rig = await rigOf();
      const stalled = await rig.client.open("stalledChan");
      const live = await rig.client.channel("echoChan");
      const chunk = { bytes: new Uint8Array(4 * KiB), form: "bytes" } as const;
      let sent = 0;
      const total = 200;
      const writing = (async () => {
        for (; sent < total; sent++) await stalled.send(chunk);
        stalled.closeWrite();
      })();
      // Each round is a round trip: what could move has moved.
      for (let round = 0; round < 5; round++) {
        await rig.settled();
        await live.send(round);
        expect(await live.receive()).toBe(round);
      }
      const written = rig.client.written.filter(
        (frame) => frame.type === FrameType.Message && frame.bytes > KiB,
      ).length;
      expect(written * 4 * KiB).toBeLessThanOrEqual(streamWindowBytesMin);
      expect(written * 4 * KiB).toBeGreaterThan(streamWindowBytesMin / 2);
      expect(sent).toBeLessThan(total);
      rig.facts.gate.open();
      await writing;
      expect((await stalled.receive()).value).toMatchObject({ form: "value" });
      stalled.close();
      live.close();
      await rig.close();
    });

    test("channels that stall block neither calls nor other channels", async () => {
      const rig = await rigOf({ server: { sessionWindowBytes: sessionWindowBytesMin } });
      await rig.settled();
      const channels = await Promise.all(Array.from({ length: 20 }, () => rig.client.channel("stalledChan")));
      const writers = channels.map(async (channel) => {
        for (let index = 0; index < 20; index++) await channel.send(new Uint8Array(10 * KiB));
        channel.closeWrite();
        return channel.receive();
      });
      for (let round = 0; round < 5; round++)
        expect(await rig.client.call("lengthOf", [new Uint8Array(400 * KiB)])).toBe(400 * KiB);
      const live = await rig.client.channel("sinkChan");
      for (let round = 0; round < 3; round++) await live.send(new Uint8Array(MiB));
      live.closeWrite();
      expect(await live.receive()).toEqual({ messages: 3, bytes: 3 * MiB });
      rig.facts.gate.open();
      expect(await Promise.all(writers)).toEqual(channels.map(() => 20));
      await rig.close();
    });

    test("channels leave half of the session's credit to calls", async () => {
      const raw = await rawOf({ side: "dialer" });
      // Streams have more than enough, the session the least, and nothing is granted.
      raw.peer.sayHello({ role: "agent", sessionWindowBytes: sessionWindowBytesMin });
      await eventually(() => raw.end.session.hello !== undefined, "HELLO arrives");
      const opening = Array.from({ length: 4 }, () => raw.end.channel("anyChan"));
      await raw.peer.receive(FrameType.Open, 3);
      for (const frame of raw.peer.of(FrameType.Open))
        raw.peer.send(FrameType.Accept, 0, frame.stream, new Uint8Array(2));
      const channels = await Promise.all(opening);
      const sends = channels.map((channel) => channel.send(new Uint8Array(MiB)));
      const ends = channels.map((channel) => channel.closeWrite());
      const half = sessionWindowBytesMin / 2;
      // A transport takes it in several turns; a further round shows that it stays at that.
      await eventually(() => raw.end.costWritten > half - 17 * KiB, "channels use half of the credit");
      await raw.settled();
      expect(raw.end.costWritten).toBeLessThanOrEqual(half);
      const call = raw.end.call("any", [new Uint8Array(2 * MiB)]);
      await eventually(() => raw.end.costWritten > sessionWindowBytesMin - 17 * KiB, "a call uses the rest");
      await raw.settled();
      expect(raw.end.costWritten).toBeLessThanOrEqual(sessionWindowBytesMin);
      // With credit all goes on, the call and the channels in turns.
      raw.peer.send(FrameType.Window, 0, 0, Uint8Array.of(0, 0x80, 0, 0));
      await Promise.all(sends);
      expect(ends.length).toBe(4);
      await raw.peer.receive(FrameType.End, 3);
      await eventually(
        () =>
          raw.peer.of(FrameType.Open).some((frame) => (frame.flags & Flag.Channel) === 0 && frame.flags === Flag.Bytes),
        "the call's arguments arrive",
      );
      raw.peer.send(FrameType.Reply, 0, 9, Uint8Array.of(0, 0, 0xc3));
      expect(await call).toBe(true);
      raw.destroy();
    });

    test("a channel moves many times the session's window, with others stalled beside it", async () => {
      const rig = await rigOf({ server: { sessionWindowBytes: sessionWindowBytesMin } });
      await rig.settled();
      const stalled = await rig.client.channel("stalledChan");
      const writing = (async () => {
        for (let index = 0; index < 40; index++) await stalled.send(new Uint8Array(10 * KiB));
        stalled.closeWrite();
        return stalled.receive();
      })();
      const channel = await rig.client.channel("sinkChan");
      for (let index = 0; index < 5; index++) await channel.send(new Uint8Array(MiB));
      channel.closeWrite();
      expect(await channel.receive()).toEqual({ messages: 5, bytes: 5 * MiB });
      rig.facts.gate.open();
      expect(await writing).toBe(40);
      await rig.close();
    });

    test("a channel out of credit does not hold up another that has some", async () => {
      const rig = await rigOf();
      const [stalled, other] = await Promise.all([rig.client.channel("stalledChan"), rig.client.channel("echoChan")]);
      while (stalled.trySend(new Uint8Array(16 * KiB))) {
        // Until the window is full.
      }
      const last = stalled.send("x".repeat(16 * KiB));
      await other.send(1);
      expect(await other.receive()).toBe(1);
      rig.facts.gate.open();
      await last;
      stalled.close();
      other.close();
      await rig.close();
    });

    test("small calls take turns with a message of 10 MiB", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("sinkChan");
      await rig.settled();
      const sending = channel.send(new Uint8Array(10 * MiB));
      const { written } = rig.client;
      const between: number[] = [];
      let isSending = true;
      const calling = (async () => {
        for (let index = 0; index < 10; index++) {
          const from = written.length;
          await rig.client.call("echo", [index]);
          const at = written.findIndex((frame, place) => place >= from && frame.type === FrameType.Open);
          if (isSending)
            between.push(written.slice(from, at).filter((frame) => frame.type === FrameType.Message).length);
        }
      })();
      await sending;
      isSending = false;
      await calling;
      channel.closeWrite();
      expect(await channel.receive()).toEqual({ messages: 1, bytes: 10 * MiB });
      expect(written.filter((frame) => frame.type === FrameType.Message).length).toBeGreaterThan(300);
      // A call waits for what was laid out for the transport before it (256 KiB), never for the message.
      expect(Math.max(...between)).toBeLessThanOrEqual(20);
      await rig.close();
    });

    test("the credit of streams that are reset unread comes back", async () => {
      const rig = await rigOf({ server: { sessionWindowBytes: sessionWindowBytesMin } });
      await rig.settled();
      for (let round = 0; round < 20; round++) {
        const channel = await rig.client.channel("watchChan");
        while (channel.trySend(new Uint8Array(16 * KiB))) {
          // Until the window is full.
        }
        channel.cancel();
      }
      await rig.close();
    });

    test("streams that wait for a larger window go on when HELLO announces it", async () => {
      const raw = await rawOf({ side: "dialer" });
      const call = raw.end.call("echo", ["x".repeat(MiB)]);
      await eventually(() => raw.peer.of(FrameType.Open).length > 5, "the least window is used");
      raw.peer.sayHello({ role: "agent" });
      await eventually(
        () => raw.peer.frames.some((frame) => frame.type === FrameType.Open && frame.flags === 0),
        "all arguments arrive",
      );
      raw.peer.send(FrameType.Reply, 0, 1, Uint8Array.of(0, 0, 0xc3));
      expect(await call).toBe(true);
      raw.destroy();
    });
  });

  describe(`ends of a session over ${name}`, () => {
    test("GOAWAY: running calls finish, new ones fail with none, the session ends after the last", async () => {
      const rig = await rigOf();
      await rig.settled();
      const running = rig.client.call("gated", ["done"]);
      await eventually(() => rig.server.host.count("gated") === 1, "the method runs");
      rig.server.session.goAway(new LeverError("DRAINING", "about to stop"));
      // On its way while the GOAWAY is: dropped unread, and said so.
      const crossed = rejection(rig.client.call("echo", [1]));
      expect(await crossed).toMatchObject({ effect: "none" });
      await eventually(() => rig.client.goAway !== undefined, "GOAWAY arrives");
      expect(rig.client.goAway).toMatchObject({ reason: "DRAINING", message: "DRAINING: about to stop" });
      expect(rig.client.session.isAvailable).toBe(false);
      expect(await rejection(rig.client.call("echo", [1]))).toMatchObject({
        reason: "CONNECTION_LOST",
        effect: "none",
      });
      expect(rig.server.host.count("echo")).toBe(1);
      // The end that goes away may still call.
      expect(await rig.server.call("echo", ["still"])).toBe("still");
      rig.facts.gate.open();
      expect(await running).toBe("done");
      await eventually(
        () => rig.client.closedWith !== undefined && rig.server.closedWith !== undefined,
        "both ends close",
      );
    });

    test("a round trip is over when all that was sent before has been handled", async () => {
      const rig = await rigOf();
      const channel = await rig.client.channel("readChan");
      for (let index = 0; index < 5; index++) await channel.send(index);
      await rig.client.session.roundTrip();
      expect(rig.facts.seen).toEqual([0, 1, 2, 3, 4]);
      const lost = rejection(rig.client.session.roundTrip());
      rig.client.session.destroy(new LeverError("CANCELLED", "over"));
      expect(await lost).toMatchObject({ reason: "CANCELLED" });
      expect(await rejection(rig.client.session.roundTrip())).toMatchObject({ reason: "CANCELLED" });
    });

    test("GOAWAY with nothing open ends at once", async () => {
      const rig = await rigOf();
      await rig.settled();
      rig.server.session.goAway(new LeverError("DRAINING", "about to stop"));
      await eventually(() => rig.client.closedWith !== undefined, "the session ends");
      expect(rig.client.closedWith).toMatchObject({ reason: "CONNECTION_LOST" });
      expect(rig.client.closedWith?.message).toContain("about to stop");
    });

    test.each(["DRAINING", "VERSION_UNSUPPORTED", "OVERLOADED", "CONNECTION_LOST"] as const)(
      "a session that is closed with %s loses its calls: unknown, for they may have run",
      async (reason) => {
        const rig = await rigOf();
        await rig.settled();
        const call = rejection(rig.client.call("hang"));
        const own = rejection(rig.server.call("hang"));
        const channel = await rig.client.channel("watchChan");
        await eventually(
          () => rig.server.host.count("hang") === 1 && rig.client.host.count("hang") === 1,
          "both methods run",
        );
        rig.server.session.close(new LeverError(reason, "now"));
        expect(await call).toMatchObject({ reason: "CONNECTION_LOST", effect: "unknown" });
        expect(await own).toMatchObject({ reason, effect: "unknown" });
        expect(await rejection(channel.receive())).toMatchObject({ reason: "CONNECTION_LOST", effect: "ran" });
        // Both methods' signals, and the channel's in its method.
        await eventually(() => rig.facts.seen.length === 3, "the methods learn of it");
        expect(rig.client.session.streamCount + rig.server.session.streamCount).toBe(0);
        await eventually(() => rig.server.server.running === 0 && rig.client.server.running === 0, "the methods end");
      },
    );

    test("a transport that is cut: calls that left are unknown, calls that did not are none", async () => {
      const rig = await rigOf({ server: { sessionWindowBytes: sessionWindowBytesMin, streamsMax: 1000 } });
      await rig.settled();
      const left = rejection(rig.client.call("hang"));
      await eventually(() => rig.server.host.count("hang") === 1, "the method runs");
      // More than all windows together: the last of them cannot leave.
      const calls = Array.from({ length: 100 }, (_, index) =>
        rejection(rig.client.call("hang", ["x".repeat(20_000), index])),
      );
      rig.transports[0].destroy();
      expect(await left).toMatchObject({ reason: "CONNECTION_LOST", effect: "unknown" });
      const effects = (await Promise.all(calls)).map((error) => error.effect);
      expect(effects.filter((effect) => effect === "none").length).toBeGreaterThan(0);
      await eventually(
        () => rig.server.closedWith !== undefined && rig.server.server.running === 0,
        "the server's end closes",
      );
      // None of those that say `none` has run.
      expect(rig.server.host.count("hang") - 1).toBeLessThanOrEqual(
        effects.filter((effect) => effect === "unknown").length,
      );
      expect(rig.client.wheel.size + rig.client.budget.bytes + rig.server.budget.bytes).toBe(0);
    });

    test("more streams than the peer takes: OVERLOADED, none, and room again afterwards", async () => {
      const rig = await rigOf({ server: { streamsMax: streamsMaxMin } });
      await rig.settled();
      const calls = Array.from({ length: streamsMaxMin }, (_, index) => rig.client.call("gated", [index]));
      expect(await rejection(rig.client.call("gated", [0]))).toMatchObject({
        reason: "OVERLOADED",
        effect: "none",
        details: { limit: "streamsMax", streamsMax: streamsMaxMin },
      });
      await eventually(() => rig.server.host.count("gated") === streamsMaxMin, "the others run");
      rig.facts.gate.open();
      expect((await Promise.all(calls)).length).toBe(streamsMaxMin);
      expect(rig.server.host.count("gated")).toBe(streamsMaxMin);
      expect(await rig.client.call("echo", [1])).toBe(1);
      await rig.close();
    });

    test("stream numbers that are used up", async () => {
      const rig = await rigOf({ streamIdMax: 7 });
      const running = rig.client.call("gated", [1]);
      for (let index = 0; index < 3; index++) expect(await rig.client.call("echo", [index])).toBe(index);
      expect(rig.client.session.isAvailable).toBe(false);
      expect(await rejection(rig.client.call("echo", [3]))).toMatchObject({
        reason: "CONNECTION_LOST",
        effect: "none",
      });
      expect(rig.server.host.count("echo")).toBe(3);
      rig.facts.gate.open();
      expect(await running).toBe(1);
      expect(await rig.server.call("echo", [1])).toBe(1);
      await rig.idle();
      rig.client.session.close(new LeverError("CANCELLED", "over"));
      await eventually(() => rig.server.closedWith !== undefined, "the session ends");
    });
  });

  describe(`hostile peers over ${name}`, () => {
    /** The peer learns why, its session is gone, and a session beside it goes on. */
    const endsWith = async (raw: RawRig, reason: string, text: RegExp, beside: Rig) => {
      const error = await raw.ended();
      expect(error).toMatchObject({ reason });
      expect(error.message).toMatch(text);
      const goAway = await raw.peer.receive(FrameType.GoAway);
      expect(decodeFault(goAway.payload.subarray(4))).toMatchObject({ reason });
      await eventually(() => raw.peer.isClosed, "the transport is closed");
      expect(raw.end.session.streamCount).toBe(0);
      await eventually(() => raw.end.budget.bytes === 0, "nothing is held");
      expect(await beside.client.call("echo", ["beside"])).toBe("beside");
      await beside.close();
    };
    const rigs = async (options: ConstructorParameters<typeof RawRig>[2] = {}) => {
      const raw = await rawOf(options);
      raw.peer.sayHello();
      return { raw, beside: await rigOf() };
    };

    test("frames of an unknown type: optional ones are skipped, critical ones end the session", async () => {
      const { raw, beside } = await rigs();
      raw.peer.send(0x80, 0, 0);
      raw.peer.send(0xff, 0xff, 1234, new Uint8Array(32 * KiB));
      await raw.settled();
      raw.peer.send(0x70, 0, 0);
      await endsWith(raw, "VERSION_UNSUPPORTED", /type 0x70.*upgrade/, beside);
    });

    test("more than a stream's window", async () => {
      const { raw, beside } = await rigs();
      raw.peer.send(FrameType.Open, Flag.Channel, 1, openPayload("stalledChan"));
      await raw.peer.receive(FrameType.Accept);
      for (let index = 0; index < 20; index++)
        raw.peer.send(FrameType.Message, Flag.Bytes, 1, new Uint8Array(32 * KiB));
      await endsWith(raw, "PROTOCOL_VIOLATION", /window of stream 1/, beside);
      expect(raw.end.host.count("stalledChan")).toBe(1);
      raw.facts.gate.open();
    });

    test("more than the session's window", async () => {
      const { raw, beside } = await rigs();
      // Whoever passes frames on gives credit back when they have left; here that is never.
      const held: Stream[] = [];
      raw.end.onOpen = (stream) => {
        held.push(stream);
        stream.handler = { onFrame() {}, onWritable() {}, onLost() {} };
        stream.accept(new Uint8Array(2));
      };
      for (let stream = 1; stream < 20; stream += 2) {
        raw.peer.send(FrameType.Open, Flag.Channel, stream, openPayload("anyChan"));
        for (let index = 0; index < 3; index++)
          raw.peer.send(FrameType.Message, Flag.Bytes, stream, new Uint8Array(32 * KiB));
      }
      await raw.settled();
      expect(raw.end.session.credit).toEqual({ send: 0x7fffffff, receive: expect.any(Number), ungranted: 0 });
      expect(raw.end.session.credit.receive).toBeLessThan(3 * 32 * KiB);
      // What is left without the session's ends of its streams returns its credit.
      for (const stream of held.slice(0, 2)) stream.reset(cancelledFault);
      await raw.settled();
      expect(raw.end.session.credit.receive + raw.end.session.credit.ungranted).toBeGreaterThan(6 * 32 * KiB);
      for (let stream = 21; stream < 40; stream += 2) {
        raw.peer.send(FrameType.Open, Flag.Channel, stream, openPayload("anyChan"));
        for (let index = 0; index < 3; index++)
          raw.peer.send(FrameType.Message, Flag.Bytes, stream, new Uint8Array(32 * KiB));
      }
      await endsWith(raw, "PROTOCOL_VIOLATION", /the session's window/, beside);
    });

    test("messages for nobody: frames on ended streams are dropped, and their credit comes back", async () => {
      const { raw, beside } = await rigs();
      raw.peer.send(
        FrameType.Open,
        Flag.Channel,
        1,
        openPayload("endingChan", Uint8Array.of(0x91, 0xa3, 0x62, 0x75, 0x67)),
      );
      await raw.peer.receive(FrameType.End);
      for (let index = 0; index < 200; index++) {
        raw.peer.send(FrameType.Message, Flag.Bytes, 1, new Uint8Array(16 * KiB));
        if (index % 20 === 0) await raw.settled();
      }
      await raw.settled();
      expect(raw.end.session.isClosed).toBe(false);
      const { receive, ungranted } = raw.end.session.credit;
      expect(receive + ungranted).toBe(sessionWindowBytesMin);
      raw.peer.send(FrameType.Window, 0, 0, new Uint8Array(4));
      await endsWith(raw, "PROTOCOL_VIOLATION", /without credit/, beside);
    });

    test("one-byte drips are as good as any chunks", async () => {
      const { raw, beside } = await rigs();
      const bytes = frameBytes(FrameType.Open, 0, 1, openPayload("echo", encodeValue(["dripped"], "args")));
      for (const byte of bytes) {
        raw.peer.write(Uint8Array.of(byte));
        await new Promise((resolve) => setImmediate(resolve));
      }
      const reply = await raw.peer.receive(FrameType.Reply);
      expect(reply.payload.subarray(2)).toEqual(encodeValue("dripped", "result"));
      for (const byte of frameBytes(FrameType.Ping, 0, 3, new Uint8Array(8))) raw.peer.write(Uint8Array.of(byte));
      await endsWith(raw, "PROTOCOL_VIOLATION", /PING on stream 3/, beside);
    });

    test("header bombs: claims of length and of counts are not believed", async () => {
      const { raw, beside } = await rigs();
      const bombs = [
        // A map that claims 2^32-1 entries, an array within metadata, a string of 4 GiB.
        encodeBomb(0x87, Uint8Array.of(0xdf, 0xff, 0xff, 0xff, 0xff)),
        encodeBomb(0x87, Uint8Array.of(0x81, 0xa1, 0x6b, 0xdd, 0xff, 0xff, 0xff, 0xff)),
        encodeBomb(0x86, Uint8Array.of(0x81, 0xa1, 0x6b, 0xdb, 0xff, 0xff, 0xff, 0xff)),
        encodeBomb(0x87, new Uint8Array(16_000).fill(0x91)),
        // As many fields as there is room for, each with a key that may be skipped.
        new Uint8Array(Array.from({ length: 5000 }, (_, index) => [0x88 + (index % 100), 0, 0]).flat()),
      ];
      bombs.forEach((fields, index) => {
        raw.peer.send(FrameType.Open, 0, 1 + 2 * index, openPayload("echo", undefined, { fields }));
      });
      await raw.settled();
      const refused = raw.peer.of(FrameType.Refuse).map((frame) => decodeFault(frame.payload));
      expect(refused.map((fault) => [fault.reason, fault.effect])).toEqual(
        bombs.map(() => ["PROTOCOL_VIOLATION", "none"]),
      );
      expect(raw.end.host.entered).toEqual({});
      // Fields that claim more than the frame holds.
      raw.peer.send(FrameType.Open, 0, 99, openPayload("echo", undefined, { fieldsLength: 0xffff }));
      await endsWith(raw, "PROTOCOL_VIOLATION", /fields claim 65535 bytes/, beside);
    });

    test("arguments that nest too deep, or claim what is not there, refuse the call only", async () => {
      const { raw, beside } = await rigs();
      const bad = [
        new Uint8Array(30_000).fill(0x91),
        Uint8Array.of(0xdd, 0xff, 0xff, 0xff, 0xff),
        Uint8Array.of(0xc1),
        empty,
      ];
      bad.forEach((args, index) => {
        raw.peer.send(FrameType.Open, 0, 1 + 2 * index, openPayload("echo", args));
        raw.peer.send(FrameType.Open, Flag.Channel, 101 + 2 * index, openPayload("echoChan", args));
      });
      // Numbers below the highest are those of streams that have ended: the calls 3, 5 and 7 are skipped.
      await raw.settled();
      const refused = raw.peer.of(FrameType.Refuse);
      expect(refused.map((frame) => frame.stream)).toEqual([1, 101, 103, 105, 107]);
      for (const frame of refused) {
        expect(decodeFault(frame.payload)).toMatchObject({ reason: "INVALID_VALUE_ENCODING", effect: "none" });
      }
      expect(raw.end.host.entered).toEqual({});
      raw.destroy();
      await beside.close();
    });

    test("a flood of OPEN and RESET runs no more methods than streams are allowed", async () => {
      const { raw, beside } = await rigs();
      for (let index = 0; index < 1000; index++) {
        raw.peer.write(
          frameBytes(FrameType.Open, 0, 1 + 2 * index, openPayload("gated", encodeValue([index], "args"))),
          frameBytes(FrameType.Reset, 0, 1 + 2 * index, cancelledFault),
        );
      }
      await raw.settled();
      expect(raw.end.host.count("gated")).toBe(streamsMaxMin);
      expect(raw.end.runningMax).toBe(streamsMaxMin);
      const refused = raw.peer.of(FrameType.Refuse);
      expect(refused.length).toBe(1000 - streamsMaxMin);
      expect(decodeFault((refused[0] as { payload: Uint8Array }).payload)).toMatchObject({
        reason: "OVERLOADED",
        effect: "none",
      });
      expect(raw.end.session.streamCount).toBe(0);
      raw.facts.gate.open();
      await eventually(() => raw.end.server.running === 0, "the methods return");
      raw.peer.send(FrameType.Open, 0, 5001, openPayload("echo", encodeValue(["again"], "args")));
      await raw.peer.receive(FrameType.Reply);
      raw.destroy();
      await beside.close();
    });

    test("answers that the peer gives no credit for are bounded", async () => {
      const raw = await rawOf({ limits: { streamsMax: 10_000 } });
      raw.peer.sayHello({ streamWindowBytes: streamWindowBytesMin, sessionWindowBytes: sessionWindowBytesMin });
      const calls = queuedAnswerBytesMax / (4 * MiB) + 5;
      for (let index = 0; index < calls; index++) {
        raw.peer.send(FrameType.Open, 0, 1 + 2 * index, openPayload("textOf", encodeValue([4 * MiB], "args")));
        await raw.settled();
      }
      expect(raw.end.session.queuedAnswerBytes).toBeGreaterThan(queuedAnswerBytesMax);
      expect(raw.end.session.queuedAnswerBytes).toBeLessThan(queuedAnswerBytesMax + 5 * MiB);
      const refused = raw.peer.of(FrameType.Refuse);
      expect(refused.length).toBe(calls - raw.end.host.count("textOf"));
      expect(refused.length).toBeGreaterThan(0);
      expect(decodeFault((refused[0] as { payload: Uint8Array }).payload)).toMatchObject({
        reason: "OVERLOADED",
        effect: "none",
      });
      raw.destroy();
      expect(raw.end.session.queuedAnswerBytes).toBe(0);
    });

    test("a stream whose answer the peer does not take counts as open", async () => {
      const raw = await rawOf();
      // Replies use all of the session's credit; then every small reply waits too.
      raw.peer.sayHello({ streamWindowBytes: streamWindowBytesMin, sessionWindowBytes: sessionWindowBytesMin });
      for (let index = 0; index < 150; index++) {
        raw.peer.send(FrameType.Open, 0, 1 + 2 * index, openPayload("textOf", encodeValue([200 * KiB], "args")));
      }
      await raw.settled();
      expect(raw.end.host.count("textOf")).toBe(streamsMaxMin);
      expect(raw.end.server.running).toBe(0);
      expect(raw.peer.of(FrameType.Refuse).length).toBe(50);
      raw.destroy();
    });

    test("a flood of PINGs", async () => {
      const { raw, beside } = await rigs();
      const ping = frameBytes(FrameType.Ping, 0, 0, new Uint8Array(8));
      raw.peer.write(...Array.from({ length: 1000 }, () => ping));
      await endsWith(raw, "PROTOCOL_VIOLATION", /PINGs/, beside);
      expect(raw.peer.of(FrameType.Ping).length).toBeLessThanOrEqual(200);
    });

    test("a peer that makes this end answer and does not read", async () => {
      const raw = await rawOf({ reads: false });
      const beside = await rigOf();
      raw.peer.sayHello();
      let stream = 1;
      let bufferedMax = 0;
      while (raw.end.closedWith === undefined && stream < 400_000) {
        const frames: Uint8Array[] = [];
        for (let index = 0; index < 500; index++, stream += 2)
          frames.push(frameBytes(FrameType.Open, 0, stream, openPayload("none")));
        raw.peer.write(...frames);
        await new Promise((resolve) => setImmediate(resolve));
        bufferedMax = Math.max(bufferedMax, raw.end.session.credit.send, 0);
      }
      expect(await raw.ended()).toMatchObject({ reason: "PROTOCOL_VIOLATION" });
      expect(raw.end.closedWith?.message).toMatch(/does not read the answers: \d+ bytes/);
      const waiting = Number(/(\d+) bytes wait/.exec(raw.end.closedWith?.message ?? "")?.[1]);
      expect(waiting).toBeLessThan(2 * controlBacklogBytesMax);
      expect(await beside.client.call("echo", [1])).toBe(1);
      await beside.close();
    });

    test("fragments without end: empty ones cost the peer its credit and this end nothing", async () => {
      const { raw, beside } = await rigs();
      raw.peer.send(FrameType.Open, Flag.More, 1, openPayload("lengthOf", empty));
      for (let index = 0; index < 20_000; index++) {
        raw.peer.send(FrameType.Open, Flag.More | Flag.Bytes, 1);
        if (index % 500 === 0) await raw.settled();
      }
      await raw.settled();
      expect(raw.end.budget.bytes).toBe(0);
      raw.peer.send(FrameType.Open, Flag.Bytes, 1, Uint8Array.of(1, 2, 3));
      const reply = await raw.peer.receive(FrameType.Reply);
      expect(reply.payload[2]).toBe(3);
      raw.destroy();
      await beside.close();
    });

    test("arguments above the limit, and arguments that never end, are refused and forgotten", async () => {
      const raw = await rawOf({ limits: { streamWindowBytes: 32 * MiB, sessionWindowBytes: 64 * MiB } });
      raw.peer.sayHello();
      raw.peer.send(FrameType.Open, Flag.More, 1, openPayload("lengthOf", empty));
      for (let index = 0; index < 17 * 32; index++)
        raw.peer.send(FrameType.Open, Flag.More | Flag.Bytes, 1, new Uint8Array(32 * KiB));
      await raw.peer.receive(FrameType.Refuse);
      const refused = raw.peer.of(FrameType.Refuse)[0];
      expect(decodeFault(refused?.payload ?? empty)).toMatchObject({ reason: "ARGS_TOO_LARGE", effect: "none" });
      await raw.settled();
      expect(raw.end.budget.bytes).toBe(0);

      raw.peer.send(FrameType.Open, Flag.More, 3, openPayload("lengthOf", new Uint8Array(1000), { timeoutMs: 20 }));
      raw.peer.send(
        FrameType.Open,
        Flag.More | Flag.Channel,
        5,
        openPayload("echoChan", new Uint8Array(1000), { timeoutMs: 20 }),
      );
      const late = [await raw.peer.receive(FrameType.Refuse, 1), await raw.peer.receive(FrameType.Refuse, 2)];
      for (const frame of late)
        expect(decodeFault(frame.payload)).toMatchObject({ reason: "DEADLINE_EXCEEDED", effect: "none" });
      expect(raw.end.budget.bytes + raw.end.wheel.size + raw.end.session.streamCount).toBe(0);
      expect(raw.end.host.entered).toEqual({});
      raw.destroy();
    });

    test("unfinished items above the budget end their streams only", async () => {
      const raw = await rawOf({
        limits: { streamWindowBytes: 16 * MiB, sessionWindowBytes: 64 * MiB },
        budgetBytes: MiB,
      });
      raw.peer.sayHello();
      raw.peer.send(FrameType.Open, Flag.Channel, 1, openPayload("readChan"));
      raw.peer.send(FrameType.Open, Flag.More, 3, openPayload("lengthOf", empty));
      const fragment = new Uint8Array(32 * KiB);
      for (let index = 0; index < 20; index++) {
        raw.peer.send(FrameType.Message, Flag.More | Flag.Bytes, 1, fragment);
        raw.peer.send(FrameType.Open, Flag.More | Flag.Bytes, 3, fragment);
      }
      await raw.settled();
      // Whichever came to the limit first; the other has room again.
      const ended = [...raw.peer.of(FrameType.Reset), ...raw.peer.of(FrameType.Refuse)];
      expect(ended.map((frame) => decodeFault(frame.payload).reason)).toEqual(["OVERLOADED"]);
      expect(raw.end.budget.bytes).toBeLessThanOrEqual(MiB);
      expect(raw.end.budget.bytes).toBeGreaterThan(0);
      raw.peer.send(FrameType.Reset, 0, 1, cancelledFault);
      raw.peer.send(FrameType.Reset, 0, 3, cancelledFault);
      await eventually(() => raw.end.server.running === 0 && raw.end.budget.bytes === 0, "both are forgotten");
      await raw.settled();
      raw.destroy();
    });

    test("a HELLO that never comes, or drips, ends the session in time", async () => {
      const silent = await rawOf({ limits: { helloTimeoutMs: 50, pingIntervalMs: 20, silenceMs: 60 } });
      expect(await silent.ended()).toMatchObject({ reason: "CONNECTION_LOST" });
      const dripping = await rawOf({ limits: { helloTimeoutMs: 50, pingIntervalMs: 20, silenceMs: 60_000 } });
      const call = rejection(dripping.end.session.isClosed ? Promise.reject() : dripping.end.call("echo"));
      while (dripping.end.closedWith === undefined) {
        dripping.peer.write(Uint8Array.of(0));
        // Six bytes of a header, again and again, would be a frame; one byte at most a turn of the timer.
        await new Promise((resolve) => setTimeout(resolve, 15));
      }
      expect(await call).toMatchObject({ effect: "unknown" });
    });
  });
}

function encodeBomb(key: number, bytes: Uint8Array): Uint8Array {
  const field = new Uint8Array(3 + bytes.length);
  field[0] = key;
  field[1] = bytes.length >>> 8;
  field[2] = bytes.length;
  field.set(bytes, 3);
  // In front of it something valid, so that a decoder gets there.
  const before = encodeFields({ token: "t" });
  const out = new Uint8Array(before.length + field.length);
  out.set(before);
  out.set(field, before.length);
  return out;
}
