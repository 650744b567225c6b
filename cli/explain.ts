/** `lever explain`: where one resource is, and why. */

import type { ExplainReport } from "@leveros/operator/admin/admin-report.ts";
import { type LeverUrl, parseUrl } from "@leveros/protocol/target/lever-url.ts";
import type { Command } from "commander";
import { LeverError } from "leveros";
import { environmentDefault } from "./call-options.ts";
import { addClusterFlags } from "./cluster-flags.ts";
import { exitCodesHelp } from "./exit-code.ts";
import { addOperatorFlags, type OperatorFlags, printReport, runOperatorCommand } from "./operator-command.ts";

interface ExplainFlags extends OperatorFlags {
  readonly environment?: string;
}

export function addExplain(program: Command): void {
  addClusterFlags(addOperatorFlags(program.command("explain")), true)
    .description("say where a resource is, under which epoch and why, whether it moves, and which calls wait for it")
    .argument("<url>", "lever://<environment>/<service>/<resource>/, or /<service>/<resource>/; a method may follow")
    .option(
      "-e, --environment <name>",
      `environment of a URL that names none (default: the namespace, else "${environmentDefault}")`,
    )
    .addHelpText(
      "after",
      `
The resource is all that lies between the service and the last slash, percent-encoded as in every URL of Lever.

Examples:
  lever explain lever://dev/chat/room-7/
  lever explain /chat/room-7/history                  as the call's own URL
  lever explain -n shop /chat/room-7/                 in a cluster
  lever explain lever://dev/docs/reports/2026/%E2%9C%93/ -o json

${exitCodesHelp}`,
    )
    .action((url: string, flags: ExplainFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const { environment, service, resource } = resourceOf(
          url,
          flags.environment ?? operator.home ?? environmentDefault,
        );
        const report = await operator.ask<ExplainReport>("explain", [environment, service, resource]);
        await printReport(report, flags.output, explainText);
      }),
    );
}

export interface ResourceName {
  readonly environment: string;
  readonly service: string;
  readonly resource: string;
}

/** Throws INVALID_URL. */
export function resourceOf(url: string, environment: string): ResourceName {
  // Without a method the URL ends in the slash before it.
  const parse = (text: string) => parseUrl(text, { allowPort: true });
  let named: LeverUrl | undefined;
  try {
    named = parse(url.endsWith("/") ? `${url}any` : url);
  } catch (error) {
    // Most names of resources are none of methods.
    if ((LeverError.from(error).details as { part?: unknown } | undefined)?.part !== "method") throw error;
  }
  if (named?.resource !== undefined) {
    return { environment: named.environment ?? environment, service: named.service, resource: named.resource };
  }
  const hint = /[^/]\/[^/]+$/.test(url) ? "; end it with a slash" : "";
  throw new LeverError(
    "INVALID_URL",
    `${url} names no resource, expected lever://<environment>/<service>/<resource>/${hint}`,
    { effect: "none", details: { part: "resource" } },
  );
}

export function explainText(report: ExplainReport): string {
  const { slot, slots, holder, state, address, epoch, why, move, moves, heldCalls, agentsNotAsked } = report;
  const held = heldCalls.reduce((sum, { calls }) => sum + calls, 0);
  const byAgent = heldCalls.map(({ agent, calls }) => `${calls} at ${agent}`).join(", ");
  const notAsked =
    agentsNotAsked === 0 ? "" : `; not known of ${agentsNotAsked} agents that are processes of their own`;
  const lines: [string, string][] = [
    ["resource", `${JSON.stringify(report.resource)} of ${report.environment}/${report.service}`],
    ["slot", `${slot} of ${slots}`],
    [
      "holder",
      holder === ""
        ? `nobody${epoch === 0 ? "" : ", any more"}`
        : `${holder} (${state ?? "gone"}${address ? `, ${address}` : ""})`,
    ],
    ["epoch", `${epoch}`],
    ["lease", report.leaseLeftMs === null ? "-" : `${(report.leaseLeftMs / 1000).toFixed(1)} s left`],
    ["why there", why === "" ? "-" : why],
    [
      "moving",
      move === null ? "no" : `to ${move.to === "" ? "nobody" : move.to} under epoch ${move.epoch}: ${move.waitsFor}`,
    ],
    ["held calls", `${held}${byAgent === "" ? "" : ` (${byAgent})`}${notAsked}`],
    ...moves.map(({ at, from, to, why: reason, epoch: of }, index): [string, string] => [
      index === 0 ? "last moves" : "",
      `${timeText(at)}  ${from === "" ? "nobody" : from} → ${to === "" ? "nobody" : to}  epoch ${of}  ${reason}`,
    ]),
  ];
  return lines.map(([name, text]) => `${name.padEnd(12)}${text}`).join("\n");
}

/** Local time. */
function timeText(at: number): string {
  const date = new Date(at);
  const two = (number: number) => String(number).padStart(2, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
