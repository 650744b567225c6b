/** What the tests with real processes share: a mark that finds all processes of a test, and a supervisor that records. */

import { execFileSync } from "node:child_process";
import { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { type InstanceSpec, ProcessSupervisor } from "./process-supervisor.ts";

let marks = 0;

/** A duration for `sleep` that no other process has: what runs it can be found in the list of processes. */
export function uniqueSleep(): string {
  return `${10_000 + (process.pid % 10_000)}.${String(++marks).padStart(4, "0")}`;
}

/** The running processes, zombies left out, whose command line contains `mark`. */
export function processesWith(mark: string): number[] {
  const list = execFileSync("ps", ["-A", "-o", "pid=,stat=,args="], { encoding: "utf8", maxBuffer: 64 * 1024 ** 2 });
  const pids: number[] = [];
  for (const line of list.split("\n")) {
    const [, pid, stat, args] = /^\s*(\d+)\s+(\S+)\s+(.*)$/.exec(line) ?? [];
    if (args?.includes(mark) && !stat?.startsWith("Z") && Number(pid) !== process.pid) pids.push(Number(pid));
  }
  return pids;
}

/** Resolves when `isTrue`; the test's own time limit ends it otherwise. */
export async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await sleep(10);
}

export class TextSink extends Writable {
  text = "";

  override _write(chunk: Buffer, _encoding: string, callback: () => void): void {
    this.text += chunk.toString();
    callback();
  }
}

export function recordingSupervisor() {
  const stdout = new TextSink();
  const stderr = new TextSink();
  return { supervisor: new ProcessSupervisor({ clock: runtimeClock(globalThis), stdout, stderr }), stdout, stderr };
}

let ids = 0;

export function spec(command: string, overrides: Partial<InstanceSpec> = {}): InstanceSpec {
  return {
    id: `hello-1-${String(++ids).padStart(4, "0")}`,
    service: "hello",
    environment: "dev",
    command,
    directory: import.meta.dirname,
    env: {},
    ...overrides,
  };
}
