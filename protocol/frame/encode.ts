/**
 * Lays frames one behind the other into blocks, so that a turn of the loop ends in one write.
 *
 * Small payloads are copied behind their headers; payloads above `copyBytesMax` are passed on as they are, between two
 * parts of a block. Blocks are reused once the transport says that they are written.
 */

import { frameHeaderBytes } from "./frame.ts";

/** Above this, a copy costs more than one more element of the vectored write. */
export const copyBytesMax = 4096;

const blockBytes = 32 * 1024;
/** Of the whole process: a session that is idle keeps none, and there may be thousands. */
const blocksKeptMax = 64;
const free: Uint8Array[] = [];

/** What one flush hands to the transport. */
export interface Batch {
  readonly chunks: Uint8Array[];
  readonly bytes: number;
  /** To be called when the transport no longer needs the chunks. */
  readonly recycle: () => void;
}

export class FrameEncoder {
  #chunks: Uint8Array[] = [];
  #used: Uint8Array[] = [];
  #block: Uint8Array | undefined;
  /** Where the part of the block that is not in `#chunks` yet starts, and where it ends. */
  #from = 0;
  #to = 0;
  #bytes = 0;

  /** Bytes that wait for the next `take`. */
  get pendingBytes(): number {
    return this.#bytes;
  }

  /** Appends a frame. The payload must not change until the batch is written, unless it is at most `copyBytesMax`. */
  frame(type: number, flags: number, streamId: number, payload: Uint8Array): void {
    const length = payload.length;
    const copied = length <= copyBytesMax;
    const block = this.#reserve(frameHeaderBytes + (copied ? length : 0));
    let at = this.#to;
    block[at] = length >>> 16;
    block[at + 1] = length >>> 8;
    block[at + 2] = length;
    block[at + 3] = type;
    block[at + 4] = flags;
    block[at + 5] = streamId >>> 24;
    block[at + 6] = streamId >>> 16;
    block[at + 7] = streamId >>> 8;
    block[at + 8] = streamId;
    at += frameHeaderBytes;
    if (copied) {
      // For a few dozen bytes a loop beats the call into the engine's copy.
      if (length <= 48) for (let i = 0; i < length; i++) block[at + i] = payload[i] as number;
      else block.set(payload, at);
      this.#to = at + length;
    } else {
      this.#to = at;
      this.#closePart();
      this.#chunks.push(payload);
    }
    this.#bytes += frameHeaderBytes + length;
  }

  /** Takes all that is pending; undefined when nothing is. */
  take(): Batch | undefined {
    if (this.#bytes === 0) return undefined;
    this.#closePart();
    const chunks = this.#chunks;
    const bytes = this.#bytes;
    const used = this.#used;
    // The rest of the block is not written to again: the transport may still hold its first part.
    if (this.#block !== undefined) used.push(this.#block);
    this.#block = undefined;
    this.#chunks = [];
    this.#used = [];
    this.#from = 0;
    this.#to = 0;
    this.#bytes = 0;
    return {
      chunks,
      bytes,
      // A second time there is nothing left: no block may ever be with two encoders.
      recycle: () => {
        for (let block = used.pop(); block !== undefined; block = used.pop()) {
          if (free.length < blocksKeptMax) free.push(block);
        }
      },
    };
  }

  #reserve(bytes: number): Uint8Array {
    let block = this.#block;
    if (block !== undefined && block.length - this.#to >= bytes) return block;
    if (block !== undefined) {
      this.#closePart();
      this.#used.push(block);
    }
    block = free.pop() ?? new Uint8Array(blockBytes);
    this.#block = block;
    this.#from = 0;
    this.#to = 0;
    return block;
  }

  #closePart(): void {
    if (this.#block !== undefined && this.#to > this.#from) {
      this.#chunks.push(this.#block.subarray(this.#from, this.#to));
      this.#from = this.#to;
    }
  }
}
