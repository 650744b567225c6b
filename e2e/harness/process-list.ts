/**
 * The processes of a run, found by a mark in their environment: it is inherited by everything that a run starts, so
 * that nothing can hide behind a new parent, group or session. Linux only, as are the figures of memory.
 */

import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";

export interface RunningProcess {
  readonly pid: number;
  readonly args: readonly string[];
  readonly env: ReadonlyMap<string, string>;
}

export const markVariable = "E2E_RUN";

/** Everything that runs with the mark, zombies left out. */
export function processesOf(mark: string): RunningProcess[] {
  const found: RunningProcess[] = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const pid = Number(entry);
    const env = parse(read(pid, "environ"));
    // What is not, or no longer, a process of ours has nothing to read.
    if (!env.includes(`${markVariable}=${mark}`) || stateOf(pid) === "Z") continue;
    found.push({
      pid,
      args: parse(read(pid, "cmdline")),
      env: new Map(
        env.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)] as [string, string]),
      ),
    });
  }
  return found;
}

/** The processes that `pid` has started and that are alive. */
export function childrenOf(pid: number): RunningProcess[] {
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry) && parentOf(Number(entry)) === pid)
    .map((entry) => ({ pid: Number(entry), args: parse(read(Number(entry), "cmdline")), env: new Map() }));
}

function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)/m.exec(read(pid, "status"))?.[1]);
}

/** `undefined` when there is no such process; `Z` is a zombie, `T` is stopped. */
export function stateOf(pid: number): string | undefined {
  return /^State:\s+(\S)/m.exec(read(pid, "status"))?.[1];
}

/** The peak of resident memory since the start, or since `resetPeak`. */
export function peakBytes(pid: number): number {
  return kibibytes(pid, "VmHWM") * 1024;
}

export function residentBytes(pid: number): number {
  return kibibytes(pid, "VmRSS") * 1024;
}

/** From now on the peak is counted anew. */
export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
}

function kibibytes(pid: number, field: string): number {
  const text = new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(read(pid, "status"))?.[1];
  if (text === undefined) throw new Error(`process ${pid} has no ${field}; has it ended?`);
  return Number(text);
}

/** The TCP ports of 127.0.0.1 that the process listens on. */
export function listeningPorts(pid: number): number[] {
  const inodes = new Set<string>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
      if (inode !== undefined) inodes.add(inode);
    } catch {
      // Closed in the meantime.
    }
  }
  const ports: number[] = [];
  for (const line of read(pid, "net/tcp").split("\n").slice(1)) {
    const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
    if (state === "0A" && inodes.has(inode as string)) ports.push(Number.parseInt((local as string).slice(9), 16));
  }
  return ports;
}

/** CPU time that the process has used, in all its threads, ms. */
export function cpuMs(pid: number): number {
  const fields = read(pid, "stat").split(") ")[1]?.split(" ") ?? [];
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / clockTicks;
}

const clockTicks = Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));

function read(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}

function parse(text: string): string[] {
  return text.split("\0").slice(0, -1);
}
