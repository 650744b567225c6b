/** What sessions count on in their transports, beyond what the compliance suite shows. */

import net from "node:net";
import { expect, test } from "vitest";
import { runtimeClock } from "../clock/runtime-clock.ts";
import { VirtualClock } from "../clock/virtual-clock.ts";
import { eventually } from "../session/rig.fixture.ts";
import { DuplexTransport } from "./duplex-transport.ts";
import { memoryTransportPair } from "./memory-transport.ts";
import { tcpPairs } from "./socket-pair.fixture.ts";
import type { TransportEvents } from "./transport.ts";

/** Keeps what it is told. */
class Events implements TransportEvents {
  readonly chunks: Uint8Array[] = [];
  drains = 0;
  closes: (Error | undefined)[] = [];

  onData(chunk: Uint8Array): void {
    this.chunks.push(chunk);
  }

  onDrain(): void {
    this.drains++;
  }

  onClose(error: Error | undefined): void {
    this.closes.push(error);
  }

  get text(): string {
    return Buffer.concat(this.chunks).toString();
  }
}

const bytes = (text: string) => new Uint8Array(Buffer.from(text));

test("a peer that ends its half and reads no more does not hold the transport open", async () => {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.pause();
    socket.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const socket = net.connect((server.address() as net.AddressInfo).port, "127.0.0.1");
  const transport = new DuplexTransport(socket, "test");
  const events = new Events();
  transport.start(events);
  // More than the kernel takes on behalf of somebody who does not read.
  transport.write([new Uint8Array(32_000_000)], () => {});
  await eventually(() => events.closes.length === 1, "the transport closes");
  expect(events.closes).toEqual([undefined]);
  server.close();
});

test("a socket that cannot connect closes with its error, also when that came before the start", async () => {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  for (const waits of [false, true]) {
    const socket = net.connect(port, "127.0.0.1");
    const transport = new DuplexTransport(socket, "test");
    if (waits) await eventually(() => socket.destroyed, "the socket is destroyed");
    const events = new Events();
    transport.start(events);
    await eventually(() => events.closes.length === 1, "the transport closes");
    expect(events.closes[0]).toMatchObject({ code: "ECONNREFUSED" });
    transport.write([bytes("x")], () => {});
    transport.end();
    transport.destroy();
    await new Promise((resolve) => setImmediate(resolve));
    expect(events.closes.length).toBe(1);
  }
});

test("a socket's drain comes after it was full, and each write is reported once", async () => {
  const pairs = await tcpPairs();
  const [a, b] = await pairs.pair();
  const [sent, received] = [new Events(), new Events()];
  let written = 0;
  a.start(sent);
  for (let index = 0; index < 20; index++) {
    a.write([bytes("head"), new Uint8Array(500_000).fill(index)], () => {
      written++;
    });
  }
  expect(a.bufferedBytes).toBeGreaterThan(1_000_000);
  b.start(received);
  await eventually(() => received.chunks.reduce((sum, chunk) => sum + chunk.length, 0) === 20 * 500_004, "all arrives");
  await eventually(() => written === 20 && sent.drains > 0, "all is reported");
  expect(a.bufferedBytes).toBe(0);
  a.end();
  await eventually(() => sent.closes.length + received.closes.length === 2, "both close");
  await pairs.close();
});

test("memory: bytes arrive in a later turn, cut as asked, in memory of their own; end delivers them first", () => {
  const clock = new VirtualClock();
  const [a, b] = memoryTransportPair(clock, { chunkBytes: 3, names: ["memory:left", "memory:right"] });
  expect([a.peerName, b.peerName]).toEqual(["memory:right", "memory:left"]);
  const [left, right] = [new Events(), new Events()];
  const block = bytes("hello");
  let written = 0;
  a.write([block, bytes(" world")], () => {
    written++;
  });
  block.fill(0);
  expect(a.bufferedBytes).toBe(11);
  a.start(left);
  clock.advance(0);
  // Nobody listens yet.
  expect(written).toBe(0);
  b.start(right);
  expect(right.chunks).toEqual([]);
  a.end();
  clock.advance(0);
  expect(right.text).toBe("hello world");
  expect(right.chunks.map((chunk) => chunk.length)).toEqual([3, 2, 3, 3]);
  expect([written, left.drains, a.bufferedBytes]).toEqual([1, 1, 0]);
  expect([left.closes, right.closes]).toEqual([[undefined], [undefined]]);
  a.destroy();
  b.destroy();
  b.write([bytes("late")], () => {});
  clock.advance(0);
  expect([left.closes.length, right.closes.length]).toEqual([1, 1]);
});

test("memory: destroy drops what is under way, and an end that was closed before its start is told so", async () => {
  const clock = runtimeClock(globalThis);
  const [a, b] = memoryTransportPair(clock);
  const [left, right] = [new Events(), new Events()];
  a.start(left);
  a.write([bytes("never")], () => {});
  a.destroy();
  await eventually(() => left.closes.length === 1, "it closes");
  b.start(right);
  await eventually(() => right.closes.length === 1, "the other end closes");
  expect(right.chunks).toEqual([]);
});
