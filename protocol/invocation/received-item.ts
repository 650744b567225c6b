/** A result, an error's value or a message as whoever called the method gets it. */

import { LeverError } from "../error/lever-error.ts";
import { ownBytes } from "../value/copy-bytes.ts";
import { decodePayload, type Encoded } from "../value/form.ts";

/**
 * The value, or the bytes in memory of their own (what came in several fragments has that already). Throws
 * INVALID_VALUE_ENCODING, with effect `ran`: the reason's own `none` is for arguments, and whatever a method sends it
 * has been entered.
 */
export function decodeReceived(item: Encoded): unknown {
  if (item.form === "bytes") return ownBytes(item.bytes);
  try {
    return decodePayload(item.bytes, item.form);
  } catch (error) {
    throw LeverError.from(error).withEffect("ran");
  }
}
