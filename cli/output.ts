/** How results and errors are printed: for people, or with `-o json` for programs, one JSON document on a line. */

import { catalogue, type Effect } from "@leveros/protocol/error/catalogue.ts";
import { LeverError, MethodError } from "leveros";
import pc from "picocolors";
import { OutputClosed, OutputFailed, writeOutput } from "./standard-output.ts";

export type OutputFormat = "text" | "json";

/** Colours of a stream: for terminals only, and as NO_COLOR and FORCE_COLOR say. */
export function coloursOf(stream: NodeJS.WriteStream): ReturnType<typeof pc.createColors> {
  // Streams that are no terminals lack the function.
  return pc.createColors((stream as Partial<NodeJS.WriteStream>).hasColors?.() ?? false);
}

/** A value as one line of JSON; bytes as `{"bytes":"<base64>"}`. */
export function jsonOf(value: unknown): string {
  return JSON.stringify(value instanceof Uint8Array ? { bytes: Buffer.from(value).toString("base64") } : value);
}

/** A call's result: values as JSON, objects and lists over several lines; bytes as they are. */
export async function printResult(value: unknown, format: OutputFormat): Promise<void> {
  if (format === "text" && value instanceof Uint8Array) return printBytes(value);
  const indent = format === "text" && typeof value === "object" ? 2 : undefined;
  await writeOutput(indent === undefined ? `${jsonOf(value)}\n` : `${JSON.stringify(value, undefined, indent)}\n`);
}

/** A message of a channel: values as one line of JSON each, bytes as they are. */
export async function printMessage(value: unknown, format: OutputFormat): Promise<void> {
  if (format === "text" && value instanceof Uint8Array) return printBytes(value);
  await writeOutput(`${jsonOf(value)}\n`);
}

/** A terminal takes some bytes as commands. */
async function printBytes(bytes: Uint8Array): Promise<void> {
  if (!process.stdout.isTTY) return writeOutput(bytes);
  await writeOutput(`(${describeBytes(bytes)})\n`);
}

export function describeBytes(bytes: Uint8Array): string {
  return `${bytes.length} bytes: redirect the output to keep them, or print them with -o json`;
}

/** An error as a JSON value: what HTTP's problem details say too. */
export function errorDocument(error: unknown): Record<string, unknown> {
  if (MethodError.is(error)) {
    const { kind, code, reason, effect, value } = error;
    return { kind, code, reason, effect, value: JSON.parse(jsonOf(value)) };
  }
  const { kind, code, reason, effect, rawMessage, details } = LeverError.from(error);
  return { kind, code, reason, effect, message: rawMessage, ...(details === undefined ? {} : { details }) };
}

/** To standard error for people, to standard output for programs, which then have one place to read. */
export function printError(error: unknown, format: OutputFormat): void {
  if (error instanceof OutputClosed) return;
  if (error instanceof OutputFailed) process.stderr.write(`lever: ${error.message}\n`);
  else if (format === "json") process.stdout.write(`${JSON.stringify({ error: errorDocument(error) })}\n`);
  else process.stderr.write(`${errorText(error, coloursOf(process.stderr))}\n`);
}

const effectTexts: Readonly<Record<Effect, string>> = {
  none: "the method did not run",
  ran: "the method ran",
  unknown: "the method may have run",
};

const causesMax = 8;

/** `details.remedy` of the error or of what caused it: what to do, where that is known better than the catalogue can. */
export function remedyOf(error: unknown): string | undefined {
  let at: unknown = error;
  for (let depth = 0; at instanceof Error && depth < causesMax; depth++) {
    const { details, cause } = at as { readonly details?: { readonly remedy?: unknown }; readonly cause?: unknown };
    if (typeof details?.remedy === "string") return details.remedy;
    at = cause;
  }
  return undefined;
}

/** What happened, whose turn it is and whether the method ran, and what to do. */
export function errorText(error: unknown, colours: Pick<typeof pc, "red" | "bold">): string {
  if (MethodError.is(error)) return `${colours.red("the method's error")}: ${jsonOf(error.value)}`;
  const { reason, rawMessage, kind, code, effect } = LeverError.from(error);
  const remedy = remedyOf(error) ?? (reason === "METHOD_KIND_MISMATCH" ? kindRemedy : catalogue[reason].remedy);
  const lines = [
    `${colours.red(reason)}: ${rawMessage}`,
    `  ${kind} error, ${code}; ${effectTexts[effect]} (effect: ${effect})`,
    `  ${remedy}`,
  ];
  return (reason === "CANCELLED" ? lines.slice(0, 2) : lines).join("\n");
}

const kindRemedy =
  "Call streaming methods (Chan, _chan or chan at the end of the name) by `lever chan`, others by `lever invoke`.";
