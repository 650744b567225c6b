/** `lever services`, `lever endpoints`, `lever resources`: what there is, and who holds what. */

import type {
  EndpointsReport,
  HolderReport,
  ResourcesReport,
  ServicesReport,
} from "@leveros/operator/admin/admin-report.ts";
import type { Command } from "commander";
import { exitCodesHelp } from "./exit-code.ts";
import {
  addOperatorFlags,
  type OperatorFlags,
  printReport,
  runOperatorCommand,
  serviceName,
} from "./operator-command.ts";
import { ageText, textTable } from "./text-table.ts";

export function addServices(program: Command): void {
  addOperatorFlags(program.command("services"))
    .description("list the services: whether they are ready, their instances and methods")
    .addHelpText(
      "after",
      `
READY says whether all instances that are wanted serve; SLOTS how many of a service's slots are held. With -o json also
the methods, the operator's address and the gateway's ports.

Examples:
  lever services
  lever services -o json | jq -r '.services[] | select(.isReady | not) | .url'

${exitCodesHelp}`,
    )
    .action((flags: OperatorFlags) =>
      runOperatorCommand(flags, async (operator) => {
        await printReport(await operator.ask<ServicesReport>("listServices"), flags.output, servicesText);
      }),
    );
}

export function addEndpoints(program: Command): void {
  addOperatorFlags(program.command("endpoints"))
    .description("list the instances of a service, or of all, as routing sees them")
    .argument("[service]", "chat, or dev/chat")
    .addHelpText(
      "after",
      `
STATE is Serving, Starting (its app has not registered), Draining (it takes no new calls) or Unreachable (its agent is
lost). With -o json also the table's version, the policy that callers go by, and each agent's admin port.

Examples:
  lever endpoints
  lever endpoints dev/chat -o json

${exitCodesHelp}`,
    )
    .action((service: string | undefined, flags: OperatorFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const reports = await operator.ask<EndpointsReport[]>("listEndpoints", namesOf(service));
        await printReport(reports, flags.output, endpointsText);
      }),
    );
}

export function addResources(program: Command): void {
  addOperatorFlags(program.command("resources"))
    .description("list who holds the slots of a service's resources, and under which epochs")
    .argument("[service]", "chat, or dev/chat")
    .addHelpText(
      "after",
      `
A resource lies in a slot, by a hash of its name, and a slot is held by one instance. Each time that a slot is given
away its epoch rises. MOVING are slots that are about to go elsewhere. Where one resource is: lever explain.

Examples:
  lever resources dev/chat
  lever resources -o json

${exitCodesHelp}`,
    )
    .action((service: string | undefined, flags: OperatorFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const reports = await operator.ask<ResourcesReport[]>("listResources", namesOf(service));
        await printReport(reports, flags.output, resourcesText);
      }),
    );
}

/** The two arguments of the operator's methods. */
function namesOf(text: string | undefined): (string | null)[] {
  if (text === undefined) return [];
  const { environment, service } = serviceName(text);
  return [environment ?? null, service];
}

export function servicesText({ services }: ServicesReport): string {
  if (services.length === 0) return "no services";
  return textTable(
    ["service", "ready", "instances", "desired", "slots", "age", "reason"],
    services.map(({ environment, service, isReady, serving, desired, slots, ageSeconds, reason }) => [
      `${environment}/${service}`,
      isReady ? "True" : "False",
      serving,
      desired,
      slots === null ? "-" : `${slots.held}/${slots.slots}`,
      ageText(ageSeconds),
      reason,
    ]),
  );
}

export function endpointsText(reports: readonly EndpointsReport[]): string {
  const rows = reports.flatMap(({ environment, service, endpoints }) =>
    endpoints.map((each) => [
      `${environment}/${service}`,
      each.instance,
      each.state,
      each.address || "-",
      each.slots,
      each.pid ?? "-",
      each.restarts,
      each.isAttached ? "lever run" : "",
    ]),
  );
  if (rows.length === 0) return "no instances";
  return textTable(["service", "instance", "state", "address", "slots", "pid", "restarts", "by"], rows);
}

export function resourcesText(reports: readonly ResourcesReport[]): string {
  if (reports.length === 0) return "no service holds resources; spec.ownership in a manifest makes one";
  return textTable(
    ["service", "instance", "state", "slots", "moving", "epochs", "runs"],
    reports.flatMap(({ environment, service, holders }) =>
      holders.map((holder) => [
        `${environment}/${service}`,
        holder.instance || "(nobody)",
        holder.state ?? "-",
        holder.slots,
        holder.moving,
        epochsText(holder),
        runsText(holder),
      ]),
    ),
  );
}

function epochsText({ slots, epochs: [lowest, highest] }: HolderReport): string {
  if (slots === 0) return "-";
  return lowest === highest ? `${lowest}` : `${lowest}-${highest}`;
}

const runsShownMax = 8;

function runsText({ runs }: HolderReport): string {
  if (runs.length === 0) return "-";
  const shown = runs.slice(0, runsShownMax).map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`));
  return runs.length > runsShownMax ? `${shown.join(" ")} and ${runs.length - runsShownMax} more` : shown.join(" ");
}
