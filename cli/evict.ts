/** `lever evict` and `lever scale`: instances replaced, added and taken away, without a failed call. */

import type { EvictReport, ScaleReport } from "@leveros/operator/admin/admin-report.ts";
import type { Command } from "commander";
import { environmentDefault } from "./call-options.ts";
import { exitCodesHelp } from "./exit-code.ts";
import { wholeNumber } from "./flag-values.ts";
import {
  addOperatorFlags,
  type OperatorFlags,
  printReport,
  runOperatorCommand,
  serviceName,
} from "./operator-command.ts";

interface EvictFlags extends OperatorFlags {
  readonly environment?: string;
}

/** A little more than the operator waits for the replacement. */
const evictTimeoutMs = 75_000;

export function addEvict(program: Command): void {
  addOperatorFlags(program.command("evict"))
    .description("drain an instance, and have a new one take its place")
    .argument("<instance>", "its id, as lever endpoints lists it")
    .option("-e, --environment <name>", "its environment, if instances of several have this id")
    .addHelpText(
      "after",
      `
The new instance is started first; when it serves, the old one takes no new calls, hands its resources over, finishes
what runs and ends. If the new one does not come up the old one goes on: exit code 1.

Examples:
  lever evict chat-1-x7k2

${exitCodesHelp}`,
    )
    .action((instance: string, flags: EvictFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const args = [instance, flags.environment ?? null];
        const report = await operator.ask<EvictReport>("evict", args, evictTimeoutMs);
        const text = ({ evicted, replacement }: EvictReport) =>
          `${evicted} takes no new calls and ends; ${replacement} serves in its place`;
        await printReport(report, flags.output, text);
      }),
    );
}

export function addScale(program: Command): void {
  addOperatorFlags(program.command("scale"))
    .description("set how many instances of a service run")
    .argument("<service>", "chat, or dev/chat")
    .argument("<replicas>", "a whole number", wholeNumber(0, 1000))
    .addHelpText(
      "after",
      `
New instances are started, or the newest ones drained and ended. It lasts until the manifest's own replicas change
(lever dev --watch) or lever dev ends.

Examples:
  lever scale dev/chat 4
  lever scale chat 0                                  calls wait, or fail with NO_INSTANCES

${exitCodesHelp}`,
    )
    .action((name: string, replicas: number, flags: OperatorFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const { environment = environmentDefault, service } = serviceName(name);
        const report = await operator.ask<ScaleReport>("scale", [environment, service, replicas]);
        const text = ({ before, after }: ScaleReport) => `${environment}/${service}: ${before} → ${after} instances`;
        await printReport(report, flags.output, text);
      }),
    );
}
