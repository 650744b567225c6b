/** Runs a sick variant over seeds, in threads whose sources are patched. */

import { Worker } from "node:worker_threads";
import type { SimulationReport } from "../simulation.ts";
import type { Variant } from "./variants.ts";

export interface SickReport {
  readonly variant: Variant;
  readonly seeds: number;
  /** Seeds that broke a promise, with the first violation of each. */
  readonly found: readonly { readonly seed: number; readonly promise: string; readonly text: string }[];
}

export interface SickOptions {
  readonly firstSeed: number;
  readonly seeds: number;
  readonly minutes: number;
  readonly threads: number;
  /** As in `SimulationOptions`. */
  readonly weather?: string | undefined;
  /** No more seeds after so many have found it. */
  readonly enough: number;
}

export async function runSick(variant: Variant, options: SickOptions): Promise<SickReport> {
  const found: { seed: number; promise: string; text: string }[] = [];
  let next = options.firstSeed;
  let done = 0;
  const end = options.firstSeed + options.seeds;
  const run = async () => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: { patches: variant.patches } });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    worker.on("error", reject);
    worker.on("message", (message: SimulationReport | "ready") => {
      if (message !== "ready") {
        done++;
        const [violation] = message.violations;
        if (violation !== undefined) found.push({ seed: message.seed, ...violation });
      }
      if (next < end && found.length < options.enough)
        worker.postMessage({ seed: next++, minutes: options.minutes, weather: options.weather });
      else resolve();
    });
    try {
      await promise;
    } finally {
      await worker.terminate();
    }
  };
  await Promise.all(Array.from({ length: options.threads }, run));
  return { variant, seeds: done, found };
}
