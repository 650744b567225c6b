/** The command line of the bench: what it takes, its bounds, and what is said about anything else. */

import { parseArgs } from "node:util";
import { BYTES_MIN } from "./load/value.ts";

export interface BenchOptions {
  readonly paths: readonly string[];
  readonly rounds: number;
  /** The measured window. */
  readonly seconds: number;
  readonly inFlight: readonly number[];
  /** Sizes of the arguments in bytes. */
  readonly sizes: readonly number[];
  readonly output: "table" | "json";
}

/** Something on the command line that cannot be followed; the message says what and what to write instead. */
export class UsageError extends Error {}

export const usage = (pathNames: readonly string[]): string => `Usage: npm run bench -- [options]

Measures CPU time per call, calls per second and latency of several paths, side by side in one run.

  --paths <names>      of ${pathNames.join(",")} (default: all)
  --sizes <bytes>      sizes of the arguments, such as 100,16Ki (default: 100,16Ki)
  --in-flight <counts> calls at a time (default: 1,64)
  --rounds <count>     how often each is measured (default: 3)
  --seconds <seconds>  length of one measurement (default: 2)
  -o, --output <form>  table or json (default: table)
  -h, --help           this text

Exit codes: 0 fine, 1 a run failed, 2 usage, 130 interrupted.`;

/** `"help"` where help was asked for. Throws `UsageError`. */
export function readOptions(args: readonly string[], pathNames: readonly string[]): BenchOptions | "help" {
  const values = parse(args);
  if (values.help === true) return "help";
  return {
    paths: list("--paths", values.paths ?? pathNames.join(","), (name) => oneOf("--paths", name, pathNames)),
    sizes: list("--sizes", values.sizes ?? "100,16Ki", (text) => size(text)),
    inFlight: list("--in-flight", values["in-flight"] ?? "1,64", (text) => whole("--in-flight", text, 1, 4096)),
    rounds: whole("--rounds", values.rounds ?? "3", 1, 100),
    seconds: number("--seconds", values.seconds ?? "2", 0.1, 600),
    output: oneOf("--output", values.output ?? "table", ["table", "json"]),
  };
}

function parse(args: readonly string[]) {
  const text = { type: "string" } as const;
  try {
    return parseArgs({
      args: [...args],
      options: {
        paths: text,
        sizes: text,
        "in-flight": text,
        rounds: text,
        seconds: text,
        output: { type: "string", short: "o" },
        help: { type: "boolean", short: "h" },
      },
    }).values;
  } catch (error) {
    throw new UsageError((error as Error).message, { cause: error });
  }
}

function list<T>(flag: string, text: string, read: (part: string) => T): T[] {
  const items = text.split(",").map((part) => read(part.trim()));
  if (new Set(items).size < items.length) throw new UsageError(`${flag}: "${text}" names one twice`);
  return items;
}

function oneOf<T extends string>(flag: string, text: string, allowed: readonly T[]): T {
  const found = allowed.find((candidate) => candidate === text);
  if (found === undefined) throw new UsageError(`${flag}: found "${text}", expected one of ${allowed.join(", ")}`);
  return found;
}

function number(flag: string, text: string, min: number, max: number): number {
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= min && value <= max)) throw new UsageError(`${flag}: found "${text}", expected ${min} to ${max}`);
  return value;
}

function whole(flag: string, text: string, min: number, max: number): number {
  const value = number(flag, text, min, max);
  if (!Number.isInteger(value)) throw new UsageError(`${flag}: found "${text}", expected a whole number`);
  return value;
}

/** The largest is what Lever takes as arguments unless configured otherwise. */
function size(text: string): number {
  const [, digits, unit] = /^(\d+)(Ki|Mi)?$/.exec(text) ?? [];
  const bytes = Number(digits) * (unit === "Mi" ? 1 << 20 : unit === "Ki" ? 1024 : 1);
  if (bytes >= BYTES_MIN && bytes <= 1 << 20) return bytes;
  throw new UsageError(`--sizes: found "${text}", expected ${BYTES_MIN} to 1Mi, such as 100 or 16Ki`);
}
