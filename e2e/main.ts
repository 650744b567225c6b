/**
 * `npm run e2e`: the tests of e2e/kubernetes on a real Kubernetes: the one that `$KUBECONFIG` names, else one that is
 * brought up for them and taken down afterwards, whatever happens. Arguments go to vitest: `npm run e2e -- crds`; `--faults` takes
 * the tests of outages instead.
 *
 * Exit status: 1 if tests fail, 2 if there was no cluster for them. What a failed run leaves to read is in
 * .cache/e2e-logs.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import path from "node:path";
import { Cluster, type ClusterParts } from "./cluster/cluster.ts";
import { run } from "./cluster/command.ts";
import { lockMachine, serveControl } from "./cluster/control.ts";
import { interrupted } from "./cluster/interruption.ts";
import { leftovers, prepareMachine, restoreMachine } from "./cluster/machine.ts";
import { clusterParts } from "./cluster/parts.ts";
import { Timings } from "./cluster/timings.ts";
import { collectLogs } from "./harness/cluster-logs.ts";
import { testNamespaceLabel } from "./harness/test-namespace.ts";

const root = path.resolve(import.meta.dirname, "..");
const logs = path.join(root, ".cache/e2e-logs");
const timings = new Timings();

async function main(): Promise<number> {
  await rm(logs, { recursive: true, force: true });
  return process.env["KUBECONFIG"] ? onGivenCluster() : onOwnCluster();
}

async function onGivenCluster(): Promise<number> {
  const context = await run("kubectl", ["config", "current-context"]);
  console.log(`on the cluster of KUBECONFIG, context ${context.trim()}`);
  const exitCode = await vitest({});
  if (exitCode !== 0) await collectLogs(logs);
  await run("kubectl", ["delete", "namespaces", "--selector", testNamespaceLabel, "--wait=false"]);
  return exitCode;
}

async function onOwnCluster(): Promise<number> {
  let parts: ClusterParts;
  try {
    await prepareMachine();
    parts = await clusterParts();
    timings.step("programs");
    await lockMachine();
    await restoreMachine();
  } catch (error) {
    console.error(`no cluster could be built: ${error instanceof Error ? error.message : error}`);
    return 2;
  }
  const cluster = new Cluster(parts);
  // For the tests and for what collects the logs.
  process.env["KUBECONFIG"] = cluster.kubeconfig;
  process.env["KUBECACHEDIR"] = cluster.kubectlCache;
  process.env["PATH"] = [...parts.tools, process.env["PATH"]].join(":");
  let exitCode = 2;
  try {
    await cluster.up((name) => timings.step(name));
    exitCode = 1;
    const control = await serveControl(cluster);
    exitCode = await vitest({ LEVER_E2E_IMAGES: JSON.stringify(cluster.imageIds) });
    timings.step("tests");
    control.close();
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
  } finally {
    if (exitCode !== 0) await collectLogs(logs, cluster);
    await cluster.down();
    timings.step("down");
  }
  const left = await leftovers();
  if (left.length > 0) throw new Error(`the cluster has left on the machine: ${left.join(", ")}`);
  return exitCode;
}

/** Its exit status. It is ended with all that its tests have started when this process is told to end. */
async function vitest(env: Readonly<Record<string, string>>): Promise<number> {
  interrupted.throwIfAborted();
  const faults = process.argv.includes("--faults");
  const given = process.argv.slice(2).filter((arg) => arg !== "--faults");
  const args = ["run", "--project", faults ? "e2e-faults" : "e2e", ...given];
  const child = spawn(path.join(root, "node_modules/.bin/vitest"), args, {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, ...env },
    detached: true,
  });
  const exited = once(child, "exit") as Promise<[number | null]>;
  const killGroup = () => {
    try {
      process.kill(-(child.pid as number), "SIGKILL");
    } catch {
      // Nothing of it is left.
    }
  };
  interrupted.addEventListener("abort", killGroup, { once: true });
  const [exitCode] = await exited;
  killGroup();
  return interrupted.aborted ? 130 : (exitCode ?? 1);
}

process.exitCode = await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  return 1;
});
timings.print();
if (process.exitCode !== 0) console.log(`what was left to read is in ${path.relative(process.cwd(), logs)}`);
