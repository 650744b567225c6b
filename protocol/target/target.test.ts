import { describe, expect, test } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import { Target } from "./target.ts";

describe("a target", () => {
  test.each([
    ["dev/hello/sayHello", "dev", "hello", "sayHello", false],
    ["/hello/linesChan", "", "hello", "linesChan", true],
    [`${"a".repeat(63)}/b-1/$_`, "a".repeat(63), "b-1", "$_", false],
  ])("%s", (text, environment, service, method, isStreaming) => {
    expect(Target.parse(text)).toMatchObject({ text, environment, service, method, isStreaming });
  });

  test.each([
    ...["", "/", "//", "a/b", "a/b/", "a//c", "a/b/c/", "a/b/c/d", "a/b/c/d/e"],
    ...["-x/b/c", "x-/b/c", "A/b/c", "a/-b/c", "a/b-/c", "a/b/1c", "a/b/c-d", "a\n/b/c", "a/b/c\n"],
    ...[`${"a".repeat(64)}/b/c`, `a/${"b".repeat(64)}/c`, `a/b/${"c".repeat(129)}`],
  ])("%j is none", (text) => {
    expect(() => Target.parse(text)).toThrow(LeverError);
    expect(() => Target.parse(text)).toThrow(/is not <environment>/);
  });
});
