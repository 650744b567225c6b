/** The `lever` command as a user's shell runs it. */

import { spawn } from "node:child_process";
import path from "node:path";
import { root } from "./lever-dev.ts";

export interface CommandResult {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `lever` to its end; `input` is its standard input. */
export function lever(
  args: readonly string[],
  options: { readonly input?: string | Uint8Array; readonly onStart?: (pid: number) => void } = {},
): Promise<CommandResult> {
  const { NODE_OPTIONS: _, LEVER_AGENT: _agent, ...env } = process.env;
  const child = spawn(path.join(root, "node_modules/.bin/lever"), args, {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...env, PATH: `${path.join(root, "node_modules/.bin")}:${env.PATH}`, NO_COLOR: "1" },
  });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
  // A command that has failed reads no input.
  child.stdin.on("error", () => {});
  child.stdin.end(options.input);
  options.onStart?.(child.pid as number);
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (exitCode) => {
      resolve({ exitCode, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() });
    });
  });
}
