/** What the commands that ask the operator do alike: their flags, the way there, and how errors are said. */

import type { EvictReport, ScaleReport, ServicesReport } from "@leveros/operator/admin/admin-report.ts";
import { operatorEnvironment, operatorService } from "@leveros/protocol/control/discovery.ts";
import { isDnsLabel } from "@leveros/protocol/target/lever-url.ts";
import { type Command, Option } from "commander";
import { type Channel, type Client, LeverError, MethodError } from "leveros";
import { connect, environmentDefault, gatewayHostDefault, gatewayPortDefault } from "./call-options.ts";
import { type ClusterFlags, isAboutCluster } from "./cluster-flags.ts";
import { exitCodeOf } from "./exit-code.ts";
import { Interruption } from "./interruption.ts";
import { type OutputFormat, printError } from "./output.ts";
import { flushOutput, writeOutput } from "./standard-output.ts";

export interface OperatorFlags extends ClusterFlags {
  readonly output: OutputFormat;
}

/** An answer of the operator takes milliseconds, unless it waits for an instance. */
const timeoutMsDefault = 10_000;
/** A little more than a local operator waits for the replacement. */
const evictTimeoutMs = 75_000;

export function addOperatorFlags(command: Command): Command {
  return command
    .option(
      "--gateway <host:port>",
      `the gateway's port for clients (default: the agent at LEVER_AGENT, else ${gatewayHostDefault}:${gatewayPortDefault})`,
    )
    .addOption(new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"));
}

export function operatorUrl(method: string): string {
  return `lever://${operatorEnvironment}/${operatorService}/${method}`;
}

/** The operator's methods, as `operator/admin/admin-report.ts` says what they answer. */
export interface Operator {
  /** The environment that is meant where none is named. Undefined: on this machine, where lists are of all. */
  readonly home: string | undefined;
  ask<Report>(method: string, args?: readonly unknown[], timeoutMs?: number): Promise<Report>;
  /** Of the environment, or of all. */
  services(environment?: string): Promise<ServicesReport>;
  evict(instance: string, environment?: string): Promise<EvictReport>;
  scale(service: string, replicas: number, environment?: string): Promise<ScaleReport>;
}

/** The one of `lever dev`. */
export class LocalOperator implements Operator {
  readonly home = undefined;
  readonly #client: Client;
  readonly #signal: AbortSignal;

  constructor(client: Client, signal: AbortSignal) {
    this.#client = client;
    this.#signal = signal;
  }

  ask<Report>(method: string, args: readonly unknown[] = [], timeoutMs = timeoutMsDefault): Promise<Report> {
    return this.#client.invoke<Report>(operatorUrl(method), args, { timeoutMs, signal: this.#signal });
  }

  open<Receives, Sends>(method: string, args: readonly unknown[]): Promise<Channel<Receives, Sends>> {
    const options = { timeoutMs: timeoutMsDefault, signal: this.#signal };
    return this.#client.openChannel<Receives, Sends>(operatorUrl(method), args, options);
  }

  services(): Promise<ServicesReport> {
    return this.ask<ServicesReport>("listServices");
  }

  evict(instance: string, environment?: string): Promise<EvictReport> {
    return this.ask<EvictReport>("evict", [instance, environment ?? null], evictTimeoutMs);
  }

  scale(service: string, replicas: number, environment = environmentDefault): Promise<ScaleReport> {
    return this.ask<ScaleReport>("scale", [environment, service, replicas]);
  }
}

/** Runs `command`; an error is printed, and the process's exit code set: to what `command` gives if that is a number. */
export async function runOperatorCommand(
  flags: OperatorFlags,
  command: (operator: Operator) => Promise<unknown>,
): Promise<void> {
  try {
    using interruption = new Interruption();
    const exitCode = await withOperator(flags, interruption.signal, command);
    await flushOutput();
    if (typeof exitCode === "number") process.exitCode = exitCode;
  } catch (error) {
    process.exitCode = exitCodeOf(error);
    const message = MethodError.is(error) ? (error.value as { readonly message?: unknown } | null)?.message : undefined;
    // What the operator has to say of it is for people, and no value of theirs.
    if (typeof message === "string" && flags.output === "text") process.stderr.write(`${message}\n`);
    else printError(error, flags.output);
  }
}

async function withOperator(
  flags: OperatorFlags,
  signal: AbortSignal,
  command: (operator: Operator) => Promise<unknown>,
): Promise<unknown> {
  if (isAboutCluster(flags)) {
    // Only here: Kubernetes' client library takes half a second to load.
    const { Cluster } = await import("./cluster/cluster.ts");
    const { ClusterOperator } = await import("./cluster/cluster-operator.ts");
    await using operator = new ClusterOperator(new Cluster(flags), signal);
    return await command(operator);
  }
  await using client = connect(operatorUrl("listServices"), flags);
  return await command(new LocalOperator(client, signal));
}

/** The report itself for programs, `text` of it for people. */
export async function printReport<Report>(
  report: Report,
  format: OutputFormat,
  text: (report: Report) => string,
): Promise<void> {
  const printed = format === "json" ? JSON.stringify(report) : text(report);
  if (printed !== "") await writeOutput(`${printed}\n`);
}

export interface ServiceName {
  readonly environment: string | undefined;
  readonly service: string;
}

/** `chat`, `dev/chat` or `lever://dev/chat`. Throws INVALID_ARGUMENTS. */
export function serviceName(text: string): ServiceName {
  const parts = text.replace(/^lever:\/\//, "").split("/");
  const service = parts.pop() ?? "";
  const environment = parts.pop();
  if (parts.length === 0 && isDnsLabel(service) && (environment === undefined || isDnsLabel(environment))) {
    return { environment, service };
  }
  throw new LeverError(
    "INVALID_ARGUMENTS",
    `${JSON.stringify(text)} is no service; expected its name, such as chat, or dev/chat with its environment`,
    { effect: "none" },
  );
}
