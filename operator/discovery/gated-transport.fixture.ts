import type { Transport, TransportEvents } from "@leveros/protocol/transport/transport.ts";

/** A transport whose reader can be made to stall. */
export class GatedTransport implements Transport {
  isOpen = true;
  /** Sees what comes in. */
  onBytes: ((chunk: Uint8Array) => void) | undefined;
  readonly #inner: Transport;
  #events: TransportEvents | undefined;
  #held: Uint8Array[] = [];

  constructor(inner: Transport) {
    this.#inner = inner;
  }

  get peerName() {
    return this.#inner.peerName;
  }
  get bufferedBytes() {
    return this.#inner.bufferedBytes;
  }
  start(events: TransportEvents): void {
    this.#events = events;
    this.#inner.start({
      onData: (chunk) => {
        this.onBytes?.(chunk);
        if (this.isOpen) events.onData(chunk);
        else this.#held.push(chunk);
      },
      onDrain: () => events.onDrain(),
      onClose: (error) => events.onClose(error),
    });
  }
  resume(): void {
    this.isOpen = true;
    const held = this.#held;
    this.#held = [];
    for (const chunk of held) this.#events?.onData(chunk);
  }
  write(chunks: readonly Uint8Array[], onWritten: () => void): void {
    this.#inner.write(chunks, onWritten);
  }
  end(): void {
    this.#inner.end();
  }
  destroy(): void {
    this.#inner.destroy();
  }
}
