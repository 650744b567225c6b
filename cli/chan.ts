/** `lever chan`: a channel on standard input and output. */

import type { Command } from "commander";
import type { Channel, ChannelState } from "leveros";
import { runCallCommand } from "./call-command.ts";
import { addCallFlags, type CallFlags, callOptions } from "./call-options.ts";
import { exitCodesHelp } from "./exit-code.ts";
import { printMessage } from "./output.ts";
import { PipedInput } from "./piped-input.ts";
import { outputBroken } from "./standard-output.ts";
import { TerminalInput } from "./terminal-input.ts";

interface ChanFlags extends CallFlags {
  readonly bytes?: boolean;
  readonly resume?: boolean;
}

export function addChan(program: Command): void {
  addCallFlags(program.command("chan"))
    .description("open a channel; lines of standard input are sent, what comes in is printed")
    .option("--bytes", "send standard input as it is, in messages of bytes, instead of a JSON value on each line")
    .option("--resume", "open the channel again when its resource moves, or its instance or the way to it is lost")
    .addHelpText(
      "after",
      `
Messages are printed as one line of JSON each, bytes as they are. With -o json bytes are {"bytes":"<base64>"}, and an
error is a last line {"error":{"kind","code","reason","effect","message"}}; a method's own error has "value" instead.

The end of standard input half-closes the channel. The command ends when the other side does: what standard input still
holds is sent, and nothing is waited for that takes longer than a second. Ctrl-C cancels the channel.

Examples:
  lever chan /negotiate/haggleChan '"a carpet"' 100   and then offers, each on a line: {"price":60}
  lever chan /upload/putChan --bytes < photo.jpg      any size
  lever chan --resume lever://dev/chat/room-7/joinChan '"Ada"'   with the resource room-7, wherever it goes
  lever chan /upload/getChan 1000000 -o json | tail -n 1
  printf '%s\\n' '{"price":80}' | lever chan /negotiate/haggleChan '"a carpet"' 100 -o json

${exitCodesHelp}`,
    )
    .action((url: string, texts: string[], flags: ChanFlags) =>
      runCallCommand(url, texts, flags, async ({ client, args, interruption }) => {
        const resume = flags.resume === true;
        const options = { ...callOptions(flags, interruption.signal), ...(resume && { resume }) };
        await using channel = await client.openChannel(url, args, options);
        channel.onstate = showState;
        await converse(channel, flags, () => interruption.abort());
      }),
    );
}

/** Beside the messages, for people. */
function showState(state: ChannelState): void {
  if (state === "resuming") process.stderr.write("lever: the channel is being opened again\n");
  else if (state === "discontinuity") process.stderr.write("lever: messages may be missing here\n");
}

type Input = PipedInput | TerminalInput;

async function converse(channel: Channel, flags: ChanFlags, interrupt: () => void): Promise<void> {
  const { stdin, stdout } = process;
  const isTyped = stdin.isTTY && stdout.isTTY && flags.output === "text" && flags.bytes !== true;
  const input: Input = isTyped ? new TerminalInput(interrupt) : new PipedInput(flags.bytes === true);
  // A reader that is gone may be noticed while the other side is silent.
  const onBroken = () => channel.cancel();
  outputBroken.addEventListener("abort", onBroken);
  let inputError: unknown;
  const sending = send(channel, input).catch((error: unknown) => {
    inputError = error;
    channel.cancel();
  });
  try {
    for await (const message of channel) {
      const print = () => printMessage(message, flags.output);
      await (input instanceof TerminalInput ? input.show(print) : print());
    }
    input.otherSideEnded();
    await sending;
  } catch (error) {
    if (outputBroken.aborted) throw outputBroken.reason;
    throw inputError ?? error;
  } finally {
    outputBroken.removeEventListener("abort", onBroken);
    input.stop();
  }
  if (inputError !== undefined) throw inputError;
}

/** Rejects for what is wrong with the input; how the channel ends is for its reader. */
async function send(channel: Channel, input: Input): Promise<void> {
  for await (const message of input.messages()) {
    try {
      await channel.send(message);
    } catch (error) {
      if (channel.isEnded) return;
      throw error;
    }
  }
  channel.closeWrite();
}
