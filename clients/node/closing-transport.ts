/** A transport that says when it is closed: a session has no ears for that once it is over, an exit has to wait for it. */

import type { Transport, TransportEvents } from "@leveros/protocol/transport/transport.ts";

export class ClosingTransport implements Transport {
  readonly #transport: Transport;
  readonly #closing = Promise.withResolvers<void>();
  #isEnding = false;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Resolves when it is closed in both directions. */
  get closed(): Promise<void> {
    return this.#closing.promise;
  }

  /** What was written is on its way, nothing will be added. */
  get isEnding(): boolean {
    return this.#isEnding;
  }

  get peerName(): string {
    return this.#transport.peerName;
  }

  get bufferedBytes(): number {
    return this.#transport.bufferedBytes;
  }

  start(events: TransportEvents): void {
    this.#transport.start({
      onData: (chunk) => events.onData(chunk),
      onDrain: () => events.onDrain(),
      onClose: (error) => {
        events.onClose(error);
        this.#closing.resolve();
      },
    });
  }

  write(chunks: readonly Uint8Array[], onWritten: () => void): void {
    this.#transport.write(chunks, onWritten);
  }

  end(): void {
    this.#isEnding = true;
    this.#transport.end();
  }

  destroy(): void {
    this.#transport.destroy();
  }
}
