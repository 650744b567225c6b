/**
 * Cross-origin requests (the Fetch standard's CORS protocol). It tells browsers which pages may read answers; it keeps
 * nobody out. Credentials are never allowed: a call's identity travels in headers that a page sets itself.
 */

import type { IncomingHttpHeaders } from "node:http";

const exposed = "lever-kind, lever-code, lever-reason, lever-effect, traceparent";
const preflightSeconds = "600";

/** Headers of any answer. `origins`: those that may read answers; `*` is any. */
export function corsHeaders(origin: string | undefined, origins: readonly string[]): Record<string, string> {
  const isAny = origins.includes("*");
  // Without this a cache would give one origin's answer to another.
  const headers: Record<string, string> = isAny || origins.length === 0 ? {} : { vary: "origin" };
  if (origin === undefined || !(isAny || origins.includes(origin))) return headers;
  headers["access-control-allow-origin"] = isAny ? "*" : origin;
  headers["access-control-expose-headers"] = exposed;
  return headers;
}

/** What a preflight asks for, besides: any header that the page wants to send, since metadata has any name. */
export function preflightHeaders(headers: IncomingHttpHeaders): Record<string, string> {
  const wanted = headers["access-control-request-headers"];
  return {
    "access-control-allow-methods": "POST",
    "access-control-max-age": preflightSeconds,
    ...(typeof wanted === "string" ? { "access-control-allow-headers": wanted } : {}),
  };
}
