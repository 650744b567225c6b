/**
 * A token bucket on a given time: so many at once, then so many a second.
 *
 * Source: `golang.org/x/time/rate`. Invariant: over any span of time no more than `burst + ratePerSecond × span` are let
 * through, whether they are refused beyond that (`take`) or put off (`reserve`).
 */

export interface TokenBucketLimits {
  readonly ratePerSecond: number;
  readonly burst: number;
}

export class TokenBucket {
  readonly #limits: TokenBucketLimits;
  #tokens: number;
  #atMs: number;

  constructor(limits: TokenBucketLimits, nowMs: number) {
    this.#limits = limits;
    this.#tokens = limits.burst;
    this.#atMs = nowMs;
  }

  /** False if there is none now. */
  take(nowMs: number): boolean {
    this.#refill(nowMs);
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }

  /** Takes one that may still have to come; how long until it is there. */
  reserve(nowMs: number): number {
    this.#refill(nowMs);
    this.#tokens--;
    return this.#tokens >= 0 ? 0 : (-this.#tokens / this.#limits.ratePerSecond) * 1000;
  }

  #refill(nowMs: number): void {
    const { ratePerSecond, burst } = this.#limits;
    this.#tokens = Math.min(burst, this.#tokens + (Math.max(0, nowMs - this.#atMs) / 1000) * ratePerSecond);
    this.#atMs = Math.max(this.#atMs, nowMs);
  }
}
