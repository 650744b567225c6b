/** The commands of `lever`, with their flags and help. */

import { Command } from "commander";
import { addBench } from "./bench.ts";
import { addChan } from "./chan.ts";
import { addCheck } from "./check.ts";
import { addDev } from "./dev-command.ts";
import { addEvict, addScale } from "./evict.ts";
import { addExplain } from "./explain.ts";
import { addInvoke } from "./invoke.ts";
import { addRun } from "./run-command.ts";
import { addEndpoints, addResources, addServices } from "./services.ts";
import { version } from "./version.ts";

/** Throws CommanderError instead of ending the process. */
export function makeProgram(): Command {
  const program = new Command("lever")
    .description("service-to-service calls, channels and resources")
    .version(version)
    .exitOverride();
  // Sub-commands take the settings of the program at the time when they are added.
  addDev(program);
  addRun(program);
  addInvoke(program);
  addChan(program);
  addBench(program);
  addServices(program);
  addEndpoints(program);
  addResources(program);
  addExplain(program);
  addEvict(program);
  addScale(program);
  addCheck(program);
  program.showHelpAfterError("(lever --help says more)");
  for (const command of program.commands) command.showHelpAfterError(`(lever ${command.name()} --help says more)`);
  return program;
}
