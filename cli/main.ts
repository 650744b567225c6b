#!/usr/bin/env node
/** `lever`: the command line. */

import { Command, CommanderError } from "commander";
import { LeverError } from "leveros";
import { addChan } from "./chan.ts";
import { addDev } from "./dev-command.ts";
import { usageExitCode } from "./exit-code.ts";
import { addInvoke } from "./invoke.ts";
import { printError } from "./output.ts";

const program = new Command("lever")
  .description("service-to-service calls, channels and resources")
  .version("0.1.0")
  .showHelpAfterError("(lever --help, or lever <command> --help, says more)")
  .exitOverride();
// Sub-commands take the settings of the program at the time when they are added.
addDev(program);
addInvoke(program);
addChan(program);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : usageExitCode;
  else {
    printError(LeverError.from(error), "text");
    process.exitCode = usageExitCode;
  }
}
