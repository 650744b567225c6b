/**
 * The test tiers that vitest runs: `unit` (`npm test`) and `processes` (`npm run test:processes`: real processes that
 * are killed, large transfers; one file after another, so that they do not disturb each other's timing).
 */

import { configDefaults, defineConfig } from "vitest/config";

const processes = "**/*.processes.test.ts";

export default defineConfig({
  test: {
    pool: "forks",
    projects: [
      {
        test: {
          name: "unit",
          include: ["**/*.test.ts"],
          exclude: [...configDefaults.exclude, processes],
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
    ],
  },
});
