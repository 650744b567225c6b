/** `lever services`, `lever endpoints`, `lever resources`: what there is, and who holds what. */

import type {
  EndpointsReport,
  HolderReport,
  ResourcesReport,
  ServicesReport,
} from "@leveros/operator/admin/admin-report.ts";
import type { Command } from "commander";
import { addClusterFlags } from "./cluster-flags.ts";
import { exitCodesHelp } from "./exit-code.ts";
import type { Operator } from "./operator.ts";
import {
  addOperatorFlags,
  type OperatorFlags,
  printReport,
  runOperatorCommand,
  serviceName,
} from "./operator-command.ts";
import { ageText, textTable } from "./text-table.ts";

interface ListFlags extends OperatorFlags {
  readonly allNamespaces?: boolean;
}

function addListFlags(command: Command): Command {
  return addClusterFlags(addOperatorFlags(command), true).option(
    "-A, --all-namespaces",
    "a cluster: all namespaces (default: the one that -n or the context says)",
  );
}

export function addServices(program: Command): void {
  addListFlags(program.command("services"))
    .description("list the services: whether they are ready, their instances and methods")
    .addHelpText(
      "after",
      `
READY says whether all instances that are wanted serve; SLOTS how many of a service's slots are held. With -o json also
the methods, the operator's address and the gateway's ports.

Examples:
  lever services
  lever services -n shop                              in a cluster
  lever services -o json | jq -r '.services[] | select(.isReady | not) | .url'

${exitCodesHelp}`,
    )
    .action((flags: ListFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const environment = flags.allNamespaces === true ? undefined : operator.home;
        await printReport(await operator.services(environment), flags.output, servicesText);
      }),
    );
}

export function addEndpoints(program: Command): void {
  addListFlags(program.command("endpoints"))
    .description("list the instances of a service, or of all, as routing sees them")
    .argument("[service]", "chat, or dev/chat")
    .addHelpText(
      "after",
      `
STATE is Serving, Starting (its app has not registered), Draining (it takes no new calls) or Unreachable (its agent is
lost). With -o json also the table's version, the policy that callers go by, and each agent's admin port. In a cluster
the instances are pods: beside their node and zone stands why one does not serve.

Examples:
  lever endpoints
  lever endpoints dev/chat -o json
  lever endpoints -n shop chat                        in a cluster

${exitCodesHelp}`,
    )
    .action((service: string | undefined, flags: ListFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const reports = await operator.ask<EndpointsReport[]>("listEndpoints", namesOf(service, flags, operator));
        await printReport(reports, flags.output, endpointsText);
      }),
    );
}

export function addResources(program: Command): void {
  addListFlags(program.command("resources"))
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
    .action((service: string | undefined, flags: ListFlags) =>
      runOperatorCommand(flags, async (operator) => {
        const reports = await operator.ask<ResourcesReport[]>("listResources", namesOf(service, flags, operator));
        await printReport(reports, flags.output, resourcesText);
      }),
    );
}

/** The two arguments of the operator's methods. */
function namesOf(text: string | undefined, flags: ListFlags, operator: Operator): (string | null)[] {
  const home = flags.allNamespaces === true ? null : (operator.home ?? null);
  if (text === undefined) return [home];
  const { environment, service } = serviceName(text);
  return [environment ?? home, service];
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
  if (reports.some(({ endpoints }) => endpoints.some(({ podUid }) => podUid !== null))) return podsText(reports);
  return textTable(["service", "instance", "state", "address", "slots", "pid", "restarts", "by"], rows);
}

/** As `endpointsText`, of a cluster. */
function podsText(reports: readonly EndpointsReport[]): string {
  const rows = reports.flatMap(({ environment, service, endpoints }) =>
    endpoints.map(({ instance, state, address, node, zone, slots, restarts, problem }) => [
      `${environment}/${service}`,
      instance,
      state,
      address || "-",
      node ?? "-",
      zone ?? "-",
      slots,
      restarts,
      problem ?? "",
    ]),
  );
  return textTable(["service", "instance", "state", "address", "node", "zone", "slots", "restarts", "why"], rows);
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
