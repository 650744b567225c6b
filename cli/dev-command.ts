/** `lever dev`: its flags and help. */

import { type Command, Option } from "commander";
import { keyValue, wholeNumber } from "./call-options.ts";

export interface DevFlags {
  readonly file: readonly string[];
  readonly env: Record<string, string>;
  readonly agent: "hosted" | "process";
  readonly httpPort: number;
  readonly port: number;
}

export function addDev(program: Command): void {
  program
    .command("dev")
    .description("run the services of LeverService manifests on this machine, without a cluster")
    .option("-f, --file <path>", "a manifest, or a folder of them; may be given several times", collect, [])
    .option("--env <name=value>", "an environment variable for all instances; may be given several times", keyValue, {})
    .addOption(new Option("--agent <how>", "where the agents run").choices(["hosted", "process"]).default("hosted"))
    .option("--http-port <port>", "port of the gateway's HTTP", wholeNumber("--http-port", 0, 65535), 8080)
    .option("--port <port>", "port of the gateway for client libraries", wholeNumber("--port", 0, 65535), 3837)
    .addHelpText(
      "after",
      `
Examples:
  lever dev -f manifests/
  lever dev -f hello.yaml -f chat.yaml --env LOG=debug
  lever dev --http-port 0 --port 0                   free ports, printed when it is up

Which command runs a service: the manifest's annotation leveros.dev/dev-command, else the start script of
package.json in its folder (leveros.dev/dev-directory). Ctrl-C ends everything; a second one at once.`,
    )
    .action(async (flags: DevFlags) => {
      // Only here: the other commands start in a fraction of the time without the operator and the gateway.
      const { dev } = await import("./dev.ts");
      await dev(flags);
    });
}

function collect(value: string, before: readonly string[]): string[] {
  return [...before, value];
}
