import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { addExtension, Packr } from "msgpackr";
import { describe, expect, test } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import { Checker } from "./check.ts";
import { decodeArgs, decodeValue } from "./decode.ts";
import { encodeValue } from "./encode.ts";
import { decodePayload, encodeArgs, encodeMessage, encodeResult, isBytes } from "./form.ts";
import { valueBytesMax, valueDepthMax, valueElementsMax } from "./limits.ts";
import { readScanned } from "./read.ts";

interface ValidVector {
  readonly name: string;
  readonly hex: string;
  readonly value: unknown;
  readonly canonical: boolean;
}

interface InvalidVector {
  readonly why: string;
  readonly hex: string;
  readonly offset: number | null;
}

const valid = readVectors<ValidVector>("values-valid.json");
const invalid = readVectors<InvalidVector>("values-invalid.json");

function readVectors<Vector>(file: string): Vector[] {
  const text = readFileSync(new URL(`../vectors/${file}`, import.meta.url), "utf8");
  return (JSON.parse(text) as { values: Vector[] }).values;
}

function fromHex(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex, "hex"));
}

function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

/** The LeverError that `action` throws; anything else fails the test. */
function errorOf(action: () => unknown): LeverError {
  try {
    action();
  } catch (error) {
    if (LeverError.is(error)) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

function refusal(value: unknown, path = "value"): string {
  const error = errorOf(() => encodeValue(value, path));
  expect(error.reason).toBe("VALUE_NOT_ENCODABLE");
  expect(error.effect).toBe("none");
  expect(error.details?.["path"]).toSatisfy((at: string) => error.rawMessage.startsWith(at));
  return error.rawMessage;
}

/** Any value that can be sent: JSON, plus -0 and the key __proto__, which JSON.parse gives too. */
const jsonValue = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.constantFrom(null, true, false, -0, 0, 2 ** 32, 2 ** 53, -(2 ** 31), -(2 ** 31) - 1),
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.string({ unit: "grapheme", size: "medium" }),
    fc.string({ unit: "binary", size: "medium" }).map((text) => text.toWellFormed()),
    fc.array(tie("value"), { maxLength: 20 }),
    fc
      .array(
        fc.tuple(
          fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom("__proto__", "constructor", "0")),
          tie("value"),
        ),
        {
          maxLength: 20,
        },
      )
      .map((entries) => Object.fromEntries(entries)),
  ),
})).value;

describe("golden vectors", () => {
  test.each(valid)("$name decodes", ({ hex, value }) => {
    const decoded = decodeValue(fromHex(hex));
    expect(decoded).toStrictEqual(value);
    expect(JSON.stringify(decoded)).toBe(JSON.stringify(value));
    if (typeof value === "number") expect(Object.is(decoded, value)).toBe(true);
  });

  test.each(valid.filter((vector) => vector.canonical))("$name encodes", ({ hex, value }) => {
    expect(toHex(encodeValue(value, "value"))).toBe(hex);
  });

  test.each(invalid)("refused: $why", ({ hex, offset }) => {
    const bytes = fromHex(hex);
    const error = errorOf(() => decodeValue(bytes));
    expect(error.reason).toBe("INVALID_VALUE_ENCODING");
    const found = error.details?.["offset"];
    if (offset === null) expect(found).toSatisfy((at: number) => at >= 0 && at <= bytes.length);
    else expect(found).toBe(offset);
  });

  test("are enough", () => {
    expect(valid.length).toBeGreaterThan(100);
    expect(invalid.length).toBeGreaterThan(100);
  });
});

describe("encoding and decoding", () => {
  test("are inverse to each other", () => {
    fc.assert(
      fc.property(jsonValue, (value) => {
        const decoded = decodeValue(encodeValue(value, "value"));
        // As JSON has it: -0 is sent as 0.
        expect(isDeepStrictEqual(decoded, JSON.parse(JSON.stringify(value)))).toBe(true);
        // The order of keys, which is not looked at there.
        expect(JSON.stringify(decoded)).toBe(JSON.stringify(value));
      }),
      { numRuns: 500 },
    );
  });

  test("change nothing that the plain reader sees", () => {
    fc.assert(
      fc.property(jsonValue, (value) => {
        const bytes = encodeValue(value, "value");
        expect(isDeepStrictEqual(readScanned(bytes), decodeValue(bytes))).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test("are not changed by an app's own use of msgpackr", () => {
    addExtension({ Class: Object, type: 1, pack: () => new Uint8Array([1]), unpack: () => "extended" });
    const packr = new Packr({ useRecords: false });
    const value = [Object.create(null), { constructor: "x" }, "y".repeat(100)];
    const bytes = encodeValue(value, "value");
    packr.useBuffer(Buffer.alloc(100));
    packr.pack("z".repeat(50));
    encodeValue("after", "value");
    expect(toHex(bytes)).toBe(`938081ab${toHex(Buffer.from("constructor"))}a178d964${"79".repeat(100)}`);
    const expected: unknown[] = [{}, { constructor: "x" }, "y".repeat(100)];
    expect(decodeValue(bytes)).toStrictEqual(expected);
  });

  test("one way for each length around the borders of its headers", () => {
    const characters = ["a", "é", "日", "😀"];
    for (const length of [0, 1, 15, 16, 31, 32, 47, 48, 85, 86, 255, 256, 8191, 8192, 21_846, 65_535, 65_536, 70_000]) {
      for (const character of characters) {
        const text = character.repeat(length);
        expect(isDeepStrictEqual(decodeValue(encodeValue([text, "after"], "value")), [text, "after"])).toBe(true);
      }
      const array = Array.from({ length }, (_, index) => index);
      expect(isDeepStrictEqual(decodeValue(encodeValue(array, "value")), array)).toBe(true);
      const object = Object.fromEntries(array.map((index) => [`key ${index}`, index]));
      expect(isDeepStrictEqual(decodeValue(encodeValue(object, "value")), object)).toBe(true);
    }
  });

  test("long strings of many lengths", () => {
    for (let offset = 0; offset < 64; offset++) {
      const value = ["x".repeat(65_536 - 8192 - 64 + offset), "y".repeat(8192 + offset), "é".repeat(32_760 + offset)];
      expect(isDeepStrictEqual(decodeValue(encodeValue(value, "value")), value)).toBe(true);
    }
  });

  test("a long string whose header grows where the slab ends", () => {
    for (let length = 51_000; length < 51_100; length++) {
      const value = ["x".repeat(length), "é".repeat(40_000)];
      encodeValue("y".repeat(70_000), "value");
      expect(isDeepStrictEqual(decodeValue(encodeValue(value, "value")), value)).toBe(true);
    }
  });

  test("a key that was seen does not lend its name to bytes that are no UTF-8", () => {
    // One byte for each of its characters: what a comparison of characters with bytes would take for the same.
    for (let index = 0; index < 30_000; index++) {
      const key = String.fromCharCode(0xc0 + (index % 64), 0x80 + ((index >> 6) % 128), 0x80 + (index >> 9));
      decodeValue(encodeValue({ [key]: 1 }, "value"));
      const bytes = Uint8Array.from([0x81, 0xa3, ...Buffer.from(key, "latin1"), 0x01]);
      let decoded: unknown;
      try {
        decoded = decodeValue(bytes);
      } catch {
        continue;
      }
      expect(Object.keys(decoded as object)).toStrictEqual([Buffer.from(key, "latin1").toString()]);
    }
  });

  test("strings and objects of the same shape do not mix between messages", () => {
    const first = { name: "Ada", keys: ["\u00e9", "a"] };
    const second = { nbme: "Bob", keys: ["\u00e8", "b"] };
    const [one, two] = [encodeValue(first, "value"), encodeValue(second, "value")];
    for (let round = 0; round < 3; round++) {
      expect(decodeValue(one)).toStrictEqual(first);
      expect(decodeValue(two)).toStrictEqual(second);
    }
  });
});

describe("the returned bytes", () => {
  test("are not written to again", () => {
    const kept = Array.from(
      { length: 5000 },
      (_, index) => [encodeValue({ index, text: "x".repeat(index % 90) }, "v"), index] as const,
    );
    for (const [bytes, index] of kept) {
      expect(decodeValue(bytes)).toStrictEqual({ index, text: "x".repeat(index % 90) });
    }
  });

  test("of a large value have memory of their own size", () => {
    const bytes = encodeValue("x".repeat(100_000), "value");
    expect(bytes.buffer.byteLength).toBe(bytes.length);
    const slabBytes = encodeValue("small", "value").buffer.byteLength;
    expect(slabBytes).toBe(65_536);
    refusal(["x".repeat(100_000), Number.NaN]);
    expect(encodeValue("small", "value").buffer.byteLength).toBe(slabBytes);
  });

  test("of values that turn out larger than their characters, at every place of a slab", () => {
    const value = ["日".repeat(1300), "日".repeat(1300), "日".repeat(1300)];
    const kept = Array.from({ length: 200 }, (_, index) => [
      encodeValue({ index }, "value"),
      encodeValue(value, "value"),
      encodeValue("x".repeat(index * 7), "value"),
    ]);
    for (const [index, [small, large, text]] of kept.entries()) {
      expect(decodeValue(small as Uint8Array)).toStrictEqual({ index });
      expect(decodeValue(large as Uint8Array)).toStrictEqual(value);
      expect(decodeValue(text as Uint8Array)).toBe("x".repeat(index * 7));
    }
  });

  test("survive a getter and a toJSON that encode themselves", () => {
    const inner: Uint8Array[] = [];
    class Nested {
      toJSON() {
        inner.push(encodeValue({ inner: "y".repeat(70_000) }, "inner"), encodeValue("small", "inner"));
        return "nested";
      }
    }
    const value = {
      before: "x",
      get half() {
        inner.push(encodeValue(["in a getter"], "inner"));
        return 0.5;
      },
      nested: new Nested(),
      after: [1],
    };
    expect(decodeValue(encodeValue(value, "value"))).toStrictEqual({
      before: "x",
      half: 0.5,
      nested: "nested",
      after: [1],
    });
    // The getter is read twice.
    expect(inner.map((bytes) => decodeValue(bytes))).toStrictEqual([
      ["in a getter"],
      { inner: "y".repeat(70_000) },
      "small",
      ["in a getter"],
    ]);
  });

  test("follow a refused value as if it had not been", () => {
    refusal(["x".repeat(30_000), Number.NaN]);
    refusal(["x".repeat(100_000), Number.NaN]);
    expect(decodeValue(encodeValue(["fine"], "value"))).toStrictEqual(["fine"]);
  });
});

describe("left out", () => {
  test("undefined properties, and only these", () => {
    expect(toHex(encodeValue({ a: undefined, b: 1, c: undefined }, "value"))).toBe("81a16201");
    expect(toHex(encodeValue({ a: undefined }, "value"))).toBe("80");
  });

  test("so many that the map's header shrinks", () => {
    for (const [count, left] of [
      [17, 2],
      [16, 1],
      [20, 20],
      [65_536, 1],
      [65_540, 65_530],
    ] as const) {
      const object = Object.fromEntries(
        Array.from({ length: count }, (_, index) => [`k${index}`, index < left ? undefined : "v"]),
      );
      const without = Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
      const bytes = encodeValue([object, "after"], "value");
      expect(Buffer.compare(bytes, encodeValue([without, "after"], "value"))).toBe(0);
      expect(isDeepStrictEqual(decodeValue(bytes), [without, "after"])).toBe(true);
    }
  });

  test("while the value moves to another slab", () => {
    for (let room = 0; room < 40; room++) {
      encodeValue("x".repeat(8000 + room), "value");
      const bytes = encodeValue([{ a: undefined, b: "y".repeat(6000), c: undefined }, "after"], "value");
      expect(isDeepStrictEqual(decodeValue(bytes), [{ b: "y".repeat(6000) }, "after"])).toBe(true);
    }
  });

  test("symbol keys, keys that are not enumerable and inherited ones, as JSON has it", () => {
    const object = { a: 1, [Symbol("s")]: 2 };
    Object.defineProperty(object, "hidden", { value: 3 });
    expect(decodeValue(encodeValue(object, "value"))).toStrictEqual({ a: 1 });
    expect(decodeValue(encodeValue(Object.assign(Object.create(null), { a: 1 }), "value"))).toStrictEqual({ a: 1 });
    Object.defineProperty(Object.prototype, "inherited", { value: () => {}, enumerable: true, configurable: true });
    let bytes: Uint8Array;
    try {
      bytes = encodeValue({ a: 1 }, "value");
    } finally {
      Reflect.deleteProperty(Object.prototype, "inherited");
    }
    expect(toHex(bytes)).toBe("81a16101");
  });

  test("beside a key __proto__, whose place in the order stays", () => {
    const object = JSON.parse('{"a":1,"__proto__":2,"b":3,"c":4}') as Record<string, unknown>;
    object["b"] = undefined;
    const decoded = decodeValue(encodeValue(object, "value"));
    expect(JSON.stringify(decoded)).toBe('{"a":1,"__proto__":2,"c":4}');
  });
});

describe("refused with its path", () => {
  class Point {
    x = 1;
  }
  const cases: readonly (readonly [name: string, value: unknown, message: RegExp])[] = [
    ["undefined", undefined, /^value is undefined/],
    ["undefined in an array", [1, undefined], /^value\[1\] is undefined/],
    ["a hole", { a: new Array(1) }, /^value\.a\[0\] is undefined/],
    ["NaN", { a: [Number.NaN] }, /^value\.a\[0\] is NaN/],
    ["infinity", Number.POSITIVE_INFINITY, /^value is Infinity/],
    ["minus infinity", [Number.NEGATIVE_INFINITY], /^value\[0\] is -Infinity/],
    ["bigint", { n: 1n }, /^value\.n is a bigint/],
    ["symbol", [Symbol("s")], /^value\[0\] is a symbol/],
    ["function", { f: () => 1 }, /^value\.f is a function/],
    ["class", [Point], /^value\[0\] is a function/],
    ["Date", [{ when: new Date(0) }], /^value\[0\]\.when is a Date/],
    ["Map", new Map(), /^value is a Map/],
    ["Set", [new Set()], /^value\[0\] is a Set/],
    ["Promise", { p: Promise.resolve(1) }, /^value\.p is a Promise/],
    ["instance", [new Point()], /^value\[0\] is an instance of Point/],
    ["Error", new Error("x"), /^value is an instance of Error/],
    ["RegExp", /x/, /^value is an instance of RegExp/],
    ["boxed string", [Object("x")], /^value\[0\] is an instance of String/],
    ["bytes", [{ a: new Uint8Array(1) }], /^value\[0\]\.a is bytes \(Uint8Array\)/],
    ["Buffer, which has a toJSON", [Buffer.alloc(1)], /^value\[0\] is bytes \(Buffer\)/],
    ["ArrayBuffer", { a: new ArrayBuffer(1) }, /^value\.a is bytes \(ArrayBuffer\)/],
    ["DataView", [new DataView(new ArrayBuffer(1))], /^value\[0\] is bytes \(DataView\)/],
    ["Float64Array", [new Float64Array(1)], /^value\[0\] is bytes \(Float64Array\)/],
    ["lone surrogate", ["a\ud800"], /^value\[0\] has a lone surrogate/],
    ["lone low surrogate", "\udc00", /^value has a lone surrogate/],
    ["surrogate before another character", "\ud800a", /^value has a lone surrogate/],
    ["lone surrogate in a long string", `${"x".repeat(50)}\ud83d`, /^value has a lone surrogate/],
    ["lone surrogate in a very long string", `${"x".repeat(10_000)}\ud83d`, /^value has a lone surrogate/],
    ["lone surrogate in a key", { "\ud800": 1 }, /^value\["\\ud800"\] has a lone surrogate/],
    ["key that is no identifier", { "a b": { "1": Number.NaN } }, /^value\["a b"\]\["1"\] is NaN/],
    ["very long key", { [`${"k".repeat(100)}`]: 1n }, /^value\["k{60}…"\] is a bigint/],
    [
      "toJSON that gives no value",
      [
        new (class {
          toJSON() {}
        })(),
      ],
      /^value\[0\]\.toJSON\(\) is undefined/,
    ],
  ];
  test.each(cases)("%s", (_, value, message) => {
    expect(refusal(value)).toMatch(message);
  });

  test("what throws when it is read", () => {
    const cause = new Error("not now");
    const value = {
      get a() {
        throw cause;
      },
    };
    const error = errorOf(() => encodeValue(value, "args"));
    expect(error.reason).toBe("VALUE_NOT_ENCODABLE");
    expect(error.cause).toBe(cause);
    expect(error.rawMessage).toContain("not now");
  });

  test("deeper than 64, and cycles", () => {
    let deep: unknown = [];
    for (let level = 1; level < valueDepthMax; level++) deep = level % 2 === 0 ? [deep] : { a: deep };
    expect(decodeValue(encodeValue(deep, "value"))).toStrictEqual(deep);
    expect(refusal([deep])).toMatch(/^value\[0\]\.a\[0\]… nests deeper than 64 levels/);
    const cycle: { self?: unknown } = {};
    cycle.self = cycle;
    expect(refusal(cycle)).toMatch(/cycle/);
    const returnsItself = new (class {
      toJSON() {
        return this;
      }
    })();
    expect(refusal(returnsItself)).toMatch(/nests deeper/);
  });

  test("what its shared parts make too large, without making it", () => {
    let value: unknown = "x";
    for (let level = 0; level < 40; level++) value = [value, value];
    expect(refusal(value)).toMatch(new RegExp(`more than ${valueElementsMax} elements`));
    const text = "x".repeat(1024);
    expect(refusal(Array(65_537).fill(text))).toMatch(new RegExp(`more than ${valueBytesMax} bytes`));
    // Less in characters than in bytes.
    expect(refusal("日".repeat(22_400_000))).toMatch(new RegExp(`more than ${valueBytesMax} bytes`));
    expect(decodeValue(encodeValue("small", "value"))).toBe("small");
  });

  test("more elements than any receiver takes", () => {
    const most = [Array(valueElementsMax - 3).fill(0), { a: 1 }];
    const bytes = encodeValue(most, "value");
    expect(isDeepStrictEqual(decodeValue(bytes), most)).toBe(true);
    expect(refusal([...most, 1])).toMatch(/^value has more than 1048576 elements/);
    expect(refusal([most[0], { a: 1, b: 2 }])).toMatch(/^value has more than 1048576 elements/);
  });
});

describe("what msgpackr would take for something else", () => {
  test("is sent as what it is", () => {
    const notMap = Object.defineProperty({ a: 1 }, "constructor", { value: Map });
    const notObject = Object.defineProperty([1], "constructor", { value: Object });
    const notDate = Object.defineProperty([2], "constructor", { value: Date });
    class List extends Array<number> {}
    const value = [notMap, notObject, notDate, List.of(1, 2), runInNewContext("({ a: [{}] })")];
    expect(decodeValue(encodeValue(value, "value"))).toStrictEqual([{ a: 1 }, [1], [2], [1, 2], { a: [{}] }]);
  });

  test("what a getter gives the second time is no extension", () => {
    let reads = 0;
    const changes = {
      get a() {
        return reads++ === 0 ? 1 : undefined;
      },
    };
    expect(toHex(encodeValue(changes, "value"))).toBe("81a161c0");
  });

  test("values that need no copy are not copied", () => {
    const value = { a: [1, { b: "c" }], d: null };
    expect(new Checker().check(value, "value")).toBe(value);
    expect(new Checker().check([undefinedIn(value), value], "value")).toStrictEqual([value, value]);
  });
});

function undefinedIn(value: object): object {
  return { ...value, left: undefined };
}

describe("classes with toJSON", () => {
  test("are sent as what it returns", () => {
    class Money {
      #cents = 250;
      toJSON() {
        return { cents: this.#cents };
      }
    }
    expect(decodeValue(encodeValue({ price: new Money(), site: new URL("http://a/") }, "value"))).toStrictEqual({
      price: { cents: 250 },
      site: "http://a/",
    });
  });
});

describe("decoding", () => {
  test("__proto__ is an own property and no prototype", () => {
    const decoded = decodeValue(fromHex("81a95f5f70726f746f5f5f81a161c3")) as Record<string, unknown>;
    expect(Object.keys(decoded)).toStrictEqual(["__proto__"]);
    expect(Object.getPrototypeOf(decoded)).toBe(Object.prototype);
    expect("a" in decoded).toBe(false);
    expect(JSON.stringify(decoded)).toBe('{"__proto__":{"a":true}}');
  });

  test("shares no memory with the bytes", () => {
    const bytes = encodeValue({ key: "text", long: "x".repeat(100) }, "value").slice();
    const decoded = decodeValue(bytes);
    bytes.fill(0);
    expect(decoded).toStrictEqual({ key: "text", long: "x".repeat(100) });
  });

  test("of a view stays within the view", () => {
    const whole = fromHex("ffffff81a16101ffffff");
    expect(decodeValue(whole.subarray(3, 7))).toStrictEqual({ a: 1 });
    expect(decodeValue(Buffer.from(whole.buffer, 3, 4))).toStrictEqual({ a: 1 });
    expect(errorOf(() => decodeValue(whole.subarray(3, 6))).details).toStrictEqual({ offset: 3 });
    expect(decodeValue(fromHex("00cb3ff8000000000000").subarray(1))).toBe(1.5);
  });

  test("an array whose claims exceed the bytes costs nothing", () => {
    // 64 levels that each claim as many elements as there are bytes.
    const size = 1024 * 1024;
    const bytes = new Uint8Array(size).fill(0xc0);
    for (let level = 0; level < 64; level++) bytes.set([0xdd, 0x00, 0x0f, 0xf0, 0x00], level * 5);
    const before = process.memoryUsage().heapUsed;
    expect(errorOf(() => decodeValue(bytes)).reason).toBe("INVALID_VALUE_ENCODING");
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(16 * size);
  });

  test("more elements than are taken, at the array or map that is one too many", () => {
    for (const [head, inner] of [
      ["dd00100001", "00"],
      ["dd00100000", "91"],
      ["dd00100000", "81"],
    ] as const) {
      const bytes = new Uint8Array(2 * 1024 * 1024 + 100).fill(0xc0);
      bytes.set(fromHex(head + inner));
      const error = errorOf(() => decodeValue(bytes));
      expect(error.reason).toBe("INVALID_VALUE_ENCODING");
      expect(error.rawMessage).toContain(`more than ${valueElementsMax} elements`);
      expect(error.details).toStrictEqual({ offset: inner === "00" ? 0 : 5 });
    }
  });

  test("leaves the bytes as they are", () => {
    const bytes = new Uint8Array(encodeValue(["x".repeat(10_000)], "value"));
    decodeValue(bytes);
    expect(Object.getOwnPropertyNames(bytes).filter((name) => Number.isNaN(Number(name)))).toStrictEqual([]);
  });

  test("arguments are an array", () => {
    expect(decodeArgs(fromHex("9101"))).toStrictEqual([1]);
    for (const hex of ["80", "01", "c0", "a161", "c3"]) {
      const error = errorOf(() => decodeArgs(fromHex(hex)));
      expect(error.reason).toBe("INVALID_VALUE_ENCODING");
      expect(error.rawMessage).toContain("array");
    }
  });
});

describe("forms", () => {
  test("one lone Uint8Array is bytes, the very same", () => {
    const data = new Uint8Array([1, 2]);
    expect(encodeArgs([data])).toStrictEqual({ bytes: data, form: "bytes" });
    expect(encodeArgs([data]).bytes).toBe(data);
    expect(encodeArgs([data, undefined, undefined]).form).toBe("bytes");
    expect(encodeArgs([Buffer.from("ab")]).form).toBe("bytes");
    expect(encodeArgs([new Uint8Array()]).form).toBe("bytes");
  });

  test("all else is an array, trailing undefined trimmed", () => {
    for (const [args, hex] of [
      [[], "90"],
      [[undefined], "90"],
      [[1, undefined], "9101"],
      [[null], "91c0"],
      [[[1], { a: undefined }], "92910180"],
    ] as const) {
      const { bytes, form } = encodeArgs(args);
      expect([toHex(bytes), form]).toStrictEqual([hex, "value"]);
    }
  });

  test("arguments that cannot be sent name their index", () => {
    const bytes = new Uint8Array(1);
    for (const [args, index] of [
      [[1, bytes], 1],
      [[bytes, 1], 0],
      [[bytes, bytes], 0],
      [[undefined, bytes], 1],
      [[new ArrayBuffer(1)], 0],
      [[new DataView(new ArrayBuffer(1))], 0],
      [["a", Buffer.alloc(1)], 1],
    ] as const) {
      const error = errorOf(() => encodeArgs(args));
      expect(error.reason).toBe("ARGS_FORM");
      expect(error.effect).toBe("none");
      expect(error.details).toStrictEqual({ index, path: `args[${index}]` });
    }
    const inner = errorOf(() => encodeArgs([1, { when: new Date() }]));
    expect(inner.reason).toBe("VALUE_NOT_ENCODABLE");
    expect(inner.details).toStrictEqual({ path: "args[1].when" });
    expect(errorOf(() => encodeArgs([undefined, 1])).details).toStrictEqual({ path: "args[0]" });
    expect(errorOf(() => encodeArgs([[bytes]])).details).toStrictEqual({ path: "args[0][0]" });
  });

  test("a result of undefined is null, a message of undefined is refused", () => {
    expect(toHex(encodeResult(undefined, "result").bytes)).toBe("c0");
    expect(errorOf(() => encodeMessage(undefined, "message")).reason).toBe("VALUE_NOT_ENCODABLE");
  });

  test("a result that cannot be sent says that the method ran", () => {
    const error = errorOf(() => encodeResult({ when: new Date() }, "result"));
    expect([error.reason, error.effect, error.details]).toStrictEqual([
      "RESULT_NOT_ENCODABLE",
      "ran",
      { path: "result.when" },
    ]);
  });

  test("a payload decodes in its form", () => {
    const bytes = new Uint8Array([0x91, 0x01]);
    expect(decodePayload(bytes, "bytes")).toBe(bytes);
    expect(decodePayload(bytes, "value")).toStrictEqual([1]);
    for (const value of [{ a: 1 }, "text", new Uint8Array([1, 2, 3])]) {
      const sent = encodeMessage(value, "message");
      expect(decodePayload(sent.bytes, sent.form)).toStrictEqual(value);
    }
  });

  test("bytes are known by their tag", () => {
    expect(isBytes(new Uint8Array())).toBe(true);
    expect(isBytes(Buffer.alloc(0))).toBe(true);
    expect(isBytes(new Uint16Array())).toBe(false);
    expect(isBytes({ [Symbol.toStringTag]: "Uint8Array" })).toBe(false);
  });
});
