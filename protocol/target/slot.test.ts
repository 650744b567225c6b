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
