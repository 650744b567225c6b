import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { linesOf } from "./line-reader.ts";

const encoder = new TextEncoder();

async function* chunked(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  let start = 0;
  for (const size of sizes) {
    yield bytes.subarray(start, start + size);
    start += size;
  }
  yield bytes.subarray(start);
}

async function read(bytes: Uint8Array, sizes: readonly number[] = [], lineBytesMax = 1000): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of linesOf(chunked(bytes, sizes), lineBytesMax)) lines.push(line);
  return lines;
}

describe("lines", () => {
  test("end with \\n or \\r\\n; the last one needs no end", async () => {
    expect(await read(encoder.encode("a\r\nb\n\nc"))).toEqual(["a", "b", "", "c"]);
    expect(await read(encoder.encode("a\n"))).toEqual(["a"]);
    expect(await read(encoder.encode(""))).toEqual([]);
  });

  test("do not depend on how they come", async () => {
    const line = fc.string({ unit: "grapheme" }).filter((text) => !/[\r\n]/.test(text) && text.isWellFormed());
    await fc.assert(
      fc.asyncProperty(fc.array(line), fc.array(fc.nat(9)), async (lines, sizes) => {
        const bytes = encoder.encode(lines.map((each) => `${each}\n`).join(""));
        expect(await read(bytes, sizes)).toEqual(lines);
      }),
    );
  });

  test("of more than the limit are refused, whether they end or not", async () => {
    expect(await read(encoder.encode("1234\n1234"), [2, 2, 2], 4)).toEqual(["1234", "1234"]);
    for (const text of ["1\n12345\n", "1\n12345"]) {
      await expect(read(encoder.encode(text), [3, 1], 4)).rejects.toMatchObject({
        reason: "INVALID_ARGUMENTS",
        rawMessage: "line 2 of the input has more than 4 bytes",
      });
    }
  });

  test("that are no UTF-8 are refused", async () => {
    await expect(read(Uint8Array.of(0x22, 0xff, 0x22, 10))).rejects.toMatchObject({ reason: "INVALID_ARGUMENTS" });
  });

  test("are not read ahead: a reader that waits stops the source", async () => {
    let taken = 0;
    async function* source() {
      for (;;) {
        taken++;
        yield encoder.encode("1\n2\n");
      }
    }
    const lines = linesOf(source(), 100);
    for (let i = 0; i < 4; i++) await lines.next();
    expect(taken).toBe(2);
  });
});
