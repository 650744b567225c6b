/**
 * What was in a slot, on its way from one holder to the next: kept for a while by the agent that released the slot,
 * given to the next holder's agent on `lever://lever-system/agent/handOverChan`, or fetched from there (R21).
 *
 * Invariant: what is kept, received or waits for the app takes no more than `handOverBytesMax` together; a slot whose
 * contents are not whole has none. Which holder may have what is the leader's to say.
 */

import { Channel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { operatorEnvironment } from "@leveros/protocol/control/discovery.ts";
import { handOverFetchMs, handOverKeepMs, resourceStateBytesMax } from "@leveros/protocol/control/lease.ts";
import {
  type AbsentMemory,
  agentService,
  type ClosedMessage,
  decodeHandOverMessage,
  decodeHandOverRequest,
  type HandOverRequest,
  handOverMethod,
  type StateMessage,
  type TokenMessage,
} from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { CallerRuntime } from "@leveros/protocol/invocation/outgoing-stream.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import { type LinkHost, PeerLink } from "../peer-link.ts";

/** One message and the bytes that follow it. */
export interface HandedItem {
  readonly message: StateMessage | TokenMessage;
  readonly bytes: Uint8Array;
}

/** All that was in a slot. */
export interface HandedSlot {
  readonly items: readonly HandedItem[];
  /** What it takes of `HandOverMemory`, until whoever has it gives that back. */
  readonly bytes: number;
  readonly absent: AbsentMemory;
  readonly tokensSince: number;
}

/** What an item takes beside its bytes. */
const itemOverheadBytes = 1024;
/** Slots that are fetched at a time. */
const fetchesMax = 8;
const noFields = new Uint8Array(0);

/** The bound over everything that is handed over here. */
export class HandOverMemory {
  readonly bytesMax: number;
  bytes = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  take(bytes: number): boolean {
    if (this.bytes + bytes > this.bytesMax) return false;
    this.bytes += bytes;
    return true;
  }

  give(bytes: number): void {
    this.bytes -= bytes;
  }
}

interface GatheredSlot {
  readonly epoch: number;
  items: HandedItem[];
  bytes: number;
  /** False once something of it did not fit. */
  isWhole: boolean;
}

/** Puts the messages of a hand-over together, slot by slot. */
export class HandOverReader {
  readonly #memory: HandOverMemory;
  readonly #slots = new Map<number, GatheredSlot>();
  #expected: StateMessage | TokenMessage | undefined;

  constructor(memory: HandOverMemory) {
    this.#memory = memory;
  }

  /** The next message of the channel is bytes, for `addBytes`. */
  get expectsBytes(): boolean {
    return this.#expected !== undefined;
  }

  add(message: StateMessage | TokenMessage): void {
    this.#expected = message;
  }

  /** Throws PROTOCOL_VIOLATION if these are no bytes. */
  addBytes(value: unknown): void {
    const message = this.#expected as StateMessage | TokenMessage;
    this.#expected = undefined;
    if (!(value instanceof Uint8Array)) {
      throw new LeverError("PROTOCOL_VIOLATION", `after a message "${message.type}" came a value, expected its bytes`);
    }
    const slot = this.#slotOf(message);
    if (!slot.isWhole) return;
    const bytes = value.length + itemOverheadBytes;
    const isTooLarge = message.type === "state" && value.length > resourceStateBytesMax;
    if (isTooLarge || !this.#memory.take(bytes)) {
      this.#memory.give(slot.bytes);
      slot.isWhole = false;
      slot.items = [];
      slot.bytes = 0;
      return;
    }
    slot.items.push({ message, bytes: value });
    slot.bytes += bytes;
  }

  /** What came of the slot; undefined if it is not all there. What it takes of the memory is the caller's from then on. */
  finish({ slot, epoch, hasState, absent, tokensSince }: ClosedMessage): HandedSlot | undefined {
    const gathered = this.#slots.get(slot);
    this.#slots.delete(slot);
    const isIt = gathered === undefined || (gathered.isWhole && gathered.epoch === epoch);
    if (hasState && isIt) return { items: gathered?.items ?? [], bytes: gathered?.bytes ?? 0, absent, tokensSince };
    if (gathered !== undefined) this.#memory.give(gathered.bytes);
    return undefined;
  }

  /** Nothing more comes. */
  close(): void {
    for (const { bytes } of this.#slots.values()) this.#memory.give(bytes);
    this.#slots.clear();
  }

  #slotOf({ slot, epoch }: StateMessage | TokenMessage): GatheredSlot {
    const known = this.#slots.get(slot);
    if (known?.epoch === epoch) return known;
    if (known !== undefined) this.#memory.give(known.bytes);
    const fresh: GatheredSlot = { epoch, items: [], bytes: 0, isWhole: true };
    this.#slots.set(slot, fresh);
    return fresh;
  }
}

interface KeptSlot {
  readonly epoch: number;
  readonly handed: HandedSlot;
  readonly timer: TimerHandle;
  /** Until it was fetched, and for as long as somebody may try to. */
  awaited: TimerHandle | undefined;
}

/** What was released here, for whoever holds it next. */
export class HandOverStore {
  readonly #clock: Clock;
  readonly #memory: HandOverMemory;
  readonly #onTaken: () => void;
  readonly #kept = new Map<number, KeptSlot>();
  #awaitedCount = 0;

  /** `onTaken` is called when something has been fetched, or no longer will be. */
  constructor(clock: Clock, memory: HandOverMemory, onTaken: () => void) {
    this.#clock = clock;
    this.#memory = memory;
    this.#onTaken = onTaken;
  }

  /** Something is still to be fetched by who holds it next, who gives up after `handOverFetchMs`. */
  get isAwaited(): boolean {
    return this.#awaitedCount > 0;
  }

  /** Keeps what the slot had under `epoch`, for `handOverKeepMs`. */
  keep(slot: number, epoch: number, handed: HandedSlot): void {
    this.#drop(slot);
    const timer = this.#clock.setTimer(() => this.#drop(slot), handOverKeepMs);
    const kept: KeptSlot = { epoch, handed, timer, awaited: undefined };
    kept.awaited = this.#clock.setTimer(() => this.#taken(kept), handOverFetchMs);
    this.#awaitedCount++;
    this.#kept.set(slot, kept);
  }

  #taken(kept: KeptSlot): void {
    if (kept.awaited === undefined) return;
    this.#clock.clearTimer(kept.awaited);
    kept.awaited = undefined;
    this.#awaitedCount--;
    this.#onTaken();
  }

  find(slot: number, epoch: number): HandedSlot | undefined {
    const kept = this.#kept.get(slot);
    return kept?.epoch === epoch ? kept.handed : undefined;
  }

  /**
   * Answers one opening of `handOverChan` for slots of this service. Throws RESOURCE_UNAVAILABLE if there is nothing
   * (any more), INVALID_ARGUMENTS.
   */
  serve(environment: string, service: string, args: readonly unknown[]): (channel: Channel) => Promise<void> {
    const request = decodeHandOverRequest(args);
    const { slot, epoch } = request;
    const isOurs = request.environment === environment && request.service === service;
    const kept = this.#kept.get(slot);
    if (!isOurs || kept?.epoch !== epoch) {
      throw new LeverError(
        "RESOURCE_UNAVAILABLE",
        `nothing is kept here of slot ${slot} of ${request.environment}/${request.service} under epoch ${epoch}`,
        { effect: "none" },
      );
    }
    const { handed } = kept;
    return async (channel) => {
      for (const { message, bytes } of handed.items) {
        // Together: nothing may come between the two.
        await Promise.all([channel.send(message), channel.send(bytes)]);
      }
      const { absent, tokensSince } = handed;
      const closed: ClosedMessage = { type: "closed", slot, epoch, hasState: true, absent, tokensSince };
      await channel.send(closed);
      // Whoever fetches ends the channel when it has all of it.
      await channel.receive().catch(() => {});
      this.#taken(kept);
    };
  }

  #drop(slot: number): void {
    const kept = this.#kept.get(slot);
    if (kept === undefined) return;
    this.#kept.delete(slot);
    this.#clock.clearTimer(kept.timer);
    this.#memory.give(kept.handed.bytes);
    this.#taken(kept);
  }

  close(): void {
    for (const slot of [...this.#kept.keys()]) this.#drop(slot);
  }
}

export interface HandOverFetcherOptions {
  readonly host: LinkHost;
  readonly runtime: CallerRuntime;
  readonly memory: HandOverMemory;
  readonly environment: string;
  readonly service: string;
}

/** Fetches from other agents, a few slots at a time. */
export class HandOverFetcher {
  readonly #options: HandOverFetcherOptions;
  readonly #target = new Target(operatorEnvironment, agentService, handOverMethod);
  /** A link for as long as something is fetched over it. */
  readonly #links = new Map<string, { readonly link: PeerLink; users: number }>();
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(options: HandOverFetcherOptions) {
    this.#options = options;
  }

  /**
   * What the slot had under `epoch`, from the agent at `address`; undefined if it is not there, not whole, or did not
   * come within `handOverFetchMs`, or `signal` was aborted. Never rejects.
   */
  async fetch(address: string, slot: number, epoch: number, signal: AbortSignal): Promise<HandedSlot | undefined> {
    const { clock } = this.#options.host;
    const controller = new AbortController();
    const abort = () => controller.abort();
    signal.addEventListener("abort", abort, { once: true });
    const timer = clock.setTimer(abort, handOverFetchMs);
    const { host, environment, service } = this.#options;
    const link = () => new PeerLink(host, address, { environment, service });
    const entry = this.#links.get(address) ?? { link: link(), users: 0 };
    this.#links.set(address, entry);
    entry.users++;
    if (this.#running >= fetchesMax) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#running++;
    try {
      if (signal.aborted || controller.signal.aborted) return undefined;
      return await this.#receive(entry.link, slot, epoch, controller.signal);
    } catch {
      return undefined;
    } finally {
      this.#running--;
      this.#waiting.shift()?.();
      clock.clearTimer(timer);
      signal.removeEventListener("abort", abort);
      entry.users--;
      if (entry.users === 0) {
        this.#links.delete(address);
        entry.link.close();
      }
    }
  }

  async #receive(link: PeerLink, slot: number, epoch: number, signal: AbortSignal): Promise<HandedSlot | undefined> {
    const { runtime, memory, environment, service } = this.#options;
    const session = await linked(link, signal);
    const request: HandOverRequest = { environment, service, slot, epoch };
    const raw = await startChannel(runtime, session, this.#target, encodeArgs([request]), {
      timeoutMs: handOverFetchMs,
      fields: noFields,
      signal,
    });
    const reader = new HandOverReader(memory);
    try {
      for await (const value of new Channel(raw)) {
        if (reader.expectsBytes) {
          reader.addBytes(value);
          continue;
        }
        const message = decodeHandOverMessage(value);
        if (message === undefined) continue;
        if (message.slot !== slot || message.epoch !== epoch) return undefined;
        if (message.type === "closed") return reader.finish(message);
        reader.add(message);
      }
      return undefined;
    } finally {
      reader.close();
    }
  }
}

function linked(link: PeerLink, signal: AbortSignal): Promise<Session> {
  return new Promise((resolve, reject) => {
    const waiter = {
      onLink(session: Session | undefined, error: LeverError | undefined) {
        signal.removeEventListener("abort", onAbort);
        if (session === undefined) reject(error ?? signal.reason);
        else resolve(session);
      },
    };
    const onAbort = () => {
      link.leave(waiter);
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    link.dial(waiter);
  });
}
