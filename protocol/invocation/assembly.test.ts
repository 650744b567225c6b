import fc from "fast-check";
import { expect, test } from "vitest";
import { Assembly, AssemblyBudget } from "./assembly.ts";

const sizes = fc.array(
  fc.oneof(fc.constantFrom(0, 1, 1, 2, 4095, 4096, 4097, 32_768), fc.integer({ min: 0, max: 6000 })),
  {
    maxLength: 60,
  },
);

test("fragments of any sizes come out as they went in", () => {
  fc.assert(
    fc.property(sizes, fc.integer({ min: 0, max: 5000 }), (fragments, last) => {
      const budget = new AssemblyBudget(10_000_000);
      const assembly = new Assembly(budget);
      // Two items, one after the other: nothing of the first is left in the second.
      for (let round = 0; round < 2; round++) {
        const parts = [...fragments, last].map((size, index) => new Uint8Array(size).fill(index + round));
        for (const part of parts.slice(0, -1)) expect(assembly.add(part)).toBe(true);
        expect(budget.bytes).toBe(fragments.reduce((sum, size) => sum + size, 0));
        const item = assembly.finish(parts.at(-1) as Uint8Array);
        expect(Buffer.compare(item, Buffer.concat(parts))).toBe(0);
        expect(budget.bytes).toBe(0);
      }
    }),
  );
});

test("what was added may be changed if it was small, and does not hold its chunk", () => {
  const assembly = new Assembly(new AssemblyBudget(1000));
  const chunk = new Uint8Array(65_536).fill(1);
  assembly.add(chunk.subarray(0, 10));
  chunk.fill(2);
  expect([...new Set(assembly.finish(new Uint8Array(0)))]).toEqual([1]);
});

test("a single fragment is passed on without a copy", () => {
  const last = new Uint8Array(10);
  const assembly = new Assembly(new AssemblyBudget(1000));
  assembly.add(new Uint8Array(0));
  expect(assembly.finish(last)).toBe(last);
});

test("the budget is shared, and comes back when an item is dropped", () => {
  const budget = new AssemblyBudget(100);
  const [one, other] = [new Assembly(budget), new Assembly(budget)];
  expect(one.add(new Uint8Array(60))).toBe(true);
  expect(other.add(new Uint8Array(41))).toBe(false);
  expect(other.add(new Uint8Array(40))).toBe(true);
  one.drop();
  one.drop();
  expect(budget.bytes).toBe(40);
  expect(one.add(new Uint8Array(60))).toBe(true);
});

test("a million fragments of one byte take about their bytes", () => {
  const assembly = new Assembly(new AssemblyBudget(2_000_000));
  const one = Uint8Array.of(7);
  const chunk = new Uint8Array(65_536).fill(7);
  const before = process.memoryUsage();
  for (let index = 0; index < 1_000_000; index++) assembly.add(chunk.subarray(index % 65_536, (index % 65_536) + 1));
  const after = process.memoryUsage();
  // As views they would be a hundred million bytes or more; with room for what the runtime has not collected yet.
  expect(after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers).toBeLessThan(30_000_000);
  expect(assembly.finish(one).length).toBe(1_000_001);
});
