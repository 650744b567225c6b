/**
 * A person at a terminal as one side of a channel: each line that is typed is a message, what comes in is shown above
 * the line that is being typed. Who mistypes is told so and goes on.
 */

import { createInterface, type Interface } from "node:readline";
import { LeverError } from "leveros";
import { coloursOf } from "./output.ts";
import { parseLine } from "./piped-input.ts";

/** To the first column, and all behind it removed. */
const clearLine = "\r\x1b[J";

export class TerminalInput {
  readonly #interface: Interface;
  readonly #colours = coloursOf(process.stderr);
  #number = 0;
  #isOpen = true;
  #isStopped = false;

  /** `onInterrupt` is called for Ctrl-C, which this terminal gets instead of the process. */
  constructor(onInterrupt: () => void) {
    this.#interface = createInterface({
      input: process.stdin,
      output: process.stdout,
      prompt: "> ",
      historySize: 1000,
    });
    this.#interface.on("SIGINT", onInterrupt);
    this.#interface.once("close", () => {
      this.#isOpen = false;
    });
    this.#say("open: type a JSON value on each line; Ctrl-D half-closes, Ctrl-C cancels");
  }

  /** Ends at Ctrl-D. */
  async *messages(): AsyncGenerator<unknown> {
    this.#interface.prompt();
    for await (const line of this.#interface) {
      this.#number++;
      if (line.trim() !== "") {
        let message: unknown;
        try {
          message = parseLine(line, this.#number);
        } catch (error) {
          this.#say(LeverError.from(error).rawMessage);
          this.#interface.prompt();
          continue;
        }
        yield message;
      }
      this.#interface.prompt();
    }
    if (!this.#isStopped) this.#say("half-closed: what the other side still sends is shown; Ctrl-C cancels");
  }

  /** Prints without tearing apart what is being typed. */
  async show(print: () => Promise<void>): Promise<void> {
    if (!this.#isOpen) return print();
    process.stdout.write(clearLine);
    await print();
    this.#interface.prompt(true);
  }

  otherSideEnded(): void {
    this.#say("the other side has ended");
    this.stop();
  }

  stop(): void {
    this.#isStopped = true;
    this.#interface.close();
    process.stdin.destroy();
  }

  #say(text: string): void {
    process.stderr.write(`${clearLine}${this.#colours.dim(text)}\n`);
  }
}
