import fc from "fast-check";
import { expect, test } from "vitest";
import { LatencyHistogram } from "./latency-histogram.ts";

test("percentiles are those of the sorted durations, within 1 %", () => {
  const durations = fc.array(fc.double({ min: 0.001, max: 3_600_000, noNaN: true }), { minLength: 1, maxLength: 300 });
  fc.assert(
    fc.property(durations, fc.double({ min: 0.001, max: 1, noNaN: true }), (all, part) => {
      const histogram = new LatencyHistogram();
      for (const ms of all) histogram.add(ms);
      const exact = all.toSorted((a, b) => a - b)[Math.ceil(all.length * part) - 1] as number;
      const found = histogram.percentile(part);
      expect(found).toBeGreaterThanOrEqual(exact * 0.9999);
      expect(found).toBeLessThanOrEqual(exact * 1.0101);
      expect(histogram.maxMs).toBe(Math.max(...all));
      expect(histogram.count).toBe(all.length);
    }),
  );
});

test("without durations all are 0, and no duration is out of range", () => {
  const histogram = new LatencyHistogram();
  expect([histogram.percentile(0.5), histogram.maxMs]).toEqual([0, 0]);
  histogram.add(0);
  histogram.add(1e12);
  expect(histogram.percentile(1)).toBeGreaterThan(3_600_000);
});
