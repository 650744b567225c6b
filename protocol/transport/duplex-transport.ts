/**
 * A Node socket (net, tls, or any duplex stream) as a `Transport`. The socket's shape is declared here, so that this
 * package needs nothing of Node.
 */

import type { ProvenPeer, Transport, TransportEvents } from "./transport.ts";

/** What is used of `net.Socket`, `tls.TLSSocket` and `stream.Duplex`. */
export interface DuplexLike {
  on(event: "data", listener: (chunk: Uint8Array) => void): unknown;
  on(event: "drain" | "end" | "close", listener: () => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  write(chunk: Uint8Array, callback?: () => void): boolean;
  cork(): void;
  uncork(): void;
  end(): unknown;
  destroy(): unknown;
  readonly writableLength: number;
  readonly destroyed: boolean;
}

export class DuplexTransport implements Transport {
  readonly peerName: string;
  readonly provenPeer: ProvenPeer | undefined;
  readonly #socket: DuplexLike;
  #error: Error | undefined;

  constructor(socket: DuplexLike, peerName: string, provenPeer?: ProvenPeer) {
    this.#socket = socket;
    this.peerName = peerName;
    this.provenPeer = provenPeer;
    // An error before `start` must not end the process; it is reported by `onClose`.
    socket.on("error", (error) => {
      this.#error = error;
    });
  }

  get bufferedBytes(): number {
    return this.#socket.writableLength;
  }

  start(events: TransportEvents): void {
    const socket = this.#socket;
    let closed = false;
    const close = () => {
      if (closed) return;
      closed = true;
      events.onClose(this.#error);
    };
    socket.on("data", (chunk) => events.onData(chunk));
    socket.on("drain", () => events.onDrain());
    // A session has no use for half a transport; to end the own half would wait for a peer that may not read any more.
    socket.on("end", () => socket.destroy());
    socket.on("close", close);
    if (socket.destroyed) queueMicrotask(close);
  }

  write(chunks: readonly Uint8Array[], onWritten: () => void): void {
    const socket = this.#socket;
    const last = chunks.length - 1;
    if (last > 0) socket.cork();
    for (let i = 0; i <= last; i++) socket.write(chunks[i] as Uint8Array, i === last ? onWritten : undefined);
    if (last > 0) socket.uncork();
  }

  end(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }
}
