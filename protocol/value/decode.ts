/**
 * MessagePack → JSON value, from bytes that nobody vouches for, in one pass that checks and builds at once.
 *
 * Invariant: any bytes give either a JSON value or INVALID_VALUE_ENCODING with the offset of the fault, in time and
 * memory proportional to the bytes, not to what they claim (at worst, for a payload of empty maps, 64 bytes of heap for
 * each), and the value shares no memory with them. Accepted is one whole value of nil, booleans, integers of any width,
 * finite floats, UTF-8 strings, arrays and maps with distinct string keys, nested at most `valueDepthMax` deep; refused
 * are extensions, binary and all else.
 */

import { LeverError } from "../error/lever-error.ts";
import { valueDepthMax } from "./encode.ts";

/** `ignoreBOM` keeps a leading U+FEFF, which is a character of the string here. */
const textDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Short ASCII strings are made from their units, in one array for each length. From 32 bytes on the platform's decoder
 * is faster (measured: 100 ns at any such length, against 3 ns a byte).
 */
const unitsOf = Array.from({ length: 32 }, (_, length) => new Array<number>(length).fill(0));
const { fromCharCode } = String;

// The bytes in hand. Decoding calls nobody else's code, so that one set of variables serves.
const nothing = new Uint8Array(0);
let source: Uint8Array = nothing;
let view: DataView | undefined;
let position = 0;
let end = 0;
/** Elements, keys and values that may still be claimed: each has a byte at least, so no more than there are bytes. */
let budget = 0;

/**
 * Decodes exactly one value.
 *
 * Integers of 64 bits become the nearest double. A key `__proto__` becomes an own, ordinary property. Raises
 * INVALID_VALUE_ENCODING (`details.offset`: the byte at fault), and nothing else.
 */
export function decodeValue(bytes: Uint8Array): unknown {
  source = bytes;
  position = 0;
  end = bytes.length;
  // The value itself is one of them.
  budget = end - 1;
  try {
    const value = read(0);
    if (position !== end) {
      refuse(position, `${end - position} bytes follow after the value`, "one value and nothing after it");
    }
    return value;
  } finally {
    source = nothing;
    view = undefined;
  }
}

/** Decodes the arguments of a call: as `decodeValue`, and the value must be an array. */
export function decodeArgs(bytes: Uint8Array): unknown[] {
  const value = decodeValue(bytes);
  if (!Array.isArray(value)) refuse(0, `the arguments are ${nameOf(value)}`, "an array of values");
  return value;
}

function read(depth: number): unknown {
  if (position >= end) refuseEnd(position);
  const offset = position;
  const byte = source[offset] as number;
  position = offset + 1;
  if (byte < 0x80) return byte;
  if (byte < 0x90) return readMap(byte & 0x0f, depth, offset);
  if (byte < 0xa0) return readArray(byte & 0x0f, depth, offset);
  if (byte < 0xc0) return readString(byte & 0x1f, offset);
  if (byte >= 0xe0) return byte - 0x100;
  switch (byte) {
    case 0xc0:
      return null;
    case 0xc2:
      return false;
    case 0xc3:
      return true;
    case 0xca:
      return finite(dataView().getFloat32(take(4, offset)), offset);
    // The commonest numbers are read in place: as calls they took twice the time.
    case 0xcb: {
      if (end - offset < 9) refuseEnd(offset);
      position = offset + 9;
      view ??= new DataView(source.buffer, source.byteOffset, source.byteLength);
      const value = view.getFloat64(offset + 1);
      return value - value === 0 ? value : finite(value, offset);
    }
    case 0xcc:
      return source[take(1, offset)];
    case 0xcd:
      if (end - offset < 3) refuseEnd(offset);
      position = offset + 3;
      return ((source[offset + 1] as number) << 8) | (source[offset + 2] as number);
    case 0xce:
      return uint32(take(4, offset));
    case 0xcf: {
      const at = take(8, offset);
      return uint32(at) * 0x100000000 + uint32(at + 4);
    }
    case 0xd0:
      return ((source[take(1, offset)] as number) << 24) >> 24;
    case 0xd1:
      return (uint16(take(2, offset)) << 16) >> 16;
    case 0xd2:
      return uint32(take(4, offset)) | 0;
    case 0xd3: {
      const at = take(8, offset);
      return (uint32(at) | 0) * 0x100000000 + uint32(at + 4);
    }
    case 0xd9:
      return readString(source[take(1, offset)] as number, offset);
    case 0xda:
      return readString(uint16(take(2, offset)), offset);
    case 0xdb:
      return readString(uint32(take(4, offset)), offset);
    case 0xdc:
      return readArray(uint16(take(2, offset)), depth, offset);
    case 0xdd:
      return readArray(uint32(take(4, offset)), depth, offset);
    case 0xde:
      return readMap(uint16(take(2, offset)), depth, offset);
    case 0xdf:
      return readMap(uint32(take(4, offset)), depth, offset);
    default:
      return refuseByte(byte, offset);
  }
}

function readArray(count: number, depth: number, offset: number): unknown[] {
  if (depth >= valueDepthMax) refuseDepth(offset);
  budget -= count;
  if (budget < 0 || count > end - position) refuseEnd(offset, `an array of ${count} elements`);
  const array = new Array<unknown>(count);
  for (let index = 0; index < count; index++) array[index] = read(depth + 1);
  return array;
}

function readMap(count: number, depth: number, offset: number): Record<string, unknown> {
  if (depth >= valueDepthMax) refuseDepth(offset);
  budget -= 2 * count;
  if (budget < 0 || 2 * count > end - position) refuseEnd(offset, `a map of ${count} entries`);
  const object: Record<string, unknown> = {};
  for (let index = 0; index < count; index++) {
    const key = readKey();
    const value = read(depth + 1);
    if (key === "__proto__") {
      Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
    } else {
      object[key] = value;
    }
  }
  // Counting once is quicker than a look at each key.
  if (Object.keys(object).length !== count) refuse(offset, "a map has the same key twice", "distinct keys");
  return object;
}

function readKey(): string {
  if (position >= end) refuseEnd(position);
  const offset = position;
  const byte = source[position++] as number;
  if ((byte & 0xe0) === 0xa0) return readShortKey(byte & 0x1f, offset);
  if (byte === 0xd9) return readString(source[take(1, offset)] as number, offset);
  if (byte === 0xda) return readString(uint16(take(2, offset)), offset);
  if (byte === 0xdb) return readString(uint32(take(4, offset)), offset);
  refuse(offset, `a key begins with the byte 0x${byte.toString(16).padStart(2, "0")}`, "a string as each key");
}

/**
 * Keys repeat from one value to the next: the last one of each hash is kept, which saves most strings and the engine
 * the search for the key among those it knows. At most 1,024 keys of 31 bytes.
 */
const keptKeys = new Array<string>(1024).fill("");

function readShortKey(length: number, offset: number): string {
  const first = position;
  if (length > end - first) refuseEnd(offset, `a string of ${length} bytes`);
  const after = first + length;
  let hash = length;
  for (let at = first; at < after; at++) hash = (Math.imul(hash, 31) + (source[at] as number)) | 0;
  const place = (hash ^ (hash >>> 10)) & 1023;
  const kept = keptKeys[place] as string;
  if (kept.length === length) {
    let at = 0;
    while (at < length && kept.charCodeAt(at) === source[first + at]) at++;
    if (at === length) {
      position = after;
      return kept;
    }
  }
  const key = readString(length, offset);
  // As many units as bytes: ASCII, so that units can be compared to bytes.
  if (key.length === length) keptKeys[place] = key;
  return key;
}

function readString(length: number, offset: number): string {
  const first = position;
  if (length > end - first) refuseEnd(offset, `a string of ${length} bytes`);
  position += length;
  if (length < unitsOf.length) {
    const units = unitsOf[length] as number[];
    let index = 0;
    for (; index < length; index++) {
      const unit = source[first + index] as number;
      if (unit >= 0x80) break;
      units[index] = unit;
    }
    if (index === length) return fromCharCode.apply(null, units);
  }
  try {
    return textDecoder.decode(source.subarray(first, position));
  } catch {
    refuse(offset, "a string is not valid UTF-8", "UTF-8 without surrogates or overlong forms");
  }
}

/** The offset of the next `bytes` bytes, which must be there. */
function take(bytes: number, offset: number): number {
  const at = position;
  if (bytes > end - at) refuseEnd(offset);
  position = at + bytes;
  return at;
}

function uint16(at: number): number {
  return ((source[at] as number) << 8) | (source[at + 1] as number);
}

function uint32(at: number): number {
  return ((uint16(at) << 16) | uint16(at + 2)) >>> 0;
}

function dataView(): DataView {
  view ??= new DataView(source.buffer, source.byteOffset, source.byteLength);
  return view;
}

function finite(value: number, offset: number): number {
  if (value - value !== 0) refuse(offset, `the number is ${value}`, "finite numbers only");
  return value;
}

function refuse(offset: number, found: string, expected: string): never {
  throw new LeverError("INVALID_VALUE_ENCODING", `at byte ${offset}: ${found}; expected ${expected}`, {
    details: { offset },
  });
}

function refuseEnd(offset: number, claimed?: string): never {
  const found = claimed === undefined ? "the bytes end inside a value" : `${claimed} is claimed`;
  refuse(offset, `${found}, but only ${end - Math.min(position, end)} bytes are left`, "all bytes of the value");
}

function refuseDepth(offset: number): never {
  refuse(offset, `arrays and maps nest deeper than ${valueDepthMax} levels`, `at most ${valueDepthMax}`);
}

function refuseByte(byte: number, offset: number): never {
  const hex = `0x${byte.toString(16)}`;
  if (byte >= 0xc4 && byte <= 0xc6) {
    refuse(offset, `binary (${hex}) inside a value`, "bytes as the whole payload only, in the form for bytes");
  }
  if (byte === 0xc1) refuse(offset, `the byte ${hex}, which MessagePack never uses`, "a value");
  refuse(offset, `an extension (${hex})`, "JSON types only");
}

function nameOf(value: unknown): string {
  if (value === null) return "null";
  return typeof value === "object" ? "a map" : `a ${typeof value}`;
}
