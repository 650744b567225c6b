/**
 * The test tiers that vitest runs: `unit` (`npm test`), `processes` (`npm run test:processes`: real processes that are
 * killed, large transfers), `e2e` (`npm run e2e`, which brings its cluster) and `e2e-faults` (`npm run e2e -- --faults`:
 * outages of minutes, and what happens under load with more of it before and after; not in CI). Files of all but the
 * first run one after another, so that they do not disturb each other's timing.
 *
 * `LEVER_TEST_REPORT` names a file that gets the results as JSON beside the usual output; `.ci/run` counts from it.
 */

import { configDefaults, defineConfig } from "vitest/config";

const processes = "**/*.processes.test.ts";
const e2e = "**/*.e2e.test.ts";
const faults = "**/*.faults.e2e.test.ts";
const underLoad = "**/*-under-load.e2e.test.ts";
const report = process.env.LEVER_TEST_REPORT;

export default defineConfig({
  test: {
    pool: "forks",
    reporters: report === undefined ? ["default"] : ["default", ["json", { outputFile: report }]],
    projects: [
      {
        test: {
          name: "unit",
          include: ["**/*.test.ts"],
          exclude: [...configDefaults.exclude, processes, e2e],
          testTimeout: 30_000,
        },
      },
      {
        test: {
          name: "processes",
          include: [processes],
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: "e2e",
          include: [e2e],
          exclude: [...configDefaults.exclude, faults],
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          name: "e2e-faults",
          include: [faults, underLoad],
          // Of load on either side of what happens; the e2e tier has less time.
          env: { LEVER_AROUND_SECONDS: "30" },
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
