/** `lever evict` and `lever scale`: instances replaced, added and taken away, without a failed call. */

import type { EvictReport, ScaleReport } from "@leveros/operator/admin/admin-report.ts";
import type { Command } from "commander";
import { addClusterFlags } from "./cluster-flags.ts";
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

export function addEvict(program: Command): void {
  addClusterFlags(addOperatorFlags(program.command("evict")), true)
    .description("drain an instance, and have a new one take its place")
    .argument("<instance>", "its id, as lever endpoints lists it")
    .option("-e, --environment <name>", "its environment, if instances of several have this id")
    .addHelpText(
      "after",
      `
The new instance is started first; when it serves, the old one takes no new calls, hands its resources over, finishes
what runs and ends. If the new one does not come up the old one goes on: exit code 1.

In a cluster its pod is evicted, as \`kubectl drain\` does it: PodDisruptionBudgets are heeded, a new pod is started at
once, and the old one ends when what runs has ended and its resources have moved, at the latest after its grace period. It
takes the right to create pods/eviction.

Examples:
  lever evict chat-1-x7k2
  lever evict -n shop chat-6d5f7c9b8-x7k2m

${exitCodesHelp}`,
    )
    .action((instance: string, flags: EvictFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const report = await operator.evict(instance, flags.environment);
        const text = ({ evicted, replacement }: EvictReport) =>
          `${evicted} takes no new calls and ends; ${replacement} serves in its place`;
        await printReport(report, flags.output, text);
      }),
    );
}

export function addScale(program: Command): void {
  addClusterFlags(addOperatorFlags(program.command("scale")), true)
    .description("set how many instances of a service run")
    .argument("<service>", "chat, or dev/chat")
    .argument("<replicas>", "a whole number", wholeNumber(0, 1000))
    .addHelpText(
      "after",
      `
New instances are started, or the newest ones drained and ended. It lasts until the manifest's own replicas change
(lever dev --watch) or lever dev ends. In a cluster it is what \`kubectl scale lsvc/chat\` does.

Examples:
  lever scale dev/chat 4
  lever scale -n shop chat 4
  lever scale chat 0                                  calls wait, or fail with NO_INSTANCES

${exitCodesHelp}`,
    )
    .action((name: string, replicas: number, flags: OperatorFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const named = serviceName(name);
        const report = await operator.scale(named.service, replicas, named.environment);
        const text = ({ environment, service, before, after }: ScaleReport) =>
          `${environment}/${service}: ${before} → ${after} instances`;
        await printReport(report, flags.output, text);
      }),
    );
}
