import { expect, test } from "vitest";
import { readOptions, UsageError } from "./options.ts";

const names = ["raw", "floor"];

test("the defaults", () => {
  expect(readOptions([], names)).toEqual({
    paths: names,
    sizes: [100, 16_384],
    inFlight: [1, 64],
    rounds: 3,
    seconds: 2,
    output: "table",
  });
});

test("every flag", () => {
  const args = "--paths floor --sizes 1Mi,200 --in-flight 8 --rounds 1 --seconds 0.5 -o json".split(" ");
  expect(readOptions(args, names)).toEqual({
    paths: ["floor"],
    sizes: [1_048_576, 200],
    inFlight: [8],
    rounds: 1,
    seconds: 0.5,
    output: "json",
  });
  expect(readOptions(["-h"], names)).toBe("help");
});

test.each([
  ["--bogus", "--bogus"],
  ["--rounds", "--rounds"],
  ["stray", "stray"],
  ["--paths raw,envoy", 'found "envoy", expected one of raw, floor'],
  ["--paths raw,raw", "twice"],
  ["--sizes 10", 'found "10", expected 100 to 1Mi'],
  ["--sizes 2Mi", '"2Mi"'],
  ["--sizes 1e3", '"1e3"'],
  ["--in-flight 0", "expected 1 to 4096"],
  ["--in-flight 1,", 'found ""'],
  ["--rounds 1.5", "whole number"],
  ["--seconds -1", "--seconds"],
  ["-o yaml", "expected one of table, json"],
])("%s is refused", (line, message) => {
  const read = () => readOptions(line.split(" "), names);
  expect(read).toThrow(UsageError);
  expect(read).toThrow(message);
});
