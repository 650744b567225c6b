/** The operator's leader is killed under load: another one leads before a lease lapses, and nobody's calls notice. */

import { beforeAll, expect, test } from "vitest";
import {
  aroundMs,
  ClusterLoad,
  deployTarget,
  describeLoad,
  failedCalls,
  harm,
  noHarm,
} from "../harness/cluster-load.ts";
import { kubectl } from "../harness/kubectl.ts";
import { hasBuiltImages } from "../harness/lever-images.ts";
import { installLever, leverNamespace } from "../harness/lever-install.ts";
import { leader, operatorDeployment } from "../harness/operator-pods.ts";
import { killProcessOf } from "../harness/pod-processes.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

const inLever = ["--namespace", leverNamespace];
const allAvailable = () =>
  kubectl(["rollout", "status", `deployment/${operatorDeployment}`, "--timeout=90s", ...inLever]);

beforeAll(() => installLever());

test("its pod deleted without grace, its process killed", async () => {
  const namespace = await testNamespace("leader");
  await deployTarget(namespace);
  await using load = await ClusterLoad.start(namespace);
  const events = [
    await load.during("the leader's pod deleted without grace", async () => {
      const { name, pod } = await leader();
      await kubectl(["delete", "pod", pod, "--grace-period=0", "--force", ...inLever]);
      await leader(name);
      await allAvailable();
    }),
  ];
  if (hasBuiltImages) {
    const killed = await load.during("the leader's process killed", async () => {
      const { name, pod } = await leader();
      killProcessOf(pod);
      await leader(name);
      await allAvailable();
    });
    events.push(killed);
  }
  const report = await load.stop();
  console.log(describeLoad("leader killed", report, events));
  expect(harm(report)).toEqual(noHarm);
});

test("the control: nobody leads for longer than a lease", async () => {
  const namespace = await testNamespace("nobody");
  await deployTarget(namespace);
  await using load = await ClusterLoad.start(namespace);
  const scale = (replicas: number) =>
    kubectl(["scale", `deployment/${operatorDeployment}`, `--replicas=${replicas}`, ...inLever]);
  try {
    const away = await load.during(
      "no operator",
      async () => {
        await scale(0);
        await until("calls for rooms fail", async () => (await load.progress()).failed > 0, 60_000);
        await scale(2);
        await leader();
      },
      aroundMs / 2,
    );
    const report = await load.stop();
    console.log(describeLoad("leader killed, the control", report, [away]));
    expect(failedCalls(report)).toBeGreaterThan(0);
    expect(Object.keys(report.calls.failed).filter((key) => !key.includes("room"))).toEqual([]);
  } finally {
    await scale(2);
    await allAvailable();
  }
});
