/** What `lever invoke` and `lever chan` share: the flags of a call, its arguments, and the way to the services. */

import { readFile } from "node:fs/promises";
import { type Command, Option } from "commander";
import { type CallOptions, Client, LeverError } from "leveros";
import type { OutputFormat } from "./output.ts";

export const gatewayDefault = "127.0.0.1:3837";

export interface CallFlags {
  readonly gateway?: string;
  readonly environment?: string;
  readonly timeout?: number;
  readonly token?: string;
  readonly meta?: Record<string, string>;
  readonly argsFile?: string;
  readonly output: OutputFormat;
}

export function addCallFlags(command: Command): Command {
  return command
    .option(
      "--gateway <host:port>",
      `native port of the gateway (default: the agent at LEVER_AGENT, else ${gatewayDefault})`,
    )
    .option("-e, --environment <name>", "environment of URLs that name none", "dev")
    .option(
      "-t, --timeout <ms>",
      "time for the call, or for the opening of a channel",
      wholeNumber("--timeout", 1, 3_600_000),
    )
    .option("--token <text>", "idempotency token, 1 to 128 bytes")
    .option("--meta <key=value>", "metadata for the method; may be given several times", keyValue, {})
    .option("--args-file <path>", "send this file's bytes as the arguments (- for standard input)")
    .addOption(new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"));
}

export function wholeNumber(flag: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < min || value > max || text.trim() === "") {
      throw new LeverError(
        "INVALID_OPTION",
        `${flag} is ${JSON.stringify(text)}, expected a whole number from ${min} to ${max}`,
      );
    }
    return value;
  };
}

export function keyValue(text: string, before: Record<string, string>): Record<string, string> {
  const equals = text.indexOf("=");
  if (equals <= 0) throw new LeverError("INVALID_OPTION", `${JSON.stringify(text)} is no key=value`);
  return { ...before, [text.slice(0, equals)]: text.slice(equals + 1) };
}

/** The arguments: one JSON value each, or the bytes of a file. */
export async function readArguments(texts: readonly string[], flags: CallFlags): Promise<unknown[]> {
  if (flags.argsFile !== undefined) {
    if (texts.length > 0) {
      throw new LeverError(
        "ARGS_FORM",
        "both arguments and --args-file were given; arguments are values or bytes, never both",
      );
    }
    if (flags.argsFile !== "-") {
      try {
        return [new Uint8Array(await readFile(flags.argsFile))];
      } catch (error) {
        throw new LeverError(
          "INVALID_OPTION",
          `--args-file: ${error instanceof Error ? error.message : String(error)}`,
        );
      }
    }
    const chunks: Buffer[] = [];
    for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
    return [new Uint8Array(Buffer.concat(chunks))];
  }
  return texts.map((text, index) => {
    try {
      return JSON.parse(text) as unknown;
    } catch {
      throw new LeverError(
        "INVALID_ARGUMENTS",
        `args[${index}] is ${JSON.stringify(text)}, which is no JSON value; a string needs quotes of its own: '${JSON.stringify(text)}'`,
        { effect: "none" },
      );
    }
  });
}

/** Through the agent where there is one, else through the gateway. */
export function connect(flags: CallFlags): Client {
  const { gateway, environment } = flags;
  const base = environment === undefined ? {} : { environment };
  if (gateway === undefined && process.env.LEVER_AGENT !== undefined) return new Client();
  return new Client({ ...base, gateway: gateway ?? gatewayDefault });
}

export function callOptions(flags: CallFlags): CallOptions {
  return {
    ...(flags.timeout === undefined ? {} : { timeoutMs: flags.timeout }),
    ...(flags.token === undefined ? {} : { token: flags.token }),
    ...(flags.meta === undefined || Object.keys(flags.meta).length === 0 ? {} : { metadata: flags.meta }),
  };
}
