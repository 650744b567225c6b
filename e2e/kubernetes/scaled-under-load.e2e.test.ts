/** A service is scaled from 3 to 6 and to 2 under load: no call fails, no message is lost, rooms take their state along. */

import { beforeAll, expect, test } from "vitest";
import {
  ClusterLoad,
  deployTarget,
  describeLoad,
  failedCalls,
  harm,
  noHarm,
  podsOf,
  spread,
  type TargetOptions,
} from "../harness/cluster-load.ts";
import { kubectl } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

beforeAll(installLever);

async function scaleTo(namespace: string, replicas: number): Promise<void> {
  await kubectl(["scale", "lsvc/target", `--replicas=${replicas}`, "--namespace", namespace]);
  await spread(namespace, replicas, 60_000);
  await until("no other pods are left", async () => (await podsOf(namespace, "target")).length === replicas, 60_000);
}

async function scaled(options: TargetOptions) {
  const namespace = await testNamespace("scaled");
  await deployTarget(namespace, options);
  await using load = await ClusterLoad.start(namespace);
  const up = await load.during("3 → 6", () => scaleTo(namespace, 6));
  const down = await load.during("6 → 2", () => scaleTo(namespace, 2));
  return { report: await load.stop(), events: [up, down] };
}

test("3 → 6 → 2", async () => {
  const { report, events } = await scaled({});
  console.log(describeLoad("scaled", report, events));
  expect(harm(report)).toEqual(noHarm);
  expect(Object.keys(report.calls.answeredBy)).toHaveLength(6);
});

test("the control: with apps that end when they are told to, and nothing that holds their end back", async () => {
  const { report, events } = await scaled({
    env: { E2E_HEEDLESS: "1" },
    // A hook of the app's own is kept, and then there is none of Lever's.
    lifecycle: { preStop: { exec: { command: ["cat", "/dev/null"] } } },
  });
  console.log(describeLoad("scaled, the control", report, events));
  expect(failedCalls(report)).toBeGreaterThan(0);
});
