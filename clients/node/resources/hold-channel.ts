/**
 * The channel on which an app and its agent talk about slots: `lever://lever-system/agent/ownershipChan`, one on each
 * session. It decodes and orders; what is done about the messages is for the host.
 *
 * Invariant: answers to pings overtake everything that waits, and nothing else overtakes anything.
 */

import type { RawChannel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import { operatorEnvironment } from "@leveros/protocol/control/discovery.ts";
import { handOverBytesMax } from "@leveros/protocol/control/lease.ts";
import {
  type AgentToAppMessage,
  type AppHolder,
  type AppMessage,
  agentService,
  decodeAgentToAppMessage,
  ownershipMethod,
  type StateMessage,
  type TokenMessage,
} from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { CallerRuntime } from "@leveros/protocol/invocation/outgoing-stream.ts";
import { encodeFields } from "@leveros/protocol/session/routing-header.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { copyBytes } from "@leveros/protocol/value/copy-bytes.ts";
import { decodePayload, type Encoded, encodeArgs, encodeMessage } from "@leveros/protocol/value/form.ts";

export type ItemMessage = StateMessage | TokenMessage;

/** What the last holder left, message by message; its bytes are the receiver's. */
export interface ReceivedItem {
  readonly message: ItemMessage;
  readonly bytes: Uint8Array;
}

export interface HoldChannelHandler {
  /** Must not throw, but for what breaks a rule: that ends the channel. */
  onMessage(
    channel: HoldChannel,
    message: Exclude<AgentToAppMessage, ItemMessage>,
    items: readonly ReceivedItem[],
  ): void;
  /** The session or the channel is over; called once. */
  onEnd(channel: HoldChannel, error: LeverError): void;
}

interface QueuedEntry {
  /** One message; or an item's message and its bytes. */
  readonly items: readonly Encoded[];
  readonly onGone: (() => void) | undefined;
}

const openTimeoutMs = 5000;
const target = new Target(operatorEnvironment, agentService, ownershipMethod);

export class HoldChannel {
  readonly session: Session;
  readonly #handler: HoldChannelHandler;
  #raw: RawChannel | undefined;
  #isOver = false;
  #urgent: Encoded[] = [];
  #queue: QueuedEntry[] = [];
  #isSending = false;
  #whenFlushed: (() => void)[] = [];
  /** Came in before the `open` that they belong to. */
  #items: ReceivedItem[] = [];
  #itemBytes = 0;

  /** Opens the channel. What is sent before it is open waits. */
  constructor(runtime: CallerRuntime, session: Session, holder: AppHolder, handler: HoldChannelHandler) {
    this.session = session;
    this.#handler = handler;
    const options = { timeoutMs: openTimeoutMs, fields: encodeFields({}) };
    startChannel(runtime, session, target, encodeArgs([holder]), options).then(
      (raw) => this.#opened(raw),
      (error: unknown) => this.#over(LeverError.from(error)),
    );
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  send(message: AppMessage): void {
    if (this.#isOver) return;
    const encoded = encodeMessage(message, "message");
    if (message.type === "pong") this.#urgent.push(encoded);
    else this.#queue.push({ items: [encoded], onGone: undefined });
    this.#pump();
  }

  /** `onGone` is called when the bytes have been handed over, or never will be. */
  sendItem(message: ItemMessage, bytes: Uint8Array, onGone?: () => void): void {
    if (this.#isOver) return onGone?.();
    this.#queue.push({ items: [encodeMessage(message, "message"), { bytes, form: "bytes" }], onGone });
    this.#pump();
  }

  /** Resolves when all that was sent has been handed to the transport, or never will be. */
  flushed(): Promise<void> {
    if (this.#isOver || this.#raw === undefined) return Promise.resolve();
    return new Promise((resolve) => {
      this.#whenFlushed.push(resolve);
      this.#checkFlushed();
    });
  }

  #checkFlushed(): void {
    if (this.#whenFlushed.length === 0) return;
    const raw = this.#raw;
    if (this.#isOver || raw === undefined) return this.#settleFlushed();
    if (!this.#isSending) raw.whenSent(() => this.#settleFlushed());
  }

  #settleFlushed(): void {
    const waiting = this.#whenFlushed;
    this.#whenFlushed = [];
    for (const resolve of waiting) resolve();
  }

  close(): void {
    this.#raw?.close();
    this.#over(new LeverError("CANCELLED", "this process stops serving", { effect: "none" }));
  }

  #opened(raw: RawChannel): void {
    if (this.#isOver) return raw.close();
    this.#raw = raw;
    // At once, and not when the loop below hears of it: methods must not go on meanwhile.
    raw.whenEnded(() => this.#over(raw.error));
    this.#pump();
    void this.#read(raw);
  }

  #over(cause: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#urgent = [];
    const queue = this.#queue;
    this.#queue = [];
    for (const { onGone } of queue) onGone?.();
    this.#settleFlushed();
    this.#items = [];
    this.#handler.onEnd(
      this,
      cause === undefined
        ? new LeverError("CONNECTION_LOST", "the agent has ended the channel about slots")
        : LeverError.from(cause),
    );
  }

  #pump(): void {
    if (this.#raw === undefined || this.#isSending) return;
    this.#isSending = true;
    void this.#sendAll(this.#raw);
  }

  async #sendAll(raw: RawChannel): Promise<void> {
    try {
      for (;;) {
        const urgent = this.#urgent.shift();
        if (urgent !== undefined) {
          await raw.send(urgent);
          continue;
        }
        const entry = this.#queue.shift();
        if (entry === undefined) break;
        try {
          for (const item of entry.items) await raw.send(item);
        } finally {
          entry.onGone?.();
        }
      }
    } catch {
      // The channel has ended, which is heard of in another way.
    }
    this.#isSending = false;
    this.#checkFlushed();
  }

  async #read(raw: RawChannel): Promise<void> {
    try {
      for (;;) {
        const next = await raw.receive();
        if (next.done === true) break;
        const message = decodeAgentToAppMessage(decodePayload(next.value.bytes, next.value.form));
        if (message === undefined || this.#isOver) continue;
        if (message.type === "state" || message.type === "token") {
          const item = await raw.receive();
          if (item.done === true) break;
          this.#addItem({ message, bytes: copyBytes(item.value.bytes) });
          continue;
        }
        const items = message.type === "open" ? this.#items : [];
        if (message.type === "open") {
          this.#items = [];
          this.#itemBytes = 0;
        }
        this.#handler.onMessage(this, message, items);
      }
      this.#over(undefined);
    } catch (error) {
      raw.cancel(LeverError.from(error));
      this.#over(error);
    }
  }

  #addItem(item: ReceivedItem): void {
    this.#itemBytes += item.bytes.length;
    if (this.#itemBytes > 2 * handOverBytesMax) {
      throw new LeverError(
        "PROTOCOL_VIOLATION",
        `the agent sent more than ${2 * handOverBytesMax} bytes that a slot's last holder left`,
      );
    }
    this.#items.push(item);
  }
}
