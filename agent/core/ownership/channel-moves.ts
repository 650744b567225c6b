/**
 * Tells channels of slots that move to be opened again: a few at once, many spread over a second with jitter, so that
 * they do not all come back in one moment.
 */

import type { Clock, Random, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { SlotRelay } from "./slot.ts";

/** So many are told at once. */
const movesAtOnceMax = 32;
/** The rest within about this time, in as many rounds. */
const spreadMs = 1000;
const rounds = 20;

export class ChannelMoves {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #waiting = new Set<SlotRelay>();
  #timer: TimerHandle | undefined;
  /** In this round and each that follows. */
  #perRound = 0;

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#random = random;
  }

  add(channel: SlotRelay): void {
    this.#waiting.add(channel);
    this.#perRound = Math.max(this.#perRound, Math.ceil(this.#waiting.size / rounds));
    if (this.#timer !== undefined) return;
    // At the end of the turn it is known how many there are.
    this.#timer = this.#clock.setTimer(() => this.#round(movesAtOnceMax), 0);
  }

  /** It is not to be told any more. */
  delete(channel: SlotRelay): void {
    this.#waiting.delete(channel);
  }

  #round(count: number): void {
    this.#timer = undefined;
    let left = Math.max(count, this.#perRound);
    for (const channel of this.#waiting) {
      if (left-- === 0) break;
      this.#waiting.delete(channel);
      channel.move();
    }
    if (this.#waiting.size === 0) {
      this.#perRound = 0;
      return;
    }
    const delayMs = this.#random() * ((2 * spreadMs) / rounds);
    this.#timer = this.#clock.setTimer(() => this.#round(0), delayMs);
  }

  close(): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#timer = undefined;
    this.#waiting.clear();
  }
}
