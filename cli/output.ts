/** How results and errors are printed: for people, or with `-o json` for programs, one JSON document on a line. */

import { catalogue } from "@leveros/protocol/error/catalogue.ts";
import { LeverError, MethodError } from "leveros";
import pc from "picocolors";

export type OutputFormat = "text" | "json";

/** A value in JSON; bytes as `{"bytes":"<base64>"}`. */
export function jsonOf(value: unknown): string {
  return JSON.stringify(value instanceof Uint8Array ? { bytes: Buffer.from(value).toString("base64") } : value);
}

/** A result or a message: values as JSON, bytes as they are. */
export function printValue(value: unknown, format: OutputFormat): Promise<void> {
  if (format === "json") return write(`${jsonOf(value)}\n`);
  if (value instanceof Uint8Array) return write(value);
  const isLarge = typeof value === "object" && value !== null;
  return write(`${JSON.stringify(value, undefined, isLarge ? 2 : undefined)}\n`);
}

/** Resolves when the reader of this process's output can take more. */
function write(data: string | Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    if (process.stdout.write(data)) resolve();
    else process.stdout.once("drain", resolve);
  });
}

/** An error as a JSON value: what HTTP's problem details say too. */
export function errorDocument(error: unknown): Record<string, unknown> {
  if (MethodError.is(error)) {
    const { kind, code, reason, effect, value } = error;
    return {
      kind,
      code,
      reason,
      effect,
      value: value instanceof Uint8Array ? { bytes: Buffer.from(value).toString("base64") } : value,
    };
  }
  const { kind, code, reason, effect, rawMessage, details } = LeverError.from(error);
  return { kind, code, reason, effect, message: rawMessage, ...(details === undefined ? {} : { details }) };
}

export function printError(error: unknown, format: OutputFormat): void {
  if (format === "json") {
    console.log(JSON.stringify({ error: errorDocument(error) }));
    return;
  }
  if (MethodError.is(error)) {
    console.error(`${pc.red("the method's error")}: ${jsonOf(error.value)}`);
    return;
  }
  const known = LeverError.from(error);
  const effect =
    known.effect === "none"
      ? "the method did not run"
      : known.effect === "ran"
        ? "the method ran"
        : "the method may have run";
  console.error(`${pc.red(known.reason)}: ${known.rawMessage}`);
  console.error(`  ${known.kind} error, ${known.code}; ${effect} (effect: ${known.effect})`);
  console.error(`  ${catalogue[known.reason].remedy}`);
}
