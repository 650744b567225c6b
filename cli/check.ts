/** `lever check`: whether what runs is well, from the way there to each instance's agent. */

import type { Check, CheckReport, ServicesReport } from "@leveros/operator/admin/admin-report.ts";
import type { Command } from "commander";
import { LeverError } from "leveros";
import type pc from "picocolors";
import { connect } from "./call-options.ts";
import { checkExitCode, exitCodeOf } from "./exit-code.ts";
import { addOperatorFlags, LocalOperator, type OperatorFlags, operatorUrl, printReport } from "./operator-command.ts";
import { coloursOf, printError } from "./output.ts";
import { flushOutput } from "./standard-output.ts";
import { version } from "./version.ts";

const category = "lever";
/** Each agent is given some seconds. */
const checkTimeoutMs = 30_000;

export function addCheck(program: Command): void {
  addOperatorFlags(program.command("check"))
    .description("check that the gateway, the operator, every service and every agent are well")
    .addHelpText(
      "after",
      `
Each line is a check; below one that fails stands what to do. With -o json {"isOk","checks":[{"category","what","isOk",
"hint"}]}.

Examples:
  lever check
  lever check -o json | jq -r '.checks[] | select(.isOk | not) | .hint'

Exit codes: 0 all is well, 5 a check failed, 2 usage, 4 internal.`,
    )
    .action(async (flags: OperatorFlags) => {
      try {
        const checks = await allChecks(flags);
        const isOk = checks.every((check) => check.isOk);
        await printReport({ isOk, checks }, flags.output, () => checksText(checks, coloursOf(process.stdout)));
        await flushOutput();
        if (!isOk) process.exitCode = checkExitCode;
      } catch (error) {
        process.exitCode = exitCodeOf(error);
        printError(error, flags.output);
      }
    });
}

/** Those after one without which they cannot be made are left out. */
async function allChecks(flags: OperatorFlags): Promise<Check[]> {
  await using client = connect(operatorUrl("check"), flags);
  const operator = new LocalOperator(client, new AbortController().signal);
  const through = flags.gateway === undefined && process.env["LEVER_AGENT"] !== undefined ? "agent" : "gateway";
  let services: ServicesReport;
  try {
    services = await operator.ask<ServicesReport>("listServices");
  } catch (error) {
    const { reason, rawMessage } = LeverError.from(error);
    if (reason === "AGENT_UNREACHABLE") {
      return [failed(`the ${through} answers`, `${rawMessage}; start \`lever dev\`, or name another with --gateway`)];
    }
    return [passed(`the ${through} answers`), failed("the operator answers", rawMessage)];
  }
  const { operator: own } = services;
  const isSame = own.version === version;
  const checks = [
    passed(`the ${through} answers`),
    passed("the operator answers"),
    isSame
      ? passed(`the operator's version is this command's, ${version}`)
      : failed(
          `the operator's version is this command's, ${version}`,
          `it is ${own.version}; run the lever of the installation that runs the services`,
        ),
  ];
  if (services.services.length === 0) checks.push(failed("there are services", "lever dev -f <folder> runs some"));
  const report = await operator.ask<CheckReport>("check", [], checkTimeoutMs);
  return [...checks, ...report.checks];
}

function passed(what: string): Check {
  return { category, what, isOk: true, hint: null };
}

function failed(what: string, hint: string): Check {
  return { category, what, isOk: false, hint };
}

export function checksText(checks: readonly Check[], colours: Pick<typeof pc, "red" | "green" | "bold">): string {
  const lines: string[] = [];
  let heading: string | undefined;
  for (const check of checks) {
    if (check.category !== heading) lines.push(...(heading === undefined ? [] : [""]), colours.bold(check.category));
    heading = check.category;
    lines.push(`${check.isOk ? colours.green("✓") : colours.red("✗")} ${check.what}`);
    if (check.hint !== null) lines.push(`    ${check.hint}`);
  }
  const failures = checks.filter(({ isOk }) => !isOk).length;
  const outcome = failures === 0 ? "all is well" : `${failures} of ${checks.length} checks failed`;
  return [...lines, "", failures === 0 ? colours.green(outcome) : colours.red(outcome)].join("\n");
}
