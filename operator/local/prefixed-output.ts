/**
 * The output of many processes in one stream, each line with its process's name in front.
 *
 * Invariants: a line is written in one piece, so that lines never mix; a line of more than 64 KiB is cut, between two
 * characters, into lines; when the sink is full, all sources wait, so that what is held in memory is one chunk and one
 * unfinished line per source. When the sink is gone, sources are read and dropped: a process must not hang because
 * nobody looks at its log.
 */

import { Buffer } from "node:buffer";
import type { Readable, Writable } from "node:stream";

const lineBytesMax = 64 * 1024;
const newline = 10;

export class PrefixedOutput {
  readonly #sink: Writable;
  readonly #sources = new Set<Readable>();
  #isFull = false;

  constructor(sink: Writable) {
    this.#sink = sink;
    sink.on("drain", this.#resume);
    sink.on("close", this.#resume);
  }

  /** Ends the copying: what sources still have is lost. The sink stays open. */
  close(): void {
    this.#sink.off("drain", this.#resume);
    this.#sink.off("close", this.#resume);
    for (const source of this.#sources) source.destroy();
  }

  /** Copies `source` to the sink until it ends, with `prefix` in front of each line. */
  attach(source: Readable, prefix: string): void {
    const lines = new PrefixedLines(Buffer.from(prefix));
    this.#sources.add(source);
    source.on("data", (chunk: Buffer) => this.#write(lines.feed(chunk)));
    source.once("close", () => {
      this.#sources.delete(source);
      this.#write(lines.end());
    });
    // A pipe that breaks ends like one that closes.
    source.on("error", () => {});
    if (this.#isFull) source.pause();
  }

  #write(lines: Buffer): void {
    if (lines.length === 0 || this.#sink.destroyed || !this.#sink.writable) return;
    if (this.#sink.write(lines)) return;
    if (this.#sink.destroyed) return;
    this.#isFull = true;
    for (const source of this.#sources) source.pause();
  }

  readonly #resume = (): void => {
    this.#isFull = false;
    for (const source of this.#sources) source.resume();
  };
}

/** Turns chunks into whole lines with a prefix; keeps the unfinished line. */
export class PrefixedLines {
  readonly #prefix: Buffer;
  #unfinished = Buffer.allocUnsafe(256);
  #length = 0;

  constructor(prefix: Buffer) {
    this.#prefix = prefix;
  }

  /** The lines that `chunk` finishes. */
  feed(chunk: Uint8Array): Buffer {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const pieces: Uint8Array[] = [];
    let start = 0;
    for (let end = bytes.indexOf(newline); end !== -1; end = bytes.indexOf(newline, start)) {
      this.#append(bytes.subarray(start, end), pieces);
      this.#finish(pieces);
      start = end + 1;
    }
    this.#append(bytes.subarray(start), pieces);
    return Buffer.concat(pieces);
  }

  /** The unfinished line, if there is one, as a line. */
  end(): Buffer {
    const pieces: Uint8Array[] = [];
    if (this.#length > 0) this.#finish(pieces);
    return Buffer.concat(pieces);
  }

  #append(bytes: Buffer, pieces: Uint8Array[]): void {
    let rest = bytes;
    while (this.#length + rest.length > lineBytesMax) {
      const taken = lineBytesMax - this.#length;
      this.#hold(rest.subarray(0, taken));
      rest = rest.subarray(taken);
      const cut = characterStart(this.#unfinished.subarray(0, this.#length));
      const carried = Buffer.from(this.#unfinished.subarray(cut, this.#length));
      this.#length = cut;
      this.#finish(pieces);
      this.#hold(carried);
    }
    this.#hold(rest);
  }

  #hold(bytes: Buffer): void {
    const length = this.#length + bytes.length;
    if (length > this.#unfinished.length) {
      const grown = Buffer.allocUnsafe(Math.min(lineBytesMax, Math.max(length, this.#unfinished.length * 2)));
      this.#unfinished.copy(grown, 0, 0, this.#length);
      this.#unfinished = grown;
    }
    bytes.copy(this.#unfinished, this.#length);
    this.#length = length;
  }

  #finish(pieces: Uint8Array[]): void {
    pieces.push(this.#prefix, Buffer.from(this.#unfinished.subarray(0, this.#length)), lineEnd);
    this.#length = 0;
  }
}

const lineEnd = Buffer.from("\n");

/** Where to cut so that no UTF-8 character is split: the end, or the start of the character that is not complete. */
function characterStart(bytes: Buffer): number {
  for (let back = 1; back <= 3 && back < bytes.length; back++) {
    const byte = bytes[bytes.length - back] as number;
    if ((byte & 0xc0) === 0x80) continue;
    const size = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return size > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}

/** Colours that read well on dark and on light ground. */
const colours = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

/** `<id> | `, in the service's own colour if `isColoured`: the same in every run. */
export function linePrefix(id: string, service: string, isColoured: boolean): string {
  if (!isColoured) return `${id} | `;
  let hash = 0x811c9dc5; // FNV-1a
  for (const byte of Buffer.from(service)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  // The leading 0 ends what colour the line before may have left on.
  return `\u001b[0;${colours[hash % colours.length]}m${id} |\u001b[0m `;
}
