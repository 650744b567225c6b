/**
 * MessagePack → JSON value, from bytes that nobody vouches for: scan.ts refuses what is no JSON value, msgpackr decodes
 * the rest.
 *
 * Invariant: any bytes give either a JSON value or INVALID_VALUE_ENCODING with the offset of the fault, in time
 * proportional to the bytes and in memory bounded by them and by limits.ts, not by what they claim; and the value
 * shares no memory with them.
 */

import { Unpackr } from "msgpackr/index-no-eval";
import { readScanned } from "./read.ts";
import { notForMsgpackr, refuse, scan } from "./scan.ts";

const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: "number" });

/** Small payloads are copied here: msgpackr adds a DataView to each array that it is given, which costs more. */
const scratch = new Uint8Array(4096);

/**
 * Decodes exactly one value.
 *
 * Integers of 64 bits become the nearest double. A key `__proto__` becomes an own, ordinary property. Raises
 * INVALID_VALUE_ENCODING (`details.offset`: the byte at fault), and nothing else.
 */
export function decodeValue(bytes: Uint8Array): unknown {
  const { length } = bytes;
  let source = scratch;
  if (length <= scratch.length) scratch.set(bytes);
  // Of the plain class: of a Buffer msgpackr would take other ways.
  else source = new Uint8Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, length);
  const entries = scan(source, length);
  if (entries !== notForMsgpackr) {
    const value = unpackr.unpack(source, length);
    if (entries === 0 || countEntries(value) === entries) return value;
  }
  return readScanned(source.subarray(0, length));
}

/** Decodes the arguments of a call: as `decodeValue`, and the value must be an array. */
export function decodeArgs(bytes: Uint8Array): unknown[] {
  const value = decodeValue(bytes);
  if (!Array.isArray(value)) refuse(0, `the arguments are ${nameOf(value)}`, "an array of values");
  return value;
}

/** Of all objects in the value. A key that the bytes have twice is there once. */
function countEntries(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  let entries = 0;
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      const element: unknown = value[index];
      if (typeof element === "object") entries += countEntries(element);
    }
    return entries;
  }
  const properties: readonly unknown[] = Object.values(value);
  for (let index = 0; index < properties.length; index++) {
    const property = properties[index];
    if (typeof property === "object") entries += countEntries(property);
  }
  return entries + properties.length;
}

function nameOf(value: unknown): string {
  if (value === null) return "null";
  return typeof value === "object" ? "a map" : `a ${typeof value}`;
}
