/**
 * A payload that is to be kept for long. What the decoder passes on is a view of a chunk, and a chunk may be 64 KiB: a
 * peer that mixes one small message with much that is not kept would make this end hold far more than its windows say.
 */

import { copyBytes } from "../value/copy-bytes.ts";

import { frameOverheadBytes } from "./frame.ts";

/** The payload itself where it is a fair part of its chunk, else a copy. */
export function keptPayload(payload: Uint8Array): Uint8Array {
  const isFair = payload.buffer.byteLength <= 4 * (payload.length + frameOverheadBytes);
  return isFair ? payload : copyBytes(payload);
}
