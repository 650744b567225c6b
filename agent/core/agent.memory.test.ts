/** What an agent keeps of what comes in: the bytes that it needs, not the chunks in which they came. */

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Flag, FrameType } from "@leveros/protocol/frame/frame.ts";
import { frameBytes, openPayload, RawPeer } from "@leveros/protocol/session/rig.fixture.ts";
import { describe, expect, it } from "vitest";
import { environment, Outcome, World } from "./world.fixture.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** An optional frame that nobody knows: it is skipped, and fills the chunk. */
const filler = frameBytes(0x80, 0, 0, new Uint8Array(30_000));
const bytesOfOne = Uint8Array.of(1);

/** What is alive. Buffers are given back some time after a collection, so that the least of several counts. */
async function keptBytes(): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 6; round++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    collect();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    least = Math.min(least, heapUsed + arrayBuffers);
  }
  return least;
}

/** An app that writes frames by hand, each in a chunk of 30 kB. */
class Rig {
  readonly world = new World();
  readonly caller = this.world.addNode("caller", { service: "caller" });
  readonly server = this.world.addNode("server");
  readonly peer: RawPeer;
  readonly gates: (() => void)[] = [];

  constructor() {
    this.world.declare();
    this.server.startApp({ held: () => new Promise<void>((resolve) => this.gates.push(resolve)) });
    const [here, there] = this.world.pair();
    this.caller.agent.acceptApp(there);
    this.peer = new RawPeer(here);
    this.peer.sayHello({ role: "app" });
  }

  send(flags: number, stream: number, payload: Uint8Array): void {
    const frame = frameBytes(FrameType.Open, flags, stream, payload);
    const chunk = new Uint8Array(frame.length + filler.length);
    chunk.set(frame);
    chunk.set(filler, frame.length);
    this.peer.write(chunk);
  }

  /** Ends all calls. */
  async end(): Promise<void> {
    for (const open of this.gates) open();
    await this.world.settle();
    this.peer.transport.destroy();
    await this.world.settle();
    await this.world.close();
  }
}

describe("a call that is held or runs", () => {
  it("keeps its arguments and not the chunk in which they came", async () => {
    const rig = new Rig();
    await rig.world.settle();
    rig.world.isOperatorAway = true;
    const before = await keptBytes();
    for (let call = 0; call < 800; call++) rig.send(Flag.Bytes, 2 * call + 1, openPayload("held", bytesOfOne));
    await rig.world.settle();
    expect(rig.caller.agent.counts.held).toBe(800);
    const held = (await keptBytes()) - before;
    rig.world.isOperatorAway = false;
    rig.world.publish();
    await rig.world.settle();
    expect(rig.gates).toHaveLength(800);
    const running = (await keptBytes()) - before;
    // 24 MB went by. What a call takes is some kB, with the streams and the method's context at all four ends.
    expect(held).toBeLessThan(8_000_000);
    expect(running).toBeLessThan(16_000_000);
    await rig.end();
  });

  it("keeps fragments and not their chunks", async () => {
    const rig = new Rig();
    await rig.world.settle();
    const before = await keptBytes();
    for (let call = 0; call < 40; call++) {
      rig.send(Flag.Bytes | Flag.More, 2 * call + 1, openPayload("held", bytesOfOne));
      for (let count = 0; count < 40; count++) rig.send(Flag.Bytes | Flag.More, 2 * call + 1, bytesOfOne);
      await rig.world.settle();
    }
    expect(rig.caller.agent.counts.retainedBytes).toBeGreaterThan(40 * 40 * 256);
    // Of 48 MB.
    expect((await keptBytes()) - before).toBeLessThan(12_000_000);
    await rig.end();
  });
});

describe("a session", () => {
  it("keeps nothing of services that there are not, though it has called them", async () => {
    const world = new World();
    const caller = world.addNode("caller", { service: "caller" });
    const app = caller.startApp();
    const call = new Outcome(app.call("work", [], { service: "absent" }));
    await world.settle();
    // The second call finds the table there.
    const again = new Outcome(app.call("work", [], { service: "absent" }));
    await world.settle();
    expect([call.text, again.text]).toEqual(["none SERVICE_NOT_FOUND", "none SERVICE_NOT_FOUND"]);
    const view = new WeakRef(caller.agent.view(environment, "absent"));
    await world.advance(11_000);
    await keptBytes();
    expect(view.deref()).toBeUndefined();
    await world.close();
  });
});
