/** What `lever invoke` and `lever chan` do alike around the call itself: connect, listen for Ctrl-C, say how it ended. */

import type { Client } from "leveros";
import { type CallFlags, connectTo, readArguments } from "./call-options.ts";
import { exitCodeOf } from "./exit-code.ts";
import { Interruption } from "./interruption.ts";
import { printError } from "./output.ts";
import { flushOutput } from "./standard-output.ts";

export interface CallCommand {
  readonly client: Client;
  readonly url: string;
  readonly args: readonly unknown[];
  readonly interruption: Interruption;
}

/** Runs `call`; an error is printed, and the process's exit code set. */
export async function runCallCommand(
  url: string,
  texts: readonly string[],
  flags: CallFlags,
  call: (command: CallCommand) => Promise<void>,
): Promise<void> {
  try {
    const args = await readArguments(texts, flags.argsFile);
    await using client = await connectTo(url, flags);
    using interruption = new Interruption();
    await call({ client, url, args, interruption });
    await flushOutput();
  } catch (error) {
    process.exitCode = exitCodeOf(error);
    printError(error, flags.output);
  }
}
