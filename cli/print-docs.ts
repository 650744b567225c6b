/**
 * Writes docs/cli.md from the help of the commands: `npx node cli/print-docs.ts > docs/cli.md`.
 * A test fails when the two differ.
 */

import type { Command } from "commander";
import { makeProgram } from "./program.ts";

const introduction = `# The command line

<!-- Generated from the help of the commands by cli/print-docs.ts; edit those. -->

\`lever\` runs services on one machine, calls them, and shows what there is; the same commands do so in a cluster. In this
repository it is run as \`npx lever\`.

| exit code | meaning |
|---|---|
| 0 | fine; also when the reader of the output has had enough, as in \`lever chan … \\| head -1\` |
| 1 | the method's error |
| 2 | usage, arguments, manifests, or rights that are missing |
| 3 | network or deadline; also a call that Ctrl-C cancelled |
| 4 | internal |
| 5 | a check of \`lever check\` failed |

\`lever bench\` exits with 1 if any call had an error, \`lever run\` with its process's own code.

With \`-o json\` all is on standard output, one JSON document on a line: the result, or each message of a channel, as it
is; bytes as \`{"bytes":"<base64>"}\`; and an error, last, as \`{"error":{…}}\` with the fields of
[errors.md](errors.md). The exit code tells a result from an error that looks like it. Usage errors are printed so too.

Colours are for terminals; \`NO_COLOR\` turns them off.

## In a cluster

With \`--context\`, \`-n\`, \`--kubeconfig\` or \`--operator-namespace\`, or with \`LEVER_CONTEXT\` set, a command is about a
cluster, which is found as \`kubectl\` finds it; without any of them it is about this machine, whatever kubeconfig there is.
\`--gateway\` goes to a gateway, also where \`LEVER_CONTEXT\` is set. An environment is a namespace there: names and URLs
without one mean that of \`-n\`, else the context's.

Everything is done as the user of the kubeconfig, by port-forwards through the API server, without a port on this machine:

| command | needs the right to | in namespace |
|---|---|---|
| \`services\`, \`endpoints\`, \`resources\`, \`explain\`, \`check\` | get deployments, list pods, get and create pods/portforward | the operator's (\`--operator-namespace\`, lever-system) |
| \`invoke\`, \`chan\`, \`bench\` | list pods, get and create pods/portforward | the called service's |
| \`scale\` | get leverservices, patch leverservices/scale | the service's |
| \`evict\` | create pods/eviction, and those of \`endpoints\` | the instance's |

Calls go through a ready pod of the called service, or another one of its namespace if none is ready, and are made as that
pod's service. A connection that is lost is made again, through another pod or replica; a channel that was open over it ends
with an error, unless it is one with \`--resume\`. Who has no rights in the operator's namespace sees a service's
instances by \`kubectl get lsvc\` and \`kubectl get leverendpointtables\`.
`;

function helpOf(command: Command): string {
  let text = "";
  command.configureOutput({
    writeOut: (part) => {
      text += part;
    },
    getOutHelpWidth: () => 110,
    getOutHasColors: () => false,
  });
  command.outputHelp();
  return text.trimEnd();
}

const sections = makeProgram().commands.map(
  (command) => `## lever ${command.name()}\n\n\`\`\`text\n${helpOf(command)}\n\`\`\`\n`,
);
process.stdout.write(`${introduction}\n${sections.join("\n")}`);
