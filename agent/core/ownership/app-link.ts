/**
 * The agent's end of the channel with an app that serves resources, `lever://lever-system/agent/ownershipChan`: asks it
 * whether it still serves, tells it what it holds and for how long, and hears what has become of its slots.
 *
 * Invariant: messages about a slot arrive in the order in which they were said, and what a slot has is sent one resource
 * at a time, so that a ping waits for no more than that. What follows from what the app says is for `slot-holder.ts`.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import { appPingIntervalMs } from "@leveros/protocol/control/lease.ts";
import {
  type AgentToAppMessage,
  type AppHolder,
  type AppSlot,
  type ClosedMessage,
  type ConfigMessage,
  decodeAppMessage,
  type LeftMessage,
  type OpenSlotMessage,
  type PongMessage,
  type SlotEpoch,
} from "@leveros/protocol/control/ownership.ts";
import { type HandedSlot, type HandOverMemory, HandOverReader } from "./hand-over.ts";
import { AppPings, type LeaseLeft } from "./lease.ts";
import type { Slot } from "./slot.ts";

/** Who deals with what the app says. */
export interface AppLinkOwner {
  /** What is left of the lease now. */
  leaseLeft(): LeaseLeft;
  /** It has answered a ping. */
  onAnswer(app: AppLink): void;
  onOpened(app: AppLink, slot: number, epoch: number): void;
  /** `handed`, if all that was in the slot is there, takes of the memory until it is given back. */
  onClosed(app: AppLink, closed: ClosedMessage, handed: HandedSlot | undefined): void;
  onLeft(app: AppLink, left: LeftMessage): void;
  onLeaving(app: AppLink): void;
}

export interface AppLinkOptions {
  readonly clock: Clock;
  readonly leaseClock: LeaseClock;
  readonly memory: HandOverMemory;
  readonly owner: AppLinkOwner;
  /** By stream: an orphan stays in it until its method has returned. */
  readonly invocations: Map<number, unknown>;
}

interface Sending {
  readonly message: AgentToAppMessage;
  readonly handed: HandedSlot | undefined;
  /** It has been sent, or never will be. */
  readonly onSent: (() => void) | undefined;
}

export class AppLink {
  readonly process: string;
  /** By slot: what the process had from an earlier connection. */
  readonly holds: ReadonlyMap<number, AppSlot>;
  readonly pings: AppPings;
  readonly #options: AppLinkOptions;
  readonly #channel: Channel<unknown, AgentToAppMessage | Uint8Array>;
  readonly #reader: HandOverReader;
  #config: ConfigMessage | undefined;
  #pingTimer: TimerHandle | undefined;
  #sending: Sending[] = [];
  #isSending = false;
  #isClosed = false;
  /** By stream: methods that may run although it has ended, and the last ping that was sent before. */
  readonly #orphans = new Map<number, { readonly slot: Slot | undefined; readonly afterPing: number }>();
  /** The app names those of its methods that are orphans. */
  #namesOrphans = false;

  constructor(options: AppLinkOptions, holder: AppHolder, channel: Channel) {
    this.#options = options;
    this.process = holder.process;
    this.holds = new Map(holder.holds.map((slot) => [slot.slot, slot]));
    this.pings = new AppPings(options.leaseClock);
    this.#channel = channel as Channel<unknown, AgentToAppMessage | Uint8Array>;
    this.#reader = new HandOverReader(options.memory);
  }

  // ---------------------------------------------------------------- what the app says

  /** Resolves at the channel's clean end. Rejects with PROTOCOL_VIOLATION, or how the channel ended. */
  async run(): Promise<void> {
    const { owner } = this.#options;
    for await (const value of this.#channel) {
      if (this.#isClosed) return;
      if (this.#reader.expectsBytes) {
        this.#reader.addBytes(value);
        continue;
      }
      const message = decodeAppMessage(value);
      switch (message?.type) {
        case "pong":
          this.#onPong(message);
          break;
        case "opened":
          owner.onOpened(this, message.slot, message.epoch);
          break;
        case "state":
        case "token":
          this.#reader.add(message);
          break;
        case "closed":
          owner.onClosed(this, message, this.#reader.finish(message));
          break;
        case "left":
          owner.onLeft(this, message);
          break;
        case "leaving":
          owner.onLeaving(this);
      }
    }
  }

  #onPong({ n, asks, orphans }: PongMessage): void {
    this.send({ type: "lease", n: asks, ...this.#options.owner.leaseLeft() });
    if (!this.pings.answered(n)) return;
    if (orphans !== undefined) this.#keepOrphans(n, new Set(orphans));
    this.#options.owner.onAnswer(this);
  }

  // ---------------------------------------------------------------- what it is told

  get isStarted(): boolean {
    return this.#config !== undefined;
  }

  /** Begins to ask; again when something has changed. */
  start(config: ConfigMessage): void {
    const known = this.#config;
    if (known !== undefined && isSame(known, config)) return;
    this.#config = config;
    this.send(config);
    if (known === undefined) this.#ping();
  }

  #ping(): void {
    const { clock } = this.#options;
    const n = this.pings.send();
    if (n !== undefined) this.#transmit({ type: "ping", n });
    this.#pingTimer = clock.setTimer(() => this.#ping(), appPingIntervalMs);
  }

  send(message: AgentToAppMessage): void {
    const isOfSlot = message.type === "drain" || message.type === "resume" || message.type === "abort";
    if (isOfSlot && this.#isSending) this.#sending.push({ message, handed: undefined, onSent: undefined });
    else this.#transmit(message);
  }

  /** Opens a slot with what the last holder left in it. */
  open(message: OpenSlotMessage, handed: HandedSlot | undefined, onSent?: () => void): void {
    this.#sending.push({ message, handed, onSent });
    if (!this.#isSending) void this.#sendNext();
  }

  #transmit(message: AgentToAppMessage): void {
    // Who reads the channel learns of its end too.
    if (!this.#isClosed) this.#channel.send(message).catch(() => {});
  }

  async #sendNext(): Promise<void> {
    this.#isSending = true;
    for (let next = this.#sending.shift(); next !== undefined; next = this.#sending.shift()) {
      const { message, handed, onSent } = next;
      try {
        for (const item of handed?.items ?? []) {
          if (this.#isClosed) break;
          const { slot, epoch } = message as OpenSlotMessage;
          // Under the epoch that begins. Together: nothing may come between the two.
          const described = { ...item.message, slot, epoch };
          await Promise.all([this.#channel.send(described), this.#channel.send(item.bytes)]);
        }
        this.#transmit(message);
      } catch {
        // The channel has ended.
      }
      onSent?.();
    }
    this.#isSending = false;
  }

  // ---------------------------------------------------------------- methods that outlive their streams

  /**
   * The stream has ended without proof that its method has returned. `isReset`: by its caller, or by this agent; else
   * the method itself has ended its channel, which an app that names no orphans is taken to have done by returning.
   * `slot` is undefined for a method without a resource.
   */
  orphaned(stream: number, slot: Slot | undefined, isReset: boolean): void {
    if (!this.#namesOrphans && (!isReset || slot === undefined)) {
      this.#options.invocations.delete(stream);
      return;
    }
    this.#orphans.set(stream, { slot, afterPing: this.pings.lastSent });
    if (slot !== undefined) slot.orphans++;
  }

  /** So many methods of the slot have returned, whichever. */
  returned(slot: Slot, count: number): void {
    if (this.#namesOrphans) return;
    slot.returned += count;
    if (slot.returned >= slot.orphans) this.allReturned(slot);
  }

  allReturned({ slot: index, epoch }: SlotEpoch): void {
    for (const [stream, { slot }] of this.#orphans) {
      if (slot?.slot === index && slot.epoch === epoch) this.#drop(stream, slot);
    }
  }

  /** The app has seen what was sent before ping `n`, and those are the streams whose methods run. */
  #keepOrphans(n: number, running: ReadonlySet<number>): void {
    this.#namesOrphans = true;
    for (const [stream, { slot, afterPing }] of this.#orphans) {
      if (afterPing < n && !running.has(stream)) this.#drop(stream, slot);
    }
  }

  #drop(stream: number, slot: Slot | undefined): void {
    this.#orphans.delete(stream);
    this.#options.invocations.delete(stream);
    if (slot === undefined) return;
    slot.orphans--;
    if (slot.orphans === 0) slot.returned = 0;
  }

  // ---------------------------------------------------------------- the end

  /** Asks and tells no more. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#pingTimer !== undefined) this.#options.clock.clearTimer(this.#pingTimer);
    this.#reader.close();
    for (const stream of this.#orphans.keys()) this.#options.invocations.delete(stream);
    for (const { onSent } of this.#sending.splice(0)) onSent?.();
    this.#channel.close();
  }
}

function isSame(a: ConfigMessage, b: ConfigMessage): boolean {
  return a.idleMs === b.idleMs && a.onLapse === b.onLapse && a.servesUncertain === b.servesUncertain;
}
