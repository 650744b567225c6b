/** A service gets another image under load: no call fails, no message is lost, rooms take their state along. */

import { beforeAll, expect, test } from "vitest";
import {
  ClusterLoad,
  deployTarget,
  describeLoad,
  failedCalls,
  harm,
  noHarm,
  podsOf,
  type TargetOptions,
  targetImage,
} from "../harness/cluster-load.ts";
import { installLever } from "../harness/lever-install.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

const imageIds = JSON.parse(process.env["LEVER_E2E_IMAGES"] ?? "{}") as Record<string, string>;
const nextImage = `${targetImage}-next`;

beforeAll(installLever);

async function rolledOut(options: TargetOptions) {
  const namespace = await testNamespace("rollout");
  await deployTarget(namespace, options);
  await using load = await ClusterLoad.start(namespace);
  const rollout = await load.during("rollout", async () => {
    await deployTarget(namespace, { ...options, image: nextImage, revision: "2" });
    await until("the old pods are gone", async () => (await podsOf(namespace, "target")).length === 3, 60_000);
  });
  const ids = (await podsOf(namespace, "target")).map(({ status }) => status.containerStatuses?.[0]?.imageID);
  expect(new Set(ids)).toEqual(new Set([imageIds[nextImage]]));
  return { report: await load.stop(), events: [rollout] };
}

test("another image", async () => {
  const { report, events } = await rolledOut({});
  console.log(describeLoad("rolled out", report, events));
  expect(harm(report)).toEqual(noHarm);
  const revisions = Object.keys(report.calls.answeredBy).map((who) => who.split(" ")[1]);
  expect(revisions.sort()).toEqual(["1", "1", "1", "2", "2", "2"]);
});

test("the control: calls for resources whose holder is not known are answered at once", async () => {
  const { report, events } = await rolledOut({ ownership: { onUncertain: "Fail" } });
  console.log(describeLoad("rolled out, the control", report, events));
  expect(failedCalls(report)).toBeGreaterThan(0);
});
