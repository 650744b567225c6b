import { expect, test } from "vitest";
import { VirtualClock } from "../clock/virtual-clock.ts";
import type { LeverError } from "../error/lever-error.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import { Target } from "../target/target.ts";
import { memoryTransportPair } from "../transport/memory-transport.ts";
import { defaultSessionLimits } from "./limits.ts";
import { Session } from "./session.ts";
import type { Stream, StreamHandler } from "./stream.ts";

/** What one end of a stream was told. */
class Told implements StreamHandler {
  readonly frames: string[] = [];
  lostWith: LeverError | undefined;

  onFrame(stream: Stream, type: number, _flags: number, payload: Uint8Array): void {
    const name = Object.entries(FrameType).find(([, value]) => value === type)?.[0];
    this.frames.push(`${name} ${payload.length}`);
    stream.consume(type === FrameType.Message || type === FrameType.End ? payload.length + 64 : 0);
  }
  onWritable(): void {}
  onLost(_stream: Stream, error: LeverError): void {
    this.lostWith = error;
  }
}

class SwitchedGate {
  isShut = false;
  asked = 0;

  get isOpen(): boolean {
    this.asked++;
    return !this.isShut;
  }
}

const channel = new Target("dev", "test", "talkChan");
const noFields = new Uint8Array(0);

/** A channel from `caller` to `callee`, accepted. */
function rig(streamWindowBytes = defaultSessionLimits.streamWindowBytes) {
  const clock = new VirtualClock();
  const [here, there] = memoryTransportPair(clock);
  const accepted: Stream[] = [];
  const calleeTold = new Told();
  const limits = { ...defaultSessionLimits, pingIntervalMs: 0, silenceMs: 0 };
  const caller = new Session({
    transport: here,
    clock,
    side: "dialer",
    identity: { role: "agent" },
    limits: { ...limits, streamWindowBytes },
    handler: {},
  });
  const callee = new Session({
    transport: there,
    clock,
    side: "acceptor",
    identity: { role: "agent" },
    limits,
    handler: {
      onOpen: (stream) => {
        stream.handler = calleeTold;
        accepted.push(stream);
      },
    },
  });
  clock.advance(1);
  const callerTold = new Told();
  const opened = caller.open(channel, Flag.Channel, 0, noFields, Uint8Array.of(0x90), callerTold);
  clock.advance(1);
  const served = accepted[0] as Stream;
  served.accept(new Uint8Array(2));
  clock.advance(1);
  return { clock, caller, callee, opened, served, callerTold, calleeTold };
}

test("a stream whose gate is open sends; one whose gate is shut ends, and nothing of it leaves", () => {
  const { clock, caller, callee, served, callerTold, calleeTold } = rig();
  const gate = new SwitchedGate();
  served.gate = gate;
  served.send(FrameType.Message, 0, new Uint8Array(10));
  clock.advance(1);
  expect(callerTold.frames).toEqual(["Accept 2", "Message 10"]);
  gate.isShut = true;
  served.send(FrameType.Message, 0, new Uint8Array(20));
  clock.advance(1);
  expect(callerTold.frames.slice(2)).toEqual([expect.stringMatching(/^Reset /)]);
  expect(calleeTold.lostWith).toMatchObject({ reason: "LEASE_LAPSED" });
  expect(caller.isClosed || callee.isClosed).toBe(false);
  expect([caller.streamCount, callee.streamCount]).toEqual([0, 0]);
});

test("what waits for credit is asked for when it leaves, not when it was sent", () => {
  const { clock, opened, served, callerTold } = rig();
  const gate = new SwitchedGate();
  served.gate = gate;
  // The reader gives no credit back: the second half of this waits.
  callerTold.onFrame = (_stream, type) => void callerTold.frames.push(String(type));
  const count = 20;
  for (let index = 0; index < count; index++) served.send(FrameType.Message, 0, new Uint8Array(16 * 1024));
  clock.advance(1);
  const arrived = callerTold.frames.length;
  expect(arrived).toBeLessThan(count);
  gate.isShut = true;
  opened.consume(arrived * (16 * 1024 + 64));
  clock.advance(1);
  expect(callerTold.frames.slice(arrived)).toEqual([String(FrameType.Reset)]);
});

test("a gate that shuts between the frame and its write ends the session: no byte of the write leaves", () => {
  const { clock, callee, caller, served, callerTold } = rig();
  const gate = new SwitchedGate();
  served.gate = gate;
  const before = callee.counters.bytesOut;
  served.send(FrameType.Message, 0, new Uint8Array(10));
  // The write is made at the end of the turn; the process is stopped before.
  gate.isShut = true;
  clock.advance(1);
  expect(callee.counters.bytesOut).toBe(before);
  expect(callerTold.frames).toEqual(["Accept 2"]);
  expect(callerTold.lostWith).toMatchObject({ reason: "CONNECTION_LOST" });
  expect([caller.isClosed, callee.isClosed]).toEqual([true, true]);
});

test("an OPEN whose gate is shut never leaves, and its effect is none", () => {
  const { clock, caller, callee } = rig();
  const gate = new SwitchedGate();
  gate.isShut = true;
  const told = new Told();
  const before = callee.counters.bytesIn;
  caller.open(channel, Flag.Channel, 0, noFields, Uint8Array.of(0x90), told, gate);
  clock.advance(1);
  expect(told.lostWith).toMatchObject({ reason: "LEASE_LAPSED", effect: "none" });
  // Perhaps a TARGET, but no OPEN.
  expect(callee.counters.bytesIn - before).toBeLessThan(40);
  expect(caller.streamCount).toBe(1);
});

test("a write asks each gate twice, however many frames it lets pass", () => {
  const { clock, served, callerTold } = rig();
  const gate = new SwitchedGate();
  served.gate = gate;
  for (let index = 0; index < 50; index++) served.send(FrameType.Message, 0, new Uint8Array(10));
  clock.advance(1);
  expect(callerTold.frames).toHaveLength(51);
  expect(gate.asked).toBe(2);
});

test("MOVE reaches the caller of an open channel, and nobody else", () => {
  const { clock, caller, callee, opened, served, callerTold } = rig();
  // Only the method's side may.
  opened.move();
  served.move();
  clock.advance(1);
  expect(callerTold.frames).toEqual(["Accept 2", "Move 0"]);
  served.send(FrameType.End, 0, new Uint8Array(0));
  served.move();
  clock.advance(1);
  expect(callerTold.frames).toEqual(["Accept 2", "Move 0", "End 0"]);
  expect(caller.isClosed || callee.isClosed).toBe(false);
});
