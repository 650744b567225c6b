/**
 * One path's processes, from their start to their end, and the runs over them. Owns that all of them are counted:
 * a run's CPU time is the sum over every process of the path, and a run during which one of them ended is void.
 * Which processes there are is left to the path; what a call is, to its connector.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { delimiter, dirname } from "node:path";
import { fileURLToPath } from "node:url";
import type { LoadRequest, LoadResult } from "../load/generator.ts";
import { type Control, NoAnswer, type Peer } from "./control.ts";

const START_TIMEOUT_MS = 30_000;
const ANSWER_TIMEOUT_MS = 10_000;
const STOP_TIMEOUT_MS = 5_000;
const OUTPUT_CHARACTERS_MAX = 4_000;
const probeUrl = new URL("./probe.ts", import.meta.url).href;
const generatorUrl = new URL("../load/generator.ts", import.meta.url).href;

/** One measured window. */
export interface Run extends LoadResult {
  readonly callsPerSecond: number;
  /** CPU time per call in µs, user and system, over all processes of the path. */
  readonly cpuMicrosPerCall: number;
  /** The same by the processes' roles. */
  readonly cpuMicrosPerCallByRole: Readonly<Record<string, number>>;
}

export interface SpawnOptions {
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export class Stage {
  /** A directory of this path's own, for sockets and files; short enough for a Unix socket's path. */
  readonly directory: string;
  #pathName: string;
  #control: Control;
  #controlSocket: string;
  #children: { readonly role: string; readonly process: ChildProcess; output: string }[] = [];
  #failure: Error | undefined;
  #stopping = false;
  #waiting = new Set<() => void>();

  constructor(pathName: string, control: Control, controlSocket: string, directory: string) {
    this.#pathName = pathName;
    this.#control = control;
    this.#controlSocket = controlSocket;
    this.directory = directory;
  }

  /**
   * Starts a Node program (the URL of a module) with this Node. It and every Node process that it starts in turn are
   * counted, as long as they inherit its environment; a process names its own role by `BENCH_ROLE`.
   */
  spawn(role: string, programUrl: string, options: SpawnOptions = {}): void {
    if (this.#stopping) throw new Error(`${this.#pathName} was stopped`);
    const child = spawn(process.execPath, [fileURLToPath(programUrl), ...(options.args ?? [])], {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...process.env,
        ...options.env,
        // Programs that look for `node` find this one too: the probe needs a Node that strips types.
        PATH: [dirname(process.execPath), process.env["PATH"] ?? ""].join(delimiter),
        NODE_OPTIONS: `${process.env["NODE_OPTIONS"] ?? ""} --import=${probeUrl}`.trim(),
        BENCH_CONTROL: this.#controlSocket,
        BENCH_PATH: this.#pathName,
        BENCH_ROLE: role,
      },
    });
    const entry = { role, process: child, output: "" };
    this.#children.push(entry);
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        entry.output = (entry.output + text).slice(-OUTPUT_CHARACTERS_MAX);
      });
    }
    child.on("error", (error) => this.#fail(new Error(`${role} of ${this.#pathName} did not start`, { cause: error })));
    child.on("close", (code, signal) => {
      this.#fail(
        new Error(`${role} of ${this.#pathName} ended (${signal ?? `exit code ${code}`})\n${entry.output}`.trim()),
      );
    });
  }

  /** Why no further run can succeed: a process ended or hangs. `undefined` while all is well. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** Starts the load generator, in the role `client`, with a module that exports a `Connector`; resolves when it is connected. */
  async spawnClient(connectorUrl: string, options: SpawnOptions = {}): Promise<void> {
    this.spawn("client", generatorUrl, { ...options, args: [connectorUrl, ...(options.args ?? [])] });
    await this.ready("client");
  }

  /** Waits until the process in `role` has called the probe's `ready`, and gives what it said. */
  async ready(role: string): Promise<unknown> {
    return (await this.#readyPeer(role)).readyData;
  }

  /** Warms the path up, then measures one window. Throws if a call failed or a process ended: such a run does not count. */
  async run(load: LoadRequest, warmUpSeconds: number): Promise<Run> {
    const client = await this.#readyPeer("client");
    await this.#load(client, { ...load, seconds: warmUpSeconds });
    // Nothing is in flight when either sum is taken, so that each call's whole cost lies between them.
    const before = await this.#cpuMicros();
    const result = await this.#load(client, load);
    const after = await this.#cpuMicros();

    for (const peer of before.keys()) {
      if (!after.has(peer)) throw new Error(`${peer.role} (pid ${peer.pid}) of ${this.#pathName} ended during a run`);
    }
    const byRole: Record<string, number> = {};
    let total = 0;
    for (const [peer, micros] of after) {
      const perCall = (micros - (before.get(peer) ?? 0)) / result.calls;
      byRole[peer.role] = (byRole[peer.role] ?? 0) + perCall;
      total += perCall;
    }
    const callsPerSecond = (result.calls * 1e6) / result.elapsedMicros;
    return { ...result, callsPerSecond, cpuMicrosPerCall: total, cpuMicrosPerCallByRole: byRole };
  }

  /** Ends every process that this stage started; resolves when they are gone. */
  async stop(): Promise<void> {
    this.#fail(new Error(`${this.#pathName} was stopped`));
    this.#stopping = true;
    await Promise.all(this.#children.map(({ process }) => ended(process)));
  }

  /** Called when a process came, became ready or went. */
  wake(): void {
    for (const waiting of this.#waiting) waiting();
  }

  #load(client: Peer, load: LoadRequest): Promise<LoadResult> {
    return this.#orFailure(client.ask("run", load, load.seconds * 1000 + ANSWER_TIMEOUT_MS)) as Promise<LoadResult>;
  }

  async #cpuMicros(): Promise<Map<Peer, number>> {
    const peers = [...this.#control.peers].filter((peer) => peer.path === this.#pathName);
    const micros = await this.#orFailure(
      Promise.all(peers.map((peer) => peer.ask("cpuMicros", null, ANSWER_TIMEOUT_MS))),
    );
    return new Map(peers.map((peer, index) => [peer, Number(micros[index])]));
  }

  async #readyPeer(role: string): Promise<Peer> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      for (const peer of this.#control.peers) {
        if (peer.path === this.#pathName && peer.role === role && peer.readyData !== undefined) return peer;
      }
      const leftMs = deadline - Date.now();
      if (leftMs <= 0) throw new Error(`${role} of ${this.#pathName} was not ready within ${START_TIMEOUT_MS} ms`);
      await this.#change(leftMs);
    }
  }

  #change(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const woken = () => {
        clearTimeout(timer);
        this.#waiting.delete(woken);
        resolve();
      };
      const timer = setTimeout(woken, timeoutMs);
      this.#waiting.add(woken);
    });
  }

  /** A process's end says more than the question that it left open. */
  async #orFailure<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      // What hangs once would take its whole time again in every later run.
      if (error instanceof NoAnswer) this.#failure ??= error;
      // The line is cut a moment before the child's exit is reported.
      if (this.#failure === undefined) await this.#change(100);
      throw this.#failure ?? error;
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.wake();
  }
}

/** Asks a process to end, then makes it. */
async function ended(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_TIMEOUT_MS);
  await gone;
  clearTimeout(timer);
}
