/**
 * Standard input as messages for a channel: a JSON value on each line, or bytes as they come.
 *
 * A channel's other side may end its own direction and still read (a log that answers nothing), or be gone for good: the
 * two look alike from here. So what is there is sent on, and the input ends when nothing has come for a second.
 */

import { messageBytesHardMax } from "@leveros/protocol/invocation/item-limits.ts";
import { LeverError } from "leveros";
import { linesOf, wrongLine } from "./line-reader.ts";

const idleMs = 1000;
const idleCheckMs = 50;

export class PipedInput {
  readonly #isBytes: boolean;
  /** Since when nothing has come, while somebody waits for it. */
  #idleSince: number | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(isBytes: boolean) {
    this.#isBytes = isBytes;
  }

  /** Ends at the end of the input, or when it is stopped. Throws INVALID_ARGUMENTS, naming the line. */
  async *messages(): AsyncGenerator<unknown> {
    if (this.#isBytes) return yield* this.#chunks();
    let number = 0;
    for await (const line of linesOf(this.#chunks(), messageBytesHardMax)) {
      number++;
      if (line.trim() !== "") yield parseLine(line, number);
    }
  }

  /** The other side sends no more: the input ends when it is idle. */
  otherSideEnded(): void {
    if (this.#idleSince !== undefined) this.#idleSince = performance.now();
    this.#timer ??= setInterval(() => {
      if (this.#idleSince !== undefined && performance.now() - this.#idleSince >= idleMs) this.stop();
    }, idleCheckMs);
  }

  /** Ends it, whoever still writes to it. */
  stop(): void {
    clearInterval(this.#timer);
    process.stdin.destroy();
  }

  async *#chunks(): AsyncGenerator<Uint8Array> {
    const chunks = process.stdin[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
    try {
      for (;;) {
        this.#idleSince = performance.now();
        const next = await chunks.next();
        this.#idleSince = undefined;
        if (next.done === true) return;
        yield next.value;
      }
    } catch (error) {
      // It was stopped.
      if ((error as NodeJS.ErrnoException).code === "ERR_STREAM_PREMATURE_CLOSE") return;
      throw new LeverError("INVALID_OPTION", `cannot read standard input: ${(error as Error).message}`, {
        effect: "ran",
        cause: error,
      });
    } finally {
      this.stop();
    }
  }
}

export function parseLine(text: string, number: number): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    const shown = JSON.stringify(text.length > 100 ? `${text.slice(0, 99)}…` : text);
    throw wrongLine(number, `is ${shown}, which is no JSON value; a string needs quotes, and raw bytes need --bytes`);
  }
}
