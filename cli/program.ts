/** The commands of `lever`, with their flags and help. */

import { Command } from "commander";
import { addChan } from "./chan.ts";
import { addDev } from "./dev-command.ts";
import { addInvoke } from "./invoke.ts";

export const version = "0.1.0";

/** Throws CommanderError instead of ending the process. */
export function makeProgram(): Command {
  const program = new Command("lever")
    .description("service-to-service calls, channels and resources")
    .version(version)
    .exitOverride();
  // Sub-commands take the settings of the program at the time when they are added.
  addDev(program);
  addInvoke(program);
  addChan(program);
  program.showHelpAfterError("(lever --help says more)");
  for (const command of program.commands) command.showHelpAfterError(`(lever ${command.name()} --help says more)`);
  return program;
}
