/** `lever chan`: a channel on standard input and output. */

import { createInterface } from "node:readline";
import type { Command } from "commander";
import { type Channel, LeverError } from "leveros";
import { addCallFlags, type CallFlags, callOptions, connect, readArguments } from "./call-options.ts";
import { exitCodeOf } from "./exit-code.ts";
import { printError, printValue } from "./output.ts";

interface ChanFlags extends CallFlags {
  readonly bytes?: boolean;
}

export function addChan(program: Command): void {
  addCallFlags(program.command("chan"))
    .description("open a channel; lines of standard input are sent, what comes in is printed")
    .argument("<url>", "lever://<environment>/<service>[/<resource>]/<method>, or /<service>/<method>")
    .argument("[args...]", "the arguments, each a JSON value")
    .option("--bytes", "send standard input as it is, in messages of bytes, instead of a JSON value on each line")
    .addHelpText(
      "after",
      `
The end of standard input half-closes the channel; the command ends when the other side does.

Examples:
  lever chan /negotiate/haggleChan '"a carpet"' 100  then type offers such as {"price":60}
  lever chan /upload/putChan --bytes < photo.jpg     any size
  printf '1\\n2\\n' | lever chan /service/sumChan -o json

Exit codes: 0 a clean end, 1 the method's error, 2 usage or arguments, 3 network or deadline, 4 internal.`,
    )
    .action(async (url: string, texts: string[], flags: ChanFlags) => {
      try {
        const args = await readArguments(texts, flags);
        await using client = connect(flags);
        await using channel = await client.openChannel(url, args, callOptions(flags));
        if (process.stdin.isTTY && flags.output === "text") {
          console.error("open; type a JSON value on each line, Ctrl-D half-closes, Ctrl-C cancels");
        }
        process.once("SIGINT", () => channel.cancel());
        const sending = send(channel, flags.bytes === true);
        for await (const message of channel) await printValue(message, flags.output);
        // The other side is done: what is still typed has no reader.
        process.stdin.destroy();
        await sending;
      } catch (error) {
        printError(error, flags.output);
        process.exitCode = exitCodeOf(error);
        process.stdin.destroy();
      }
    });
}

async function send(channel: Channel, isBytes: boolean): Promise<void> {
  try {
    if (isBytes) for await (const chunk of process.stdin) await channel.send(new Uint8Array(chunk as Buffer));
    else {
      let line = 0;
      for await (const text of createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY })) {
        line++;
        if (text.trim() === "") continue;
        await channel.send(parseLine(text, line));
      }
    }
    channel.closeWrite();
  } catch (error) {
    if (channel.isEnded || (error as { code?: unknown }).code === "ERR_STREAM_PREMATURE_CLOSE") return;
    channel.cancel();
    throw error;
  }
}

function parseLine(text: string, line: number): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw new LeverError(
      "INVALID_ARGUMENTS",
      `line ${line} is ${JSON.stringify(text.slice(0, 200))}, which is no JSON value; a string needs quotes, ` +
        "and raw bytes need --bytes",
      { effect: "ran" },
    );
  }
}
