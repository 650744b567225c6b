/**
 * The error that Lever raises. What a method throws by intent is a `MethodError` (method-error.ts).
 *
 * Both are branded with `Symbol.for`, so that two copies of the package in one program know each other's errors.
 */

import { catalogue, type Effect, type ErrorCode, type ErrorKind, type Reason } from "./catalogue.ts";

const brand = Symbol.for("leveros.dev/LeverError");

export interface LeverErrorOptions {
  /** Whether the method may have run; the catalogue's default for the reason where it is left out. */
  readonly effect?: Effect | undefined;
  readonly cause?: unknown;
  /** Facts for programs, as JSON values: the limit, the index, the field. */
  readonly details?: Readonly<Record<string, unknown>> | undefined;
}

export class LeverError extends Error {
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly reason: Reason;
  /** Whether the method may have run, over all attempts: `none`, `unknown` or `ran`. */
  readonly effect: Effect;
  readonly details: Readonly<Record<string, unknown>> | undefined;
  /** The text without the reason in front. */
  readonly rawMessage: string;

  constructor(reason: Reason, message: string, options: LeverErrorOptions = {}) {
    super(`${reason}: ${message}`, options.cause === undefined ? undefined : { cause: options.cause });
    const row = catalogue[reason];
    this.name = "LeverError";
    this.kind = row.kind;
    this.code = row.code;
    this.reason = reason;
    this.effect = options.effect ?? row.effect;
    this.details = options.details;
    this.rawMessage = message;
    Object.defineProperty(this, brand, { value: true });
  }

  /** True for a LeverError of any copy of this package. */
  static is(value: unknown): value is LeverError {
    return typeof value === "object" && value !== null && brand in value;
  }

  /** `value` itself if it is a LeverError, else an INTERNAL error with it as the cause. */
  static from(value: unknown): LeverError {
    if (LeverError.is(value)) return value;
    return new LeverError("INTERNAL", value instanceof Error ? value.message : String(value), { cause: value });
  }

  /** The same error with another effect: what several attempts together say. */
  withEffect(effect: Effect): LeverError {
    if (effect === this.effect) return this;
    return new LeverError(this.reason, this.rawMessage, { effect, cause: this.cause ?? this, details: this.details });
  }
}

/** The worse of two effects: `none` < `unknown` < `ran`. Over several attempts the worst counts. */
export function worseEffect(a: Effect, b: Effect): Effect {
  if (a === "ran" || b === "ran") return "ran";
  return a === "unknown" || b === "unknown" ? "unknown" : "none";
}
