/** Arguments, results and messages as JSON text: what of HTTP bodies is values. */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { textOfUtf8 } from "./byte-text.ts";

/** The value of JSON in UTF-8. `where` names it in the BODY_INVALID that anything else gives. */
export function parseJson(bytes: Uint8Array, where: string): unknown {
  const text = textOfUtf8(bytes);
  if (text === undefined) throw new LeverError("BODY_INVALID", `${where} is not UTF-8, expected JSON`);
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new LeverError("BODY_INVALID", `${where} is no JSON: ${(error as Error).message}`);
  }
}

/** A JSON array of arguments; nothing at all is no arguments. Throws BODY_INVALID. */
export function parseArguments(bytes: Uint8Array, where: string): unknown[] {
  return bytes.length === 0 ? [] : argumentsOf(parseJson(bytes, where), where);
}

/** Throws BODY_INVALID for what is no array. */
export function argumentsOf(value: unknown, where: string): unknown[] {
  if (Array.isArray(value)) return value;
  const found = value === null ? "null" : typeof value === "object" ? "an object" : `a ${typeof value}`;
  throw new LeverError("BODY_INVALID", `${where} is ${found}, expected a JSON array of the arguments`);
}
