/** Lever as it is installed by `lever dev --agent process`: each app beside an agent that is a process of its own. */

import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Stage } from "../control/stage.ts";
import type { Path } from "./path.ts";

const cli = new URL("../../cli/main.ts", import.meta.url).href;
const generator = fileURLToPath(new URL("../load/generator.ts", import.meta.url));
const server = fileURLToPath(new URL("./lever/server.ts", import.meta.url));
const client = new URL("./lever/client.ts", import.meta.url).href;

export const lever: Path = {
  name: "lever",
  about:
    "client app, agent, agent, server app: Unix sockets beside the apps, TCP between the agents; the `leveros` client " +
    "and server at the ends, with deadlines, balancing and metrics on",
  async start(stage: Stage) {
    const manifest = `${stage.directory}/bench.yaml`;
    await writeFile(
      manifest,
      [
        service("echo", `BENCH_ROLE=server exec node '${server}'`),
        service("caller", `BENCH_ROLE=client exec node '${generator}' '${client}'`),
      ].join("---\n"),
    );
    // The agents have the role of the process that starts them, whose own part is next to nothing.
    stage.spawn("agents", cli, {
      args: ["dev", "--agent", "process", "--port", "0", "--http-port", "0", "-f", manifest],
    });
    await Promise.all([stage.ready("server"), stage.ready("client")]);
  },
};

function service(name: string, command: string): string {
  return `apiVersion: leveros.dev/v1alpha1
kind: LeverService
metadata:
  name: ${name}
  namespace: bench
  annotations: { leveros.dev/dev-command: ${JSON.stringify(command)} }
spec:
  template:
    spec:
      containers: [{ name: app, image: bench }]
`;
}
