/**
 * Two transports in one process, joined back to back. Bytes arrive in a later turn of the loop (`clock.defer`), as with
 * a socket, and in the chunks in which they were written unless `chunkBytes` cuts them.
 */

import type { Clock } from "../clock/clock.ts";
import { copyBytes } from "../value/copy-bytes.ts";
import type { Transport, TransportEvents } from "./transport.ts";

export interface MemoryPairOptions {
  /** Cuts what is delivered into pieces of at most this many bytes; for tests. */
  readonly chunkBytes?: number;
  readonly names?: readonly [string, string];
}

export function memoryTransportPair(clock: Clock, options: MemoryPairOptions = {}): [MemoryTransport, MemoryTransport] {
  const names = options.names ?? ["memory:a", "memory:b"];
  const a = new MemoryTransport(clock, names[1], options.chunkBytes);
  const b = new MemoryTransport(clock, names[0], options.chunkBytes);
  a.join(b);
  b.join(a);
  return [a, b];
}

export class MemoryTransport implements Transport {
  readonly peerName: string;
  readonly #clock: Clock;
  readonly #chunkBytes: number | undefined;
  #peer: MemoryTransport | undefined;
  #events: TransportEvents | undefined;
  /** Written here, not yet delivered to the peer. */
  #outbox: { chunk: Uint8Array; onWritten: (() => void) | undefined }[] = [];
  #buffered = 0;
  #scheduled = false;
  #ending = false;
  #closed = false;

  constructor(clock: Clock, peerName: string, chunkBytes: number | undefined) {
    this.#clock = clock;
    this.peerName = peerName;
    this.#chunkBytes = chunkBytes;
  }

  /** Called once, by `memoryTransportPair`. */
  join(peer: MemoryTransport): void {
    this.#peer = peer;
  }

  get bufferedBytes(): number {
    return this.#buffered;
  }

  start(events: TransportEvents): void {
    this.#events = events;
    if (this.#closed) this.#clock.defer(() => events.onClose(undefined));
    // What the peer wrote before this end listened.
    this.#peer?.schedule();
  }

  write(chunks: readonly Uint8Array[], onWritten: () => void): void {
    if (this.#closed) return;
    for (let i = 0; i < chunks.length; i++) {
      const chunk = chunks[i] as Uint8Array;
      // Delivered bytes are the receiver's for good, while the sender reuses its blocks after `onWritten`.
      this.#outbox.push({ chunk: copyBytes(chunk), onWritten: i === chunks.length - 1 ? onWritten : undefined });
      this.#buffered += chunk.length;
    }
    this.schedule();
  }

  end(): void {
    this.#ending = true;
    this.schedule();
  }

  destroy(): void {
    if (this.#closed) return;
    this.#close();
    const peer = this.#peer;
    this.#clock.defer(() => peer?.closedByPeer());
  }

  /** Delivers in a later turn. */
  schedule(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    this.#clock.defer(() => this.#deliver());
  }

  closedByPeer(): void {
    if (!this.#closed) this.#close();
  }

  #close(): void {
    this.#closed = true;
    this.#outbox = [];
    this.#buffered = 0;
    const events = this.#events;
    if (events !== undefined) this.#clock.defer(() => events.onClose(undefined));
  }

  #deliver(): void {
    this.#scheduled = false;
    const peer = this.#peer;
    if (this.#closed || peer === undefined || peer.#events === undefined) return;
    const outbox = this.#outbox;
    this.#outbox = [];
    for (const { chunk, onWritten } of outbox) {
      if (this.#closed || peer.#closed) return;
      this.#buffered -= chunk.length;
      const step = this.#chunkBytes ?? Math.max(chunk.length, 1);
      for (let at = 0; at < chunk.length && !peer.#closed; at += step) {
        peer.#events.onData(chunk.subarray(at, Math.min(at + step, chunk.length)));
      }
      onWritten?.();
    }
    if (this.#buffered === 0) this.#events?.onDrain();
    if (this.#ending && this.#outbox.length === 0) this.destroy();
  }
}
