/** `kubectl port-forward` to a Service or pod, on whatever port of this machine is free. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

export class PortForward implements AsyncDisposable {
  readonly port: number;
  readonly #child: ChildProcess;

  private constructor(port: number, child: ChildProcess) {
    this.port = port;
    this.#child = child;
  }

  /** `target` as kubectl names it: `svc/lever-gateway`. */
  static async open(namespace: string, target: string, port: number): Promise<PortForward> {
    const args = ["port-forward", "--namespace", namespace, target, `:${port}`];
    const child = spawn("kubectl", args, { stdio: ["ignore", "pipe", "inherit"] });
    const ended = once(child, "exit").then(([code]) =>
      Promise.reject(new Error(`${target}: kubectl ended with ${code}`)),
    );
    const lines = createInterface(child.stdout as NodeJS.ReadableStream);
    const [line] = (await Promise.race([once(lines, "line"), ended])) as [string];
    ended.catch(() => {});
    const local = /^Forwarding from 127\.0\.0\.1:(\d+) /.exec(line)?.[1];
    if (local !== undefined) return new PortForward(Number(local), child);
    child.kill();
    throw new Error(`kubectl port-forward said ${line}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.#child.kill();
    await ended;
  }
}
