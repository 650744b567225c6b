/** What tests of outages do to the cluster is what it says: a node without power, a node cut off, no API server. */

import { beforeAll, expect, test as testAnywhere } from "vitest";
import { cutOff, heal, powerOff, powerOn } from "../cluster/control.ts";
import { kubectl, kubectlJson, kubectlResult } from "../harness/kubectl.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

const imageIds = JSON.parse(process.env["LEVER_E2E_IMAGES"] ?? "{}") as Record<string, string>;
const image = Object.keys(imageIds).find((name) => name.includes("/node:"));
const test = testAnywhere.runIf(image !== undefined);

interface Pod {
  readonly metadata: { readonly uid: string };
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly podIP: string;
    readonly containerStatuses?: readonly { readonly ready: boolean; readonly restartCount: number }[];
  };
}

let namespace: string;

const pods = async () => (await kubectlJson<{ items: Pod[] }>(["get", "pods", "--namespace", namespace])).items;

async function readiness(node: string): Promise<string | undefined> {
  const { status } = await kubectlJson<{ status: { conditions: { type: string; status: string }[] } }>([
    "get",
    `node/${node}`,
  ]);
  return status.conditions.find(({ type }) => type === "Ready")?.status;
}

/** The node's grace is 20 s; three times as long for a machine that is busy. */
const outageMs = 60_000;

beforeAll(async () => {
  namespace = await testNamespace("faults");
  const server = "require('node:http').createServer((_, response) => response.end('here')).listen(8080)";
  const create = ["create", "deployment", "server", `--image=${image}`, "--replicas=6", "--namespace", namespace];
  await kubectl([...create, "--", "node", "-e", server]);
  await kubectl(["rollout", "status", "deployment/server", "--timeout=60s", "--namespace", namespace]);
});

const answers = (pod: Pod) =>
  fetch(`http://${pod.status.podIP}:8080`, { signal: AbortSignal.timeout(1000) }).then(
    async (answer) => (await answer.text()) === "here",
    () => false,
  );

test("a node that loses power takes its pods with it, and boots with them", async () => {
  const before = (await pods()).filter(({ spec }) => spec.nodeName === "n2");
  await until("answers", () => Promise.all(before.map(answers)).then((all) => all.every(Boolean)));
  await powerOff("n2");
  expect(await Promise.all(before.map(answers))).toEqual(before.map(() => false));
  await until("n2 is not Ready", async () => (await readiness("n2")) === "Unknown", outageMs);
  await powerOn("n2");
  await until("n2 is Ready", async () => (await readiness("n2")) === "True", outageMs);
  const uids = before.map(({ metadata }) => metadata.uid);
  await until("its pods run again", async () => {
    const after = (await pods()).filter(({ metadata }) => uids.includes(metadata.uid));
    const states = after.map(({ status }) => status.containerStatuses?.[0]);
    return states.length === uids.length && states.every((state) => state?.ready && state.restartCount === 1);
  });
});

test("a node that is cut off is not Ready, and its pods run on", async () => {
  const restarts = async () => {
    const onNode = (await pods()).filter(({ spec }) => spec.nodeName === "n3");
    return onNode.map(({ status }) => status.containerStatuses?.[0]?.restartCount);
  };
  const before = await restarts();
  await cutOff("n3");
  await until("n3 is not Ready", async () => (await readiness("n3")) === "Unknown", outageMs);
  await heal("n3");
  await until("n3 is Ready", async () => (await readiness("n3")) === "True", outageMs);
  expect(await restarts()).toEqual(before);
});

test("without an API server pods serve on; it comes back with all that it knew", async () => {
  const before = await pods();
  await powerOff("kube-apiserver");
  expect((await kubectlResult(["get", "nodes"])).exitCode).toBe(1);
  expect(await Promise.all(before.map(answers))).toEqual(before.map(() => true));
  await powerOn("kube-apiserver");
  await until("it answers", async () => (await kubectlResult(["get", "nodes"])).exitCode === 0, outageMs);
  expect((await pods()).map(({ metadata }) => metadata.uid).sort()).toEqual(
    before.map(({ metadata }) => metadata.uid).sort(),
  );
});
