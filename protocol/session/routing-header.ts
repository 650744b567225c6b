/**
 * The routing header in front of the first fragment of an OPEN:
 *
 *   | target u16 | timeoutMs u32 | fieldsLength u16 | fields … | payload …
 *
 * A field is `key u8 | length u16 | bytes`. Keys with the high bit may be skipped by who does not know them; any other
 * unknown key refuses the call. The fixed part lies in front so that a relay patches it in place and forwards the rest.
 */

import { LeverError } from "../error/lever-error.ts";
import { decodeValue } from "../value/decode.ts";
import { encodeValue } from "../value/encode.ts";
import { headerFieldsBytesMax } from "./limits.ts";

export const routingFixedBytes = 8;
export const optionalFieldBit = 0x80;

export const FieldKey = {
  /** The target's text, where it has no number (target 0). */
  Target: 0x01,
  /** The resource's name, 1 to 1,024 bytes of UTF-8. */
  Resource: 0x02,
  /** Idempotency token, 1 to 128 bytes of UTF-8. */
  Token: 0x03,
  /** The epoch of the resource's slot as the caller's agent knows it, u48; written by agents only. 0: not known. */
  Epoch: 0x04,
  /** On an app's link only: the stream (u32) of the invocation within which the app makes this call. */
  Parent: 0x05,
  /** On an app's link only: the resource within whose hook the app makes this call. */
  Hook: 0x06,
  /** W3C `traceparent`, as text. */
  TraceParent: 0x84,
  /** W3C `tracestate`, as text. */
  TraceState: 0x85,
  /** Who calls: a MessagePack map; written by agents and gateways only. */
  Caller: 0x86,
  /** Metadata: a MessagePack map of strings. */
  Metadata: 0x87,
  /** The call was made by a method or a hook of a resource: `call-chain.ts`; written by agents only. */
  Chain: 0x88,
  /** A channel that is opened again: the cursor of the last message that its caller received, 1 to 255 bytes of UTF-8. */
  Cursor: 0x89,
  /** When the token was made, wall-clock ms, u48. */
  TokenTime: 0x8a,
} as const;

/** Who calls, as the callee's side knows it: never taken from what the calling app says. */
export interface Caller {
  readonly environment?: string;
  readonly service?: string;
  readonly instance?: string;
  /** True for a call from outside, through a gateway. */
  readonly outside?: boolean;
}

export interface RoutingFields {
  target?: string;
  resource?: string;
  token?: string;
  traceparent?: string;
  tracestate?: string;
  caller?: Caller;
  metadata?: Readonly<Record<string, string>>;
  epoch?: number;
  /** The id of a stream. */
  parent?: number;
  hook?: string;
  chain?: Uint8Array;
  cursor?: string;
  tokenTime?: number;
}

export const cursorBytesMax = 255;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
const none = new Uint8Array(0);

/** Encodes fields; undefined ones are left out. Throws HEADER_TOO_LARGE above 16 KiB. */
export function encodeFields(fields: RoutingFields): Uint8Array {
  const parts: [number, Uint8Array][] = [];
  if (fields.target !== undefined) parts.push([FieldKey.Target, encoder.encode(fields.target)]);
  if (fields.resource !== undefined) parts.push([FieldKey.Resource, encoder.encode(fields.resource)]);
  if (fields.token !== undefined) parts.push([FieldKey.Token, encoder.encode(fields.token)]);
  if (fields.traceparent !== undefined) parts.push([FieldKey.TraceParent, encoder.encode(fields.traceparent)]);
  if (fields.tracestate !== undefined) parts.push([FieldKey.TraceState, encoder.encode(fields.tracestate)]);
  if (fields.caller !== undefined) parts.push([FieldKey.Caller, encodeValue(fields.caller, "caller")]);
  if (fields.metadata !== undefined) parts.push([FieldKey.Metadata, encodeValue(fields.metadata, "metadata")]);
  if (fields.epoch !== undefined) parts.push([FieldKey.Epoch, encodeInteger(fields.epoch, 6)]);
  if (fields.parent !== undefined) parts.push([FieldKey.Parent, encodeInteger(fields.parent, 4)]);
  if (fields.hook !== undefined) parts.push([FieldKey.Hook, encoder.encode(fields.hook)]);
  if (fields.chain !== undefined) parts.push([FieldKey.Chain, fields.chain]);
  if (fields.cursor !== undefined) parts.push([FieldKey.Cursor, encoder.encode(fields.cursor)]);
  if (fields.tokenTime !== undefined) parts.push([FieldKey.TokenTime, encodeInteger(fields.tokenTime, 6)]);
  if (parts.length === 0) return none;
  let length = 0;
  for (const [, bytes] of parts) length += 3 + bytes.length;
  if (length > headerFieldsBytesMax) throw tooLarge(length);
  const out = new Uint8Array(length);
  let at = 0;
  for (const [key, bytes] of parts) {
    out[at] = key;
    out[at + 1] = bytes.length >>> 8;
    out[at + 2] = bytes.length;
    out.set(bytes, at + 3);
    at += 3 + bytes.length;
  }
  return out;
}

/** Decodes and checks fields. Throws PROTOCOL_VIOLATION, or VERSION_UNSUPPORTED at an unknown critical field. */
export function decodeFields(bytes: Uint8Array): RoutingFields {
  const fields: RoutingFields = {};
  let at = 0;
  const seen = new Set<number>();
  while (at < bytes.length) {
    const key = bytes[at] as number;
    const length = ((bytes[at + 1] ?? 0) << 8) | (bytes[at + 2] ?? 0);
    const from = at + 3;
    const to = from + length;
    if (from > bytes.length || to > bytes.length) {
      throw violation(
        `field 0x${key.toString(16)} claims ${length} bytes, ${Math.max(bytes.length - from, 0)} are there`,
      );
    }
    if (seen.has(key)) throw violation(`field 0x${key.toString(16)} is there twice`);
    seen.add(key);
    const value = bytes.subarray(from, to);
    at = to;
    switch (key) {
      case FieldKey.Target:
        fields.target = text(value, "target");
        break;
      case FieldKey.Resource:
        fields.resource = text(value, "resource", resourceBytesMax);
        break;
      case FieldKey.Token:
        fields.token = text(value, "token", tokenBytesMax);
        break;
      case FieldKey.TraceParent:
        fields.traceparent = text(value, "traceparent");
        break;
      case FieldKey.TraceState:
        fields.tracestate = text(value, "tracestate");
        break;
      case FieldKey.Caller:
        fields.caller = callerOf(map(value, "caller"));
        break;
      case FieldKey.Metadata: {
        const metadata = map(value, "metadata");
        for (const [name, entry] of Object.entries(metadata)) {
          if (typeof entry !== "string") throw violation(`metadata ${JSON.stringify(name)} is no string`);
        }
        fields.metadata = metadata as Record<string, string>;
        break;
      }
      case FieldKey.Epoch:
        fields.epoch = integer(value, 6, "epoch");
        break;
      case FieldKey.Parent:
        fields.parent = integer(value, 4, "parent");
        break;
      case FieldKey.Hook:
        fields.hook = text(value, "hook", resourceBytesMax);
        break;
      case FieldKey.Chain:
        fields.chain = value;
        break;
      case FieldKey.Cursor:
        fields.cursor = text(value, "cursor", cursorBytesMax);
        break;
      case FieldKey.TokenTime:
        fields.tokenTime = integer(value, 6, "tokenTime");
        break;
      default:
        if ((key & optionalFieldBit) === 0) throw unknownField(key);
    }
  }
  return fields;
}

/** What a relay has to know of the fields in an OPEN frame. Bytes are views of the frame. */
export interface ScannedFields {
  /** UTF-8, 1 to 1,024 bytes: that it is, is checked by who decodes it. */
  readonly resource: Uint8Array | undefined;
  readonly hasToken: boolean;
  readonly epoch: number | undefined;
  readonly parent: number | undefined;
  readonly hook: Uint8Array | undefined;
  readonly chain: Uint8Array | undefined;
}

/**
 * What a relay has to know of the fields in an OPEN frame, without decoding the others. Throws PROTOCOL_VIOLATION, or
 * VERSION_UNSUPPORTED at an unknown critical field.
 */
export function scanFields(frame: Uint8Array, from: number, to: number): ScannedFields {
  let at = from;
  let resource: Uint8Array | undefined;
  let hasToken = false;
  let epoch: number | undefined;
  let parent: number | undefined;
  let hook: Uint8Array | undefined;
  let chain: Uint8Array | undefined;
  while (at < to) {
    const key = frame[at] as number;
    const next = at + 3 + (((frame[at + 1] ?? 0) << 8) | (frame[at + 2] ?? 0));
    if (next > to) throw violation(`field 0x${key.toString(16)} is longer than the header`);
    switch (key) {
      case FieldKey.Resource:
        resource = resourceField(frame, at, next, "resource");
        break;
      case FieldKey.Hook:
        hook = resourceField(frame, at, next, "hook");
        break;
      case FieldKey.Token:
        hasToken = true;
        break;
      case FieldKey.Epoch:
        epoch = integer(frame.subarray(at + 3, next), 6, "epoch");
        break;
      case FieldKey.Parent:
        parent = integer(frame.subarray(at + 3, next), 4, "parent");
        break;
      case FieldKey.Chain:
        chain = frame.subarray(at + 3, next);
        break;
      default:
        if ((key & optionalFieldBit) === 0 && key !== FieldKey.Target) throw unknownField(key);
    }
    at = next;
  }
  return { resource, hasToken, epoch, parent, hook, chain };
}

/**
 * Has the token of an OPEN frame, written over in place, be `byMs` older. A frame whose token has no time stays as it
 * is. The fields must have been scanned before.
 */
export function makeTokenOlder(frame: Uint8Array, byMs: number): void {
  const fieldsEnd = fieldsEndOf(frame);
  for (let at = routingFixedBytes; at < fieldsEnd; ) {
    const next = at + 3 + (((frame[at + 1] as number) << 8) | (frame[at + 2] as number));
    if (frame[at] === FieldKey.TokenTime && next === at + 9) {
      const timeMs = integer(frame.subarray(at + 3, next), 6, "tokenTime");
      frame.set(integerField(FieldKey.TokenTime, Math.max(timeMs - byMs, 0), 6), at);
    }
    at = next;
  }
}

/** Of an OPEN frame. */
function fieldsEndOf(frame: Uint8Array): number {
  return routingFixedBytes + (((frame[6] as number) << 8) | (frame[7] as number));
}

function resourceField(frame: Uint8Array, at: number, next: number, name: string): Uint8Array {
  const bytes = frame.subarray(at + 3, next);
  if (bytes.length > 0 && bytes.length <= resourceBytesMax) return bytes;
  throw violation(`the field ${name} has ${bytes.length} bytes, expected 1 to ${resourceBytesMax}`);
}

/**
 * An OPEN frame (fixed part, fields, fragment) with `field`, of this key, as its first field, in place of those of the
 * same key; without them if `field` is empty. Throws HEADER_TOO_LARGE above 16 KiB of fields.
 */
export function withField(frame: Uint8Array, key: number, field: Uint8Array): Uint8Array {
  return withFields(frame, [key], field);
}

/** As `withField`: `fields`, encoded, come first, and those that have one of `keys` are left out. */
export function withFields(frame: Uint8Array, keys: readonly number[], fields: Uint8Array): Uint8Array {
  const fieldsEnd = fieldsEndOf(frame);
  const kept: Uint8Array[] = [];
  let length = fields.length;
  for (let at = routingFixedBytes; at < fieldsEnd; ) {
    const next = at + 3 + (((frame[at + 1] as number) << 8) | (frame[at + 2] as number));
    if (!keys.includes(frame[at] as number)) {
      kept.push(frame.subarray(at, next));
      length += next - at;
    }
    at = next;
  }
  if (length > headerFieldsBytesMax) throw tooLarge(length);
  const out = new Uint8Array(routingFixedBytes + length + frame.length - fieldsEnd);
  out.set(frame.subarray(0, routingFixedBytes - 2));
  out[6] = length >>> 8;
  out[7] = length;
  let at = routingFixedBytes;
  out.set(fields, at);
  at += fields.length;
  for (const bytes of kept) {
    out.set(bytes, at);
    at += bytes.length;
  }
  out.set(frame.subarray(fieldsEnd), at);
  return out;
}

function unknownField(key: number): LeverError {
  return new LeverError(
    "VERSION_UNSUPPORTED",
    `the call has a field 0x${key.toString(16)} that this end does not know and may not skip; upgrade it`,
    { effect: "none" },
  );
}

function tooLarge(length: number): LeverError {
  return new LeverError(
    "HEADER_TOO_LARGE",
    `the routing header takes ${length} bytes (resource, token, trace context and metadata together), ` +
      `at most ${headerFieldsBytesMax} are allowed; send less metadata`,
    { effect: "none" },
  );
}

export const tokenBytesMax = 128;
export const resourceBytesMax = 1024;

/** A field that holds a whole number, as `withField` takes it. */
export function integerField(key: number, value: number, bytes: 4 | 6): Uint8Array {
  const field = new Uint8Array(3 + bytes);
  field[0] = key;
  field[2] = bytes;
  field.set(encodeInteger(value, bytes), 3);
  return field;
}

function encodeInteger(value: number, bytes: 4 | 6): Uint8Array {
  if (!Number.isSafeInteger(value) || value < 0 || value >= 2 ** (8 * bytes)) {
    throw new LeverError("INTERNAL", `a routing field is ${value}, expected a whole number of ${bytes} bytes`);
  }
  const out = new Uint8Array(bytes);
  for (let at = bytes - 1, left = value; at >= 0; at--, left = Math.floor(left / 256)) out[at] = left % 256;
  return out;
}

function integer(bytes: Uint8Array, length: number, name: string): number {
  if (bytes.length !== length) throw violation(`the field ${name} has ${bytes.length} bytes, expected ${length}`);
  let value = 0;
  for (const byte of bytes) value = value * 256 + byte;
  return value;
}

function callerOf(caller: Record<string, unknown>): Caller {
  for (const key of ["environment", "service", "instance"]) {
    if (Object.hasOwn(caller, key) && typeof caller[key] !== "string")
      throw violation(`the caller's ${key} is no string`);
  }
  if (Object.hasOwn(caller, "outside") && typeof caller.outside !== "boolean") {
    throw violation("the caller's outside is no boolean");
  }
  return caller;
}

function text(bytes: Uint8Array, name: string, bytesMax?: number): string {
  if (bytes.length === 0 || (bytesMax !== undefined && bytes.length > bytesMax)) {
    throw violation(`the field ${name} has ${bytes.length} bytes, expected 1 to ${bytesMax ?? headerFieldsBytesMax}`);
  }
  try {
    return decoder.decode(bytes);
  } catch {
    throw violation(`the field ${name} is not valid UTF-8`);
  }
}

function map(bytes: Uint8Array, name: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = decodeValue(bytes);
  } catch (error) {
    throw violation(`the field ${name} is not a valid value: ${LeverError.from(error).rawMessage}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw violation(`the field ${name} is no map`);
  return value as Record<string, unknown>;
}

function violation(what: string): LeverError {
  return new LeverError("PROTOCOL_VIOLATION", `in an OPEN's routing header: ${what}`, { effect: "none" });
}
