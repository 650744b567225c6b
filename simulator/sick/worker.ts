/** A thread whose sources are patched before they are loaded. */

import { parentPort, workerData } from "node:worker_threads";
import type { SimulationOptions } from "../simulation.ts";
import { loadPatched, type Patch } from "./patch.ts";

const assertLoaded = loadPatched((workerData as { patches: readonly Patch[] }).patches);
const { simulateSeed } = await import("../simulation.ts");
assertLoaded();
parentPort?.on("message", ({ seed, minutes, weather }: SimulationOptions) => {
  void simulateSeed({ seed, minutes, weather }).then((report) => parentPort?.postMessage(report));
});
parentPort?.postMessage("ready");
