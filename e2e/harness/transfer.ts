/**
 * Much data through everything that lies between two apps: the app that asks, its agent, the other's agent, the app
 * that answers. What is measured here is asserted by the test and printed by `npm run transfer`.
 */

import { setTimeout as sleep } from "node:timers/promises";
import type { Client } from "leveros";
import type { Moved } from "../fixtures/mover/methods.ts";
import type { LeverDev, LeverDevOptions } from "./lever-dev.ts";
import { peakBytes, resetPeak, residentBytes } from "./process-list.ts";
import { until } from "./until.ts";

export const mebibyte = 1024 * 1024;

export const transferServices: LeverDevOptions = {
  manifests: ["examples/upload", "e2e/fixtures/mover", "e2e/fixtures/probe/probe.yaml"],
  agents: "process",
};

const long = { timeoutMs: 3_600_000 };

/** Peak resident memory above what the process had when it was idle, MiB, by its part on the path. */
export type Peaks = Readonly<Record<string, number>>;

/**
 * MiB that a process may take above idle. Of an app the garbage that V8 lets lie is nearly all: it collects the young
 * Buffers once they are 32 MiB, and frees them while the next 32 MiB are made. An agent is started with a small young generation.
 */
export function aboveIdleMax(what: string): number {
  return what.endsWith("agent") ? 64 : 80;
}

/** Resets the peaks; the function that it returns says how far they have risen. */
function watchMemory(dev: LeverDev, services: readonly string[]): () => Peaks {
  const watched = [
    ...dev.apps().map((app) => ({ ...app, what: `${app.service} app` })),
    ...dev.agents().map((agent) => ({ ...agent, what: `${agent.service} agent` })),
  ]
    .filter(({ service }) => services.includes(service))
    .map(({ pid, what }) => ({ pid, what, idleBytes: residentBytes(pid) }));
  for (const { pid } of watched) resetPeak(pid);
  return () =>
    Object.fromEntries(
      watched.map(({ pid, what, idleBytes }) => [what, Math.round((peakBytes(pid) - idleBytes) / mebibyte)]),
    );
}

export interface Transfer {
  readonly up: Moved;
  readonly down: Moved;
  /** After the first, and after both. */
  readonly upPeaks: Peaks;
  readonly peaks: Peaks;
}

/** `bytes` up, then as many down, through the example's `upload` service. */
export async function transfer(dev: LeverDev, client: Client, bytes: number): Promise<Transfer> {
  // Memory that a process takes at its start is idle memory: until it is quiet.
  await sleep(1000);
  const memory = watchMemory(dev, ["mover", "upload"]);
  const up = await client.invoke<Moved>("/mover/up", [bytes, 12345], long);
  const upPeaks = memory();
  const down = await client.invoke<Moved>("/mover/down", [bytes, 54321], long);
  return { up, down, upPeaks, peaks: memory() };
}

export interface Stall {
  /** What the writer had sent after 1 s of a reader that does not read, and 2 s later. */
  readonly sentBytes: number;
  readonly sentLaterBytes: number;
  /** The same once the reader has read 64 MiB more. */
  readonly sentAfterBytes: number;
  readonly peaks: Peaks;
}

/** A reader that reads nothing for 3 s, and then goes on. The writer would send at most `bytesMax`. */
export async function stall(dev: LeverDev, client: Client, bytesMax: number): Promise<Stall> {
  const memory = watchMemory(dev, ["mover", "probe"]);
  const flooded = () => client.invoke<number>("/probe/flooded", [], long);
  await client.invoke("/mover/stall", [bytesMax], long);
  await sleep(1000);
  const sentBytes = await flooded();
  await sleep(2000);
  const sentLaterBytes = await flooded();
  const peaks = memory();
  await client.invoke("/mover/readStalled", [(64 * mebibyte) / (64 * 1024)], long);
  const sentAfterBytes = await flooded();
  await client.invoke("/mover/endStalled", [], long);
  return { sentBytes, sentLaterBytes, sentAfterBytes, peaks };
}

export interface Latency {
  readonly idleMs: number;
  readonly busyMs: number;
  readonly busyP99Ms: number;
  /** MiB/s each way meanwhile. */
  readonly up: number;
  readonly down: number;
}

/** The median of small calls, alone, and beside two channels that move as much as they can over the same links. */
export async function latency(client: Client, ms: number): Promise<Latency> {
  const pings = (count: number) => client.invoke<number[]>("/mover/pings", [count], long);
  const at = (times: number[], part: number) => times[Math.floor(times.length * part)] as number;
  await pings(500);
  const idle = await pings(1000);
  const busy = client.invoke<{ up: number; down: number }>("/mover/busy", [ms], long);
  await sleep(500);
  const times: number[] = [];
  const end = performance.now() + ms - 1000;
  while (performance.now() < end) times.push(...(await pings(50)));
  times.sort((a, b) => a - b);
  const { up, down } = await busy;
  const perSecond = (bytes: number) => Math.round((bytes / mebibyte / ms) * 1000);
  return {
    idleMs: at(idle, 0.5),
    busyMs: at(times, 0.5),
    busyP99Ms: at(times, 0.99),
    up: perSecond(up),
    down: perSecond(down),
  };
}

/** For people. */
export function describeMoved({ bytes, ms, sha256, receipt }: Moved): string {
  const same = sha256 === receipt.sha256 && bytes === receipt.bytes;
  return `${bytes / mebibyte} MiB in ${(ms / 1000).toFixed(1)} s (${Math.round(bytes / mebibyte / (ms / 1000))} MiB/s), SHA-256 ${same ? "the same" : "NOT THE SAME"} at both ends`;
}

/** Resolves when the instances of all services on the path serve. */
export async function ready(dev: LeverDev): Promise<void> {
  for (const service of ["mover", "upload", "probe"]) await dev.serving(service, 1);
  await until("the agents run", () => dev.agents().length >= 3);
}
