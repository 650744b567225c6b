import fc from "fast-check";
import { expect, test } from "vitest";
import { LatencyHistogram } from "./histogram.ts";

function exactPercentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(1, Math.ceil((percent / 100) * sorted.length)) - 1] ?? Number.NaN;
}

test("a percentile is the exact one, at most 0.8 % too high", () => {
  const tenthsOfMicros = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 0, max: 0xffffffff }));
  fc.assert(
    fc.property(
      fc.array(tenthsOfMicros, { minLength: 1, maxLength: 300 }),
      fc.integer({ min: 0, max: 100 }),
      (tenths, percent) => {
        const histogram = new LatencyHistogram();
        for (const value of tenths) histogram.record(value / 10);
        const exact = exactPercentile(tenths, percent) / 10;
        const found = histogram.percentile(percent);
        expect(histogram.total).toBe(tenths.length);
        expect(found).toBeGreaterThanOrEqual(exact);
        expect(found).toBeLessThanOrEqual(exact * (1 + 1 / 128) + 1e-9);
      },
    ),
  );
});

test("latencies up to 25.6 µs keep a tenth of a microsecond", () => {
  const histogram = new LatencyHistogram();
  for (const micros of [12.3, 12.4, 25.5]) histogram.record(micros);
  expect([0, 50, 100].map((percent) => histogram.percentile(percent))).toEqual([12.3, 12.4, 25.5]);
});

test("what is beyond the range counts as its end", () => {
  const histogram = new LatencyHistogram();
  histogram.record(1e12);
  expect(histogram.percentile(99)).toBe(0xffffffff / 10);
});

test("an empty histogram has no percentile", () => {
  expect(new LatencyHistogram().percentile(50)).toBeNaN();
});
