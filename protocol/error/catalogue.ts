/**
 * The one catalogue of what can go wrong: reason → kind, code, HTTP status, exit code, the effect when nothing more is
 * known, and what to do. `docs/errors.md` is generated from it, and tests walk every row.
 *
 * A reason is a stable word that programs match on; its text may change. Nothing here is ever matched by message.
 */

/** Who has to act: the caller's arguments, the method itself, the network between, or Lever. */
export type ErrorKind = "arguments" | "method" | "network" | "internal";

/**
 * Whether the method may have run, over all attempts of the call:
 * `none` it did not run in any attempt; `unknown` it may have run; `ran` it was entered.
 */
export type Effect = "none" | "unknown" | "ran";

/** The gRPC status names. */
export type ErrorCode =
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "UNAUTHENTICATED";

export interface CatalogueRow {
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly httpStatus: number;
  /** Exit code of the `lever` command: 1 method, 2 usage or arguments, 3 network or deadline, 4 internal. */
  readonly exitCode: 1 | 2 | 3 | 4;
  /** The effect when whoever raises the error knows no better. */
  readonly effect: Effect;
  /** When it is raised. */
  readonly meaning: string;
  /** What the reader can do about it. */
  readonly remedy: string;
}

function row(
  kind: ErrorKind,
  code: ErrorCode,
  httpStatus: number,
  effect: Effect,
  meaning: string,
  remedy: string,
): CatalogueRow {
  const exitCode = kind === "method" ? 1 : kind === "arguments" ? 2 : kind === "network" ? 3 : 4;
  return { kind, code, httpStatus, exitCode, effect, meaning, remedy };
}

// biome-ignore format: a table, laid out by hand so that rows compare.
export const catalogue = {
  // The caller's arguments: the same call fails the same way again.
  INVALID_ARGUMENTS: row(
    "arguments", "INVALID_ARGUMENT", 400, "none",
    "The arguments do not fit the method's schema, or are not a JSON array.",
    "Correct the arguments that the message names.",
  ),
  ARGS_FORM: row(
    "arguments", "INVALID_ARGUMENT", 400, "none",
    "Arguments came in the wrong form: bytes where the method wants values, the reverse, or a mix of both.",
    "Send either an array of JSON values or one chunk of bytes, as the method expects.",
  ),
  ARGS_TOO_LARGE: row(
    "arguments", "RESOURCE_EXHAUSTED", 413, "none",
    "The encoded arguments are larger than the limit (1 MiB unless set; half of that at the gateway's HTTP door).",
    "Send large data over a channel (a method whose name ends in Chan), which has no total limit.",
  ),
  VALUE_NOT_ENCODABLE: row(
    "arguments", "INVALID_ARGUMENT", 400, "none",
    "A value has no JSON form: undefined, NaN, an infinity, a bigint, a Date, a Map, a function, an instance of a class without toJSON, bytes inside a value, text with a lone surrogate, or nesting deeper than 64.",
    "Convert the value at the path that the message names.",
  ),
  INVALID_VALUE_ENCODING: row(
    "arguments", "INVALID_ARGUMENT", 400, "none",
    "Received bytes are not a valid encoded value.",
    "Encode as docs/protocol.md says: MessagePack of JSON types, string keys, no extensions, depth at most 64.",
  ),
  INVALID_URL: row(
    "arguments", "INVALID_ARGUMENT", 400, "none",
    "A Lever URL cannot be parsed, or has a port where none is allowed.",
    "Write lever://<environment>/<service>[/<resource>]/<method>, the resource percent-encoded.",
  ),
  INVALID_OPTION: row(
    "arguments", "INVALID_ARGUMENT", 400, "none",
    "An option of a call, a client or a server is out of its range.",
    "Use a value in the range that the message gives.",
  ),
  METHOD_KIND_MISMATCH: row(
    "arguments", "FAILED_PRECONDITION", 400, "none",
    "A streaming method was invoked, or a channel was opened to a method that does not stream.",
    "Open a channel to methods whose names end in Chan, _chan or chan; invoke all others.",
  ),
  METHOD_NOT_FOUND: row(
    "arguments", "UNIMPLEMENTED", 404, "none",
    "The service has no such method, or it may not be called from outside (a leading _, constructor, then, toJSON, with).",
    "Check the name, which is case-sensitive, against the methods that the message lists.",
  ),
  SERVICE_NOT_FOUND: row(
    "arguments", "NOT_FOUND", 404, "none",
    "The environment has no such service, or none that can be called from where the call came.",
    "Check the name and the environment against the services' manifests; from outside, what spec.access.gateway exposes.",
  ),
  PERMISSION_DENIED: row(
    "arguments", "PERMISSION_DENIED", 403, "none",
    "The service is of another environment, and its LeverService does not name the caller; or the user's rights in the cluster do not go as far as the command.",
    "Have the service's owner add the caller to spec.access.callers, or call what the own environment has; or be granted the right that the message names.",
  ),
  NO_RESOURCES: row(
    "arguments", "FAILED_PRECONDITION", 400, "none",
    "The call names a resource, but the service holds none.",
    "Leave the resource out of the URL.",
  ),
  HEADER_TOO_LARGE: row(
    "arguments", "RESOURCE_EXHAUSTED", 431, "none",
    "The routing header (resource, token, trace context, metadata) is larger than 16 KiB.",
    "Send less metadata; put data into the arguments.",
  ),
  BODY_INVALID: row(
    "arguments", "INVALID_ARGUMENT", 400, "none",
    "An HTTP body is not what its content-type says.",
    "Send a JSON array as application/json or one chunk of bytes as application/octet-stream.",
  ),
  CONTENT_TYPE_UNSUPPORTED: row(
    "arguments", "INVALID_ARGUMENT", 415, "none",
    "The HTTP content-type is none that the gateway takes.",
    "Use application/json, application/octet-stream or, for channels, application/x-ndjson.",
  ),
  HTTP_METHOD_NOT_ALLOWED: row(
    "arguments", "UNIMPLEMENTED", 405, "none",
    "Methods are called with POST.",
    "Send a POST with the arguments as a JSON array in the body.",
  ),
  HTTP_PATH_INVALID: row(
    "arguments", "NOT_FOUND", 404, "none",
    "The HTTP path names no method.",
    "Use /<service>[/<resource>]/<method>, the resource percent-encoded.",
  ),
  HTTP_REQUEST_INVALID: row(
    "arguments", "INVALID_ARGUMENT", 400, "none",
    "A request is not valid HTTP/1.1.",
    "Send what RFC 9112 describes; any HTTP library does.",
  ),

  UNAUTHENTICATED: row(
    "arguments", "UNAUTHENTICATED", 401, "none",
    "A token or a certificate does not prove who its bearer is: it has ended, is of another issuer or for somebody else.",
    "Mount a projected service account token with the operator's audience, and compare the clocks.",
  ),
  IDENTITY_DENIED: row(
    "arguments", "PERMISSION_DENIED", 403, "none",
    "It is proven who asks, and it is none that may: no instance of a service and no gateway, or not who it says it is.",
    "Certificates are for pods with Lever's agent and for the gateway's service account: see docs/identity.md.",
  ),

  // The method's own.
  METHOD_ERROR: row(
    "method", "UNKNOWN", 422, "ran",
    "The method threw a MethodError; its value is the answer.",
    "Read the error's value: it is the method's own.",
  ),
  METHOD_THREW: row(
    "method", "INTERNAL", 500, "ran",
    "The method threw something other than a MethodError. Its text is shown in `lever dev` only.",
    "Look into the instance's log with the trace id; throw MethodError for what callers should see.",
  ),
  RESULT_NOT_ENCODABLE: row(
    "method", "INTERNAL", 500, "ran",
    "The method returned, threw or sent a value that has no JSON form.",
    "Return JSON values or one Uint8Array.",
  ),
  RESULT_TOO_LARGE: row(
    "method", "RESOURCE_EXHAUSTED", 500, "ran",
    "The encoded result is larger than the limit (1 MiB unless set).",
    "Stream large results over a channel (a method whose name ends in Chan).",
  ),
  MESSAGE_TOO_LARGE: row(
    "method", "RESOURCE_EXHAUSTED", 413, "ran",
    "A channel message is larger than the limit (16 MiB unless set).",
    "Split the data into several messages.",
  ),

  // The network, and the time that it takes.
  DEADLINE_EXCEEDED: row(
    "network", "DEADLINE_EXCEEDED", 504, "unknown",
    "The call's time was over before an answer came.",
    "Give the call more time (timeoutMs), or look for what is slow.",
  ),
  HTTP_REQUEST_TIMEOUT: row(
    "network", "DEADLINE_EXCEEDED", 408, "none",
    "An HTTP request did not arrive in time: 10 s for its headers, 60 s for its body.",
    "Repeat it; send large data over a channel of a client library.",
  ),
  CANCELLED: row(
    "network", "CANCELLED", 499, "unknown",
    "The caller cancelled the call or the channel.",
    "Nothing: it was asked for.",
  ),
  CONNECTION_LOST: row(
    "network", "UNAVAILABLE", 502, "unknown",
    "A connection on the path broke, or its peer fell silent.",
    "Repeat when effect is none or the method is idempotent; open a channel again.",
  ),
  NO_INSTANCES: row(
    "network", "UNAVAILABLE", 503, "none",
    "The service has no instance that can take calls now.",
    "Repeat later; the log of the service's instances says why none serves.",
  ),
  INSTANCE_UNREACHABLE: row(
    "network", "UNAVAILABLE", 503, "none",
    "No connection to any chosen instance could be made.",
    "Repeat later; check the network between the agents.",
  ),
  AGENT_UNREACHABLE: row(
    "network", "UNAVAILABLE", 503, "none",
    "The client cannot reach its agent or gateway.",
    "Check LEVER_AGENT or the gateway option; locally, start `lever dev`.",
  ),
  DISCOVERY_UNAVAILABLE: row(
    "network", "UNAVAILABLE", 503, "none",
    "The agent has no table of the service's instances, and the operator does not answer.",
    "Repeat later; check the operator.",
  ),
  IDENTITY_UNAVAILABLE: row(
    "network", "UNAVAILABLE", 503, "none",
    "The operator cannot issue a certificate now: it does not know the pod yet, or the API server does not answer.",
    "Nothing: agents and gateways ask again.",
  ),
  NOT_LEADER: row(
    "network", "UNAVAILABLE", 503, "none",
    "This replica of the operator does not lead: it does not say who holds which resource.",
    "Nothing: agents ask the leader that the error names, or another replica.",
  ),
  DRAINING: row(
    "network", "UNAVAILABLE", 503, "none",
    "The instance is about to stop and takes no new calls.",
    "Repeat: another instance answers.",
  ),
  MOVED: row(
    "network", "UNAVAILABLE", 503, "none",
    "The resource is moving to another instance, or the instance that was asked does not hold it.",
    "Nothing for calls: the caller's agent waits for the next holder. Open a channel again.",
  ),
  RESOURCE_UNAVAILABLE: row(
    "network", "UNAVAILABLE", 503, "none",
    "It is not known which instance holds the resource, and the service is not to wait (onUncertain: Fail).",
    "Repeat later; `lever explain <url>` says why nobody holds it.",
  ),
  LEASE_LAPSED: row(
    "network", "UNAVAILABLE", 503, "unknown",
    "The instance lost the resource while it had the call: what it answers is not passed on.",
    "Repeat when effect is none or the method is idempotent, or give calls a token.",
  ),
  HOOK_REENTRY: row(
    "network", "FAILED_PRECONDITION", 409, "none",
    "A call that began in a hook of a resource would wait for that very resource, or for one that is moving.",
    "Do not call resources from constructors, hand-over and dispose hooks; use a database there.",
  ),
  HOOK_FAILED: row(
    "network", "UNAVAILABLE", 503, "none",
    "The resource could not be opened: its constructor threw, or took longer than 5 s.",
    "Look into the log of the instance.",
  ),
  TOKEN_MEMORY_LOST: row(
    "network", "UNAVAILABLE", 503, "unknown",
    "The call's token is older than what the instance remembers: it may have run before a crash.",
    "Look up the outcome where the method stores it, under the token; or repeat with a new token.",
  ),
  OVERLOADED: row(
    "network", "RESOURCE_EXHAUSTED", 503, "none",
    "A limit on calls, channels, held bytes or streams was reached.",
    "Repeat later with back-off; add instances or raise the limit.",
  ),
  APP_GONE: row(
    "network", "UNAVAILABLE", 502, "unknown",
    "The instance's app ended while the call ran.",
    "Repeat when effect is none or the method is idempotent; look into the instance's log.",
  ),
  CHANNEL_TIME_LIMIT: row(
    "network", "DEADLINE_EXCEEDED", 504, "ran",
    "A channel over HTTP reached its time limit of 60 s.",
    "Use a client library for channels that live long.",
  ),

  // Lever itself.
  PROTOCOL_VIOLATION: row(
    "internal", "INTERNAL", 502, "unknown",
    "A peer broke a rule of the protocol; its session was ended.",
    "Compare the peer's implementation with docs/protocol.md.",
  ),
  VERSION_UNSUPPORTED: row(
    "internal", "FAILED_PRECONDITION", 502, "none",
    "The two ends share no version of the protocol, or one needs a feature that the other lacks.",
    "Upgrade the older end: neighbours work one minor version apart.",
  ),
  INVALID_IDENTITY: row(
    "internal", "FAILED_PRECONDITION", 500, "none",
    "The keys and certificates of the operator, or a token's or a bundle's file, are missing or cannot be used.",
    "Repair the Secret or the file that the message names: see docs/identity.md.",
  ),
  INTERNAL: row(
    "internal", "INTERNAL", 500, "unknown",
    "Something happened in Lever that should not have.",
    "Report it with the log of the process that raised it.",
  ),
} as const satisfies Record<string, CatalogueRow>;

export type Reason = keyof typeof catalogue;

export function isReason(text: string): text is Reason {
  return Object.hasOwn(catalogue, text);
}
