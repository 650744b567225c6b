/** `lever run`: its flags and help. */

import { type Command, Option } from "commander";
import { environmentDefault } from "./call-options.ts";
import { addOperatorFlags, type OperatorFlags } from "./operator-command.ts";

export interface RunFlags extends OperatorFlags {
  readonly service: string;
}

export function addRun(program: Command): void {
  addOperatorFlags(program.command("run"))
    .description("run a process of your own as one more instance of a service of a running lever dev")
    .argument("[command...]", "the program and its arguments, after --; none: print the variables, for a debugger")
    .addOption(
      new Option(
        "-s, --service <name>",
        `chat, or ${environmentDefault}/chat; it is in a manifest`,
      ).makeOptionMandatory(),
    )
    .addHelpText(
      "after",
      `
The process gets an agent (hosted by this command) and LEVER_AGENT, LEVER_ENVIRONMENT, LEVER_SERVICE and LEVER_INSTANCE,
beside the variables of this shell; those of the manifest's container are not set. It is an instance like the others
until it ends, whose exit code is this command's. Ctrl-C and SIGTERM end it gracefully, a second one at once. To have
all calls go to it: lever scale chat 0.

Without a command the variables are printed, and this command stays until Ctrl-C: start the process with them, in a
debugger say. With -o json they are one JSON object.

Examples:
  lever run --service chat -- node chat.ts
  lever run --service dev/chat -- node --inspect-brk chat.ts
  lever run --service chat                            variables for an editor's launch configuration

Exit codes: the process's; 2 usage or arguments, 3 network, or lever dev has ended, 4 internal.`,
    )
    .action(async (command: readonly string[], flags: RunFlags) => {
      // Only here: the other commands start in a fraction of the time without an agent.
      const { run } = await import("./run.ts");
      process.exitCode = await run(command, flags);
    });
}
