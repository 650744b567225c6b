import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { afterAll, describe, expect, it } from "vitest";
import { runSick } from "./sick/sick-run.ts";
import { type Variant, variants } from "./sick/variants.ts";
import { type SimulationReport, simulateSeed } from "./simulation.ts";

/** Beside it each world takes half a minute in which all has to be well again. */
const minutes = 0.5;
const seeds = 200;

/** All seeds, in as many threads as there are cores. */
async function simulateAll(firstSeed: number): Promise<SimulationReport[]> {
  const reports: SimulationReport[] = [];
  let next = firstSeed;
  const run = async () => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const give = () => {
      if (next < firstSeed + seeds) worker.postMessage({ seed: next++, minutes });
      else resolve();
    };
    worker.on("error", reject);
    worker.on("message", (report: SimulationReport) => {
      reports.push(report);
      give();
    });
    give();
    await promise;
    await worker.terminate();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, run));
  return reports;
}

describe("the simulator", () => {
  const counted: Record<string, number> = {};
  afterAll(() => {
    // biome-ignore lint/suspicious/noConsole: what was broken how often is a part of what the run shows.
    console.log(JSON.stringify(counted));
  });

  it(`finds no broken promise in ${seeds} seeds`, { timeout: 600_000 }, async () => {
    const reports = await simulateAll(1);
    expect(reports).toHaveLength(seeds);
    let virtualMs = 0;
    for (const report of reports) {
      virtualMs += report.virtualMs;
      for (const [fault, count] of Object.entries(report.faults)) counted[fault] = (counted[fault] ?? 0) + count;
    }
    const broken = reports.filter(({ violations }) => violations.length > 0);
    expect(
      broken.map(({ seed, violations }) => `seed ${seed}: ${violations[0]?.promise}: ${violations[0]?.text}`),
    ).toEqual([]);
    const faults = Object.values(counted).reduce((sum, count) => sum + count, 0);
    // The last half a minute of each world has none.
    expect(faults).toBeGreaterThan((seeds * minutes * 60) / 10);
    expect(virtualMs).toBeGreaterThan(seeds * minutes * 60_000);
  });

  it("does the same for the same seed, to the last event, and something else for another one", async () => {
    const hashes: string[] = [];
    for (const seed of [7, 7, 8]) hashes.push((await simulateSeed({ seed, minutes: 0.3 })).hash);
    expect(hashes[1]).toBe(hashes[0]);
    expect(hashes[2]).not.toBe(hashes[0]);
  });

  // The others take more seeds: `node simulator/sick.ts`.
  it.each([[14], [20]])(
    "finds what is wrong where rule %d of the sick list is broken",
    { timeout: 300_000 },
    async (number) => {
      const variant = variants.find((each) => each.number === number) as Variant;
      const options = { firstSeed: 1, seeds: 60, minutes: 1, threads: availableParallelism(), enough: 2 };
      const { found } = await runSick(variant, options);
      expect(found.length).toBeGreaterThanOrEqual(2);
    },
  );
});
