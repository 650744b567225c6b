import type { Socket } from "node:net";
import fc from "fast-check";
import { expect, test } from "vitest";
import { eachFrame, FrameReader, FrameWriter } from "./frames.ts";

/** What a writer puts on the wire for these frames. */
async function written(frames: readonly { id: number; payload: Uint8Array }[]): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const socket = {
    write(chunk: Buffer, done: () => void) {
      chunks.push(Buffer.from(chunk));
      queueMicrotask(done);
    },
  };
  const writer = new FrameWriter(socket as unknown as Socket);
  for (const { id, payload } of frames) writer.frame(id, payload);
  await new Promise((resolve) => setImmediate(resolve));
  return Buffer.concat(chunks);
}

test("any chunking gives the frames that were written", async () => {
  const frame = fc.record({
    id: fc.integer({ min: 0, max: 0xffffffff }),
    payload: fc.oneof(fc.uint8Array({ maxLength: 40 }), fc.constant(new Uint8Array(300_000).fill(7))),
  });
  const cuts = fc.array(fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constant(65_536)), {
    minLength: 1,
    maxLength: 20,
  });
  await fc.assert(
    fc.asyncProperty(fc.array(frame, { maxLength: 12 }), cuts, async (frames, cuts) => {
      const wire = await written(frames);
      const found: { id: number; payload: Uint8Array }[] = [];
      const reader = new FrameReader((bytes, start, end) => {
        eachFrame(bytes, start, end, (id, from, to) =>
          found.push({ id, payload: new Uint8Array(bytes.subarray(from, to)) }),
        );
      });
      for (let at = 0, cut = 0; at < wire.length; cut++) {
        // Small cuts at first, then large ones, so that a large payload takes few.
        const bytes = cut < 100 ? (cuts[cut % cuts.length] ?? 1) : 65_536;
        const chunk = Buffer.from(wire.subarray(at, at + bytes));
        reader.push(chunk, chunk.length);
        chunk.fill(0);
        at += bytes;
      }
      expect(found.length).toBe(frames.length);
      for (const [index, frame] of frames.entries()) {
        expect(found[index]?.id).toBe(frame.id);
        expect(Buffer.compare(found[index]?.payload ?? Buffer.of(), frame.payload)).toBe(0);
      }
    }),
    { numRuns: 60 },
  );
});

test("a frame beyond the limit is refused", () => {
  const reader = new FrameReader(() => {});
  const header = Buffer.from([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1]);
  expect(() => reader.push(header, header.length)).toThrow("4294967295 bytes");
});
