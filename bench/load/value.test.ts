import { expect, test } from "vitest";
import { argsBytes, BYTES_MIN, sameValue, sampleValue } from "./value.ts";

test.each([BYTES_MIN, 150, 301, 1024, 16_384, 1_048_576])("arguments of %i bytes", (bytes) => {
  const size = argsBytes(sampleValue(bytes, 7)).length;
  expect(size).toBeLessThanOrEqual(bytes);
  expect(size).toBeGreaterThan(bytes - 4);
});

test("the values of two indexes differ", () => {
  expect(sameValue(sampleValue(100, 1), sampleValue(100, 2))).toBe(false);
});

test("equality sees every difference", () => {
  const value = sampleValue(1024, 3);
  expect(sameValue(value, structuredClone(value))).toBe(true);
  expect(sameValue({ a: [1, { b: "x" }] }, { a: [1, { b: "y" }] })).toBe(false);
  expect(sameValue({ a: 1 }, { a: 1, b: 2 })).toBe(false);
  expect(sameValue({ a: 1, b: 2 }, { a: 1 })).toBe(false);
  expect(sameValue([1, 2], [1])).toBe(false);
  expect(sameValue([], {})).toBe(false);
  expect(sameValue({}, null)).toBe(false);
});
