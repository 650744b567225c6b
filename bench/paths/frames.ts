/**
 * The least framing that can carry calls side by side, as fast as plain Node allows: what `raw` and `floor` are made
 * of. A frame is the length of its payload (4 bytes), a stream id (4 bytes), the payload; big-endian. Owns that a
 * connection makes one write per turn of the loop (more only when a batch is full) and that no buffer is allocated per
 * frame. There is no flow control: the calls in flight bound what is buffered.
 */

import type { OnReadOpts, Socket } from "node:net";

const HEADER_BYTES = 8;
const PAYLOAD_BYTES_MAX = 16 * 1024 * 1024;
const BATCH_BYTES = 256 * 1024;
const READ_BYTES = 64 * 1024;

interface Batch {
  readonly bytes: Buffer;
  end: number;
  /** Made once per batch, so that a write allocates no closure. */
  readonly written: () => void;
}

/** Gathers frames, and writes them at the end of the turn. */
export class FrameWriter {
  #socket: Socket;
  #free: Batch[] = [];
  #batch: Batch = this.#take(0);
  #scheduled = false;
  #flushScheduled = (): void => {
    this.#scheduled = false;
    this.#flush();
  };

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Adds a frame; `payload` can be reused on return. */
  frame(streamId: number, payload: Uint8Array): void {
    const batch = this.#reserve(HEADER_BYTES + payload.length);
    batch.bytes.writeUInt32BE(payload.length, batch.end);
    batch.bytes.writeUInt32BE(streamId, batch.end + 4);
    batch.bytes.set(payload, batch.end + HEADER_BYTES);
    batch.end += HEADER_BYTES + payload.length;
  }

  /** Adds frames that stand in `run`, headers and all; `run` can be reused on return. */
  forward(run: Uint8Array): void {
    const batch = this.#reserve(run.length);
    batch.bytes.set(run, batch.end);
    batch.end += run.length;
  }

  #reserve(bytes: number): Batch {
    if (this.#batch.end + bytes > this.#batch.bytes.length) {
      this.#flush();
      if (bytes > this.#batch.bytes.length) this.#batch = this.#take(bytes);
    }
    if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(this.#flushScheduled);
    }
    return this.#batch;
  }

  #flush(): void {
    const { bytes, end, written } = this.#batch;
    if (end === 0) return;
    this.#batch = this.#free.pop() ?? this.#take(0);
    this.#socket.write(end === bytes.length ? bytes : bytes.subarray(0, end), written);
  }

  #take(bytesMin: number): Batch {
    const batch: Batch = {
      bytes: Buffer.allocUnsafeSlow(Math.max(bytesMin, BATCH_BYTES)),
      end: 0,
      written: () => {
        batch.end = 0;
        if (batch.bytes.length === BATCH_BYTES) this.#free.push(batch);
      },
    };
    return batch;
  }
}

/** Whole frames, `bytes[start, end)`, valid during the call. */
type OnFrames = (bytes: Buffer, start: number, end: number) => void;

/** Finds the frames in what a connection reads. */
export class FrameReader {
  #onFrames: OnFrames;
  /** A frame of which the rest is still to come. */
  #partial = Buffer.allocUnsafeSlow(READ_BYTES);
  #partialBytes = 0;

  constructor(onFrames: OnFrames) {
    this.#onFrames = onFrames;
  }

  /** Takes in the first `length` bytes of `chunk`, which can be reused on return. */
  push(chunk: Buffer, length: number): void {
    const start = this.#partialBytes === 0 ? 0 : this.#complete(chunk, length);
    let end = start;
    while (length - end >= HEADER_BYTES) {
      const next = end + frameBytes(chunk, end);
      if (next > length) break;
      end = next;
    }
    if (end > start) this.#onFrames(chunk, start, end);
    if (end < length) this.#keep(chunk, end, length);
  }

  /** Fills the partial frame up from the chunk's start; returns how much of the chunk that took. */
  #complete(chunk: Buffer, length: number): number {
    let taken = 0;
    if (this.#partialBytes < HEADER_BYTES) {
      taken = Math.min(HEADER_BYTES - this.#partialBytes, length);
      this.#keep(chunk, 0, taken);
      if (this.#partialBytes < HEADER_BYTES) return taken;
    }
    const wanted = frameBytes(this.#partial, 0);
    const end = Math.min(taken + wanted - this.#partialBytes, length);
    this.#keep(chunk, taken, end);
    if (this.#partialBytes === wanted) {
      this.#partialBytes = 0;
      this.#onFrames(this.#partial, 0, wanted);
    }
    return end;
  }

  #keep(chunk: Buffer, start: number, end: number): void {
    const bytes = this.#partialBytes + end - start;
    if (bytes > this.#partial.length) {
      const larger = Buffer.allocUnsafeSlow(2 * bytes);
      larger.set(this.#partial.subarray(0, this.#partialBytes));
      this.#partial = larger;
    }
    this.#partial.set(chunk.subarray(start, end), this.#partialBytes);
    this.#partialBytes = bytes;
  }
}

/** Calls `onFrame` for each of the whole frames in `bytes[start, end)`; the payload is `bytes[from, to)`. */
export function eachFrame(
  bytes: Buffer,
  start: number,
  end: number,
  onFrame: (streamId: number, from: number, to: number) => void,
): void {
  for (let at = start; at < end; ) {
    const next = at + frameBytes(bytes, at);
    onFrame(bytes.readUInt32BE(at + 4), at + HEADER_BYTES, next);
    at = next;
  }
}

/** The options for a connection that is dialled: what it reads goes to `reader`, always in the same buffer. */
export function readInto(reader: FrameReader): { onread: OnReadOpts; noDelay: boolean } {
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  const callback = (length: number): boolean => {
    reader.push(buffer, length);
    return true;
  };
  return { onread: { buffer, callback }, noDelay: true };
}

/** The same for a connection that was accepted, to which Node gives a buffer of its own for each read. */
export function readFrom(socket: Socket, reader: FrameReader): void {
  socket.on("data", (chunk) => reader.push(chunk, chunk.length));
}

function frameBytes(bytes: Buffer, at: number): number {
  const payloadBytes = bytes.readUInt32BE(at);
  if (payloadBytes > PAYLOAD_BYTES_MAX)
    throw new Error(`a frame of ${payloadBytes} bytes; the most is ${PAYLOAD_BYTES_MAX}`);
  return HEADER_BYTES + payloadBytes;
}
