/** The operator is restarted, and upgraded, under load: nobody's calls notice, and nobody's pods are restarted. */

import { beforeAll, expect, test } from "vitest";
import { ClusterLoad, deployTarget, describeLoad, harm, noHarm } from "../harness/cluster-load.ts";
import { kubectl } from "../harness/kubectl.ts";
import { hasBuiltImages, imageIds, leverImage, leverVersion, nextTag } from "../harness/lever-images.ts";
import { installLever, leverNamespace } from "../harness/lever-install.ts";
import { leader, operatorDeployment, operatorPods } from "../harness/operator-pods.ts";
import { allPodsOf } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";

const rollout = (verb: string, ...args: string[]) =>
  kubectl(["rollout", verb, `deployment/${operatorDeployment}`, ...args, "--namespace", leverNamespace]);

beforeAll(() => installLever());

test("rollout restart, and helm upgrade", async () => {
  const namespace = await testNamespace("restarted");
  await deployTarget(namespace);
  await using load = await ClusterLoad.start(namespace);
  const targets = await allPodsOf(namespace, "target");
  const first = await leader();
  const restart = await load.during("rollout restart", async () => {
    await rollout("restart");
    await rollout("status", "--timeout=90s");
    await leader(first.name);
  });
  const upgrade = await load.during("helm upgrade", async () => {
    const tag = hasBuiltImages ? nextTag : leverVersion;
    await installLever([`operator.image.tag=${tag}`, `agent.image.tag=${tag}`, "operator.podAnnotations.upgraded=yes"]);
    await leader();
  });
  const report = await load.stop();
  console.log(describeLoad("operator restarted", report, [restart, upgrade]));
  expect(harm(report)).toEqual(noHarm);
  if (hasBuiltImages) {
    const ids = (await operatorPods()).map(({ status }) => status.containerStatuses?.[0]?.imageID);
    expect(new Set(ids)).toEqual(new Set([imageIds[leverImage("operator", nextTag)]]));
  }
  const after = await allPodsOf(namespace, "target");
  expect(after.map(({ metadata }) => metadata.uid).sort()).toEqual(targets.map(({ metadata }) => metadata.uid).sort());
});
