/** LeverServices as people use them: the examples as they are, applied, called, scaled and deleted. */

import { beforeAll, describe, expect, test } from "vitest";
import { run } from "../cluster/command.ts";
import { kubectl, kubectlJson, kubectlResult } from "../harness/kubectl.ts";
import { exampleManifest, fixtureManifest, imageIds, leverImage } from "../harness/lever-images.ts";
import { installLever, leverNamespace } from "../harness/lever-install.ts";
import { PortForward } from "../harness/port-forward.ts";
import { callFrom, JoinedChannel, podsOf, type ServicePod, waitReady } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

let namespace: string;
let callers: readonly ServicePod[];

const inNamespace = (...args: string[]) => kubectl([...args, "--namespace", namespace]);
const apply = (text: string) => kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: text });
/** On a cluster that was given all pods may be on one node. */
const ownNodes = () => Object.keys(imageIds).length > 0;
const execIn = (pod: string, ...command: string[]) =>
  kubectl(["exec", "--namespace", namespace, pod, "--container=app", "--", ...command]);
const nameOf = (pod: ServicePod) => pod.metadata.name;

beforeAll(async () => {
  await installLever(['gateway.extraEnv=[{"name":"LEVER_ALLOW_FORCE_ENV","value":"true"}]']);
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

describe("a room", () => {
  const room = "/rooms/room-7";
  const whereFrom = async (caller: ServicePod) => {
    const outcome = await callFrom(namespace, nameOf(caller), `${room}/where`);
    return (outcome as { value: { instance: string } }).value.instance;
  };

  test("is in one instance, whoever asks from whatever node", async () => {
    expect(new Set(callers.map((pod) => pod.spec.nodeName)).size).toBeGreaterThan(ownNodes() ? 1 : 0);
    const places = new Set<string>();
    for (const caller of callers) places.add(await whereFrom(caller));
    expect(places.size).toBe(1);
    expect((await podsOf(namespace, "rooms")).map(nameOf)).toContain([...places][0]);
    const spread = new Set<string>();
    const [caller] = callers as [ServicePod];
    for (let n = 0; n < 12; n++) {
      const outcome = await callFrom(namespace, nameOf(caller), `/rooms/other-${n}/where`);
      spread.add((outcome as { value: { instance: string } }).value.instance);
    }
    expect(spread.size).toBeGreaterThan(1);
  });

  test("has a channel that stays there, from another node", async () => {
    const holder = await whereFrom(callers[0] as ServicePod);
    const holderNode = (await podsOf(namespace, "rooms")).find((pod) => nameOf(pod) === holder)?.spec.nodeName;
    const far = callers.find((pod) => pod.spec.nodeName !== holderNode) ?? (callers[0] as ServicePod);
    const others = callers.filter((pod) => pod !== far);
    await using joined = await JoinedChannel.open(namespace, nameOf(far), `${room}/joinChan`);
    const heard = joined.messages;
    await until("the channel", () => heard.length === 1);
    for (const other of others) {
      expect(await whereFrom(other)).toBe(holder);
      await callFrom(namespace, nameOf(other), `${room}/say`);
    }
    await until("all that was said", () => heard.length === 1 + others.length);
    expect(heard).toEqual(
      Array.from({ length: heard.length }, (_, n) => expect.objectContaining({ n, instance: holder })),
    );
  });
});

describe("from outside", () => {
  test("curl reaches the gateway's Service", async () => {
    await using door = await PortForward.open(leverNamespace, "svc/lever-gateway", 80);
    const url = `http://127.0.0.1:${door.port}/hello/sayHello?forceenv=${namespace}`;
    const answer = await run("curl", ["-s", url, "-H", "content-type: application/json", "-d", '["world"]']);
    expect(answer).toBe('"Hello, world!"');
  });

  test("what is not exposed looks as if it were not there", async () => {
    await using door = await PortForward.open(leverNamespace, "svc/lever-gateway", 80);
    const ask = (service: string) =>
      run("curl", [
        "-s",
        "-o",
        "-",
        "-w",
        "%{http_code} %header{lever-reason}",
        "-X",
        "POST",
        `http://127.0.0.1:${door.port}/${service}/greetAll?forceenv=${namespace}`,
      ]);
    const hidden = await ask("greeter");
    expect(hidden).toMatch(/404 SERVICE_NOT_FOUND$/);
    expect(hidden).toBe((await ask("nobodyy")).replaceAll("nobodyy", "greeter"));
  });

  test("pods reach it by its name", async () => {
    const url = `http://lever-gateway.${leverNamespace}/hello/sayHello?forceenv=${namespace}`;
    const program = `
      const options = { method: "POST", body: '["world"]', headers: { "content-type": "application/json" } };
      fetch(${JSON.stringify(url)}, options).then(async (answer) => console.log(answer.status, await answer.text()));
    `;
    const pod = nameOf(callers[0] as ServicePod);
    expect(await execIn(pod, "node", "-e", program)).toBe('200 "Hello, world!"\n');
  });

  test("a rolling update of the gateway fails no request, each on a connection of its own", async () => {
    const url = `http://lever-gateway.${leverNamespace}/hello/sayHello?forceenv=${namespace}`;
    const pod = nameOf(callers[0] as ServicePod);
    const load = execIn(pod, "node", "-e", requests(url));
    const restarted = kubectl(["rollout", "restart", "deploy/lever-gateway", "--namespace", leverNamespace]).then(() =>
      kubectl(["rollout", "status", "deploy/lever-gateway", "--namespace", leverNamespace, "--timeout=120s"]),
    );
    await restarted;
    // Until the last of the old ones has drained.
    await until(
      "the old pods' end",
      async () => {
        const args = ["get", "pods", "--namespace", leverNamespace, "--selector=app.kubernetes.io/component=gateway"];
        return (await kubectlJson<{ items: unknown[] }>(args)).items.length === 2;
      },
      60_000,
    );
    await execIn(pod, "touch", "/dev/shm/stop");
    const { sent, failed } = JSON.parse(await load) as { sent: number; failed: string[] };
    console.log(`${sent} requests while the gateways were replaced, ${failed.length} failed`);
    expect(failed).toEqual([]);
    expect(sent).toBeGreaterThan(200);
  });
});

/** A program that sends requests, each on its own connection, until it is told to stop. */
function requests(url: string): string {
  return `
    const { request } = require("node:http");
    const { existsSync, rmSync } = require("node:fs");
    const once = () => new Promise((resolve) => {
      const asked = request(${JSON.stringify(url)}, { method: "POST", agent: false, headers: { "content-type": "application/json" } });
      asked.once("error", (error) => resolve(String(error)));
      asked.once("response", (response) => {
        response.resume();
        response.once("error", (error) => resolve(String(error)));
        response.once("end", () => resolve(response.statusCode === 200 ? undefined : String(response.statusCode)));
      });
      asked.end('["world"]');
    });
    (async () => {
      let sent = 0;
      const failed = [];
      while (!existsSync("/dev/shm/stop")) {
        const why = await once();
        sent++;
        if (why !== undefined) failed.push(why);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      rmSync("/dev/shm/stop");
      console.log(JSON.stringify({ sent, failed }));
    })();
  `;
}

describe("a change", () => {
  test("applied again is none", async () => {
    const said = await kubectl(["apply", "--namespace", namespace, "--filename=-"], {
      input: exampleManifest("hello"),
    });
    expect(said).toBe("leverservice.leveros.dev/hello unchanged\n");
  });

  test("by kubectl scale is made, and waited for", async () => {
    const before = (await podsOf(namespace, "chat")).map(nameOf);
    await inNamespace("scale", "lsvc/chat", "--replicas=5");
    await until("five instances", async () => {
      const { status } = await kubectlJson<{ status: { readyReplicas: number } }>([
        "get",
        "lsvc/chat",
        "--namespace",
        namespace,
      ]);
      return status.readyReplicas === 5;
    });
    await waitReady(namespace, "chat");
    const after = (await podsOf(namespace, "chat")).map(nameOf);
    expect(after).toHaveLength(5);
    expect(after).toEqual(expect.arrayContaining(before));
    expect((await inNamespace("get", "lsvc/chat")).split("\n")[1]).toMatch(/^chat +True +5 +5 /);
  });

  test("to no instance and back is said by the scale", async () => {
    await inNamespace("scale", "lsvc/chat", "--replicas=0");
    await inNamespace("wait", "lsvc/chat", "--for=jsonpath={.status.replicas}=0", "--timeout=60s");
    await inNamespace("scale", "lsvc/chat", "--replicas=2");
    await waitReady(namespace, "chat");
    expect(await podsOf(namespace, "chat")).toHaveLength(2);
  });

  test("by kubectl delete takes along all that was made of the service", async () => {
    await inNamespace("delete", "lsvc/chat");
    for (const kind of ["deployment/chat", "leverendpointtable/chat"]) {
      await until(
        `the end of ${kind}`,
        async () => (await kubectlResult(["get", kind, "--namespace", namespace])).exitCode !== 0,
      );
    }
    await until(
      "the end of its pods",
      async () => (await inNamespace("get", "pods", "--selector=leveros.dev/service=chat", "--output=name")) === "",
      60_000,
    );
    const outcome = await callFrom(namespace, nameOf(callers[0] as ServicePod), "/chat/room-1/history");
    expect(outcome).toMatchObject({ reason: "SERVICE_NOT_FOUND" });
  });

  test("by kubectl delete that waits for its dependants comes to an end", async () => {
    await inNamespace("delete", "lsvc/rooms", "--cascade=foreground", "--timeout=90s");
    for (const kind of ["deployment/rooms", "leverendpointtable/rooms"]) {
      await until(
        `the end of ${kind}`,
        async () => (await kubectlResult(["get", kind, "--namespace", namespace])).exitCode !== 0,
      );
    }
  });
});

// 64 MiB in all is the aim; Node's program alone, whose pages the pods of a node share, takes 41 to 46 of them.
test("an idle agent takes at most 32 MiB of its own, and 80 MiB with what it shares", async () => {
  const program = 'console.log(require("fs").readFileSync("/proc/1/status", "utf8"))';
  const sizes: { readonly all: number; readonly own: number; readonly files: number }[] = [];
  for (const pod of await podsOf(namespace, "hello")) {
    const status = await kubectl([
      "exec",
      "--namespace",
      namespace,
      nameOf(pod),
      "--container=lever-agent",
      "--",
      "node",
      "-e",
      program,
    ]);
    const bytes = (name: string) => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1]);
    sizes.push({ all: bytes("VmRSS"), own: bytes("RssAnon"), files: bytes("RssFile") });
  }
  for (const { all, own, files } of sizes) {
    const [a, b, c] = [all, own, files].map((size) => (size / 1024 ** 2).toFixed(1));
    console.log(
      `an idle agent: ${a} MiB resident, ${b} MiB of its own, ${c} MiB mapped from Node, which pods of a node share`,
    );
  }
  expect(sizes.length).toBeGreaterThan(0);
  for (const { all, own } of sizes) {
    expect(own).toBeLessThanOrEqual(32 * 1024 ** 2);
    expect(all).toBeLessThanOrEqual(80 * 1024 ** 2);
  }
});
