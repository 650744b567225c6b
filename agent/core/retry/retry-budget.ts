/**
 * How many retries the calls to one service may cause: one for five calls of the last 10 s, and 10 a second on top, so
 * that services with few calls have retries at all. When everything fails the load grows by a fifth instead of by the
 * number of attempts. Finagle's RetryBudget, with its numbers; a caller keeps one per service, since the state of one
 * says nothing about another.
 *
 * Calls and retries are counted in a ring of buckets that is turned by the calls themselves: no timer, O(1).
 * Invariant: over any window of 10 s, retries are at most ratio × calls + floor, give or take one bucket (1 s).
 */

const bucketCount = 10;
const bucketMs = 1000;

export interface RetryBudgetOptions {
  /** Retries for each call, 0 or more. */
  readonly ratio?: number;
  /** Retries a second beside those, 0 or more; a window's worth may be used at once. */
  readonly floorPerSecond?: number;
}

export class RetryBudget {
  readonly #ratio: number;
  readonly #floor: number;
  readonly #calls: number[] = new Array<number>(bucketCount).fill(0);
  readonly #retries: number[] = new Array<number>(bucketCount).fill(0);
  #callsInWindow = 0;
  #retriesInWindow = 0;
  /** Number of the current bucket, counted from the clock's zero. */
  #current = 0;

  constructor(options: RetryBudgetOptions = {}) {
    this.#ratio = options.ratio ?? 0.2;
    this.#floor = (options.floorPerSecond ?? 10) * ((bucketCount * bucketMs) / 1000);
  }

  /** A call was begun; its retries are not calls. */
  deposit(now: number): void {
    this.#turn(now);
    const index = this.#current % bucketCount;
    this.#calls[index] = (this.#calls[index] as number) + 1;
    this.#callsInWindow++;
  }

  /** Retries that may be made now; 0 or more, with fractions. */
  balance(now: number): number {
    this.#turn(now);
    return Math.max(0, this.#ratio * this.#callsInWindow + this.#floor - this.#retriesInWindow);
  }

  /** Takes one retry out, or, with false and nothing taken, says that there is none. */
  withdraw(now: number): boolean {
    if (this.balance(now) < 1) return false;
    const index = this.#current % bucketCount;
    this.#retries[index] = (this.#retries[index] as number) + 1;
    this.#retriesInWindow++;
    return true;
  }

  /** Empties the buckets that have left the window. */
  #turn(now: number): void {
    const bucket = Math.max(0, Math.floor(now / bucketMs));
    if (bucket <= this.#current) return;
    const emptied = Math.min(bucket - this.#current, bucketCount);
    for (let step = 1; step <= emptied; step++) {
      const index = (bucket - emptied + step) % bucketCount;
      this.#callsInWindow -= this.#calls[index] as number;
      this.#retriesInWindow -= this.#retries[index] as number;
      this.#calls[index] = 0;
      this.#retries[index] = 0;
    }
    this.#current = bucket;
  }
}
