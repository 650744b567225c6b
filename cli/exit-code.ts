/** Exit codes of `lever`: 0 fine, 1 the method's error, 2 usage or arguments, 3 network or deadline, 4 internal. */

import { catalogue } from "@leveros/protocol/error/catalogue.ts";
import { LeverError, MethodError } from "leveros";

export const usageExitCode = 2;

export function exitCodeOf(error: unknown): number {
  if (MethodError.is(error)) return catalogue.METHOD_ERROR.exitCode;
  return catalogue[LeverError.from(error).reason].exitCode;
}
