/** Exit codes of `lever`: 0 fine, 1 the method's error, 2 usage or arguments, 3 network or deadline, 4 internal, 5 a check failed. */

import { catalogue } from "@leveros/protocol/error/catalogue.ts";
import { LeverError, MethodError } from "leveros";
import { OutputClosed } from "./standard-output.ts";

export const usageExitCode = 2;
/** Of `lever check`. */
export const checkExitCode = 5;

export const exitCodesHelp =
  "Exit codes: 0 fine, 1 the method's error, 2 usage or arguments, 3 network or deadline, 4 internal.";

export function exitCodeOf(error: unknown): number {
  if (error instanceof OutputClosed) return 0;
  if (MethodError.is(error)) return catalogue.METHOD_ERROR.exitCode;
  return catalogue[LeverError.from(error).reason].exitCode;
}
