/**
 * An ordered, reliable stream of bytes in both directions: memory, Unix socket, TCP, TLS, WebSocket.
 * A session owns its transport; nobody else touches it once `start` was called.
 */

import type { Identity } from "../session/hello.ts";

/** Who the peer is, by a proof that the transport has checked (a certificate, say). */
export interface ProvenPeer {
  /** What it has to say of itself: role, environment and service as here, absent ones too; `instance` if it is here. */
  readonly identity: Identity;
  /** For the log and counts: it says that it is somebody else, and is refused. Does not throw. */
  onMismatch?(message: string): void;
}

export interface TransportEvents {
  /** Bytes that came in. The transport never writes into `chunk` again: views of it may be kept. */
  onData(chunk: Uint8Array): void;
  /** `bufferedBytes` has fallen; called at least each time it reaches 0 after having been above it. */
  onDrain(): void;
  /** The transport is gone, in both directions; called once, last. */
  onClose(error: Error | undefined): void;
}

export interface Transport {
  /** Begins to deliver events; called once. No event comes before it. */
  start(events: TransportEvents): void;
  /**
   * Sends the chunks in order. They must not change until `onWritten` is called, which happens once for each write
   * that was passed on; after `onClose` it may be left out.
   */
  write(chunks: readonly Uint8Array[], onWritten: () => void): void;
  /** Bytes that were written here and not yet taken by what lies below. */
  readonly bufferedBytes: number;
  /** Sends what is buffered, then closes. */
  end(): void;
  /** Closes at once. */
  destroy(): void;
  /** Who is at the other end, for messages: `unix:/run/lever/agent.sock`, `tcp:10.244.1.7:3837`. */
  readonly peerName: string;
  /** Undefined: nothing is proven. */
  readonly provenPeer?: ProvenPeer | undefined;
}
