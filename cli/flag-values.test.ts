import { InvalidArgumentError } from "commander";
import { describe, expect, test } from "vitest";
import { metadataEntry, variableEntry, wholeNumber } from "./flag-values.ts";

describe("a whole number", () => {
  const read = wholeNumber(0, 65_535);

  test.each([
    ["0", 0],
    ["8080", 8080],
    ["65535", 65_535],
  ])("%s is %i", (text, value) => {
    expect(read(text)).toBe(value);
  });

  test.each(["", " ", "-1", "65536", "1.5", "1e3", "0x10", "80 ", "99999999999999999999"])("%j is none", (text) => {
    expect(() => read(text)).toThrow(InvalidArgumentError);
  });
});

describe("name=value", () => {
  test("is added to those before; the value may hold = and be empty", () => {
    expect({ ...metadataEntry("a=b=c", { before: "1" }) }).toEqual({ before: "1", a: "b=c" });
    expect({ ...metadataEntry("a=", {}) }).toEqual({ a: "" });
  });

  test("__proto__ is a name like any", () => {
    expect(Object.entries(metadataEntry("__proto__=x", {}))).toEqual([["__proto__", "x"]]);
  });

  test.each(["", "a", "=b"])("%j is none", (text) => {
    expect(() => metadataEntry(text, {})).toThrow(InvalidArgumentError);
  });

  test.each(["a b=c", "1A=b", "ä=b", "=b", "A"])("%j is no variable", (text) => {
    expect(() => variableEntry(text, {})).toThrow(InvalidArgumentError);
  });

  test("a variable", () => {
    expect({ ...variableEntry("LOG_1=debug x", {}) }).toEqual({ LOG_1: "debug x" });
  });
});
