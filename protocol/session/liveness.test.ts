/** Time: PING, silence, HELLO, grace. On a virtual clock, over memory. */

import { describe, expect, test } from "vitest";
import type { Clock } from "../clock/clock.ts";
import { VirtualClock } from "../clock/virtual-clock.ts";
import { LeverError } from "../error/lever-error.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import { memoryTransportPair } from "../transport/memory-transport.ts";
import type { Transport } from "../transport/transport.ts";
import { defaultSessionLimits } from "./limits.ts";
import { frameBytes, openPayload, RawRig, Rig, rejection } from "./rig.fixture.ts";

/** Runs what is due by now, and the promises between. */
async function turns(clock: VirtualClock, ms = 0): Promise<void> {
  const untilMs = clock.now() + ms;
  do {
    for (let index = 0; index < 10; index++) await Promise.resolve();
  } while (clock.step(untilMs));
  clock.advance(untilMs - clock.now());
}

const { pingIntervalMs, silenceMs, helloTimeoutMs, goAwayGraceMs } = defaultSessionLimits;
/** Silence is counted in whole intervals of PING. */
const deadAfterMs = Math.ceil(silenceMs / pingIntervalMs) * pingIntervalMs;
const bye = new LeverError("CANCELLED", "the test is over");

describe("PING", () => {
  test("keeps an idle session for hours, and only when nothing else comes in", async () => {
    const clock = new VirtualClock();
    const rig = new Rig(memoryTransportPair(clock), clock);
    await turns(clock, 3_600_000);
    expect(rig.client.closedWith ?? rig.server.closedWith).toBe(undefined);
    const pings = rig.client.written.filter((frame) => frame.type === FrameType.Ping && frame.flags === 0);
    expect(pings.length).toBeGreaterThan(1000);
    const call = rig.client.call("echo", ["still there"]);
    await turns(clock);
    expect(await call).toBe("still there");

    // Frames of any kind will do: a call each half second, and no PING is needed.
    const before = rig.client.written.filter((frame) => frame.type === FrameType.Ping && frame.flags === 0).length;
    for (let index = 0; index < 20; index++) {
      const echo = rig.client.call("echo", [index]);
      await turns(clock, pingIntervalMs / 2);
      await echo;
    }
    expect(
      rig.client.written.filter((frame) => frame.type === FrameType.Ping && frame.flags === 0).length - before,
    ).toBeLessThanOrEqual(1);
    rig.client.session.close(bye);
    await turns(clock, 10_000);
    expect(clock.timerCount).toBe(0);
  });

  test("a peer that falls silent is dead within seconds: calls end unknown, methods are told", async () => {
    const clock = new VirtualClock();
    const raw = new RawRig(memoryTransportPair(clock), clock);
    raw.peer.sayHello();
    raw.peer.send(FrameType.Open, 0, 1, openPayload("hang"));
    const call = rejection(raw.end.call("echo"));
    await turns(clock, deadAfterMs - pingIntervalMs);
    expect(raw.end.closedWith).toBe(undefined);
    expect(raw.peer.of(FrameType.Ping).length).toBeGreaterThanOrEqual(2);
    await turns(clock, 2 * pingIntervalMs);
    expect(raw.end.closedWith).toMatchObject({ reason: "CONNECTION_LOST" });
    expect(raw.end.closedWith?.message).toMatch(/silent for about 3500 ms/);
    expect(await call).toMatchObject({ reason: "CONNECTION_LOST", effect: "unknown" });
    expect(raw.facts.seen).toMatchObject([{ reason: "CONNECTION_LOST" }]);
    expect(raw.end.server.running).toBe(0);
    await turns(clock, 2000);
    expect(clock.timerCount).toBe(0);
  });

  test("whenever it falls silent: at the earliest after the limit, at the latest one interval later", async () => {
    for (const lastMs of [1, 250, 999, 1000, 1001, 1750]) {
      const clock = new VirtualClock();
      const raw = new RawRig(memoryTransportPair(clock), clock);
      raw.peer.sayHello();
      await turns(clock, lastMs);
      raw.peer.send(FrameType.Ping, Flag.Ack, 0, new Uint8Array(8));
      await turns(clock, silenceMs - 1);
      expect(raw.end.closedWith).toBe(undefined);
      await turns(clock, 1 + pingIntervalMs);
      expect(raw.end.closedWith).toMatchObject({ reason: "CONNECTION_LOST" });
    }
  });

  test("a peer that answers each PING lives, one that only drips bytes too", async () => {
    const clock = new VirtualClock();
    const raw = new RawRig(memoryTransportPair(clock), clock);
    raw.peer.sayHello();
    // One frame that may be skipped, of 39 bytes.
    for (const byte of frameBytes(0x80, 0, 0, new Uint8Array(30))) {
      raw.peer.write(Uint8Array.of(byte));
      await turns(clock, silenceMs - 1);
    }
    expect(raw.end.closedWith).toBe(undefined);
    raw.destroy();
  });

  test("the limit is per second: 200 in each of ten seconds are answered, one more is a flood", async () => {
    const clock = new VirtualClock();
    const raw = new RawRig(memoryTransportPair(clock), clock);
    raw.peer.sayHello();
    for (let second = 0; second < 10; second++) {
      for (let index = 0; index < 200; index++) raw.peer.send(FrameType.Ping, 0, 0, new Uint8Array(8).fill(second));
      await turns(clock, 1000);
    }
    const answers = raw.peer.of(FrameType.Ping).filter((frame) => frame.flags === 1);
    expect(answers.length).toBe(2000);
    expect(answers[1999]?.payload).toEqual(new Uint8Array(8).fill(9));
    for (let index = 0; index < 201; index++) raw.peer.send(FrameType.Ping, 0, 0, new Uint8Array(8));
    await turns(clock);
    expect(raw.end.closedWith).toMatchObject({ reason: "PROTOCOL_VIOLATION" });
  });

  test("without an interval no PING goes out and silence is no death", async () => {
    const clock = new VirtualClock();
    const raw = new RawRig(memoryTransportPair(clock), clock, { limits: { pingIntervalMs: 0, silenceMs: 0 } });
    raw.peer.sayHello();
    await turns(clock, 3_600_000);
    expect(raw.end.closedWith).toBe(undefined);
    expect(raw.peer.of(FrameType.Ping)).toEqual([]);
    expect(clock.timerCount).toBe(0);
    raw.destroy();
  });

  test("a pause of this end's process is not the peer's silence", async () => {
    const clock = new VirtualClock();
    let pausedMs = 0;
    const pausing: Clock = {
      now: () => clock.now() + pausedMs,
      setTimer: (callback, delayMs) => clock.setTimer(callback, delayMs),
      clearTimer: (timer) => clock.clearTimer(timer),
      defer: (callback) => clock.defer(callback),
    };
    const rig = new Rig(memoryTransportPair(clock), pausing);
    await turns(clock, 5000);
    // A minute has passed, and the next timer runs before anything is read.
    pausedMs = 60_000;
    await turns(clock, 10_000);
    expect(rig.client.closedWith ?? rig.server.closedWith).toBe(undefined);
    rig.client.session.close(bye);
  });
});

describe("HELLO", () => {
  test.each([
    [0, /no HELLO within 5000 ms/],
    [defaultSessionLimits.pingIntervalMs, /silent for about 3500 ms/],
  ])("that never comes (PING each %d ms)", async (interval, message) => {
    const clock = new VirtualClock();
    const raw = new RawRig(memoryTransportPair(clock), clock, { limits: { pingIntervalMs: interval } });
    await turns(clock, helloTimeoutMs);
    expect(raw.end.closedWith).toMatchObject({ reason: "CONNECTION_LOST" });
    expect(raw.end.closedWith?.message).toMatch(message);
    await turns(clock);
    expect(raw.peer.isClosed).toBe(true);
    expect(clock.timerCount).toBe(0);
  });

  test("that drips a byte at a time ends when its time is over, though bytes keep coming", async () => {
    const clock = new VirtualClock();
    const raw = new RawRig(memoryTransportPair(clock), clock);
    for (let ms = 0; ms <= helloTimeoutMs; ms += 500) {
      if (ms < 4000) raw.peer.write(Uint8Array.of(0));
      await turns(clock, 500);
    }
    expect(raw.end.closedWith?.message).toMatch(/no HELLO within 5000 ms/);
  });
});

describe("the end", () => {
  test("a stream that outlives the grace after GOAWAY is lost: unknown, whatever the GOAWAY said", async () => {
    const clock = new VirtualClock();
    const rig = new Rig(memoryTransportPair(clock), clock);
    const call = rejection(rig.client.call("hang"));
    await turns(clock, 1000);
    rig.server.session.goAway(new LeverError("DRAINING", "about to stop"));
    await turns(clock, goAwayGraceMs - 1);
    expect(rig.client.closedWith ?? rig.server.closedWith).toBe(undefined);
    await turns(clock, 1);
    expect(rig.server.closedWith).toMatchObject({ reason: "DRAINING" });
    expect(await call).toMatchObject({ reason: "CONNECTION_LOST", effect: "unknown" });
    expect(rig.server.host.count("hang")).toBe(1);
    await turns(clock, 2000);
    expect(clock.timerCount).toBe(0);
  });

  test("a session that ends with its last stream leaves no timer for its grace", async () => {
    const clock = new VirtualClock();
    const rig = new Rig(memoryTransportPair(clock), clock);
    const call = rig.client.call("gated", [1]);
    await turns(clock, 1000);
    rig.server.session.goAway(new LeverError("DRAINING", "about to stop"));
    await turns(clock, 1000);
    rig.facts.gate.open();
    await turns(clock, 1500);
    expect(await call).toBe(1);
    expect(rig.server.closedWith).toMatchObject({ reason: "CONNECTION_LOST" });
    expect(rig.client.closedWith).toMatchObject({ reason: "CONNECTION_LOST" });
    expect(clock.timerCount).toBe(0);
  });

  test("a draining session that breaks a rule still learns why it ended", async () => {
    const clock = new VirtualClock();
    const raw = new RawRig(memoryTransportPair(clock), clock);
    raw.peer.sayHello();
    raw.peer.send(FrameType.Open, 0, 1, openPayload("hang"));
    await turns(clock);
    raw.end.session.goAway(new LeverError("DRAINING", "about to stop"));
    raw.peer.send(FrameType.Open, 0, 3, openPayload("echo"));
    raw.peer.send(FrameType.Ping, 0, 7, new Uint8Array(8));
    await turns(clock);
    const goAways = raw.peer.of(FrameType.GoAway);
    expect(goAways.length).toBe(2);
    // The second excludes the same streams.
    expect(goAways.map((frame) => Buffer.from(frame.payload).readUInt32BE(0))).toEqual([1, 1]);
    expect(raw.end.closedWith).toMatchObject({ reason: "PROTOCOL_VIOLATION" });
    expect(raw.end.host.count("echo")).toBe(0);
  });

  test("a transport that does not close is destroyed after a second", async () => {
    const clock = new VirtualClock();
    const [a, b] = memoryTransportPair(clock);
    let destroyed = 0;
    const stubborn: Transport = {
      peerName: "stubborn",
      bufferedBytes: 0,
      start: (events) => b.start(events),
      write: (chunks, onWritten) => b.write(chunks, onWritten),
      end() {},
      destroy() {
        destroyed++;
        b.destroy();
      },
    };
    const raw = new RawRig([a, stubborn], clock);
    raw.peer.sayHello();
    await turns(clock, 10);
    raw.end.session.close(bye);
    await turns(clock, 999);
    expect(destroyed).toBe(0);
    await turns(clock, 1);
    expect(destroyed).toBe(1);
    expect(clock.timerCount).toBe(0);
  });

  test("close, destroy and a cut leave no timer, and every later call fails with none", async () => {
    for (const how of ["close", "destroy", "goAway", "cut"] as const) {
      const clock = new VirtualClock();
      const transports = memoryTransportPair(clock);
      const rig = new Rig(transports, clock);
      await turns(clock, 1500);
      if (how === "cut") transports[0].destroy();
      else rig.client.session[how](bye);
      rig.client.session.close(bye);
      rig.client.session.goAway(bye);
      rig.client.session.destroy(bye);
      await turns(clock);
      expect(rig.client.closedWith).toBeDefined();
      expect(rig.server.closedWith).toBeDefined();
      expect(await rejection(rig.client.call("echo"))).toMatchObject({ reason: "CONNECTION_LOST", effect: "none" });
      expect(await rejection(rig.server.call("echo"))).toMatchObject({ reason: "CONNECTION_LOST", effect: "none" });
      expect(clock.timerCount).toBe(0);
    }
  });
});
