/** Who may send when the transport or the window is full, and who gets credit back: seen from outside, frame by frame. */

import { expect, test } from "vitest";
import { VirtualClock } from "../clock/virtual-clock.ts";
import { encodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import { Flag, FrameType } from "../frame/frame.ts";
import { Target } from "../target/target.ts";
import { memoryTransportPair } from "../transport/memory-transport.ts";
import type { Transport, TransportEvents } from "../transport/transport.ts";
import { sessionWindowBytesMin, streamWindowBytesMin } from "./limits.ts";
import { openPayload, RawRig } from "./rig.fixture.ts";
import { flowCost, type Stream } from "./stream.ts";

/** Runs what is due by now, and the promises between. */
async function turns(clock: VirtualClock): Promise<void> {
  do {
    for (let index = 0; index < 10; index++) await Promise.resolve();
  } while (clock.step(clock.now()));
}

/** As a socket: what is written lies there until the kernel takes it, and `drain` comes only if all of it was taken. */
class SlowTransport implements Transport {
  readonly peerName = "slow";
  bufferedBytes = 0;
  readonly #below: Transport;
  readonly #held: (() => void)[] = [];
  #events: TransportEvents | undefined;
  /** Whether `drain` is told; a write that comes first takes its place. */
  readonly tellsDrain: boolean;

  constructor(below: Transport, tellsDrain: boolean) {
    this.#below = below;
    this.tellsDrain = tellsDrain;
  }

  start(events: TransportEvents): void {
    this.#events = events;
    this.#below.start({
      onData: (chunk) => events.onData(chunk),
      onClose: (error) => events.onClose(error),
      onDrain() {},
    });
  }

  write(chunks: readonly Uint8Array[], onWritten: () => void): void {
    const bytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    this.bufferedBytes += bytes;
    this.#held.push(() => {
      this.bufferedBytes -= bytes;
      this.#below.write(chunks, onWritten);
    });
  }

  end(): void {
    this.#below.end();
  }

  destroy(): void {
    this.#below.destroy();
  }

  /** The kernel takes one write. */
  take(): boolean {
    const next = this.#held.shift();
    next?.();
    if (this.tellsDrain && next !== undefined && this.bufferedBytes === 0) this.#events?.onDrain();
    return next !== undefined;
  }
}

async function slowRig(
  tellsDrain: boolean,
): Promise<{ raw: RawRig; slow: SlowTransport; clock: VirtualClock; takeAll: () => Promise<void> }> {
  const clock = new VirtualClock();
  const [a, b] = memoryTransportPair(clock);
  const slow = new SlowTransport(b, tellsDrain);
  const raw = new RawRig([a, slow], clock, { limits: { pingIntervalMs: 0 } });
  raw.peer.sayHello();
  const takeAll = async () => {
    while (slow.take()) await turns(clock);
  };
  await turns(clock);
  await takeAll();
  return { raw, slow, clock, takeAll };
}

/** What is lost when the test ends. */
function lost(promise: Promise<unknown>): void {
  promise.catch(() => {});
}

test("a flush that finds the transport drained wakes what waits", async () => {
  const { raw, clock, takeAll } = await slowRig(false);
  for (let index = 0; index < 60; index++) lost(raw.end.call("any", [index, "x".repeat(10_000)]));
  // The writes that saturate it are taken without a `drain`; then the peer's PING makes this end write.
  for (let round = 0; round < 10; round++) {
    await turns(clock);
    await takeAll();
    raw.peer.send(FrameType.Ping, 0, 0, new Uint8Array(8));
  }
  expect(raw.peer.of(FrameType.Open).length).toBe(60);
  raw.destroy();
});

test("behind a full transport calls and channels take turns, however much credit a channel has", async () => {
  const { raw, clock, slow, takeAll } = await slowRig(true);
  const opening = Promise.all([raw.end.channel("anyChan"), raw.end.channel("anyChan")]);
  await turns(clock);
  await takeAll();
  for (const frame of raw.peer.of(FrameType.Open)) raw.peer.send(FrameType.Accept, 0, frame.stream, new Uint8Array(2));
  await turns(clock);
  const channels = await opening;
  // Credit for gigabytes, and a transport that takes 256 KiB at a time.
  for (const channel of channels) lost(channel.send(new Uint8Array(4_000_000)));
  await turns(clock);
  for (let index = 0; index < 10; index++) lost(raw.end.call("any", ["x".repeat(30_000)]));
  const before = raw.end.written.length;
  for (let round = 0; round < 3; round++) {
    slow.take();
    await turns(clock);
  }
  const order = raw.end.written
    .slice(before)
    .map((frame) => (frame.type === FrameType.Open ? "call" : `channel ${frame.stream}`));
  // Ten calls of two fragments each, one by one between the frames of the channels, which alternate.
  const callsDone = order.lastIndexOf("call");
  expect(order.filter((what) => what === "call").length).toBe(20);
  for (let index = 0; index < callsDone; index++) {
    expect(order.slice(index, index + 2)).toContain("call");
  }
  const byChannels = order.filter((what) => what !== "call");
  for (let index = 1; index < byChannels.length; index++) expect(byChannels[index]).not.toBe(byChannels[index - 1]);
  raw.destroy();
});

test("a relay: credit comes back when a frame has left at the other side, or was dropped there", async () => {
  const clock = new VirtualClock();
  const from = new RawRig(memoryTransportPair(clock), clock, { limits: { pingIntervalMs: 0 } });
  const to = new RawRig(memoryTransportPair(clock), clock, { side: "dialer", limits: { pingIntervalMs: 0 } });
  from.peer.sayHello();
  to.peer.sayHello({
    role: "agent",
    streamWindowBytes: streamWindowBytesMin,
    sessionWindowBytes: sessionWindowBytesMin,
  });
  await turns(clock);
  let source: Stream | undefined;
  let target: Stream | undefined;
  from.end.onOpen = (stream, open) => {
    source = stream;
    stream.handler = {
      onFrame: (_stream, type, flags, payload) => target?.send(type, flags, payload, stream, flowCost(payload)),
      onWritable() {},
      onLost() {},
    };
    target = to.end.session.openFrame(
      new Target("dev", "test", "anyChan"),
      open.flags,
      open.frame,
      { onFrame() {}, onWritable() {}, onLost() {} },
      stream,
      flowCost(open.frame),
    );
  };
  const back = () => from.end.session.credit.receive + from.end.session.credit.ungranted;
  from.peer.send(FrameType.Open, Flag.Channel, 1, openPayload("anyChan"));
  await turns(clock);
  source?.accept(new Uint8Array(2));
  to.peer.send(FrameType.Accept, 0, 1, new Uint8Array(2));
  await turns(clock);
  const cost = 16 * 1024 + 64;
  for (let index = 0; index < 7; index++) from.peer.send(FrameType.Message, Flag.Bytes, 1, new Uint8Array(16 * 1024));
  await turns(clock);
  expect(back()).toBe(sessionWindowBytesMin);
  // The stream there is full but for less than one frame: what comes now waits, and is charged to its sender.
  for (let index = 0; index < 4; index++) from.peer.send(FrameType.Message, Flag.Bytes, 1, new Uint8Array(16 * 1024));
  await turns(clock);
  expect(to.peer.of(FrameType.Message).length).toBe(7);
  expect(back()).toBe(sessionWindowBytesMin - 4 * cost);
  to.peer.send(FrameType.Window, 0, 1, Uint8Array.of(0, 0, 0x80, 0));
  await turns(clock);
  expect(to.peer.of(FrameType.Message).length).toBe(9);
  expect(back()).toBe(sessionWindowBytesMin - 2 * cost);
  target?.reset(encodeFault(new LeverError("CANCELLED", "enough")));
  expect(back()).toBe(sessionWindowBytesMin);
  expect(target?.hasQueue).toBe(false);
  // What comes for a stream that has ended there is given back at once.
  from.peer.send(FrameType.Message, Flag.Bytes, 1, new Uint8Array(16 * 1024));
  await turns(clock);
  expect(back()).toBe(sessionWindowBytesMin);
  from.destroy();
  to.destroy();
});

test("calls that time out while nothing can leave do not pile up", async () => {
  const { raw, clock, takeAll } = await slowRig(true);
  lost(raw.end.call("any", ["x".repeat(400_000)]));
  await turns(clock);
  const controllers: AbortController[] = [];
  for (let index = 0; index < 90; index++) {
    const controller = new AbortController();
    controllers.push(controller);
    lost(raw.end.call("any", [index], { signal: controller.signal }));
  }
  for (const controller of controllers.slice(0, -1)) controller.abort();
  expect(raw.end.session.streamCount).toBe(2);
  for (let round = 0; round < 5; round++) {
    await turns(clock);
    await takeAll();
  }
  // The large one and the last; the others have left no trace on the wire.
  expect(new Set(raw.peer.of(FrameType.Open).map((frame) => frame.stream)).size).toBe(2);
  expect(raw.peer.of(FrameType.Reset)).toEqual([]);
  raw.destroy();
});
