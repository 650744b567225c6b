import { expect, test } from "vitest";
import { TokenBuckets } from "./token-buckets.ts";

test("each key has its own", () => {
  const buckets = new TokenBuckets({ ratePerSecond: 2, burst: 2 }, 10);
  expect([buckets.take("a", 0), buckets.take("a", 0), buckets.take("a", 0)]).toEqual([true, true, false]);
  expect(buckets.take("b", 0)).toBe(true);
  expect([buckets.take("a", 500), buckets.take("a", 500)]).toEqual([true, false]);
});

test("of more keys than are kept the one that has not asked for longest begins anew", () => {
  const buckets = new TokenBuckets({ ratePerSecond: 0.001, burst: 1 }, 2);
  for (const key of ["a", "b"]) expect(buckets.take(key, 0)).toBe(true);
  expect(buckets.take("a", 0)).toBe(false);
  expect(buckets.take("c", 0)).toBe(true);
  expect(buckets.take("a", 0)).toBe(false);
  expect(buckets.take("b", 0)).toBe(true);
});
