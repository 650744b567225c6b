/** A service is scaled from 3 to 6 and to 2 under load: no call fails, no message is lost, rooms take their state along. */

import { beforeAll, expect, test } from "vitest";
import {
  aroundMs,
  ClusterLoad,
  deployTarget,
  describeLoad,
  failedCalls,
  harm,
  type LoadEvent,
  noHarm,
  spread,
  type TargetOptions,
  withoutBarrier,
} from "../harness/cluster-load.ts";
import { kubectl } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";
import { allPodsOf } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

beforeAll(() => installLever());

async function scaleTo(namespace: string, replicas: number): Promise<void> {
  await kubectl(["scale", "lsvc/target", `--replicas=${replicas}`, "--namespace", namespace]);
  await spread(namespace, replicas, 60_000);
  await until("no other pods are left", async () => (await allPodsOf(namespace, "target")).length === replicas, 60_000);
}

async function scaled(options: TargetOptions, steps: readonly number[], quietMs: number) {
  const namespace = await testNamespace("scaled");
  await deployTarget(namespace, options);
  await using load = await ClusterLoad.start(namespace);
  const events: LoadEvent[] = [];
  for (const step of steps) events.push(await load.during(`to ${step}`, () => scaleTo(namespace, step), quietMs));
  return { report: await load.stop(), events };
}

test("3 → 6 → 2", async () => {
  const { report, events } = await scaled({}, [6, 2], aroundMs);
  console.log(describeLoad("scaled", report, events));
  expect(harm(report)).toEqual(noHarm);
  expect(Object.keys(report.calls.answeredBy)).toHaveLength(6);
});

test("the control: 6 → 2 without what holds the end of an app back", async () => {
  const { report, events } = await scaled({ ...withoutBarrier, replicas: 6 }, [2], 4000);
  console.log(describeLoad("scaled, the control", report, events));
  expect(failedCalls(report)).toBeGreaterThan(0);
  expect(harm(report).forgetfulRooms).toBeGreaterThan(0);
});
