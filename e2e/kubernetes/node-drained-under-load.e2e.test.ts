/** `kubectl drain` of a node under load: its pods are evicted, and no call fails, no message is lost. */

import { beforeAll, expect, test } from "vitest";
import {
  aroundMs,
  ClusterLoad,
  deployTarget,
  describeLoad,
  failedCalls,
  harm,
  noHarm,
  spread,
  type TargetOptions,
  withoutBarrier,
} from "../harness/cluster-load.ts";
import { kubectl } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";
import { allPodsOf, waitReady } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";

beforeAll(() => installLever());

async function drained(options: TargetOptions, quietMs: number) {
  const namespace = await testNamespace("drained");
  await deployTarget(namespace, options);
  await using load = await ClusterLoad.start(namespace);
  const pods = await allPodsOf(namespace, "target");
  const node = pods.map(({ spec }) => spec.nodeName).find((name) => name !== load.node) as string;
  const evicted = pods.filter(({ spec }) => spec.nodeName === node).map(({ metadata }) => metadata.name);
  try {
    const drain = await load.during(
      `drain of ${node} with ${evicted.length} pods of the target`,
      async () => {
        await kubectl(["drain", node, "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"]);
        await waitReady(namespace, "target");
        await spread(namespace, 3);
      },
      quietMs,
    );
    const left = (await allPodsOf(namespace, "target")).map(({ metadata }) => metadata.name);
    expect(left.filter((name) => evicted.includes(name))).toEqual([]);
    return { report: await load.stop(), events: [drain] };
  } finally {
    await kubectl(["uncordon", node]);
  }
}

test("a node is drained", async () => {
  const { report, events } = await drained({}, aroundMs);
  console.log(describeLoad("drained", report, events));
  expect(harm(report)).toEqual(noHarm);
});

test("the control: without what holds the end of an app back", async () => {
  const { report, events } = await drained(withoutBarrier, 4000);
  console.log(describeLoad("drained, the control", report, events));
  expect(failedCalls(report)).toBeGreaterThan(0);
  expect(harm(report).forgetfulRooms).toBeGreaterThan(0);
});
