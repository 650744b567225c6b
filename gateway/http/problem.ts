/** Errors as HTTP answers: problem details (RFC 9457) with kind, code, reason and effect. */

import type { ServerResponse } from "node:http";
import { catalogue } from "@leveros/protocol/error/catalogue.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";

/** Where `docs/errors.md` is published; the fragment is the reason. */
const problemType = "https://leveros.dev/errors#";

/** The status of an error: of a refused body the one of HTTP, else the catalogue's. */
export function statusOf(error: LeverError | MethodError): number {
  return catalogue[error.reason].httpStatus;
}

/** The members that programs read, in problem details and in an NDJSON line. */
export function errorMembers(error: LeverError | MethodError): Record<string, unknown> {
  const { kind, code, reason, effect } = error;
  if (MethodError.is(error)) {
    return error.value instanceof Uint8Array
      ? { kind, code, reason, effect, valueBytes: Buffer.from(error.value).toString("base64") }
      : { kind, code, reason, effect, value: error.value };
  }
  const { details } = error;
  return details === undefined ? { kind, code, reason, effect } : { kind, code, reason, effect, details };
}

/** What `error` is about, in words. */
export function detailOf(error: LeverError | MethodError): string {
  return MethodError.is(error) ? error.message : `${error.rawMessage} ${catalogue[error.reason].remedy}`;
}

export function sendError(response: ServerResponse, thrown: unknown): void {
  const error = MethodError.is(thrown) ? thrown : LeverError.from(thrown);
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const status = statusOf(error);
  response.statusCode = status;
  response.setHeader("lever-kind", error.kind);
  response.setHeader("lever-code", error.code);
  response.setHeader("lever-reason", error.reason);
  response.setHeader("lever-effect", error.effect);
  if (MethodError.is(error) && error.value instanceof Uint8Array) {
    response.setHeader("content-type", "application/octet-stream");
    response.end(error.value);
    return;
  }
  response.setHeader("content-type", "application/problem+json");
  response.end(
    JSON.stringify({
      type: `${problemType}${error.reason}`,
      title: catalogue[error.reason].meaning,
      status,
      detail: detailOf(error),
      ...errorMembers(error),
    }),
  );
}
