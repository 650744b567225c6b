/** What there is to read after tests have failed: the cluster's own logs, and what the API server and pods say. */

import { cp, mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Cluster } from "../cluster/cluster.ts";
import { kubectlResult } from "./kubectl.ts";
import { testNamespaceLabel } from "./test-namespace.ts";

/** Fills `directory`. Never throws: it must not hide the failure that it is about. */
export async function collectLogs(directory: string, cluster?: Cluster): Promise<void> {
  await mkdir(directory, { recursive: true });
  const ask = async (file: string, args: readonly string[]) => {
    const { stdout, stderr } = await kubectlResult(["--request-timeout=10s", ...args]).catch((error: unknown) => ({
      stdout: "",
      stderr: String(error),
    }));
    await writeFile(path.join(directory, file), stdout + stderr);
    return stdout;
  };
  await ask("nodes.txt", ["describe", "nodes"]);
  await ask("pods.txt", ["get", "pods", "--all-namespaces", "--output=wide"]);
  await ask("events.txt", ["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"]);
  await ask("lever.yaml", ["get", "lever", "--all-namespaces", "--output=yaml"]);
  const namespaces = await ask("namespaces.txt", ["get", "namespaces", "--selector", testNamespaceLabel, "-o", "name"]);
  for (const name of namespaces.split("\n").filter(Boolean)) {
    const namespace = path.basename(name);
    await ask(`${namespace}-pods.yaml`, ["get", "pods", "--namespace", namespace, "--output=yaml"]);
    if (cluster !== undefined) continue;
    const pods = (await ask(`${namespace}-pods.txt`, ["get", "pods", "--namespace", namespace, "-o", "name"])).split(
      "\n",
    );
    for (const pod of pods.filter(Boolean)) {
      const file = `${namespace}-${path.basename(pod)}.log`;
      await ask(file, ["logs", "--namespace", namespace, pod, "--all-containers", "--prefix", "--tail=10000"]);
    }
  }
  if (cluster === undefined) return;
  await cp(cluster.logs, path.join(directory, "cluster"), { recursive: true }).catch(() => {});
  for (const { name } of cluster.nodes) {
    await cp(cluster.podLogs(name), path.join(directory, "pods", name), { recursive: true }).catch(() => {});
  }
}
