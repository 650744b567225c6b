/** What `lever invoke` and `lever chan` share: the flags of a call, its arguments, and the way to the services. */

import { open } from "node:fs/promises";
import { argsBytesHardMax } from "@leveros/protocol/invocation/item-limits.ts";
import { parseUrl } from "@leveros/protocol/target/lever-url.ts";
import { type Command, Option } from "commander";
import { type CallOptions, Client, LeverError } from "leveros";
import { addClusterFlags, type ClusterFlags, isAboutCluster } from "./cluster-flags.ts";
import { metadataEntry, wholeNumber } from "./flag-values.ts";
import type { OutputFormat } from "./output.ts";

export const gatewayHostDefault = "127.0.0.1";
export const gatewayPortDefault = 3837;
export const environmentDefault = "dev";

export interface CallFlags extends ClusterFlags {
  readonly environment?: string;
  readonly timeout?: number;
  readonly token?: string;
  readonly meta: Readonly<Record<string, string>>;
  readonly argsFile?: string;
  readonly output: OutputFormat;
}

export function addCallFlags(command: Command): Command {
  return addClusterFlags(command, false)
    .argument("<url>", "lever://<environment>/<service>[/<resource>]/<method>, or /<service>[/<resource>]/<method>")
    .argument("[args...]", "the arguments, each a JSON value")
    .option(
      "--gateway <host:port>",
      `the gateway's port for clients (default: the agent at LEVER_AGENT, else ${gatewayHostDefault}:${gatewayPortDefault})`,
    )
    .option(
      "-e, --environment <name>",
      `environment of a URL that names none (default: the agent's or the namespace, else "${environmentDefault}")`,
    )
    .option(
      "-t, --timeout <ms>",
      "time for the call, or for the opening of a channel (default: the service's, 30000 unless set)",
      wholeNumber(1, 3_600_000),
    )
    .option("--token <text>", "idempotency token, 1 to 128 bytes")
    .addOption(
      new Option("--meta <name=value>", "metadata for the method; may be given several times")
        .argParser(metadataEntry)
        .default({}, "none"),
    )
    .option("--args-file <path>", "send this file's bytes as the arguments (- for standard input)")
    .addOption(new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"));
}

/** The arguments: one JSON value each, or the bytes of a file. */
export async function readArguments(texts: readonly string[], file: string | undefined): Promise<unknown[]> {
  if (file === undefined) return texts.map(parseArgument);
  if (texts.length > 0) {
    throw new LeverError(
      "ARGS_FORM",
      "both arguments and --args-file were given; arguments are values or bytes, never both",
      { effect: "none" },
    );
  }
  return [file === "-" ? await readBounded(process.stdin) : await readFileBounded(file)];
}

function parseArgument(text: string, index: number): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw new LeverError(
      "INVALID_ARGUMENTS",
      `args[${index}] is ${shown(text)}, which is no JSON value; a string needs quotes of its own: ${inShell(JSON.stringify(text))}`,
      { effect: "none" },
    );
  }
}

function shown(text: string): string {
  return JSON.stringify(text.length > 100 ? `${text.slice(0, 99)}…` : text);
}

/** As a word for the shell. */
function inShell(text: string): string {
  return `'${(text.length > 100 ? `${text.slice(0, 99)}…` : text).replaceAll("'", "'\\''")}'`;
}

async function readFileBounded(path: string): Promise<Uint8Array> {
  try {
    await using handle = await open(path);
    return await readBounded(handle.createReadStream({ autoClose: false }));
  } catch (error) {
    if (LeverError.is(error)) throw error;
    throw new LeverError("INVALID_OPTION", `--args-file: ${(error as Error).message}`, {
      effect: "none",
      cause: error,
    });
  }
}

async function readBounded(source: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of source) {
    bytes += chunk.length;
    if (bytes > argsBytesHardMax) {
      throw new LeverError(
        "ARGS_TOO_LARGE",
        `--args-file has more than ${argsBytesHardMax} bytes; send large data over a channel: ` +
          "lever chan URL --bytes < FILE",
        { effect: "none" },
      );
    }
    chunks.push(chunk);
  }
  return new Uint8Array(Buffer.concat(chunks));
}

/** The way to the services that the flags say: through a pod of a cluster, or as `connect`. */
export async function connectTo(url: string, flags: CallFlags): Promise<Client> {
  if (!isAboutCluster(flags)) return connect(url, flags);
  // Only here: Kubernetes' client library takes half a second to load.
  const { clusterClient } = await import("./cluster/cluster-client.ts");
  return clusterClient(url, flags);
}

/** Through the agent where there is one, else through the gateway: the one given, or at the URL's own port. */
export function connect(url: string, { gateway, environment }: Pick<CallFlags, "gateway" | "environment">): Client {
  const named = environment === undefined ? {} : { environment };
  if (gateway === undefined && process.env.LEVER_AGENT !== undefined) return new Client(named);
  return new Client({
    environment: environmentDefault,
    ...named,
    gateway: gateway ?? `${gatewayHostDefault}:${parseUrl(url, { allowPort: true }).port ?? gatewayPortDefault}`,
  });
}

export function callOptions({ timeout, token, meta }: CallFlags, signal: AbortSignal): CallOptions {
  return {
    signal,
    ...(timeout === undefined ? {} : { timeoutMs: timeout }),
    ...(token === undefined ? {} : { token }),
    ...(Object.keys(meta).length === 0 ? {} : { metadata: meta }),
  };
}
