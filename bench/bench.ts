/**
 * One whole run: starts every path, measures them in turn, ends every process. Owns the order (in each round, for each
 * size and load, each path once), so that what is compared was measured within seconds of each other.
 */

import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Control } from "./control/control.ts";
import { type Run, Stage } from "./control/stage.ts";
import type { BenchOptions } from "./options.ts";
import { type Path, PathUnavailable } from "./paths/path.ts";
import type { BenchResult } from "./report/report.ts";
import type { Cell } from "./report/result.ts";

/** Long enough for a compiler that has seen the path before; the first window of all is preceded by a longer one. */
const WARM_UP_SECONDS = 0.3;
const FIRST_WARM_UP_SECONDS = 2;

/**
 * Runs the bench; `log` gets a line per step. A failed call makes its cell void and the rest go on. Throws when a path
 * cannot be started, or with the signal's reason when it is aborted; no process is left in any case.
 */
export async function runBench(
  paths: readonly Path[],
  options: BenchOptions,
  log: (line: string) => void,
  signal: AbortSignal,
): Promise<BenchResult> {
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => {});
  signal.addEventListener("abort", () => aborted.reject(signal.reason));
  const orAborted = <T>(step: Promise<T>): Promise<T> => {
    signal.throwIfAborted();
    return Promise.race([step, aborted.promise]);
  };

  const directory = await mkdtemp(join(tmpdir(), "lever-bench-"));
  const controlSocket = join(directory, "control.sock");
  const control = await Control.listen(controlSocket);
  const stages = new Map<Path, Stage>();
  control.onChange = () => {
    for (const stage of stages.values()) stage.wake();
  };
  try {
    const unavailable: { name: string; reason: string }[] = [];
    for (const path of paths) {
      log(`starting ${path.name}`);
      const ownDirectory = join(directory, path.name);
      await mkdir(ownDirectory);
      const stage = new Stage(path.name, control, controlSocket, ownDirectory);
      stages.set(path, stage);
      try {
        await orAborted(path.start(stage));
      } catch (error) {
        if (!(error instanceof PathUnavailable)) throw error;
        log(`leaving out ${path.name}: ${error.message}`);
        unavailable.push({ name: path.name, reason: error.message });
        stages.delete(path);
        await stage.stop();
      }
    }

    const cells: (Cell & { rounds: (Run | { error: string })[] })[] = [];
    for (const bytes of options.sizes) {
      for (const inFlight of options.inFlight) {
        for (const { name } of stages.keys()) cells.push({ path: name, bytes, inFlight, rounds: [] });
      }
    }
    const stageOf = new Map([...stages].map(([path, stage]) => [path.name, stage]));
    for (let round = 1; round <= options.rounds; round++) {
      for (const cell of cells) {
        const stage = stageOf.get(cell.path);
        if (stage === undefined) continue;
        if (stage.failure !== undefined) {
          cell.rounds.push({ error: "not run, because the path had failed" });
          continue;
        }
        const label = `round ${round} of ${options.rounds}, ${cell.bytes} B, ${cell.inFlight} in flight, ${cell.path}`;
        const { seconds } = options;
        try {
          const warmUpSeconds = round === 1 ? FIRST_WARM_UP_SECONDS : WARM_UP_SECONDS;
          const run = await orAborted(
            stage.run({ inFlight: cell.inFlight, bytes: cell.bytes, seconds }, warmUpSeconds),
          );
          cell.rounds.push(run);
          log(`${label}: ${run.cpuMicrosPerCall.toFixed(2)} µs per call`);
        } catch (error) {
          signal.throwIfAborted();
          cell.rounds.push({ error: (error as Error).message });
          log(`${label}: void: ${(error as Error).message}`);
        }
      }
    }
    const shown = [...stages.keys()].map(({ name, about }) => ({ name, about }));
    return { options, paths: shown, unavailable, cells };
  } finally {
    await Promise.all([...stages.values()].map((stage) => stage.stop()));
    control.close();
    await rm(directory, { recursive: true, force: true });
  }
}
