/**
 * The two forms in which arguments, results, errors and channel messages travel: one JSON value, or one chunk of
 * bytes. This file chooses the form at the sender; encode.ts and decode.ts are the codec of values.
 *
 * Invariant: the forms never mix. Bytes inside a value are refused, here or in encode.ts, before anything is sent.
 */

import { LeverError } from "../error/lever-error.ts";
import { isBinary } from "./check.ts";
import { decodeValue } from "./decode.ts";
import { encodeValue } from "./encode.ts";

/** `value`: MessagePack of one JSON value. `bytes`: the payload is the bytes themselves. */
export type Form = "value" | "bytes";

export interface Encoded {
  /** As `encodeValue` returns them or, in the form `bytes`, the very bytes that were given, not a copy. */
  readonly bytes: Uint8Array;
  readonly form: Form;
}

/** True for a `Uint8Array` of any realm, so also for a `Buffer`. */
export function isBytes(value: unknown): value is Uint8Array {
  return (
    value instanceof Uint8Array ||
    (ArrayBuffer.isView(value) && (value as { [Symbol.toStringTag]?: unknown })[Symbol.toStringTag] === "Uint8Array")
  );
}

/**
 * The arguments of a call. Trailing `undefined` are left out; then one lone `Uint8Array` is bytes, and anything else
 * is an array of values.
 *
 * Raises ARGS_FORM (with `details.index`) for bytes among other arguments, VALUE_NOT_ENCODABLE for what has no JSON
 * form (with a path that starts at `args[<index>]`).
 */
export function encodeArgs(args: readonly unknown[]): Encoded {
  let count = args.length;
  while (count > 0 && args[count - 1] === undefined) count--;
  if (count === 1 && isBytes(args[0])) return { bytes: args[0], form: "bytes" };
  for (let index = 0; index < count; index++) {
    const arg = args[index];
    if (typeof arg === "object" && arg !== null && isBinary(arg)) refuseBytes(arg, index, count);
  }
  return { bytes: encodeValue(count === args.length ? args : args.slice(0, count), "args"), form: "value" };
}

/**
 * A method's result, or the value of what it threw. `undefined` becomes null.
 *
 * Raises RESULT_NOT_ENCODABLE, whose effect is `ran`.
 */
export function encodeResult(value: unknown, path: string): Encoded {
  if (value === undefined) return { bytes: encodeValue(null, path), form: "value" };
  try {
    return encodeMessage(value, path);
  } catch (error) {
    if (!LeverError.is(error)) throw error;
    throw new LeverError("RESULT_NOT_ENCODABLE", error.rawMessage, { cause: error, details: error.details });
  }
}

/** A channel's message or a channel's error: as a result, but `undefined` is refused. Raises VALUE_NOT_ENCODABLE. */
export function encodeMessage(value: unknown, path: string): Encoded {
  if (isBytes(value)) return { bytes: value, form: "bytes" };
  return { bytes: encodeValue(value, path), form: "value" };
}

/**
 * What was received, in its form: the JSON value, or the bytes as they are (the same memory, not a copy).
 *
 * Raises INVALID_VALUE_ENCODING.
 */
export function decodePayload(bytes: Uint8Array, form: Form): unknown {
  return form === "bytes" ? bytes : decodeValue(bytes);
}

function refuseBytes(arg: object, index: number, count: number): never {
  const found = arg.constructor?.name ?? "bytes";
  const instead =
    count > 1
      ? "arguments are either all JSON values or one lone Uint8Array; send text such as base64, or two calls"
      : "wrap it as one Uint8Array: new Uint8Array(buffer)";
  throw new LeverError("ARGS_FORM", `args[${index}] is a ${found} (argument ${index + 1} of ${count}): ${instead}`, {
    details: { index, path: `args[${index}]` },
  });
}
