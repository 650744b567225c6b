/** `lever invoke`: one call. */

import type { Command } from "commander";
import { runCallCommand } from "./call-command.ts";
import { addCallFlags, type CallFlags, callOptions } from "./call-options.ts";
import { exitCodesHelp } from "./exit-code.ts";
import { printResult } from "./output.ts";

export function addInvoke(program: Command): void {
  addCallFlags(program.command("invoke"))
    .description("call a method and print its result")
    .addHelpText(
      "after",
      `
The result is printed as JSON, bytes as they are. With -o json bytes are {"bytes":"<base64>"}, and an error is
{"error":{"kind","code","reason","effect","message"}}, also on standard output; a method's own error has "value"
instead of "message". Ctrl-C cancels the call.

Examples:
  lever invoke lever://dev/hello/sayHello '"world"'
  lever invoke /hello/divide 1 0                      the method's own error: exit code 1
  lever invoke /hello/checksum --args-file photo.jpg  bytes as the arguments
  lever invoke /hello/sayHello '"Ada"' -o json -t 500
  lever invoke lever://dev/chat/room-7/history        of the resource room-7; other characters percent-encoded

${exitCodesHelp}`,
    )
    .action((url: string, texts: string[], flags: CallFlags) =>
      runCallCommand(url, texts, flags, async ({ client, args, interruption }) => {
        await printResult(await client.invoke(url, args, callOptions(flags, interruption.signal)), flags.output);
      }),
    );
}
