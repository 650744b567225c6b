/** The operator's replicas are replaced under load, and then the one that leads is killed: nobody's calls notice. */

import { beforeAll, expect, test } from "vitest";
import { ClusterLoad, deployTarget, describeLoad, harm, noHarm } from "../harness/cluster-load.ts";
import { kubectl } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";
import { killProcessOf, leader, operatorDeployment, operatorNamespace } from "../harness/operator-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";

const ownCluster = (process.env["LEVER_E2E_IMAGES"] ?? "{}") !== "{}";
const inOperators = ["--namespace", operatorNamespace];

const restart = async () => {
  await kubectl(["rollout", "restart", `deployment/${operatorDeployment}`, ...inOperators]);
  await kubectl(["rollout", "status", `deployment/${operatorDeployment}`, "--timeout=90s", ...inOperators]);
  await leader();
};

const deleteLeader = async () => {
  const pod = await leader();
  await kubectl(["delete", "pod", pod, "--grace-period=0", "--force", ...inOperators]);
  await leader(pod);
};

const killLeader = async () => {
  const pod = await leader();
  killProcessOf(pod);
  // The same pod may lead again once its container runs anew.
  await kubectl(["rollout", "status", `deployment/${operatorDeployment}`, "--timeout=90s", ...inOperators]);
  await leader();
};

beforeAll(installLever);

test("the operator is restarted", async () => {
  const namespace = await testNamespace("restarted");
  await deployTarget(namespace);
  await using load = await ClusterLoad.start(namespace);
  const events = [await load.during("rollout restart", restart)];
  events.push(await load.during("the leader's pod deleted without grace", deleteLeader));
  if (ownCluster) events.push(await load.during("the leader's process killed", killLeader));
  const report = await load.stop();
  console.log(describeLoad("operator restarted", report, events));
  expect(harm(report)).toEqual(noHarm);
});
