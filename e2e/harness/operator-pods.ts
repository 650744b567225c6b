/** The operator's replicas in a cluster, and which one leads. */

import { kubectl } from "./kubectl.ts";
import { leverNamespace } from "./lever-install.ts";
import { type ListedPod, listPods } from "./service-pods.ts";
import { until } from "./until.ts";

export const operatorDeployment = "lever-operator";

export function operatorPods(): Promise<readonly ListedPod[]> {
  return listPods(leverNamespace, "app.kubernetes.io/name=lever,app.kubernetes.io/component=operator");
}

/** Who leads: its name is its pod's and one of its process. Waits for one that is not `other`. */
export async function leader(other?: string): Promise<{ readonly name: string; readonly pod: string }> {
  const lease = [`lease/${operatorDeployment}`, "--namespace", leverNamespace];
  // After a first installation it is not there at once.
  const get = ["get", ...lease, "--ignore-not-found", "--output=jsonpath={.spec.holderIdentity}"];
  return until(
    "an operator leads",
    async () => {
      const name = await kubectl(get);
      return name !== "" && name !== other && { name, pod: name.replace(/_[^_]*$/, "") };
    },
    60_000,
  );
}

/** As many as that. Resolves when they are available, and no others are left; gives how many were wanted before. */
export async function scaleOperator(replicas: number): Promise<number> {
  const deployment = [`deployment/${operatorDeployment}`, "--namespace", leverNamespace];
  const get = ["get", ...deployment, "--ignore-not-found", "--output=jsonpath={.spec.replicas}"];
  // 0 also where none is installed.
  const before = Number(await kubectl(get));
  if (before === replicas) return before;
  await kubectl(["scale", ...deployment, `--replicas=${replicas}`]);
  await kubectl(["rollout", "status", ...deployment, "--timeout=60s"]);
  await until("no other operators are left", async () => (await operatorPods()).length === replicas, 60_000);
  return before;
}
