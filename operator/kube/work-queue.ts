/**
 * Keys that need work, and the workers that do it.
 *
 * A key says that something about it may have changed, not what: work is done for what there is when it begins.
 * Invariants: of one key one work at most is under way; after each `add` a work for that key begins that sees what was
 * there at the `add`; a key waits in the queue once, however often it is added. Pure: time is the clock's.
 *
 * Source: client-go's `util/workqueue`.
 */

import type { Clock, Random, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { type BackoffLimits, backoffMs } from "./backoff.ts";
import { TokenBucket, type TokenBucketLimits } from "./token-bucket.ts";

const retryDefault: BackoffLimits = { minMs: 10, maxMs: 60_000 };
const retryRateDefault: TokenBucketLimits = { ratePerSecond: 10, burst: 100 };

/** What came of it: nothing further, or the key is to be looked at again later although nothing has failed. */
// biome-ignore lint/suspicious/noConfusingVoidType: work that says nothing returns nothing.
export type WorkResult = void | undefined | { readonly requeueAfterMs: number };

export interface WorkDone {
  readonly key: string;
  /** From when it could have begun until it did. */
  readonly queuedMs: number;
  readonly tookMs: number;
  /** In a row, this one included; 0: it has gone well. */
  readonly failures: number;
  readonly error: unknown;
}

export interface WorkQueueOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** How many keys are worked on at once, 1 unless set. */
  readonly workers?: number;
  /** Does the work; rejects if it is to be tried again. `signal` is aborted when the queue drops everything. */
  readonly work: (key: string, signal: AbortSignal) => Promise<WorkResult>;
  /** How long a key waits after failures, 10 ms to 60 s unless set. */
  readonly retry?: BackoffLimits;
  /** Retries of all keys together, 10/s and 100 at once unless set. */
  readonly retryRate?: TokenBucketLimits;
  /** For log and metrics. Does not throw. */
  readonly onDone?: (done: WorkDone) => void;
}

export class WorkQueue {
  readonly #options: WorkQueueOptions;
  readonly #retryRate: TokenBucket;
  /** Can begin, in this order; since when. */
  readonly #ready = new Map<string, number>();
  readonly #working = new Set<string>();
  /** Added while worked on; since when. */
  readonly #again = new Map<string, number>();
  readonly #waiting = new Map<string, { readonly timer: TimerHandle; readonly dueAtMs: number }>();
  readonly #failures = new Map<string, number>();
  readonly #abort = new AbortController();
  #isClosed = false;
  #isWakePending = false;
  #onIdle: (() => void)[] = [];
  #adds = 0;
  #retries = 0;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
    this.#retryRate = new TokenBucket(options.retryRate ?? retryRateDefault, options.clock.now());
  }

  /** Keys that could begin, and cannot for want of a worker. */
  get depth(): number {
    return this.#ready.size;
  }

  get workingCount(): number {
    return this.#working.size;
  }

  /** Keys that begin later. */
  get waitingCount(): number {
    return this.#waiting.size;
  }

  /** For metrics: what was added, what of it because work had failed. */
  get counts(): { readonly adds: number; readonly retries: number } {
    return { adds: this.#adds, retries: this.#retries };
  }

  /** Nothing after `close`. */
  add(key: string): void {
    if (this.#isClosed) return;
    this.#adds++;
    const now = this.#options.clock.now();
    if (this.#working.has(key)) {
      if (!this.#again.has(key)) this.#again.set(key, now);
    } else if (!this.#ready.has(key)) {
      this.#ready.set(key, now);
      this.#wake();
    }
  }

  /** Adds the key after `delayMs`, or sooner if it waits for something sooner already. */
  addAfter(key: string, delayMs: number): void {
    if (this.#isClosed) return;
    if (!(delayMs > 0)) return this.add(key);
    const { clock } = this.#options;
    const dueAtMs = clock.now() + delayMs;
    const known = this.#waiting.get(key);
    if (known !== undefined) {
      if (known.dueAtMs <= dueAtMs) return;
      clock.clearTimer(known.timer);
    }
    const timer = clock.setTimer(() => {
      this.#waiting.delete(key);
      this.add(key);
    }, delayMs);
    this.#waiting.set(key, { timer, dueAtMs });
  }

  /** Adds the key after a while that grows with its failures; what is done when work rejects. */
  addRateLimited(key: string): void {
    if (this.#isClosed) return;
    const { clock, random, retry = retryDefault } = this.#options;
    const failures = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, failures);
    this.#retries++;
    this.addAfter(key, Math.max(backoffMs(retry, failures, random), this.#retryRate.reserve(clock.now())));
  }

  /** The key's failures are forgotten; what is done when work resolves. */
  forget(key: string): void {
    this.#failures.delete(key);
  }

  failuresOf(key: string): number {
    return this.#failures.get(key) ?? 0;
  }

  /**
   * Takes nothing more, and resolves when nothing is worked on. `drain`: what could begin is done first, what waits for
   * its time is dropped; `drop`: that is dropped too, and work that is under way is told by its signal.
   */
  async close(how: "drain" | "drop"): Promise<void> {
    this.#isClosed = true;
    for (const { timer } of this.#waiting.values()) this.#options.clock.clearTimer(timer);
    this.#waiting.clear();
    if (how === "drop") {
      this.#ready.clear();
      this.#again.clear();
      this.#abort.abort();
    }
    this.#failures.clear();
    if (this.#isIdle) return;
    await new Promise<void>((resolve) => this.#onIdle.push(resolve));
  }

  get #isIdle(): boolean {
    return this.#ready.size === 0 && this.#working.size === 0;
  }

  /** Not at once: who adds is in the middle of something, and what is added meanwhile is one work. */
  #wake(): void {
    if (this.#isWakePending) return;
    this.#isWakePending = true;
    this.#options.clock.defer(() => {
      this.#isWakePending = false;
      this.#begin();
    });
  }

  #begin(): void {
    const { workers = 1 } = this.#options;
    for (const [key, since] of this.#ready) {
      if (this.#working.size >= workers) break;
      this.#ready.delete(key);
      void this.#run(key, since);
    }
    if (this.#isClosed && this.#isIdle) {
      for (const resolve of this.#onIdle.splice(0)) resolve();
    }
  }

  async #run(key: string, since: number): Promise<void> {
    const { clock, work, onDone } = this.#options;
    const beganAtMs = clock.now();
    this.#working.add(key);
    let error: unknown;
    try {
      const result = await work(key, this.#abort.signal);
      this.forget(key);
      if (result !== undefined) this.addAfter(key, result.requeueAfterMs);
    } catch (thrown) {
      error = thrown ?? new Error("rejected without a reason");
      this.addRateLimited(key);
    }
    this.#working.delete(key);
    const again = this.#again.get(key);
    this.#again.delete(key);
    if (again !== undefined) this.#ready.set(key, again);
    const failures = error === undefined ? 0 : this.failuresOf(key);
    onDone?.({ key, queuedMs: beganAtMs - since, tookMs: clock.now() - beganAtMs, failures, error });
    this.#begin();
  }
}
