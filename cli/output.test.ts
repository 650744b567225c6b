import { catalogue, type Reason } from "@leveros/protocol/error/catalogue.ts";
import { LeverError, MethodError } from "leveros";
import pc from "picocolors";
import { describe, expect, test } from "vitest";
import { exitCodeOf } from "./exit-code.ts";
import { errorDocument, errorText, jsonOf } from "./output.ts";
import { OutputClosed, OutputFailed } from "./standard-output.ts";

const plain = pc.createColors(false);
const reasons = Object.keys(catalogue) as Reason[];

describe("JSON", () => {
  test("of values is one line, of bytes their base64", () => {
    expect(jsonOf({ a: [1, "x\ny", null] })).toBe('{"a":[1,"x\\ny",null]}');
    expect(jsonOf(Uint8Array.of(0, 255))).toBe('{"bytes":"AP8="}');
  });

  test("of an error has the fields that programs rely on", () => {
    const error = new LeverError("ARGS_TOO_LARGE", "too large", { effect: "none", details: { bytesMax: 5 } });
    expect(errorDocument(error)).toEqual({
      kind: "arguments",
      code: "RESOURCE_EXHAUSTED",
      reason: "ARGS_TOO_LARGE",
      effect: "none",
      message: "too large",
      details: { bytesMax: 5 },
    });
  });

  test.each([
    [{ error: "TOO_LONG" }, { error: "TOO_LONG" }],
    [Uint8Array.of(1), { bytes: "AQ==" }],
    [null, null],
  ])("of a method's error has its value", (value, shown) => {
    expect(errorDocument(new MethodError(value))).toEqual({
      kind: "method",
      code: "UNKNOWN",
      reason: "METHOD_ERROR",
      effect: "ran",
      value: shown,
    });
  });
});

describe("text", () => {
  test.each(reasons.filter((reason) => reason !== "CANCELLED" && reason !== "METHOD_KIND_MISMATCH"))(
    "of %s says what happened, whether the method ran, and what to do",
    (reason) => {
      const { kind, code, remedy } = catalogue[reason];
      const text = errorText(new LeverError(reason, "what happened", { effect: "none" }), plain);
      expect(text.split("\n")).toEqual([
        `${reason}: what happened`,
        `  ${kind} error, ${code}; the method did not run (effect: none)`,
        `  ${remedy}`,
      ]);
    },
  );

  test("of a method's error is its value on one line", () => {
    expect(errorText(new MethodError({ error: "TOO_LONG" }), plain)).toBe('the method\'s error: {"error":"TOO_LONG"}');
  });

  test("of the wrong kind names the other command", () => {
    expect(errorText(new LeverError("METHOD_KIND_MISMATCH", "no"), plain)).toContain("lever chan");
  });
});

describe("the exit code", () => {
  test.each(reasons)("of %s is the catalogue's", (reason) => {
    expect(exitCodeOf(new LeverError(reason, "no"))).toBe(catalogue[reason].exitCode);
  });

  test("of a method's error is 1, of what nobody expected 4, of a reader that has gone 0", () => {
    expect(exitCodeOf(new MethodError("no"))).toBe(1);
    expect(exitCodeOf(new TypeError("no"))).toBe(4);
    expect(exitCodeOf(new OutputFailed(new Error("no space")))).toBe(4);
    expect(exitCodeOf(new OutputClosed())).toBe(0);
  });
});
