/** LeverServices as people use them: the examples as they are, applied, called, scaled and deleted. */

import { beforeAll, describe, expect, test } from "vitest";
import { kubectl } from "../harness/kubectl.ts";
import { exampleManifest, fixtureManifest, imageIds, leverImage } from "../harness/lever-images.ts";
import { installLever } from "../harness/lever-install.ts";
import { callFrom, podsOf, type ServicePod, waitReady } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

let namespace: string;
let callers: readonly ServicePod[];

const inNamespace = (...args: string[]) => kubectl([...args, "--namespace", namespace]);
const apply = (text: string) => kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: text });
const nameOf = (pod: ServicePod) => pod.metadata.name;

beforeAll(async () => {
  await installLever();
  namespace = await testNamespace("services");
  for (const name of ["hello", "chat", "greeter"]) await apply(exampleManifest(name));
  for (const name of ["caller/caller.yaml", "rooms/rooms.yaml"]) await apply(fixtureManifest(name));
  await inNamespace("scale", "lsvc/caller", "--replicas=3");
  for (const name of ["hello", "chat", "greeter", "caller", "rooms"]) await waitReady(namespace, name);
  callers = await until("three callers", async () => {
    const pods = await podsOf(namespace, "caller");
    return pods.length === 3 && pods.every((pod) => pod.status.containerStatuses?.[0]?.ready === true) && pods;
  });
});

test("kubectl shows what runs", async () => {
  const rows = (await inNamespace("get", "lsvc")).trim().split("\n").slice(1);
  expect(rows.map((row) => row.split(/ +/).slice(0, 4).join(" "))).toEqual([
    "caller True 3 3",
    "chat True 3 3",
    "greeter True 1 1",
    "hello True 2 2",
    "rooms True 3 3",
  ]);
  expect(await inNamespace("describe", "lsvc/hello")).toMatch(/Conditions:.*Type: +Ready.*Events:/s);
});

test("pods have the agent and the app of the images", async () => {
  for (const pod of await podsOf(namespace, "hello")) {
    const [app, agent] = [pod.status.containerStatuses[0], pod.status.initContainerStatuses[0]];
    expect([app, agent]).toMatchObject([
      { name: "app", ready: true, restartCount: 0 },
      { name: "lever-agent", ready: true, restartCount: 0 },
    ]);
    if (Object.keys(imageIds).length === 0) continue;
    expect(app?.imageID).toBe(imageIds["docker.io/lever/example-hello:0.1.0"]);
    expect(agent?.imageID).toBe(imageIds[leverImage("agent")]);
  }
});

describe("calls from pods", () => {
  test.each(["/hello/sayHello", "lever://ENVIRONMENT/hello/sayHello"])("%s", async (url) => {
    for (const caller of callers) {
      const outcome = await callFrom(namespace, nameOf(caller), url.replace("ENVIRONMENT", namespace), "world");
      expect(outcome).toEqual({ value: "Hello, world!" });
    }
  });

  test("a service calls another", async () => {
    const outcome = await callFrom(namespace, nameOf(callers[0] as ServicePod), "/greeter/greetAll", ["Ada"]);
    expect(outcome).toEqual({ value: ["Hello, Ada!"] });
  });

  test("who is not there is not found", async () => {
    const outcome = await callFrom(namespace, nameOf(callers[0] as ServicePod), "/nobody/any");
    expect(outcome).toMatchObject({ reason: "SERVICE_NOT_FOUND" });
  });
});
