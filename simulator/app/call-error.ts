/** What a call that failed tells the history. */

import { LeverError, MethodError } from "leveros";
import type { CallError } from "../check/history.ts";

export function callError(error: unknown): CallError {
  if (LeverError.is(error)) return { reason: error.reason, effect: error.effect, text: error.message };
  if (MethodError.is(error)) return { reason: "METHOD_ERROR", effect: "ran", text: JSON.stringify(error.value) };
  return { reason: "OTHER", effect: "ran", text: String(error) };
}
