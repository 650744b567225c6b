/**
 * A command as a shell runs it, with everything that it starts.
 *
 * Invariant: what it has started is found by a mark in the environment, which nothing loses; `[Symbol.dispose]` leaves
 * nothing of it.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { markVariable, processesOf } from "../e2e/harness/process-list.ts";
import { until } from "../e2e/harness/until.ts";

export const root = fileURLToPath(new URL("../", import.meta.url));
export const bin = path.join(root, "node_modules/.bin");

export interface CommandExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export class RunningCommand implements Disposable {
  readonly mark = randomUUID();
  readonly child: ChildProcess;
  readonly pid: number;
  stdout = "";
  stderr = "";
  /** Its own end, and that of its output. */
  readonly exited: Promise<CommandExit>;

  /** `stdin` is closed unless it is to be written. */
  constructor(
    program: string,
    args: readonly string[],
    options: { readonly writesInput?: boolean; readonly env?: Readonly<Record<string, string>> } = {},
  ) {
    const { NODE_OPTIONS: _, LEVER_AGENT: _agent, ...env } = process.env;
    for (const name of Object.keys(env)) if (name.startsWith("npm_")) delete env[name];
    this.child = spawn(program, args, {
      cwd: root,
      detached: true,
      stdio: [options.writesInput === true ? "pipe" : "ignore", "pipe", "pipe"],
      env: { ...env, NO_COLOR: "1", PATH: `${bin}:${env["PATH"]}`, ...options.env, [markVariable]: this.mark },
    });
    this.pid = this.child.pid as number;
    this.child.stdout?.on("data", (chunk: Buffer) => {
      this.stdout += chunk.toString();
    });
    this.child.stderr?.on("data", (chunk: Buffer) => {
      this.stderr += chunk.toString();
    });
    this.child.stdin?.on("error", () => {});
    this.exited = new Promise((resolve) => {
      this.child.once("close", (code, signal) => resolve({ code, signal }));
    });
  }

  /** Waits until one of the streams shows the text, and says what they show if it does not. */
  async shows(text: string | RegExp, timeoutMs = 30_000): Promise<void> {
    await until(
      `${text} in the output`,
      () => (typeof text === "string" ? this.output.includes(text) : text.test(this.output)),
      timeoutMs,
    ).catch((error: Error) => {
      throw new Error(`${error.message}\n${this.output}`);
    });
  }

  get output(): string {
    return this.stdout + this.stderr;
  }

  /** To it alone, not to its group. */
  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Waits until neither it nor anything that it has started is left. */
  async leavesNothing(timeoutMs = 10_000): Promise<void> {
    await until("nothing is left", () => processesOf(this.mark).length === 0, timeoutMs).catch((error: Error) => {
      const left = processesOf(this.mark).map(({ pid, args }) => `${pid} ${args.join(" ")}`);
      throw new Error(`${error.message}:\n${left.join("\n")}\n${this.output}`);
    });
  }

  [Symbol.dispose](): void {
    for (const { pid } of processesOf(this.mark)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended meanwhile.
      }
    }
  }
}

export function leverCommand(
  args: readonly string[],
  options: { readonly writesInput?: boolean; readonly env?: Readonly<Record<string, string>> } = {},
): RunningCommand {
  return new RunningCommand(path.join(bin, "lever"), args, options);
}
