/** `lever invoke`: one call. */

import type { Command } from "commander";
import { addCallFlags, type CallFlags, callOptions, connect, readArguments } from "./call-options.ts";
import { exitCodeOf } from "./exit-code.ts";
import { printError, printValue } from "./output.ts";

export function addInvoke(program: Command): void {
  addCallFlags(program.command("invoke"))
    .description("call a method and print its result")
    .argument("<url>", "lever://<environment>/<service>[/<resource>]/<method>, or /<service>/<method>")
    .argument("[args...]", "the arguments, each a JSON value")
    .addHelpText(
      "after",
      `
Examples:
  lever invoke lever://dev/hello/sayHello '"world"'
  lever invoke /hello/divide 1 0                     the method's own error, exit code 1
  lever invoke /hello/checksum --args-file photo.jpg bytes as the arguments
  lever invoke /hello/sayHello '"Ada"' -o json -t 500

Exit codes: 0 fine, 1 the method's error, 2 usage or arguments, 3 network or deadline, 4 internal.`,
    )
    .action(async (url: string, texts: string[], flags: CallFlags) => {
      try {
        const args = await readArguments(texts, flags);
        await using client = connect(flags);
        await printValue(await client.invoke(url, args, callOptions(flags)), flags.output);
      } catch (error) {
        printError(error, flags.output);
        process.exitCode = exitCodeOf(error);
      }
    });
}
