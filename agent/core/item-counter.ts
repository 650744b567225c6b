/**
 * Counts the bytes of one item (arguments, a result, a message) while its fragments pass, against the service's limit.
 * A relay never holds the item, so the limit is checked fragment by fragment. A message's cursor is not the message's:
 * its reader counts exactly, here a message with one may be as much larger as the longest cursor.
 */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Flag } from "@leveros/protocol/frame/frame.ts";
import { cursorBytesMax } from "@leveros/protocol/session/routing-header.ts";

export class ItemCounter {
  #bytes = 0;

  /** True if the item stays within `bytesMax` with this fragment. */
  add(flags: number, fragmentBytes: number, bytesMax: number): boolean {
    if ((flags & Flag.Cursor) !== 0) this.#bytes -= 1 + cursorBytesMax;
    this.#bytes += fragmentBytes;
    const fits = this.#bytes <= bytesMax;
    if ((flags & Flag.More) === 0) this.#bytes = 0;
    return fits;
  }
}

/** The error of an item that is too large, with the advice that helps. */
export function itemTooLarge(what: "arguments" | "result" | "message", bytesMax: number): LeverError {
  switch (what) {
    case "arguments":
      return new LeverError(
        "ARGS_TOO_LARGE",
        `the arguments are larger than ${bytesMax} bytes, the service's limit (argsBytes); ` +
          "send large data over a channel (a method whose name ends in Chan), which has no total limit",
        { effect: "none", details: { limit: "argsBytes", bytesMax } },
      );
    case "result":
      return new LeverError(
        "RESULT_TOO_LARGE",
        `the result is larger than ${bytesMax} bytes, the service's limit (resultBytes); ` +
          "stream large results over a channel (a method whose name ends in Chan), which has no total limit",
        { effect: "ran", details: { limit: "resultBytes", bytesMax } },
      );
    case "message":
      return new LeverError(
        "MESSAGE_TOO_LARGE",
        `a message is larger than ${bytesMax} bytes, the service's limit (messageBytes); split the data into several`,
        { effect: "ran", details: { limit: "messageBytes", bytesMax } },
      );
  }
}
