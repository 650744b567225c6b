/** Prints what the bench found: one aligned table for people, one JSON document for programs. */

import { availableParallelism, cpus, release } from "node:os";
import type { BenchOptions } from "../options.ts";
import { type Cell, type CellSummary, type Summary, summarise } from "./result.ts";

export interface BenchResult {
  readonly options: BenchOptions;
  readonly paths: readonly { readonly name: string; readonly about: string }[];
  /** Paths that this machine cannot run, with the reason. */
  readonly unavailable: readonly { readonly name: string; readonly reason: string }[];
  readonly cells: readonly Cell[];
}

export function machine() {
  const model = cpus()[0]?.model ?? "unknown";
  return {
    node: process.version,
    platform: `${process.platform} ${release()}`,
    cpu: model,
    cpuCount: availableParallelism(),
  };
}

export function jsonReport(result: BenchResult, bases: readonly string[]): string {
  const cells = result.cells.map((cell) => ({ ...cell, summary: summarise(cell, result.cells, bases) ?? null }));
  return JSON.stringify({ machine: machine(), ...result, cells }, null, 2);
}

export function tableReport(result: BenchResult, bases: readonly string[]): string {
  const { options, paths, unavailable, cells } = result;
  const shownBases = bases.filter((base) => paths.some(({ name }) => name === base));
  const head = [
    "args",
    "in flight",
    "path",
    "CPU µs/call",
    "calls/s",
    "p50 µs",
    "p99 µs",
    ...shownBases.map((base) => `CPU ÷ ${base}`),
  ];
  const rows = cells.map((cell) => {
    const summary = summarise(cell, cells, bases);
    const label = [size(cell.bytes), String(cell.inFlight), cell.path];
    return summary === undefined ? [...label, "void"] : [...label, ...columns(summary, shownBases)];
  });
  const { node, platform, cpu, cpuCount } = machine();
  return [
    `Node ${node}, ${cpuCount} CPUs (${cpu}), ${platform}`,
    `median (worst) of ${options.rounds} rounds of ${options.seconds} s; CPU is summed over all processes of the path`,
    "",
    ...aligned([head, ...rows]),
    "",
    ...aligned(paths.map(({ name, about }) => [name, about])),
    ...unavailable.map(({ name, reason }) => `${name} left out: ${reason}`),
    ...voidLines(cells),
  ].join("\n");
}

/** Each error once, with where it came first. */
function voidLines(cells: readonly Cell[]): string[] {
  const found = new Map<string, { first: string; count: number }>();
  for (const { path, bytes, inFlight, rounds } of cells) {
    for (const [index, round] of rounds.entries()) {
      if (!("error" in round)) continue;
      const text = `${path}: ${round.error}`;
      const first = `round ${index + 1}, ${size(bytes)}, ${inFlight} in flight`;
      found.set(text, { first: found.get(text)?.first ?? first, count: (found.get(text)?.count ?? 0) + 1 });
    }
  }
  return [...found].map(([text, { first, count }]) => `void: ${count} × (first in ${first}): ${text}`);
}

function columns(summary: CellSummary, bases: readonly string[]): string[] {
  const { cpuMicrosPerCall, callsPerSecond, p50Micros, p99Micros, cpuRatios } = summary;
  const ratios = bases.map((base) => cpuRatios[base]);
  return [cpuMicrosPerCall, callsPerSecond, p50Micros, p99Micros, ...ratios].map((found) =>
    found ? both(found) : "–",
  );
}

function both({ median, worst }: Summary): string {
  return `${figure(median)} (${figure(worst)})`;
}

/** Three digits, or the whole number. */
function figure(value: number): string {
  return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}

function size(bytes: number): string {
  return bytes % 1024 === 0 ? `${bytes / 1024} KiB` : `${bytes} B`;
}

/** Rows whose columns start below each other. */
function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const row of rows) for (const [at, text] of row.entries()) widths[at] = Math.max(widths[at] ?? 0, text.length);
  return rows.map((row) =>
    row
      .map((text, at) => text.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}
