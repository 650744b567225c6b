import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodeValue } from "../value/decode.ts";
import { encodeValue } from "../value/encode.ts";
import { catalogue, type Effect, type Reason } from "./catalogue.ts";
import { decodeFault, encodeFault, faultDetailsBytesMax, faultMessageBytesMax } from "./fault.ts";
import { LeverError } from "./lever-error.ts";

const effects: readonly Effect[] = ["none", "unknown", "ran"];

function fault(fields: unknown): LeverError {
  return decodeFault(encodeValue(fields, "fault"));
}

test("every reason with every effect arrives as it was sent", () => {
  for (const reason of Object.keys(catalogue) as Reason[]) {
    for (const effect of effects) {
      const sent = new LeverError(reason, "what was found 😀", { effect, details: { index: 3, of: ["a", null] } });
      const received = decodeFault(encodeFault(sent));
      expect(received).toBeInstanceOf(LeverError);
      expect(received).toMatchObject({
        kind: sent.kind,
        code: sent.code,
        reason,
        effect,
        rawMessage: sent.rawMessage,
        message: sent.message,
        details: sent.details,
      });
    }
  }
});

test("it is a map of these keys, without what is not there", () => {
  const bytes = encodeFault(new LeverError("DRAINING", "stops", { cause: new Error("secret") }));
  expect(decodeValue(bytes)).toStrictEqual({ reason: "DRAINING", message: "stops", effect: "none" });
});

describe("what is too large to send", () => {
  test("a message is cut between characters", () => {
    for (const character of ["a", "é", "日", "😀"]) {
      for (let shift = 0; shift < 4; shift++) {
        const message = "x".repeat(shift) + character.repeat(5000);
        const received = decodeFault(encodeFault(new LeverError("INTERNAL", message))).rawMessage;
        const bytes = Buffer.byteLength(received);
        expect(bytes).toBeLessThanOrEqual(faultMessageBytesMax);
        expect(bytes).toBeGreaterThan(faultMessageBytesMax - 4);
        expect(received.endsWith("…")).toBe(true);
        expect(message.startsWith(received.slice(0, -1))).toBe(true);
      }
    }
  });

  test("a message of just the limit is whole", () => {
    for (const message of ["a".repeat(4096), "é".repeat(2048), "😀".repeat(1024), `\ufeff${"日".repeat(1364)}`]) {
      expect(decodeFault(encodeFault(new LeverError("INTERNAL", message))).rawMessage).toBe(message);
    }
    expect(decodeFault(encodeFault(new LeverError("INTERNAL", `\ufeff${"日".repeat(2000)}`))).rawMessage[0]).toBe(
      "\ufeff",
    );
  });

  test("details are left out, and the whole stays small", () => {
    const details = { text: "x".repeat(faultDetailsBytesMax) };
    const bytes = encodeFault(new LeverError("INTERNAL", "m".repeat(10_000), { details }));
    expect(decodeFault(bytes).details).toBeUndefined();
    const whole = { text: "x".repeat(faultDetailsBytesMax - 20) };
    const largest = encodeFault(new LeverError("INTERNAL", "m".repeat(10_000), { details: whole }));
    expect(decodeFault(largest).details).toStrictEqual(whole);
    expect(largest.length).toBeLessThan(9 * 1024);
  });

  test("details without a JSON form are left out", () => {
    let deep: unknown = 1;
    for (let level = 0; level < 63; level++) deep = [deep];
    for (const details of [{ when: new Date() }, { n: 1n }, { bytes: new Uint8Array(1) }, { deep }]) {
      const received = decodeFault(encodeFault(new LeverError("INTERNAL", "text", { details })));
      expect([received.rawMessage, received.details]).toStrictEqual(["text", undefined]);
    }
  });

  test("a lone surrogate in a message is replaced", () => {
    expect(decodeFault(encodeFault(new LeverError("INTERNAL", "a\ud800b"))).rawMessage).toBe("a\ufffdb");
  });
});

describe("what comes in", () => {
  test("a reason of a later version becomes INTERNAL with the text, the effect and the word", () => {
    for (const reason of ["FROM_THE_FUTURE", "constructor", ""]) {
      for (const effect of effects) {
        expect(fault({ reason, message: "text", effect, details: { a: 1 } })).toMatchObject({
          reason: "INTERNAL",
          rawMessage: "text",
          effect,
          details: { a: 1, unknownReason: reason },
        });
      }
    }
  });

  test("keys of a later version are skipped", () => {
    const received = fault({ reason: "DRAINING", message: "m", effect: "none", retryAfterMs: 5 });
    expect(received).toMatchObject({ reason: "DRAINING", rawMessage: "m" });
  });

  test.each([
    ["no map", [1]],
    ["null", null],
    ["text", "DRAINING"],
    ["an empty map", {}],
    ["no reason", { message: "m", effect: "none" }],
    ["a reason that is a number", { reason: 5, message: "m", effect: "none" }],
    ["no message", { reason: "DRAINING", effect: "none" }],
    ["a message that is null", { reason: "DRAINING", message: null, effect: "none" }],
    ["no effect", { reason: "DRAINING", message: "m" }],
    ["another effect", { reason: "DRAINING", message: "m", effect: "maybe" }],
    ["details that are an array", { reason: "DRAINING", message: "m", effect: "none", details: [] }],
    ["details that are null", { reason: "DRAINING", message: "m", effect: "none", details: null }],
  ])("%s is a PROTOCOL_VIOLATION", (_, fields) => {
    expect(fault(fields)).toMatchObject({ reason: "PROTOCOL_VIOLATION", effect: "unknown" });
  });

  test("any bytes give a LeverError", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        expect(LeverError.is(decodeFault(bytes))).toBe(true);
      }),
    );
    expect(decodeFault(new Uint8Array()).reason).toBe("PROTOCOL_VIOLATION");
  });
});
