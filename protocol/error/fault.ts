/**
 * An error of Lever as it travels: a MessagePack map `{ reason, message, effect, details? }`.
 *
 * Invariant: whatever comes in, a LeverError comes out; what goes out is at most 9 KiB. The kind and the code are not
 * sent: the receiver's catalogue has them for the reason. A method's own error (its value) travels as a payload, not
 * as a fault.
 */

import { decodeValue } from "../value/decode.ts";
import { encodeValue } from "../value/encode.ts";
import { type Effect, isReason } from "./catalogue.ts";
import { LeverError } from "./lever-error.ts";

/** The most bytes of UTF-8 of a message; a longer one is cut and ends in `…`. */
export const faultMessageBytesMax = 4096;

/** The most bytes of encoded details; larger ones are left out. */
export const faultDetailsBytesMax = 4096;

/** Never throws. Details that have no JSON form are left out, like those that are too large. */
export function encodeFault(error: LeverError): Uint8Array {
  const { reason, effect, details } = error;
  const message = cut(error.rawMessage.toWellFormed());
  if (details !== undefined) {
    try {
      if (encodeValue(details, "details").length <= faultDetailsBytesMax) {
        return encodeValue({ reason, message, effect, details }, "error");
      }
    } catch {
      // The message says what happened; details are for programs, which cannot count on them.
    }
  }
  return encodeValue({ reason, message, effect }, "error");
}

/**
 * The error that a peer sent. A reason that this version's catalogue lacks becomes INTERNAL, with the peer's message,
 * effect and details and the word itself as `details.unknownReason`. Bytes that are no fault become
 * PROTOCOL_VIOLATION. Never throws. Keys that this version does not know are skipped.
 */
export function decodeFault(bytes: Uint8Array): LeverError {
  let fault: unknown;
  try {
    fault = decodeValue(bytes);
  } catch (error) {
    return violation(LeverError.from(error).rawMessage, error);
  }
  if (!isMap(fault)) return violation("it is not a map");
  const { reason, message, effect, details } = fault;
  if (typeof reason !== "string") return violation("its reason is not a string");
  if (typeof message !== "string") return violation("its message is not a string");
  if (!isEffect(effect)) return violation("its effect is not none, unknown or ran");
  if (details !== undefined && !isMap(details)) return violation("its details are not a map");
  if (isReason(reason)) return new LeverError(reason, message, { effect, details });
  return new LeverError("INTERNAL", message, { effect, details: { ...details, unknownReason: reason } });
}

function cut(message: string): string {
  // Three bytes per UTF-16 unit is the most that UTF-8 takes.
  if (message.length * 3 <= faultMessageBytesMax) return message;
  const bytes = new TextEncoder().encode(message);
  if (bytes.length <= faultMessageBytesMax) return message;
  let end = faultMessageBytesMax - 3;
  // Not inside a character: its bytes after the first are 10xxxxxx.
  while (((bytes[end] as number) & 0xc0) === 0x80) end--;
  return `${new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes.subarray(0, end))}…`;
}

function violation(what: string, cause?: unknown): LeverError {
  return new LeverError("PROTOCOL_VIOLATION", `a peer sent an error that cannot be read: ${what}`, { cause });
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isEffect(value: unknown): value is Effect {
  return value === "none" || value === "unknown" || value === "ran";
}
