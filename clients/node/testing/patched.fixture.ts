/** A thread that simulates with sources that were changed, and says how that failed. */

import { parentPort, workerData } from "node:worker_threads";
import { loadPatched, type Patch } from "@leveros/simulator/sick/patch.ts";

loadPatched((workerData as { readonly patches: readonly Patch[] }).patches);
const { wakesLate } = await import("./rooms.fixture.ts");
wakesLate(5).then(
  () => parentPort?.postMessage("no failure"),
  (error: Error) => parentPort?.postMessage(error.message),
);
