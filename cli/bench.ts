/** `lever bench`: how fast one method answers, by callers that each wait for their answer before they call again. */

import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { type Client, LeverError, MethodError } from "leveros";
import { addCallFlags, type CallFlags, callOptions, connectTo, readArguments } from "./call-options.ts";
import { exitCodeOf } from "./exit-code.ts";
import { wholeNumber } from "./flag-values.ts";
import { Interruption } from "./interruption.ts";
import { LatencyHistogram } from "./latency-histogram.ts";
import { printReport } from "./operator-command.ts";
import { printError } from "./output.ts";
import { flushOutput } from "./standard-output.ts";

interface BenchFlags extends CallFlags {
  readonly concurrency: number;
  readonly duration: number;
  readonly warmUp: number;
}

export interface BenchReport {
  readonly url: string;
  readonly concurrency: number;
  readonly seconds: number;
  /** With an answer, errors not among them. */
  readonly calls: number;
  readonly callsPerSecond: number;
  /** Of the calls with an answer. */
  readonly latencyMs: { readonly p50: number; readonly p90: number; readonly p99: number; readonly max: number };
  readonly errors: Readonly<Record<string, number>>;
}

/** After an error a caller waits this long: errors are often quicker than answers. */
const errorPauseMs = 10;
const errorsExitCode = 1;

export function addBench(program: Command): void {
  addCallFlags(program.command("bench"))
    .description("call a method over and over, and print calls per second, latencies and errors")
    .option("-c, --concurrency <callers>", "callers, each with one call at a time", wholeNumber(1, 1000), 10)
    .option("-d, --duration <seconds>", "how long", wholeNumber(1, 3600), 10)
    .option("--warm-up <seconds>", "calls before that, which do not count", wholeNumber(0, 60), 1)
    .addHelpText(
      "after",
      `
All callers share one connection. A method that is called this often has to bear it. Errors are counted by their
reason, and are no part of the latencies; with one error or more the exit code is 1.

Examples:
  lever bench /hello/sayHello '"Ada"'
  lever bench lever://dev/chat/room-7/history -c 100 -d 30 -o json

Exit codes: 0 fine, 1 some calls had errors, 2 usage or arguments, 3 network, 4 internal.`,
    )
    .action(async (url: string, texts: string[], flags: BenchFlags) => {
      try {
        const args = await readArguments(texts, flags.argsFile);
        await using client = await connectTo(url, flags);
        using interruption = new Interruption();
        const call = () => client.invoke(url, args, callOptions(flags, interruption.signal));
        // What is wrong with the call itself is said once, and not measured.
        await call();
        await run(call, flags.concurrency, flags.warmUp, interruption.signal);
        const report = { url, ...(await run(call, flags.concurrency, flags.duration, interruption.signal)) };
        await printReport(report, flags.output, benchText);
        await flushOutput();
        if (Object.keys(report.errors).length > 0) process.exitCode = errorsExitCode;
      } catch (error) {
        process.exitCode = exitCodeOf(error);
        printError(error, flags.output);
      }
    });
}

/** Ctrl-C ends it early: what was measured until then counts. */
async function run(
  call: () => ReturnType<Client["invoke"]>,
  concurrency: number,
  seconds: number,
  signal: AbortSignal,
): Promise<Omit<BenchReport, "url">> {
  const histogram = new LatencyHistogram();
  const errors = new Map<string, number>();
  const startedAt = performance.now();
  const endsAt = startedAt + seconds * 1000;
  const caller = async () => {
    for (let calledAt = performance.now(); calledAt < endsAt && !signal.aborted; calledAt = performance.now()) {
      try {
        await call();
        histogram.add(performance.now() - calledAt);
      } catch (error) {
        if (signal.aborted) return;
        const reason = MethodError.is(error) ? "METHOD_ERROR" : LeverError.from(error).reason;
        errors.set(reason, (errors.get(reason) ?? 0) + 1);
        await sleep(errorPauseMs);
      }
    }
  };
  await Promise.all(Array.from({ length: concurrency }, caller));
  const elapsed = (performance.now() - startedAt) / 1000;
  const inMs = (part: number) => Number(histogram.percentile(part).toFixed(3));
  return {
    concurrency,
    seconds: Number(elapsed.toFixed(3)),
    calls: histogram.count,
    callsPerSecond: elapsed === 0 ? 0 : Math.round(histogram.count / elapsed),
    latencyMs: { p50: inMs(0.5), p90: inMs(0.9), p99: inMs(0.99), max: Number(histogram.maxMs.toFixed(3)) },
    errors: Object.fromEntries([...errors].sort()),
  };
}

export function benchText(report: BenchReport): string {
  const { callsPerSecond, calls, seconds, concurrency, latencyMs, errors } = report;
  const { p50, p90, p99, max } = latencyMs;
  const failed = Object.values(errors).reduce((sum, count) => sum + count, 0);
  const reasons = Object.entries(errors).map(([reason, count]) => `${reason} ${count}`);
  return [
    `${callsPerSecond} calls/s  (${calls} calls in ${seconds.toFixed(1)} s by ${concurrency} callers)`,
    `latency  p50 ${shownMs(p50)}  p90 ${shownMs(p90)}  p99 ${shownMs(p99)}  max ${shownMs(max)}`,
    `errors   ${failed}${failed === 0 ? "" : `: ${reasons.join(", ")}`}`,
  ].join("\n");
}

function shownMs(ms: number): string {
  return `${ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
