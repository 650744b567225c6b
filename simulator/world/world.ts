/**
 * True time, chance and the trace of one simulated world, and the loop that moves it on.
 *
 * Invariant: one callback at a time, each followed by all promises that it settles, before the next one; what happens
 * depends on the seed alone. Nothing here knows what Lever is.
 */

import type { TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { Machine } from "./machine.ts";
import { SeededRandom } from "./seeded-random.ts";
import type { SimProcess } from "./sim-process.ts";
import { Trace } from "./trace.ts";

/** Turns between two rounds of Node's own loop: each immediate is followed by all promises, as a round is. */
const turnsPerRound = 256;
/** Wall clocks of machines begin here: true time 0 of the world. */
export const wallEpochMs = Date.UTC(2026, 0, 1);

export class World {
  readonly random: SeededRandom;
  readonly trace: Trace;
  /** The process whose callback runs, its promises included; undefined in the world's own. */
  running: SimProcess | undefined;
  /** What a callback threw: in a real process it would have ended it. */
  onUncaught: (error: unknown, process: SimProcess | undefined) => void = (error) => {
    throw error;
  };
  #processCount = 0;
  readonly #clock = new VirtualClock();

  constructor(seed: number, onLine?: (line: string) => void) {
    this.random = new SeededRandom(seed);
    this.trace = new Trace(onLine);
  }

  /** True time, ms. */
  now(): number {
    return this.#clock.now();
  }

  /** Of the moment as it is seen by whose callback runs: one that was stopped within it sees an earlier one. */
  seenNow(): number {
    return this.running?.seenNow() ?? this.#clock.now();
  }

  /** After `delayMs` of true time, whatever any process does. */
  after(delayMs: number, callback: () => void): TimerHandle {
    return this.#clock.setTimer(callback, delayMs);
  }

  cancel(timer: TimerHandle): void {
    this.#clock.clearTimer(timer);
  }

  nextProcessNumber(): number {
    return ++this.#processCount;
  }

  note(text: string): void {
    this.trace.note(this.#clock.now(), text);
  }

  machine(name: string, options: { readonly exact?: boolean } = {}): Machine {
    const { random } = this;
    const rate =
      options.exact === true
        ? 1
        : random.weighted([
            [3, 0.99],
            [3, 1.01],
            [1, 1],
            [3, random.between(0.99, 1.01)],
          ]);
    return new Machine(name, {
      rate,
      monotonicStartMs: Math.round(random.between(0, 1e9)),
      wallStartMs: wallEpochMs + Math.round(random.between(-1500, 1500)),
    });
  }

  /** Moves time on to `untilMs`, or until `isOver` says so after a turn. Rejects with what `onUncaught` throws. */
  run(untilMs: number, isOver: () => boolean = () => false): Promise<void> {
    const clock = this.#clock;
    return new Promise((resolve, reject) => {
      let isDone = false;
      let left = 0;
      const finish = (settle: () => void) => {
        isDone = true;
        settle();
      };
      const turn = () => {
        left--;
        if (!isDone) {
          this.running = undefined;
          try {
            if (isOver()) finish(resolve);
            else if (!clock.step(untilMs)) {
              clock.advance(Math.max(untilMs - clock.now(), 0));
              finish(resolve);
            }
          } catch (error) {
            finish(() => reject(error));
          }
        }
        if (left === 0 && !isDone) round();
      };
      const round = () => {
        left = turnsPerRound;
        for (let i = 0; i < turnsPerRound; i++) setImmediate(turn);
      };
      round();
    });
  }
}
