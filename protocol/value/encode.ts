/**
 * JSON value → MessagePack, in one pass that checks and writes at once.
 *
 * Invariant: what is written decodes to the same value everywhere: -0 and every double survive, keys keep their order,
 * nothing is silently changed. What has no JSON form is refused with the path to it. Output is canonical: the shortest
 * form of each length and of each integer in [-2^31, 2^32), float64 for all other numbers.
 *
 * The choice between a value and bytes is form.ts's.
 */

import { LeverError } from "../error/lever-error.ts";

/** How deep arrays and objects may nest in one encoded value, the outermost counted (so also the array of args). */
export const valueDepthMax = 64;

/** The most bytes that one value may encode to, whatever the limits for arguments and messages are set to. */
export const valueBytesMax = 64 * 1024 * 1024;

/** Small results are cut from slabs of this size: an ArrayBuffer per value costs more than encoding it. */
const slabBytes = 64 * 1024;

/** Below this a loop over the characters beats the call of the platform's encoder (measured). */
const loopCharsMax = 48;

/** From this on a string gets room for ASCII first, and for three bytes per character only if that did not do. */
const longCharsMin = 8 * 1024;

const textEncoder = new TextEncoder();

/**
 * The encoder in waiting. An encoder is taken while it works, so that a getter or a `toJSON` that itself encodes gets
 * another one.
 */
let idle: Encoder | undefined;

/**
 * Encodes one JSON value. `path` names the value in errors (`args`, `result`, `message`).
 *
 * `undefined` properties of objects are left out. An instance of a class is encoded as what its `toJSON` returns.
 * Refused with VALUE_NOT_ENCODABLE (`details.path`): `undefined` elsewhere, NaN and the infinities, bigint, symbol,
 * function, Date, Map, Set, other instances without `toJSON`, bytes, strings with a lone surrogate, more than 64
 * levels (so also cycles), more than 64 MiB. No other error is thrown.
 *
 * The returned bytes are the caller's for good: nothing writes to them again. They may be a view on a slab of 64 KiB
 * that other values share, so whoever keeps a small one for long should keep a copy (copy-bytes.ts).
 */
export function encodeValue(value: unknown, path: string): Uint8Array {
  const encoder = idle ?? new Encoder();
  idle = undefined;
  try {
    return encoder.encode(value, path);
  } finally {
    idle = encoder;
  }
}

class Encoder {
  private slab = new Uint8Array(slabBytes);
  private view = new DataView(this.slab.buffer);
  private start = 0;
  private position = 0;
  /** The keys that lead to the value in hand, by depth: the path, built only for an error. */
  private readonly keys: (string | number)[] = [];
  private path = "";

  encode(value: unknown, path: string): Uint8Array {
    this.path = path;
    this.start = this.position;
    try {
      this.write(value, 0);
    } catch (error) {
      this.position = this.start;
      if (this.slab.length > slabBytes) this.renew();
      if (LeverError.is(error)) throw error;
      // A getter, a proxy or a toJSON of the caller's threw.
      const text = error instanceof Error ? error.message : String(error);
      throw new LeverError("VALUE_NOT_ENCODABLE", `${path} cannot be read: ${text}`, { cause: error });
    }
    if (this.slab.length === slabBytes) return this.slab.subarray(this.start, this.position);
    // A large value: its own memory, of its own size, and small values go on with a small slab.
    const bytes = this.slab.slice(this.start, this.position);
    this.renew();
    if (bytes.length > valueBytesMax) this.refuseSize();
    return bytes;
  }

  private write(value: unknown, depth: number): void {
    if (this.slab.length - this.position < 16) this.grow(16);
    switch (typeof value) {
      case "string":
        this.writeString(value, depth);
        return;
      case "number":
        this.writeNumber(value, depth);
        return;
      case "boolean":
        this.slab[this.position++] = value ? 0xc3 : 0xc2;
        return;
      case "object":
        if (value === null) this.slab[this.position++] = 0xc0;
        else if (Array.isArray(value)) this.writeArray(value, depth);
        else this.writeObject(value, depth);
        return;
      default:
        this.refuseType(value, depth);
    }
  }

  private writeNumber(value: number, depth: number): void {
    const { slab } = this;
    if (value >>> 0 === value) {
      if (value < 0x80) {
        // -0 is 0 to every comparison; only its double tells.
        if (value === 0 && 1 / value < 0) this.writeDouble(value);
        else slab[this.position++] = value;
      } else if (value < 0x100) {
        slab[this.position++] = 0xcc;
        slab[this.position++] = value;
      } else if (value < 0x10000) {
        slab[this.position++] = 0xcd;
        slab[this.position++] = value >>> 8;
        slab[this.position++] = value;
      } else {
        slab[this.position++] = 0xce;
        this.view.setUint32(this.position, value);
        this.position += 4;
      }
    } else if ((value | 0) === value) {
      if (value >= -0x20) {
        slab[this.position++] = value;
      } else if (value >= -0x80) {
        slab[this.position++] = 0xd0;
        slab[this.position++] = value;
      } else if (value >= -0x8000) {
        slab[this.position++] = 0xd1;
        slab[this.position++] = value >>> 8;
        slab[this.position++] = value;
      } else {
        slab[this.position++] = 0xd2;
        this.view.setInt32(this.position, value);
        this.position += 4;
      }
    } else {
      if (value - value !== 0) this.refuse(depth, `is ${value}`, "JSON has finite numbers only; send null or a string");
      this.writeDouble(value);
    }
  }

  private writeDouble(value: number): void {
    this.slab[this.position] = 0xcb;
    this.view.setFloat64(this.position + 1, value);
    this.position += 9;
  }

  private writeString(text: string, depth: number): void {
    const chars = text.length;
    if (chars > valueBytesMax) this.refuseSize();
    this.reserve(chars < longCharsMin ? chars * 3 + 16 : chars + 16);
    // The header is guessed from the characters; more bytes than that move the text behind a longer one.
    const guess = stringHeaderBytes(chars);
    let first = this.position + guess;
    let end = first;
    if (chars < loopCharsMax) {
      const { slab } = this;
      for (let index = 0; index < chars; index++) {
        const unit = text.charCodeAt(index);
        if (unit < 0x80) {
          slab[end++] = unit;
        } else if (unit < 0x800) {
          slab[end++] = 0xc0 | (unit >> 6);
          slab[end++] = 0x80 | (unit & 0x3f);
        } else if (unit < 0xd800 || unit > 0xdfff) {
          slab[end++] = 0xe0 | (unit >> 12);
          slab[end++] = 0x80 | ((unit >> 6) & 0x3f);
          slab[end++] = 0x80 | (unit & 0x3f);
        } else {
          const low = unit < 0xdc00 ? text.charCodeAt(++index) : 0;
          if (!(low >= 0xdc00 && low <= 0xdfff)) this.refuseSurrogate(depth);
          const point = 0x10000 + ((unit & 0x3ff) << 10) + (low & 0x3ff);
          slab[end++] = 0xf0 | (point >> 18);
          slab[end++] = 0x80 | ((point >> 12) & 0x3f);
          slab[end++] = 0x80 | ((point >> 6) & 0x3f);
          slab[end++] = 0x80 | (point & 0x3f);
        }
      }
    } else {
      if (!text.isWellFormed()) this.refuseSurrogate(depth);
      const length = this.encodeInto(text, guess);
      first = this.position + guess;
      end = first + length;
    }
    const length = end - first;
    const needed = stringHeaderBytes(length);
    if (needed !== guess) this.slab.copyWithin(this.position + needed, first, end);
    this.writeStringHeader(length);
    this.position += length;
  }

  /** Writes the text behind room for a header of `header` bytes, perhaps in another slab; returns its bytes. */
  private encodeInto(text: string, header: number): number {
    const { read, written } = textEncoder.encodeInto(text, this.spaceBehind(header));
    if (read === text.length) return written;
    this.reserve(text.length * 3 + 16);
    return textEncoder.encodeInto(text, this.spaceBehind(header)).written;
  }

  /** Leaves room at the end for the text to move behind a longer header. */
  private spaceBehind(header: number): Uint8Array {
    return this.slab.subarray(this.position + header, this.slab.length - 5);
  }

  private writeStringHeader(length: number): void {
    const { slab } = this;
    if (length < 0x20) {
      slab[this.position++] = 0xa0 | length;
    } else if (length < 0x100) {
      slab[this.position++] = 0xd9;
      slab[this.position++] = length;
    } else if (length < 0x10000) {
      slab[this.position++] = 0xda;
      slab[this.position++] = length >>> 8;
      slab[this.position++] = length;
    } else {
      slab[this.position++] = 0xdb;
      this.view.setUint32(this.position, length);
      this.position += 4;
    }
  }

  private writeArray(array: readonly unknown[], depth: number): void {
    if (depth >= valueDepthMax) this.refuseDepth();
    const count = array.length;
    this.writeCount(count, 0x90, 0xdc);
    for (let index = 0; index < count; index++) {
      this.keys[depth] = index;
      this.write(array[index], depth + 1);
    }
  }

  private writeObject(object: object, depth: number): void {
    if (depth >= valueDepthMax) this.refuseDepth();
    const prototype: object | null = Object.getPrototypeOf(object);
    // A prototype that itself has none is Object.prototype of this or of another realm.
    if (prototype !== Object.prototype && prototype !== null && Object.getPrototypeOf(prototype) !== null) {
      this.writeInstance(object, depth);
      return;
    }
    const keys = Object.keys(object);
    // From the value's start: the value may move to another slab before the count is known.
    const header = this.position - this.start;
    this.writeCount(keys.length, 0x80, 0xde);
    let left = 0;
    for (let index = 0; index < keys.length; index++) {
      const key = keys[index] as string;
      const value = (object as Record<string, unknown>)[key];
      if (value === undefined) {
        left++;
        continue;
      }
      this.keys[depth] = key;
      this.writeString(key, depth + 1);
      this.write(value, depth + 1);
    }
    if (left > 0) this.correctCount(this.start + header, keys.length, keys.length - left);
  }

  private writeInstance(object: object, depth: number): void {
    const { toJSON } = object as { toJSON?: unknown };
    if (typeof toJSON !== "function" || object instanceof Date || isBinary(object)) this.refuseInstance(object, depth);
    // Counted as a level, so that a toJSON that returns its own object ends.
    this.keys[depth] = "toJSON()";
    this.write(toJSON.call(object, ""), depth + 1);
  }

  private writeCount(count: number, small: number, large: number): void {
    const { slab } = this;
    if (count < 0x10) {
      slab[this.position++] = small | count;
    } else if (count < 0x10000) {
      slab[this.position++] = large;
      slab[this.position++] = count >>> 8;
      slab[this.position++] = count;
    } else {
      slab[this.position++] = large + 1;
      this.view.setUint32(this.position, count);
      this.position += 4;
    }
  }

  /** Properties were left out: the count that was written in advance is too large, and perhaps its header too long. */
  private correctCount(header: number, written: number, count: number): void {
    const end = this.position;
    this.position = header;
    this.writeCount(count, 0x80, 0xde);
    const bodyWas = header + countBytes(written);
    if (this.position !== bodyWas) this.slab.copyWithin(this.position, bodyWas, end);
    this.position = end - (bodyWas - this.position);
  }

  private reserve(bytes: number): void {
    if (this.slab.length - this.position < bytes) this.grow(bytes);
  }

  /** Moves what was written of this value to a slab with room for `bytes` more. */
  private grow(bytes: number): void {
    const used = this.position - this.start;
    if (used > valueBytesMax) this.refuseSize();
    const needed = used + bytes;
    const old = this.slab;
    this.slab = new Uint8Array(needed <= slabBytes ? slabBytes : Math.max(needed, 2 * old.length));
    this.view = new DataView(this.slab.buffer);
    this.slab.set(old.subarray(this.start, this.position));
    this.start = 0;
    this.position = used;
  }

  private renew(): void {
    this.slab = new Uint8Array(slabBytes);
    this.view = new DataView(this.slab.buffer);
    this.position = 0;
  }

  private refuse(depth: number, found: string, remedy: string): never {
    const path = this.path + this.keys.slice(0, depth).map(printKey).join("");
    throw new LeverError("VALUE_NOT_ENCODABLE", `${path} ${found}: ${remedy}`, { details: { path } });
  }

  private refuseType(value: unknown, depth: number): never {
    if (value === undefined) {
      this.refuse(depth, "is undefined", "JSON has no such value; send null (as an object's property it is left out)");
    }
    if (typeof value === "bigint") this.refuse(depth, "is a bigint", "send it as a string");
    this.refuse(depth, `is a ${typeof value}`, "only JSON values and bytes can be sent");
  }

  private refuseInstance(object: object, depth: number): never {
    const name = className(object);
    if (isBinary(object)) {
      const remedy = "bytes travel alone, as the only argument, result or message; inside a value send text (base64)";
      this.refuse(depth, `is bytes (${name})`, remedy);
    }
    if (object instanceof Date) this.refuse(depth, "is a Date", "send text (toISOString()) or a number (getTime())");
    if (object instanceof Map) this.refuse(depth, "is a Map", "send an object (Object.fromEntries(map)) or an array");
    if (object instanceof Set) this.refuse(depth, "is a Set", "send an array ([...set])");
    if (object instanceof Promise) this.refuse(depth, "is a Promise", "await it first");
    this.refuse(depth, `is an instance of ${name}`, "send a plain object, or give the class a toJSON method");
  }

  private refuseSurrogate(depth: number): never {
    this.refuse(depth, "has a lone surrogate", "it is not valid Unicode; send text.toWellFormed()");
  }

  private refuseDepth(): never {
    const path = `${this.path}${this.keys.slice(0, 3).map(printKey).join("")}…`;
    throw new LeverError(
      "VALUE_NOT_ENCODABLE",
      `${path} nests deeper than ${valueDepthMax} levels: flatten it, or break its cycle`,
      { details: { path, levels: valueDepthMax } },
    );
  }

  private refuseSize(): never {
    throw new LeverError(
      "VALUE_NOT_ENCODABLE",
      `${this.path} encodes to more than ${valueBytesMax} bytes: send it over a channel, in parts`,
      { details: { path: this.path, bytes: valueBytesMax } },
    );
  }
}

function stringHeaderBytes(length: number): number {
  return length < 0x20 ? 1 : length < 0x100 ? 2 : length < 0x10000 ? 3 : 5;
}

function countBytes(count: number): number {
  return count < 0x10 ? 1 : count < 0x10000 ? 3 : 5;
}

/** True for an ArrayBuffer and every view on one. */
export function isBinary(value: object): boolean {
  return ArrayBuffer.isView(value) || value instanceof ArrayBuffer;
}

function className(object: object): string {
  const maker = (object as { constructor?: unknown }).constructor;
  return typeof maker === "function" && maker.name !== "" ? maker.name : "a class";
}

const keyCharsMax = 60;

function printKey(key: string | number): string {
  if (typeof key === "number") return `[${key}]`;
  if (/^[A-Za-z_$][\w$]*$/.test(key) && key.length <= keyCharsMax) return `.${key}`;
  if (key === "toJSON()") return ".toJSON()";
  return `[${JSON.stringify(key.length > keyCharsMax ? `${key.slice(0, keyCharsMax)}…` : key)}]`;
}
