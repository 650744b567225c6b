/**
 * `npm run simulate -- --seeds N --minutes M --first-seed S`: seeds of the simulator on all cores.
 *
 * Prints virtual minutes per core-minute, faults by kind, what was judged how often, and each violation with the seed
 * that replays it. Exits with 1 if there was one.
 */

import { availableParallelism } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { LineCoverage } from "./coverage.ts";
import type { SimulationReport } from "./simulation.ts";

interface Options {
  readonly firstSeed: number;
  readonly seeds: number;
  readonly minutes: number;
  readonly trace: boolean;
  readonly cores: number;
  readonly coverage: boolean;
  readonly weather: string | undefined;
}

const usage = `npm run simulate -- [--seeds N] [--minutes M] [--first-seed S] [--cores C] [--trace] [--coverage] [--weather NAME]

  --seeds       how many worlds (default 200)
  --minutes     virtual minutes of each, besides half a minute in which all is well again (default 2)
  --first-seed  default 1
  --cores       default: all
  --trace       print what happens, line by line; with --seeds 1
  --coverage    print the line coverage of the cores' ownership under simulation; on one core
  --weather     the same kind of faults in all of them, such as "leaders and their store"`;

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      seeds: { type: "string", default: "200" },
      minutes: { type: "string", default: "2" },
      "first-seed": { type: "string", default: "1" },
      cores: { type: "string", default: String(availableParallelism()) },
      trace: { type: "boolean", default: false },
      coverage: { type: "boolean", default: false },
      weather: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    process.exit(0);
  }
  const number = (name: "seeds" | "minutes" | "first-seed" | "cores", min: number) => {
    const value = Number(values[name]);
    if (Number.isFinite(value) && value >= min) return value;
    console.error(`--${name} is ${values[name]}, expected a number of at least ${min}\n\n${usage}`);
    process.exit(2);
  };
  return {
    weather: values.weather,
    seeds: number("seeds", 1),
    minutes: number("minutes", 0.1),
    firstSeed: number("first-seed", 0),
    cores: number("cores", 1),
    trace: values.trace,
    coverage: values.coverage,
  };
}

const options = readOptions();
const { minutes, weather } = options;
const sum: { faults: Record<string, number>; counts: Record<string, number>; weathers: Record<string, number> } = {
  faults: {},
  counts: {},
  weathers: {},
};
let virtualMs = 0;
let done = 0;
let violated = 0;

function add(into: Record<string, number>, from: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(from)) into[name] = (into[name] ?? 0) + count;
}

function report(result: SimulationReport): void {
  done++;
  virtualMs += result.virtualMs;
  add(sum.faults, result.faults);
  add(sum.counts, result.counts);
  add(sum.weathers, { [result.weather]: 1 });
  if (result.violations.length === 0) return;
  violated++;
  const { seed, weather: name, violations } = result;
  console.log(`\nseed ${seed} (${name}) breaks a promise:`);
  for (const { promise, atMs, text } of violations.slice(0, 3)) {
    console.log(`  ${promise} at ${(atMs / 1000).toFixed(3)} s: ${text}`);
  }
  console.log(`  replay: npm run simulate -- --first-seed ${seed} --seeds 1 --minutes ${minutes} --trace`);
}

function table(title: string, counts: Record<string, number>): void {
  console.log(`\n${title}`);
  for (const [name, count] of Object.entries(counts).sort(([, a], [, b]) => b - a)) {
    console.log(`  ${String(count).padStart(9)}  ${name}`);
  }
}

async function onWorkers(): Promise<void> {
  let next = options.firstSeed;
  const end = options.firstSeed + options.seeds;
  const workers = Array.from({ length: Math.min(options.cores, options.seeds) }, async () => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const give = () => {
      if (next < end) worker.postMessage({ seed: next++, minutes, weather });
      else resolve();
    };
    worker.on("message", (result: SimulationReport) => {
      report(result);
      give();
    });
    worker.on("error", reject);
    give();
    await promise;
    await worker.terminate();
  });
  await Promise.all(workers);
}

async function here(): Promise<void> {
  const { simulateSeed } = await import("./simulation.ts");
  for (let seed = options.firstSeed; seed < options.firstSeed + options.seeds; seed++) {
    const onLine = options.trace ? { onLine: (line: string) => console.log(line) } : {};
    report(await simulateSeed({ seed, minutes, weather, ...onLine }));
  }
}

/** Of everything that decides about ownership. */
const judgedFiles = /^(operator\/core\/ownership|agent\/core\/ownership|clients\/node\/resources)\//;

async function printCoverage(lines: LineCoverage): Promise<void> {
  const files = await lines.take(path.join(import.meta.dirname, ".."), judgedFiles);
  console.log("\nline coverage");
  const print = (name: string, covered: number, all: number, missed: readonly number[]) =>
    console.log(
      `  ${((100 * covered) / all).toFixed(1).padStart(6)} %  ${name}${missed.length > 0 ? `  not: ${missed.join(" ")}` : ""}`,
    );
  for (const { file, covered, lines: all, missed } of files) print(file, covered, all, missed);
  const total = (pick: (file: (typeof files)[0]) => number) => files.reduce((count, file) => count + pick(file), 0);
  print(
    "together",
    total(({ covered }) => covered),
    total(({ lines: all }) => all),
    [],
  );
}

const startedAt = process.hrtime.bigint();
const cpuAt = process.cpuUsage();
const coverage = options.coverage ? new LineCoverage() : undefined;
await coverage?.start();
if (options.trace || options.coverage) await here();
else await onWorkers();
const wallMinutes = Number(process.hrtime.bigint() - startedAt) / 60e9;
const { user, system } = process.cpuUsage(cpuAt);
const coreMinutes = (user + system) / 60e6;
const virtualMinutes = virtualMs / 60_000;
const faultCount = Object.values(sum.faults).reduce((a, b) => a + b, 0);

if (coverage !== undefined) await printCoverage(coverage);
table("weather of worlds", sum.weathers);
table("faults", sum.faults);
table("judged", sum.counts);
console.log(`
${done} seeds from ${options.firstSeed}, ${virtualMinutes.toFixed(1)} virtual minutes in ${wallMinutes.toFixed(2)} minutes
${(virtualMinutes / coreMinutes).toFixed(0)} virtual minutes per core-minute
one fault per ${(virtualMs / 1000 / Math.max(faultCount, 1)).toFixed(1)} virtual seconds
${violated === 0 ? "no violation" : `${violated} seeds with violations`}`);
process.exitCode = violated === 0 ? 0 : 1;
