/** What a request's headers say of its call: time, token, trace context, metadata. */

import { randomBytes } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { encodeFields, type RoutingFields, tokenBytesMax } from "@leveros/protocol/session/routing-header.ts";

export interface RequestOptions {
  readonly timeoutMs: number;
  readonly fields: Uint8Array;
  readonly traceparent: string;
}

const timeoutMsMax = 3_600_000;
const metadataPrefix = "lever-meta-";
/** Version 00 of W3C Trace Context; later ones begin alike. */
const traceparentPattern = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Throws INVALID_OPTION, naming the header, or HEADER_TOO_LARGE. */
export function requestOptions(headers: IncomingHttpHeaders, resource: string | undefined): RequestOptions {
  const fields: RoutingFields = {};
  if (resource !== undefined) fields.resource = resource;
  const token = single(headers["idempotency-key"]);
  if (token !== undefined) {
    if (token === "" || Buffer.byteLength(token) > tokenBytesMax) {
      throw new LeverError(
        "INVALID_OPTION",
        `Idempotency-Key has ${Buffer.byteLength(token)} bytes, expected 1 to ${tokenBytesMax}`,
      );
    }
    fields.token = token;
  }
  const given = single(headers.traceparent);
  const isValid = given !== undefined && traceparentPattern.test(given);
  // As the recommendation says, an invalid traceparent is ignored with its tracestate, and a new trace begins.
  const traceparent = isValid ? given : `00-${randomBytes(16).toString("hex")}-${randomBytes(8).toString("hex")}-00`;
  fields.traceparent = traceparent;
  const tracestate = single(headers.tracestate);
  if (isValid && tracestate !== undefined && tracestate !== "" && tracestate.length <= 512)
    fields.tracestate = tracestate;
  const metadata: Record<string, string> = Object.create(null) as Record<string, string>;
  let hasMetadata = false;
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith(metadataPrefix) || name.length === metadataPrefix.length) continue;
    metadata[name.slice(metadataPrefix.length)] = single(value) ?? "";
    hasMetadata = true;
  }
  if (hasMetadata) fields.metadata = { ...metadata };
  return { timeoutMs: timeoutOf(single(headers["lever-timeout-ms"])), fields: encodeFields(fields), traceparent };
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

function single(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value.join(", ") : value;
}
