/** `onLapse: Kill`, in real processes that hang. */

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const script = fileURLToPath(new URL("./watchdog.fixture.ts", import.meta.url));

async function run(...args: string[]): Promise<{ code: number | null; signal: string | null; stderr: string }> {
  const child = spawn(process.execPath, [script, ...args], { stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  return new Promise((resolve) => child.on("close", (code, signal) => resolve({ code, signal, stderr })));
}

it.concurrent.each([
  ["runs", 200],
  ["lapsed", 200],
])("a process whose method %s at the end of its lease is killed, and says why", async (method, killMs) => {
  const { signal, stderr } = await run(method, String(killMs));
  expect(signal).toBe("SIGKILL");
  expect(stderr).toContain("lever: chat-1 ends itself");
});

it.concurrent.each([
  ["none", 200],
  ["returned", 200],
  ["runs", 3_600_000],
])("a process whose method %s is left alone until %i ms", async (method, killMs) => {
  expect(await run(method, String(killMs))).toEqual({ code: 7, signal: null, stderr: "" });
});
