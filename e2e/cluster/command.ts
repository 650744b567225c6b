/** Commands of the machine that run to their end. */

import { type SpawnOptions, spawn } from "node:child_process";

export interface RunOptions extends Pick<SpawnOptions, "cwd"> {
  /** Variables beside those of this process; `undefined` takes one away. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly input?: string;
  /** Ends the command, which then counts as failed. */
  readonly signal?: AbortSignal;
  /** Shows what the command says while it says it. */
  readonly isShown?: boolean;
}

export interface CommandResult {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Rejects only if the command cannot be started. */
export function result(command: string, args: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
  const output = options.isShown ? "inherit" : "pipe";
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    stdio: [options.input === undefined ? "ignore" : "pipe", output, output],
  });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout?.on("data", (chunk: Buffer) => out.push(chunk));
  child.stderr?.on("data", (chunk: Buffer) => err.push(chunk));
  // A command that has failed reads no input.
  child.stdin?.on("error", () => {});
  child.stdin?.end(options.input);
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (exitCode) =>
      resolve({ exitCode, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }),
    );
  });
}

/** Standard output of a command that ends with 0; else an error with all that it said. */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { exitCode, stdout, stderr } = await result(command, args, options);
  if (exitCode === 0) return stdout;
  throw new Error(`${command} ${args.join(" ")}: exit ${exitCode}\n${stdout}${stderr}`.trimEnd());
}

/** False also if there is no such command. */
export async function succeeds(command: string, args: readonly string[], options: RunOptions = {}): Promise<boolean> {
  return result(command, args, options).then(
    ({ exitCode }) => exitCode === 0,
    () => false,
  );
}
