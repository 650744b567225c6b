/** `lever dev`: its flags and help. */

import { type Command, Option } from "commander";
import { collected, variableEntry, wholeNumber } from "./flag-values.ts";

export interface DevFlags {
  readonly file: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly agent: "hosted" | "process";
  readonly httpPort: number;
  readonly port: number;
  readonly watch?: boolean;
  readonly onlyExposed?: boolean;
}

export function addDev(program: Command): void {
  const port = wholeNumber(0, 65_535);
  program
    .command("dev")
    .description("run the services of LeverService manifests on this machine, without a cluster")
    .addOption(
      new Option("-f, --file <path>", "a manifest, or a folder of them; may be given several times")
        .argParser(collected)
        .default([], "this folder"),
    )
    .addOption(
      new Option("--env <name=value>", "an environment variable for all instances; may be given several times")
        .argParser(variableEntry)
        .default({}, "none"),
    )
    .addOption(
      new Option("--agent <how>", "where the instances' agents run: hosted by this process, or each as a process")
        .choices(["hosted", "process"])
        .default("hosted"),
    )
    .option("--http-port <port>", "the gateway's port for HTTP", port, 8080)
    .option("--port <port>", "the gateway's port for clients (libraries, lever invoke, lever chan)", port, 3837)
    .option("--only-exposed", "the gateway serves only what spec.access.gateway exposes, as in a cluster")
    .option("--watch", "follow changes of the services' files and of the manifests")
    .addHelpText(
      "after",
      `
Which command runs a service: the manifest's annotation leveros.dev/dev-command, else the start script of
package.json in its folder (leveros.dev/dev-directory). Instances are started again when they end. Manifests of other
kinds are skipped; ConfigMaps and Secrets are read for valueFrom and envFrom.

With --watch a change in a service's folder replaces its instances one after the other: the new one starts, and when it
serves the old one finishes its calls and ends, so that no call fails. One that does not come up is given up, and the
old one goes on. node_modules, names that begin with a dot, logs and databases (.log, .db, .sqlite, .tmp, .pid) do not
count. Changed manifests are read again: services are added, removed and scaled; with a problem in them what runs goes on.

Services of different environments call each other only as their spec.access.callers says, here as in a cluster. The
gateway serves every service, so that all can be tried; with --only-exposed it does as a cluster's.

Ctrl-C, SIGTERM and SIGHUP end everything in order, a second one at once. Nothing is left running, however it ends.

Examples:
  lever dev -f manifests/
  lever dev -f hello.yaml -f chat.yaml --env LOG=debug
  lever dev -f shop/ -f blog/ --watch                two environments, if their manifests' namespaces say so
  lever dev --http-port 0 --port 0                   free ports, printed when it is up

Exit codes: 0 ended as asked, 2 usage, manifests or a port that is in use, 4 internal.`,
    )
    .action(async (flags: DevFlags) => {
      // Only here: the other commands start in a fraction of the time without the operator and the gateway.
      const { dev } = await import("./dev.ts");
      process.exitCode = await dev(flags);
    });
}
