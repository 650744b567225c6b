/**
 * A machine's clocks: how they differ from true time, which only the world knows.
 *
 * Invariant: the rate stays within the bound that the leases assume (1 ± 1 %). Of the three clocks the monotonic one
 * stands still in suspend, the wall clock may be set, and the boot clock does neither.
 */

import type { ClockReading } from "@leveros/protocol/clock/lease-clock.ts";

export interface ClockFace {
  /** How fast its clocks run, 0.99 to 1.01. */
  readonly rate: number;
  readonly monotonicStartMs: number;
  readonly wallStartMs: number;
}

export class Machine {
  readonly name: string;
  readonly face: ClockFace;
  #wallOffsetMs = 0;
  #suspendedMs = 0;
  #suspendedAtMs: number | undefined;

  constructor(name: string, face: ClockFace) {
    this.name = name;
    this.face = face;
  }

  get isSuspended(): boolean {
    return this.#suspendedAtMs !== undefined;
  }

  suspend(trueMs: number): void {
    this.#suspendedAtMs ??= trueMs;
  }

  wake(trueMs: number): void {
    if (this.#suspendedAtMs === undefined) return;
    this.#suspendedMs += trueMs - this.#suspendedAtMs;
    this.#suspendedAtMs = undefined;
  }

  get wallOffsetMs(): number {
    return this.#wallOffsetMs;
  }

  setWallClock(offsetMs: number): void {
    this.#wallOffsetMs = offsetMs;
  }

  monotonicMs(trueMs: number): number {
    const awakeMs = (this.#suspendedAtMs ?? trueMs) - this.#suspendedMs;
    return this.face.monotonicStartMs + awakeMs * this.face.rate;
  }

  wallMs(trueMs: number): number {
    return this.face.wallStartMs + this.#wallOffsetMs + trueMs * this.face.rate;
  }

  read(trueMs: number): ClockReading {
    return {
      monotonicMs: this.monotonicMs(trueMs),
      bootMs: this.face.monotonicStartMs + trueMs * this.face.rate,
      wallMs: Math.floor(this.wallMs(trueMs)),
    };
  }
}
