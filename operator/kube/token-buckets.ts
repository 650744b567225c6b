/**
 * A token bucket for each key. Invariant: no more than `keysMax` are kept; whoever has asked last is kept longest, and one
 * that was forgotten begins anew.
 */

import { TokenBucket, type TokenBucketLimits } from "./token-bucket.ts";

export class TokenBuckets {
  readonly #limits: TokenBucketLimits;
  readonly #keysMax: number;
  /** Who has asked last comes last. */
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(limits: TokenBucketLimits, keysMax: number) {
    this.#limits = limits;
    this.#keysMax = keysMax;
  }

  /** False if there is none for `key` now. */
  take(key: string, nowMs: number): boolean {
    const bucket = this.#buckets.get(key) ?? new TokenBucket(this.#limits, nowMs);
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    if (this.#buckets.size > this.#keysMax) this.#buckets.delete(this.#buckets.keys().next().value as string);
    return bucket.take(nowMs);
  }
}
