import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import { FrameDecoder } from "./decode.ts";
import { FrameEncoder } from "./encode.ts";
import { frameHeaderBytes, framePayloadBytesMax, frameTypeName } from "./frame.ts";
import { keptPayload } from "./kept-payload.ts";

interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Uint8Array;
}

/** Feeds the bytes in pieces of the given sizes, over and over. */
function decode(bytes: Uint8Array, sizes: readonly number[] = [bytes.length || 1]): Frame[] {
  const frames: Frame[] = [];
  const decoder = new FrameDecoder((type, flags, stream, payload) =>
    frames.push({ type, flags, stream, payload: payload.slice() }),
  );
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length] as number;
    decoder.push(bytes.subarray(at, at + size));
    at += size;
  }
  return frames;
}

function encode(frames: readonly Frame[]): Uint8Array {
  const encoder = new FrameEncoder();
  for (const { type, flags, stream, payload } of frames) encoder.frame(type, flags, stream, payload);
  return joined(encoder.take()?.chunks ?? []);
}

function joined(chunks: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(chunks));
}

const byte = fc.integer({ min: 0, max: 255 });
const payload = fc.oneof(
  { weight: 8, arbitrary: fc.uint8Array({ maxLength: 100 }) },
  // Around the bounds of what is copied, of a block, and of a frame.
  {
    weight: 2,
    arbitrary: fc
      .tuple(fc.constantFrom(47, 48, 49, 4095, 4096, 4097, 16_384, 32_758, 32_759, 32_767, 32_768), byte)
      .map(([length, fill]) => new Uint8Array(length).fill(fill)),
  },
);
const anyFrame: fc.Arbitrary<Frame> = fc.record({
  type: byte,
  flags: byte,
  stream: fc.oneof(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 0xffffffff })),
  payload,
});
const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 70_000 })), {
  minLength: 1,
  maxLength: 8,
});

describe("vectors", () => {
  const { cases } = JSON.parse(readFileSync(new URL("../vectors/frames-valid.json", import.meta.url), "utf8")) as {
    cases: {
      name: string;
      bytes: string;
      frames: { type: number; flags: number; stream: number; payload: string }[];
    }[];
  };

  test.each(cases)("$name", ({ bytes, frames }) => {
    const wire = new Uint8Array(Buffer.from(bytes, "hex"));
    const expected = frames.map((frame) => ({
      type: frame.type,
      flags: frame.flags,
      stream: frame.stream,
      payload: new Uint8Array(Buffer.from(frame.payload, "hex")),
    }));
    for (const chunkBytes of [wire.length, 1, 2, 9, 10, 13]) expect(decode(wire, [chunkBytes])).toEqual(expected);
    expect(encode(expected)).toEqual(wire);
  });
});

describe("properties", () => {
  test("decoding is the inverse of encoding, and any chunking decodes the same", () => {
    fc.assert(
      fc.property(fc.array(anyFrame, { maxLength: 20 }), sizes, (frames, chunks) => {
        const wire = encode(frames);
        expect(decode(wire)).toEqual(frames);
        expect(decode(wire, chunks)).toEqual(frames);
      }),
      { numRuns: 300 },
    );
  });

  test("any bytes give frames or PROTOCOL_VIOLATION, the same in any chunking", () => {
    const outcome = (bytes: Uint8Array, chunks?: readonly number[]) => {
      try {
        return decode(bytes, chunks);
      } catch (error) {
        expect(LeverError.is(error) && error.reason).toBe("PROTOCOL_VIOLATION");
        return (error as LeverError).message;
      }
    };
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), sizes, (bytes, chunks) => {
        // Lengths that are seldom too large, so that decoding gets somewhere.
        for (let at = 0; at < bytes.length; at += 40) bytes[at] = 0;
        expect(outcome(bytes, chunks)).toEqual(outcome(bytes));
      }),
      { numRuns: 1000 },
    );
  });

  test("a batch holds the frames in order, whatever was taken before and is recycled", () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(anyFrame, { maxLength: 8 }), { maxLength: 8 }),
        fc.infiniteStream(fc.boolean()),
        (turns, late) => {
          const encoder = new FrameEncoder();
          const wire: Uint8Array[] = [];
          const unwritten: { chunks: readonly Uint8Array[]; recycle: () => void }[] = [];
          for (const frames of turns) {
            for (const { type, flags, stream, payload } of frames) encoder.frame(type, flags, stream, payload);
            const pending = encoder.pendingBytes;
            const batch = encoder.take();
            expect(batch?.bytes ?? 0).toBe(pending);
            if (batch === undefined) continue;
            unwritten.push(batch);
            // The transport writes late, sometimes several batches at once, and gives blocks back only then.
            if (late.next().value) continue;
            for (const { chunks, recycle } of unwritten.splice(0)) {
              wire.push(joined(chunks));
              recycle();
            }
          }
          for (const { chunks } of unwritten) wire.push(joined(chunks));
          expect(decode(joined(wire))).toEqual(turns.flat());
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe("decoder", () => {
  test("a length above the maximum is refused before any of the payload is there", () => {
    const header = Uint8Array.of(0, 0x80, 1, 7, 0, 0, 0, 0, 1);
    expect(() => decode(header)).toThrow(/MESSAGE.*32769.*32768/);
    expect(() => decode(header, [1])).toThrow(/32769/);
    expect(decode(Uint8Array.of(0, 0x80, 0, 7, 0, 0, 0, 0, 1))).toEqual([]);
  });

  test("stop drops the rest of the chunk and all that follows", () => {
    const seen: number[] = [];
    const decoder = new FrameDecoder((type) => {
      seen.push(type);
      if (type === 2) decoder.stop();
    });
    const wire = encode([1, 2, 3].map((type) => ({ type, flags: 0, stream: 0, payload: new Uint8Array(5) })));
    decoder.push(wire);
    decoder.push(wire);
    expect(seen).toEqual([1, 2]);
  });

  test("a frame within a chunk is a view of it, one that spans chunks has a buffer of its own size", () => {
    const payloads: Uint8Array[] = [];
    const decoder = new FrameDecoder((_type, _flags, _stream, payload) => payloads.push(payload));
    const wire = encode([{ type: 7, flags: 0, stream: 1, payload: new Uint8Array(100) }]);
    decoder.push(wire);
    for (const part of wire) decoder.push(Uint8Array.of(part));
    expect(payloads[0]?.buffer).toBe(wire.buffer);
    expect(payloads[1]?.buffer.byteLength).toBe(100);
  });
});

test("a payload that is kept does not hold a chunk of more than four times its cost", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 70_000 }),
      fc.integer({ min: 0, max: framePayloadBytesMax }),
      (chunk, length) => {
        const bytes = new Uint8Array(Math.max(chunk, length)).fill(7).subarray(0, length);
        const kept = keptPayload(bytes);
        expect(kept).toEqual(bytes);
        expect(kept.buffer.byteLength).toBeLessThanOrEqual(4 * (length + 64));
      },
    ),
  );
});

test("frames above 4 KiB are passed on without a copy, smaller ones may be changed after the call", () => {
  const large = new Uint8Array(4097);
  const small = new Uint8Array(4096).fill(1);
  const encoder = new FrameEncoder();
  encoder.frame(7, 0, 1, large);
  encoder.frame(7, 0, 1, small);
  small.fill(2);
  const chunks = encoder.take()?.chunks ?? [];
  expect(chunks).toContain(large);
  expect(joined(chunks).subarray(-4096)).toEqual(new Uint8Array(4096).fill(1));
  expect(chunks.map((chunk) => chunk.length)).toEqual([frameHeaderBytes, 4097, frameHeaderBytes + 4096]);
});

test("types have names", () => {
  expect([0x01, 0x0c, 0x0d, 0x0e, 0xff].map(frameTypeName)).toEqual([
    "HELLO",
    "GOAWAY",
    "REGISTER",
    "type 0x0e",
    "type 0xff",
  ]);
});
