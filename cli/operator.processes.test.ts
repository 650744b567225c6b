/** The commands that ask the operator, as a shell runs them, against a running `lever dev`. */

import { execFileSync } from "node:child_process";
import type {
  CheckReport,
  EndpointReport,
  EndpointsReport,
  EvictReport,
  ServicesReport,
} from "@leveros/operator/admin/admin-report.ts";
import type { Client } from "leveros";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lever } from "../e2e/harness/lever-command.ts";
import { LeverDev } from "../e2e/harness/lever-dev.ts";
import { until } from "../e2e/harness/until.ts";
import type { BenchReport } from "./bench.ts";
import { steadyCalls } from "./steady-calls.fixture.ts";

let dev: LeverDev;
let client: Client;
beforeAll(async () => {
  // Agents as processes: some of them are stopped here.
  dev = await LeverDev.start({ manifests: ["examples/hello", "examples/negotiate"], agents: "process" });
  await dev.serving("hello", 2);
  client = dev.client();
});
afterAll(async () => {
  await client[Symbol.asyncDispose]();
  await dev[Symbol.asyncDispose]();
});

const run = (...args: string[]) => lever([...args, "--gateway", dev.gateway]);
async function json<Report>(...args: string[]): Promise<Report> {
  const { exitCode, stdout, stderr } = await run(...args, "-o", "json");
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
  return JSON.parse(stdout) as Report;
}
async function endpoints(service: string): Promise<readonly EndpointReport[]> {
  return (await json<EndpointsReport[]>("endpoints", service))[0]?.endpoints ?? [];
}
const serving = (count: number) =>
  until(`hello has ${count}`, async () => {
    const all = await endpoints("hello");
    return all.length === count && all.every(({ state }) => state === "Serving") ? all : undefined;
  });

describe("lists", () => {
  test("services", async () => {
    const { stdout } = await run("services");
    expect(stdout.split("\n").map((line) => line.replace(/ +\d+s +/, " AGE "))).toEqual([
      expect.stringMatching(/^SERVICE +READY +INSTANCES +DESIRED +SLOTS +AGE +REASON$/),
      expect.stringMatching(/^dev\/hello +True +2 +2 +- AGE AllServing$/),
      expect.stringMatching(/^dev\/negotiate +True +1 +1 +- AGE AllServing$/),
      "",
    ]);
    const { operator, services } = await json<ServicesReport>("services");
    expect(operator.gateways).toMatchObject([{ port: Number(dev.gateway.split(":")[1]) }]);
    expect(services[0]).toMatchObject({
      url: "lever://dev/hello",
      methods: ["sayHello", "divide", "checksum", "reverse"],
    });
  });

  test("endpoints, with the admin port of each agent", async () => {
    const { stdout } = await run("endpoints", "dev/hello");
    expect(stdout).toMatch(
      /^SERVICE +INSTANCE +STATE +ADDRESS +SLOTS +PID +RESTARTS +BY\n(dev\/hello +hello-\d-\w{4} +Serving +127\S+ +0 +\d+ +0\n){2}$/,
    );
    for (const { adminPort, instance, address } of await endpoints("hello")) {
      expect(await (await fetch(`http://127.0.0.1:${adminPort}/readyz`)).text(), instance).toContain("ok");
      expect(address).toMatch(/^127\.0\.0\.1:\d+$/);
    }
  });

  test("resources, of which there are none here", async () => {
    expect(await run("resources")).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("spec.ownership") });
    expect(await run("resources", "hello")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/^NO_RESOURCES/),
    });
    expect(await run("explain", "/hello/room-7/")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/^NO_RES/),
    });
  });

  test("of what is not there: what there is", async () => {
    for (const command of ["endpoints", "resources"]) {
      expect(await run(command, "helo")).toMatchObject({
        exitCode: 2,
        stderr: expect.stringMatching(/^SERVICE_NOT_FOUND: .* no service helo .*dev\/hello, dev\/negotiate/),
      });
    }
  });

  test("where nothing runs: what to start", async () => {
    for (const args of [["services"], ["endpoints"], ["scale", "hello", "1"], ["run", "-s", "hello", "--", "true"]]) {
      const at = args.indexOf("--");
      const gateway = ["--gateway", "127.0.0.1:1"];
      const all = at < 0 ? [...args, ...gateway] : [...args.slice(0, at), ...gateway, ...args.slice(at)];
      const { exitCode, stderr } = await lever(all);
      expect({ exitCode, stderr }).toEqual({
        exitCode: 3,
        stderr: expect.stringMatching(/ECONNREFUSED.*`lever dev`/s),
      });
    }
  });
});

test("through an agent, as from within an instance", async () => {
  const [app] = dev.apps();
  const agent = dev
    .processes()
    .find(({ pid }) => pid === app?.pid)
    ?.env.get("LEVER_AGENT") as string;
  const env = { ...process.env, LEVER_AGENT: agent, PATH: `node_modules/.bin:${process.env["PATH"]}` };
  const stdout = execFileSync("node_modules/.bin/lever", ["services"], { env, encoding: "utf8" });
  expect(stdout).toContain("dev/hello");
});

test("evict: the new one first, and no call fails", async () => {
  const before = await serving(2);
  const evicted = before[0]?.instance as string;
  let report: EvictReport | undefined;
  const { calls, failures } = await steadyCalls(client, "/hello/sayHello", ["x"], async () => {
    report = await json<EvictReport>("evict", evicted);
    await serving(2);
  });
  expect({ failures, calls: calls > 100 }).toEqual({ failures: [], calls: true });
  expect(report).toMatchObject({ environment: "dev", service: "hello", evicted });
  const after = (await endpoints("hello")).map(({ instance }) => instance);
  expect(after.toSorted()).toEqual([before[1]?.instance, report?.replacement].toSorted());
  expect(await run("evict", evicted)).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("no instance") });
});

test("scale, up and down, and no call fails", async () => {
  const { failures } = await steadyCalls(client, "/hello/sayHello", ["x"], async () => {
    expect(await run("scale", "dev/hello", "4")).toMatchObject({ exitCode: 0, stdout: "dev/hello: 2 → 4 instances\n" });
    await serving(4);
    expect(await run("scale", "hello", "2")).toMatchObject({ exitCode: 0, stdout: "dev/hello: 4 → 2 instances\n" });
    await serving(2);
  });
  expect(failures).toEqual([]);
  expect(await run("scale", "hello", "101")).toMatchObject({
    exitCode: 2,
    stderr: expect.stringContaining("0 to 100"),
  });
  expect(await run("scale", "hello", "-1")).toMatchObject({ exitCode: 2 });
});

describe("check", () => {
  test("all is well", async () => {
    await serving(2);
    const { exitCode, stdout } = await run("check");
    expect({ exitCode, stdout }).toEqual({ exitCode: 0, stdout: expect.stringMatching(/\n\nall is well\n$/) });
    expect(stdout.match(/^√/gm)).toHaveLength(3 + 3 + 2);
  });

  test("an agent that does not answer: exit code 5, and which", async () => {
    const [agent] = dev.agents();
    process.kill(agent?.pid as number, "SIGSTOP");
    try {
      const { exitCode, stdout } = await run("check");
      expect({ exitCode, stdout }).toEqual({
        exitCode: 5,
        stdout: expect.stringMatching(new RegExp(`× the agent of ${agent?.instance} answers\n {4}\\S.*\n`)),
      });
      const { stdout: text, exitCode: code } = await run("check", "-o", "json");
      const report = JSON.parse(text) as CheckReport & { isOk: boolean };
      expect([code, report.isOk, report.checks.filter(({ isOk }) => !isOk).length > 0]).toEqual([5, false, true]);
    } finally {
      process.kill(agent?.pid as number, "SIGCONT");
    }
  });

  test("no gateway: exit code 5, and what to start", async () => {
    const { exitCode, stdout } = await lever(["check", "--gateway", "127.0.0.1:1"]);
    expect({ exitCode, stdout }).toEqual({
      exitCode: 5,
      stdout: expect.stringMatching(/^lever\n-----\n× the gateway answers\n.*start `lever dev`/),
    });
  });
});

describe("bench", () => {
  test("counts calls and latencies", async () => {
    const report = await json<BenchReport>("bench", "/hello/sayHello", '"x"', "-d", "1", "--warm-up", "0", "-c", "3");
    const { latencyMs, ...rest } = report;
    expect(rest).toMatchObject({ url: "/hello/sayHello", concurrency: 3, errors: {} });
    expect(report.calls).toBeGreaterThan(50);
    expect(latencyMs.p50 <= latencyMs.p99 && latencyMs.p99 <= latencyMs.max).toBe(true);
    const { stdout } = await run("bench", "/hello/sayHello", '"x"', "-d", "1", "--warm-up", "0");
    expect(stdout).toMatch(/^\d+ calls\/s .*\nlatency {2}p50 .*\nerrors {3}0\n$/);
  });

  test("errors are not hidden: exit code 1", async () => {
    const bench = run("bench", "/hello/divide", "1", "2", "-d", "4", "--warm-up", "0", "-c", "50");
    let isOver = false;
    void bench.then(() => {
      isOver = true;
    });
    // Nobody knows when its calls begin, nor whether one is under way at the instance that is killed.
    for (let kills = 0; kills < 4 && !isOver; kills++) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      const [app] = dev.apps().filter(({ service }) => service === "hello");
      if (app !== undefined) process.kill(app.pid, "SIGKILL");
    }
    const { exitCode, stdout } = await bench;
    expect({ exitCode, stdout }).toEqual({
      exitCode: 1,
      stdout: expect.stringMatching(/errors {3}[1-9]\d*: [A-Z_]+ \d/),
    });
    await serving(2);
  });

  test("what is wrong with the call is said, not measured", async () => {
    expect(await run("bench", "/hello/sayHelo")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/^METHOD_NOT/),
    });
  });
});
