/** `lever run`: processes of one's own as instances of a running `lever dev`, and that nothing of them is left. */

import { spawn } from "node:child_process";
import path from "node:path";
import type { EndpointReport, EndpointsReport } from "@leveros/operator/admin/admin-report.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { lever } from "../e2e/harness/lever-command.ts";
import { LeverDev } from "../e2e/harness/lever-dev.ts";
import { until } from "../e2e/harness/until.ts";
import { leverCommand, root } from "./running-command.fixture.ts";

const app = path.join(root, "examples/hello/main.ts");

let dev: LeverDev;
beforeAll(async () => {
  dev = await LeverDev.start({ manifests: ["examples/hello"] });
});
afterAll(async () => {
  await dev[Symbol.asyncDispose]();
});

const at = () => ["--gateway", dev.gateway];
async function endpoints(): Promise<readonly EndpointReport[]> {
  const { stdout } = await lever(["endpoints", "hello", ...at(), "-o", "json"]);
  return (JSON.parse(stdout) as EndpointsReport[])[0]?.endpoints ?? [];
}
const attached = (count: number) =>
  until(`${count} attached instances serve`, async () => {
    const all = (await endpoints()).filter(({ isAttached }) => isAttached);
    return all.length === count && all.every(({ state }) => state === "Serving") ? all : undefined;
  });
const say = () => lever(["invoke", "/hello/sayHello", '"x"', ...at()]);

test("a process takes calls like any instance, alone too, until Ctrl-C ends it", async () => {
  using command = leverCommand(["run", "-s", "hello", ...at(), "--", "node", app]);
  const [own] = await attached(1);
  expect(own?.instance).toMatch(/^hello-3-\w{4}$/);
  await lever(["scale", "hello", "0", ...at()]);
  await until("it is alone", async () => (await endpoints()).length === 1);
  expect(await say()).toMatchObject({ exitCode: 0, stdout: '"Hello, x!"\n' });
  expect(await lever(["evict", own?.instance as string, ...at()])).toMatchObject({
    exitCode: 2,
    stderr: expect.stringContaining("run by `lever run`"),
  });
  command.signal("SIGINT");
  expect(await command.exited).toEqual({ code: 0, signal: null });
  await command.leavesNothing();
  expect(await endpoints()).toEqual([]);
  await lever(["scale", "hello", "2", ...at()]);
});

test.each([
  ["its exit code", "exit 7", 7],
  ["a signal's", "kill -KILL $$", 137],
])("the process's end is the command's: %s", async (_, line, code) => {
  expect(await lever(["run", "-s", "dev/hello", ...at(), "--", "sh", "-c", line])).toMatchObject({ exitCode: code });
});

test("arguments and variables arrive as they are", async () => {
  const print =
    "console.log(JSON.stringify([process.argv.slice(1), process.env.LEVER_SERVICE, process.env.LEVER_ENVIRONMENT]))";
  const words = ["a b", "'", '"', "$HOME", "ü\n", ""];
  const { stdout } = await lever(["run", "-s", "hello", ...at(), "--", "node", "-e", print, "--", ...words]);
  expect(JSON.parse(/\| (\[.*\])\n/.exec(stdout)?.[1] as string)).toEqual([words, "hello", "dev"]);
});

test("without a command: variables for a process that someone else starts", async () => {
  using command = leverCommand(["run", "-s", "hello", ...at(), "-o", "json"]);
  await command.shows(/^\{.*\}\n/);
  const variables = JSON.parse(command.stdout) as Record<string, string>;
  expect(Object.keys(variables).sort()).toEqual(
    ["LEVER_AGENT", "LEVER_ENVIRONMENT", "LEVER_INSTANCE", "LEVER_SERVICE", "LEVER_SHOW_ERRORS"].sort(),
  );
  const child = spawn(process.execPath, [app], { env: { ...process.env, ...variables }, stdio: "ignore" });
  try {
    const [own] = await attached(1);
    expect(own?.instance).toBe(variables["LEVER_INSTANCE"]);
  } finally {
    child.kill("SIGTERM");
  }
  command.signal("SIGTERM");
  expect(await command.exited).toEqual({ code: 0, signal: null });
  await attached(0);
});

test("killed itself, it leaves no process and no instance", async () => {
  using command = leverCommand(["run", "-s", "hello", ...at(), "--", "node", app]);
  await attached(1);
  command.signal("SIGKILL");
  await command.leavesNothing();
  await attached(0);
});

test.each([
  ["a service that there is not", ["-s", "helo"], /^SERVICE_NOT_FOUND: .*dev\/hello/],
  ["a name that is none", ["-s", "a/b/c"], /^INVALID_ARGUMENTS: "a\/b\/c" is no service/],
  ["no service", [], /required option '-s, --service <name>'/],
])("refuses %s", async (_, args, message) => {
  expect(await lever(["run", ...args, ...at(), "--", "true"])).toMatchObject({
    exitCode: 2,
    stderr: expect.stringMatching(message),
  });
});

test("lever dev has ended: so do the process and the command, with exit code 3", async () => {
  using command = leverCommand(["run", "-s", "hello", ...at(), "--", "node", app]);
  await attached(1);
  dev.interrupt();
  expect(await command.exited).toEqual({ code: 3, signal: null });
  expect(command.stderr).toContain("`lever dev` has ended");
  await command.leavesNothing();
});
