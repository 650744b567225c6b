/**
 * What went wrong with a request to the API server: one class, found by status and reason, never by text.
 *
 * Reasons are those of the API server's `Status` objects (`Conflict`, `NotFound`, `AlreadyExists`, `Expired`,
 * `TooManyRequests` …). Where there was no answer the status is 0 and the reason one of `KubeFailure`.
 */

/** Why there was no answer, or none that can be used. */
export type KubeFailure =
  /** The connection could not be made, or broke. */
  | "ConnectionFailed"
  /** No answer in the time that it had. */
  | "TimedOut"
  /** Whoever asked does not want to know any more. */
  | "Aborted"
  /** A watch was not ended by the server when its time was over. */
  | "Silent"
  /** What came is not what the API server sends. */
  | "Malformed"
  /** More came than is taken. */
  | "TooLarge";

/** What the answer itself says: the server leaves out either at times. */
export interface Said {
  readonly reason: string | undefined;
  readonly message: string;
}

export interface KubeErrorOptions {
  /** HTTP status; 0: no answer that can be used. */
  readonly status: number;
  readonly reason: string;
  readonly message: string;
  /** The server asks not to be asked again any sooner. */
  readonly retryAfterMs?: number | undefined;
  /** The `Status` object's. */
  readonly details?: unknown;
  readonly said?: Said | undefined;
  readonly cause?: unknown;
}

/** A `Status` object, as far as it is read. */
interface Status {
  readonly kind?: unknown;
  readonly code?: unknown;
  readonly reason?: unknown;
  readonly message?: unknown;
  readonly details?: { readonly retryAfterSeconds?: unknown } | null;
}

/** For answers without a `Status` object, from a proxy. */
const reasonOfStatus: Readonly<Record<number, string>> = {
  400: "BadRequest",
  401: "Unauthorized",
  403: "Forbidden",
  404: "NotFound",
  405: "MethodNotAllowed",
  406: "NotAcceptable",
  409: "Conflict",
  410: "Gone",
  413: "RequestEntityTooLarge",
  415: "UnsupportedMediaType",
  422: "Invalid",
  429: "TooManyRequests",
  500: "InternalError",
  503: "ServiceUnavailable",
  504: "Timeout",
};

/** Nobody is waited for any longer than this because of what a header says. */
const retryAfterMsMax = 60_000;
const messageCharsMax = 2000;

export class KubeError extends Error {
  readonly status: number;
  readonly reason: string;
  readonly retryAfterMs: number | undefined;
  readonly details: unknown;
  /** Undefined: there was no answer, or none of the API server's. */
  readonly said: Said | undefined;

  constructor({ status, reason, message, retryAfterMs, details, said, cause }: KubeErrorOptions) {
    super(`${message} (${status === 0 ? "" : `${status} `}${reason})`, cause === undefined ? undefined : { cause });
    this.name = "KubeError";
    this.status = status;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
    this.details = details;
    this.said = said;
  }

  static is(error: unknown): error is KubeError {
    return error instanceof KubeError;
  }

  /** There was no answer that can be used. `what` is the request, for people. */
  static failure(reason: KubeFailure, what: string, message: string, cause?: unknown): KubeError {
    return new KubeError({ status: 0, reason, message: `${what}: ${message}`, cause });
  }

  /** From a `Status` object, or from what was sent in its place. `retryAfter` is the header, seconds. */
  static fromStatus(what: string, status: number, body: unknown, retryAfter?: string): KubeError {
    const read: Status = typeof body === "object" && body !== null ? body : {};
    const found = read.kind === "Status" ? read : {};
    const code = typeof found.code === "number" && found.code >= 400 ? found.code : status;
    const ownReason = typeof found.reason === "string" && found.reason !== "" ? found.reason : undefined;
    const reason = ownReason ?? reasonOfStatus[code];
    const text = typeof found.message === "string" ? found.message : "the answer says nothing further";
    const seconds = found.details?.retryAfterSeconds ?? (retryAfter === undefined ? undefined : Number(retryAfter));
    const retryAfterMs = typeof seconds === "number" && seconds >= 0 ? seconds * 1000 : undefined;
    return new KubeError({
      status: code,
      reason: reason ?? "Unknown",
      message: `${what}: ${text.slice(0, messageCharsMax)}`,
      retryAfterMs: retryAfterMs === undefined ? undefined : Math.min(retryAfterMs, retryAfterMsMax),
      details: found.details,
      said: typeof found.message === "string" ? { reason: ownReason, message: found.message } : undefined,
    });
  }

  get isNotFound(): boolean {
    return this.status === 404;
  }

  /** Of a replace: another version is there. Of a create: there is one already. Nothing was written. */
  get isConflict(): boolean {
    return this.status === 409;
  }

  /** The server does not remember so old a version, or its continue token. */
  get isExpired(): boolean {
    return this.status === 410;
  }

  /** A write may have been done, or may be yet. */
  get isUnknown(): boolean {
    return this.status === 0 || this.status === 408 || this.status >= 500;
  }

  /** Asking once more, later, may go better. */
  get isTransient(): boolean {
    return this.isUnknown || this.status === 429;
  }
}
