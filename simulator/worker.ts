/** A thread that runs the seeds it is given, one after another. */

import { parentPort } from "node:worker_threads";
import { type SimulationOptions, type SimulationReport, simulateSeed } from "./simulation.ts";

parentPort?.on("message", ({ seed, minutes, weather }: SimulationOptions) => {
  void simulateSeed({ seed, minutes, weather }).then(
    (report: SimulationReport) => parentPort?.postMessage(report),
    (error: unknown) => {
      throw error;
    },
  );
});
