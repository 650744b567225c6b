/**
 * The values that cross every path: an object as JSON has them, with strings, numbers, booleans and lists, whose
 * arguments array takes an exact number of bytes in MessagePack. Each index gives another value, so that a reply that
 * belongs to another call is noticed.
 */

import { Packr } from "msgpackr";

/** No key is left for the filler below this size. */
export const BYTES_MIN = 100;

const packr = new Packr({ useRecords: false, variableMapSize: true });
const words = "lever moves one call from here to there and back again with a reply that says what was sent ".repeat(8);

/** MessagePack's bytes of the arguments array `[value]`. */
export function argsBytes(value: unknown): Buffer {
  return Buffer.from(packr.pack([value]));
}

/** An object of which `argsBytes` has `bytes` bytes (`BYTES_MIN` and more; a few less where no string is just as long). */
export function sampleValue(bytes: number, index: number): Record<string, unknown> {
  const items: unknown[] = [];
  const value = {
    id: 100_000 + index,
    user: `user-${index}`,
    active: index % 2 === 0,
    score: index + 0.5,
    items,
    note: "",
  };
  for (let size = argsBytes(value).length; ; ) {
    const item = {
      sku: `sku-${index}-${items.length}`,
      count: items.length,
      price: items.length + 0.25,
      text: words.slice(0, 160),
    };
    size += packr.pack(item).length;
    if (size > bytes - 8) break;
    items.push(item);
  }
  // The header of a string grows with its length, hence the second look.
  const missing = bytes - argsBytes(value).length;
  value.note = words.slice(index, index + missing);
  const excess = argsBytes(value).length - bytes;
  if (excess > 0) value.note = words.slice(index, index + missing - excess);
  return value;
}

/** Whether two values of JSON's types are equal, in all keys and elements. */
export function sameValue(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a)) {
    if (!Array.isArray(b) || a.length !== b.length) return false;
    for (let index = 0; index < a.length; index++) if (!sameValue(a[index], b[index])) return false;
    return true;
  }
  let keys = 0;
  for (const key in a) {
    if (!sameValue((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key])) return false;
    keys++;
  }
  for (const _ in b) keys--;
  return keys === 0;
}
