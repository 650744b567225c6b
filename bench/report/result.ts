/** What a whole run of the bench found: the windows, and what is said of each cell (a path at a size and a load). */

import type { Run } from "../control/stage.ts";

export interface Cell {
  readonly path: string;
  readonly bytes: number;
  readonly inFlight: number;
  /** One per round. A round in which a call failed has the error instead, and makes the cell void. */
  readonly rounds: readonly (Run | { readonly error: string })[];
}

/** The middle of the rounds, and the one that speaks most against the path. */
export interface Summary {
  readonly median: number;
  readonly worst: number;
}

export interface CellSummary {
  readonly cpuMicrosPerCall: Summary;
  readonly callsPerSecond: Summary;
  readonly p50Micros: Summary;
  readonly p99Micros: Summary;
  /** CPU time per call divided by that of another path in the same round, by that path's name. */
  readonly cpuRatios: Readonly<Record<string, Summary>>;
}

/** `undefined` for a void cell. Void bases have no ratio. */
export function summarise(cell: Cell, cells: readonly Cell[], bases: readonly string[]): CellSummary | undefined {
  const runs = validRuns(cell);
  if (runs === undefined) return undefined;
  const cpuRatios: Record<string, Summary> = {};
  for (const base of bases) {
    const baseCell = cells.find(
      ({ path, bytes, inFlight }) => path === base && bytes === cell.bytes && inFlight === cell.inFlight,
    );
    const baseRuns = baseCell === undefined ? undefined : validRuns(baseCell);
    if (base === cell.path || baseRuns === undefined) continue;
    const ratios = runs.map((run, round) => run.cpuMicrosPerCall / (baseRuns[round]?.cpuMicrosPerCall ?? Number.NaN));
    cpuRatios[base] = { median: median(ratios), worst: Math.max(...ratios) };
  }
  const most = (read: (run: Run) => number): Summary => {
    const values = runs.map(read);
    return { median: median(values), worst: Math.max(...values) };
  };
  const rates = runs.map((run) => run.callsPerSecond);
  return {
    cpuMicrosPerCall: most((run) => run.cpuMicrosPerCall),
    callsPerSecond: { median: median(rates), worst: Math.min(...rates) },
    p50Micros: most((run) => run.p50Micros),
    p99Micros: most((run) => run.p99Micros),
    cpuRatios,
  };
}

function validRuns(cell: Cell): Run[] | undefined {
  const runs = cell.rounds.filter((round): round is Run => !("error" in round));
  return runs.length === cell.rounds.length && runs.length > 0 ? runs : undefined;
}

/** The mean of the two middle values where there is no middle one. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const upper = sorted[sorted.length >> 1] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[(sorted.length >> 1) - 1] ?? Number.NaN)) / 2;
}
