import { expect, test } from "vitest";
import { copyBytes, ownBytes } from "./copy-bytes.ts";

test("a copy of a Buffer shares no memory with it", () => {
  const buffer = Buffer.from([1, 2, 3]);
  const copy = copyBytes(buffer);
  buffer[0] = 9;
  expect([...copy]).toEqual([1, 2, 3]);
  expect(Object.getPrototypeOf(copy)).toBe(Uint8Array.prototype);
});

test("bytes that have memory of their own are not copied, views and Buffers are", () => {
  const own = Uint8Array.of(1, 2, 3);
  expect(ownBytes(own)).toBe(own);
  for (const shared of [own.subarray(0, 2), own.subarray(1), Buffer.from([1, 2, 3]), Buffer.from(own.buffer)]) {
    const copy = ownBytes(shared);
    expect(copy.buffer).not.toBe(shared.buffer);
    expect([...copy]).toEqual([...shared]);
    expect(Object.getPrototypeOf(copy)).toBe(Uint8Array.prototype);
  }
});
