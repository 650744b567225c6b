/** What the commands that ask the operator do alike: their flags, the way there, and how errors are said. */

import { isDnsLabel } from "@leveros/protocol/target/lever-url.ts";
import { type Command, Option } from "commander";
import { LeverError, MethodError } from "leveros";
import { connect, gatewayHostDefault, gatewayPortDefault } from "./call-options.ts";
import { type ClusterFlags, isAboutCluster } from "./cluster-flags.ts";
import { exitCodeOf } from "./exit-code.ts";
import { Interruption } from "./interruption.ts";
import { LocalOperator, type Operator, operatorUrl } from "./operator.ts";
import { type OutputFormat, printError } from "./output.ts";
import { flushOutput, writeOutput } from "./standard-output.ts";

export interface OperatorFlags extends ClusterFlags {
  readonly output: OutputFormat;
}

export function addOperatorFlags(command: Command): Command {
  return command
    .option(
      "--gateway <host:port>",
      `the gateway's port for clients (default: the agent at LEVER_AGENT, else ${gatewayHostDefault}:${gatewayPortDefault})`,
    )
    .addOption(new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"));
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
