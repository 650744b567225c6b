/** `lever check`: whether what runs is well, from the way there to each instance's agent; with --pre whether it can be installed. */

import type { CheckReport, ServicesReport } from "@leveros/operator/admin/admin-report.ts";
import type { Command } from "commander";
import { LeverError } from "leveros";
import { connect } from "./call-options.ts";
import { CheckList, checksText } from "./check-list.ts";
import { addClusterFlags, isAboutCluster } from "./cluster-flags.ts";
import { checkExitCode, exitCodeOf } from "./exit-code.ts";
import { LocalOperator, operatorUrl } from "./operator.ts";
import { addOperatorFlags, type OperatorFlags, printReport } from "./operator-command.ts";
import { coloursOf, printError } from "./output.ts";
import { flushOutput } from "./standard-output.ts";
import { version } from "./version.ts";

interface CheckFlags extends OperatorFlags {
  readonly pre?: boolean;
}

/** Each agent is given some seconds. */
const checkTimeoutMs = 30_000;

export function addCheck(program: Command): void {
  addClusterFlags(addOperatorFlags(program.command("check")), true)
    .description("check that the gateway, the operator, every service and every agent are well")
    .option("--pre", "whether Lever can be installed in a cluster, before it is")
    .addHelpText(
      "after",
      `
Each line is a check: √ it is well, ‼ look at it, × it is broken. Below what is not well stands what to do. With -o json
{"isOk","checks":[{"category","what","isOk","isWarning","hint"}]}; isOk as a whole is true if there are but warnings.

In a cluster, with -n of that namespace's services alone: the API server, the CRDs, the operator and its leader, the trust
bundle, the gateway, every service with its pods, and clocks. What you have no right to look at is a warning. With --pre,
which is always about a cluster: its version, your rights to install, what is in the way, and clocks.

Examples:
  lever check
  lever check --context prod
  lever check --pre                                   of the kubeconfig's current context
  lever check -o json | jq -r '.checks[] | select(.isOk | not) | .hint'

Exit codes: 0 all is well, 5 a check failed, 2 usage, 4 internal.`,
    )
    .action(async (flags: CheckFlags) => {
      try {
        const list = new CheckList();
        if (isAboutCluster(flags) || isPre(flags)) {
          // Only here: Kubernetes' client library takes half a second to load.
          const { clusterChecks } = await import("./cluster/cluster-check.ts");
          await clusterChecks(list, flags, isPre(flags));
        } else await localChecks(list, flags);
        const { isOk, checks } = list;
        await printReport({ isOk, checks }, flags.output, () => checksText(checks, coloursOf(process.stdout)));
        await flushOutput();
        if (!isOk) process.exitCode = checkExitCode;
      } catch (error) {
        process.exitCode = exitCodeOf(error);
        printError(error, flags.output);
      }
    });
}

function isPre({ pre, gateway }: CheckFlags): boolean {
  if (pre === true && gateway !== undefined) {
    throw new LeverError("INVALID_OPTION", "--pre is about a cluster; leave --gateway out", { effect: "none" });
  }
  return pre === true;
}

/** Those after one without which they cannot be made are left out. */
async function localChecks(list: CheckList, flags: OperatorFlags): Promise<void> {
  list.heading("lever");
  await using client = connect(operatorUrl("check"), flags);
  const operator = new LocalOperator(client, new AbortController().signal);
  const through = flags.gateway === undefined && process.env["LEVER_AGENT"] !== undefined ? "agent" : "gateway";
  let services: ServicesReport;
  try {
    services = await operator.services();
  } catch (error) {
    const { reason, rawMessage } = LeverError.from(error);
    if (reason === "AGENT_UNREACHABLE") {
      const failed = `${rawMessage}; start \`lever dev\`, or name another with --gateway, or a cluster with --context`;
      return list.say(`the ${through} answers`, { failed });
    }
    list.say(`the ${through} answers`, undefined);
    return list.say("the operator answers", { failed: rawMessage });
  }
  list.say(`the ${through} answers`, undefined);
  list.say("the operator answers", undefined);
  const { operator: own } = services;
  list.say(
    `the operator's version is this command's, ${version}`,
    own.version === version
      ? undefined
      : { failed: `it is ${own.version}; run the lever of the installation that runs the services` },
  );
  if (services.services.length === 0) list.say("there are services", { failed: "lever dev -f <folder> runs some" });
  list.add((await operator.ask<CheckReport>("check", [], checkTimeoutMs)).checks);
}
