/**
 * `npm run cluster`: brings the cluster up and holds it until Ctrl-C. `npm run cluster -- build` fills the cache only;
 * `npm run cluster -- down` puts the machine back after a run that was killed.
 */

import { once } from "node:events";
import { cacheDirectory } from "./cache.ts";
import { Cluster } from "./cluster.ts";
import { lockMachine, serveControl } from "./control.ts";
import { interrupted } from "./interruption.ts";
import { prepareMachine, restoreMachine } from "./machine.ts";
import { clusterParts } from "./parts.ts";
import { Timings } from "./timings.ts";

async function main(command: string): Promise<void> {
  const timings = new Timings();
  if (!["up", "build", "down"].includes(command)) throw new Error(`${command}: expected up, build or down`);
  await prepareMachine();
  if (command === "down") {
    await lockMachine();
    await restoreMachine();
    return;
  }
  const parts = await clusterParts();
  timings.step(`programs, in ${cacheDirectory}`);
  if (command === "build") return;
  await lockMachine();
  await restoreMachine();
  const cluster = new Cluster(parts);
  try {
    await cluster.up((name) => timings.step(name));
    const control = await serveControl(cluster);
    console.log(`
export KUBECONFIG=${cluster.kubeconfig} KUBECACHEDIR=${cluster.kubectlCache} PATH=${parts.tools.join(":")}:$PATH
export LEVER_E2E_IMAGES='${JSON.stringify(cluster.imageIds)}'

Ctrl-C takes it down.`);
    if (!interrupted.aborted) await once(interrupted, "abort");
    control.close();
  } finally {
    await cluster.down();
    timings.step("down");
  }
}

await main(process.argv[2] ?? "up").catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
