/** A service gets another image under load: no call fails, no message is lost, rooms take their state along. */

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
import { hasBuiltImages, imageIds, leverImage, leverVersion, nextTag } from "../harness/lever-images.ts";
import { installLever } from "../harness/lever-install.ts";
import { allPodsOf } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

const nextImage = leverImage("target", nextTag);

beforeAll(() => installLever());

async function rolledOut(quietMs: number) {
  const namespace = await testNamespace("rollout");
  await deployTarget(namespace);
  await using load = await ClusterLoad.start(namespace);
  const rollout = await load.during(
    "rollout",
    async () => {
      await deployTarget(namespace, { image: nextImage, revision: "2" });
      await until("the old pods are gone", async () => (await allPodsOf(namespace, "target")).length === 3, 60_000);
    },
    quietMs,
  );
  const ids = (await allPodsOf(namespace, "target")).map(({ status }) => status.containerStatuses?.[0]?.imageID);
  if (hasBuiltImages) expect(new Set(ids)).toEqual(new Set([imageIds[nextImage]]));
  return { report: await load.stop(), events: [rollout] };
}

test("another image", async () => {
  const { report, events } = await rolledOut(aroundMs);
  console.log(describeLoad("rolled out", report, events));
  expect(harm(report)).toEqual(noHarm);
  const revisions = Object.keys(report.calls.answeredBy).map((who) => who.split(" ")[1]);
  expect(revisions.sort()).toEqual(["1", "1", "1", "2", "2", "2"]);
});

test.runIf(hasBuiltImages)("the control: with agents that do not hold calls for rooms that move", async () => {
  await installLever([`agent.image.tag=${leverVersion}-without-hold`]);
  const { report, events } = await rolledOut(4000);
  console.log(describeLoad("rolled out, the control", report, events));
  expect(failedCalls(report)).toBeGreaterThan(0);
});
