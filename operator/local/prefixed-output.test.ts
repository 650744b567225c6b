import { PassThrough, Writable } from "node:stream";
import { setImmediate as turn } from "node:timers/promises";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { linePrefix, PrefixedLines, PrefixedOutput } from "./prefixed-output.ts";

const lineBytesMax = 64 * 1024;

/** A sink that keeps what it is given, and takes more only when told to. */
class SlowSink extends Writable {
  readonly chunks: string[] = [];
  #continue: (() => void) | undefined;
  isOpen = true;

  override _write(chunk: Buffer, _encoding: string, callback: () => void): void {
    this.chunks.push(chunk.toString());
    if (this.isOpen) callback();
    else this.#continue = callback;
  }

  open(): void {
    this.isOpen = true;
    this.#continue?.();
  }

  get lines(): string[] {
    return this.chunks.join("").split("\n").slice(0, -1);
  }
}

function prefixed(chunks: readonly Uint8Array[]): string {
  const lines = new PrefixedLines(Buffer.from("p "));
  return Buffer.concat([...chunks.map((chunk) => lines.feed(chunk)), lines.end()]).toString();
}

describe("PrefixedLines", () => {
  test("puts the prefix before each line, also an empty and an unfinished one", () => {
    expect(prefixed([Buffer.from("one\n\ntw"), Buffer.from("o\nthr"), Buffer.from("ee")])).toBe(
      "p one\np \np two\np three\n",
    );
    expect(prefixed([])).toBe("");
  });

  test("any chunking gives the same lines", () => {
    const text = fc.array(fc.oneof(fc.string({ unit: "grapheme" }), fc.constant("\n"))).map((parts) => parts.join(""));
    fc.assert(
      fc.property(text, fc.array(fc.nat(40)), (text, cuts) => {
        const bytes = Buffer.from(text);
        const chunks: Uint8Array[] = [];
        let start = 0;
        for (const size of cuts) {
          chunks.push(bytes.subarray(start, start + size));
          start += size;
        }
        chunks.push(bytes.subarray(start));
        const lines = text.split("\n");
        if (lines.at(-1) === "") lines.pop();
        expect(prefixed(chunks)).toBe(lines.map((line) => `p ${line}\n`).join(""));
      }),
    );
  });

  test.each([
    ["a", 1],
    ["é", 2],
    ["€", 3],
    ["😀", 4],
  ])("a line that never ends is cut at 64 KiB, never within %s", (character, size) => {
    for (const shift of [0, 1, 2, 3]) {
      const text = "x".repeat(shift) + character.repeat(Math.ceil((3 * lineBytesMax) / size));
      const lines = new PrefixedLines(Buffer.from(""));
      const bytes = Buffer.from(text);
      let out = "";
      for (let start = 0; start < bytes.length; start += 50_001) {
        out += lines.feed(bytes.subarray(start, start + 50_001)).toString();
      }
      const cut = out.split("\n").slice(0, -1);
      expect(cut.length).toBeGreaterThanOrEqual(2);
      for (const line of cut) {
        expect(Buffer.byteLength(line)).toBeLessThanOrEqual(lineBytesMax);
        expect(Buffer.byteLength(line)).toBeGreaterThan(lineBytesMax - 4);
      }
      expect(cut.join("") + lines.end().toString().trimEnd()).toBe(text);
    }
  });

  test("bytes that are no UTF-8 pass as they are", () => {
    const bytes = new Uint8Array(2 * lineBytesMax + 10).fill(0x80);
    const lines = new PrefixedLines(Buffer.from(""));
    const out = Buffer.concat([lines.feed(bytes), lines.end()]);
    expect(out.filter((byte) => byte === 0x80)).toHaveLength(bytes.length);
  });
});

describe("PrefixedOutput", () => {
  test("lines of many sources never mix", async () => {
    const sink = new SlowSink();
    const output = new PrefixedOutput(sink);
    const sources = ["a", "b", "c"].map((name) => {
      const source = new PassThrough();
      output.attach(source, `${name} `);
      return { name, source };
    });
    for (let index = 0; index < 300; index++) {
      for (const { name, source } of sources) {
        source.write(name.repeat(index));
        await turn();
        source.write(`${name}\n`);
      }
    }
    for (const { source } of sources) source.end();
    await turn();
    expect(sink.lines).toHaveLength(900);
    for (const line of sink.lines) expect(line).toMatch(/^(a a+|b b+|c c+)$/);
  });

  test("a full sink stops all sources, and one that came later; what is held stays bounded", async () => {
    const sink = new SlowSink();
    sink.isOpen = false;
    const output = new PrefixedOutput(sink);
    const first = new PassThrough();
    output.attach(first, "first ");
    for (let index = 0; index < 2; index++) first.write(`${"x".repeat(40_000)}\n`);
    await turn();
    expect(first.isPaused()).toBe(true);
    const second = new PassThrough();
    output.attach(second, "second ");
    const isTaken = [first, second].map((source) => {
      let taken = true;
      for (let index = 0; index < 100 && taken; index++) taken = source.write(`${"y".repeat(10_000)}\n`);
      return taken;
    });
    await turn();
    expect(isTaken).toEqual([false, false]);
    expect(sink.writableLength).toBeLessThan(256 * 1024);
    const heldBytes = sink.writableLength;
    await turn();
    expect(sink.writableLength).toBe(heldBytes);

    sink.open();
    first.end();
    second.end("last\n");
    await new Promise((resolve) => second.once("close", resolve));
    await turn();
    expect(sink.lines.at(-1)).toBe("second last");
    expect(sink.lines[0]).toBe(`first ${"x".repeat(40_000)}`);
  });

  test("when the sink is gone sources are read to their end", async () => {
    const sink = new SlowSink();
    sink.isOpen = false;
    const output = new PrefixedOutput(sink);
    const source = new PassThrough();
    output.attach(source, "p ");
    for (let index = 0; index < 2; index++) source.write(`${"x".repeat(40_000)}\n`);
    await turn();
    expect(source.isPaused()).toBe(true);
    sink.destroy();
    const ended = new Promise((resolve) => source.once("end", resolve));
    for (let index = 0; index < 100; index++) source.write("y".repeat(10_000));
    source.end();
    await ended;
    expect(sink.chunks).toHaveLength(1);
  });
});

test("close leaves the sink as it was", async () => {
  const sink = new SlowSink();
  const output = new PrefixedOutput(sink);
  const source = new PassThrough();
  output.attach(source, "p ");
  output.close();
  expect(source.destroyed).toBe(true);
  expect([sink.listenerCount("drain"), sink.listenerCount("close"), sink.writable]).toEqual([0, 0, true]);
});

describe("linePrefix", () => {
  test("plain, or in the service's colour, which another instance of it shares", () => {
    expect(linePrefix("hello-1-x7k2", "hello", false)).toBe("hello-1-x7k2 | ");
    const colourOf = (id: string, service: string) => linePrefix(id, service, true).slice(0, 7);
    expect(linePrefix("hello-1-x7k2", "hello", true).endsWith("mhello-1-x7k2 |\u001b[0m ")).toBe(true);
    expect(colourOf("hello-1-x7k2", "hello")).toBe(colourOf("hello-2-bbbb", "hello"));
    const services = Array.from({ length: 40 }, (_, index) => `service-${index}`);
    expect(new Set(services.map((service) => colourOf("x", service))).size).toBeGreaterThan(5);
  });
});
