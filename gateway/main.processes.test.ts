/** The gateway as a process: its settings, and its end. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";
import { Probe } from "./probe.fixture.ts";
import { startRig } from "./rig.fixture.ts";

const main = fileURLToPath(new URL("main.ts", import.meta.url));
const children: ChildProcess[] = [];

afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});

function start(variables: Record<string, string>) {
  const child = spawn(process.execPath, [main], { env: variables, stdio: ["ignore", "pipe", "pipe"] });
  children.push(child);
  const output = { text: "" };
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk: Buffer) => (output.text += String(chunk)));
  return { child, output, exited: once(child, "exit") as Promise<[number | null, string | null]> };
}

test("a bad setting ends it with 2 and a line that names it", async () => {
  const { output, exited } = start({ LEVER_OPERATOR: "127.0.0.1:1", LEVER_PORT: "none" });
  expect((await exited)[0]).toBe(2);
  expect(output.text).toBe('lever-gateway: LEVER_PORT is "none", expected a whole number from 0 to 65535\n');
});

test("SIGTERM lets a running request end, then the process, with 0", async () => {
  const probe = new Probe();
  // The rig's own gateway is of no use here, its operator is.
  const rig = await startRig({ "dev/probe": probe.methods });
  try {
    const { child, output, exited } = start({
      LEVER_OPERATOR: rig.operator,
      LEVER_HOST: "127.0.0.1",
      LEVER_HTTP_PORT: "0",
      LEVER_PORT: "0",
      LEVER_ADMIN_PORT: "0",
      LEVER_DEFAULT_ENVIRONMENT: "dev",
    });
    const isUp = () => /HTTP on (\d+)/.exec(output.text)?.[1];
    await probe.when(() => isUp() !== undefined || child.exitCode !== null);
    const call = fetch(`http://127.0.0.1:${isUp()}/probe/waits`, { method: "POST" });
    await probe.whenRuns(1);
    child.kill("SIGTERM");
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(child.exitCode).toBeNull();
    probe.release();
    expect(await (await call).text()).toBe('"released"');
    expect(await exited).toEqual([0, null]);
  } finally {
    await rig.close();
  }
});
