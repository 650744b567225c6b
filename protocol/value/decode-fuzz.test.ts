import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { test } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import { type FuzzRandom, fuzz } from "../vectors/fuzz.fixture.ts";
import { decodeValue } from "./decode.ts";
import { encodeValue } from "./encode.ts";
import { readScanned } from "./read.ts";

const file = new URL("../vectors/values-valid.json", import.meta.url);
const { values } = JSON.parse(readFileSync(file, "utf8")) as { values: { hex: string; value: unknown }[] };
const vectors = values.map(({ hex, value }) => ({ bytes: Uint8Array.from(Buffer.from(hex, "hex")), value }));

type Outcome = { value: unknown } | { error: LeverError };

/** Whatever the bytes are: a value, or INVALID_VALUE_ENCODING with an offset within the bytes. */
function decode(bytes: Uint8Array): Outcome {
  try {
    return { value: decodeValue(bytes) };
  } catch (error) {
    if (!LeverError.is(error) || error.reason !== "INVALID_VALUE_ENCODING") throw error;
    const offset = error.details?.["offset"];
    if (!Number.isInteger(offset) || (offset as number) < 0 || (offset as number) > bytes.length) {
      throw new Error(`the offset is ${String(offset)} of ${bytes.length}: ${error.message}`);
    }
    return { error };
  }
}

/** What was accepted is what the plain reader sees in the same bytes, and survives being encoded and decoded again. */
function checkAccepted(bytes: Uint8Array, value: unknown): void {
  const text = JSON.stringify(value);
  if (JSON.stringify(decodeValue(encodeValue(value, "value"))) !== text) throw new Error("it changes when sent on");
  if (!isDeepStrictEqual(readScanned(bytes), value)) throw new Error(`the plain reader reads another value: ${text}`);
}

function isRefused(outcome: Outcome, why: string, bytes: Uint8Array): void {
  if (!("error" in outcome)) throw new Error(`accepted in spite of ${why}: ${Buffer.from(bytes).toString("hex")}`);
}

/**
 * Writes a value with a random one of the legal widths for each header. At one place, chosen by counting down, it puts
 * in a fault, with all lengths around it kept consistent; `fault` then says which.
 */
class FaultyEncoder {
  readonly #random: FuzzRandom;
  readonly #parts: Uint8Array[] = [];
  #untilFault: number;
  fault: string | undefined;

  constructor(random: FuzzRandom, untilFault: number) {
    this.#random = random;
    this.#untilFault = untilFault;
  }

  bytes(): Uint8Array {
    return Uint8Array.from(Buffer.concat(this.#parts));
  }

  write(value: unknown): void {
    if (this.#untilFault-- === 0) this.#writeFault(value);
    else if (value === null) this.#put([0xc0]);
    else if (typeof value === "boolean") this.#put([value ? 0xc3 : 0xc2]);
    else if (typeof value === "number") this.#writeNumber(value);
    else if (typeof value === "string") this.#writeString(Buffer.from(value));
    else if (Array.isArray(value)) {
      this.#writeCount(0x90, 0xdc, value.length);
      for (const item of value) this.write(item);
    } else this.#writeMap(Object.entries(value as object));
  }

  #put(bytes: readonly number[]): void {
    this.#parts.push(Uint8Array.from(bytes));
  }

  #writeMap(entries: readonly (readonly [string, unknown])[]): void {
    this.#writeCount(0x80, 0xde, entries.length);
    for (const [key, value] of entries) {
      this.#writeString(Buffer.from(key));
      this.write(value);
    }
  }

  #writeNumber(value: number): void {
    const widths: (() => Buffer)[] = [() => numberBytes(0xcb, 8, (bytes) => bytes.writeDoubleBE(value, 1))];
    if (Object.is(Math.fround(value), value)) {
      widths.push(() => numberBytes(0xca, 4, (bytes) => bytes.writeFloatBE(value, 1)));
    }
    if (Number.isInteger(value) && !Object.is(value, -0)) {
      if (value >= 0 && value < 128) widths.push(() => Buffer.from([value]));
      if (value < 0 && value >= -32) widths.push(() => Buffer.from([value & 0xff]));
      for (const [head, bits] of [
        [0xcc, 8],
        [0xcd, 16],
        [0xce, 32],
      ] as const) {
        if (value >= 0 && value < 2 ** bits) {
          widths.push(() => numberBytes(head, bits / 8, (bytes) => bytes.writeUIntBE(value, 1, bits / 8)));
        }
      }
      for (const [head, bits] of [
        [0xd0, 8],
        [0xd1, 16],
        [0xd2, 32],
      ] as const) {
        if (value >= -(2 ** (bits - 1)) && value < 2 ** (bits - 1)) {
          widths.push(() => numberBytes(head, bits / 8, (bytes) => bytes.writeIntBE(value, 1, bits / 8)));
        }
      }
      if (value >= 0 && value < 2 ** 64) {
        widths.push(() => numberBytes(0xcf, 8, (bytes) => bytes.writeBigUInt64BE(BigInt(value), 1)));
      }
      if (value >= -(2 ** 63) && value < 2 ** 63) {
        widths.push(() => numberBytes(0xd3, 8, (bytes) => bytes.writeBigInt64BE(BigInt(value), 1)));
      }
    }
    this.#parts.push(this.#random.pick(widths)());
  }

  #writeString(utf8: Uint8Array): void {
    const { length } = utf8;
    const width = this.#random.below(4);
    if (length < 32 && width === 0) this.#put([0xa0 | length]);
    else if (length < 256 && width <= 1) this.#put([0xd9, length]);
    else if (length < 65_536 && width <= 2) this.#put([0xda, length >> 8, length & 0xff]);
    else this.#put([0xdb, 0, length >> 16, (length >> 8) & 0xff, length & 0xff]);
    this.#parts.push(utf8);
  }

  #writeCount(small: number, large: number, count: number): void {
    const width = this.#random.below(3);
    if (count < 16 && width === 0) this.#put([small | count]);
    else if (count < 65_536 && width <= 1) this.#put([large, count >> 8, count & 0xff]);
    else this.#put([large + 1, 0, count >> 16, (count >> 8) & 0xff, count & 0xff]);
  }

  #writeFault(value: unknown): void {
    const random = this.#random;
    const entries = Object.entries(typeof value === "object" && value !== null ? value : { a: value, b: 1 });
    const faults: Record<string, () => void> = {
      "an extension": () => {
        const length = random.below(40);
        const [head, size] = random.pick([
          [[0xd4], 1],
          [[0xd5], 2],
          [[0xd6], 4],
          [[0xd7], 8],
          [[0xd8], 16],
          [[0xc7, length], length],
          [[0xc8, 0, length], length],
          [[0xc9, 0, 0, 0, length], length],
        ] as const);
        this.#put([...head, random.pick([0x72, 0x62, 0xff, random.below(256)])]);
        this.#parts.push(random.bytes(size));
      },
      "bytes inside a value": () => {
        const length = random.below(100);
        this.#put(
          random.pick([
            [0xc4, length],
            [0xc5, 0, length],
            [0xc6, 0, 0, 0, length],
          ]),
        );
        this.#parts.push(random.bytes(length));
      },
      "the unused byte": () => this.#put([0xc1]),
      "a number that is not finite": () => {
        const number = random.pick([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]);
        const isFloat32 = random.oneIn(2);
        this.#parts.push(
          isFloat32
            ? numberBytes(0xca, 4, (bytes) => bytes.writeFloatBE(number, 1))
            : numberBytes(0xcb, 8, (bytes) => bytes.writeDoubleBE(number, 1)),
        );
      },
      "a key twice": () => {
        const [key] = random.pick([["a"], ["__proto__"], ["constructor"], [""], ["k".repeat(40)], ["é"]] as const);
        const others = entries.filter(([name]) => name !== key).slice(0, random.below(40));
        const at = random.below(others.length + 1);
        this.#writeMap([[key, 1], ...others.slice(0, at), [key, value === null ? 1 : null], ...others.slice(at)]);
      },
      "a key that is no string": () => {
        this.#writeCount(0x80, 0xde, 1);
        if (random.oneIn(2)) this.#writeNumber(random.below(300));
        else this.#put(random.pick([[0xc0], [0xc2], [0xc3], [0x90], [0x80], [0xc4, 1, 0x61], [0xd4, 1, 0]]));
        this.write(value);
      },
      "text that is not UTF-8": () => {
        const text = Buffer.from("x".repeat(random.below(60)));
        const at = random.below(text.length + 1);
        const wrong = random.pick(["ff", "80", "c3", "c0af", "eda080", "edb080", "f09f98", "f4908080", "f8", "e0809f"]);
        const bytes = Buffer.concat([text.subarray(0, at), Buffer.from(wrong, "hex"), text.subarray(at)]);
        if (random.oneIn(2)) {
          this.#writeString(bytes);
        } else {
          this.#writeCount(0x80, 0xde, 1);
          this.#writeString(bytes);
          this.#writeNumber(1);
        }
      },
      "too many levels": () => {
        for (let level = 0; level < 65; level++) {
          if (random.oneIn(2)) {
            this.#writeCount(0x90, 0xdc, 1);
          } else {
            this.#writeCount(0x80, 0xde, 1);
            this.#writeString(Buffer.from("a"));
          }
        }
        this.#put([0xc0]);
      },
      "a claim of more than there is": () => {
        this.#put(random.pick([0xdb, 0xdd, 0xdf].map((head) => [head, random.below(256), 0xff, 0xff, 0xff])));
      },
    };
    this.fault = random.pick(Object.keys(faults));
    (faults[this.fault] as () => void)();
  }
}

function numberBytes(head: number, size: number, write: (bytes: Buffer) => void): Buffer {
  const bytes = Buffer.alloc(size + 1);
  bytes[0] = head;
  write(bytes);
  return bytes;
}

function countOf(value: unknown): number {
  if (typeof value !== "object" || value === null) return 1;
  return Object.values(value).reduce((sum: number, item) => sum + countOf(item), 1);
}

/** A valid vector in other widths, half of the time with one fault: what must come of it is known. */
function checkMutatedValue(random: FuzzRandom): void {
  let { value } = random.pick(vectors);
  // Several vectors in one value, as long as their levels allow.
  if (random.oneIn(3))
    value = { first: random.pick(vectors.slice(0, 50)).value, second: [random.pick(vectors.slice(0, 50)).value] };
  // More bytes than are copied before they are decoded.
  if (random.oneIn(30)) value = [random.pick(vectors.slice(0, 50)).value, "x".repeat(5000), { a: 1 }];
  const encoder = new FaultyEncoder(random, random.oneIn(2) ? -1 : random.below(countOf(value)));
  encoder.write(value);
  let bytes = encoder.bytes();
  let why = encoder.fault;
  const end = why === undefined ? random.below(4) : 0;
  if (end === 1) {
    why = "bytes after the value";
    bytes = Uint8Array.from([...bytes, ...random.bytes(1 + random.below(8))]);
  } else if (end === 2) {
    why = "an end inside the value";
    bytes = bytes.slice(0, random.below(bytes.length));
  }
  const outcome = decode(bytes);
  if (why !== undefined) {
    isRefused(outcome, why, bytes);
  } else {
    if ("error" in outcome) throw outcome.error;
    if (!isDeepStrictEqual(outcome.value, value)) throw new Error(`it decodes to ${JSON.stringify(outcome.value)}`);
    checkAccepted(bytes, outcome.value);
  }
}

/** Bytes of chance, or a valid vector with some bytes changed, put in or taken out. */
function checkAnyBytes(random: FuzzRandom): void {
  let bytes: Uint8Array;
  if (random.oneIn(2)) {
    bytes = random.bytes(random.below(random.oneIn(10) ? 2000 : 40));
  } else {
    const changed = [...random.pick(vectors).bytes];
    for (let change = 0; change <= random.below(4); change++) {
      const at = random.below(changed.length + 1);
      changed.splice(at, random.below(3), ...random.bytes(random.below(3)));
    }
    bytes = Uint8Array.from(changed);
  }
  const outcome = decode(bytes);
  if ("value" in outcome) checkAccepted(bytes, outcome.value);
}

test("fuzz: the value decoder", () => {
  fuzz((random) => (random.oneIn(2) ? checkMutatedValue(random) : checkAnyBytes(random)));
});
