import fc from "fast-check";
import { expect, test } from "vitest";
import { KubeError } from "./kube-error.ts";
import type { WatchEvent } from "./kube-object.ts";
import { WatchLines } from "./watch-lines.ts";

function read(chunks: readonly Uint8Array[], lineCharsMax = 10_000) {
  const events: WatchEvent<unknown>[] = [];
  const lines = new WatchLines("watch /pods", lineCharsMax, (event) => events.push(event));
  let error: unknown;
  try {
    for (const chunk of chunks) lines.push(chunk);
    lines.end();
  } catch (thrown) {
    error = thrown;
  }
  return { events, error };
}

function textRead(text: string, lineCharsMax?: number) {
  return read([Buffer.from(text)], lineCharsMax);
}

const event = fc.record({
  type: fc.constantFrom("ADDED" as const, "MODIFIED" as const, "DELETED" as const, "BOOKMARK" as const),
  object: fc.record({ metadata: fc.record({ name: fc.string({ unit: "grapheme" }) }) }),
});

test("the events are those of the lines, whatever the chunks", () => {
  fc.assert(
    fc.property(fc.array(event), fc.array(fc.nat(40)), (events, sizes) => {
      const bytes = Buffer.from(events.map((one) => `${JSON.stringify(one)}\n`).join(""));
      const chunks: Uint8Array[] = [];
      let start = 0;
      for (const size of sizes) {
        chunks.push(bytes.subarray(start, start + size));
        start += size;
      }
      chunks.push(bytes.subarray(start));
      expect(read(chunks)).toEqual({ events, error: undefined });
    }),
  );
});

test.each([
  ["no JSON", '{"type":"ADDED","object":{}', "Malformed"],
  ["no event", '"ADDED"', "Malformed"],
  ["null", "null", "Malformed"],
  ["no object", '{"type":"ADDED"}', "Malformed"],
  ["an object that is none", '{"type":"MODIFIED","object":7}', "Malformed"],
  ["an unknown type", '{"type":"RENAMED","object":{}}', "Malformed"],
  ["an error that is no status", '{"type":"ERROR","object":{}}', "InternalError"],
  ["an error", '{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"old"}}', "Expired"],
])("a line that is %s is not left out", (_name, line, reason) => {
  const good = '{"type":"ADDED","object":{"a":1}}';
  const { events, error } = textRead(`${good}\n${line}\n${good}\n`);
  expect(events).toHaveLength(1);
  expect(error).toBeInstanceOf(KubeError);
  expect(error).toMatchObject({ reason });
});

test("a stream that ends within a line has lost something", () => {
  const { events, error } = textRead('{"type":"ADDED","object":{"a":1}}\n{"type":"DEL');
  expect(events).toHaveLength(1);
  expect(error).toMatchObject({ reason: "Malformed", status: 0 });
});

test("empty lines say nothing", () => {
  expect(textRead('\n\r\n{"type":"ADDED","object":{"a":1}}\r\n\n').events).toHaveLength(1);
});

test("a line has a limit, its end seen or not", () => {
  const long = `{"type":"ADDED","object":{"a":"${"x".repeat(200)}"}}`;
  expect(textRead(`${long}\n`, 300).error).toBeUndefined();
  expect(textRead(`${long}\n`, 200).error).toMatchObject({ reason: "TooLarge" });
  expect(textRead("x".repeat(201), 200).error).toMatchObject({ reason: "TooLarge" });
});
