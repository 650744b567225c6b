/**
 * `lever dev` as a process of its own, on free ports, with everything that it starts.
 *
 * Invariant: `stop` leaves no process of the run, and fails if `lever dev` itself had left one.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Client } from "leveros";
import { CallLog } from "./call-log.ts";
import { childrenOf, listeningPorts, markVariable, processesOf, type RunningProcess, stateOf } from "./process-list.ts";
import { patchEnvironment, type SourcePatch } from "./source-patch.ts";
import { until } from "./until.ts";

export const root = fileURLToPath(new URL("../../", import.meta.url));
const bin = path.join(root, "node_modules/.bin");

export interface LeverDevOptions {
  /** Files or folders, absolute or below the root of the repository. */
  readonly manifests: readonly string[];
  /** More flags. */
  readonly flags?: readonly string[];
  readonly agents?: "hosted" | "process";
  /** For `lever dev` and all agents. */
  readonly env?: Readonly<Record<string, string>>;
  /** For the instances: `--env`. */
  readonly appEnv?: Readonly<Record<string, string>>;
  /** Protections that are taken out. */
  readonly patches?: readonly SourcePatch[];
}

/** A process of the run with the instance that it belongs to. */
export interface InstanceProcess {
  readonly pid: number;
  readonly service: string;
  readonly instance: string;
}

export class LeverDev implements AsyncDisposable {
  readonly mark: string;
  readonly child: ChildProcess;
  readonly pid: number;
  /** Both streams of `lever dev`, and so of all that it starts. */
  readonly output: { text: string };
  /** What the methods of the fixtures wrote down of themselves. */
  readonly log: CallLog;
  readonly directory: string;
  readonly exited: Promise<void>;
  #httpPort = 0;
  #port = 0;
  #metricsUrl = "";
  /** The shell that ends the apps should `lever dev` be killed. */
  #guardian: RunningProcess | undefined;

  private constructor(mark: string, child: ChildProcess, directory: string, log: CallLog) {
    this.mark = mark;
    this.child = child;
    this.pid = child.pid as number;
    this.directory = directory;
    this.log = log;
    this.output = { text: "" };
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (chunk: Buffer) => {
        this.output.text += chunk.toString();
      });
    }
    this.exited = new Promise((resolve) => child.once("exit", () => resolve()));
  }

  /** Resolves when every service has an instance that serves. */
  static async start(options: LeverDevOptions): Promise<LeverDev> {
    const mark = randomUUID();
    const directory = mkdtempSync(path.join(tmpdir(), "lever-e2e-"));
    const log = new CallLog(path.join(directory, "calls.jsonl"));
    const appEnv = { E2E_LOG: log.file, ...options.appEnv };
    const args = [
      ...["dev", "--http-port", "0", "--port", "0", "--agent", options.agents ?? "hosted"],
      ...options.manifests.flatMap((file) => ["-f", path.resolve(root, file)]),
      ...(options.flags ?? []),
      ...Object.entries(appEnv).flatMap(([name, value]) => ["--env", `${name}=${value}`]),
    ];
    const { NODE_OPTIONS: _, ...inherited } = process.env;
    const child = spawn(path.join(bin, "lever"), args, {
      // A group of its own, as a shell gives to what runs in a terminal: Ctrl-C is a SIGINT to that group.
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...inherited,
        ...patchEnvironment(options.patches ?? []),
        ...options.env,
        PATH: `${bin}:${process.env.PATH}`,
        NO_COLOR: "1",
        [markVariable]: mark,
      },
    });
    const dev = new LeverDev(mark, child, directory, log);
    try {
      await dev.#up();
    } catch (error) {
      dev.killAll();
      throw error;
    }
    return dev;
  }

  async #up(): Promise<void> {
    const ports = await until(
      "`lever dev` is up",
      () => {
        if (this.child.exitCode !== null) throw new Error(`lever dev ended at its start:\n${this.output.text}`);
        return /HTTP http:\/\/127.0.0.1:(\d+) +client libraries 127.0.0.1:(\d+) +metrics (\S+)\n/.exec(
          this.output.text,
        );
      },
      30_000,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${this.output.text}`);
    });
    this.#httpPort = Number(ports[1]);
    this.#port = Number(ports[2]);
    this.#metricsUrl = ports[3] as string;
    this.#guardian = childrenOf(this.pid).find(({ args }) => args.some((arg) => arg.includes("signal_all")));
  }

  /** `host:port` of the gateway's native port. */
  get gateway(): string {
    return `127.0.0.1:${this.#port}`;
  }

  get httpUrl(): string {
    return `http://127.0.0.1:${this.#httpPort}`;
  }

  client(): Client {
    return new Client({ gateway: this.gateway, environment: "dev" });
  }

  /** Everything of this run that is alive. */
  processes(): RunningProcess[] {
    const guardian = this.#guardian;
    // It has no variables of its own, and so no mark.
    const guardians = guardian !== undefined && stateOf(guardian.pid) !== undefined ? [guardian] : [];
    return [...processesOf(this.mark), ...guardians];
  }

  /** The agents that are processes of their own. */
  agents(): InstanceProcess[] {
    return this.#ofInstances(({ args }) => args.some((arg) => arg.endsWith("/agent/main.ts")));
  }

  /** The first process of each app, not the shell that started it. */
  apps(): InstanceProcess[] {
    return this.#ofInstances(({ args }) => /(^|\/)node$/.test(args[0] ?? "") && !args.some(isAgent));
  }

  #ofInstances(which: (process: RunningProcess) => boolean): InstanceProcess[] {
    return this.processes()
      .filter((each) => each.env.has("LEVER_INSTANCE") && which(each))
      .map(({ pid, env }) => ({
        pid,
        service: env.get("LEVER_SERVICE") as string,
        instance: env.get("LEVER_INSTANCE") as string,
      }));
  }

  /** Waits until `count` instances of the service serve (and no more run). */
  async serving(service: string, count: number): Promise<InstanceProcess[]> {
    return until(`${service} has ${count} instances that serve`, () => {
      const apps = this.apps().filter((app) => app.service === service);
      return apps.length === count && apps.every(({ instance }) => this.output.text.includes(`${instance} serves `))
        ? apps
        : undefined;
    });
  }

  /** How many slots each instance of the service holds. */
  async slots(client: Client, service: string): Promise<Map<string, number>> {
    const url = "lever://lever-system/operator/listEndpoints";
    const [report] = await client.invoke<[{ endpoints: { instance: string; slots: number }[] }]>(url, ["dev", service]);
    return new Map(report.endpoints.map(({ instance, slots }) => [instance, slots]));
  }

  /** Waits until `count` instances of the service serve, and hold as many slots each (± 1): the first one had all. */
  async spread(client: Client, service: string, count: number): Promise<void> {
    await this.serving(service, count);
    await until(`${count} instances of ${service} hold their shares`, async () => {
      const held = [...(await this.slots(client, service)).values()];
      return held.length === count && held.every((slots) => slots > 0) && Math.max(...held) - Math.min(...held) <= 1;
    });
  }

  /** The sum of a counter of the gateway over the labels that match. */
  async gatewayMetric(name: string, labels: RegExp = /.*/): Promise<number> {
    return sumOf(await (await fetch(this.#metricsUrl)).text(), name, labels);
  }

  /** The same of an agent that is a process of its own: its admin port is the one that answers HTTP. */
  async agentMetric(agent: InstanceProcess, name: string, labels: RegExp = /.*/): Promise<number> {
    for (const port of listeningPorts(agent.pid)) {
      const text = await fetch(`http://127.0.0.1:${port}/metrics`, { signal: AbortSignal.timeout(2000) })
        .then((response) => response.text())
        .catch(() => undefined);
      if (text !== undefined) return sumOf(text, name, labels);
    }
    throw new Error(`the agent of ${agent.instance} shows no metrics`);
  }

  /** As Ctrl-C in a terminal: to every process of the group. */
  interrupt(): void {
    process.kill(-this.pid, "SIGINT");
  }

  /** Resolves with what is left of the run once nothing is, or after `timeoutMs`. */
  async leftAfter(timeoutMs: number): Promise<RunningProcess[]> {
    const none = await until("no process is left", () => this.processes().length === 0, timeoutMs).catch(() => false);
    return none === false ? this.processes() : [];
  }

  killAll(): void {
    for (const { pid } of this.processes()) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended meanwhile.
      }
    }
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** SIGTERM; rejects if a process of the run is left afterwards. */
  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill("SIGTERM");
    const left = await this.leftAfter(35_000);
    this.killAll();
    if (left.length === 0) return;
    const names = left.map(({ pid, args }) => `${pid} ${args.join(" ")}`).join("\n");
    throw new Error(`lever dev has left processes:\n${names}\nIts output:\n${this.output.text.slice(-4000)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

function isAgent(arg: string): boolean {
  return arg.endsWith("/agent/main.ts");
}

function sumOf(page: string, name: string, labels: RegExp): number {
  let sum = 0;
  for (const line of page.split("\n")) {
    const [, metric, found = "", value] = /^([a-z_]+)(\{.*\})? (\S+)$/.exec(line) ?? [];
    if (metric === name && labels.test(found)) sum += Number(value);
  }
  return sum;
}
