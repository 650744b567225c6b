/** The options of one call, checked, and within those of the method that makes it. */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { type RoutingFields, tokenBytesMax } from "@leveros/protocol/session/routing-header.ts";
import { type HookContext, type InvocationContext, isRunning } from "./context.ts";
import { mintedAtMs } from "./token.ts";

export interface CallOptions {
  /** Time for the whole call, or for the opening of a channel, ms, 1 to 3,600,000. The service's own default otherwise. */
  readonly timeoutMs?: number;
  /** Cancels the call, or the channel, also after it was opened. */
  readonly signal?: AbortSignal;
  /**
   * Idempotency token, 1 to 128 bytes, for a call that may be repeated: while the instance remembers the token (10
   * minutes), a repeat gets the first outcome and the method does not run again. The method sees it in
   * `context().token`. `mintToken` makes one.
   */
  readonly token?: string;
  /** Strings for the method's `context().metadata`; at most 16 KiB together with the rest of the routing header. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Of channels to a resource: opened again when the resource moves, or its instance or the way to it is lost. */
  readonly resume?: boolean;
  /** How long that is tried, ms, 1 to 3,600,000; 60,000 unless given. */
  readonly resumeTimeoutMs?: number;
}

export const resumeTimeoutMsDefault = 60_000;

export const timeoutMsMax = 3_600_000;
const encoder = new TextEncoder();

/** Throws INVALID_OPTION. */
export function checkOptions(options: CallOptions): void {
  const { timeoutMs, signal, token, metadata, resume, resumeTimeoutMs } = options;
  if (timeoutMs !== undefined && !(typeof timeoutMs === "number" && timeoutMs >= 1 && timeoutMs <= timeoutMsMax)) {
    throw invalid("timeoutMs", timeoutMs, `a number from 1 to ${timeoutMsMax}`);
  }
  if (resume !== undefined && typeof resume !== "boolean") throw invalid("resume", resume, "true or false");
  if (
    resumeTimeoutMs !== undefined &&
    !(typeof resumeTimeoutMs === "number" && resumeTimeoutMs >= 1 && resumeTimeoutMs <= timeoutMsMax)
  ) {
    throw invalid("resumeTimeoutMs", resumeTimeoutMs, `a number from 1 to ${timeoutMsMax}`);
  }
  if (signal !== undefined && !isSignal(signal)) throw invalid("signal", signal, "an AbortSignal");
  if (token !== undefined && !(typeof token === "string" && isTokenLength(token))) {
    throw invalid("token", token, `text of 1 to ${tokenBytesMax} bytes`);
  }
  if (metadata === undefined) return;
  if (typeof metadata !== "object" || metadata === null) throw invalid("metadata", metadata, "an object of strings");
  for (const [name, value] of Object.entries(metadata)) {
    if (typeof value !== "string") throw invalid(`metadata.${name}`, value, "text");
  }
}

/** By what is used of it: test environments and browsers' frames have AbortSignals of their own. */
function isSignal(signal: unknown): boolean {
  if (typeof signal !== "object" || signal === null) return false;
  const { aborted, addEventListener } = signal as Partial<AbortSignal>;
  return typeof aborted === "boolean" && typeof addEventListener === "function";
}

function isTokenLength(token: string): boolean {
  return token.length > 0 && token.length <= tokenBytesMax && encoder.encode(token).length <= tokenBytesMax;
}

function invalid(field: string, found: unknown, expected: string): LeverError {
  const shown =
    typeof found === "number"
      ? String(found)
      : typeof found === "string"
        ? `text of ${found.length} characters`
        : found === null
          ? "null"
          : `a ${typeof found}`;
  return new LeverError("INVALID_OPTION", `${field} is ${shown}, expected ${expected}`, {
    effect: "none",
    details: { field },
  });
}

/** The context of the method that makes a call, as long as it runs; afterwards only its trace is passed on. */
export interface Inherited {
  /** 0: no limit. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal | undefined;
}

const nothingInherited: Inherited = { timeoutMs: 0, signal: undefined };

/** Throws DEADLINE_EXCEEDED if no time is left. */
export function inherited(parent: InvocationContext | HookContext | undefined): Inherited {
  if (parent === undefined || !isRunning(parent)) return nothingInherited;
  const left = parent.timeLeftMs;
  if (left === undefined) return { timeoutMs: 0, signal: parent.signal };
  if (left > 0) return { timeoutMs: Math.ceil(left), signal: parent.signal };
  throw new LeverError("DEADLINE_EXCEEDED", "the deadline of the calling method has passed", { effect: "none" });
}

/** The shorter of two timeouts, whole milliseconds; 0 is none. */
export function shorterTimeout(own: number | undefined, ceiling: number): number {
  if (own === undefined) return ceiling;
  const whole = Math.ceil(own);
  return ceiling === 0 ? whole : Math.min(whole, ceiling);
}

/** The fields of the routing header but `parent`. */
export function routingFields(
  resource: string | undefined,
  options: CallOptions,
  context: InvocationContext | HookContext | undefined,
  cursor: string | undefined,
  wallNow: () => number,
): RoutingFields {
  const { token, metadata } = options;
  const traceparent = context?.traceparent;
  const fields: RoutingFields = {};
  if (resource !== undefined) fields.resource = resource;
  if (token !== undefined) {
    fields.token = token;
    fields.tokenTime = mintedAtMs(token) ?? Math.max(Math.floor(wallNow()), 0);
  }
  if (cursor !== undefined) fields.cursor = cursor;
  if (metadata !== undefined && Object.keys(metadata).length > 0) fields.metadata = metadata;
  if (traceparent !== undefined) fields.traceparent = traceparent;
  const tracestate = context?.tracestate;
  if (traceparent !== undefined && tracestate !== undefined) fields.tracestate = tracestate;
  return fields;
}
