/**
 * Lines of a stream of bytes, each as soon as its end is there.
 *
 * Invariant: at most `lineBytesMax` and one chunk are held; a reader that waits stops the source.
 */

import { LeverError } from "leveros";

const newline = 10;

/** Without their ends (`\n` or `\r\n`). Throws INVALID_ARGUMENTS for a line that is too long or no UTF-8. */
export async function* linesOf(source: AsyncIterable<Uint8Array>, lineBytesMax: number): AsyncGenerator<string> {
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  let number = 1;
  const hold = (piece: Uint8Array) => {
    heldBytes += piece.length;
    if (heldBytes > lineBytesMax) throw wrongLine(number, `has more than ${lineBytesMax} bytes`);
    held.push(piece);
  };
  const finish = () => {
    const line = textOf(held, number);
    held = [];
    heldBytes = 0;
    number++;
    return line;
  };
  for await (const chunk of source) {
    let start = 0;
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
      hold(chunk.subarray(start, end));
      yield finish();
      start = end + 1;
    }
    if (start < chunk.length) hold(chunk.subarray(start));
  }
  if (heldBytes > 0) yield finish();
}

function textOf(pieces: readonly Uint8Array[], number: number): string {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(pieces));
    return text.endsWith("\r") ? text.slice(0, -1) : text;
  } catch {
    throw wrongLine(number, "is not UTF-8; raw bytes need --bytes");
  }
}

export function wrongLine(number: number, what: string): LeverError {
  return new LeverError("INVALID_ARGUMENTS", `line ${number} of the input ${what}`, { effect: "ran" });
}
