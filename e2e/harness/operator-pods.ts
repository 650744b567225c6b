/** The operator's replicas in a cluster, and which one leads. */

import { readdirSync, readFileSync } from "node:fs";
import { kubectlJson } from "./kubectl.ts";
import { until } from "./until.ts";

export const operatorNamespace = "lever-system";
export const operatorDeployment = "lever-operator";

interface Lease {
  readonly spec: { readonly holderIdentity?: string; readonly leaseTransitions?: number };
}

/** The pod that leads; waits for one that is not `other`. */
export async function leader(other?: string): Promise<string> {
  const get = ["get", `lease/${operatorDeployment}`, "--namespace", operatorNamespace];
  return until(
    "an operator leads",
    async () => {
      const { holderIdentity } = (await kubectlJson<Lease>(get)).spec;
      // The pod's name, and what tells its processes apart.
      const [pod = ""] = (holderIdentity ?? "").split("_");
      return pod !== "" && pod !== other && pod;
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
