/**
 * Writes docs/cli.md from the help of the commands: `npx node cli/print-docs.ts > docs/cli.md`.
 * A test fails when the two differ.
 */

import type { Command } from "commander";
import { makeProgram } from "./program.ts";

const introduction = `# The command line

<!-- Generated from the help of the commands by cli/print-docs.ts; edit those. -->

\`lever\` runs services on one machine and calls them. In this repository it is run as \`npx lever\`.

| exit code | meaning |
|---|---|
| 0 | fine; also when the reader of the output has had enough, as in \`lever chan … \\| head -1\` |
| 1 | the method's error |
| 2 | usage, arguments or manifests |
| 3 | network or deadline; also a call that Ctrl-C cancelled |
| 4 | internal |
| 5 | a check of \`lever check\` failed |

\`lever bench\` exits with 1 if any call had an error, \`lever run\` with its process's own code.

With \`-o json\` all is on standard output, one JSON document on a line: the result, or each message of a channel, as it
is; bytes as \`{"bytes":"<base64>"}\`; and an error, last, as \`{"error":{…}}\` with the fields of
[errors.md](errors.md). The exit code tells a result from an error that looks like it. Usage errors are printed so too.

Colours are for terminals; \`NO_COLOR\` turns them off.
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
