/** After any mix of calls, channels, resets and refusals, nothing is held and all credit is back. */

import fc from "fast-check";
import { expect, test } from "vitest";
import type { Channel } from "../channel/channel.ts";
import { runtimeClock } from "../clock/runtime-clock.ts";
import { memoryTransportPair } from "../transport/memory-transport.ts";
import { sessionWindowBytesMin, streamsMaxMin } from "./limits.ts";
import { type End, eventually, Rig } from "./rig.fixture.ts";

const clock = runtimeClock(globalThis);

const sizes = fc.constantFrom(0, 1, 100, 5000, 20_000, 40_000, 300_000);
const waits = fc.constantFrom(0, 0, 1, 3, 10);
const operation = fc.oneof(
  fc.record({
    kind: fc.constant("call" as const),
    bytes: sizes,
    method: fc.constantFrom("echo", "textOf", "threw", "none", "broke"),
  }),
  fc.record({
    kind: fc.constant("cancel" as const),
    bytes: sizes,
    method: fc.constantFrom("hang", "gated", "echo"),
    after: waits,
  }),
  fc.record({
    kind: fc.constant("channel" as const),
    method: fc.constantFrom("echoChan", "sinkChan", "readChan", "stalledChan", "firstChan", "noneChan", "watchChan"),
    messages: fc.integer({ min: 0, max: 12 }),
    bytes: sizes,
    end: fc.constantFrom("closeWrite", "close", "cancel", "fail", "leave"),
    reads: fc.boolean(),
    after: waits,
  }),
  fc.record({
    kind: fc.constant("source" as const),
    messages: fc.integer({ min: 0, max: 20 }),
    bytes: sizes,
    reads: fc.integer({ min: 0, max: 20 }),
  }),
  fc.record({
    kind: fc.constant("ending" as const),
    how: fc.constantFrom("value", "bytes", "large", "fail", "bug", "cancel", "return"),
    reads: fc.boolean(),
  }),
);
type Operation = typeof operation extends fc.Arbitrary<infer Value> ? Value : never;

const turns = async (count: number) => {
  for (let index = 0; index < count; index++) await new Promise((resolve) => setImmediate(resolve));
};

async function readAll(channel: Channel): Promise<void> {
  for await (const _message of channel) {
    // Only to be read.
  }
}

async function run(end: End, operation: Operation): Promise<void> {
  switch (operation.kind) {
    case "call":
      await end.call(operation.method, [operation.method === "textOf" ? operation.bytes : "x".repeat(operation.bytes)]);
      return;
    case "cancel": {
      const controller = new AbortController();
      const call = end.call(operation.method, ["x".repeat(operation.bytes)], { signal: controller.signal });
      const cancelling = turns(operation.after).then(() => controller.abort());
      await Promise.all([call, cancelling]);
      return;
    }
    case "channel": {
      const channel = await end.channel(operation.method);
      const reading = operation.reads ? readAll(channel).catch(() => {}) : undefined;
      const sends: Promise<void>[] = [];
      // Not awaited one by one, so that many wait when the end comes.
      for (let index = 0; index < operation.messages; index++)
        sends.push(channel.send(new Uint8Array(operation.bytes)));
      const sent = Promise.allSettled(sends);
      await turns(operation.after);
      if (operation.end === "fail") channel.fail({ reads: operation.reads });
      else if (operation.end !== "leave") channel[operation.end]();
      // One whose reader or writer stalls for ever would end with its client; here after a while.
      await Promise.race([Promise.all([sent, reading]), turns(300)]);
      channel.cancel();
      await Promise.all([sent, reading]);
      return;
    }
    case "source": {
      const channel = await end.channel("sourceChan", [operation.messages, operation.bytes]);
      for (let index = 0; index < operation.reads; index++) await channel.receive();
      channel.cancel();
      return;
    }
    case "ending": {
      const channel = await end.channel("endingChan", [operation.how]);
      if (operation.reads) await readAll(channel);
      await turns(20);
      channel.cancel();
    }
  }
}

test("all credit comes back, no stream, timer or byte stays, in either direction", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(operation, fc.boolean()), { minLength: 1, maxLength: 40 }),
      fc.constantFrom(undefined, 1000),
      async (operations, chunkBytes) => {
        const limits = { sessionWindowBytes: sessionWindowBytesMin, streamsMax: streamsMaxMin };
        const rig = new Rig(memoryTransportPair(clock, chunkBytes === undefined ? {} : { chunkBytes }), clock, {
          client: limits,
          server: limits,
        });
        const unfinished = new Set(operations);
        const done = Promise.allSettled(
          operations.map((entry) =>
            run(entry[1] ? rig.server : rig.client, entry[0]).finally(() => unfinished.delete(entry)),
          ),
        );
        await turns(100);
        rig.facts.gate.open();
        await eventually(() => unfinished.size === 0, "each operation finishes");
        for (const outcome of await done) {
          // Every error is typed; `INTERNAL` would be a bug of ours.
          if (outcome.status === "rejected")
            expect(outcome.reason).toMatchObject({ reason: expect.not.stringMatching(/INTERNAL|VIOLATION/) });
        }
        await rig.close();
      },
    ),
    // A failing run waits for seconds, and so would each step of shrinking.
    { numRuns: 200, endOnFailure: true },
  );
});
