/** The `lever` command against a cluster, as its user's shell runs it: by port-forwards, with the user's own rights. */

import { spawn } from "node:child_process";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { kubectl, kubectlJson } from "../harness/kubectl.ts";
import { lever } from "../harness/lever-command.ts";
import { root } from "../harness/lever-dev.ts";
import { exampleManifest } from "../harness/lever-images.ts";
import { installLever, leverNamespace, makeLeverNamespace } from "../harness/lever-install.ts";
import { podsOf, waitReady } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

let namespace: string;

const inNamespace = (...args: string[]) => kubectl([...args, "--namespace", namespace]);
const apply = (text: string) => kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: text });
const ask = (...args: string[]) => lever([...args, "-n", namespace]);
async function json<Value>(...args: string[]): Promise<Value> {
  const { stdout, stderr, exitCode } = await ask(...args, "-o", "json");
  expect([exitCode, stderr]).toEqual([0, ""]);
  return JSON.parse(stdout) as Value;
}

interface Check {
  readonly category: string;
  readonly what: string;
  readonly isOk: boolean;
  readonly isWarning: boolean;
  readonly hint: string | null;
}

const notWell = ({ stdout }: { readonly stdout: string }) =>
  (JSON.parse(stdout) as { checks: Check[] }).checks
    .filter(({ isOk }) => !isOk)
    .map(({ category, what, hint }) => `${category}: ${what}: ${hint}`);

interface Endpoints {
  readonly service: string;
  readonly endpoints: readonly {
    readonly instance: string;
    readonly state: string;
    readonly node: string | null;
    readonly zone: string | null;
    readonly podUid: string | null;
    readonly problem: string | null;
  }[];
}

beforeAll(async () => {
  await makeLeverNamespace();
  await installLever();
  namespace = await testNamespace("command");
  for (const name of ["hello", "chat", "negotiate"]) await apply(exampleManifest(name));
  for (const name of ["hello", "chat", "negotiate"]) await waitReady(namespace, name);
});

test("lever check: all is well", async () => {
  const result = await lever(["check", "-n", namespace, "-o", "json"]);
  expect(notWell(result)).toEqual([]);
  expect(result.exitCode).toBe(0);
  const { stdout } = await lever(["check", "-n", namespace]);
  console.log(stdout);
  expect(stdout).toMatch(/^kubernetes-api\n-+\n√ /);
  expect(stdout).toMatch(/√ they are in touch, and tell the same\n/);
});

test("lever check --pre knows that Lever is there", async () => {
  const result = await lever(["check", "--pre", "-o", "json"]);
  expect(notWell(result)).toEqual([expect.stringMatching(/^namespace: .*Lever is installed there/)]);
  expect(result.exitCode).toBe(0);
  expect((await lever(["check", "--pre", "--operator-namespace", "elsewhere"])).stdout).toMatch(/all is well\n$/);
});

describe("what there is", () => {
  test("services, of the namespace and of all", async () => {
    const { stdout } = await ask("services");
    console.log(stdout);
    expect(
      stdout
        .split("\n")
        .slice(1, 4)
        .map((line) => line.split(/ +/).slice(0, 4).join(" ")),
    ).toEqual([`${namespace}/chat True 3 3`, `${namespace}/hello True 2 2`, `${namespace}/negotiate True 1 1`]);
    const all = await json<{ services: { environment: string }[] }>("services", "-A");
    expect(all.services.map(({ environment }) => environment)).toContain(namespace);
  });

  test("endpoints, with node, zone and pod", async () => {
    const [hello] = await json<Endpoints[]>("endpoints", "hello");
    const pods = await podsOf(namespace, "hello");
    expect(
      hello?.endpoints.map(({ instance, state, node, zone, podUid, problem }) => ({
        instance,
        state,
        node,
        zone,
        podUid,
        problem,
      })),
    ).toEqual(
      pods
        .map(({ metadata, spec }) => ({
          instance: metadata.name,
          state: "Serving",
          node: spec.nodeName,
          zone: expect.any(String),
          podUid: metadata.uid,
          problem: null,
        }))
        .sort((a, b) => (a.instance < b.instance ? -1 : 1)),
    );
    console.log((await ask("endpoints")).stdout);
  });

  test("resources, and where one is, from whichever replica leads", async () => {
    console.log((await ask("resources")).stdout);
    expect((await ask("invoke", "/chat/room-7/history")).exitCode).toBe(0);
    for (let tries = 0; tries < 4; tries++) {
      const explained = await json<{ holder: string; epoch: number; why: string; leaseLeftMs: number }>(
        "explain",
        "/chat/room-7/",
      );
      expect(explained).toMatchObject({ why: expect.stringMatching(/./), leaseLeftMs: expect.any(Number) });
      expect(explained.holder).toMatch(/^chat-/);
    }
    console.log((await ask("explain", "/chat/room-7/")).stdout);
  });

  test("an instance that does not start says why", async () => {
    const manifest = exampleManifest("hello")
      .replace(/name: hello\b/, "name: broken")
      .replace(/image: .*/, "image: lever.test/none:1");
    await apply(manifest);
    const problem = await until("a reason", async () => {
      const [broken] = await json<Endpoints[]>("endpoints", "broken");
      return broken?.endpoints.find((each) => each.problem !== null)?.problem;
    });
    expect(problem).toMatch(/image lever\.test\/none:1 of container app cannot be pulled/);
    const result = await lever(["check", "-n", namespace, "-o", "json"]);
    expect(result.exitCode).toBe(5);
    expect(notWell(result).join("\n")).toMatch(
      new RegExp(`^${namespace}/broken: 0 of \\d instances serve: ImagePull`, "m"),
    );
    await inNamespace("delete", "lsvc/broken");
  });
});

describe("calls", () => {
  test("invoke, by a relative and by a whole URL, from another namespace too", async () => {
    expect(await ask("invoke", "/hello/sayHello", '"world"')).toEqual({
      exitCode: 0,
      stdout: '"Hello, world!"\n',
      stderr: "",
    });
    expect(await lever(["invoke", "-n", "default", `lever://${namespace}/hello/sayHello`, '"Ada"'])).toMatchObject({
      exitCode: 0,
      stdout: '"Hello, Ada!"\n',
    });
  });

  test("chan converses, and half-closes", async () => {
    const offers = '{"price":60}\n{"price":80}\n';
    const result = await lever(["chan", "/negotiate/haggleChan", '"a carpet"', "100", "-n", namespace], {
      input: offers,
    });
    console.log(result.stdout, result.stderr);
    expect(result.exitCode).toBe(0);
    expect(result.stdout.trim().split("\n").length).toBeGreaterThan(1);
  });

  test("bench", async () => {
    const report = await json<{ calls: number; errors: object }>("bench", "/hello/sayHello", '"Ada"', "-d", "2");
    console.log(JSON.stringify(report));
    expect(report.errors).toEqual({});
    expect(report.calls).toBeGreaterThan(10);
  });

  test("a channel ends with an error when the pod that it goes through goes, and the next call finds another", async () => {
    const args = ["chan", "/negotiate/haggleChan", '"a carpet"', "100", "-n", namespace];
    const child = spawn(path.join(root, "node_modules/.bin/lever"), args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, PATH: `${path.join(root, "node_modules/.bin")}:${process.env["PATH"]}`, NO_COLOR: "1" },
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk));
    const exited = new Promise<number | null>((resolve) => child.once("close", resolve));
    child.stdin.write('{"price":60}\n');
    await until("an answer", () => output.includes("\n"));
    const [pod] = await podsOf(namespace, "negotiate");
    await inNamespace("delete", "pod", pod?.metadata.name ?? "", "--grace-period=0", "--force");
    expect(await exited).toBe(3);
    console.log(output);
    expect(output).toMatch(/CONNECTION_LOST|APP_GONE|INSTANCE_UNREACHABLE/);
    await waitReady(namespace, "negotiate");
  });

  test.each<[string, string[], number, RegExp]>([
    ["a service that there is not", ["invoke", "/nobody/any"], 2, /SERVICE_NOT_FOUND/],
    ["a method that there is not", ["invoke", "/hello/none"], 2, /METHOD_NOT_FOUND/],
    ["a namespace without agents", ["invoke", "lever://kube-system/a/b"], 3, /no pod in namespace kube-system/],
    ["a context that there is not", ["invoke", "/hello/sayHello", "--context", "none"], 2, /no context "none"/],
    [
      "no operator",
      ["services", "--operator-namespace", "default"],
      3,
      /no operator of Lever in namespace default.*helm install/s,
    ],
  ])("%s", async (_, args, exitCode, message) => {
    const result = await ask(...args);
    expect([result.exitCode, result.stdout]).toEqual([exitCode, ""]);
    expect(result.stderr).toMatch(message);
  });
});

describe("changes", () => {
  test("scale", async () => {
    expect(await ask("scale", "hello", "3")).toMatchObject({
      stdout: `${namespace}/hello: 2 → 3 instances\n`,
      exitCode: 0,
    });
    await until("three", async () => (await podsOf(namespace, "hello")).length === 3);
    await waitReady(namespace, "hello");
  });

  test("evict: another instance serves in its place, and no call fails", async () => {
    const { holder: name } = await json<{ holder: string }>("explain", "/chat/room-7/");
    const bench = ask("bench", "/chat/room-7/history", "-d", "8", "-c", "2", "-o", "json");
    const { stdout, exitCode } = await ask("evict", name);
    console.log(stdout);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(new RegExp(`^${name} takes no new calls and ends; chat-\\S+ serves in its place`));
    expect(JSON.parse((await bench).stdout)).toMatchObject({ errors: {} });
    await waitReady(namespace, "chat");
  });
});

describe("a user without rights", () => {
  test("is told which rule is missing", async () => {
    await inNamespace("create", "serviceaccount", "viewer");
    await inNamespace("create", "rolebinding", "viewer", "--clusterrole=view", `--serviceaccount=${namespace}:viewer`);
    const token = (await inNamespace("create", "token", "viewer")).trim();
    const config = await kubectlJson<{ clusters: object[]; contexts: { context: { cluster: string } }[] }>([
      "config",
      "view",
      "--minify",
      "--raw",
    ]);
    const { cluster } = (config.contexts[0] as { context: { cluster: string } }).context;
    const file = path.join(process.env["KUBECACHEDIR"] ?? "/tmp", `viewer-${namespace}.json`);
    const { writeFile, rm, mkdir } = await import("node:fs/promises");
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(
      file,
      JSON.stringify({
        apiVersion: "v1",
        kind: "Config",
        clusters: config.clusters,
        users: [{ name: "viewer", user: { token } }],
        contexts: [{ name: "viewer", context: { cluster, user: "viewer", namespace } }],
        "current-context": "viewer",
      }),
    );
    try {
      const call = await lever(["invoke", "--kubeconfig", file, "/hello/sayHello", '"Ada"']);
      console.log(call.stderr);
      expect(call.exitCode).toBe(2);
      expect(call.stderr).toContain(
        `grant you in namespace ${namespace}: apiGroups: [""], resources: ["pods/portforward"], verbs: ["get", "create"]`,
      );
      const services = await lever(["services", "--kubeconfig", file]);
      expect([services.exitCode, services.stderr]).toEqual([
        2,
        expect.stringContaining(`in namespace ${leverNamespace}`),
      ]);
    } finally {
      await rm(file);
    }
  });
});
