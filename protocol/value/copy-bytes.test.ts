import { expect, test } from "vitest";
import { copyBytes } from "./copy-bytes.ts";

test("a copy of a Buffer shares no memory with it", () => {
  const buffer = Buffer.from([1, 2, 3]);
  const copy = copyBytes(buffer);
  buffer[0] = 9;
  expect([...copy]).toEqual([1, 2, 3]);
  expect(Object.getPrototypeOf(copy)).toBe(Uint8Array.prototype);
});
