/** The chart on a cluster, as it comes. */

import { beforeAll, expect, test } from "vitest";
import { kubectlJson } from "../harness/kubectl.ts";
import { imageIds, leverImage } from "../harness/lever-images.ts";
import { installLever, leverNamespace } from "../harness/lever-install.ts";

interface Pod {
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly containerStatuses: readonly { readonly ready: boolean; readonly imageID: string; restartCount: number }[];
  };
}

beforeAll(() => installLever());

const podsOf = async (component: string) => {
  const selector = `app.kubernetes.io/component=${component}`;
  const args = ["get", "pods", "--namespace", leverNamespace, "--selector", selector];
  return (await kubectlJson<{ items: Pod[] }>(args)).items;
};

test.each(["operator", "gateway"])("two replicas of the %s are ready, on a node each, of the image", async (name) => {
  const pods = await podsOf(name);
  expect(pods).toHaveLength(2);
  expect(new Set(pods.map((pod) => pod.spec.nodeName)).size).toBe(2);
  const id = imageIds[leverImage(name)];
  for (const { status } of pods) {
    expect(status.containerStatuses).toHaveLength(1);
    expect(status.containerStatuses[0]).toMatchObject({ ready: true, restartCount: 0 });
    if (id !== undefined) expect(status.containerStatuses[0]?.imageID).toBe(id);
  }
});

test("one operator leads, at once", async () => {
  const lease = await kubectlJson<{ spec: { holderIdentity?: string; leaseTransitions: number } }>([
    "get",
    "lease/lever-operator",
    "--namespace",
    leverNamespace,
  ]);
  expect(lease.spec.holderIdentity).toMatch(/^lever-operator-/);
});
