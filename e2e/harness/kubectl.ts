/** kubectl as people use it, and the API server behind it for requests that kubectl does not make. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { type CommandResult, type RunOptions, result, run } from "../cluster/command.ts";

/** What kubectl prints; throws if it fails. */
export const kubectl = (args: readonly string[], options: RunOptions = {}): Promise<string> =>
  run("kubectl", args, options);

/** How kubectl ends, for what is to fail. */
export const kubectlResult = (args: readonly string[], options: RunOptions = {}): Promise<CommandResult> =>
  result("kubectl", args, options);

export async function kubectlJson<Value = unknown>(args: readonly string[]): Promise<Value> {
  return JSON.parse(await kubectl([...args, "--output=json"])) as Value;
}

export interface ApiAnswer {
  readonly status: number;
  readonly body: unknown;
}

export interface WatchedChange {
  readonly type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" | "ERROR";
  readonly object: unknown;
}

/** The API server by whatever credentials the kubeconfig has: a `kubectl proxy` on a socket of its own. */
export class ApiServer implements AsyncDisposable {
  readonly #directory: string;
  readonly #proxy: ChildProcess;

  readonly #end = () => void this.#proxy.kill();

  private constructor(directory: string, proxy: ChildProcess) {
    this.#directory = directory;
    this.#proxy = proxy;
    // Who is interrupted disposes of nothing.
    process.once("exit", this.#end);
  }

  static async open(): Promise<ApiServer> {
    const directory = await mkdtemp(path.join(tmpdir(), "lever-e2e-"));
    const args = ["proxy", `--unix-socket=${path.join(directory, "api")}`, "--reject-paths=^$"];
    const proxy = spawn("kubectl", args, { stdio: ["ignore", "pipe", "inherit"] });
    const started = once(proxy.stdout as NodeJS.ReadableStream, "data");
    await Promise.race([started, once(proxy, "exit").then(([code]) => Promise.reject(new Error(`exit ${code}`)))]);
    return new ApiServer(directory, proxy);
  }

  request(method: string, url: string, body?: string, contentType = "application/yaml"): Promise<ApiAnswer> {
    return new Promise((resolve, reject) => {
      const headers = body === undefined ? {} : { "content-type": contentType };
      const asked = request({ socketPath: path.join(this.#directory, "api"), method, path: url, headers });
      asked.once("error", reject);
      asked.once("response", (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.once("error", reject);
        response.once("end", () => {
          const text = Buffer.concat(chunks).toString();
          const isJson = response.headers["content-type"]?.startsWith("application/json");
          resolve({ status: response.statusCode as number, body: isJson ? JSON.parse(text) : text });
        });
      });
      asked.end(body);
    });
  }

  /** Follows a list; `onEvent` is called as each change arrives. Gives how to stop. */
  watch(url: string, onEvent: (event: WatchedChange) => void): () => void {
    const asked = request({ socketPath: path.join(this.#directory, "api"), path: url, agent: false });
    asked.on("error", () => {});
    asked.once("response", (response) => {
      const lines = createInterface(response);
      for (const source of [response, lines]) source.on("error", () => {});
      lines.on("line", (line) => onEvent(JSON.parse(line) as WatchedChange));
    });
    asked.end();
    return () => asked.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.off("exit", this.#end);
    this.#end();
    await rm(this.#directory, { recursive: true, force: true });
  }
}
