/**
 * What may be sent: the check of a value before msgpackr, which takes more than JSON has, writes it.
 *
 * Invariant: what `check` returns is made of null, booleans, finite numbers, well-formed strings, arrays and plain
 * objects only, within limits.ts. It is the very value that was given unless a property is left out, a `toJSON` applies
 * or msgpackr would mistake an object for something else; then those parts are copies.
 */

import { LeverError } from "../error/lever-error.ts";
import { valueBytesMax, valueDepthMax, valueElementsMax } from "./limits.ts";

/** Below this a loop over the characters beats the call of isWellFormed (measured). */
const loopCharsMax = 12;

/** In a for-in loop this costs nothing; Object.hasOwn does (measured). */
const { hasOwnProperty: hasOwn } = Object.prototype;

export class Checker {
  /** The keys that lead to the value in hand, by depth: the path, built only for an error. */
  private readonly keys: (string | number)[] = [];
  private path = "";
  private elements = 0;
  private chars = 0;

  /** About the bytes that the value that was checked last is encoded to: more only where text is not ASCII. */
  get bytes(): number {
    return this.chars + 9 * this.elements;
  }

  /** Raises VALUE_NOT_ENCODABLE, or what a getter or `toJSON` throws. `path` names the value in errors. */
  check(value: unknown, path: string): unknown {
    this.path = path;
    this.elements = 0;
    this.chars = 0;
    return this.checkValue(value, 0);
  }

  private checkValue(value: unknown, depth: number): unknown {
    switch (typeof value) {
      case "string":
        this.checkText(value, depth);
        return value;
      case "number":
        if (value - value !== 0) {
          this.refuse(depth, `is ${value}`, "JSON has finite numbers only; send null or a string");
        }
        return value;
      case "boolean":
        return value;
      case "object":
        if (value === null) return value;
        return Array.isArray(value) ? this.checkArray(value, depth) : this.checkObject(value, depth);
      default:
        this.refuseType(value, depth);
    }
  }

  private checkText(text: string, depth: number): void {
    const { length } = text;
    this.chars += length;
    if (this.chars > valueBytesMax) refuseSize(this.path);
    if (length < loopCharsMax) {
      let bits = 0;
      for (let index = 0; index < length; index++) bits |= text.charCodeAt(index);
      if (bits < 0xd800) return;
    }
    if (!text.isWellFormed()) {
      this.refuse(depth, "has a lone surrogate", "it is not valid Unicode; send text.toWellFormed()");
    }
  }

  private checkArray(array: readonly unknown[], depth: number): readonly unknown[] {
    const { length } = array;
    this.enter(length, depth);
    // msgpackr goes by the constructor.
    let copy: unknown[] | undefined = array.constructor === Array ? undefined : [];
    for (let index = 0; index < length; index++) {
      const value = array[index];
      let checked = value;
      // In place, because as an argument each double of an array of doubles is allocated anew.
      if (typeof value !== "number" || value - value !== 0) {
        this.keys[depth] = index;
        checked = this.checkValue(value, depth + 1);
        if (checked !== value) copy ??= Array.prototype.slice.call(array, 0, index);
      }
      copy?.push(checked);
    }
    return copy ?? array;
  }

  private checkObject(object: object, depth: number): unknown {
    const properties = object as Record<string, unknown>;
    const maker = properties["constructor"];
    const prototype: object | null = Object.getPrototypeOf(object);
    // A prototype that itself has none is Object.prototype of this or of another realm.
    if (prototype !== Object.prototype && prototype !== null && Object.getPrototypeOf(prototype) !== null) {
      return this.checkInstance(object, depth);
    }
    this.enter(0, depth);
    // msgpackr goes by the constructor, which is no property that is sent where it is a function.
    let copy: Record<string, unknown> | undefined = maker === Object || typeof maker !== "function" ? undefined : {};
    let count = 0;
    for (const key in properties) {
      if (!hasOwn.call(properties, key)) continue;
      const value = properties[key];
      this.keys[depth] = key;
      const checked = value === undefined ? undefined : this.checkValue(value, depth + 1);
      if (copy === undefined && (checked === undefined || checked !== value)) copy = copyFirst(properties, count);
      if (checked === undefined) continue;
      count++;
      this.checkText(key, depth + 1);
      if (copy !== undefined) setOwn(copy, key, checked);
    }
    this.elements += count;
    if (this.elements > valueElementsMax) this.refuseElements();
    return copy ?? object;
  }

  private checkInstance(object: object, depth: number): unknown {
    const { toJSON } = object as { toJSON?: unknown };
    if (typeof toJSON !== "function" || object instanceof Date || isBinary(object)) this.refuseInstance(object, depth);
    // Counted as a level, so that a toJSON that returns its own object ends.
    this.enter(0, depth);
    this.keys[depth] = "toJSON()";
    return this.checkValue(toJSON.call(object, ""), depth + 1);
  }

  private enter(elements: number, depth: number): void {
    if (depth >= valueDepthMax) this.refuseDepth();
    this.elements += elements;
    if (this.elements > valueElementsMax) this.refuseElements();
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

  private refuseDepth(): never {
    const path = `${this.path}${this.keys.slice(0, 3).map(printKey).join("")}…`;
    throw new LeverError(
      "VALUE_NOT_ENCODABLE",
      `${path} nests deeper than ${valueDepthMax} levels: flatten it, or break its cycle`,
      { details: { path, levels: valueDepthMax } },
    );
  }

  private refuseElements(): never {
    throw new LeverError(
      "VALUE_NOT_ENCODABLE",
      `${this.path} has more than ${valueElementsMax} elements: send it over a channel, in parts, or as bytes`,
      { details: { path: this.path, elements: valueElementsMax } },
    );
  }
}

/** Of a value that is larger, or would be, than `valueBytesMax`. */
export function refuseSize(path: string): never {
  throw new LeverError(
    "VALUE_NOT_ENCODABLE",
    `${path} encodes to more than ${valueBytesMax} bytes: send it over a channel, in parts`,
    { details: { path, bytes: valueBytesMax } },
  );
}

/** True for an ArrayBuffer and every view on one. */
export function isBinary(value: object): boolean {
  return ArrayBuffer.isView(value) || value instanceof ArrayBuffer;
}

/** Sets an own property, whatever its name: assigned, `__proto__` would be the prototype. */
export function setOwn(object: Record<string, unknown>, key: string, value: unknown): void {
  if (key === "__proto__") {
    Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
  } else {
    object[key] = value;
  }
}

/** A copy of an object's first properties. */
function copyFirst(object: Record<string, unknown>, count: number): Record<string, unknown> {
  const copy = {};
  for (const key of Object.keys(object).slice(0, count)) setOwn(copy, key, object[key]);
  return copy;
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
