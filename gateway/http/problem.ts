/** Errors as HTTP says them: problem details (RFC 9457) with kind, code, reason and effect. */

import { STATUS_CODES } from "node:http";
import { catalogue } from "@leveros/protocol/error/catalogue.ts";
import type { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";

/** Where `docs/errors.md` is published; the fragment is the reason. */
const problemType = "https://leveros.dev/errors#";

export const problemContentType = "application/problem+json";

export function statusOf(error: LeverError | MethodError): number {
  return catalogue[error.reason].httpStatus;
}

/** The members that programs read, as headers. */
export function problemHeaders({ kind, code, reason, effect }: LeverError | MethodError): Record<string, string> {
  return { "lever-kind": kind, "lever-code": code, "lever-reason": reason, "lever-effect": effect };
}

/** `print` makes JSON of the value of a method's error. */
export function problemDocument(
  error: LeverError | MethodError,
  print: (value: unknown) => unknown = (value) => value,
): Record<string, unknown> {
  const { kind, code, reason, effect } = error;
  const { meaning } = catalogue[reason];
  const document = {
    type: `${problemType}${reason.toLowerCase()}`,
    title: meaning,
    status: statusOf(error),
    detail: detailOf(error),
    kind,
    code,
    reason,
    effect,
  };
  if (MethodError.is(error)) return { ...document, value: print(error.value) };
  return error.details === undefined ? document : { ...document, details: error.details };
}

/** What happened and what to do, in whole sentences. */
function detailOf(error: LeverError | MethodError): string {
  if (MethodError.is(error)) return error.message;
  const text = error.rawMessage.trimEnd();
  const sentence = text === "" || /[.!?…]$/.test(text) ? text : `${text}.`;
  return `${sentence} ${catalogue[error.reason].remedy}`.trimStart();
}

/** A whole response for a connection on which Node has made none. It ends the connection. */
export function rawProblem(error: LeverError): string {
  const status = statusOf(error);
  const body = JSON.stringify(problemDocument(error));
  const headers = {
    ...problemHeaders(error),
    "content-type": problemContentType,
    "content-length": String(Buffer.byteLength(body)),
    connection: "close",
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? "Error"}\r\n${lines.join("")}\r\n${body}`;
}
