#!/usr/bin/env node
/** `lever`: the command line. */

import { CommanderError } from "commander";
import { LeverError } from "leveros";
import { exitCodeOf, usageExitCode } from "./exit-code.ts";
import { printError } from "./output.ts";
import { makeProgram } from "./program.ts";
import { asksForJson } from "./usage.ts";

const program = makeProgram();
const isJson = asksForJson(process.argv.slice(2));
if (isJson) {
  // Said below, once, where programs read it.
  for (const command of [program, ...program.commands]) {
    command.configureOutput({ outputError: () => {} }).showHelpAfterError(false);
  }
}

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) {
    process.exitCode = exitCodeOf(error);
    printError(error, isJson ? "json" : "text");
  } else if (error.exitCode !== 0) {
    process.exitCode = usageExitCode;
    if (isJson) {
      const message = error.message.replace(/^error: /, "");
      printError(new LeverError("INVALID_OPTION", message, { effect: "none" }), "json");
    }
  }
}
