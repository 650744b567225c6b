/** `kubectl drain` of a node under load: its pods are evicted, and no call fails, no message is lost. */

import { beforeAll, expect, test } from "vitest";
import {
  ClusterLoad,
  deployTarget,
  describeLoad,
  failedCalls,
  harm,
  noHarm,
  podsOf,
  ready,
  spread,
  type TargetOptions,
} from "../harness/cluster-load.ts";
import { kubectl } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";
import { testNamespace } from "../harness/test-namespace.ts";

beforeAll(installLever);

async function drained(options: TargetOptions) {
  const namespace = await testNamespace("drained");
  await deployTarget(namespace, options);
  await using load = await ClusterLoad.start(namespace);
  const pods = await podsOf(namespace, "target");
  const node = pods.map(({ spec }) => spec.nodeName).find((name) => name !== load.node) as string;
  const evicted = pods.filter(({ spec }) => spec.nodeName === node).map(({ metadata }) => metadata.name);
  try {
    const drain = await load.during(`drain of ${node} with ${evicted.length} pods of the target`, async () => {
      await kubectl(["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"]);
      await ready(namespace, "target");
      await spread(namespace, 3);
    });
    const left = (await podsOf(namespace, "target")).map(({ metadata }) => metadata.name);
    expect(left.filter((name) => evicted.includes(name))).toEqual([]);
    return { report: await load.stop(), events: [drain] };
  } finally {
    await kubectl(["uncordon", node]);
  }
}

test("a node is drained", async () => {
  const { report, events } = await drained({});
  console.log(describeLoad("drained", report, events));
  expect(harm(report)).toEqual(noHarm);
});

test("the control: with apps that end when they are told to, and nothing that holds their end back", async () => {
  const { report, events } = await drained({
    env: { E2E_HEEDLESS: "1" },
    lifecycle: { preStop: { exec: { command: ["cat", "/dev/null"] } } },
  });
  console.log(describeLoad("drained, the control", report, events));
  expect(failedCalls(report)).toBeGreaterThan(0);
});
