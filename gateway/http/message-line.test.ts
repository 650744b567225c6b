import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { itemOf, lineOf } from "./message-line.ts";

/** Values near the convention's own forms. */
const value = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 5 },
    fc.jsonValue({ maxDepth: 2 }),
    fc.constantFrom("bytes", "value", "error").chain((key) => tie("value").map((inner) => ({ [key]: inner }))),
    fc.base64String().map((bytes) => ({ bytes })),
  ),
})).value;

const wire = (line: unknown) => JSON.parse(JSON.stringify(line)) as unknown;

test("every value and all bytes come out as they went in", () => {
  fc.assert(
    fc.property(fc.oneof(value, fc.uint8Array()), (item) => {
      const back = itemOf(wire(lineOf(item)), "line 2");
      if (item instanceof Uint8Array) expect(back).toEqual(item);
      else expect(back).toEqual(wire(item));
    }),
    { numRuns: 2000 },
  );
});

test("a line is the end with an error only if it was written as one", () => {
  fc.assert(
    fc.property(value, (item) => {
      const line = wire(lineOf(item)) as Record<string, unknown> | null;
      const keys = typeof line === "object" && line !== null ? Object.keys(line) : [];
      expect(keys).not.toEqual(["error"]);
      if (keys.length === 1 && keys[0] === "bytes") expect(Array.isArray(line)).toBe(true);
    }),
  );
});

test.each([
  [{ price: 60 }, { price: 60 }],
  [{ value: 60 }, { value: 60 }],
  [
    { error: "TOO_SLOW", code: 3 },
    { error: "TOO_SLOW", code: 3 },
  ],
  [{ error: "TOO_SLOW" }, { value: { error: "TOO_SLOW" } }],
  [{ bytes: 5 }, { value: { bytes: 5 } }],
  [{ value: { bytes: 5 } }, { value: { value: { bytes: 5 } } }],
  [new Uint8Array([0, 0]), { bytes: "AAA=" }],
  [null, null],
  [[{ bytes: "" }], [{ bytes: "" }]],
])("%j is the line %j", (item, line) => {
  expect(lineOf(item)).toEqual(line);
});

test.each(["A", "AAAA=", "AA==\n", "_-8=", "AB==", 5, null])("bytes of %j are refused", (bytes) => {
  try {
    itemOf({ bytes }, "line 7");
    expect.unreachable();
  } catch (error) {
    expect(LeverError.is(error) && error.reason).toBe("BODY_INVALID");
    expect((error as LeverError).rawMessage).toContain("line 7");
  }
});

test("a client may send an object with the one key error as it is", () => {
  expect(itemOf({ error: 1 }, "line 2")).toEqual({ error: 1 });
});

test("nesting is no recursion", () => {
  let deep: unknown = { bytes: "x" };
  for (let i = 0; i < 100_000; i++) deep = { value: deep };
  expect((lineOf(deep) as { value: unknown }).value).toBe(deep);
  expect(itemOf({ value: deep }, "line 2")).toBe(deep);
});
