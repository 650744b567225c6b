import { IncomingMessage } from "node:http";
import { Socket } from "node:net";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { decodeFields } from "@leveros/protocol/session/routing-header.ts";
import { describe, expect, test } from "vitest";
import { requestOptions, traceparentOf } from "./request-options.ts";

const trace = { traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", isNew: false };

/** A request with these headers, as Node's parser makes one. */
function request(...headers: string[]): IncomingMessage {
  const message = new IncomingMessage(new Socket());
  (message as unknown as { _addHeaderLines(lines: string[], count: number): void })._addHeaderLines(
    headers,
    headers.length,
  );
  return message;
}

function optionsOf(...headers: string[]) {
  const { timeoutMs, fields } = requestOptions(request(...headers), undefined, trace);
  return { timeoutMs, ...decodeFields(fields) };
}

function refused(...headers: string[]): LeverError {
  try {
    optionsOf(...headers);
  } catch (error) {
    if (LeverError.is(error)) return error;
  }
  throw new Error(`${headers.join(" ")} was taken`);
}

describe("traceparent", () => {
  test.each([
    [trace.traceparent, trace.traceparent],
    // A later version: what this one knows of it.
    ["01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-more", trace.traceparent],
    ["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02", `${trace.traceparent.slice(0, -2)}00`],
  ])("%s is passed on as %s", (header, expected) => {
    expect(traceparentOf(header)).toEqual({ traceparent: expected, isNew: false });
  });

  test.each([
    undefined,
    "",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
    "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
  ])("%s begins a new trace", (header) => {
    const { traceparent, isNew } = traceparentOf(header);
    expect(isNew).toBe(true);
    expect(traceparent).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
    expect(traceparentOf(header).traceparent).not.toBe(traceparent);
  });

  test("tracestate goes with a valid one only", () => {
    const withState = request("tracestate", "vendor=1");
    expect(decodeFields(requestOptions(withState, undefined, trace).fields).tracestate).toBe("vendor=1");
    const isNew = { ...trace, isNew: true };
    expect(decodeFields(requestOptions(withState, undefined, isNew).fields).tracestate).toBeUndefined();
  });
});

describe("Lever-Timeout-Ms", () => {
  test("is whole milliseconds", () => {
    expect(optionsOf().timeoutMs).toBe(0);
    expect(optionsOf("Lever-Timeout-Ms", "1").timeoutMs).toBe(1);
    expect(optionsOf("LEVER-TIMEOUT-MS", "3600000").timeoutMs).toBe(3_600_000);
  });

  test.each(["0", "3600001", "-1", "1.5", "1e3", "0x10", "", "abc", "99999999"])("%s is refused", (value) => {
    const error = refused("Lever-Timeout-Ms", value);
    expect(error).toMatchObject({ reason: "INVALID_OPTION", effect: "none" });
    expect(error.rawMessage).toContain("Lever-Timeout-Ms");
  });

  test("twice is refused", () => {
    expect(refused("Lever-Timeout-Ms", "5", "Lever-Timeout-Ms", "6").rawMessage).toContain("2 times");
  });
});

describe("Idempotency-Key", () => {
  test("is 1 to 128 bytes of UTF-8, as it came in", () => {
    expect(optionsOf("Idempotency-Key", '"8e03978e"').token).toBe('"8e03978e"');
    expect(optionsOf("Idempotency-Key", "x".repeat(128)).token).toHaveLength(128);
    expect(optionsOf("Idempotency-Key", Buffer.from("schlüssel").toString("latin1")).token).toBe("schlüssel");
  });

  test.each([
    ["", "0 bytes"],
    ["x".repeat(129), "129 bytes"],
    [Buffer.from("ü".repeat(65)).toString("latin1"), "130 bytes"],
    ["\xff", "UTF-8"],
  ])("%j is refused: %s", (value, why) => {
    const error = refused("Idempotency-Key", value);
    expect(error.reason).toBe("INVALID_OPTION");
    expect(error.rawMessage).toContain("Idempotency-Key");
    expect(error.rawMessage).toContain(why);
  });

  test("twice is refused", () => {
    expect(refused("Idempotency-Key", "a", "idempotency-key", "a").reason).toBe("INVALID_OPTION");
  });
});

describe("Lever-Meta-*", () => {
  test("is metadata by the rest of the name, in lower case", () => {
    expect(
      optionsOf("Lever-Meta-Tenant", "acme", "lever-meta-__proto__", "x", "Lever-Meta-City", "Z\xc3\xbcrich").metadata,
    ).toEqual(
      Object.fromEntries([
        ["tenant", "acme"],
        ["__proto__", "x"],
        ["city", "Zürich"],
      ]),
    );
  });

  test("several of a name are one, as HTTP joins them", () => {
    expect(optionsOf("Lever-Meta-A", "1", "Lever-Meta-A", "2").metadata).toEqual({ a: "1, 2" });
  });

  test("none, or a prefix alone, is no metadata", () => {
    expect(optionsOf("Lever-Meta-", "x").metadata).toBeUndefined();
    expect(optionsOf("Other", "x").metadata).toBeUndefined();
  });

  test("more than 16 KiB is HEADER_TOO_LARGE", () => {
    expect(refused("Lever-Meta-A", "x".repeat(17_000))).toMatchObject({ reason: "HEADER_TOO_LARGE", effect: "none" });
  });
});
