/**
 * JSON value → MessagePack: check.ts refuses what has no JSON form, msgpackr writes the rest.
 *
 * Invariant: what is written decodes to the same value everywhere: every double but -0, which is written as 0, as JSON
 * does; keys in their order; nothing is silently changed. Output is canonical: the shortest form of each length and of
 * each integer in [-2^31, 2^32), float64 for all other numbers.
 *
 * The choice between a value and bytes is form.ts's.
 */

import { Packr, REUSE_BUFFER_MODE, type Target } from "msgpackr/index-no-eval";
import { LeverError } from "../error/lever-error.ts";
import { Checker, refuseSize } from "./check.ts";
import { valueBytesMax } from "./limits.ts";

/** `toJSON` is check.ts's. Nothing undefined comes so far but what a getter changes: nil, not an extension. */
const packr = new Packr({ useRecords: false, variableMapSize: true, useToJSON: false, encodeUndefinedAsNil: true });

/** msgpackr cuts small values from slabs of this size, as it renews them itself. */
const slabBytes = 64 * 1024;

/** Values that may be larger are written to one buffer, again and again, and copied from there. */
const smallBytesMax = 4 * 1024;

/** The largest buffer that is kept for that. */
const bufferBytesMax = 1024 * 1024;

/** Both are of the class that msgpackr writes to, which in Node is Buffer: a name that this project does not know. */
let large: Target = packr.pack("x".repeat(16 * 1024), REUSE_BUFFER_MODE);
let slab = newSlab();
/** Where what was written to the slab ends. */
let slabEnd = 0;
packr.useBuffer(slab);

/** Taken while it works, so that a getter or a `toJSON` that itself encodes gets another one. */
let idle: Checker | undefined;
let isPacking = false;

/**
 * Encodes one JSON value. `path` names the value in errors (`args`, `result`, `message`).
 *
 * `undefined` properties of objects are left out. An instance of a class is encoded as what its `toJSON` returns.
 * Refused with VALUE_NOT_ENCODABLE (`details.path`): `undefined` elsewhere, NaN and the infinities, bigint, symbol,
 * function, Date, Map, Set, other instances without `toJSON`, bytes, strings with a lone surrogate, more than 64
 * levels (so also cycles), more than 1,048,576 elements, more than 64 MiB. No other error is thrown.
 *
 * A getter is read twice, to check and to write, and must give the same both times.
 *
 * The returned bytes are the caller's for good: nothing writes to them again. They may be a view on a slab of 64 KiB
 * that other values share, so whoever keeps a small one for long should keep a copy (copy-bytes.ts).
 */
export function encodeValue(value: unknown, path: string): Uint8Array {
  const checker = idle ?? new Checker();
  idle = undefined;
  try {
    const checked = checker.check(value, path);
    const bytes = pack(checked, checker.bytes > smallBytesMax);
    if (bytes.length > valueBytesMax) refuseSize(path);
    return bytes;
  } catch (error) {
    if (LeverError.is(error)) throw error;
    // A getter, a proxy or a toJSON of the caller's threw.
    const text = error instanceof Error ? error.message : String(error);
    throw new LeverError("VALUE_NOT_ENCODABLE", `${path} cannot be read: ${text}`, { cause: error });
  } finally {
    idle = checker;
  }
}

function pack(value: unknown, isLarge: boolean): Uint8Array {
  if (isPacking) return packNested(value);
  isPacking = true;
  try {
    return isLarge ? packLarge(value) : packSmall(value);
  } finally {
    isPacking = false;
  }
}

function packSmall(value: unknown): Uint8Array {
  const target = packr.pack(value, REUSE_BUFFER_MODE);
  const { buffer, start, end } = target;
  // Text beyond ASCII, or another user of this msgpackr, made it larger.
  if (buffer.byteLength !== slabBytes) return packLarge(value);
  slab = target;
  slabEnd = end;
  return new Uint8Array(buffer, start, end - start);
}

/** The bytes get memory of their own, of their own size. */
function packLarge(value: unknown): Uint8Array {
  const position = packr.position;
  packr.useBuffer(large);
  try {
    const target = packr.pack(value, REUSE_BUFFER_MODE);
    if (target.length <= bufferBytesMax) large = target;
    return new Uint8Array(target.buffer.slice(target.start, target.end));
  } finally {
    packr.useBuffer(slab);
    packr.position = Math.max(position, slabEnd);
  }
}

/** In a getter that msgpackr reads: it takes a new buffer for this, and then goes on with the one it had. */
function packNested(value: unknown): Uint8Array {
  const { buffer, start, end } = packr.pack(value, REUSE_BUFFER_MODE);
  return new Uint8Array(buffer.slice(start, end));
}

function newSlab(): Target {
  return Uint8Array.prototype.slice.call(large, 0, slabBytes) as Target;
}
