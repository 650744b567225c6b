import { expect, test } from "vitest";
import { type Cell, median, summarise } from "./result.ts";

function cell(path: string, ...cpu: readonly (number | string)[]): Cell {
  const rounds = cpu.map((cpuMicrosPerCall) => {
    if (typeof cpuMicrosPerCall === "string") return { error: cpuMicrosPerCall };
    const callsPerSecond = 1000 / cpuMicrosPerCall;
    return {
      cpuMicrosPerCall,
      callsPerSecond,
      cpuMicrosPerCallByRole: {},
      calls: 1,
      elapsedMicros: 1,
      p50Micros: cpuMicrosPerCall,
      p99Micros: 2 * cpuMicrosPerCall,
    };
  });
  return { path, bytes: 100, inFlight: 1, rounds };
}

test("the median", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
});

test("worst is the dearest, and the slowest", () => {
  const summary = summarise(cell("a", 10, 40, 20), [], []);
  expect(summary?.cpuMicrosPerCall).toEqual({ median: 20, worst: 40 });
  expect(summary?.callsPerSecond).toEqual({ median: 50, worst: 25 });
  expect(summary?.p99Micros).toEqual({ median: 40, worst: 80 });
});

test("ratios are of the same round", () => {
  const [a, base] = [cell("a", 10, 40, 20), cell("base", 5, 10, 20)];
  expect(summarise(a, [a, base], ["base"])?.cpuRatios).toEqual({ base: { median: 2, worst: 4 } });
  expect(summarise(base, [a, base], ["base"])?.cpuRatios).toEqual({});
});

test("one error makes a cell void, and leaves others without a ratio to it", () => {
  const [a, base] = [cell("a", 10, 20), cell("base", 5, "cut")];
  expect(summarise(base, [a, base], [])).toBeUndefined();
  expect(summarise(a, [a, base], ["base"])?.cpuRatios).toEqual({});
});
