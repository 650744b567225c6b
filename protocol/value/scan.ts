/**
 * The check of bytes that nobody vouches for, before msgpackr, which takes more than JSON has, decodes them.
 *
 * Invariant: nothing is allocated for what the bytes claim, and no nesting overflows the stack. What passes is one whole
 * value of nil, booleans, integers of any width, finite floats, UTF-8 strings, arrays and maps with string keys, within
 * limits.ts. That keys are distinct is left to decode.ts, which sees it in the objects made.
 */

import { LeverError } from "../error/lever-error.ts";
import { valueDepthMax, valueElementsMax } from "./limits.ts";

/** What `scan` returns for bytes that msgpackr would not decode as they are: read.ts does. */
export const notForMsgpackr = -1;

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** From this many bytes on the platform's decoder finds what is not UTF-8 sooner than a loop (measured). */
const loopBytesMax = 128;

// The bytes in hand, and by depth what is left of each array and map that is open: scanning calls nobody else's code.
const nothing = new Uint8Array(0);
let source: Uint8Array = nothing;
let end = 0;
let isForMsgpackr = true;
const leftOf = new Uint32Array(valueDepthMax);
const isMapAt = new Uint8Array(valueDepthMax);

/**
 * Checks the first `length` bytes, and returns how many entries their maps have together, or `notForMsgpackr`.
 *
 * Raises INVALID_VALUE_ENCODING (`details.offset`: the byte at fault).
 */
export function scan(bytes: Uint8Array, length: number): number {
  source = bytes;
  end = length;
  isForMsgpackr = true;
  try {
    const entries = scanValue();
    return isForMsgpackr ? entries : notForMsgpackr;
  } finally {
    source = nothing;
  }
}

function scanValue(): number {
  let at = 0;
  let depth = 0;
  let left = 1;
  let isMap = false;
  let elements = 0;
  let entries = 0;
  for (;;) {
    while (left === 0) {
      if (depth === 0) {
        if (at !== end) refuse(at, `${end - at} bytes follow after the value`, "one value and nothing after it");
        return entries;
      }
      depth--;
      left = leftOf[depth] as number;
      isMap = isMapAt[depth] === 1;
    }
    left--;
    if (isMap) at = scanKey(at);

    if (at >= end) refuseEnd(at, at);
    const offset = at;
    const byte = source[at++] as number;
    let count = -1;
    let isMapNext = false;
    if (byte < 0x80 || byte >= 0xe0) continue;
    if (byte < 0xa0) {
      count = byte & 0x0f;
      isMapNext = byte < 0x90;
    } else if (byte < 0xc0) {
      at = scanString(at, byte & 0x1f, offset);
      continue;
    } else {
      const size = sizes[byte - 0xc0] as number;
      if (size === refused) refuseByte(byte, offset);
      if (size > end - at) refuseEnd(offset, at);
      at += size;
      if (byte >= 0xdc) {
        count = size === 2 ? uint16(at - 2) : uint32(at - 4);
        isMapNext = byte >= 0xde;
      } else if (byte >= 0xd9) {
        at = scanString(at, lengthBefore(at, size), offset);
        continue;
      } else {
        // Ones where NaN and the infinities, and few others, have them.
        if (byte <= 0xcb && byte >= 0xca && ((source[offset + 1] as number) & 0x7f) === 0x7f) checkFloat(byte, offset);
        continue;
      }
    }

    if (depth >= valueDepthMax) refuseDepth(offset);
    if ((isMapNext ? 2 * count : count) > end - at) {
      refuseEnd(offset, at, isMapNext ? `a map of ${count} entries` : `an array of ${count} elements`);
    }
    elements += count;
    if (elements > valueElementsMax) refuseElements(offset);
    if (isMapNext) entries += count;
    leftOf[depth] = left;
    isMapAt[depth] = isMap ? 1 : 0;
    depth++;
    left = count;
    isMap = isMapNext;
  }
}

/** By head byte from 0xc0 to 0xdf: the bytes of a number, or of a string's, array's or map's count. */
const refused = 255;
const sizes = Uint8Array.of(
  ...[0, refused, 0, 0, refused, refused, refused, refused, refused, refused, 4, 8, 1, 2, 4, 8],
  ...[1, 2, 4, 8, refused, refused, refused, refused, refused, 1, 2, 4, 2, 4, 2, 4],
);

/** Returns the offset after the key. */
function scanKey(offset: number): number {
  if (offset >= end) refuseEnd(offset, offset);
  const byte = source[offset] as number;
  let at = offset + 1;
  let length = byte & 0x1f;
  if ((byte & 0xe0) !== 0xa0) {
    if (byte < 0xd9 || byte > 0xdb) {
      refuse(offset, `a key begins with the byte 0x${byte.toString(16).padStart(2, "0")}`, "a string as each key");
    }
    const size = sizes[byte - 0xc0] as number;
    if (size > end - at) refuseEnd(offset, at);
    at += size;
    length = lengthBefore(at, size);
  }
  const after = scanString(at, length, offset);
  // msgpackr renames it.
  if (length === 9 && isProto(at)) isForMsgpackr = false;
  return after;
}

const proto = Uint8Array.from("__proto__", (character) => character.charCodeAt(0));

function isProto(at: number): boolean {
  for (let index = 0; index < proto.length; index++) if (source[at + index] !== proto[index]) return false;
  return true;
}

/** Returns the offset after the string. `offset` is that of its head. */
function scanString(at: number, length: number, offset: number): number {
  if (length > end - at) refuseEnd(offset, at, `a string of ${length} bytes`);
  const after = at + length;
  let next = at;
  if (length < loopBytesMax) {
    const bytes = source;
    while (next < after && (bytes[next] as number) < 0x80) next++;
    if (next === after) return after;
  }
  try {
    utf8.decode(source.subarray(next, after));
  } catch {
    refuse(offset, "a string is not valid UTF-8", "UTF-8 without surrogates or overlong forms");
  }
  // A byte order mark at the beginning is a character of the string; msgpackr drops it.
  if (source[at] === 0xef && source[at + 1] === 0xbb && source[at + 2] === 0xbf) isForMsgpackr = false;
  return after;
}

function lengthBefore(at: number, size: number): number {
  return size === 1 ? (source[at - 1] as number) : size === 2 ? uint16(at - 2) : uint32(at - 4);
}

function uint16(at: number): number {
  return ((source[at] as number) << 8) | (source[at + 1] as number);
}

function uint32(at: number): number {
  return ((uint16(at) << 16) | uint16(at + 2)) >>> 0;
}

/** Of a float32 (0xca) or a float64 that `scanValue` suspects to be none. */
function checkFloat(byte: number, offset: number): void {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  const value = byte === 0xca ? view.getFloat32(offset + 1) : view.getFloat64(offset + 1);
  if (value - value !== 0) refuse(offset, `the number is ${value}`, "finite numbers only");
}

export function refuse(offset: number, found: string, expected: string): never {
  throw new LeverError("INVALID_VALUE_ENCODING", `at byte ${offset}: ${found}; expected ${expected}`, {
    details: { offset },
  });
}

function refuseEnd(offset: number, at: number, claimed?: string): never {
  const found = claimed === undefined ? "the bytes end inside a value" : `${claimed} is claimed`;
  refuse(offset, `${found}, but only ${end - at} bytes are left`, "all bytes of the value");
}

function refuseDepth(offset: number): never {
  refuse(offset, `arrays and maps nest deeper than ${valueDepthMax} levels`, `at most ${valueDepthMax}`);
}

function refuseElements(offset: number): never {
  refuse(
    offset,
    `arrays and maps have more than ${valueElementsMax} elements together`,
    "fewer, or the form for bytes",
  );
}

function refuseByte(byte: number, offset: number): never {
  const hex = `0x${byte.toString(16)}`;
  if (byte >= 0xc4 && byte <= 0xc6) {
    refuse(offset, `binary (${hex}) inside a value`, "bytes as the whole payload only, in the form for bytes");
  }
  if (byte === 0xc1) refuse(offset, `the byte ${hex}, which MessagePack never uses`, "a value");
  refuse(offset, `an extension (${hex})`, "JSON types only");
}
