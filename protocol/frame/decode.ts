/**
 * Cuts a stream of bytes into frames. Any chunking gives the same frames, and memory stays within one frame:
 * a frame that lies whole in a chunk is passed on as a view of it; one that spans chunks is gathered in a buffer of
 * its own size, so that single-byte drips cost no more than large chunks.
 */

import { LeverError } from "../error/lever-error.ts";
import { frameHeaderBytes, framePayloadBytesMax, frameTypeName } from "./frame.ts";

/** Receives the frames in order. `payload` is a view of the chunk; whoever keeps it long copies it. */
export type FrameSink = (type: number, flags: number, streamId: number, payload: Uint8Array) => void;

const empty = new Uint8Array(0);

export class FrameDecoder {
  readonly #sink: FrameSink;
  /** Bytes of a header that is not whole yet. */
  readonly #header = new Uint8Array(frameHeaderBytes);
  #headerLength = 0;
  /** The payload of a frame that spans chunks; undefined between frames and within a header. */
  #partial: Uint8Array | undefined;
  #partialLength = 0;
  #stopped = false;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  /** Passes nothing on any more: what is left of the chunk, and all later ones, are dropped. */
  stop(): void {
    this.#stopped = true;
    this.#partial = undefined;
  }

  /**
   * Takes the next bytes and calls the sink for each frame that they complete.
   * Throws PROTOCOL_VIOLATION at a length above the maximum; the decoder is of no use after it.
   * The transport must never write into `chunk` again.
   */
  push(chunk: Uint8Array): void {
    let at = 0;
    const end = chunk.length;
    while (at < end && !this.#stopped) {
      if (this.#partial !== undefined) {
        const taken = Math.min(this.#partial.length - this.#partialLength, end - at);
        this.#partial.set(chunk.subarray(at, at + taken), this.#partialLength);
        this.#partialLength += taken;
        at += taken;
        if (this.#partialLength < this.#partial.length) return;
        const payload = this.#partial;
        this.#partial = undefined;
        this.#emit(this.#header, 0, payload);
      } else if (this.#headerLength === 0 && end - at >= frameHeaderBytes) {
        const length = readLength(chunk, at);
        const payloadAt = at + frameHeaderBytes;
        if (end - payloadAt >= length) {
          at = payloadAt + length;
          this.#emit(chunk, payloadAt - frameHeaderBytes, length === 0 ? empty : chunk.subarray(payloadAt, at));
        } else {
          this.#header.set(chunk.subarray(at, payloadAt));
          this.#startPartial(length);
          at = payloadAt;
        }
      } else {
        const taken = Math.min(frameHeaderBytes - this.#headerLength, end - at);
        this.#header.set(chunk.subarray(at, at + taken), this.#headerLength);
        this.#headerLength += taken;
        at += taken;
        if (this.#headerLength < frameHeaderBytes) return;
        this.#headerLength = 0;
        const length = readLength(this.#header, 0);
        if (length === 0) this.#emit(this.#header, 0, empty);
        else this.#startPartial(length);
      }
    }
  }

  #startPartial(length: number): void {
    this.#partial = new Uint8Array(length);
    this.#partialLength = 0;
  }

  #emit(header: Uint8Array, at: number, payload: Uint8Array): void {
    const streamId =
      (header[at + 5] as number) * 0x1000000 +
      (((header[at + 6] as number) << 16) | ((header[at + 7] as number) << 8) | (header[at + 8] as number));
    this.#sink(header[at + 3] as number, header[at + 4] as number, streamId, payload);
  }
}

function readLength(bytes: Uint8Array, at: number): number {
  const length = ((bytes[at] as number) << 16) | ((bytes[at + 1] as number) << 8) | (bytes[at + 2] as number);
  if (length > framePayloadBytesMax) {
    throw new LeverError(
      "PROTOCOL_VIOLATION",
      `a frame (${frameTypeName(bytes[at + 3] as number)}) claims a payload of ${length} bytes, at most ` +
        `${framePayloadBytesMax} are allowed; is the peer a Lever peer?`,
    );
  }
  return length;
}
