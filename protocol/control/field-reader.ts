/**
 * Reads the fields of a decoded map strictly: what is there must have the right type and range, and what is wrong is
 * named with its path, what was found and what was expected. Keys that nobody asks for are skipped, so that a newer
 * peer may send more.
 */

import type { Reason } from "../error/catalogue.ts";
import { LeverError } from "../error/lever-error.ts";

export class FieldReader {
  readonly #map: Readonly<Record<string, unknown>>;
  readonly #path: string;
  readonly #reason: Reason;

  /** `path` names the map in errors, as in `args[0]`; `reason` is that of the errors. Throws if `value` is no map. */
  constructor(value: unknown, path: string, reason: Reason) {
    this.#path = path;
    this.#reason = reason;
    if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array) {
      this.#refuseAt(path, value, "a map");
    }
    this.#map = value as Record<string, unknown>;
  }

  has(key: string): boolean {
    return this.#at(key) !== undefined;
  }

  text(key: string, charsMax: number, isValid?: (text: string) => boolean, expected?: string): string {
    const value = this.#at(key);
    if (typeof value !== "string" || value.length > charsMax || isValid?.(value) === false) {
      return this.refuse(key, expected ?? `a string of at most ${charsMax} characters`);
    }
    return value;
  }

  optionalText(
    key: string,
    charsMax: number,
    isValid?: (text: string) => boolean,
    expected?: string,
  ): string | undefined {
    return this.has(key) ? this.text(key, charsMax, isValid, expected) : undefined;
  }

  integer(key: string, min: number, max: number): number {
    const value = this.#at(key);
    if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
      return this.refuse(key, `an integer from ${min} to ${max}`);
    }
    return value;
  }

  boolean(key: string): boolean {
    const value = this.#at(key);
    return typeof value === "boolean" ? value : this.refuse(key, "true or false");
  }

  list(key: string, countMax: number): readonly unknown[] {
    const value = this.#at(key);
    if (!Array.isArray(value)) return this.refuse(key, "a list");
    if (value.length > countMax) {
      throw new LeverError(
        this.#reason,
        `${this.#path}.${key} has ${value.length} entries, at most ${countMax} are allowed`,
        { effect: "none", details: { field: `${this.#path}.${key}`, count: value.length, countMax } },
      );
    }
    return value;
  }

  /** A list of maps. */
  maps(key: string, countMax: number): FieldReader[] {
    return this.list(key, countMax).map((entry, index) => this.#child(entry, `${this.#path}.${key}[${index}]`));
  }

  map(key: string): FieldReader {
    return this.#child(this.#at(key), `${this.#path}.${key}`);
  }

  refuse(key: string, expected: string): never {
    return this.#refuseAt(`${this.#path}.${key}`, this.#at(key), expected);
  }

  #child(value: unknown, path: string): FieldReader {
    return new FieldReader(value, path, this.#reason);
  }

  /** null is the same as left out. */
  #at(key: string): unknown {
    return Object.hasOwn(this.#map, key) ? (this.#map[key] ?? undefined) : undefined;
  }

  #refuseAt(field: string, found: unknown, expected: string): never {
    throw new LeverError(this.#reason, `${field} is ${describe(found)}, expected ${expected}`, {
      effect: "none",
      details: { field },
    });
  }
}

const shownCharsMax = 80;

function describe(value: unknown): string {
  if (value === undefined || value === null) return "missing";
  if (typeof value === "string") {
    return value.length > shownCharsMax ? `a string of ${value.length} characters` : JSON.stringify(value);
  }
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  return typeof value === "object" ? "a map" : String(value);
}
