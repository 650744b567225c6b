/** The operator's replicas in a cluster, and which one leads. */

import { readdirSync, readFileSync } from "node:fs";
import type { TargetPod } from "./cluster-load.ts";
import { kubectlJson } from "./kubectl.ts";
import { leverNamespace } from "./lever-install.ts";
import { until } from "./until.ts";

export const operatorDeployment = "lever-operator";

export async function operatorPods(): Promise<readonly TargetPod[]> {
  const selector = "app.kubernetes.io/name=lever,app.kubernetes.io/component=operator";
  const get = ["get", "pods", "--namespace", leverNamespace, "--selector", selector];
  return (await kubectlJson<{ items: TargetPod[] }>(get)).items;
}

interface Lease {
  readonly spec: { readonly holderIdentity?: string; readonly leaseTransitions?: number };
}

/** Who leads: its name is its pod's and one of its process. Waits for one that is not `other`. */
export async function leader(other?: string): Promise<{ readonly name: string; readonly pod: string }> {
  const get = ["get", `lease/${operatorDeployment}`, "--namespace", leverNamespace];
  return until(
    "an operator leads",
    async () => {
      const { holderIdentity } = (await kubectlJson<Lease>(get)).spec;
      if (holderIdentity === undefined || holderIdentity === "" || holderIdentity === other) return undefined;
      return { name: holderIdentity, pod: holderIdentity.replace(/_[^_]*$/, "") };
    },
    60_000,
  );
}

/**
 * Kills the first process of a pod's container without grace, as the kernel does when memory is short. Only on a cluster
 * whose nodes are this machine.
 */
export function killProcessOf(pod: string): void {
  const pids = readdirSync("/proc").filter((entry) => {
    if (!/^\d+$/.test(entry)) return false;
    try {
      const env = readFileSync(`/proc/${entry}/environ`, "latin1").split("\0");
      return env.includes(`HOSTNAME=${pod}`) && readFileSync(`/proc/${entry}/cmdline`, "latin1").includes("/main.js");
    } catch {
      // It has ended meanwhile.
      return false;
    }
  });
  if (pids.length !== 1) throw new Error(`${pods(pids)} of ${pod}, expected one`);
  process.kill(Number(pids[0]), "SIGKILL");
}

const pods = (pids: readonly string[]) => (pids.length === 0 ? "no process" : `processes ${pids.join(", ")}`);
