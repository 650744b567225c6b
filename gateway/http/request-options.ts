/** What a request's headers say of its call: time, token, trace context, metadata. */

import { randomBytes } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { encodeFields, type RoutingFields, tokenBytesMax } from "@leveros/protocol/session/routing-header.ts";
import { textOfLatin1 } from "./byte-text.ts";

export interface RequestOptions {
  /** 0: the service's own. */
  readonly timeoutMs: number;
  readonly fields: Uint8Array;
}

const timeoutMsMax = 3_600_000;
const tracestateCharsMax = 512;
const metadataPrefix = "lever-meta-";

/**
 * The trace that a request belongs to, as version 00 of W3C Trace Context; without a valid one a new trace, not sampled.
 * A valid one is passed on as it is: the gateway records no span, so that an id of its own would be a parent that
 * nobody ever sees. Of a later version only the part that version 00 has is understood, and passed on.
 */
export function traceparentOf(header: string | undefined): { readonly traceparent: string; readonly isNew: boolean } {
  const match = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(header ?? "");
  const [, version, trace, parent, flags, more] = match ?? [];
  const isValid =
    match !== null &&
    version !== "ff" &&
    !(version === "00" && more !== undefined) &&
    !/^0+$/.test(trace as string) &&
    !/^0+$/.test(parent as string);
  if (!isValid) {
    return { traceparent: `00-${randomBytes(16).toString("hex")}-${randomBytes(8).toString("hex")}-00`, isNew: true };
  }
  const known = version === "00" ? flags : (Number.parseInt(flags as string, 16) & 1).toString().padStart(2, "0");
  return { traceparent: `00-${trace}-${parent}-${known}`, isNew: false };
}

/** Throws INVALID_OPTION, naming the header, or HEADER_TOO_LARGE. */
export function requestOptions(
  request: IncomingMessage,
  resource: string | undefined,
  trace: { readonly traceparent: string; readonly isNew: boolean },
): RequestOptions {
  const { headers } = request;
  const fields: RoutingFields = { traceparent: trace.traceparent };
  if (resource !== undefined) fields.resource = resource;
  const token = single(request, "Idempotency-Key");
  if (token !== undefined) {
    const bytes = Buffer.byteLength(token);
    if (bytes < 1 || bytes > tokenBytesMax) {
      throw new LeverError("INVALID_OPTION", `Idempotency-Key has ${bytes} bytes, expected 1 to ${tokenBytesMax}`);
    }
    fields.token = token;
  }
  // Without the traceparent that it belongs to it has no meaning.
  const tracestate = trace.isNew ? undefined : headers.tracestate;
  if (typeof tracestate === "string" && tracestate !== "" && tracestate.length <= tracestateCharsMax) {
    fields.tracestate = tracestate;
  }
  const metadata = metadataOf(request);
  if (metadata !== undefined) fields.metadata = metadata;
  return { timeoutMs: timeoutOf(single(request, "Lever-Timeout-Ms")), fields: encodeFields(fields) };
}

function metadataOf({ headers }: IncomingMessage): Record<string, string> | undefined {
  const entries: [string, string][] = [];
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith(metadataPrefix) || name.length === metadataPrefix.length || value === undefined) continue;
    const text = Array.isArray(value) ? value.join(", ") : value;
    entries.push([name.slice(metadataPrefix.length), utf8(name, text)]);
  }
  return entries.length === 0 ? undefined : Object.fromEntries(entries);
}

function timeoutOf(text: string | undefined): number {
  if (text === undefined) return 0;
  const value = Number(text);
  if (/^[0-9]{1,7}$/.test(text) && value >= 1 && value <= timeoutMsMax) return value;
  throw new LeverError(
    "INVALID_OPTION",
    `Lever-Timeout-Ms is ${JSON.stringify(text.slice(0, 100))}, expected a whole number of milliseconds from 1 to ${timeoutMsMax}`,
  );
}

/** A header that may be there once. */
function single(request: IncomingMessage, name: string): string | undefined {
  const values = request.headersDistinct[name.toLowerCase()];
  if (values === undefined) return undefined;
  if (values.length > 1) {
    throw new LeverError("INVALID_OPTION", `${name} is there ${values.length} times, expected it once`);
  }
  return utf8(name, values[0] as string);
}

function utf8(name: string, value: string): string {
  const text = textOfLatin1(value);
  if (text === undefined) throw new LeverError("INVALID_OPTION", `${name} has bytes that are not UTF-8`);
  return text;
}
