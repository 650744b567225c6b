import { expect, test } from "vitest";
import { asksForJson } from "./usage.ts";

test.each([
  [["invoke", "/a/b", "-o", "json"], true],
  [["invoke", "--output", "json", "/a/b"], true],
  [["chan", "--output=json"], true],
  [["chan", "-ojson"], true],
  [["invoke", "/a/b", "-o", "text"], false],
  [["invoke", "/a/b", "--", "-o", "json"], false],
  [["invoke", "/a/b", "json"], false],
])("%j asks for JSON: %s", (args, expected) => {
  expect(asksForJson(args)).toBe(expected);
});
