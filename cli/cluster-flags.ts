/**
 * Whether a command is about a cluster, and which: by flags or LEVER_CONTEXT, never by what happens to be found. Nothing
 * of Kubernetes is loaded here: commands on this machine start without it.
 */

import type { Command } from "commander";
import { LeverError } from "leveros";

export interface ClusterFlags {
  readonly gateway?: string;
  readonly context?: string;
  readonly namespace?: string;
  readonly kubeconfig?: string;
  readonly operatorNamespace?: string;
}

export const operatorNamespaceDefault = "lever-system";

/** `operator`: the command asks the operator. */
export function addClusterFlags(command: Command, operator: boolean): Command {
  command
    .option("--context <name>", "a cluster: this context of the kubeconfig (default: LEVER_CONTEXT)")
    .option("-n, --namespace <name>", "a cluster: this namespace (default: the context's)")
    .option("--kubeconfig <path>", "a cluster: of this kubeconfig (default: as kubectl finds it)");
  if (!operator) return command;
  return command.option(
    "--operator-namespace <name>",
    `a cluster: where its operator is (default: "${operatorNamespaceDefault}")`,
  );
}

/** Throws INVALID_OPTION for flags of both. */
export function isAboutCluster(
  flags: ClusterFlags,
  env: Readonly<Record<string, string | undefined>> = process.env,
): boolean {
  const { gateway, context, namespace, kubeconfig, operatorNamespace } = flags;
  const given = Object.entries({ context, namespace, kubeconfig, operatorNamespace }).find(
    ([, value]) => value !== undefined,
  );
  if (gateway === undefined) return given !== undefined || (env["LEVER_CONTEXT"] ?? "") !== "";
  if (given === undefined) return false;
  const flag = given[0] === "operatorNamespace" ? "operator-namespace" : given[0];
  throw new LeverError(
    "INVALID_OPTION",
    `--gateway and --${flag} were both given; a command goes to a gateway or to a cluster`,
    { effect: "none" },
  );
}
