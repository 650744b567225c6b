import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { slotOf, xxHash32 } from "./slot.ts";

interface Vector {
  readonly resource: string;
  readonly xxHash32: number;
  readonly slots: Readonly<Record<string, number>>;
}

const file = new URL("../vectors/slots.json", import.meta.url);
const vectors = (JSON.parse(readFileSync(file, "utf8")) as { resources: readonly Vector[] }).resources;

test.each(vectors)("$resource", ({ resource, xxHash32: hash, slots }) => {
  expect(xxHash32(Buffer.from(resource))).toBe(hash);
  for (const [count, slot] of Object.entries(slots)) expect(slotOf(resource, Number(count))).toBe(slot);
});

test("the vectors cover every length around a stripe, and the longest resource", () => {
  const lengths = vectors.map(({ resource }) => Buffer.byteLength(resource));
  for (const length of [1, 2, 3, 4, 15, 16, 17, 31, 32, 33, 1024]) expect(lengths).toContain(length);
});

test("no bytes: the value in the specification", () => {
  expect(xxHash32(new Uint8Array())).toBe(0x02cc5d05);
});

test("names that count up spread over all slots", () => {
  const counts = new Array<number>(256).fill(0);
  for (let index = 0; index < 25_600; index++)
    counts[slotOf(`room-${index}`, 256)] = (counts[slotOf(`room-${index}`, 256)] ?? 0) + 1;
  expect(Math.min(...counts)).toBeGreaterThan(50);
  expect(Math.max(...counts)).toBeLessThan(160);
});

// From Python's xxhash.xxh32_intdigest.
test.each([
  ["a", 0, 0x550d7456],
  ["a", 1, 0xf514706f],
  ["chat/room-7", 2654435761, 0x0be74abb],
  ["x".repeat(16), 7, 0x1d2bf92d],
  ["the quick brown fox jumps over the lazy dog", 4294967295, 0x345be573],
])("with a seed: %s, %i", (text, seed, hash) => {
  expect(xxHash32(Buffer.from(text), seed)).toBe(hash);
});
